import pytest
import torch

from darp import NoRefiner, PseudoLabelStore, Refiner, Solution, align, denoised, remove_noise, solve

COUNTS = [6.0, 3.0, 3.0]


def store(seed=0) -> PseudoLabelStore:
    made = PseudoLabelStore(12, 3)
    generator = torch.Generator().manual_seed(seed)
    made.update(torch.arange(12), torch.randn(12, 3, generator=generator).softmax(dim=1))
    return made


class Recording:
    """A refinement that gives every row the class 1, and notes what it was asked."""

    def __init__(self, converged: bool = True) -> None:
        self.starts: list[torch.Tensor | None] = []
        self.converged = converged

    def __call__(self, probs, target_counts, *, warm_start=None):
        self.starts.append(warm_start)
        refined = torch.zeros_like(probs)
        refined[:, 1] = 1
        residual = 0.1 * len(self.starts)
        duals = torch.full((3,), float(len(self.starts)), dtype=torch.float64)
        return Solution(refined, duals, residual, 2 * len(self.starts), self.converged)


def refiner(made: PseudoLabelStore, solver, warm=1, num_iter=3) -> Refiner:
    return Refiner(made, COUNTS, warm=warm, num_iter=num_iter, solver=solver)


def test_until_the_warm_epoch_is_over_the_guesses_are_the_targets():
    solver = Recording()
    made = refiner(store(), solver)
    guesses = torch.full((2, 3), 1 / 3)
    for epoch in (0, 1):
        assert made.targets(torch.tensor([4, 5]), guesses, epoch, 0) is guesses
    assert solver.starts == []
    assert made.targets(torch.tensor([4, 5]), guesses, 2, 0).tolist() == [[0, 1, 0]] * 2


def test_the_table_is_refined_every_num_iter_steps_and_serves_in_between():
    solver = Recording()
    made = refiner(store(), solver)
    solved = []
    for step in range(7):
        made.targets(torch.tensor([0]), torch.zeros(1, 3), 2, step)
        solved.append(len(solver.starts))
    assert solved == [1, 1, 1, 2, 2, 2, 3]


def test_a_solve_starts_from_the_duals_of_the_last_one_that_converged():
    solver = Recording()
    made = refiner(store(), solver)
    for _ in range(3):
        made.refresh()
    assert [None if s is None else s.tolist() for s in solver.starts] == [None, [1, 1, 1], [2, 2, 2]]
    lost = Recording(converged=False)
    made = refiner(store(), lost)
    made.refresh()
    made.refresh()
    assert lost.starts == [None, None]


def test_health_tells_the_worst_and_the_mean_since_it_was_last_asked():
    made = refiner(store(), Recording(converged=False))
    made.refresh()
    made.refresh()
    row = made.health()
    assert row["darp/residual"] == pytest.approx(0.2)
    assert (row["darp/iterations"], row["darp/solves"], row["darp/unconverged"]) == (3, 2, 2)
    assert made.health() == {"darp/solves": 0, "darp/seconds": 0}


def test_the_duals_survive_a_checkpoint():
    solver, other = Recording(), Recording()
    first = refiner(store(), solver)
    first.refresh()
    second = refiner(store(), other)
    second.load_state_dict(first.state_dict())
    second.refresh()
    assert other.starts[0] is not None
    assert other.starts[0].tolist() == [1, 1, 1]


def test_darp_removes_noise_before_it_solves_and_leaves_the_guesses_alone():
    made = store()
    before = made.orig.clone()
    refiner(made, denoised(solve, 1.0)).refresh()
    by_hand = solve(remove_noise(before, COUNTS, 1.0), COUNTS)
    torch.testing.assert_close(made.refined, by_hand.refined)
    assert torch.equal(made.orig, before)
    assert not torch.allclose(made.refined, solve(before, COUNTS).refined, atol=1e-3)


def test_other_refinements_take_the_whole_table():
    made = store()
    refiner(made, align).refresh()
    torch.testing.assert_close(made.refined, align(made.orig, COUNTS).refined)


def test_without_refinement_the_guesses_are_the_targets():
    guesses = torch.rand(2, 3)
    assert NoRefiner().targets(torch.tensor([0, 1]), guesses, 99, 0) is guesses
    assert NoRefiner().health() == {}


def test_a_model_that_diverged_is_told_and_does_not_end_the_training():
    store = PseudoLabelStore(40, 4)
    store.update(torch.tensor([3]), torch.full((1, 4), torch.nan))
    subject = refiner(store, denoised(solve, 2.0))
    targets = subject.targets(torch.tensor([3, 4]), store.orig[[3, 4]], 2, 0)
    assert torch.isnan(targets[0]).all()
    row = subject.health()
    assert row["darp/unconverged"] == 1
    assert row["darp/residual"] == float("inf")
