"""Beliefs: laws of conflation, bad and contradictory evidence, information, and what discounting is for."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from statml.adapters.viewpoint import (
    PoseDiscountFusion,
    ProductFusion,
    TemperedFusion,
    entropy,
    expected_information,
    fuse_beliefs,
    information,
)
from statml.adapters.viewpoint.fusion import make_fusion
from statml.adapters.viewpoint.fusion._fusion import clipped, updated
from statsmodels.stats.proportion import proportion_confint


def vectors(k=4):
    positive = arrays(float, k, elements=st.floats(0.01, 1.0))
    return positive.map(lambda p: p / p.sum())


@given(vectors(), vectors(), vectors())
def test_conflation_commutes_associates_and_is_a_softmax(b, p, q):
    np.testing.assert_allclose(fuse_beliefs(b, p), fuse_beliefs(p, b), atol=1e-12)
    one, other = fuse_beliefs(fuse_beliefs(b, p), q), fuse_beliefs(b, fuse_beliefs(p, q))
    np.testing.assert_allclose(one, other, atol=1e-6)  # the clip at 1e-6 is all that differs
    logits = np.log(b) + np.log(p) + np.log(q)
    softmax = np.exp(logits - logits.max())
    np.testing.assert_allclose(one, softmax / softmax.sum(), atol=1e-12)


@given(vectors(), vectors())
def test_uniform_evidence_is_neutral_and_weight_zero_too(b, p):
    np.testing.assert_allclose(fuse_beliefs(b, np.full(4, 0.25)), b, atol=1e-12)
    np.testing.assert_allclose(fuse_beliefs(b, p, weight=0.0), b, atol=1e-12)
    half = fuse_beliefs(fuse_beliefs(b, p, "tempered"), p, "tempered")
    np.testing.assert_allclose(half, fuse_beliefs(b, p), atol=1e-12)


@given(vectors(), vectors(), vectors())
def test_a_classifier_with_a_prior_is_divided_by_it(b, likelihood, prior):
    said = likelihood * prior / (likelihood * prior).sum()
    bayes = b * likelihood / (b * likelihood).sum()
    np.testing.assert_allclose(fuse_beliefs(b, said, prior=prior), bayes, atol=1e-9)


@given(st.lists(st.integers(0, 2), min_size=1, max_size=400))
def test_certain_and_contradictory_looks_leave_a_belief(labels):
    b = np.full(3, 1 / 3)
    for label in labels:
        b = fuse_beliefs(b, np.eye(3)[label])
        assert np.isfinite(b).all()
        assert (b > 0).all()
        assert b.sum() == pytest.approx(1)


def test_contradictory_certain_looks_cancel():
    b = fuse_beliefs(fuse_beliefs([1 / 3] * 3, [1, 0, 0]), [0, 1, 0])
    assert b[0] == pytest.approx(b[1])
    assert b[2] < 1e-5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0.5, 0.6], [0.5, 0.5]), "beliefs must be probabilities that sum to one"),
        (([0.5, 0.5], [0.5, 0.4]), "p must be probabilities that sum to one"),
        (([0.5, 0.5], [np.nan, 1.0]), "p must be probabilities"),
        (([0.5, 0.5], [-0.5, 1.5]), "p must be probabilities"),
        (([0.5, 0.5], [0.2, 0.3, 0.5]), "p must have as many classes as beliefs, 2, got 3"),
        (([1.0], [1.0]), "at least 2 classes"),
        (([0.5, 0.5], [0.5, 0.5], "sum"), 'method must be "product" or "tempered"'),
        (([0.5, 0.5], [0.5, 0.5], "product", [1.0, 0.0]), "prior must be 2 positive"),
        (([0.5, 0.5], [0.5, 0.5], "product", None, 1.5), "weight must be"),
        (([[0.5, 0.5]], [[0.5, 0.5]], "product", None, np.array([np.nan])), "weight must be"),
    ],
)
def test_bad_evidence_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        fuse_beliefs(*arguments)


def test_unknown_fusions_are_refused():
    with pytest.raises(ValueError, match='fusion must be one of "product", "tempered"'):
        make_fusion("sum")
    with pytest.raises(TypeError, match="fusion must be one of"):
        make_fusion(3)
    with pytest.raises(ValueError, match="weight must be"):
        TemperedFusion(0.0)
    with pytest.raises(ValueError, match="correlation must be"):
        PoseDiscountFusion(1.5)


# --- information


def test_the_mutual_information_identity():
    rows = np.full((3, 3), 0.2) + 0.4 * np.eye(3)
    b = np.array([0.5, 0.3, 0.2])
    assert expected_information(b, rows) == pytest.approx(0.19807497918898198, abs=1e-15)
    # the same as the mean drop of entropy over labels, one Bayes update each
    drop = sum(
        (b @ rows[:, label]) * (entropy(b) - entropy(b * rows[:, label] / (b @ rows[:, label])))
        for label in range(3)
    )
    assert drop == pytest.approx(0.19807497918898198, abs=1e-12)


def test_entropy_is_in_bits_and_knows_zero():
    np.testing.assert_allclose(entropy(np.array([[1.0, 0, 0, 0], [0.25] * 4])), [0, 2], atol=1e-12)
    np.testing.assert_allclose(
        information(np.array([[1.0, 0, 0, 0], [0.25] * 4])), [2, 0], atol=1e-12
    )


# --- weights


def poses(*pairs):
    """Looks at one target in one episode from (distance, aspect in degrees)."""
    return [np.array([[[d, 0.0, np.pi - np.radians(a)]]]) for d, a in pairs]


def weights_of(fusion, looks):
    state, weights = fusion.start(1, 1), []
    for look in looks:
        weight, state = fusion.weigh(state, look, np.ones((1, 1), bool))
        weights.append(weight.item())
    return np.array(weights)


@pytest.mark.parametrize("rho", [0.0, 0.3, 1.0])
def test_looks_from_one_pose_are_worth_the_design_effect(rho):
    n = 30
    weights = weights_of(PoseDiscountFusion(rho), poses((3, 10)) * n)
    np.testing.assert_allclose(np.cumsum(weights), np.arange(1, n + 1) / (1 + np.arange(n) * rho))


def test_looks_from_other_poses_are_new():
    weights = weights_of(PoseDiscountFusion(0.9), poses((3.2, 0), (5.2, 0), (3.2, 40), (3.2, 0)))
    np.testing.assert_allclose(weights[:3], 1)
    assert weights[3] < 0.1


def test_what_was_not_seen_is_not_counted():
    fusion = PoseDiscountFusion(0.5)
    state = fusion.start(1, 1)
    (look,) = poses((3, 0))
    _, state = fusion.weigh(state, look, np.zeros((1, 1), bool))
    weight, _ = fusion.weigh(state, look, np.ones((1, 1), bool))
    assert weight.item() == 1


def test_repeated_looks_deceive_the_product_and_not_the_discount():
    """Each target shows one of two faces, right with chance 0.7, and the same face in every look from one pose."""
    rng = np.random.default_rng(7)
    n = 2000
    right = rng.random(n) < 0.7
    face = np.where(right[:, None], [0.7, 0.3], [0.3, 0.7])[:, None]  # class 0 is the truth
    (look,) = poses((3, 0))
    shares = {}
    for fusion in (ProductFusion(), PoseDiscountFusion(0.9)):
        beliefs, state = np.full((n, 1, 2), 0.5), fusion.start(n, 1)
        for _ in range(40):
            weight, state = fusion.weigh(state, np.tile(look, (n, 1, 1)), np.ones((n, 1), bool))
            p = clipped(face, fusion.clip)
            beliefs = updated(beliefs, p if weight is None else p ** weight[..., None])
        declared = beliefs.max(-1)[:, 0] >= 0.95
        shares[type(fusion)] = (declared.sum(), right[declared].sum())
    n_declared, n_right = shares[ProductFusion]
    assert n_declared == n
    assert proportion_confint(n_right, n_declared, method="wilson")[1] < 0.95  # it claims 0.95
    assert shares[PoseDiscountFusion][0] == 0  # one look's worth of evidence is no 95 %
