import json
import math
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

from darp import PseudoLabelMonitor, refine, remove_noise, solve
from darp.pseudo_labels import pseudo_label_metrics
from tests.darp.test_solver import long_tail, predictions

TRUE = torch.arange(200) % 4


def watched(rows=200, seen=150, refined=False, **options):
    """A monitor that has seen the first rows of a table, in batches, and the table."""
    probs = predictions(rows, 4, lean=2.0)
    monitor = PseudoLabelMonitor(rows, 4, TRUE[:rows], **options)
    for index in torch.arange(seen).split(64):
        monitor.update(index, probs[index], probs[index].flip(1) if refined else None)
    return monitor, probs


def test_the_row_is_that_of_the_tables_that_were_seen():
    monitor, probs = watched(target_counts=long_tail(200, 4, 5))
    table, visited = torch.full((200, 4), 0.25), torch.arange(200) < 150
    table[:150] = probs[:150]
    metrics = pseudo_label_metrics(table, table, visited, long_tail(200, 4, 5).tolist(), TRUE, 0.95)
    row = monitor.row()
    assert row == {key: value for key, value in metrics.items() if not isinstance(value, list)}
    assert row["pseudo/coverage"] == 0.75
    assert row["pseudo/orig/0"] == pytest.approx(float(table[:, 0].double().mean()))
    assert all(type(value) is float for value in row.values())
    json.dumps(row)


def test_without_labels_or_a_target_the_row_says_nothing_about_them():
    monitor = PseudoLabelMonitor(20, 4)
    monitor.update(torch.arange(20), predictions(20, 4))
    row = monitor.row()
    assert not [key for key in row if "true" in key or "target" in key or "accuracy" in key]
    assert math.isfinite(row["pseudo/orig/tv_uniform"])


def test_the_last_guess_of_a_row_counts_and_no_graph_is_kept():
    monitor = PseudoLabelMonitor(3, 2)
    logits = torch.zeros(3, 2, requires_grad=True)
    monitor.update(torch.arange(3), logits.softmax(1))
    monitor.update(torch.tensor([1]), torch.tensor([[0.9, 0.1]], dtype=torch.float16))
    assert not monitor.orig.requires_grad
    assert monitor.row()["pseudo/orig/0"] == pytest.approx((0.5 + 0.9 + 0.5) / 3, abs=1e-3)


def test_refined_rows_are_kept_beside_the_guesses():
    monitor, probs = watched(refined=True)
    monitor.update(torch.arange(150, 200), probs[150:])  # not refined: the guess is what training uses
    row = monitor.row()
    refined = torch.cat([probs[:150].flip(1), probs[150:]])
    assert row["pseudo/orig/0"] == pytest.approx(float(probs.double().mean(0)[0]))
    assert row["pseudo/refined/0"] == pytest.approx(float(refined.double().mean(0)[0]), abs=1e-7)


class Tracker:
    """What a run of W&B is to the monitor: `log`, and a module with `Histogram`."""

    def __init__(self):
        self.logged = []

    def log(self, row):
        self.logged.append(row)


def test_histograms_have_the_classes_as_bins(monkeypatch):
    monkeypatch.setattr(sys.modules["tests"], "Histogram", SimpleNamespace, raising=False)
    run, (monitor, _) = Tracker(), watched()
    monitor.log(run, 3, {"loss": 1.5})
    (row,) = run.logged
    assert (row["epoch"], row["loss"]) == (3, 1.5)
    counts, edges = row["pseudo_orig"].np_histogram
    assert edges.tolist() == [-0.5, 0.5, 1.5, 2.5, 3.5]
    assert counts.sum() == pytest.approx(200)
    np.testing.assert_allclose(counts / 200, [monitor.row()[f"pseudo/orig/{k}"] for k in range(4)])
    assert "pseudo/orig/0" not in row  # the histogram shows it
    assert row["pseudo/orig/accuracy"] == monitor.row()["pseudo/orig/accuracy"]


def test_the_module_of_a_tracker_serves_as_its_run():
    module, (monitor, _) = ModuleType("tracker"), watched()
    run = Tracker()
    vars(module).update(log=run.log, Histogram=SimpleNamespace)
    monitor.log(module, 0)
    assert run.logged[0]["epoch"] == 0


def test_a_saved_monitor_goes_on_where_it_was():
    monitor, probs = watched(refined=True)
    state = monitor.state_dict()
    other = PseudoLabelMonitor(200, 4, TRUE)
    other.load_state_dict(state)
    assert other.row() == monitor.row()
    for one in (monitor, other):
        one.update(torch.arange(150, 200), probs[150:])
    assert other.row() == monitor.row()
    with pytest.raises(ValueError, match="200 x 4, this one 100 x 4"):
        PseudoLabelMonitor(100, 4).load_state_dict(state)


def see_a_part(rank, folder):
    """Two processes that see overlapping parts, as a sampler that pads gives them."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    probs = predictions(200, 4, lean=2.0)
    monitor = PseudoLabelMonitor(200, 4, TRUE)
    rows = torch.arange(0, 120) if rank == 0 else torch.arange(100, 190)
    monitor.update(rows, probs[rows], probs[rows].flip(1))
    run = Tracker() if rank == 0 else None
    vars(sys.modules["tests"])["Histogram"] = SimpleNamespace
    monitor.log(run, 0)
    torch.save(monitor.row(), f"{folder}/row{rank}")
    dist.destroy_process_group()


def test_two_processes_give_the_row_of_one(tmp_path):
    spawn(see_a_part, (str(tmp_path),), nprocs=2)
    alone, probs = PseudoLabelMonitor(200, 4, TRUE), predictions(200, 4, lean=2.0)
    alone.update(torch.arange(190), probs[:190], probs[:190].flip(1))
    for rank in range(2):
        assert torch.load(tmp_path / f"row{rank}") == pytest.approx(alone.row(), abs=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PseudoLabelMonitor(0, 4), "num_rows 0.*at least one row"),
        (lambda: PseudoLabelMonitor(5, 1), "num_classes 1.*two classes"),
        (lambda: PseudoLabelMonitor(5, 3, [0, 1]), "one label for each of 5 rows"),
        (lambda: PseudoLabelMonitor(2, 3, [0, 3]), "whole numbers from 0 to 2"),
        (lambda: PseudoLabelMonitor(2, 3, torch.tensor([0.0, 1.0])), "whole numbers from 0 to 2"),
        (lambda: PseudoLabelMonitor(5, 3, target_counts=[1, 1, 1]), "sum to 3: .* sum to 5"),
        (lambda: PseudoLabelMonitor(5, 3, target_counts=[6, -1, 0]), "none below 0"),
        (lambda: PseudoLabelMonitor(5, 3, target_counts=[5]), "give 3 counts"),
        (lambda: PseudoLabelMonitor(5, 3).update(torch.arange(2), torch.rand(2, 4)), "rows of 3 classes"),
        (lambda: PseudoLabelMonitor(5, 3).update(torch.arange(3), torch.rand(2, 3)), "as many positions"),
        (lambda: PseudoLabelMonitor(5, 3).orig, "call update first"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(make, message):
    with pytest.raises(ValueError, match=message) as error:
        make()
    assert "\n" not in str(error.value)


def test_refine_is_noise_removal_and_the_solve_in_one_call():
    probs, counts = predictions(500, 5, lean=2.0), long_tail(500, 5, 10)
    solution = refine(probs, counts)
    assert solution.converged
    assert torch.equal(solution.refined, solve(remove_noise(probs, counts, 2.0), counts).refined)
    assert not torch.equal(refine(probs, counts, alpha=3.0).refined, solution.refined)
