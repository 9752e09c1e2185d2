"""The calibrated bounds: a Pareto tail that says how often, and conformal p-values that promise it."""

import json
import pickle
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from statml.adapters.continual import (
    ConformalBound,
    PeaksOverThresholdBound,
    WeibullBound,
    calibrated_combination,
    combine_p_values,
    conformal_p_values,
    fit_gpd_tail,
)
from statml.adapters.continual.peaks_over_threshold import SMALLEST_SHAPE, gpd_survival

from statml._plain import from_plain, to_plain

BOUNDS = [
    PeaksOverThresholdBound("euclidean"),
    ConformalBound("euclidean", random_state=0),
]


def _blobs(rng, n, d=6, n_classes=3):
    y = rng.integers(n_classes, size=n)
    return 5 * np.eye(n_classes, d)[y] + rng.normal(size=(n, d)), y


# --- generalised Pareto ------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [-0.3, 0.0, 0.4])
def test_the_pareto_fit_is_the_maximum_of_the_likelihood(shape):
    y = stats.genpareto.rvs(shape, scale=2.0, size=800, random_state=5)
    d = np.concatenate([[0.0], y])
    threshold, scale, fitted = fit_gpd_tail(d, 800)
    assert threshold == 0
    theirs = stats.genpareto.fit(y, floc=0)
    ours = stats.genpareto.logpdf(y, fitted, 0, scale).sum()
    assert ours >= stats.genpareto.logpdf(y, *theirs).sum() - 1e-6
    np.testing.assert_allclose((fitted, scale), (theirs[0], theirs[2]), rtol=2e-3, atol=2e-3)
    at = np.linspace(-1, 30, 200)
    np.testing.assert_allclose(
        gpd_survival(at, scale, fitted), stats.genpareto.sf(at, fitted, 0, scale), atol=1e-12
    )


def test_an_irregular_likelihood_is_kept_at_the_edge():
    y = (
        np.random.default_rng(0).uniform(size=500) ** 0.4
    )  # the density grows towards its end: shape below -1
    threshold, scale, shape = fit_gpd_tail(np.concatenate([[0.0], y]), 500)
    assert (threshold, shape) == (0, SMALLEST_SHAPE)
    assert scale >= -SMALLEST_SHAPE * y.max()
    around = [stats.genpareto.logpdf(y, shape, 0, scale * f).sum() for f in (0.999, 1, 1.001)]
    assert np.argmax(around) == 1


def test_the_exceedance_of_the_pareto_bound_is_nominal():
    # 40 samples of 1,000, rates of ten records in the sample and more: beyond, the estimate is optimistic
    nominal, rates = np.array([0.2, 0.05, 0.01]), []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        bound = PeaksOverThresholdBound("euclidean").fit(rng.normal(size=(1000, 8)), np.zeros(1000))
        w = bound.outlier_proba(rng.normal(size=(20_000, 8)))
        rates.append([np.mean(w > 1 - p) for p in nominal])
    rates = np.array(rates)
    error = rates.std(axis=0, ddof=1) / np.sqrt(len(rates))
    # the tail is a Pareto one in the limit only, and distances to an estimated mean are too short: a tenth of the rate
    np.testing.assert_array_less(np.abs(rates.mean(axis=0) - nominal), 4 * error + 0.1 * nominal)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1e3, allow_subnormal=False), min_size=12, max_size=60))
def test_any_distances_have_a_monotone_pareto_bound(d):
    Z = np.array(d)[:, None]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # starved
        bound = PeaksOverThresholdBound("euclidean").fit(Z, np.zeros(len(Z), dtype=int))
    at = np.linspace(0, 3e3, 400)
    w = bound._w(at, np.zeros(400, dtype=int))
    assert (np.diff(w) >= -1e-12).all()
    assert ((w >= 0) & (w <= 1)).all()


# --- both --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bound", BOUNDS)
def test_inverse_returns_to_its_probability(bound):
    Z, y = _blobs(np.random.default_rng(1), 3000)
    bound.fit(Z, y)
    p = np.array([0.0, 0.2, 0.5, 0.9, 0.95, 0.99])
    for k, c in enumerate(bound.classes_):
        d = bound.inverse(p, c)
        assert (np.diff(d) >= 0).all()
        w = bound._w(d * (1 + 1e-9), np.full(len(p), k))
        step = 1 / (bound.tail_sizes_[k] + 1) if isinstance(bound, ConformalBound) else 1e-6
        assert (w >= p - 1e-6).all()
        assert (w <= p + step + 1e-6).all()


@pytest.mark.parametrize("bound", BOUNDS)
def test_renaming_and_rotating_change_nothing(bound):
    Z, y = _blobs(np.random.default_rng(2), 600)
    new, label = _blobs(np.random.default_rng(3), 50)
    rotation = stats.ortho_group.rvs(6, random_state=0)
    before = bound.fit(Z, y).outlier_proba(new, label)
    # classes in the same order, so that the random split is the same one
    after = bound.fit(Z @ rotation, y + 10).outlier_proba(new @ rotation, label + 10)
    np.testing.assert_allclose(after, before, atol=1e-9)


@pytest.mark.parametrize("bound", BOUNDS)
def test_starved_classes_take_the_distances_of_all(bound):
    Z, y = _blobs(np.random.default_rng(4), 2000)
    keep = (y != 2) | (np.cumsum(y == 2) <= 6)
    with pytest.warns(UserWarning, match="class 2: fewer than"):
        bound.fit(Z[keep], y[keep])
    np.testing.assert_array_equal(bound.starved_, [False, False, True])
    w = bound.outlier_proba([[0, 0, 5, 0, 0, 0], [0, 0, 50, 0, 0, 0]], [2, 2])
    assert w[0] < 0.6
    assert w[1] > 0.99


@pytest.mark.parametrize("bound", [*BOUNDS, WeibullBound("mixed")])
def test_a_fitted_bound_is_plain_data_and_survives_pickling(bound):
    Z, y = _blobs(np.random.default_rng(8), 500)
    names = np.array(["ox", "cat", "dog"])[y]
    bound.fit(Z.astype(np.float32), names)
    w = bound.outlier_proba(Z, names)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(bound)).outlier_proba(Z, names), w)
    arrays = []
    plain = json.dumps(to_plain(vars(bound), arrays, "the bound"))
    copy = clone(bound)
    vars(copy).update(from_plain(json.loads(plain), arrays))
    np.testing.assert_array_equal(copy.outlier_proba(Z, names), w)


@pytest.mark.parametrize("bound", [*BOUNDS, WeibullBound()])
def test_labels_of_another_type_are_refused(bound):
    Z, y = _blobs(np.random.default_rng(9), 500)
    with pytest.raises(ValueError, match="y_pred must hold labels of the type of y"):
        clone(bound).fit(Z, y, y.astype(str))
    with pytest.raises(NotFittedError):
        clone(bound).outlier_proba(Z)


# --- conformal ---------------------------------------------------------------------------------------


def test_p_values_of_a_known_calibration():
    p = conformal_p_values([3.0, 1.0, 2.0, 2.0], [0.0, 1.0, 2.0, 2.5, 3.0, 4.0])
    np.testing.assert_allclose(p, [1, 1, 0.8, 0.4, 0.4, 0.2])


@pytest.mark.parametrize("n", [19, 37, 99])
def test_rejection_of_known_scores_lies_just_below_alpha(n):
    """Over calibration and test, P(p <= alpha) is floor(alpha (n + 1)) / (n + 1) exactly."""
    rejected = []
    for seed in range(5):
        rng = np.random.default_rng([n, seed])
        scores = rng.standard_cauchy(size=(3000, n + 1))  # no moments: none are needed
        p = [conformal_p_values(row[1:], row[:1])[0] for row in scores]
        rejected.append(np.array(p) <= 0.1 + 1e-12)
    rejected = np.concatenate(rejected)
    exact = np.floor(0.1 * (n + 1) + 1e-9) / (n + 1)
    assert 0.1 - 1 / (n + 1) < exact <= 0.1
    assert abs(rejected.mean() - exact) < 4 * np.sqrt(exact * (1 - exact) / len(rejected))


@pytest.mark.parametrize("kind", ["predicted", "min"])
def test_the_bound_rejects_alpha_of_what_is_known(kind):
    """300 fits: the share of rejected known records, classified by a classifier that errs, counted by calibration."""
    shares = []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        y = rng.integers(2, size=400)
        Z = rng.standard_t(3, size=(400, 2)) + 1.5 * y[:, None]  # overlap, heavy tails
        said = (Z.sum(axis=1) > 1.5).astype(int)
        bound = ConformalBound("euclidean", bound=kind, random_state=seed)
        bound.fit(Z[:300], y[:300], said[:300])
        shares.append(bound.reject(Z[300:], said[300:], alpha=0.1).mean())
    error = np.std(shares, ddof=1) / np.sqrt(len(shares))
    smallest_group = 40
    assert np.mean(shares) < 0.1 + 4 * error
    if kind == "predicted":  # and no less than promised; "min" is conservative
        assert np.mean(shares) > 0.1 - 1 / smallest_group - 4 * error


def test_discoveries_keep_their_rate():
    """Batches with 20 % foreign records: share of known among the discoveries, on average at most q."""
    false, found = [], []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        Z, y = _blobs(rng, 1500)
        bound = ConformalBound("euclidean", random_state=seed).fit(Z, y)
        batch, label = _blobs(rng, 200)
        batch[:40] += rng.choice([-1, 1], size=(40, 6)) * 3
        called = bound.discover(batch, label, q=0.2)
        false.append(called[40:].sum() / max(called.sum(), 1))
        found.append(called[:40].mean())
    error = np.std(false, ddof=1) / np.sqrt(len(false))
    assert np.mean(false) < 0.2 * 0.8 + 4 * error  # Benjamini-Hochberg: q times the share of known
    assert np.mean(found) > 0.8


def test_held_out_records_calibrate_and_the_others_make_the_means():
    Z, y = _blobs(np.random.default_rng(5), 600)
    held_out = np.arange(600) % 3 == 0
    bound = ConformalBound("euclidean").fit(Z, y, held_out=held_out)
    for k, c in enumerate(bound.classes_):
        mean = Z[~held_out & (y == c)].mean(axis=0)
        np.testing.assert_allclose(bound.means_[k], mean)
        own = np.linalg.norm(Z[held_out & (y == c)] - mean, axis=1)
        np.testing.assert_allclose(bound.params_[k], np.sort(own))
    with pytest.raises(ValueError, match="held_out leaves class 1 without a record"):
        ConformalBound().fit(Z, y, held_out=held_out | (y == 1))
    with pytest.raises(ValueError, match="at least one record"):
        ConformalBound().fit(Z, y, held_out=np.zeros(600, dtype=bool))
    with pytest.raises(TypeError, match="held_out must hold booleans"):
        ConformalBound().fit(Z, y, held_out=np.zeros(600))


def test_a_seed_fixes_the_split():
    Z, y = _blobs(np.random.default_rng(6), 200)
    one, two, three = (ConformalBound(random_state=s).fit(Z, y) for s in (0, 0, 1))
    np.testing.assert_array_equal(one.means_, two.means_)
    assert not np.array_equal(one.means_, three.means_)


def test_p_values_and_outlier_probabilities_are_complements():
    Z, y = _blobs(np.random.default_rng(7), 300)
    bound = ConformalBound(random_state=0).fit(Z, y)
    np.testing.assert_allclose(bound.p_values(Z, y), 1 - bound.outlier_proba(Z, y))
    assert bound.reject(Z, y, alpha=0.05).dtype == bool
    with pytest.raises(ValueError, match="alpha"):
        bound.reject(Z, y, alpha=5)
    with pytest.raises(ValueError, match="calibration must be"):
        ConformalBound(calibration=1.0).fit(Z, y)


# --- combinations ------------------------------------------------------------------------------------


def test_reference_values_of_the_combinations():
    p = np.array([[0.01, 0.2], [0.5, 0.5]])
    np.testing.assert_allclose(combine_p_values(p, "bonferroni"), [0.02, 1])
    fisher = [stats.combine_pvalues(row, "fisher").pvalue for row in p]
    np.testing.assert_allclose(combine_p_values(p, "fisher"), fisher)
    cauchy = 0.5 - np.arctan(np.tan(np.pi * (0.5 - p)).mean(axis=1)) / np.pi
    np.testing.assert_allclose(combine_p_values(p, "cauchy"), cauchy)
    assert (
        combine_p_values([[1.0, 1e-4]], "cauchy") < 0.01
    )  # one silent score does not silence the other


@pytest.mark.parametrize("method", ["bonferroni", "cauchy", "fisher"])
def test_a_calibrated_combination_is_valid_for_dependent_scores(method):
    rejected = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        common = rng.normal(size=(250, 1))
        scores = common + 0.3 * rng.normal(size=(250, 3))
        p = calibrated_combination(scores[:200], scores[200:], method)
        rejected.append(np.mean(p <= 0.1))
    assert np.mean(rejected) < 0.1 + 4 * np.std(rejected, ddof=1) / np.sqrt(200)
    assert np.mean(rejected) > 0.05  # ties of p-values make it cautious, not useless


def test_the_combination_sees_what_either_score_sees():
    rng = np.random.default_rng(0)
    known, new = rng.normal(size=(1000, 2)), rng.normal(size=(300, 2))
    for column in (0, 1):
        foreign = new + 8 * np.eye(2)[column] - 1 * np.eye(2)[1 - column]
        assert np.mean(calibrated_combination(known, foreign) <= 0.05) > 0.99


def test_few_calibration_records_suffice_to_refuse_what_is_far_out():
    """40 records calibrate the combination; that the largest of them are beyond the other 40 must not hide foreign ones."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        known = rng.normal(size=(80, 2))
        assert (calibrated_combination(known, [[8.0, 0.0], [0.0, 8.0]]) < 0.05).all()


def test_equal_scores_have_no_tail():
    p = calibrated_combination(np.ones((100, 2)), [[1.0, 1.0], [2.0, 1.0]])
    assert p[0] == 1
    assert p[1] == pytest.approx(1 / 51)


def test_bad_input_of_combinations():
    with pytest.raises(ValueError, match=r"must lie in \(0, 1\], got 0"):
        combine_p_values([[0.0, 0.5]])
    with pytest.raises(ValueError, match=r"shape \(n, k\)"):
        combine_p_values([0.1, 0.5])
    with pytest.raises(ValueError, match="as many columns"):
        calibrated_combination(np.zeros((5, 2)), np.zeros((5, 3)))
    with pytest.raises(ValueError, match="at least two records"):
        calibrated_combination(np.zeros((1, 2)), np.zeros((5, 2)))
    with pytest.raises(ValueError, match="scores must not hold NaN"):
        conformal_p_values([1.0], [np.nan])
    with pytest.raises(ValueError, match="at least one score"):
        conformal_p_values([], [1.0])
