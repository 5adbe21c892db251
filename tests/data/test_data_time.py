import pytest

from benchmarks.data_time import TWINS, seconds_per_step, ways_of_loading
from data import load_dataset


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_the_benchmark_of_loading_measures_each_way_with_many_and_with_few_labels(tmp_path):
    digits = load_dataset("digits", tmp_path)
    for labels_a_class in (60, 1):
        ways = ways_of_loading(digits, labels_a_class)
        assert list(ways) == [*TWINS, "published loader, 4 workers", "published loader, 0 workers"]
        for step in ways.values():
            seconds = seconds_per_step(step, 2)
            assert len(seconds) == 2
            assert min(seconds) > 0
