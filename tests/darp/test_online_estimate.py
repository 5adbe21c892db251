"""The estimate that the target follows, on tables whose truth is known."""

import copy
from collections.abc import Sequence

import pytest
import torch

from darp import PseudoLabelStore, Refiner, denoised, solve
from darp.online_estimate import OnlineEstimate

K, N = 4, 4000
LABELED = [40.0, 20.0, 8.0, 4.0]
PI_L = torch.tensor(LABELED, dtype=torch.float64) / sum(LABELED)
TRUTHS = {"as the labels": [40, 20, 8, 4], "uniform": [1, 1, 1, 1], "reversed": [4, 8, 20, 40]}
TRUTH = pytest.mark.parametrize("truth", TRUTHS.values(), ids=list(TRUTHS))


def images(truth: Sequence[float]) -> tuple[torch.Tensor, torch.Tensor]:
    """(shares of the classes among N images, log-likelihood [N, K] of each image under each class)."""
    generator = torch.Generator().manual_seed(0)
    wanted = torch.tensor(truth, dtype=torch.float64)
    label = torch.multinomial(wanted, N, replacement=True, generator=generator)
    at = torch.randn(N, K, generator=generator, dtype=torch.float64) + 2 * torch.eye(K).double()[label]
    return torch.bincount(label, minlength=K) / N, 2 * at


def guesses_for(log_likelihood: torch.Tensor) -> torch.Tensor:
    """What a network says whose losses saw z + log phi, whatever phi was: z + log phi is right for shares phi."""
    phi = PI_L
    fitted = (log_likelihood + phi.log()).log_softmax(dim=1)
    return (fitted - phi.log()).softmax(dim=1)


def nothing(confidence: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(label, dtype=torch.bool)


def sure(confidence: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    return confidence >= 0.9


def estimate_of(rows: int, selects=nothing, **options) -> OnlineEstimate:
    store = PseudoLabelStore(rows, K)
    store.orig = store.orig.double()
    return OnlineEstimate(store, LABELED, selects=selects, **{"shrink": 0.0} | options)


def following(made: OnlineEstimate, warm: int, num_iter: int) -> Refiner:
    solver = denoised(solve, 2.0)
    return Refiner(made.store, PI_L * N, warm=warm, num_iter=num_iter, solver=solver, estimate=made)


def tv(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().sum() / 2)


@TRUTH
def test_the_estimate_of_a_classifier_that_learned_other_shares_converges_to_the_true_ones(truth):
    true, log_likelihood = images(truth)
    made = estimate_of(N)
    guesses = guesses_for(log_likelihood)
    made.store.update(torch.arange(N), guesses)
    for _ in range(150):
        made.update()
    assert tv(made.pi, true) < 0.015
    assert tv(made.phi, PI_L) < 1e-12, "nothing but the labels was learned"
    torch.testing.assert_close(made.posterior(guesses).mean(dim=0), made.pi, atol=1e-4, rtol=0)
    if truth != TRUTHS["uniform"]:
        assert tv(guesses.mean(dim=0), true) > 0.1, "else the guesses alone would do"


@TRUTH
def test_a_table_is_refined_to_the_truth_without_being_told_it(truth):
    true, log_likelihood = images(truth)
    made = estimate_of(N, sure)
    made.store.update(torch.arange(N), guesses_for(log_likelihood))
    refiner = following(made, warm=0, num_iter=1)
    refiner.targets(torch.arange(1), made.store.orig[:1], 0, 0)
    assert made.store.refined is made.store.orig, "not before the warm epochs are over"
    for step in range(100):
        refiner.targets(torch.arange(1), made.store.orig[:1], 1, step)
    assert tv(made.store.refined.mean(dim=0), true) < 0.015
    assert tv(made.store.refined.mean(dim=0), made.pi) < 1e-5, "the refinement meets the estimate"
    assert refiner.health()["darp/unconverged"] == 0
    assert float(refiner.target_counts.sum()) == pytest.approx(N)
    confidence, label = made.store.refined.max(dim=1)
    learned = PI_L + torch.bincount(label[confidence >= 0.9], minlength=K) / N
    torch.testing.assert_close(made.phi, learned / learned.sum(), atol=2e-3, rtol=0)


def test_a_class_that_had_no_share_left_comes_back():
    true, log_likelihood = images([1, 1, 1, 1])
    made = estimate_of(N)
    made.store.update(torch.arange(N), guesses_for(log_likelihood))
    made.pi.copy_(torch.tensor([0.0, 0.0, 0.0, 1.0]))
    for _ in range(300):
        made.update()
    assert tv(made.pi, true) < 0.02


def test_a_step_does_what_the_rule_says_slowly_written_down():
    generator = torch.Generator().manual_seed(1)
    made = estimate_of(30, sure, momentum=0.7, shrink=0.1)
    guesses = (5 * torch.randn(15, K, generator=generator)).double().softmax(dim=1)
    made.store.update(torch.arange(0, 30, 2), guesses)
    pi, phi = [0.02, 0.08, 0.3, 0.6], PI_L.tolist()
    made.pi.copy_(torch.tensor(pi))
    for round_ in range(4):
        if round_ > 1:  # before, nothing is refined: the targets are the posteriors
            made.store.refined = (5 * torch.randn(30, K, generator=generator)).double().softmax(dim=1)
        made.update()
        found, selected = [0.0] * K, [0.0] * K
        for i in range(30):
            weights = [made.store.orig[i].tolist()[k] * pi[k] for k in range(K)]
            posterior = [weight / sum(weights) for weight in weights]
            if i % 2 == 0:
                found = [found[k] + posterior[k] for k in range(K)]
            target = made.store.refined[i].tolist() if round_ > 1 else posterior
            if max(target) >= 0.9:
                selected[target.index(max(target))] += 1
        learned = [PI_L.tolist()[k] + selected[k] / 30 for k in range(K)]
        pi = [0.7 * pi[k] + 0.3 * (0.9 * found[k] / 15 + 0.1 / K) for k in range(K)]
        phi = [0.7 * phi[k] + 0.3 * learned[k] / sum(learned) for k in range(K)]
        assert sum(selected) > 3
        assert made.pi.tolist() == pytest.approx(pi), round_
        assert made.phi.tolist() == pytest.approx(phi)
        for shift in (made.shift.labeled, made.shift.unlabeled):
            assert shift is not None
            assert shift.exp().tolist() == pytest.approx(phi)


def test_a_refiner_follows_an_estimate_from_the_first_epoch_on_and_goes_on_exactly():
    def build() -> tuple[OnlineEstimate, Refiner]:
        made = estimate_of(N, sure)
        made.store.update(torch.arange(N), guesses_for(images([1, 2, 3, 4])[1]))
        return made, following(made, warm=0, num_iter=2)

    estimate, whole = build()
    _, cut = build()
    shift, seen = whole.loss_shift(), []
    for step in range(8):
        if step == 5:
            state, (_, cut) = copy.deepcopy(cut.state_dict()), build()
            cut.load_state_dict(state)
            cut.store.load_state_dict(copy.deepcopy(whole.store.state_dict()))
            assert_equal_shifts(whole, cut)
            assert torch.equal(cut.target_counts, whole.target_counts)
        orig = whole.store.orig[:9]
        mine, others = (r.targets(torch.arange(9), orig, step // 4, step % 4) for r in (whole, cut))
        assert torch.equal(mine, others)
        if step < 4:
            assert torch.equal(mine, estimate.posterior(orig)), "until the refinement begins"
        seen.append(tv(whole.target_counts / N, PI_L))
    assert seen[0] > 0.1, "from uniform on, also where nothing is refined yet"
    assert seen[0] == seen[1] != seen[2], "at each refresh"
    assert whole.health()["refine/prior/0"] == cut.health()["refine/prior/0"] > 0
    assert whole.loss_shift() is shift, "in the same place, which a recorded step reads"
    assert_equal_shifts(whole, cut)


def assert_equal_shifts(whole: Refiner, cut: Refiner) -> None:
    one, other = whole.loss_shift().unlabeled, cut.loss_shift().unlabeled
    assert one is not None
    assert other is not None
    assert torch.equal(one, other)
