"""The worst group as a score, and all groups with simultaneous intervals."""

import numpy as np
import pandas as pd
import pytest
from sklearn import config_context
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import accuracy_score, f1_score, log_loss, r2_score
from sklearn.model_selection import GridSearchCV, GroupKFold, KFold, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from statsmodels.stats.proportion import proportion_confint

from statml.group_robust import (
    GroupDROClassifier,
    GroupDRORegressor,
    group_report,
    make_worst_group_scorer,
    worst_group_score,
)
from statml.group_robust.metrics import wilson_interval


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    X, groups = rng.normal(size=(400, 3)), np.array(["a", "b", "c"])[rng.integers(0, 3, 400)]
    z = X[:, 0] * np.where(groups == "a", -1.0, 1.0) + X[:, 1]
    return X, (z + rng.logistic(size=400) > 0).astype(int), groups


# --- the score --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "function"),
    [("accuracy", accuracy_score), ("f1", f1_score), ("r2", r2_score)],
)
def test_the_worst_group_is_the_minimum_of_scores(data, metric, function):
    _, y, groups = data
    y_pred = np.where(np.random.default_rng(1).random(400) < 0.8, y, 1 - y)
    expected = min(function(y[groups == g], y_pred[groups == g]) for g in "abc")
    assert worst_group_score(y, y_pred, groups, metric) == pytest.approx(expected, abs=1e-15)


def test_the_worst_group_is_the_maximum_of_losses(data):
    _, y, groups = data
    proba = np.random.default_rng(1).dirichlet([1, 1], 400)
    expected = max(log_loss(y[groups == g], proba[groups == g]) for g in "abc")
    assert worst_group_score(y, proba, groups, "log_loss") == pytest.approx(expected, rel=1e-12)
    worst = worst_group_score(y, proba[:, 1], groups, "squared_error")
    expected = max(((y - proba[:, 1]) ** 2)[groups == g].mean() for g in "abc")
    assert worst == pytest.approx(expected, rel=1e-12)


def test_a_group_counts_whatever_its_size():
    y = np.ones(1000)
    y_pred = np.r_[0, np.ones(999)]
    assert worst_group_score(y, y_pred, np.repeat(["x", "y"], [1, 999])) == 0


def test_weights_and_functions_are_taken(data):
    _, y, groups = data
    y_pred, weight = 1 - y * (groups == "a"), np.where(groups == "b", 2.0, 1.0)
    ours = worst_group_score(y, y_pred, groups, accuracy_score, sample_weight=weight)
    assert ours == worst_group_score(y, y_pred, groups)
    largest = worst_group_score(
        y, y_pred, groups, lambda t, p: np.mean(t != p), greater_is_better=False
    )
    assert largest == pytest.approx(1 - ours, abs=1e-15)


def test_overlapping_groups_are_columns():
    member = pd.DataFrame({"young": [1, 1, 0, 0], "poor": [0, 1, 1, 0]})
    assert worst_group_score([1, 1, 1, 1], [1, 1, 0, 0], member) == 0.5
    report = group_report([1, 1, 1, 1], [1, 1, 0, 0], member)
    assert report.table["group"].tolist() == ["poor", "young"]


@pytest.mark.parametrize(
    ("groups", "options", "message"),
    [
        (["a", "b"], {}, "groups must hold one label for each of the 4 records"),
        (["a", None, "b", "b"], {}, "groups must not hold missing values, got 1"),
        (np.full((4, 2), 0.5), {}, "must hold only 0 and 1"),
        (np.eye(4)[:, :3] * [1, 1, 0], {}, "no record is in 2"),
        (list("aabb"), {"expected_groups": ["a"]}, "holds 'b', which is not among the expected"),
        (list("aabb"), {"expected_groups": list("abc")}, "no record of 'c', so that the worst"),
        (list("aabb"), {"metric": "auc"}, "metric must be"),
    ],
)
def test_bad_groups_are_refused_by_name(groups, options, message):
    with pytest.raises(ValueError, match=message):
        worst_group_score([1, 0, 1, 0], [1, 1, 1, 1], groups, **options)


@pytest.mark.filterwarnings("ignore:R\\^2 score is not well-defined")
def test_a_group_in_which_the_metric_is_undefined_is_named():
    with pytest.raises(ValueError, match="undefined in group 'b' \\(1 records\\)"):
        worst_group_score([1.0, 2, 3], [1.0, 2, 2], ["a", "a", "b"], "r2")


# --- routing ----------------------------------------------------------------------------------------


def test_groups_reach_fit_and_score_through_pipeline_and_search(data):
    X, y, groups = data
    folds = KFold(3, shuffle=True, random_state=0)
    with config_context(enable_metadata_routing=True):
        pipe = make_pipeline(StandardScaler(), GroupDROClassifier().set_fit_request(groups=True))
        search = GridSearchCV(
            pipe,
            {"groupdroclassifier__l2": [1e-3, 1.0]},
            scoring=make_worst_group_scorer(),
            cv=folds,
        ).fit(X, y, groups=groups)
    assert search.best_estimator_[-1].groups_.tolist() == ["a", "b", "c"]
    expected = []
    for train, test in folds.split(X):
        scaler = StandardScaler().fit(X[train])
        model = GroupDROClassifier(l2=1e-3).fit(scaler.transform(X[train]), y[train], groups[train])
        y_pred = model.predict(scaler.transform(X[test]))
        expected.append(worst_group_score(y[test], y_pred, groups[test]))
    assert search.cv_results_["mean_test_score"][0] == pytest.approx(np.mean(expected), abs=1e-12)


def test_an_alias_keeps_groups_of_the_splitter_apart(data):
    X, y, groups = data
    households = np.arange(400) // 4
    with config_context(enable_metadata_routing=True):
        scores = cross_validate(
            GroupDROClassifier().set_fit_request(groups="dro_groups"),
            X,
            y,
            cv=GroupKFold(4),
            scoring=make_worst_group_scorer().set_score_request(groups="dro_groups"),
            params={"groups": households, "dro_groups": groups},
            return_estimator=True,
            return_indices=True,
        )
    for model, test in zip(scores["estimator"], scores["indices"]["test"], strict=True):
        assert model.groups_.tolist() == ["a", "b", "c"]
        assert not set(households[test]) & set(np.delete(households, test))


def test_losses_are_scored_with_a_minus_sign(data):
    X, y, groups = data
    model = LogisticRegression().fit(X, y)
    scorer = make_worst_group_scorer("log_loss")
    expected = -worst_group_score(y, model.predict_proba(X), groups, "log_loss")
    assert scorer(model, X, y, groups=groups) == expected
    line = LinearRegression().fit(X, y)
    squared = make_worst_group_scorer("squared_error")(line, X, y, groups=groups)
    assert squared == -worst_group_score(y, line.predict(X), groups, "squared_error")
    assert GroupDRORegressor(l2=0).fit(X, y, groups).worst_group_loss_ <= -squared


def test_a_scorer_without_groups_says_how_they_come(data):
    X, y, _ = data
    model = LogisticRegression().fit(X, y)
    with pytest.raises(ValueError, match="enable_metadata_routing=True"):
        make_worst_group_scorer()(model, X, y)
    with pytest.raises(TypeError, match="takes groups and sample_weight, got {'sex'}"):
        make_worst_group_scorer().set_score_request(sex=True)
    assert "accuracy" in repr(make_worst_group_scorer())


def test_a_fold_without_a_group_is_refused(data):
    X, y, groups = data
    model = LogisticRegression().fit(X, y)
    scorer = make_worst_group_scorer(expected_groups=["a", "b", "c"])
    with pytest.raises(ValueError, match="no record of 'c'"):
        scorer(model, X[groups != "c"], y[groups != "c"], groups=groups[groups != "c"])


# --- the report -------------------------------------------------------------------------------------


def test_report_takes_the_overall_value_apart(data):
    _, y, groups = data
    y_pred = np.where(np.random.default_rng(1).random(400) < 0.8, y, 1 - y)
    report = group_report(y, y_pred, groups)
    table = report.table
    assert (table["share"] * table["estimate"]).sum() == pytest.approx(report.overall, abs=1e-12)
    assert table["estimate"].is_monotonic_increasing
    assert report.worst == worst_group_score(y, y_pred, groups)
    assert report.worst_low == table["conf_low"].min()
    assert report.worst_high == table["conf_high"].min()
    assert str(report.worst_group) in str(report)
    assert "<table" in report._repr_html_()


def test_accuracies_have_wilson_intervals(data):
    _, y, groups = data
    y_pred = np.where(np.random.default_rng(1).random(400) < 0.8, y, 1 - y)
    for row in group_report(y, y_pred, groups, level=0.9).table.itertuples():
        count = round(row.estimate * row.n)
        low, high = proportion_confint(count, row.n, alpha=0.1 / 3, method="wilson")
        assert (row.conf_low, row.conf_high) == pytest.approx((low, high), abs=1e-12)


def test_a_group_that_is_always_right_still_has_an_interval():
    low, high = wilson_interval(np.array([1.0, 0.0]), np.array([10, 10]), 1.96)
    assert high[0] == 1
    assert 0.6 < low[0] < 0.8
    assert low[1] == 0


def test_losses_have_the_largest_as_worst(data):
    _, y, groups = data
    proba = np.random.default_rng(1).dirichlet([1, 1], 400)
    report = group_report(y, proba, groups, "log_loss")
    expected = worst_group_score(y, proba, groups, "log_loss")
    assert report.worst == pytest.approx(expected, rel=1e-12)
    assert report.worst_high == report.table["conf_high"].max()
    assert report.table["estimate"].is_monotonic_decreasing


def test_a_group_of_one_has_no_standard_error_but_an_accuracy_interval():
    y, y_pred = np.array([1.0, 2, 3, 4]), np.array([1.0, 2.5, 3, 6])
    groups = ["a", "a", "a", "b"]
    table = group_report(y, y_pred, groups, "squared_error").table.set_index("group")
    assert np.isnan(table.loc["b", ["std_error", "conf_low", "conf_high"]].astype(float)).all()
    table = group_report(y == 1, y_pred == 1, groups).table.set_index("group")
    assert 0 < table.loc["b", "conf_low"] < 1


def test_bootstrap_of_overlapping_groups_is_narrower_than_bonferroni():
    rng = np.random.default_rng(0)
    value = rng.normal(size=2000)
    member = np.column_stack([np.ones(2000), np.arange(2000) % 20 > 0, np.arange(2000) % 25 > 0])
    widths = {
        method: group_report(
            np.zeros(2000), value, member, "squared_error", method=method, random_state=0
        )
        .table.eval("conf_high - conf_low")
        .max()
        for method in ("bonferroni", "sidak", "bootstrap")
    }
    assert widths["bootstrap"] < widths["sidak"] < widths["bonferroni"]


def test_bad_values_are_refused(data):
    _, y, groups = data
    with pytest.raises(ValueError, match="metric must be finite for every record, got 1"):
        group_report(y, np.where(np.arange(400) == 3, np.inf, y), groups, "squared_error")
    for metric in ("squared_error", "accuracy"):  # a missing answer is no wrong one
        with pytest.raises(ValueError, match="y_pred must hold a label .* got None or NaN for 1"):
            group_report(y, np.where(np.arange(400) == 3, np.nan, y), groups, metric)
    with pytest.raises(ValueError, match="one label or number a record, got shape"):
        group_report(y, np.ones((400, 2)), groups)
    with pytest.raises(ValueError, match="metric must return one value a record"):
        group_report(y, y, groups, lambda t, p: 1.0)
    with pytest.raises(ValueError, match="probabilities of 2 classes"):
        group_report(y, np.ones((400, 3)), groups, "log_loss")
    with pytest.raises(ValueError, match="holds 1, which is not in labels"):
        group_report(y, np.ones((400, 2)) / 2, groups, "log_loss", labels=[0, 2])


@pytest.mark.parametrize("method", ["bonferroni", "sidak", "bootstrap"])
@pytest.mark.parametrize("kind", ["accuracy", "squared_error", "overlapping"])
def test_intervals_cover_all_groups_at_once(method, kind):
    rng = np.random.default_rng([len(method), len(kind)])
    sizes, right = np.array([400, 150, 60, 40]), np.array([0.9, 0.8, 0.7, 0.6])
    if kind == "squared_error":  # squares are skewed, and t intervals for them need large groups
        sizes = sizes * 4
    groups = np.repeat(np.arange(4), sizes)
    if kind == "overlapping":
        member = np.column_stack([groups <= g for g in range(4)]).astype(float)
        target = np.cumsum(sizes * right) / np.cumsum(sizes)
    else:
        member, target = groups, right if kind == "accuracy" else np.array([1.0, 1.5, 2, 3])
    n_draws, all_inside, worst_inside = 200, 0, 0
    for _ in range(n_draws):
        if kind == "squared_error":
            y_pred, metric = rng.normal(size=len(groups)) * np.sqrt(target[groups]), kind
        else:
            y_pred, metric = (rng.random(len(groups)) > right[groups]).astype(float), "accuracy"
        report = group_report(
            np.zeros(len(groups)),
            y_pred,
            member,
            metric,
            method=method,
            n_boot=100,
            random_state=rng,
        )
        table = report.table.set_index("group")
        inside = (table["conf_low"] <= target[table.index]) & (
            target[table.index] <= table["conf_high"]
        )
        all_inside += bool(inside.all())
        worst = target.max() if kind == "squared_error" else target.min()
        worst_inside += report.worst_low <= worst <= report.worst_high
    error = np.sqrt(0.95 * 0.05 / n_draws)
    assert all_inside / n_draws >= 0.95 - 3 * error - 0.01
    assert worst_inside / n_draws >= all_inside / n_draws
