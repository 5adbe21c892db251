"""The refineries that work batch by batch, against their rules written down once more, slowly, in plain Python."""

import copy
import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

from darp import PseudoLabelStore
from darp.refineries.base import Batchwise, Setting
from darp.refineries.cdmad import CDMAD
from darp.refineries.pda import ProgressiveAlignment
from darp.refineries.simpro import SimPro
from semi import names

BATCHWISE = {name: names.found(names.REFINERIES, name) for name, place in names.REFINERIES.items() if place}
K, B, EPOCHS, STEPS = 4, 6, 3, 4
SIZE, CHANNELS = 3, 2  # of the images that the network is shown, in pixels, and what it makes of them
LABELED = [40.0, 20.0, 8.0, 4.0]
TARGET = [120.0, 60.0, 24.0, 12.0]

Rows = list[list[float]]


def setting(**changes: Any) -> Setting:
    return dataclasses.replace(Setting(LABELED, TARGET, EPOCHS, STEPS, image_size=SIZE), **changes)


def build(
    name: str, where: Setting | None = None, dtype: torch.dtype = torch.float64, **parameters: Any
) -> Batchwise:
    store = PseudoLabelStore(K * B, K)
    store.orig = store.orig.to(dtype)
    made: Batchwise = BATCHWISE[name](store, where or setting(), **parameters)
    return made


def collapsed(seed: int) -> torch.Tensor:
    """Nearly all guesses are of class 0."""
    noise = torch.randn(B, K, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (noise + torch.tensor([6.0, 0, 0, 0])).softmax(dim=1)


def reversed_tail(seed: int) -> torch.Tensor:
    """Guesses whose shares rise where the labeled ones fall."""
    noise = torch.randn(B, K, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (noise + torch.tensor([0.0, 1, 2, 3])).softmax(dim=1)


class Network(nn.Module):
    """Padding makes a constant image differ at its rim."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, CHANNELS, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(CHANNELS)
        self.head = nn.Linear(CHANNELS * SIZE * SIZE, K)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.norm(self.conv(images)).relu().flatten(1))
        return logits


def network(t: int) -> Network:
    """In training mode, with the weights that it has in step `t`."""
    torch.manual_seed(t)
    made = Network().double()
    made.head.weight.data.mul_(5)
    return made


TABLES = pytest.mark.parametrize("table", [collapsed, reversed_tail])


def steps() -> Iterator[tuple[int, int]]:
    return ((epoch, step) for epoch in range(EPOCHS) for step in range(STEPS))


def flat(table: torch.Tensor) -> list[float]:
    return [float(value) for value in table.flatten()]


def norm(row: list[float]) -> list[float]:
    return [value / sum(row) for value in row]


def mean(rows: Rows) -> list[float]:
    return [sum(row[k] for row in rows) / len(rows) for k in range(K)]


PI_L = norm(LABELED)
UNIFORM = [1 / K] * K

# A rule: (rows of a batch, its number from 0, a place for state) -> (targets, shifts in the loss of labeled and
# of unlabeled images).
Found = tuple[Rows, list[float] | None, list[float] | None]
Rule = Callable[[Rows, int, dict[str, Any]], Found]


def slow_la(rows: Rows, t: int, kept: dict[str, Any]) -> Found:
    targets = [norm([p / pi for p, pi in zip(row, PI_L, strict=True)]) for row in rows]
    return targets, [math.log(pi) for pi in PI_L], None


def slow_debias(rows: Rows, t: int, kept: dict[str, Any]) -> Found:
    before = kept.setdefault("p_hat", UNIFORM)
    targets = [norm([p / q**0.4 for p, q in zip(row, before, strict=True)]) for row in rows]
    kept["p_hat"] = [0.999 * q + 0.001 * m for q, m in zip(before, mean(rows), strict=True)]
    return targets, None, [0.4 * math.log(q) for q in kept["p_hat"]]


def slow_simpro(rows: Rows, t: int, kept: dict[str, Any]) -> Found:
    """With an estimate every 5 steps, tau 2, threshold 0.95."""
    if not kept:
        kept |= {"pi_u": UNIFORM, "phi": PI_L, "m": [0.0] * K, "n_l": [0.0] * K}
    if t > 0 and t % 5 == 0:
        m, n_l = kept["m"], kept["n_l"]
        together = norm([m[k] + n_l[k] for k in range(K)])
        kept["pi_u"] = [0.9 * kept["pi_u"][k] + 0.1 * m[k] / (sum(m) + 1) for k in range(K)]
        kept["phi"] = [0.9 * kept["phi"][k] + 0.1 * together[k] for k in range(K)]
        kept["m"], kept["n_l"] = [0.0] * K, [0.0] * K
    targets = [norm([p * pi**2 for p, pi in zip(row, kept["pi_u"], strict=True)]) for row in rows]
    for row in targets:
        if max(row) >= 0.95:
            kept["m"] = [kept["m"][k] + row[k] for k in range(K)]
        kept["n_l"] = [kept["n_l"][k] + PI_L[k] for k in range(K)]
    shift = [2 * math.log(phi) for phi in kept["phi"]]
    return targets, shift, shift


def slow_pda(rows: Rows, t: int, kept: dict[str, Any]) -> Found:
    """12 steps in 6 stages: two steps each."""
    c, m = norm(TARGET), mean(rows)
    before = kept.get("p_hat", m)
    kept["p_hat"] = [0.999 * before[k] + 0.001 * m[k] for k in range(K)]
    a = 1 - 0.5 * (t // 2) / 5
    wanted = norm([share**a for share in c])
    return [norm([row[k] * wanted[k] / kept["p_hat"][k] for k in range(K)]) for row in rows], None, None


def slow_flexda(rows: Rows, t: int, kept: dict[str, Any]) -> Found:
    p_hat, m = kept.get("p_hat", UNIFORM), mean(rows)
    q = norm([share ** (1 - 0.9 * (t / 12) ** 2) for share in p_hat])
    kept["p_hat"] = [0.999 * p_hat[k] + 0.001 * m[k] for k in range(K)]
    labeled = [math.log(PI_L[k] / q[k]) for k in range(K)]
    return rows, labeled, [math.log(p_hat[k] / q[k]) for k in range(K)]


def slow_answer(t: int) -> list[float]:
    """Logits of the network of step t for the image of ones, alone in its batch, in training mode."""
    net = network(t)
    kernel, flattened = net.conv.weight.tolist(), list[float]()
    for channel in range(CHANNELS):
        seen = [
            sum(
                kernel[channel][colour][dy + 1][dx + 1]
                for colour in range(3)
                for dy in (-1, 0, 1)
                for dx in (-1, 0, 1)
                if 0 <= y + dy < SIZE and 0 <= x + dx < SIZE
            )
            for y in range(SIZE)
            for x in range(SIZE)
        ]
        middle = sum(seen) / len(seen)
        spread = sum((value - middle) ** 2 for value in seen) / len(seen)
        flattened += [max(0.0, (value - middle) / math.sqrt(spread + net.norm.eps)) for value in seen]
    rows, bias = net.head.weight.tolist(), net.head.bias.tolist()
    return [sum(w * f for w, f in zip(rows[k], flattened, strict=True)) + bias[k] for k in range(K)]


def slow_cdmad(rows: Rows, t: int, kept: dict[str, Any]) -> Found:
    """From step 3 of 12 on, a quarter of the training."""
    answer = slow_answer(t)
    if t < 3:
        return rows, None, None
    shifted = [[math.exp(math.log(row[k]) - answer[k]) for k in range(K)] for row in rows]
    return [norm(row) for row in shifted], None, None


RULES: dict[str, tuple[Rule, dict[str, Any]]] = {
    "la": (slow_la, {}),
    "debias": (slow_debias, {}),
    "pda": (slow_pda, {}),
    "flexda": (slow_flexda, {}),
    "simpro": (slow_simpro, {"every": 5, "tau": 2.0}),
    "cdmad": (slow_cdmad, {"start": 0.25}),
}
NAMES = pytest.mark.parametrize("name", sorted(RULES))


def test_every_refinery_has_its_rule_in_this_test():
    assert set(RULES) == set(BATCHWISE)


@NAMES
@TABLES
def test_a_refinery_does_what_its_rule_says(name, table):
    rule, parameters = RULES[name]
    made, kept = build(name, **parameters), dict[str, Any]()
    shift = made.loss_shift()
    for t, (epoch, step) in enumerate(steps()):
        probs = table(t)
        index = torch.arange(B) + B * (t % K)
        made.look(network(t))
        targets = made.targets(index, probs, epoch, step)
        expected, labeled, unlabeled = rule(probs.tolist(), t, kept)
        torch.testing.assert_close(targets, torch.tensor(expected, dtype=torch.float64), rtol=1e-10, atol=0)
        assert torch.equal(made.store.refined[index], targets)
        assert made.loss_shift() is shift
        for found, slow in ((shift.labeled, labeled), (shift.unlabeled, unlabeled)):
            assert (found is None) == (slow is None)
            if found is not None:
                torch.testing.assert_close(
                    found, torch.tensor(slow, dtype=torch.float64), rtol=1e-10, atol=1e-12
                )
    assert name == "flexda" or not torch.allclose(targets, probs, atol=1e-4), "it must have changed something"


@NAMES
@TABLES
def test_a_refinery_goes_on_exactly_from_its_state(name, table):
    _, parameters = RULES[name]
    whole, cut = build(name, **parameters), build(name, **parameters)
    index = torch.arange(B)
    for t, (epoch, step) in enumerate(steps()):
        for refinery in (whole, cut):
            refinery.look(network(t))
        expected = whole.targets(index, table(t), epoch, step)
        if t == 7:
            state = copy.deepcopy(cut.state_dict())
            cut = build(name, **parameters)
            cut.load_state_dict(state)
        assert torch.equal(cut.targets(index, table(t), epoch, step), expected)
    expected_shift, shift = whole.loss_shift(), cut.loss_shift()
    for one, other in ((expected_shift.labeled, shift.labeled), (expected_shift.unlabeled, shift.unlabeled)):
        assert (one is None) == (other is None)
        assert one is None or other is None or torch.equal(one, other)


@NAMES
def test_guesses_of_which_some_are_exactly_zero_give_targets_on_the_simplex(name):
    made = build(name, **RULES[name][1])
    probs = torch.eye(K, dtype=torch.float64)[torch.zeros(B, dtype=torch.long)]
    for t, (epoch, step) in enumerate(steps()):
        made.look(network(t))
        targets = made.targets(torch.arange(B), probs, epoch, step)
        torch.testing.assert_close(targets, probs)
    for shift in (made.loss_shift().labeled, made.loss_shift().unlabeled):
        assert shift is None or bool(torch.isfinite(shift).all())


@NAMES
def test_health_tells_how_far_the_targets_are_from_the_guesses(name):
    made = build(name, **RULES[name][1])
    assert made.health()["refine/moved"] == 0
    away = []
    for t in range(K):
        index, probs = torch.arange(B) + B * t, reversed_tail(t)
        made.store.update(index, probs)
        targets = made.targets(index, probs, 0, t)
        away += [
            sum(abs(a - b) for a, b in zip(*pair, strict=True)) / 2
            for pair in zip(probs.tolist(), targets.tolist(), strict=True)
        ]
    assert made.health()["refine/moved"] == pytest.approx(sum(away) / len(away))
    shares = [value for key, value in made.health().items() if key.startswith("refine/shares/")]
    assert not shares or sum(shares) == pytest.approx(1)


def test_logit_adjustment_leaves_guesses_alone_where_the_labels_are_balanced():
    made = build("la", setting(labeled_counts=[9.0] * K))
    probs = collapsed(0)
    torch.testing.assert_close(made.targets(torch.arange(B), probs, 0, 0), probs)


def test_logit_adjustment_gives_the_posterior_of_a_uniform_prior():
    """From likelihoods: a guess made with the labeled prior becomes the one that a uniform prior gives."""
    likelihood = torch.rand(B, K, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    biased = likelihood * torch.tensor(PI_L, dtype=torch.float64)
    fair = likelihood / likelihood.sum(dim=1, keepdim=True)
    made = build("la")
    torch.testing.assert_close(
        made.targets(torch.arange(B), biased / biased.sum(dim=1, keepdim=True), 0, 0), fair
    )


def test_a_class_without_a_labeled_image_leaves_logit_adjustment_finite():
    made = build("la", setting(labeled_counts=[40.0, 20.0, 8.0, 0.0]))
    shift = made.loss_shift().labeled
    assert shift is not None
    assert torch.isfinite(shift).all()
    assert torch.isfinite(made.targets(torch.arange(B), collapsed(0), 0, 0)).all()


def test_debiasing_is_not_a_no_op():
    """Collapsed guesses lose some of the class that they collapsed to, and more the longer it goes on."""
    made = build("debias", momentum=0.99)
    probs = torch.cat([torch.full((B, 1), 0.7), torch.full((B, K - 1), 0.1)], dim=1).double()
    head = [float(made.targets(torch.arange(B), probs, 0, t)[0, 0]) for t in range(1000)]
    assert head[0] == pytest.approx(0.7)  # p_hat starts uniform
    assert all(later < earlier for earlier, later in zip(head[::50], head[50::50], strict=False))
    at_the_end = 0.7**0.6 / (0.7**0.6 + 3 * 0.1**0.6)  # p_hat = p: norm(p^(1 - tau))
    assert head[-1] == pytest.approx(at_the_end, abs=1e-3)
    shift = made.state["shift"]
    assert float(shift.max() - shift.min()) == pytest.approx(0.4 * math.log(7), rel=1e-3)


def test_debiasing_leaves_guesses_alone_that_are_balanced_on_average():
    made = build("debias")
    probs = torch.full((K, K), 0.1, dtype=torch.float64) + 0.6 * torch.eye(K, dtype=torch.float64)
    for step in range(50):
        torch.testing.assert_close(made.targets(torch.arange(K), probs, 0, step), probs)


def test_debiasing_takes_its_mean_over_images_not_over_classes():
    made = build("debias", momentum=0.0)
    probs = collapsed(0)
    made.targets(torch.arange(B), probs, 0, 0)
    torch.testing.assert_close(made.state["p_hat"], probs.mean(dim=0))


@pytest.mark.parametrize("true", [[0.1, 0.2, 0.3, 0.4], [0.7, 0.1, 0.1, 0.1]])
def test_simpro_finds_the_unlabeled_distribution_of_guesses_that_are_sure(true):
    made = build("simpro", every=1)
    rows = torch.eye(K, dtype=torch.float64).repeat_interleave(
        torch.tensor([round(10 * s) for s in true]), dim=0
    )
    for step in range(200):
        made.targets(torch.arange(len(rows)), rows, 0, step)
    pi_u = made.state["pi_u"] / made.state["pi_u"].sum()
    torch.testing.assert_close(pi_u, torch.tensor(true, dtype=torch.float64), atol=1e-6, rtol=0)
    both = 0.5 * torch.tensor(true, dtype=torch.float64) + 0.5 * torch.tensor(PI_L, dtype=torch.float64)
    torch.testing.assert_close(made.state["phi"], both, atol=1e-6, rtol=0)


def test_simpro_takes_the_guesses_as_they_are_until_its_first_estimate():
    made = build("simpro", every=3)
    for step in range(3):
        probs = reversed_tail(step)
        torch.testing.assert_close(made.targets(torch.arange(B), probs, 0, step), probs)
    sure = torch.eye(K, dtype=torch.float64)[[3] * B] * 0.96 + 0.01
    made = build("simpro", every=1)
    first = made.targets(torch.arange(B), sure, 0, 0)
    assert float(made.targets(torch.arange(B), sure, 0, 1)[0, 3]) > float(first[0, 3])


@pytest.mark.parametrize(
    ("dataset", "tau", "threshold"),
    [("cifar10", 2, 0.95), ("stl10", 2, 0.95), ("cifar100", 1, 0.2), ("digits", 1, 0.95)],
)
def test_simpro_has_the_published_parameters_of_each_data_set_that_has_some(dataset, tau, threshold):
    made = build("simpro", setting(dataset=dataset))
    assert isinstance(made, SimPro)
    assert (made.tau, made.loss_shift().threshold) == (tau, threshold)
    assert made.loss_shift().soft
    assert made.loss_shift().labeled_weight == pytest.approx(sum(LABELED) / sum(TARGET))
    given = build("simpro", setting(dataset=dataset), tau=3.0, threshold=0.5)
    assert isinstance(given, SimPro)
    assert (given.tau, given.threshold) == (3, 0.5)


def test_progressive_alignment_leaves_guesses_alone_that_match_the_target_on_average():
    made = build("pda")
    shares = torch.tensor(TARGET, dtype=torch.float64) / sum(TARGET)
    probs = shares.repeat(B, 1)
    torch.testing.assert_close(made.targets(torch.arange(B), probs, 0, 0), probs)


@TABLES
def test_progressive_alignment_ends_at_the_square_root_of_the_target(table):
    """Guesses that are all alike and equal to their running mean become the stage's target."""
    made = build("pda")
    probs = table(0).mean(dim=0, keepdim=True).repeat(B, 1)
    shares = torch.tensor(TARGET, dtype=torch.float64) / sum(TARGET)
    for (epoch, step), power in (((0, 0), 1.0), ((EPOCHS - 1, STEPS - 1), 0.5)):
        wanted = shares**power / (shares**power).sum()
        torch.testing.assert_close(made.targets(torch.arange(B), probs, epoch, step), wanted.repeat(B, 1))


def test_the_first_batch_sets_the_running_mean_of_progressive_alignment():
    made = build("pda")
    made.targets(torch.arange(B), collapsed(0), 0, 0)
    torch.testing.assert_close(made.state["p_hat"], collapsed(0).mean(dim=0))


def test_progressive_alignment_has_its_last_stage_to_the_end_and_one_stage_keeps_the_target():
    made = build("pda", setting(epochs=1, steps=12))
    assert isinstance(made, ProgressiveAlignment)
    assert [round(made.power(step / 12), 10) for step in (0, 1, 2, 10, 12)] == [1.0, 1.0, 0.9, 0.5, 0.5]
    one = build("pda", stages=1)
    assert isinstance(one, ProgressiveAlignment)
    assert one.power(0.9) == 1.0


def test_flexda_begins_without_a_shift_of_what_matches_and_ends_near_a_flat_prior():
    made = build("flexda", setting(labeled_counts=[9.0] * K), momentum=0.0)
    shares = collapsed(0).mean(dim=0)
    for epoch, step in ((0, 0), (0, 0)):
        made.targets(torch.arange(B), collapsed(0), epoch, step)
    unlabeled = made.state["unlabeled shift"]
    torch.testing.assert_close(unlabeled, torch.zeros_like(unlabeled), atol=1e-12, rtol=0)  # a = 1: Q = p_hat
    made.targets(torch.arange(B), collapsed(0), EPOCHS, 0)  # t = 1
    spread = shares.log().max() - shares.log().min()
    assert float(unlabeled.max() - unlabeled.min()) == pytest.approx(
        float(0.9 * spread)
    )  # log p_hat - 0.1 log p_hat


def sure(bias: list[float]) -> nn.Module:
    """A network that says `bias` of every image."""
    head = nn.Linear(3 * SIZE * SIZE, K).double()
    nn.init.zeros_(head.weight)
    head.bias.data = torch.tensor(bias, dtype=torch.float64)
    return nn.Sequential(nn.Flatten(), head)


def test_cdmad_leaves_the_network_as_it_was_in_training_and_at_test():
    made, net = build("cdmad"), network(0)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    assert "norm.num_batches_tracked" in before
    made.look(net)
    assert net.training
    made.test_shift(net.eval())
    assert not net.training
    after = net.state_dict()
    assert {name for name in before if not torch.equal(before[name], after[name])} == set()
    assert all(weight.grad is None and weight.requires_grad for weight in net.parameters())


def test_no_gradient_goes_through_the_answer_of_cdmad_to_the_constant_image():
    made, net = build("cdmad", start=0.0), network(0)
    made.look(net)
    assert [name for name, value in made.state.items() if value.requires_grad] == []
    shift = made.test_shift(net)
    assert shift is not None
    assert not shift.requires_grad
    assert not made.targets(torch.arange(B), collapsed(0), 0, 0).requires_grad


def test_cdmad_leaves_guesses_alone_where_the_network_has_no_bias():
    made = build("cdmad", start=0.0)
    made.look(sure([0.7] * K))
    probs = collapsed(0)
    torch.testing.assert_close(made.targets(torch.arange(B), probs, 0, 0), probs)


@TABLES
def test_cdmad_takes_off_guesses_and_test_logits_what_the_network_says_of_nothing(table):
    """A bias on top of fair logits disappears from both, and so does nothing else."""
    fair, bias = table(0), torch.tensor([3.0, 1.0, -1.0, -3.0], dtype=torch.float64)
    biased = (fair.log() + bias).softmax(dim=1)
    made, net = build("cdmad", start=0.0), sure(bias.tolist())
    made.look(net)
    torch.testing.assert_close(made.targets(torch.arange(B), biased, 0, 0), fair)
    shift = made.test_shift(net.eval())
    assert shift is not None
    torch.testing.assert_close((biased.log() + shift).softmax(dim=1), fair)


def test_cdmad_stays_finite_where_the_network_is_surer_of_nothing_than_float32_can_invert():
    made = build("cdmad", dtype=torch.float32, start=0.0)
    made.look(sure([200.0, 0.0, 0.0, 0.0]).float())
    assert float(made.state["log p(I)"].exp()[1]) == 0, "the answer underflows"
    targets = made.targets(torch.arange(B), collapsed(0).float(), 0, 0)
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(B))
    assert float(targets[:, 0].max()) < 1e-6


def test_only_cdmad_shifts_test_logits_and_from_the_first_epoch_on():
    shifts = {name: build(name).test_shift(network(0).eval()) for name in RULES}
    assert {name for name, shift in shifts.items() if shift is not None} == {"cdmad"}


def test_cdmad_learns_all_targets_whole_and_begins_after_a_fifth_of_the_training():
    made = build("cdmad", setting(epochs=500, steps=10))
    assert isinstance(made, CDMAD)
    assert (made.loss_shift().soft, made.loss_shift().threshold) == (True, 0)
    made.look(network(0))
    probs = collapsed(0)
    assert torch.equal(made.targets(torch.arange(B), probs, 99, 9), probs)
    assert not torch.allclose(made.targets(torch.arange(B), probs, 100, 0), probs)


def test_the_constant_image_of_cdmad_has_the_value_that_is_asked_for():
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, K)).double().eval()
    for made, value in ((build("cdmad"), 1.0), (build("cdmad", value=-0.5), -0.5)):
        image = torch.full((1, 3, SIZE, SIZE), value, dtype=torch.float64)
        answer = net(image)[0].detach()
        torch.testing.assert_close(made.test_shift(net), -answer)
        made.look(net)
        torch.testing.assert_close(made.state["log p(I)"], answer.log_softmax(dim=0))


def test_a_refinery_without_a_rule_is_refused_when_it_is_made_not_in_the_first_step():
    class Nameless(Batchwise):
        label = "nameless"

    with pytest.raises(TypeError, match="rule"):
        Nameless(PseudoLabelStore(B, K, torch.device("cpu")), setting())  # type: ignore[abstract]
