import pytest

from benchmarks.data_time import BATCH, PerImage, measure, usual_steps, usual_views
from data import load_dataset


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_the_benchmark_of_loading_measures_each_way_with_many_and_with_few_labels(tmp_path):
    digits = load_dataset("digits", tmp_path)
    for labels_a_class in (60, 1):
        times = measure(digits, labels_a_class, steps=2, limit_s=60)
        assert list(times) == ["this loader", "DataLoader, 4 workers", "DataLoader, 0 workers"]
        assert all(len(seconds) == 2 and min(seconds) > 0 for seconds in times.values())


def test_the_usual_way_yields_the_same_views_and_renews_its_exhausted_iterator(tmp_path):
    digits = load_dataset("digits", tmp_path)
    weak, strong = usual_views(digits.mean, digits.std)
    few = PerImage(digits.train_images[:10], digits.train_labels[:10], [weak])
    rest = PerImage(digits.train_images[10:100], digits.train_labels[10:100], [weak, strong, strong])
    batches = usual_steps(few, rest, workers=0)
    for size in (BATCH, 90 - BATCH, BATCH):
        views_x, views_u = next(batches)
        assert [v.shape for v in views_x] == [(10, 3, 32, 32)]
        assert [v.shape for v in views_u] == [(size, 3, 32, 32)] * 3
