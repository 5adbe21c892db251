"""One step of each method, from fixed weights and fixed views, against the published formulas in plain NumPy."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from darp.refineries.base import LossShift
from data import Batch, long_tail_counts
from models import Classifier
from semi.config import Config
from semi.distributed import Ranks
from semi.job import build_job
from semi.methods.fixmatch import FixMatch
from semi.methods.mixmatch import MixMatch
from semi.methods.pseudo_label import PseudoLabel
from semi.methods.remixmatch import ReMixMatch
from semi.methods.supervised import Supervised
from semi.mixing import mixup, own_share, sharpen
from tests.semi.runs import TINY

B, K, SIDE, WIDTH = 6, 3, 4, 5
ALONE = Ranks(torch.device("cpu"))
SHARE = 0.2  # what the Beta distribution gives; mixup takes the larger part, 0.8, of the image itself
TURNS = np.array([0, 1, 2, 3, 1, 2])


class Network:
    """A network without batch norm, as torch module and as NumPy functions of images [B, 3, SIDE, SIDE]."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        backbone = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, WIDTH), nn.Tanh())
        self.model = Classifier(backbone, WIDTH, K).double()
        for head in (self.model.head, self.model.rotation_head):
            nn.init.normal_(head.weight)
            nn.init.normal_(head.bias)
        self.weights = {name: tensor.numpy() for name, tensor in self.model.state_dict().items()}

    def _head(self, images, name):
        w = self.weights
        features = np.tanh(images.reshape(len(images), -1) @ w["backbone.1.weight"].T + w["backbone.1.bias"])
        return features @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def logits(self, images):
        return self._head(images, "head")

    def rotation_logits(self, images):
        return self._head(images, "rotation_head")


def softmax(logits):
    e = np.exp(logits - logits.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def cross_entropy(logits, targets):
    """Mean over rows of -sum_k t_k log p_k; targets are classes [B] or distributions [B, K]."""
    targets = np.eye(logits.shape[1])[targets] if targets.ndim == 1 else targets
    return -(targets * np.log(softmax(logits))).sum(1).mean()


def one_hot(labels):
    return np.eye(K)[labels]


@pytest.fixture
def network():
    return Network()


@pytest.fixture
def draws(monkeypatch):
    """Fixed random draws; returns the permutation of n images."""

    def permutation(n, device=None):
        return torch.from_numpy(np.roll(np.arange(n), 5))

    def larger_share(alpha, device):
        assert alpha == 0.75
        return torch.tensor(max(SHARE, 1 - SHARE), dtype=torch.float64)

    monkeypatch.setattr("semi.mixing.own_share", larger_share)
    monkeypatch.setattr(torch, "randperm", permutation)
    monkeypatch.setattr(torch, "randint", lambda high, size, device=None: torch.from_numpy(TURNS))
    return lambda n: permutation(n).numpy()


def batch(num_x_views, num_u_views, seed=1):
    generator = np.random.default_rng(seed)
    shape = (B, 3, SIDE, SIDE)
    views_x = [generator.normal(size=shape) for _ in range(num_x_views)]
    views_u = [generator.normal(size=shape) for _ in range(num_u_views)]
    labels = generator.integers(0, K, B)
    made = Batch(
        tuple(map(torch.from_numpy, views_x)),
        torch.from_numpy(labels),
        tuple(map(torch.from_numpy, views_u)),
        torch.arange(B),
    )
    return made, views_x, labels, views_u


def some_targets(seed=2):
    """Refined pseudo-labels that the network itself would not have guessed."""
    return softmax(3 * np.random.default_rng(seed).normal(size=(B, K)))


def value(loss):
    return float(loss.detach())


def mixed(images, targets, permutation):
    own = max(SHARE, 1 - SHARE)
    return own * images + (1 - own) * images[permutation], own * targets + (1 - own) * targets[permutation]


def test_sharpening_raises_probabilities_to_the_power_of_one_over_t():
    probs = np.array([[0.5, 0.3, 0.2]])
    expected = probs**2 / (probs**2).sum()
    np.testing.assert_allclose(sharpen(torch.from_numpy(probs), 0.5).numpy(), expected)


def test_the_own_share_of_a_mixed_image_is_at_least_a_half():
    torch.manual_seed(0)
    images = torch.eye(8, dtype=torch.float64)
    shares = set()
    for _ in range(50):
        mixed_images, mixed_targets = mixup(images, images, 0.75)
        assert torch.equal(mixed_images, mixed_targets)
        own = mixed_images.diagonal().min()
        assert own >= 0.5
        shares.add(round(float(own), 6))
    assert len(shares) > 40


@pytest.mark.parametrize("alpha", [0.001, 0.1, 0.75, 1.0, 16.0])
def test_the_own_share_is_the_larger_one_of_a_beta_distribution(alpha):
    """Kolmogorov and Smirnov's distance to max(l, 1 - l), whose distribution function is 2 F(s) - 1 above a half."""
    torch.manual_seed(0)
    drawn = np.array([float(own_share(alpha, torch.device("cpu"))) for _ in range(2000)])
    assert drawn.min() >= 0.5
    within = drawn[drawn < 1 - 1e-6]  # float32 ends there; small alphas have most of their mass beyond
    beyond = 2 * stats.beta.sf(1 - 1e-6, alpha, alpha)
    assert len(within) / 2000 == pytest.approx(1 - beyond, abs=0.03)
    if len(within) > 200:
        conditional = lambda s: (2 * stats.beta.cdf(s, alpha, alpha) - 1) / (1 - beyond)  # noqa: E731
        assert stats.kstest(within, conditional).pvalue > 0.001


def test_mixmatch_guesses_the_sharpened_mean_of_both_views(network):
    made, _, _, views_u = batch(1, 2)
    mean = (softmax(network.logits(views_u[0])) + softmax(network.logits(views_u[1]))) / 2
    expected = mean**2 / (mean**2).sum(1, keepdims=True)
    np.testing.assert_allclose(MixMatch(75, 0.5, 0.75).guess(network.model, made).numpy(), expected)


@pytest.mark.parametrize("progress", [0.0, 0.25, 1.0])
def test_mixmatch_losses_are_those_of_the_paper(network, draws, progress):
    made, views_x, labels, views_u = batch(1, 2)
    targets = some_targets()
    losses = MixMatch(75, 0.5, 0.75).losses(
        network.model, made, torch.from_numpy(targets), torch.tensor(progress, dtype=torch.float64)
    )
    images, soft = mixed(
        np.concatenate([*views_x, *views_u]),
        np.concatenate([one_hot(labels), targets, targets]),
        draws(3 * B),
    )
    logits = network.logits(images)
    loss_x = cross_entropy(logits[:B], soft[:B])
    loss_u = ((softmax(logits[B:]) - soft[B:]) ** 2).mean()
    assert value(losses.x) == pytest.approx(loss_x)
    assert value(losses.u) == pytest.approx(loss_u)
    assert value(losses.total) == pytest.approx(loss_x + 75 * progress * loss_u)


def test_remixmatch_aligns_its_guesses_with_the_target_in_images_of_each_class(network):
    wanted = np.array([60.0, 40.0, 0.0])  # of 100 unlabeled images
    method = ReMixMatch(1.5, 0.5, 0.5, 0.5, 0.75, torch.from_numpy(wanted), ALONE)
    recent = []
    for seed in (1, 3):
        made, _, _, views_u = batch(1, 3, seed)
        guess = method.guess(network.model, made).numpy()
        probs = softmax(network.logits(views_u[0]))
        recent.append(probs.mean(0))
        aligned = probs * (wanted + 1e-6) / (100 * np.mean(recent, axis=0) + 1e-6)
        aligned /= aligned.sum(1, keepdims=True)
        np.testing.assert_allclose(guess, aligned**2 / (aligned**2).sum(1, keepdims=True))


def config_of_remixmatch(**changes) -> Config:
    return Config(
        **TINY
        | {"semi_method": "remix", "align": True, "num_max": 20, "ratio": 3.0, "imb_ratio_l": 4.0}
        | changes
    )


def aligned_to(config: Config, estimated=None) -> Tensor | None:
    method = build_job(config, torch.device("cpu"), estimated).method
    assert isinstance(method, ReMixMatch)
    return method.align_to


def test_remixmatch_aligns_to_the_estimate_where_there_is_one_and_to_the_labeled_distribution_else():
    estimated = [0.3, 0.2, 0.1, 0.1, 0.1, 0.1, 0.1, 0.0, 0.0, 0.0]
    unlabeled = sum(long_tail_counts(60, 1, 10))
    wanted = torch.tensor(estimated, dtype=torch.float64) * unlabeled
    torch.testing.assert_close(aligned_to(config_of_remixmatch(est=True), estimated), wanted)
    labeled = torch.tensor(long_tail_counts(20, 4, 10), dtype=torch.float64)
    torch.testing.assert_close(aligned_to(config_of_remixmatch()), labeled / labeled.sum() * unlabeled)
    assert aligned_to(config_of_remixmatch(align=False)) is None


def test_remixmatch_remembers_128_steps(network):
    method = ReMixMatch(1.5, 0.5, 0.5, 0.5, 0.75, torch.full((K,), 1 / K), ALONE)
    for seed in range(130):
        made, *_ = batch(1, 3, seed)
        method.guess(network.model, made)
    last = [softmax(network.logits(batch(1, 3, seed)[3][0])).mean(0) for seed in range(2, 130)]
    np.testing.assert_allclose(method.state_dict()["recent"].numpy(), np.stack(last))


def test_remixmatch_without_align_only_sharpens(network):
    made, _, _, views_u = batch(1, 3)
    probs = softmax(network.logits(views_u[0]))
    guess = ReMixMatch(1.5, 0.5, 0.5, 0.5, 0.75, None, ALONE).guess(network.model, made)
    np.testing.assert_allclose(guess.numpy(), probs**2 / (probs**2).sum(1, keepdims=True))


@pytest.mark.parametrize("progress", [0.0, 0.25, 1.0])
def test_remixmatch_losses_are_those_of_the_paper(network, draws, progress):
    made, views_x, labels, (weak, strong, strong2) = batch(1, 3)
    targets = some_targets()
    method = ReMixMatch(1.5, 0.5, 0.3, 0.5, 0.75, None, ALONE)
    losses = method.losses(
        network.model, made, torch.from_numpy(targets), torch.tensor(progress, dtype=torch.float64)
    )
    images, soft = mixed(
        np.concatenate([*views_x, strong, strong2, weak]),
        np.concatenate([one_hot(labels), targets, targets, targets]),
        draws(4 * B),
    )
    logits = network.logits(images)
    loss_x = cross_entropy(logits[:B], soft[:B])
    loss_u = cross_entropy(logits[B:], soft[B:])
    turned = np.stack([np.rot90(image, turns, (1, 2)) for image, turns in zip(strong, TURNS, strict=True)])
    loss_r = cross_entropy(network.rotation_logits(turned), TURNS)
    loss_e = cross_entropy(network.logits(strong), targets)
    assert value(losses.x) == pytest.approx(loss_x)
    assert value(losses.u) == pytest.approx(loss_u)
    assert value(losses.r) == pytest.approx(loss_r)
    assert value(losses.e) == pytest.approx(loss_e)
    expected = loss_x + progress * 1.5 * loss_u + 0.5 * loss_r + progress * 0.3 * loss_e
    assert value(losses.total) == pytest.approx(expected)


def test_fixmatch_masks_by_the_refined_confidence(network):
    made, views_x, labels, (weak, strong, strong2) = batch(1, 3)
    targets = some_targets()
    tau = float(np.sort(targets.max(1))[2])  # exactly the third lowest confidence, which still counts
    mask = targets.max(1) >= tau
    own_confidence = softmax(network.logits(weak)).max(1) >= tau
    assert mask.sum() == B - 2
    assert (mask != own_confidence).any()  # else the test could not tell the two apart
    losses = FixMatch(tau).losses(network.model, made, torch.from_numpy(targets), torch.zeros(()))
    hard = one_hot(targets.argmax(1))
    terms = [-(hard * np.log(softmax(network.logits(view)))).sum(1) * mask for view in (strong, strong2)]
    loss_x, loss_u = cross_entropy(network.logits(views_x[0]), labels), np.concatenate(terms).mean()
    assert value(losses.x) == pytest.approx(loss_x)
    assert value(losses.u) == pytest.approx(loss_u)
    assert value(losses.total) == pytest.approx(loss_x + loss_u)


@pytest.mark.parametrize(("progress", "ramp"), [(0.0, 0.0), (0.2, 0.5), (0.4, 1.0), (0.9, 1.0)])
def test_pseudo_labelling_learns_its_own_confident_guesses(network, progress, ramp):
    made, views_x, labels, (weak,) = batch(1, 1)
    targets = some_targets()
    tau = float(np.median(targets.max(1)))
    losses = PseudoLabel(tau).losses(
        network.model, made, torch.from_numpy(targets), torch.tensor(progress, dtype=torch.float64)
    )
    terms = -(one_hot(targets.argmax(1)) * np.log(softmax(network.logits(weak)))).sum(1)
    loss_u = (terms * (targets.max(1) >= tau)).mean()
    loss_x = cross_entropy(network.logits(views_x[0]), labels)
    assert value(losses.u) == pytest.approx(loss_u)
    assert value(losses.total) == pytest.approx(loss_x + ramp * loss_u)


def test_the_supervised_baseline_learns_from_labels_alone(network):
    made, views_x, labels, views_u = batch(1, 1)
    losses = Supervised().losses(
        network.model, made, torch.from_numpy(some_targets()), torch.zeros(()).double()
    )
    assert value(losses.total) == pytest.approx(cross_entropy(network.logits(views_x[0]), labels))
    assert losses.u is None
    guess = Supervised().guess(network.model, made)
    np.testing.assert_allclose(guess.numpy(), softmax(network.logits(views_u[0])))


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize(("made_by", "views"), [(FixMatch, 3), (PseudoLabel, 1)])
def test_a_shift_is_added_to_the_logits_and_its_threshold_takes_the_place_of_tau(
    network, made_by, views, soft
):
    made, views_x, labels, views_u = batch(1, views)
    targets, shift_x, shift_u = some_targets(), np.array([0.3, -1.0, 2.0]), np.array([-2.0, 0.5, 0.1])
    threshold = float(np.sort(targets.max(1))[2])
    shift = LossShift(
        torch.from_numpy(shift_x),
        torch.from_numpy(shift_u),
        labeled_weight=0.25,
        soft=soft,
        threshold=threshold,
    )
    progress = torch.ones((), dtype=torch.float64)
    method = made_by(1.0)
    method.shift = shift
    losses = method.losses(network.model, made, torch.from_numpy(targets), progress)
    mask, wanted = targets.max(1) >= threshold, targets if soft else one_hot(targets.argmax(1))
    terms = [
        -(wanted * np.log(softmax(network.logits(view) + shift_u))).sum(1) * mask
        for view in (views_u[1:] if views > 1 else views_u)
    ]
    loss_x, loss_u = cross_entropy(network.logits(views_x[0]) + shift_x, labels), np.concatenate(terms).mean()
    assert value(losses.x) == pytest.approx(loss_x)
    assert value(losses.u) == pytest.approx(loss_u)
    assert value(losses.total) == pytest.approx(0.25 * loss_x + loss_u)


def test_the_supervised_baseline_takes_the_shift_of_labeled_images(network):
    made, views_x, labels, _ = batch(1, 1)
    shift = np.array([0.3, -1.0, 2.0])
    method = Supervised()
    method.shift = LossShift(torch.from_numpy(shift))
    losses = method.losses(network.model, made, torch.from_numpy(some_targets()), torch.zeros(()).double())
    assert value(losses.total) == pytest.approx(cross_entropy(network.logits(views_x[0]) + shift, labels))


@pytest.mark.parametrize("method", [FixMatch(0.95), PseudoLabel(0.95), Supervised()])
def test_guesses_are_the_softmax_of_the_weak_view(network, method):
    made, _, _, views_u = batch(1, len(method.views_u))
    guess = method.guess(network.model, made)
    np.testing.assert_allclose(guess.numpy(), softmax(network.logits(views_u[0])))
    assert not guess.requires_grad


def test_the_supervised_guess_leaves_no_trace_in_batch_norm_and_depends_on_no_other_image():
    job = build_job(Config(**(TINY | {"semi_method": "sup"})), torch.device("cpu"))
    batch = job.loader.next()
    job.model.train()
    before = {name: value.clone() for name, value in job.model.named_buffers()}
    probs = job.method.guess(job.model, batch)
    assert job.model.training
    assert before
    for name, value in job.model.named_buffers():
        assert torch.equal(value, before[name]), name
    alone = Batch(batch.views_x, batch.labels_x, (batch.views_u[0][:1],), batch.index_u[:1])
    torch.testing.assert_close(job.method.guess(job.model, alone), probs[:1])
