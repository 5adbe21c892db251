import pytest

from benchmarks.data_time import TWINS, measure
from data import load_dataset


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_the_benchmark_of_loading_measures_each_way_with_many_and_with_few_labels(tmp_path):
    digits = load_dataset("digits", tmp_path)
    for labels_a_class in (60, 1):
        times = measure(digits, labels_a_class, steps=2, limit_s=60)
        assert list(times) == [*TWINS, "published loader, 4 workers", "published loader, 0 workers"]
        assert all(len(seconds) == 2 and min(seconds) > 0 for seconds in times.values())
