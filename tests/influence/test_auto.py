"""The automatic choice, functionals, influential subsets and displays."""

import warnings

import matplotlib.pyplot as plt
import numpy as np
import pytest
import statsmodels.api as sm
from sklearn.base import clone
from sklearn.ensemble import GradientBoostingRegressor, RandomForestRegressor
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from statml.influence import (
    CaseDiagnosticsDisplay,
    DetectionCurveDisplay,
    Influence,
    InfluenceAgreementDisplay,
    LDSDisplay,
    LeaveOneOut,
    NewtonStep,
    RemovalCurveDisplay,
    SelfInfluenceDisplay,
    SubsetEnsemble,
    TopInfluenceDisplay,
    most_influential_subset,
)
from statml.influence.functionals import AUROC, Coefficient, FairnessGap, MeanLoss
from statml.influence.metrics import linear_datamodeling_score, removal_curve


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


# --- auto -------------------------------------------------------------------------------------------


def test_every_model_finds_its_method(diabetes):
    X, y = diabetes[0][:60], diabetes[1][:60]
    two = (y > 120).astype(int)
    cases = [
        (Ridge(), y, "exact: squared loss"),
        (make_pipeline(StandardScaler(), LogisticRegression(C=0.01)), two, "Newton step"),
        (KNeighborsClassifier(3), two, "KNN-shapley"),
        (GradientBoostingRegressor(n_estimators=3), y, "leafrefit"),
        (RandomForestRegressor(2), y, "subset ensemble"),
    ]
    for model, target, name in cases:
        found = Influence(n_subsets=40, random_state=0).fit(model.fit(X, target), X, target)
        assert name in found.method_
        assert found.influence(X[:3], target[:3]).shape == (3, 60)
        assert found.rank(X[:3], target[:3], k=2).shape == (2, 5)
        assert name in found.summary().as_text()


def test_refined_steps_are_within_their_certificate(cancer):
    X, y, X_test, y_test = cancer
    model = LogisticRegression(solver="newton-cholesky", tol=1e-12).fit(X, y)
    truth = LeaveOneOut().fit(model, X, y).parameter_change()
    found = Influence().fit(model, X, y)
    A = found.oracle_.information()

    def size(change):
        return np.sqrt(np.einsum("ij,ij->i", change @ A, change))

    error = size(found.parameter_change() - truth) / size(truth)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        plain = NewtonStep().fit(model, X, y).parameter_change()
    before = size(plain - truth) / size(truth)
    assert 0 < found.diagnostics_["n_refined"] < 100
    # what is kept has a correction below 5 %, of which the true error is little more
    assert error.max() < 0.06
    assert before.max() > 0.2
    assert found.influence(X_test, y_test).shape == (169, 400)


def test_subset_ensembles_bring_their_errors(diabetes):
    X, y = diabetes[0][:40], diabetes[1][:40]
    found = Influence("subsets", n_subsets=60, random_state=0).fit(Ridge(), X, y)
    values = found.influence(X[:2], y[:2])
    assert found.influence_std_.shape == values.shape
    assert isinstance(found.inner_, SubsetEnsemble)
    with pytest.raises(ValueError, match="method must be"):
        Influence("magic").fit(Ridge(), X, y)


# --- functionals ------------------------------------------------------------------------------------


def test_functionals_are_evaluated_without_each_record(cancer):
    X, y, X_test, y_test = cancer
    X, y, X_test, y_test = X[:150, :4], y[:150], X_test[:, :4], y_test
    groups = X_test[:, 3] > 0
    model = LogisticRegression(solver="newton-cholesky", tol=1e-12).fit(X, y)
    loo = LeaveOneOut().fit(model, X, y)
    functionals = {
        "coefficient": (Coefficient("x1"), lambda m: m.coef_[0, 1]),
        "auroc": (AUROC(X_test, y_test), lambda m: roc_auc_score(y_test, m.decision_function(X_test))),
        "gap": (
            FairnessGap(X_test, y_test, groups),
            lambda m: np.subtract(*[m.predict_proba(X_test)[groups == g, 1].mean() for g in (1, 0)]),
        ),
        "opportunity": (
            FairnessGap(X_test, y_test, groups, "equal_opportunity"),
            lambda m: np.subtract(
                *[m.predict_proba(X_test)[(groups == g) & (y_test == 1), 1].mean() for g in (1, 0)]
            ),
        ),
        "loss": (
            MeanLoss(X_test, y_test),
            lambda m: -np.log(m.predict_proba(X_test)[np.arange(169), y_test]).mean(),
        ),
    }  # fmt: skip
    sets = [[3], [7, 8, 9]]
    for name, (functional, by_hand) in functionals.items():
        found = loo.functional_influence(functional, sets)
        for value, members in zip(found, sets, strict=True):
            other = clone(model).fit(np.delete(X, members, 0), np.delete(y, members))
            assert value == pytest.approx(by_hand(model) - by_hand(other), abs=1e-6), name


def test_functionals_refuse_what_they_are_not_for(diabetes):
    X, y = diabetes
    step = NewtonStep().fit(Ridge().fit(X, y), X, y)
    with pytest.raises(TypeError, match="two classes"):
        step.functional_influence(AUROC(X, y), [[0]])
    with pytest.raises(ValueError, match="name must be"):
        step.functional_influence(Coefficient("height"), [[0]])
    with pytest.raises(ValueError, match="two labels"):
        FairnessGap(X, y, np.zeros(442))


# --- influential subsets ----------------------------------------------------------------------------


def test_a_planted_group_that_carries_a_sign_is_found():
    rng = np.random.default_rng(0)
    x = rng.normal(size=80)
    y = -0.3 * x + 0.3 * rng.normal(size=80)
    x[:4], y[:4] = 6.0, 6.0  # they mask each other: alone, none of them flips the sign
    X = x[:, None]
    model = LinearRegression().fit(X, y)
    assert model.coef_[0] > 0
    for method in (NewtonStep(), LeaveOneOut()):
        found = most_influential_subset(method.fit(model, X, y), "x0")
        assert found.flipped
        assert set(found.rows) <= set(range(4))
        without = clone(model).fit(np.delete(X, found.rows, 0), np.delete(y, found.rows))
        assert found.value_without == pytest.approx(without.coef_[0], abs=1e-9)
        assert found.path["value"].iloc[-1] == pytest.approx(found.value_without, abs=1e-9)
        assert "flips the sign" in repr(found)


def test_the_search_in_a_logistic_regression_ends_in_an_exact_refit(cancer):
    X, y, *_ = cancer
    X, y = X[:120, [1, 9]], y[:120]
    model = LogisticRegression(C=10, solver="newton-cholesky", tol=1e-12).fit(X, y)
    found = most_influential_subset(NewtonStep().fit(model, X, y), 2, max_size=30)
    without = clone(model).fit(np.delete(X, found.rows, 0), np.delete(y, found.rows))
    assert found.value_without == pytest.approx(without.coef_[0, 1], abs=1e-6)
    assert found.flipped == (np.sign(without.coef_[0, 1]) != np.sign(model.coef_[0, 1]))
    weights = np.array([0.0, 1.0, -1.0])
    contrast = most_influential_subset(NewtonStep().fit(model, X, y), weights, max_size=2)
    assert contrast.value_full == pytest.approx(model.coef_[0] @ [1, -1])
    with pytest.raises(TypeError, match="NewtonStep or a LeaveOneOut"):
        most_influential_subset(model, 1)
    with pytest.raises(ValueError, match="coefficient must"):
        most_influential_subset(NewtonStep().fit(model, X, y), "age")


# --- displays ---------------------------------------------------------------------------------------


def test_displays_show_what_they_say(cancer):
    X, y, X_test, y_test = cancer
    model = LogisticRegression(C=0.01, solver="newton-cholesky").fit(X, y)
    step = NewtonStep().fit(model, X, y)
    tau = step.influence(X_test, y_test)
    bars = TopInfluenceDisplay.from_estimator(step, X_test, y_test, k=6)
    assert sorted(patch.get_width() for patch in bars.ax_.patches) == pytest.approx(
        sorted(bars.table["influence"])
    )
    scatter = SelfInfluenceDisplay.from_estimator(step, suspects=y == 0, n_named=3)
    assert len(scatter.ax_.texts) == 3
    agreement = InfluenceAgreementDisplay(0.8 * tau, tau).plot()
    assert agreement.slope_ == pytest.approx(0.8)
    rng = np.random.default_rng(0)
    masks = rng.random((20, 400)) < 0.5
    outputs = rng.normal(size=(2, 20, 169))
    scores = {
        name: linear_datamodeling_score(t, masks, outputs) for name, t in (("a", tau), ("b", -tau))
    }
    lds = LDSDisplay(scores).plot()
    assert len(lds.ax_.patches) == 2
    curve = DetectionCurveDisplay({"self-influence": step.self_influence()}, y == 0).plot()
    assert "AUC" in curve.ax_.get_legend_handles_labels()[0][0].get_label()
    table = removal_curve(
        tau.mean(axis=0), model, X, y, X_test, y_test, [0, 0.2], n_random=2, progress=False
    )
    drawn = RemovalCurveDisplay({"step": table}).plot()
    np.testing.assert_allclose(drawn.ax_.lines[0].get_ydata(), table["loss"])


def test_case_diagnostics_are_statsmodels_internally_studentised_residuals():
    data = sm.datasets.stackloss.load_pandas()
    fit = sm.OLS(data.endog, sm.add_constant(data.exog)).fit()
    display = CaseDiagnosticsDisplay.from_estimator(NewtonStep().fit(fit))
    theirs = fit.get_influence()
    np.testing.assert_allclose(display.residual, theirs.resid_studentized_internal, rtol=1e-9)
    np.testing.assert_allclose(display.leverage, theirs.hat_matrix_diag, rtol=1e-9)
    assert "20" in [text.get_text() for text in display.ax_.texts]
