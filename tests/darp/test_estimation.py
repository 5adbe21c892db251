import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from darp.estimation import confusion_matrix, estimate, published_estimate, simplex_least_squares


def classifier(num_classes: int, counts: list[int], skill: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Predictions [sum counts, K] of a classifier of the given skill, and the labels."""
    generator = np.random.default_rng(seed)
    labels = np.repeat(np.arange(num_classes), counts)
    logits = generator.normal(size=(len(labels), num_classes)) + skill * np.eye(num_classes)[labels]
    probs = np.exp(logits)
    return probs / probs.sum(axis=1, keepdims=True), labels


def tv(a, b) -> float:
    return float(np.abs(np.asarray(a) - np.asarray(b)).sum() / 2)


def test_columns_of_the_confusion_matrix_are_mean_predictions_of_a_class():
    probs = np.array([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8]])
    np.testing.assert_allclose(confusion_matrix(probs, np.array([0, 0, 1])), [[0.8, 0.2], [0.2, 0.8]])


@given(st.integers(0, 10**6), st.integers(2, 8))
@settings(deadline=None, derandomize=True, max_examples=40)
def test_the_shares_are_found_exactly_where_the_model_holds_exactly(seed, num_classes):
    generator = np.random.default_rng(seed)
    confusion = generator.dirichlet(np.ones(num_classes), num_classes).T + np.eye(num_classes)
    confusion /= confusion.sum(axis=0)
    q = generator.dirichlet(np.ones(num_classes))
    np.testing.assert_allclose(simplex_least_squares(confusion, confusion @ q), q, atol=1e-6)


@given(st.integers(0, 10**6))
@settings(deadline=None, derandomize=True, max_examples=25)
def test_least_squares_on_the_simplex_agrees_with_a_general_optimiser(seed):
    generator = np.random.default_rng(seed)
    confusion = generator.dirichlet(np.ones(5), 5).T
    p = generator.dirichlet(0.2 * np.ones(5))  # far from what any q explains: constraints bind
    ours = simplex_least_squares(confusion, p)
    sums_to_one = {"type": "eq", "fun": lambda q: q.sum() - 1, "jac": np.ones_like}
    theirs = minimize(
        lambda q: ((confusion @ q - p) ** 2).sum(),
        np.full(5, 0.2),
        jac=lambda q: 2 * confusion.T @ (confusion @ q - p),
        method="SLSQP",
        bounds=[(0, 1)] * 5,
        constraints=sums_to_one,
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert ((confusion @ ours - p) ** 2).sum() <= theirs.fun + 1e-8
    assert ours.min() >= 0
    assert ours.sum() == pytest.approx(1)


def test_a_shifted_distribution_is_found_and_lies_in_its_interval():
    counts = [2000, 1000, 500, 250, 125]
    heldout, labels = classifier(5, [400] * 5, 2.0, seed=1)
    unlabeled, _ = classifier(5, counts, 2.0, seed=2)
    truth = np.array(counts) / sum(counts)
    found = estimate(heldout, labels, unlabeled)
    assert found.identifiable
    assert tv(found.dist, truth) < 0.05 < tv(unlabeled.mean(axis=0), truth)
    assert ((found.low <= truth) & (truth <= found.high)).sum() >= 4
    assert (found.low <= found.dist).all()
    assert (found.dist <= found.high).all()


def test_a_classifier_that_knows_nothing_identifies_nothing():
    heldout, labels = classifier(5, [10] * 5, 0.0, seed=3)
    unlabeled, _ = classifier(5, [100] * 5, 0.0, seed=4)
    found = estimate(heldout, labels, unlabeled, max_condition=20)
    assert not found.identifiable
    assert "condition number" in found.reason
    assert "label more images" in found.reason


def test_a_class_without_a_held_out_image_is_named():
    heldout, labels = classifier(3, [5, 0, 5], 2.0, seed=5)
    found = estimate(heldout, labels, heldout)
    assert not found.identifiable
    assert "[1]" in found.reason


def test_the_published_recipe_averages_the_epochs_that_it_accepts():
    good = np.array([[0.8, 0.2], [0.2, 0.8]])
    near_singular = np.array([[0.501, 0.499], [0.499, 0.501]])
    q = np.array([0.7, 0.3])
    impossible = (good, np.array([0.95, 0.05]))  # its inverse has a negative entry
    dist, accepted = published_estimate([(good, good @ q), impossible, (near_singular, near_singular @ q)])
    assert accepted == 1
    assert dist is not None
    np.testing.assert_allclose(dist, q)
    assert published_estimate([impossible]) == (None, 0)
