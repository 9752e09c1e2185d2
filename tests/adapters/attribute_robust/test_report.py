"""`robustness_report`: counts against a model whose behaviour is known, intervals, comparisons, plots."""

import matplotlib as mpl
import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from statml.adapters.attribute_robust import Custom, Rotation, Translate, robustness_report
from statml.adapters.attribute_robust.report import accuracy_interval
from statsmodels.stats.proportion import proportion_confint

mpl.use("Agg")


class Threshold(ClassifierMixin, BaseEstimator):
    """Class 1 where the first column exceeds a threshold; log-odds are the distance."""

    def __init__(self, at=0.0):
        self.at = at
        self.classes_ = np.array([0, 1])

    def fit(self, X, y):
        return self

    def predict_proba(self, X):
        p = 1 / (1 + np.exp(-(X.reshape(len(X), -1)[:, 0].astype(float) - self.at)))
        return np.column_stack([1 - p, p])

    def predict(self, X):
        return (X.reshape(len(X), -1)[:, 0] > self.at).astype(int)


def drift(x, a):
    return x + a


@pytest.fixture
def records():
    # class 1 at distances 0.05, 0.15, ..., 0.95 above the threshold, class 0 below
    distance = np.tile(np.arange(10) / 10 + 0.05, 20)
    y = np.repeat([0, 1], 100)
    return np.where(y, distance, -distance)[:, None], y


DRIFT = [Custom(drift, -0.5, 0.5, names="drift", units="cm")]


def test_accuracies_are_those_of_a_model_that_is_known(records):
    X, y = records
    report = robustness_report(Threshold(), X, y, DRIFT, n_draws=400, worst_of=400)
    clean, mean, worst = report.table["accuracy"]
    assert clean == 1
    # a record at distance d < 0.5 errs with probability 0.5 - d: 1.25 of ten records
    assert abs(mean - 0.875) < 4 * 0.5 / np.sqrt(100 * 400)
    # every record nearer than 0.5 errs sometime; the nearest such, at 0.45, with probability 0.05 a draw
    assert worst == 0.5
    table = report.severity_table.set_index(["attribute", "severity"])["accuracy"]
    # s/5 of the way to +-0.5: of ten distances, s lie within 0.1 s, and err at one of two ends
    for s in range(1, 6):
        assert table["drift", s] == pytest.approx(1 - s / 10 / 2)
    assert (np.diff(table["all"]) <= 0).all()
    assert report.table["n"].tolist() == [200] * 3


def test_worst_of_k_falls_with_k(records):
    worst = [
        robustness_report(Threshold(), *records, DRIFT, worst_of=k).table["accuracy"].iloc[2]
        for k in (1, 5, 20)
    ]
    assert worst[0] > worst[1] > worst[2]


def test_sensitivity_is_the_derivative_of_the_loss(records):
    X, y = records
    report = robustness_report(Threshold(), X, y, DRIFT)
    z = X[:, 0] + report.values[0][:, 0]
    slope = 1 / (1 + np.exp(-z)) - y  # of the log-loss in the drift
    row = report.sensitivity_table.iloc[0]
    expected = 0.5 * np.sqrt((slope**2).mean())  # a half-width is 0.5
    assert row["sensitivity"] == pytest.approx(expected, rel=0.02)
    assert 0 < row["std_error"] < 0.1 * expected


def test_intervals_of_proportions_are_wilsons_and_of_means_count_records():
    rng = np.random.default_rng(0)
    correct = rng.random(150) < 0.8
    p, low, high = accuracy_interval(correct, 0.9)
    np.testing.assert_allclose(
        (low, high), proportion_confint(correct.sum(), 150, 0.1, method="wilson")
    )
    assert p == correct.mean()
    # coverage for the accuracy over draws, of records that differ: Beta(4, 1), 200 records, 5 draws
    hits = 0
    for _ in range(1000):
        chance = rng.beta(4, 1, 200)
        _, low, high = accuracy_interval(rng.random((200, 5)) < chance[:, None], 0.95)
        hits += low <= 0.8 <= high
    assert abs(hits / 1000 - 0.95) < 4 * np.sqrt(0.95 * 0.05 / 1000)
    assert accuracy_interval(np.ones((30, 4), bool), 0.95)[1] < 1


def test_models_are_compared_on_the_same_draws(records):
    X, y = records
    one, two = (robustness_report(Threshold(at), X, y, DRIFT, name=f"at {at}") for at in (0.0, 0.2))
    table = one.compare(two)
    # clean: the second errs on the 20 records of class 1 at distances 0.05 and 0.15
    assert table.loc["clean", ["only_this", "only_other"]].tolist() == [20, 0]
    assert table.loc["clean", "p_value"] == pytest.approx(2 * 0.5**20)
    assert table.loc["clean", "difference"] == pytest.approx(0.1)
    assert table.loc["mean", "difference"] == pytest.approx(
        one.table.loc["mean", "accuracy"] - two.table.loc["mean", "accuracy"]
    )
    same = one.compare(one)
    assert (same["difference"] == 0).all()
    assert (same["p_value"] == 1).all()
    other = robustness_report(Threshold(), X, y, DRIFT, random_state=1)
    with pytest.raises(ValueError, match="same records, attributes"):
        one.compare(other)
    with pytest.raises(TypeError, match="RobustnessReport"):
        one.compare(two.table)


def test_the_corruption_error_is_relative_to_a_baseline(records):
    one, two = (robustness_report(Threshold(at), *records, DRIFT) for at in (0.0, 0.2))
    assert one.corruption_error(one).tolist() == [1, 1]
    ratio = one.corruption_error(two)
    assert ratio["drift"] == ratio["mean"] < 1


def test_plots_show_what_is_in_the_tables():
    rng = np.random.default_rng(0)
    X = rng.random((30, 1, 6, 6))
    y = (X[:, 0, 0, 0] > 0.5).astype(int)
    attributes = [Rotation(30), Translate(0.2)]
    one, two = (
        robustness_report(Threshold(at), X, y, attributes, name=f"at {at}", n_draws=3, worst_of=3)
        for at in (0.5, 0.3)
    )
    display = one.plot_severity(two)
    assert [panel.get_title() for panel in display.axes_] == [
        "rotation", "right", "down", "all at random",
    ]  # fmt: skip
    line = display.axes_[0].lines[1]
    table = two.severity_table
    assert line.get_ydata().tolist() == table[table["attribute"] == "rotation"]["accuracy"].tolist()
    grid = one.plot_attribute_grid("rotation", "down", n_points=3)
    assert grid.accuracy.shape == (3, 3)
    assert grid.accuracy[1, 1] == one.table.loc["clean", "accuracy"]
    assert one.plot_images([0, 1], n_points=3).axes_.shape == (3, 6)
    with pytest.raises(ValueError, match="parameters are rotation, right, down"):
        one.plot_attribute_grid("hue", "down")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attributes": []}, "at least one attribute"),
        ({"worst_of": 30}, "worst_of must be"),
        ({"level": 95}, "level must be"),
        ({"severities": (0, 1)}, "severities must be"),
    ],
)
def test_bad_input_is_refused_by_name(records, options, message):
    with pytest.raises(ValueError, match=message):
        robustness_report(Threshold(), *records, **({"attributes": DRIFT} | options))
    with pytest.raises(ValueError, match="y must hold 200 labels"):
        robustness_report(Threshold(), records[0], records[1][:5], DRIFT)
