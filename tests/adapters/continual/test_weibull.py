"""The Weibull tail: libMR's numbers, the likelihood's maximum, and what happens where there is little to fit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score
from statml.adapters.continual import (
    WeibullBound,
    fit_weibull_tail,
    weibull_cdf,
    weibull_inverse,
)
from statml.adapters.continual.weibull import MAX_SHAPE


def test_the_fit_is_that_of_libmr():
    d = np.sqrt(np.random.default_rng(0).chisquare(60, 5000))
    np.testing.assert_allclose(
        fit_weibull_tail(d, 250), (1.4244855986, 4.9450494, 7.8968940291), rtol=1e-7
    )


@pytest.mark.parametrize("translate", [1.0, 0.05])
def test_the_fit_is_the_maximum_of_the_likelihood(translate):
    d = np.random.default_rng(1).gamma(3.0, size=400)
    scale, shape, shift = fit_weibull_tail(d, 60, translate)
    tail = np.sort(d)[-60:]
    assert shift == tail[0] - translate
    scipy_shape, loc, scipy_scale = stats.weibull_min.fit(tail - shift, floc=0)
    assert loc == 0
    ours = stats.weibull_min.logpdf(tail - shift, shape, 0, scale).sum()
    theirs = stats.weibull_min.logpdf(tail - shift, scipy_shape, 0, scipy_scale).sum()
    assert ours >= theirs - 1e-9  # scipy's optimiser stops a little short
    np.testing.assert_allclose((scale, shape), (scipy_scale, scipy_shape), rtol=1e-4)


def test_reference_values_of_the_distribution_function_and_its_inverse():
    parameters = (1.4, 4.9, 7.9)
    assert weibull_cdf(9.3, *parameters) == pytest.approx(1 - np.exp(-1), abs=1e-15)
    assert weibull_cdf(7.9, *parameters) == 0
    assert weibull_cdf([0.0, 1e9], *parameters).tolist() == [0, 1]
    assert weibull_inverse(0.5, *parameters) == pytest.approx(9.199103, abs=5e-7)
    p = np.linspace(0.01, 0.99, 50)
    np.testing.assert_allclose(weibull_cdf(weibull_inverse(p, *parameters), *parameters), p)


def test_draws_by_inversion_are_fitted_back():
    # of a whole Weibull sample (no tail cut off) with a shift so far below that the smallest draw is at translate
    scale, shape, n = 2.0, 3.0, 20_000
    for seed in range(3):
        p = np.random.default_rng(seed).uniform(size=n)
        u = weibull_inverse(p, scale, shape, 0.0)
        found = fit_weibull_tail(u, n, translate=float(u.min()))
        # asymptotic standard errors of the maximum likelihood estimates: 1.053 scale / (shape sqrt n), 0.78 shape / sqrt n
        assert abs(found[0] - scale) < 5 * 1.053 * scale / shape / np.sqrt(n)
        assert abs(found[1] - shape) < 5 * 0.78 * shape / np.sqrt(n)


def test_all_classes_at_once_are_the_classes_one_by_one():
    rng = np.random.default_rng(2)
    classes = [rng.gamma(2.0, size=n) for n in (50, 300, 40, 1000)]
    sizes = [10, 30, 40, 3]
    together = np.array(fit_weibull_tail(classes, sizes)).T
    alone = [fit_weibull_tail(d, m) for d, m in zip(classes, sizes, strict=True)]
    np.testing.assert_allclose(together, alone, rtol=1e-12)


tails = st.lists(st.floats(0, 1e3, allow_subnormal=False), min_size=3, max_size=30)


@settings(max_examples=150, deadline=None)
@given(tails, st.sampled_from([1e-6, 1.0, 1e6]))
def test_any_tail_has_a_finite_fit_and_a_monotone_w(d, unit):
    d = np.array(d) * unit
    scale, shape, shift = fit_weibull_tail(d, len(d))
    assert np.isfinite([scale, shape, shift]).all()
    assert scale > 0
    assert 0 < shape <= MAX_SHAPE
    at = np.sort(np.concatenate([d, np.linspace(0, 2 * d.max() + 1, 50)]))
    w = weibull_cdf(at, scale, shape, shift)
    assert (np.diff(w) >= 0).all()
    assert ((w >= 0) & (w <= 1)).all()


@settings(max_examples=100, deadline=None)
@given(tails)
def test_the_score_equation_is_solved(d):
    d = np.array(d)
    scale, shape, shift = fit_weibull_tail(d, len(d))
    u = d - shift
    x = np.log(u)
    if shape > 1e5:  # the tail is one value up to rounding
        assert np.ptp(x) < 1e-3
        return
    weight = np.exp(shape * (x - x.max()))
    residual = (weight * x).sum() / weight.sum() - 1 / shape - x.mean()
    assert abs(residual) < 1e-9 * max(1.0, np.ptp(x))
    assert np.mean((u / scale) ** shape) == pytest.approx(1, rel=1e-6)


def test_a_tail_of_equal_distances_is_a_step():
    scale, shape, shift = fit_weibull_tail(np.full(10, 0.4), 5)
    w = weibull_cdf([0.39, 0.4, 0.41], scale, shape, shift)
    np.testing.assert_allclose(w, [0, 1 - np.exp(-1), 1], atol=1e-6)


def test_a_starved_class_leans_on_the_others_and_says_so():
    rng = np.random.default_rng(3)
    rich = [rng.gamma(2.0, size=500), rng.gamma(2.0, size=500)]
    pooled = fit_weibull_tail(np.concatenate(rich), 100)
    own = rng.gamma(2.0, size=25) + 5
    with pytest.warns(UserWarning, match="classes 2, 3: fewer than tail_size"):
        scale, shape, shift = fit_weibull_tail([*rich, own, own[:2]], 50)
    np.testing.assert_allclose((scale[3], shape[3], shift[3]), pooled)  # two distances say nothing
    alone = fit_weibull_tail(own, 25)
    assert shift[2] == pytest.approx(
        (alone[2] + pooled[2]) / 2
    )  # half of a tail, half of the weight
    assert scale[2] == pytest.approx(np.sqrt(alone[0] * pooled[0]))
    np.testing.assert_allclose(shape[:2], [fit_weibull_tail(d, 50)[1] for d in rich])


def test_where_all_classes_are_starved_the_pooled_fit_has_one_tail():
    rng = np.random.default_rng(4)
    classes = [rng.gamma(2.0, size=10) for _ in range(8)]
    pooled = np.array(fit_weibull_tail(np.concatenate(classes), 20))
    with pytest.warns(UserWarning, match="classes 0, 1, 2"):
        found = fit_weibull_tail(classes, 20)
    own = np.array([fit_weibull_tail(d, 10) for d in classes])
    np.testing.assert_allclose(found[2], (own[:, 2] + pooled[2]) / 2)
    np.testing.assert_allclose(found[0], np.sqrt(own[:, 0] * pooled[0]))
    y = np.repeat(np.arange(8), 10)
    with pytest.warns(UserWarning, match="fewer than 60"):
        bound = WeibullBound("euclidean").fit(rng.normal(size=(80, 3)), y)
    assert bound.starved_.all()
    with pytest.warns(UserWarning, match="fewer than 20"):
        WeibullBound("euclidean", tail=20).fit(rng.normal(size=(80, 3)), y)


def test_bad_input_of_the_fit_is_refused_by_name():
    with pytest.raises(ValueError, match="tail_size must be an integer >= 3, got 2"):
        fit_weibull_tail([1.0, 2.0, 3.0], 2)
    with pytest.raises(ValueError, match="at least 3 distances"):
        fit_weibull_tail([1.0, 2.0], 3)
    with pytest.raises(ValueError, match="finite and not negative, got nan"):
        fit_weibull_tail([1.0, np.nan, 3.0], 3)
    with pytest.raises(ValueError, match="finite and not negative, got -1"):
        fit_weibull_tail([1.0, -1.0, 3.0], 3)
    with pytest.raises(ValueError, match="one for each of 2 classes"):
        fit_weibull_tail([[1.0, 2.0, 3.0]] * 2, [3, 3, 3])
    with pytest.raises(ValueError, match="translate"):
        fit_weibull_tail([1.0, 2.0, 3.0], 3, translate=0)


# --- the bound ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def blobs():
    rng = np.random.default_rng(0)
    y = np.repeat(["a", "b", "c"], 400)
    centres = 6 * np.eye(3, 10)
    return centres[np.searchsorted(["a", "b", "c"], y)] + rng.normal(size=(1200, 10)), y


def test_only_correct_records_make_means_and_tails(blobs):
    Z, y = blobs
    said = y.copy()
    said[::4] = np.roll(y, 400)[::4]  # a quarter is called wrongly
    bound = WeibullBound("euclidean", tail=0.1).fit(Z, y, said)
    right = y == said
    same = WeibullBound("euclidean", tail=40).fit(Z[right], y[right])
    np.testing.assert_array_equal(bound.means_, same.means_)
    np.testing.assert_allclose(bound.params_, same.params_)
    np.testing.assert_array_equal(
        bound.tail_sizes_, [40, 40, 40]
    )  # of the records seen, not of the correct ones


def test_predicted_and_min(blobs):
    Z, y = blobs
    predicted = WeibullBound("euclidean").fit(Z, y)
    smallest = WeibullBound("euclidean", bound="min").fit(Z, y)
    per_class = predicted.outlier_proba_per_class(Z)
    code = np.searchsorted(predicted.classes_, y)
    np.testing.assert_allclose(predicted.outlier_proba(Z, y), per_class[np.arange(len(Z)), code])
    np.testing.assert_allclose(smallest.outlier_proba(Z), per_class.min(axis=1))
    nearest = predicted.classes_[predicted.distances(Z).argmin(axis=1)]
    np.testing.assert_allclose(predicted.outlier_proba(Z), predicted.outlier_proba(Z, nearest))


def test_w_is_the_paper_formula(blobs):
    Z, y = blobs
    bound = WeibullBound("euclidean").fit(Z, y)
    here = Z[y == "b"]
    d = np.linalg.norm(here - here.mean(axis=0), axis=1)
    scale, shape, shift = fit_weibull_tail(d, 20)
    expected = np.where(d > shift, 1 - np.exp(-((np.maximum(d - shift, 0) / scale) ** shape)), 0)
    np.testing.assert_allclose(bound.outlier_proba(here, ["b"] * 400), expected, atol=1e-12)
    assert bound.inverse(0.3, "b") == pytest.approx(shift + scale * (-np.log(0.7)) ** (1 / shape))
    assert bound.inverse([[0.1], [0.2]], ["a", "b"]).shape == (2, 2)


def test_within_a_class_w_ranks_as_the_distance(blobs):
    Z, y = blobs
    bound = WeibullBound("cosine").fit(Z, y)
    new = np.random.default_rng(1).normal(size=(300, 10)) + 3
    w = bound.outlier_proba(new, ["a"] * 300)
    d = bound.distances(new)[:, 0]
    order = np.argsort(d)
    assert (np.diff(w[order]) >= 0).all()


def test_the_auroc_of_one_class_is_that_of_the_distance_where_w_is_not_flat(blobs):
    """With cosine distances tau lies below all of them. With Euclid's, most known records tie at w = 0."""
    Z, y = blobs
    one = y == "a"
    foreign = Z[one].mean(axis=0) + 1.2 * np.random.default_rng(2).normal(size=(400, 10))
    truth = np.repeat([0, 1], 400)
    records = np.concatenate([Z[one], foreign])
    for distance, same in (("cosine", True), ("euclidean", False)):
        bound = WeibullBound(distance).fit(Z[one], y[one])
        by_w = roc_auc_score(truth, bound.outlier_proba(records))
        by_distance = roc_auc_score(truth, bound.distances(records)[:, 0])
        assert (abs(by_w - by_distance) < 1e-12) == same
        if not same:
            assert np.mean(bound.outlier_proba(Z[one]) == 0) > 0.5


def test_cosine_ignores_scale_and_euclid_rotation(blobs):
    Z, y = blobs
    rng = np.random.default_rng(4)
    stretch = rng.uniform(0.1, 10, size=(len(Z), 1))
    rotation = stats.ortho_group.rvs(10, random_state=4)
    new = rng.normal(size=(50, 10)) + 2
    cosine = WeibullBound("cosine").fit(Z, y)
    np.testing.assert_allclose(cosine.outlier_proba(new * stretch[:50]), cosine.outlier_proba(new))
    np.testing.assert_allclose(
        WeibullBound("cosine").fit(7 * Z, y).params_, cosine.params_, rtol=1e-9
    )
    euclid = WeibullBound("euclidean").fit(Z, y)
    turned = WeibullBound("euclidean").fit(Z @ rotation, y)
    np.testing.assert_allclose(turned.outlier_proba(new @ rotation), euclid.outlier_proba(new))


def test_relabelling_changes_nothing_but_the_order(blobs):
    Z, y = blobs
    renamed = np.array([{"a": "z", "b": "m", "c": "k"}[c] for c in y])
    first, second = WeibullBound().fit(Z, y), WeibullBound().fit(Z, renamed)
    np.testing.assert_allclose(second.params_, first.params_[::-1])
    np.testing.assert_allclose(second.outlier_proba(Z, renamed), first.outlier_proba(Z, y))


def test_the_distance_of_a_vector_without_direction_is_one(blobs):
    Z, y = blobs
    bound = WeibullBound("cosine").fit(Z, y)
    assert (bound.distances(np.zeros((2, 10))) == 1).all()
    assert (bound.distances(bound.means_ * 1e-200).diagonal() < 1e-15).all()
    mixed = WeibullBound("mixed").fit(Z, y)
    euclid = WeibullBound("euclidean").fit(Z, y)
    half = (bound.distances(Z) + euclid.distances(Z)) / 2
    np.testing.assert_allclose(mixed.distances(Z), half)


def test_starved_classes_of_a_bound(blobs):
    Z, y = blobs
    rare = np.concatenate([np.flatnonzero(y == "a"), np.flatnonzero(y == "b"), [800, 801]])
    with pytest.warns(UserWarning, match="class c: fewer than 60 correctly classified"):
        bound = WeibullBound("euclidean").fit(Z[rare], y[rare])
    np.testing.assert_array_equal(bound.starved_, [False, False, True])
    said = y.copy()
    said[y == "c"] = "a"
    with pytest.warns(UserWarning, match="no record of class c is classified correctly"):
        bound = WeibullBound("euclidean").fit(Z, y, said)
    np.testing.assert_allclose(bound.means_[2], Z[y == "c"].mean(axis=0))
    assert np.isfinite(bound.params_).all()


def test_one_class_is_enough(blobs):
    Z, y = blobs
    bound = WeibullBound().fit(Z[y == "a"], y[y == "a"])
    assert bound.outlier_proba(Z).shape == (1200,)
    assert bound.outlier_proba(Z[:0]).shape == (0,)


def test_bad_input_of_a_bound_is_refused_by_name(blobs):
    Z, y = blobs
    bound = WeibullBound().fit(Z, y)
    with pytest.raises(ValueError, match="Z must have 10 columns, as in fit, got 9"):
        bound.outlier_proba(Z[:, 1:])
    with pytest.raises(ValueError, match="y_pred must hold labels from classes_, classes a, b, c"):
        bound.outlier_proba(Z[:1], ["d"])
    with pytest.raises(ValueError, match="y_pred must hold labels"):
        bound.outlier_proba(Z[:1], [0])
    with pytest.raises(ValueError, match="Z contains NaN"):
        bound.outlier_proba([[np.nan] * 10])
    with pytest.raises(ValueError, match=r"p must lie in \[0, 1\), got 1"):
        bound.inverse(1.0, "a")
    with pytest.raises(ValueError, match="distance must be"):
        WeibullBound("l1").fit(Z, y)
    with pytest.raises(ValueError, match="bound must be"):
        WeibullBound(bound="max").fit(Z, y)
    with pytest.raises(ValueError, match="tail must be"):
        WeibullBound(tail=2.5).fit(Z, y)
    with pytest.raises(ValueError, match="inconsistent numbers"):
        bound.fit(Z, y[:-1])
