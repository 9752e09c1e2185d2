"""The estimators: reference values, invariances, scikit-learn's contract, what is refused."""

import pickle
import re
import warnings

import numpy as np
import pandas as pd
import pytest
import threadpoolctl
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import scale
from sklearn.utils.estimator_checks import parametrize_with_checks

from statml.group_robust import GroupDROClassifier, GroupDRORegressor
from statml.group_robust.losses import Huber


@parametrize_with_checks(
    [
        GroupDROClassifier(),
        GroupDROClassifier(solver="eg", max_iter=20, random_state=0),
        GroupDROClassifier(alpha=0.7, offset="excess"),
        GroupDRORegressor(),
        GroupDRORegressor(loss="huber"),
        GroupDRORegressor(loss=Huber(2.0), alpha=0.5),
    ],
    expected_failed_checks=lambda estimator: (
        {"check_sample_weight_equivalence_on_dense_data": "batches are drawn at random"}
        if estimator.solver == "eg"
        else {}
    ),
)
def test_scikit_learn_finds_nothing_to_object_to(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def cancer():
    X, y = load_breast_cancer(return_X_y=True)
    return scale(X), y, 2 * y + (X[:, 1] > np.median(X[:, 1]))


@pytest.fixture
def data():
    """Three groups that want different slopes, two classes."""
    rng = np.random.default_rng(0)
    X, groups = rng.normal(size=(300, 4)), rng.integers(0, 3, 300)
    slopes = np.array([[1.0, 1, 0, 0], [-1, 1, 0, 0], [0, 0, 2, 0]])
    z = (X * slopes[groups]).sum(axis=1)
    return X, (z + rng.logistic(size=300) > 0).astype(int), groups


# --- reference values -------------------------------------------------------------------------------


@given(st.integers(0, 2**32 - 1))
def test_two_means_have_a_closed_form(seed):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(2, 30, 2)
    means, sds = rng.normal(0, 2, 2), rng.gamma(2, 0.5, 2)
    y = np.concatenate(
        [m + s * rng.normal(size=n) for m, s, n in zip(means, sds, sizes, strict=True)]
    )
    groups = np.repeat([0, 1], sizes)
    m, s = np.array([[y[groups == g].mean(), y[groups == g].var()] for g in (0, 1)]).T
    w = m.mean() + (s[0] - s[1]) / (2 * (m[0] - m[1]))
    q0 = np.clip((w - m[1]) / (m[0] - m[1]), 0, 1)
    w = q0 * m[0] + (1 - q0) * m[1]  # the weighted mean; w itself where q0 is inside
    fit = GroupDRORegressor(l2=0, fit_intercept=False).fit(np.ones((len(y), 1)), y, groups)
    size = 1 + np.abs(y).max()
    assert fit.coef_[0] == pytest.approx(w, abs=1e-9 * size)
    assert fit.group_weights_[0] == pytest.approx(q0, abs=1e-8 * size / abs(m[0] - m[1]))


def test_two_means_of_a_fixed_sample_are_exact_to_rounding():
    y = np.array([0.0, 1.0, 2.0, 5.0, 6.0, 9.0, 8.0])
    groups = np.array([0, 0, 0, 1, 1, 1, 1])
    m, s = np.array([1.0, 7.0]), np.array([2 / 3, 2.5])
    w = m.mean() + (s[0] - s[1]) / (2 * (m[0] - m[1]))
    fit = GroupDRORegressor(l2=0, fit_intercept=False).fit(np.ones((7, 1)), y, groups)
    assert fit.coef_[0] == pytest.approx(w, abs=1e-11)
    assert fit.group_weights_[0] == pytest.approx((w - m[1]) / (m[0] - m[1]), abs=1e-11)


def test_diabetes_reference_values():
    X, y = load_diabetes(return_X_y=True, as_frame=True)
    X, men = X * 442**0.5, X["sex"] > 0
    fit = GroupDRORegressor(l2=0).fit(X.drop(columns="sex"), y / 100, groups=men)
    assert fit.group_sizes_.tolist() == [235, 207]
    assert fit.worst_group_loss_ == pytest.approx(0.3011689156, abs=1e-10)
    np.testing.assert_allclose(fit.group_weights_, [0.76554043, 0.23445957], atol=1e-8)
    assert fit.intercept_ == pytest.approx(1.5653866891, abs=1e-10)
    with pytest.warns(UserWarning, match="weight of group True is within its error of a bound"):
        worst = fit.tidy().set_index("term").loc["worst-group loss"]
    assert worst["std_error"] == pytest.approx(0.0207286, abs=1e-7)


def test_breast_cancer_reference_values(cancer):
    X, y, groups = cancer
    fit = GroupDROClassifier(l2=0.01).fit(X, y, groups)
    assert fit.group_sizes_.tolist() == [46, 166, 239, 118]
    assert fit.objective_ == pytest.approx(0.1190483249, abs=1e-10)
    assert fit.dual_objective_ == pytest.approx(0.1190483249, abs=1e-10)
    np.testing.assert_allclose(fit.group_losses_, 0.09234738, atol=1e-8)
    expected = [0.36243002, 0.19571477, 0.23539282, 0.20646239]
    np.testing.assert_allclose(fit.group_weights_, expected, atol=1e-7)
    assert fit.active_groups_.tolist() == [0, 1, 2, 3]


# --- agreement with ordinary regressions, invariances -----------------------------------------------


def test_one_group_is_ridge_logistic_regression(cancer):
    X, y, _ = cancer
    with pytest.warns(UserWarning, match="groups holds one label only, 0.0:"):
        ours = GroupDROClassifier(l2=0.01).fit(X, y, groups=np.zeros(len(y)))
    theirs = LogisticRegression(C=1 / (0.01 * len(y)), tol=1e-12, max_iter=10_000).fit(X, y)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=1e-6)
    np.testing.assert_allclose(ours.intercept_, theirs.intercept_, atol=1e-6)


def test_alpha_of_one_is_the_ordinary_fit_whatever_the_groups(data):
    X, y, groups = data
    for target, model in ((y, GroupDROClassifier(alpha=1.0)), ((y + groups) % 3, None)):
        ours = (model or GroupDROClassifier(alpha=1.0)).fit(X, target, groups)
        theirs = LogisticRegression(C=1 / (1e-3 * len(y)), tol=1e-12, max_iter=10_000)
        np.testing.assert_allclose(ours.coef_, theirs.fit(X, target).coef_, atol=1e-5)
        np.testing.assert_allclose(ours.group_weights_, np.bincount(groups) / len(y), atol=1e-12)


def test_a_regressor_without_groups_is_ridge_regression(data):
    X, y, _ = data
    ours = GroupDRORegressor(l2=0.1).fit(X, y)
    theirs = Ridge(alpha=len(y) * 0.1 / 2).fit(X, y)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=1e-12)
    assert ours.intercept_ == pytest.approx(theirs.intercept_, abs=1e-12)
    assert ours.groups_.tolist() == ["all"]


def test_a_classifier_without_groups_takes_the_classes(data):
    X, y, _ = data
    ours, same = GroupDROClassifier().fit(X, y), GroupDROClassifier().fit(X, y, groups=y)
    np.testing.assert_array_equal(ours.coef_, same.coef_)
    assert ours.groups_.tolist() == [0, 1]


def test_labels_and_the_order_of_rows_do_not_matter(data):
    X, y, groups = data
    fit = GroupDROClassifier().fit(X, y, groups)
    named = GroupDROClassifier().fit(X, y, np.array(["c", "a", "b"])[groups])
    np.testing.assert_allclose(named.coef_, fit.coef_, atol=1e-12)
    np.testing.assert_allclose(named.group_weights_, fit.group_weights_[[1, 2, 0]], atol=1e-10)
    order = np.random.default_rng(1).permutation(len(y))
    moved = GroupDROClassifier().fit(X[order], y[order], groups[order])
    np.testing.assert_allclose(moved.coef_, fit.coef_, atol=1e-10)


def test_duplicating_a_group_changes_nothing(data):
    X, y, groups = data
    fit = GroupDROClassifier().fit(X, y, groups)
    rows = np.r_[np.arange(len(y)), np.flatnonzero(groups == 1), np.flatnonzero(groups == 1)]
    twice = GroupDROClassifier().fit(X[rows], y[rows], groups[rows])
    np.testing.assert_allclose(twice.coef_, fit.coef_, atol=1e-10)
    assert twice.objective_ == pytest.approx(fit.objective_, abs=1e-14)
    weighted = GroupDROClassifier().fit(X, y, groups, sample_weight=np.where(groups == 1, 3.0, 1.0))
    np.testing.assert_allclose(weighted.coef_, fit.coef_, atol=1e-10)


def test_a_constant_offset_changes_the_objective_alone(data):
    X, y, groups = data
    fit = GroupDROClassifier().fit(X, y, groups)
    shifted = GroupDROClassifier(offset=np.full(3, 0.7)).fit(X, y, groups)
    np.testing.assert_allclose(shifted.coef_, fit.coef_, atol=1e-9)
    assert shifted.objective_ - fit.objective_ == pytest.approx(0.7, abs=1e-13)
    assert shifted.worst_group_loss_ == pytest.approx(fit.worst_group_loss_, abs=1e-12)


def test_memberships_of_zero_and_one_are_hard_groups(data):
    X, y, groups = data
    fit = GroupDROClassifier().fit(X, y, groups)
    soft = GroupDROClassifier().fit(
        X, y, group_weights=pd.DataFrame(np.eye(3)[groups], columns=["a", "b", "c"])
    )
    np.testing.assert_allclose(soft.coef_, fit.coef_, atol=1e-10)
    assert soft.groups_.tolist() == ["a", "b", "c"]
    np.testing.assert_allclose(soft.group_sizes_, fit.group_sizes_)


def test_overlapping_groups_bound_the_worst_of_them(data):
    X, y, groups = data
    member = np.column_stack([np.ones(len(y)), groups == 0, X[:, 0] > 0])
    fit = GroupDROClassifier(tol=1e-10).fit(X, y, group_weights=member)
    losses = -np.log(fit.predict_proba(X)[np.arange(len(y)), y])
    expected = [losses[column > 0].mean() for column in member.T]
    np.testing.assert_allclose(fit.group_losses_, expected, rtol=1e-12)
    active = fit.group_weights_ > 0
    np.testing.assert_allclose(fit.group_losses_[active], fit.worst_group_loss_, atol=1e-8)


def test_the_worst_group_does_better_than_in_the_ordinary_fit_and_no_weighting_beats_it(data):
    X, y, groups = data
    fit = GroupDROClassifier().fit(X, y, groups)
    ordinary = GroupDROClassifier(alpha=1.0).fit(X, y, groups)
    assert fit.worst_group_loss_ < ordinary.worst_group_loss_
    # it is the regression with weights q*
    weights = (fit.group_weights_ / fit.group_sizes_)[groups]
    theirs = LogisticRegression(C=1 / 1e-3, tol=1e-12, max_iter=10_000)
    theirs.fit(X, y, sample_weight=weights)
    np.testing.assert_allclose(theirs.coef_, fit.coef_, atol=1e-5)


def test_a_zero_weight_drops_a_row(data):
    X, y, groups = data
    weight = np.random.default_rng(1).integers(0, 2, len(y)).astype(float)
    kept = weight > 0
    fit = GroupDROClassifier().fit(X, y, groups, sample_weight=weight)
    same = GroupDROClassifier().fit(X[kept], y[kept], groups[kept])
    np.testing.assert_allclose(fit.coef_, same.coef_, atol=1e-12)
    assert fit.group_sizes_.tolist() == same.group_sizes_.tolist()


def test_adjustment_shifts_weight_to_small_groups():
    rng = np.random.default_rng(0)
    X, groups = rng.normal(size=(400, 3)), np.repeat([0, 1, 2], [300, 80, 20])
    y = (X[:, 0] * np.array([1, -1, 1])[groups] + rng.logistic(size=400) > 0).astype(int)
    plain = GroupDROClassifier(l2=0.1).fit(X, y, groups)
    adjusted = GroupDROClassifier(l2=0.1, adjustment=1.0).fit(X, y, groups)
    np.testing.assert_allclose(adjusted.group_offsets_, 1 / np.sqrt([300, 80, 20]), rtol=1e-12)
    assert adjusted.group_weights_[2] > plain.group_weights_[2]


def test_poisson_regression_predicts_means():
    rng = np.random.default_rng(0)
    X, groups = rng.normal(size=(500, 2)), rng.integers(0, 2, 500)
    y = rng.poisson(np.exp(1 + X @ [0.5, -0.5]))
    fit = GroupDRORegressor(loss="poisson", l2=0).fit(X, y, groups)
    np.testing.assert_allclose(fit.coef_, [0.5, -0.5], atol=0.1)
    np.testing.assert_allclose(fit.predict(X), np.exp(X @ fit.coef_ + fit.intercept_), rtol=1e-12)


# --- as an estimator --------------------------------------------------------------------------------


def test_fitted_attributes_fit_together(data):
    X, y, groups = data
    fit = GroupDROClassifier().fit(X, y, groups)
    assert fit.coef_.shape == (1, 4)
    assert fit.intercept_.shape == (1,)
    ridge = 0.5 * fit.l2 * (fit.coef_**2).sum()
    assert fit.objective_ == pytest.approx(fit.worst_group_loss_ + ridge, abs=1e-15)
    assert fit.objective_ - fit.dual_objective_ == pytest.approx(fit.duality_gap_, abs=1e-15)
    assert 0 <= fit.duality_gap_ <= 1e-8
    assert len(fit.history_) == fit.n_iter_
    assert fit.history_["duality_gap"].min() == fit.duality_gap_
    assert fit.group_weights_.sum() == pytest.approx(1, abs=1e-14)
    assert fit.active_groups_.tolist() == fit.groups_[fit.group_weights_ > 0].tolist()
    table = fit.group_losses(X, y, groups)
    np.testing.assert_allclose(table["loss"], fit.group_losses_, rtol=1e-12)
    assert table["n"].tolist() == fit.group_sizes_.tolist()


def test_three_classes_have_a_coefficient_vector_each(data):
    X, y, groups = data
    labels = np.array(["x", "y", "z"])[(y + groups) % 3]
    fit = GroupDROClassifier().fit(X, labels, groups)
    assert fit.coef_.shape == (3, 4)
    np.testing.assert_allclose(fit.coef_.sum(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(fit.predict_proba(X).sum(axis=1), 1, rtol=1e-12)
    assert set(fit.predict(X)) <= {"x", "y", "z"}
    assert fit.tidy()["term"].tolist()[:3] == ["x0[x]", "x0[y]", "x0[z]"]


def test_a_fit_survives_pickling_and_cloning_forgets_it(data):
    X, y, groups = data
    fit = GroupDROClassifier(alpha=0.5).fit(X, y, groups)
    again = pickle.loads(pickle.dumps(fit))
    np.testing.assert_array_equal(again.predict_proba(X), fit.predict_proba(X))
    np.testing.assert_array_equal(again.path(alphas=[0.5]).coefs, fit.path(alphas=[0.5]).coefs)
    with pytest.raises(NotFittedError):
        clone(fit).predict(X)


def test_small_problems_use_one_thread_of_blas(data, monkeypatch):
    X, y, groups = data
    seen = []
    solve = GroupDROClassifier.fit.__globals__["GroupDRO"]._fit.__globals__["solve_any_shape"]

    def spy(*args, **kwargs):
        seen.extend(
            pool["num_threads"]
            for pool in threadpoolctl.threadpool_info()
            if pool["user_api"] == "blas"
        )
        return solve(*args, **kwargs)

    monkeypatch.setattr("statml.group_robust._estimator.solve_any_shape", spy)
    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        before = [p["num_threads"] for p in threadpoolctl.threadpool_info()]
        GroupDROClassifier().fit(X, y, groups)
        assert [p["num_threads"] for p in threadpoolctl.threadpool_info()] == before
    assert seen
    assert set(seen) == {1}


# --- the path ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [None, "excess"])
def test_warm_started_path_equals_cold_fits(data, offset):
    X, y, groups = data
    model = GroupDROClassifier(offset=offset, tol=1e-10).fit(X, y, groups)
    path = model.path(alphas=[1.0, 0.6, 0.4, 0.2], l2s=[1e-3, 1e-1])
    assert path.coefs.shape == (8, 1, 4)
    for k, (alpha, l2) in enumerate(zip(path.alphas, path.l2s, strict=True)):
        cold = clone(model).set_params(alpha=alpha, l2=l2).fit(X, y, groups)
        np.testing.assert_allclose(path.coefs[k], cold.coef_, atol=2e-5)
        rows = path.table.iloc[3 * k : 3 * k + 3]
        np.testing.assert_allclose(rows["loss"], cold.group_losses_, atol=1e-5)
        np.testing.assert_allclose(rows["objective"], cold.objective_, atol=1e-9)
    assert (path.table["duality_gap"] <= 1e-9).all()


def test_path_leads_from_the_mean_loss_to_group_dro(data):
    X, y, groups = data
    model = GroupDROClassifier(l2=0, tol=1e-10).fit(X, y, groups)
    table = model.path().table
    worst = table.groupby("alpha", sort=False)["loss"].max()
    assert len(worst) == 20
    assert worst.index[0] == 1
    assert worst.iloc[-1] == pytest.approx(model.worst_group_loss_, abs=1e-8)
    # CVaR over groups can only rise as alpha falls, as it averages over fewer, worse groups
    assert np.diff(table.groupby("alpha", sort=False)["objective"].first()).min() >= -1e-9
    ordinary = GroupDROClassifier(l2=0, alpha=1.0).fit(X, y, groups)
    np.testing.assert_allclose(table["loss"][:3], ordinary.group_losses_, atol=1e-6)


def test_path_over_the_ridge_keeps_alpha(data):
    X, y, groups = data
    path = GroupDROClassifier(alpha=0.5).fit(X, y, groups).path(l2s=[1e-3, 1.0])
    assert path.alphas.tolist() == [0.5, 0.5]
    with pytest.raises(ValueError, match="alphas must be a finite number in"):
        GroupDROClassifier().fit(X, y, groups).path(alphas=[2.0])


# --- what is refused --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameter", "value", "error", "message"),
    [
        ("alpha", 0.0, ValueError, "alpha must be a finite number in (0, 1], got 0.0"),
        ("alpha", 1.5, ValueError, "alpha must be a finite number in (0, 1], got 1.5"),
        ("l2", -1.0, ValueError, "l2 must be a finite number >= 0, got -1.0"),
        ("adjustment", -1, ValueError, "adjustment must be a finite number >= 0, got -1"),
        ("tol", 0, ValueError, "tol must be a finite number > 0, got 0"),
        ("max_iter", 0, ValueError, "max_iter must be an integer >= 1, got 0"),
        ("solver", "sgd", ValueError, 'solver must be "newton" or "eg", got \'sgd\''),
        ("loss", "hinge", ValueError, "loss must be \"log_loss\", got 'hinge'"),
        ("offset", "mean", ValueError, 'offset must be "null" or "excess", got \'mean\''),
        ("offset", [1.0, 2.0], ValueError, "one finite number for each of the 3 groups"),
        ("offset", [1.0, np.nan, 0.0], ValueError, "one finite number for each of the 3 groups"),
    ],
)
def test_bad_parameters_are_named(data, parameter, value, error, message):
    with pytest.raises(error, match=re.escape(message)):
        GroupDROClassifier(**{parameter: value}).fit(*data)


def test_a_regressor_names_the_losses_it_takes(data):
    with pytest.raises(ValueError, match='"squared_error", "huber" or "poisson", got \'log_loss\''):
        GroupDRORegressor(loss="log_loss").fit(*data)
    with pytest.raises(TypeError, match="loss must be one of"):
        GroupDRORegressor(loss=3).fit(*data)
    X, y, groups = data
    with pytest.raises(ValueError, match="y must not be negative for the Poisson loss, got -1"):
        GroupDRORegressor(loss="poisson").fit(X, y - 1.0, groups)


def test_missing_numbers_and_labels_are_refused(data):
    X, y, groups = data
    bad = X.copy()
    bad[3, 1] = np.nan
    with pytest.raises(ValueError, match="contains NaN"):
        GroupDROClassifier().fit(bad, y, groups)
    with pytest.raises(ValueError, match="contains NaN"):
        GroupDROClassifier().fit(X, y, groups).predict(bad)
    with pytest.raises(ValueError, match="groups must not hold missing labels, got 1"):
        GroupDROClassifier().fit(X, y, np.where(np.arange(300) == 7, np.nan, groups))
    with pytest.raises(ValueError, match="groups must hold one label for each of the 300 rows"):
        GroupDROClassifier().fit(X, y, groups[:-1])


def test_two_descriptions_of_the_groups_are_one_too_many(data):
    X, y, groups = data
    with pytest.raises(ValueError, match="groups and group_weights both say"):
        GroupDROClassifier().fit(X, y, groups, group_weights=np.eye(3)[groups])


def test_an_empty_group_is_refused_by_name(data):
    X, y, groups = data
    with pytest.raises(ValueError, match="1 of 4 are empty: 3"):
        GroupDROClassifier().fit(X, y, group_weights=np.eye(4)[groups])
    with pytest.raises(ValueError, match="1 of 3 are empty: 2"):
        GroupDROClassifier().fit(X, y, groups, sample_weight=(groups < 2).astype(float))


def test_weights_that_make_no_sense_are_refused(data):
    X, y, groups = data
    with pytest.raises(ValueError, match="sample_weight must not be negative, got -1"):
        GroupDROClassifier().fit(X, y, groups, sample_weight=np.full(300, -1.0))
    with pytest.raises(ValueError, match="sample_weight leaves no row of class 1"):
        GroupDROClassifier().fit(X, y, groups, sample_weight=1.0 - y)


def test_one_class_is_refused(data):
    X, _, groups = data
    with pytest.raises(ValueError, match="one class"):
        GroupDROClassifier().fit(X, np.ones(300), groups)


def test_groups_and_classes_unseen_in_fit_are_refused_later(data):
    X, y, groups = data
    fit = GroupDROClassifier().fit(X, y, groups)
    with pytest.raises(
        ValueError, match=r"labels that fit did not see: \[7\]; known are \[0, 1, 2\]"
    ):
        fit.group_losses(X, y, np.where(groups == 1, 7, groups))
    with pytest.raises(ValueError, match=r"y holds classes that fit did not see: \[2\]"):
        fit.group_losses(X, y + 1, groups)
    table = fit.group_losses(X[groups > 0], y[groups > 0], groups[groups > 0])
    assert table["n"][0] == 0
    assert np.isnan(table["loss"][0])


def test_a_group_of_one_row_is_fitted_and_pulled_in_by_the_ridge(data):
    X, y, groups = data
    alone = np.r_[3, groups[1:]]
    strong = GroupDROClassifier(l2=1.0).fit(X, y, alone)
    assert strong.group_sizes_.tolist()[-1] == 1
    assert strong.duality_gap_ <= 1e-8
    assert np.isnan(strong.group_losses(X, y, alone)["std_error"].iloc[-1])


def test_separated_classes_without_a_penalty_are_refused(data):
    X, _, groups = data
    y = (X[:, 0] > 0).astype(int)
    with pytest.raises(ValueError, match=r"separated by a linear function of X.*set l2 > 0"):
        GroupDROClassifier(l2=0).fit(X, y, groups)
    assert GroupDROClassifier(l2=1e-3).fit(X, y, groups).duality_gap_ <= 1e-8


def test_groups_that_leak_the_class_are_warned_of(data):
    X, y, groups = data
    cells = 2 * groups + y
    frame = pd.DataFrame(X, columns=list("abcd")).assign(cell=cells % 2)
    with pytest.warns(UserWarning, match=r"column\(s\) cell of X determine the group"):
        GroupDROClassifier().fit(frame, y, cells)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        GroupDROClassifier().fit(X, y, cells)  # groups that hold y, but not in X, are fine
        GroupDROClassifier().fit(np.column_stack([X, groups]), y, groups)


def test_a_fit_that_stops_early_says_how_far_it_is(data):
    with pytest.warns(ConvergenceWarning, match=r"the duality gap is .* after 2 iterations, above"):
        fit = GroupDROClassifier(max_iter=2, tol=1e-12).fit(*data)
    assert fit.duality_gap_ > 1e-12
