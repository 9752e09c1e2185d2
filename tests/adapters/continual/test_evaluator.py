"""Runs through tasks: the matrix against doing it by hand, any estimator, repeats, resumption, tables, plots, the compass."""

import json
import subprocess
import sys
import warnings

import joblib
import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.naive_bayes import GaussianNB
from statml.adapters.continual import (
    CompassDisplay,
    ConformalBound,
    ContinualEvaluator,
    ContinualReport,
    LearningCurvesDisplay,
    cleva_entry,
    continual_scores,
)
from statml.adapters.continual.compass import INNER, OUTER


class GrowingMeans(ClassifierMixin, BaseEstimator):
    """Nearest class mean with a conformal bound: it learns new classes without being told of them before."""

    def __init__(self, forget=False, random_state=None):
        self.forget = forget
        self.random_state = random_state

    def partial_fit(self, X, y, classes=None):
        assert classes is None, "an estimator that grows is not told the classes"
        old = [] if self.forget or not hasattr(self, "seen_") else self.seen_
        self.seen_ = [*old, (X, y)]
        self.n_updates_ = len(self.seen_)
        self.n_stored_ = sum(len(y) for _, y in self.seen_)
        X, y = (np.concatenate(part) for part in zip(*self.seen_, strict=True))
        self.bound_ = ConformalBound("euclidean", random_state=self.random_state).fit(X, y)
        self.classes_ = self.bound_.classes_
        return self

    fit = partial_fit

    def predict(self, X):
        return self.classes_[self.bound_.distances(X).argmin(axis=1)]

    def predict_proba(self, X):
        odds = np.exp(-self.bound_.distances(X))
        return odds / odds.sum(axis=1, keepdims=True)

    def outlier_proba(self, X):
        return self.bound_.outlier_proba(X, self.predict(X))


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    X = X / 16
    return X[::2], y[::2], X[1::2], y[1::2]


@pytest.fixture(scope="module")
def evaluator(digits):
    X, y, X_test, y_test = digits
    noise = np.random.default_rng(0).uniform(size=(300, 64))
    return ContinualEvaluator.from_classes(
        X, y, X_test, y_test, outliers={"inverted": 1 - X_test[:300], "noise": noise}
    )


@pytest.fixture(scope="module")
def reports(evaluator):
    options = {"n_repeats": 3, "orders": "random", "random_state": 0}
    return (
        evaluator.run(GrowingMeans(), label="means", **options),
        evaluator.run(GrowingMeans(forget=True), label="forgets", **options),
    )


# --- running -----------------------------------------------------------------------------------------


def test_the_matrix_is_that_of_a_loop_by_hand(digits):
    X, y, X_test, y_test = digits
    evaluator = ContinualEvaluator.from_classes(X, y, X_test, y_test, n_classes=4)
    report = evaluator.run(SGDClassifier(random_state=3))
    model, groups = SGDClassifier(random_state=3), [(0, 1, 2, 3), (4, 5, 6, 7), (8, 9)]
    for t, group in enumerate(groups):
        here = np.isin(y, group)
        model.partial_fit(X[here], y[here], classes=np.arange(10))
        for j, other in enumerate(groups):
            said = model.predict(X_test)
            recalls = [np.mean(said[y_test == c] == c) for c in other]
            assert report.matrix_[t, j] == pytest.approx(np.mean(recalls))
    assert report.tasks == ["0+1+2+3", "4+5+6+7", "8+9"]
    scores = continual_scores(report.matrix_, [0.1] * 3, [4, 4, 2]).as_dict()
    assert report.scores().iloc[0].to_dict() == pytest.approx(scores)
    assert report.glance()["optimization_steps"][0] == len(y)  # one step a record


def test_joint_training_is_fit_on_all_data_so_far(digits):
    X, y, X_test, y_test = digits
    tasks = ContinualEvaluator.from_classes(X, y, X_test, y_test, n_classes=5)
    report = tasks.run(GaussianNB(var_smoothing=1e-2), strategy="joint")
    last = GaussianNB(var_smoothing=1e-2).fit(X, y).predict(X_test)
    recalls = [np.mean(last[y_test == c] == c) for c in range(10)]
    np.testing.assert_allclose(report.matrix_[1], [np.mean(recalls[:5]), np.mean(recalls[5:])])
    np.testing.assert_allclose(report.matrix_[0, 1], 0)  # classes that it has not met


@pytest.mark.filterwarnings(
    "ignore:divide by zero:RuntimeWarning"
)  # scikit-learn's, of a class without records
def test_an_estimator_that_demands_the_classes_is_told_and_one_that_grows_is_not(digits):
    X, y, X_test, y_test = digits
    evaluator = ContinualEvaluator.from_classes(X, y, X_test, y_test)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # GrowingMeans asserts by itself
        assert evaluator.run(GrowingMeans(random_state=0)).scores()["acc"][0] > 0.8
    assert evaluator.run(GaussianNB(var_smoothing=1e-2)).scores()["acc"][0] > 0.8


def test_an_error_of_the_estimator_comes_through(evaluator):
    class Broken(GrowingMeans):
        def partial_fit(self, X, y, classes=None):
            raise ValueError("classes of snow")

    with pytest.raises(ValueError, match="classes of snow"):
        evaluator.run(Broken())


def test_the_estimator_that_was_given_stays_as_it_is(evaluator):
    model = GrowingMeans()
    evaluator.run(model, random_state=5)
    assert not hasattr(model, "seen_")
    assert model.random_state is None


def test_equal_seeds_give_equal_runs_for_every_number_of_workers(evaluator, reports):
    with joblib.parallel_config(backend="threading"):
        again = evaluator.run(
            GrowingMeans(), n_repeats=3, orders="random", random_state=0, n_jobs=2, label="means"
        )
    np.testing.assert_array_equal(again.matrices_, reports[0].matrices_)
    assert [r["order"] for r in again.runs] == [r["order"] for r in reports[1].runs]
    other = evaluator.run(GrowingMeans(), n_repeats=3, orders="random", random_state=1)
    assert [r["order"] for r in other.runs] != [r["order"] for r in again.runs]


def test_an_interrupted_run_resumes(evaluator, tmp_path, monkeypatch):
    options = {"n_repeats": 2, "random_state": 0, "progress": False}
    whole = evaluator.run(GrowingMeans(), **options)
    kept = tmp_path / "runs"
    evaluator.run(GrowingMeans(), checkpoint_dir=kept, **options)
    (kept / "task_000001.zip").unlink()
    calls = []
    plain = GrowingMeans.partial_fit
    monkeypatch.setattr(
        GrowingMeans, "partial_fit", lambda self, X, y: calls.append(1) or plain(self, X, y)
    )
    resumed = evaluator.run(GrowingMeans(), checkpoint_dir=kept, **options)
    assert len(calls) == 5  # one run of five tasks
    np.testing.assert_array_equal(resumed.matrices_, whole.matrices_)
    found, expected = (r.runs[0]["open_set"]["softmax"]["out"]["noise"] for r in (resumed, whole))
    np.testing.assert_array_equal(found, expected)
    with pytest.raises(ValueError, match="holds another run"):
        evaluator.run(GrowingMeans(forget=True), checkpoint_dir=kept, **options)


def test_given_orders_are_run(digits):
    X, y, X_test, y_test = digits
    evaluator = ContinualEvaluator.from_classes(X, y, X_test, y_test, n_classes=5)
    report = evaluator.run(GrowingMeans(forget=True, random_state=0), orders=[[0, 1], [1, 0]])
    assert report.matrices_.shape == (2, 2, 2)
    np.testing.assert_allclose(
        report.matrices_[:, 1, 0], 0
    )  # the first task of each order is forgotten
    assert (report.matrices_[:, 1, 1] > 0.8).all()


def test_renaming_the_labels_changes_nothing(digits):
    X, y, X_test, y_test = digits
    name = np.array([f"digit {c}" for c in range(10)])
    plain = ContinualEvaluator.from_classes(X, y, X_test, y_test)
    named = ContinualEvaluator.from_classes(X, name[y], X_test, name[y_test])
    runs = [e.run(GrowingMeans(random_state=0)).matrix_ for e in (plain, named)]
    np.testing.assert_array_equal(*runs)


def test_bad_tasks_are_refused_by_name(digits):
    X, y, X_test, y_test = digits
    good = (X, y, X_test, y_test)
    for tasks, message in [
        ([], "at least one task"),
        ([(X, y)], "must be (X, y, X_test, y_test), got 2 parts"),
        (
            {"a": good, "b": (X, y.astype(str), X_test, y_test.astype(str))},
            "'b' has labels of type text",
        ),
        ({"a": good, "b": (X[:, 1:], y, X_test[:, 1:], y_test)}, "'b' has records of shape (63,)"),
        ({"a": (X, y[:-1], X_test, y_test)}, "one label a record"),
        ({"a": (X, y, X_test[:0], y_test[:0])}, "at least one record"),
    ]:
        with pytest.raises(ValueError, match=".*") as error:
            ContinualEvaluator(tasks)
        assert message in str(error.value)
    with pytest.raises(ValueError, match="outliers 'x' must hold records of shape"):
        ContinualEvaluator([good], outliers={"x": X[:, 1:]})
    with pytest.raises(ValueError, match="baseline"):
        ContinualEvaluator([good], baseline=[0.1, 0.2])
    with pytest.raises(ValueError, match="each once"):
        ContinualEvaluator.from_classes(*good, order=[0, 0])
    evaluator = ContinualEvaluator([good], outliers={"x": X})
    with pytest.raises(TypeError, match=r"must have partial_fit\(\)"):
        evaluator.run(LogisticRegression())
    with pytest.raises(TypeError, match="neither outlier_proba nor predict_proba"):
        evaluator.run(SGDClassifier())
    with pytest.raises(ValueError, match="permutations"):
        evaluator.run(GaussianNB(), orders=[[0, 1]])
    wrong = ContinualEvaluator([good], outliers={"x": X}, scores={"s": lambda model, X: X})
    with pytest.raises(ValueError, match="score 's' must give one number a record"):
        wrong.run(GaussianNB())


# --- the report --------------------------------------------------------------------------------------


def test_intervals_are_students_over_runs(reports):
    from scipy.stats import ttest_1samp

    report = reports[0]
    table = report.tidy(level=0.9).set_index("term")
    values = report.scores()["bwt"]
    expected = ttest_1samp(values, 0).confidence_interval(0.9)
    assert table.loc["bwt", "estimate"] == pytest.approx(values.mean())
    np.testing.assert_allclose(table.loc["bwt", ["conf_low", "conf_high"]].astype(float), expected)
    assert table.loc["base", "conf_high"] <= 1
    assert report.conf_int().index.tolist() == table.index.tolist()


def test_two_reports_are_compared_run_by_run(reports, evaluator):
    from scipy.stats import ttest_rel

    remembers, forgets = reports
    difference = remembers.compare(forgets).set_index("term")
    a, b = remembers.scores()["acc"], forgets.scores()["acc"]
    assert difference.loc["acc", "estimate"] == pytest.approx((a - b).mean())
    interval = ttest_rel(a, b).confidence_interval(0.95)
    np.testing.assert_allclose(
        difference.loc["acc", ["conf_low", "conf_high"]].astype(float), interval
    )
    assert (
        difference.loc["acc", "conf_low"] > 0.5
    )  # only the last of five tasks is left to the other
    other = evaluator.run(GrowingMeans(), n_repeats=3, orders="random", random_state=9)
    with pytest.raises(ValueError, match="same orders"):
        remembers.compare(other)


def test_one_run_has_no_interval_and_says_why(evaluator):
    report = evaluator.run(GrowingMeans(random_state=0))
    assert report.tidy()["conf_low"].isna().all()
    text = report.summary().as_text()
    assert "use n_repeats" in text
    assert "nan" not in text.lower()
    open_set = report.open_set()
    assert (open_set["conf_low"] <= open_set["outlier_rate"]).all()  # Wilson's, over records
    assert (open_set["conf_high"] - open_set["conf_low"] > 0).all()


def test_the_worst_set_is_reported(reports):
    table = reports[0].open_set()
    assert table.index.get_level_values("score").unique().tolist() == [
        "outlier_proba",
        "softmax",
        "entropy",
    ]
    for score in ("outlier_proba", "softmax", "entropy"):
        of_score = table.loc[score]
        sets = of_score.drop("worst")["outlier_rate"]
        assert of_score.loc["worst", "outlier_rate"] == sets.min()
        assert sets[of_score.loc["worst", "worst_set"]] == sets.min()
    assert (table["conf_low"] < table["outlier_rate"] + 1e-12).all()
    assert (
        table["conf_high"] - table["conf_low"] > 0.005
    ).all()  # also where all runs reject all of 300
    assert table.loc[("outlier_proba", "worst"), "outlier_rate"] > 0.9
    # thresholds come from one half of the known records, rates from the other: near 5 %, not equal
    n = len(reports[0].runs[0]["open_set"]["softmax"]["in"])
    assert abs(table["inlier_rate"] - 0.05).max() < 5 * np.sqrt(2 * 0.05 * 0.95 / n)


def test_curves_start_at_the_first_task_and_end_at_the_scores(reports):
    report = reports[0]
    table, scores = report.curves().set_index(["curve", "n_tasks"])["estimate"], report.scores()
    assert table["all", 1] == table["base", 1] == table["new", 1]
    assert table["all", 5] == pytest.approx(scores["acc"].mean())
    assert table["base", 5] == pytest.approx(scores["base"].mean())
    assert table["new", 5] == pytest.approx(scores["new"].mean())
    assert table["all"].mean() == pytest.approx(scores["average_incremental"].mean())


def test_summary_and_glance(reports):
    text = reports[0].summary(level=0.9).as_text()
    for part in (
        "means: 5 tasks, 3 runs",
        "backward transfer",
        "90% interval",
        "noise",
        "worst",
        "AUROC",
    ):
        assert part in text
    row = reports[0].glance().iloc[0]
    assert (row["n_tasks"], row["n_runs"], row["n_classes"]) == (5, 3, 10)
    assert row["stored_data"] == row["n_records"]
    assert row["memory"] > 0


def test_plots(reports, digits):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    remembers, forgets = reports
    X, y, X_test, y_test = digits
    plain = ContinualEvaluator.from_classes(X, y, X_test, y_test).run(GrowingMeans())
    ax = plain.plot_matrix().ax_
    assert [t.get_text() for t in ax.get_xticklabels()] == plain.tasks
    assert {t.get_text() for t in ax.texts} == {f"{v:.2f}" for v in plain.matrix_.ravel()}
    assert remembers.plot_matrix().ax_.get_xticklabels()[0].get_text() == "no. 1"
    ax = remembers.plot_curves([forgets]).ax_
    np.testing.assert_allclose(
        ax.lines[1].get_ydata(), forgets.curves().query("curve == 'all'")["estimate"]
    )
    assert len(ax.collections) == 2  # bands
    display = remembers.plot_open_set("softmax")
    assert len(display.unknown) == 2
    _, shared = plt.subplots()
    assert remembers.plot_open_set(ax=shared).ax_ is shared
    assert remembers.plot_cleva().document["entries"][0]["label"] == "means"
    with pytest.raises(ValueError, match="score must be one of"):
        remembers.plot_open_set("nothing")
    with pytest.raises(ValueError, match="give outliers"):
        plain.plot_open_set()
    with pytest.raises(ValueError, match="curve must be"):
        remembers.plot_curves(curve="old")
    with pytest.raises(ValueError, match="different labels"):
        LearningCurvesDisplay.from_reports([remembers, remembers])
    plt.close("all")


def test_the_compass_tells_what_was_measured(reports, tmp_path, digits):
    path = tmp_path / "compass.json"
    document = reports[0].cleva(path, inner={"open_world": 2}, color="blue")
    assert json.loads(path.read_text()) == document
    (entry,) = document["entries"]
    assert list(entry) == ["color", "label", "inner_level", "outer_level"]
    assert list(entry["inner_level"]) == list(INNER)
    assert list(entry["outer_level"]) == list(OUTER)
    assert {k for k, v in entry["inner_level"].items() if v} == {"open_world", "episodic_memory"}
    assert {k for k, v in entry["outer_level"].items() if not v} == {
        "parameters",
        "mac_operations",
        "communication",
        "generated_data",
    }
    X, y, X_test, y_test = digits
    bare = ContinualEvaluator([(X, y, X_test, y_test)], baseline=None).run(GaussianNB())
    outer = bare.cleva(outer={"parameters": True})["entries"][0]["outer_level"]
    assert {k for k, v in outer.items() if v} == {
        "parameters",
        "compute_time",
        "data_per_task",
        "task_order",
        "per_task_metric",
        "memory",
    }


def test_bad_compasses_are_refused():
    with pytest.raises(ValueError, match="inner must name axes among .* got 'magic'"):
        cleva_entry("x", {"magic": 1})
    with pytest.raises(ValueError, match="must be 0"):
        cleva_entry("x", {"generative": 3})
    with pytest.raises(ValueError, match="must be 0"):
        cleva_entry("x", {"generative": True})
    with pytest.raises(ValueError, match="True or False"):
        cleva_entry("x", outer={"memory": "yes"})
    with pytest.raises(ValueError, match="color"):
        cleva_entry("x", color="pink")


def test_a_compass_of_several_methods_has_a_ring_for_each():
    import matplotlib

    matplotlib.use("Agg")
    entries = [cleva_entry("a", {"online": 1}), cleva_entry("b", {"online": 2}, color="green")]
    ax = CompassDisplay({"entries": entries}).plot().ax_
    assert len(ax.patches) == 2 * (1 + len(OUTER))
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["a", "b"]


def test_a_report_needs_a_run():
    with pytest.raises(ValueError, match="at least one run"):
        ContinualReport([], ["a"])


def test_none_of_this_loads_torch_or_matplotlib():
    code = (
        "import sys, statml.adapters, statml.adapters.continual; statml.adapters.WeibullBound;"
        "print(*{'torch', 'skorch', 'matplotlib', 'pymc'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert run.stdout.split() == []
