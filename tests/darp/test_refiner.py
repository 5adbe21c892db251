import torch

from darp import NoRefiner, PseudoLabelStore, Refiner, Solution, remove_noise, solve
from darp.refiner import denoised


def table(num_rows: int = 40, num_classes: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    skew = torch.tensor([3.0, 1.0, 0.0, -1.0])[:num_classes]
    return (torch.randn(num_rows, num_classes, generator=generator) + skew).softmax(dim=1)


def refiner(store: PseudoLabelStore, solver=None, **schedule) -> Refiner:
    counts = [10.0] * 4
    return Refiner(
        store, counts, **({"warm": 1, "num_iter": 3} | schedule), solver=solver or denoised(solve, 2.0)
    )


def test_unvisited_rows_are_uniform_and_an_update_overwrites_its_rows_alone():
    store = PseudoLabelStore(5, 4)
    assert torch.equal(store.orig, torch.full((5, 4), 0.25))
    store.update(torch.tensor([1, 3]), table(2))
    assert store.visited.tolist() == [False, True, False, True, False]
    assert torch.equal(store.orig[[1, 3]], table(2))
    assert torch.equal(store.orig[[0, 2, 4]], torch.full((3, 4), 0.25))


def test_refined_is_orig_until_something_was_refined():
    store = PseudoLabelStore(5, 4)
    assert store.refined is store.orig
    store.refined = torch.ones(5, 4) / 4
    assert store.refined is not store.orig


def test_the_schedule_is_warm_then_every_num_iter_th_step():
    store = PseudoLabelStore(40, 4)
    store.update(torch.arange(40), table())
    solves = []

    def counting(probs, counts, *, warm_start=None) -> Solution:
        solves.append(now)
        return solve(probs, counts, warm_start=warm_start)

    subject = refiner(store, denoised(counting, 2.0))
    for epoch in range(4):
        for step in range(7):
            now = (epoch, step)
            probs = store.orig[:8]
            targets = subject.targets(torch.arange(8), probs, epoch, step)
            if epoch <= 1:
                assert targets is probs
            else:
                assert torch.equal(targets, store.refined[:8])
    assert solves == [(epoch, step) for epoch in (2, 3) for step in (0, 3, 6)]


def test_a_refresh_removes_noise_then_solves_and_leaves_orig_alone():
    store = PseudoLabelStore(40, 4)
    store.update(torch.arange(40), table())
    before = store.orig.clone()
    subject = refiner(store)
    subject.refresh()
    expected = solve(remove_noise(before, torch.full((4,), 10.0), 2.0), [10.0] * 4).refined
    torch.testing.assert_close(store.refined, expected)
    torch.testing.assert_close(store.refined.sum(dim=0), torch.full((4,), 10.0), rtol=0, atol=1e-5)
    assert torch.equal(store.orig, before)


def test_health_tells_of_the_solves_since_the_last_call():
    store = PseudoLabelStore(40, 4)
    store.update(torch.arange(40), table())
    subject = refiner(store)
    assert subject.health()["darp/solves"] == 0
    subject.refresh()
    subject.refresh()
    row = subject.health()
    assert row["darp/solves"] == 2
    assert row["darp/residual"] <= 1e-6
    assert row["darp/unconverged"] == 0
    assert row["darp/seconds"] > 0
    assert subject.health()["darp/solves"] == 0


def test_the_last_duals_start_the_next_solve_also_after_a_reload():
    store = PseudoLabelStore(40, 4)
    store.update(torch.arange(40), table())
    starts = []

    def recording(probs, counts, *, warm_start=None) -> Solution:
        starts.append(warm_start)
        return solve(probs, counts, warm_start=warm_start)

    first = refiner(store, recording)
    solution = first.refresh()
    again = refiner(store, recording)
    again.load_state_dict(first.state_dict())
    again.refresh()
    assert starts[0] is None
    assert torch.equal(starts[1], solution.duals)


def test_a_solution_that_did_not_converge_starts_nothing():
    store = PseudoLabelStore(40, 4)

    def failing(probs, counts, *, warm_start=None) -> Solution:
        assert warm_start is None
        return Solution(probs, torch.full((4,), torch.nan), 0.5, 9, False, "no")

    subject = refiner(store, failing)
    subject.refresh()
    subject.refresh()
    assert subject.health()["darp/unconverged"] == 2


def test_without_refinement_the_guesses_are_the_targets():
    probs = table(3)
    assert NoRefiner().targets(torch.arange(3), probs, 9, 0) is probs
    assert NoRefiner().health() == {}
