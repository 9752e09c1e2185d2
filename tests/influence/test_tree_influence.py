"""Boosted trees: leaf refits against brute force, derivatives against finite differences."""

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.ensemble import (
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from statml.influence import TreeInfluence
from statml.influence.tree_ensembles import TreeLoss, boosted_trees

HIST = {"max_leaf_nodes": 6, "min_samples_leaf": 5, "early_stopping": False, "random_state": 0}
MODELS = {
    "regression": (GradientBoostingRegressor(n_estimators=6, random_state=0), load_diabetes),
    "binary": (GradientBoostingClassifier(n_estimators=6, random_state=0), load_breast_cancer),
    "classes": (GradientBoostingClassifier(n_estimators=4, random_state=0), load_iris),
    "hist regression": (HistGradientBoostingRegressor(max_iter=6, l2_regularization=0.7, **HIST), load_diabetes),
    "hist binary": (HistGradientBoostingClassifier(max_iter=6, l2_regularization=0.7, **HIST), load_breast_cancer),
    "hist classes": (HistGradientBoostingClassifier(max_iter=4, **HIST), load_iris),
}  # fmt: skip


@pytest.fixture(scope="module", params=MODELS)
def fitted(request):
    model, load = MODELS[request.param]
    X, y = load(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    train, test = order[:90], order[90:110]
    return model.fit(X[train], y[train]), X[train], y[train], X[test], y[test]


def replay(trees, leaves, weight):
    """Raw predictions of test records when training record j counts weight[j], round after round."""
    F = np.tile(trees.base, (len(trees.y), 1))
    F_test = np.tile(trees.base, (len(leaves), 1))
    for t in range(trees.leaves.shape[1]):
        g = trees.loss.gradient(F, trees.y) * weight[:, None]
        h = trees.loss.curvature(F) * weight[:, None]
        for k in range(F.shape[1]):
            leaf = trees.leaves[:, t, k]
            for l in range(leaf.max() + 1):
                members = leaf == l
                curvature = h[members, k].sum() + trees.l2
                v = 0.0
                if abs(curvature) > 1e-150:
                    v = -trees.learning_rate * trees.factor * g[members, k].sum() / curvature
                F[members, k] += v
                F_test[leaves[:, t, k] == l, k] += v
    return F_test


def test_leaf_refit_is_leave_one_out_with_the_structure_held(fitted):
    model, X, y, X_test, y_test = fitted
    trees = boosted_trees(model, X, y)
    leaves, codes = trees.apply(X_test), trees.code(y_test)
    full = trees.loss.loss(replay(trees, leaves, np.ones(90)), codes)
    values = TreeInfluence("leafrefit").fit(model, X, y).influence(X_test, y_test)
    for i in (0, 13, 57):
        without = trees.loss.loss(replay(trees, leaves, np.arange(90) != i), codes)
        np.testing.assert_allclose(values[:, i], without - full, atol=1e-9 * np.abs(full).max())


def test_leaf_influence_is_the_derivative_of_leaf_refit(fitted):
    model, X, y, X_test, y_test = fitted
    trees = boosted_trees(model, X, y)
    leaves, codes = trees.apply(X_test), trees.code(y_test)
    values = TreeInfluence("leafinfluence").fit(model, X, y).influence(X_test, y_test)
    step = 1e-5
    for i in (0, 13, 57):
        up, down = (np.ones(90) + s * step * (np.arange(90) == i) for s in (1, -1))
        losses = [trees.loss.loss(replay(trees, leaves, w), codes) for w in (up, down)]
        derivative = (losses[0] - losses[1]) / (2 * step)
        scale = np.abs(values[:, i]).max() + 1e-12
        np.testing.assert_allclose(values[:, i], -derivative, atol=1e-5 * max(scale, 1e-3))


def test_boostin_uses_the_derivative_of_a_newton_leaf():
    """One round from a common start: BoostIn is then the whole derivative, at the test record's first gradient."""
    X, y = load_diabetes(return_X_y=True)
    model = GradientBoostingRegressor(n_estimators=1, learning_rate=0.3, random_state=0)
    model.fit(X[:100], y[:100])
    trees = boosted_trees(model, X[:100], y[:100])
    leaves = trees.apply(X[100:110])
    values = TreeInfluence("boostin").fit(model, X[:100], y[:100]).influence(X[100:110], y[100:110])
    slope = trees.loss.gradient(np.tile(trees.base, (10, 1)), y[100:110])[:, 0]
    step = 1e-5
    for i in (3, 40):
        up, down = (np.ones(100) + s * step * (np.arange(100) == i) for s in (1, -1))
        change = (replay(trees, leaves, up) - replay(trees, leaves, down))[:, 0] / (2 * step)
        np.testing.assert_allclose(values[:, i], -slope * change, atol=1e-5 * np.abs(values).max())


@pytest.mark.parametrize("kind", ["leafinfluence", "boostin"])
def test_cheap_kinds_follow_leaf_refit(fitted, kind):
    model, X, y, X_test, y_test = fitted
    truth = TreeInfluence("leafrefit").fit(model, X, y).influence(X_test, y_test)
    values = TreeInfluence(kind).fit(model, X, y).influence(X_test, y_test)
    # weakest in nearly pure leaves of two classes, where a derivative says little
    assert np.corrcoef(values.ravel(), truth.ravel())[0, 1] > 0.3


def test_similarity_is_signed_by_the_label(fitted):
    model, X, y, X_test, y_test = fitted
    values = TreeInfluence("leafsim").fit(model, X, y).influence(X_test, y_test)
    if hasattr(model, "classes_"):
        same = y_test[:, None] == y
        assert (values[same] >= 0).all()
        assert (values[~same] <= 0).all()
    assert np.abs(values).max() > 0


def test_the_surrogate_of_trex_decomposes_into_its_records(fitted):
    model, X, y, *_ = fitted
    trex = TreeInfluence("trex").fit(model, X, y)
    kernel = trex._kernel(trex._trees.leaves)
    np.testing.assert_allclose(kernel, kernel.T, atol=1e-15)
    assert np.linalg.eigvalsh(kernel).min() > -1e-12
    fitted_values = kernel @ trex._alpha
    target = trex._F_test - trex._centre
    # stationarity of the ridge: n l2 alpha = residual
    np.testing.assert_allclose(90 * trex.l2 * trex._alpha, target - fitted_values, atol=1e-8)
    assert 0.3 < trex.diagnostics_["fidelity"] <= 1


def test_blocks_do_not_change_the_result():
    X, y = load_iris(return_X_y=True)
    model = GradientBoostingClassifier(n_estimators=3, random_state=0).fit(X, y)
    whole = TreeInfluence().fit(model, X, y)
    parts = TreeInfluence().fit(model, X, y, memory_limit=200_000)
    np.testing.assert_allclose(
        parts.influence(X[:9], y[:9]), whole.influence(X[:9], y[:9]), atol=1e-12
    )


def test_a_pipeline_transforms_first():
    X, y = load_diabetes(return_X_y=True)
    model = GradientBoostingRegressor(n_estimators=4, random_state=0)
    pipe = make_pipeline(StandardScaler(), model).fit(X[:80], y[:80])
    Z = pipe[0].transform(X)
    np.testing.assert_allclose(
        TreeInfluence().fit(pipe, X[:80], y[:80]).influence(X[80:85], y[80:85]),
        TreeInfluence().fit(pipe[-1], Z[:80], y[:80]).influence(Z[80:85], y[80:85]),
    )


@pytest.mark.parametrize("kind", ["squared", "binary", "softmax"])
def test_derivatives_of_the_tree_losses(kind):
    rng = np.random.default_rng(0)
    K = 3 if kind == "softmax" else 1
    loss, F = TreeLoss(kind, K), rng.normal(size=(5, K))
    y = rng.normal(size=5) if kind == "squared" else rng.integers(0, max(2, K), 5).astype(float)
    step = 1e-6
    for b in range(K):
        e = step * np.eye(K)[b]
        first = (loss.loss(F + e, y) - loss.loss(F - e, y)) / (2 * step)
        np.testing.assert_allclose(loss.gradient(F, y)[:, b], first, atol=1e-8)
        second = (loss.gradient(F + e, y) - loss.gradient(F - e, y)) / (2 * step)
        np.testing.assert_allclose(loss.jacobian(F)[:, :, b], second, atol=1e-8)
        third = (loss.curvature(F + e) - loss.curvature(F - e)) / (2 * step)
        np.testing.assert_allclose(loss.third(F)[:, :, b], third, atol=1e-8)


@pytest.mark.parametrize("library", ["lightgbm", "xgboost"])
def test_other_libraries_have_newton_leaves_too(library):
    module = pytest.importorskip(library)
    for load in (load_diabetes, load_breast_cancer, load_iris):
        X, y = load(return_X_y=True)
        kind = "Regressor" if load is load_diabetes else "Classifier"
        name = {"lightgbm": "LGBM", "xgboost": "XGB"}[library] + kind
        quiet = {"verbose": -1} if library == "lightgbm" else {}
        model = getattr(module, name)(n_estimators=5, **quiet).fit(X, y)
        values = TreeInfluence().fit(model, X, y).influence(X[:5], y[:5])
        assert np.isfinite(values).all()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda X, y: TreeInfluence("bark").fit(GradientBoostingClassifier(), X, y), ValueError, "kind"),
        (lambda X, y: TreeInfluence().fit(RandomForestClassifier(2).fit(X, y), X, y), TypeError, "SubsetEnsemble"),
        (
            lambda X, y: TreeInfluence().fit(
                GradientBoostingClassifier(n_estimators=3, subsample=0.5, random_state=0).fit(X, y), X, y
            ),
            ValueError, "not Newton steps",
        ),
        (
            lambda X, y: TreeInfluence().fit(
                GradientBoostingClassifier(n_estimators=3, loss="exponential").fit(X, y), X, y
            ),
            TypeError, "log_loss",
        ),
        (
            lambda X, y: TreeInfluence().fit(
                GradientBoostingClassifier(n_estimators=3).fit(X, y), X, y, np.ones(len(y))
            ),
            ValueError, "sample_weight",
        ),
        (
            lambda X, y: TreeInfluence()
            .fit(GradientBoostingClassifier(n_estimators=3).fit(X, y), X, y)
            .influence(X, y + 5),
            ValueError, "not trained with",
        ),
        (
            lambda X, y: TreeInfluence()
            .fit(GradientBoostingClassifier(n_estimators=3).fit(X, y), X, y)
            .influence(X),
            ValueError, "y_test must be given",
        ),
    ],
)  # fmt: skip
def test_bad_input_is_refused_by_name(call, error, message):
    X, y = load_breast_cancer(return_X_y=True)
    with pytest.raises(error, match=message):
        call(X[:60], y[:60])


def test_records_that_are_not_the_training_data_are_refused(fitted):
    model, X, y, *_ = fitted
    with pytest.raises(ValueError, match="fitted to other data|holds no record of X"):
        TreeInfluence().fit(model, X[:3], y[:3]).influence(X, y)
