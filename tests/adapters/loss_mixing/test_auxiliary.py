"""Auxiliary losses: their values, their gradients, and what they refuse."""

import numpy as np
import pytest
from scipy.special import log_softmax, softmax
from sklearn.base import BaseEstimator

torch = pytest.importorskip("torch")

from statml.adapters.loss_mixing.auxiliary import (  # noqa: E402
    DistillationLoss,
    Entropy,
    PerExample,
    RuleVotes,
    SoftTarget,
    Teacher,
    bind_losses,
)

CLASSES = np.arange(3)
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(5, 3))
INDEX = np.arange(5)


def squared(logits, index):
    return (logits**2).sum(1) * (1 + index)


def test_the_distillation_loss_of_a_computed_case():
    losses, gradients = DistillationLoss(4.0)(np.array([[1.0, 0, -1]]), np.array([[2.0, 0, 0]]))
    np.testing.assert_allclose(losses, [0.10310656356377557], rtol=1e-12)
    np.testing.assert_allclose(gradients, [[-0.13053524, 0.20970887, -0.07917363]], atol=5e-9)


def test_distillation_is_the_divergence_of_the_student_from_the_teacher_and_not_the_reverse():
    teacher = RNG.normal(size=(5, 3))
    q, p = softmax(teacher / 2, axis=1), softmax(LOGITS / 2, axis=1)
    expected = 4 * (q * (np.log(q) - np.log(p))).sum(axis=1)
    np.testing.assert_allclose(DistillationLoss(2.0)(LOGITS, teacher)[0], expected, rtol=1e-12)
    ours = torch.nn.functional.kl_div(
        torch.tensor(log_softmax(LOGITS / 2, axis=1)), torch.tensor(q), reduction="none"
    )
    np.testing.assert_allclose(expected, 4 * ours.sum(1).numpy(), rtol=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_gradients_in_closed_form_are_those_of_autograd(temperature):
    y = np.array([0, 1, 2, -1, -1])
    mask = np.array([True, False, True, True, False])
    aux = [
        SoftTarget(softmax(RNG.normal(size=(5, 3)), axis=1), mask),
        Teacher(RNG.normal(size=(5, 3)), temperature),
        RuleVotes(np.array([[0, 1], [-1, -1], [2, 2], [1, -1], [-1, 0]]), aggregate=False),
        Entropy(),
        squared,
    ]
    bound = bind_losses(y, aux, CLASSES, None, temperature)
    assert bound.names == [
        "ce", "soft target", "teacher", "rule 0", "rule 1", "entropy", "squared",
    ]  # fmt: skip
    tensors = bound.tensors("cpu", torch.float64)
    z = torch.tensor(LOGITS, requires_grad=True)
    index = torch.from_numpy(INDEX)
    losses = tensors.losses(z, index)
    np.testing.assert_allclose(bound.losses(LOGITS, INDEX), losses.detach(), atol=1e-12)
    closed = tensors.gradients(z.detach(), index)
    for k in range(losses.shape[1]):
        (slope,) = torch.autograd.grad(losses[:, k].sum(), z, retain_graph=True)
        np.testing.assert_allclose(closed[:, k], slope, atol=1e-12)
        np.testing.assert_allclose(bound.gradients(LOGITS, INDEX)[:, k], slope, atol=1e-12)


def test_what_is_masked_has_neither_loss_nor_gradient_and_is_not_read():
    probs = np.array([[0.2, 0.8, 0], [np.nan, 7, -3]])
    block = SoftTarget(probs, mask=[True, False]).bind(2, CLASSES)
    assert block.losses(LOGITS[:2], INDEX[:2])[1] == 0
    assert not block.gradients(LOGITS[:2], INDEX[:2])[1].any()


def test_a_row_without_a_vote_is_masked_and_not_called_uniform():
    block = RuleVotes([[-1, -1], [0, 0], [0, 2]]).bind(3, CLASSES)
    assert block.mask[:, 0].tolist() == [False, True, True]
    np.testing.assert_array_equal(block.targets[:, 0], [[0, 0, 0], [1, 0, 0], [0.5, 0, 0.5]])


def test_records_are_found_by_their_index():
    bound = bind_losses(
        np.array([0, 1, 2, 0, 1]), [Teacher(RNG.normal(size=(5, 3)))], CLASSES, None, 2.0
    )
    order = np.array([3, 0, 0, 4])
    np.testing.assert_array_equal(
        bound.losses(LOGITS[order], order), bound.losses(LOGITS, INDEX)[order]
    )


class Specialist(BaseEstimator):
    """Knows two of three classes."""

    classes_ = np.array([0, 2])

    def __init__(self, fitted=True):
        self.fitted_ = fitted

    def fit(self, X, y):
        return self

    def predict_proba(self, X):
        return np.full((len(X), 2), 0.5)


def test_a_fitted_teacher_may_know_some_of_the_classes():
    block = Teacher(Specialist(), temperature=1.0).bind(5, CLASSES, np.zeros((5, 2)))
    np.testing.assert_allclose(block.targets[:, 0], [[0.5, 0, 0.5]] * 5, atol=1e-12)
    with pytest.raises(ValueError, match="'teacher' knows the classes 0, 2, y holds 0, 1"):
        Teacher(Specialist()).bind(5, np.array([0, 1]), np.zeros((5, 2)))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (Teacher(np.zeros((4, 3))), "a row for each of the 5 records .* got shape"),
        (Teacher(np.zeros((5, 2))), "a column for each of the 3 classes, got shape"),
        (Teacher(np.full((5, 3), np.nan)), "hold NaN or infinity within the mask"),
        (Teacher(np.zeros((5, 3)), temperature=0), "temperature"),
        (SoftTarget(np.full((5, 3), 0.5)), "must be a distribution in every row within the mask"),
        (SoftTarget(np.full((5, 3), 1 / 3), mask=np.ones(5)), "must hold True or False for each"),
        (SoftTarget(np.full((5, 3), 1 / 3), mask=[True]), "must hold True or False for each"),
        (RuleVotes(np.full((5, 2), 7)), "votes hold .*7.*neither a class of y"),
        (RuleVotes(np.zeros((4, 2), int)), "a row for each of the 5 records"),
        (
            RuleVotes(np.zeros((5, 2), int), aggregate=False, names=["one"]),
            "names must name the 2 rules",
        ),
        (lambda z, i: z.mean(), r"must return one loss a record, .* got shape \(\) \(a mean\?"),
        (lambda z, i: z, "must return one loss a record"),
        (lambda z, i: z.mean().expand(len(z)), "another loss when other records are with it"),
        (PerExample(lambda z, i: 3.0), "must return one loss a record"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(source, message):
    with pytest.raises(ValueError, match=message):
        bind_losses(np.array([0, 1, 2, 0, 1]), [source], CLASSES, None, 4.0)


def test_something_else_is_refused():
    with pytest.raises(TypeError, match="aux takes SoftTarget, .* got str"):
        bind_losses(np.array([0, 1]), ["teacher"], CLASSES, None, 4.0)
