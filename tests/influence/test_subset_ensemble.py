"""Subset ensembles: enumerated truths, coverage of the intervals, the same numbers everywhere."""

import itertools

import joblib
import numpy as np
import pytest
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from statml.influence import MonteCarloValues, SubsetEnsemble
from statml.influence.metrics import linear_datamodeling_score
from statml.influence.monte_carlo import weighted_contrast
from statml.influence.subset_ensemble import AME_PROBABILITIES, ridge_datamodel


def small_game(n=7, seed=0):
    """A ridge game of n records and two test records, and the loss of every subset."""
    rng = np.random.default_rng(seed)
    X, X_test = rng.normal(size=(n, 2)), rng.normal(size=(2, 2))
    y, y_test = X @ [1.0, -1.0] + rng.normal(size=n), X_test @ [1.0, -1.0]
    losses = {}
    for size in range(n + 1):
        for members in itertools.combinations(range(n), size):
            if size:
                model = Ridge(alpha=1.0).fit(X[list(members)], y[list(members)])
                f = model.predict(X_test)
            else:
                f = np.full(2, y.mean())
            losses[members] = (y_test - f) ** 2 / 2
    return X, y, X_test, y_test, losses


def mean_marginal(losses, n, size):
    """E over subsets S of a size of loss(S) - loss(S + i), for every i, shape (2, n)."""
    out = np.zeros((2, n))
    for i in range(n):
        rest = [j for j in range(n) if j != i]
        out[:, i] = np.mean(
            [
                losses[s] - losses[tuple(sorted((*s, i)))]
                for s in itertools.combinations(rest, size)
            ],
            axis=0,
        )
    return out


def z_scores(found, truth):
    return ((found.value - truth) / found.std_error).ravel()


def test_the_limit_of_downsampling_is_the_marginal_less_the_shift_of_size():
    n, m = 7, 5
    X, y, X_test, y_test, losses = small_game(n)
    truth = np.empty((2, n))
    for i in range(n):
        with_i = [losses[s] for s in itertools.combinations(range(n), m) if i in s]
        without = [losses[s] for s in itertools.combinations(range(n), m) if i not in s]
        truth[:, i] = np.mean(without, axis=0) - np.mean(with_i, axis=0)
    rest = {i: [j for j in range(n) if j != i] for i in range(n)}
    marginal = mean_marginal(losses, n, m - 1)
    shift = np.stack(
        [
            np.mean([losses[s] for s in itertools.combinations(rest[i], m - 1)], axis=0)
            - np.mean([losses[s] for s in itertools.combinations(rest[i], m)], axis=0)
            for i in range(n)
        ],
        axis=1,
    )
    np.testing.assert_allclose(truth, marginal - shift, atol=1e-12)
    ensemble = SubsetEnsemble(1000, fraction=5 / 7, warm_start=True, random_state=0)
    ensemble.fit(Ridge().fit(X, y), X, y)
    z = z_scores(ensemble.downsampling(X_test, y_test), truth)
    assert np.mean(z**2) < 2.5  # 14 correlated normal scores


def test_banzhaf_and_ame_converge_to_their_enumerated_values():
    n = 7
    X, y, X_test, y_test, losses = small_game(n)
    by_size = np.stack([mean_marginal(losses, n, s) for s in range(n)])
    from scipy.stats import binom

    banzhaf = np.tensordot(binom.pmf(np.arange(n), n - 1, 0.5), by_size, 1)
    law = np.mean([binom.pmf(np.arange(n), n - 1, p) for p in AME_PROBABILITIES], axis=0)
    ame = np.tensordot(law, by_size, 1)
    for sampling, truth, name in (("bernoulli", banzhaf, "banzhaf"), ("ame", ame, "ame")):
        ensemble = SubsetEnsemble(1000, sampling=sampling, warm_start=True, random_state=1)
        ensemble.fit(Ridge().fit(X, y), X, y)
        found = getattr(ensemble, name)(X_test, y_test)
        assert np.mean(z_scores(found, truth) ** 2) < 2.5
        np.testing.assert_allclose(ensemble.influence(X_test, y_test), found.value)


def test_published_semivalues_of_the_banzhaf_interval_cover():
    """95 % intervals of maximum-sample-reuse Banzhaf cover the enumerated value at their nominal rate."""
    n = 7
    *_, losses = small_game(n)
    from scipy.stats import binom

    by_size = np.stack([mean_marginal(losses, n, s) for s in range(n)])
    truth = np.tensordot(binom.pmf(np.arange(n), n - 1, 0.5), by_size, 1)
    subsets = list(losses)
    table = np.array([losses[s] for s in subsets])
    members = np.array([[i in s for i in range(n)] for s in subsets])
    rng = np.random.default_rng(0)
    replications, covered = 400, np.zeros((2, n))
    for _ in range(replications):
        k = rng.integers(len(subsets), size=400)  # uniform over subsets: inclusion 1/2
        low, high = weighted_contrast(members[k], -table[k]).conf_int()
        covered += (low <= truth) & (truth <= high)
    rate = covered / replications
    assert rate.min() >= 0.90
    assert rate.max() <= 0.98
    # the mean over entries; one replication's entries are dependent, so its error is at most that of one entry
    assert rate.mean() == pytest.approx(0.95, abs=3 * np.sqrt(0.95 * 0.05 / replications))


def test_the_datamodel_of_all_masks_is_a_multiple_of_downsampling():
    n, m = 7, 4
    *_, losses = small_game(n)
    subsets = list(itertools.combinations(range(n), m))
    masks = np.array([[i in s for i in range(n)] for s in subsets])
    F = np.array([losses[s] for s in subsets])
    contrast = weighted_contrast(masks, -F).value
    M = masks - masks.mean(axis=0)
    coef, _ = ridge_datamodel(M, F - F.mean(axis=0), alpha=1e-10)
    expected = (n - 1) / n * (contrast - contrast.mean(axis=1, keepdims=True))
    np.testing.assert_allclose(-coef, expected, atol=1e-8)


def test_standard_errors_of_the_datamodel_are_those_of_least_squares():
    rng = np.random.default_rng(0)
    M = (rng.random((200, 5)) < 0.5).astype(float)
    F = M @ rng.normal(size=(5, 3)) + rng.normal(size=(200, 3))
    import statsmodels.api as sm

    coef, error = ridge_datamodel(M - M.mean(axis=0), F - F.mean(axis=0), alpha=1e-9)
    for k in range(3):
        fit = sm.OLS(F[:, k], sm.add_constant(M)).fit()
        np.testing.assert_allclose(coef[k], fit.params[1:], rtol=1e-6)
        np.testing.assert_allclose(error[k], fit.bse[1:], rtol=1e-6)


@pytest.fixture(scope="module")
def iris_ensemble():
    X, y = load_iris(return_X_y=True)
    y = y.copy()
    flipped = np.arange(0, 75, 15)
    train = np.arange(0, 150, 2)
    y_train = y[train]
    y_train[flipped] = (y_train[flipped] + 1) % 3
    pipe = make_pipeline(StandardScaler(), LogisticRegression())
    ensemble = SubsetEnsemble(120, random_state=0).fit(pipe, X[train], y_train)
    return ensemble, X[1::2], y[1::2], flipped


def test_mislabelled_records_are_memorised_and_inconsistent(iris_ensemble):
    ensemble, *_, flipped = iris_ensemble
    bad = np.zeros(75, dtype=bool)
    bad[flipped] = True
    memorised, consistent = ensemble.memorization(), ensemble.consistency_score()
    assert memorised.value[bad].mean() > 5 * np.abs(memorised.value[~bad]).mean()
    assert consistent.value[bad].max() < np.quantile(consistent.value[~bad], 0.1)
    np.testing.assert_allclose(ensemble.self_influence(), memorised.value)
    assert set(np.argsort(-memorised.value)[:5]) == set(flipped)


def test_influence_carries_its_standard_errors_and_tests(iris_ensemble):
    ensemble, X_test, y_test, flipped = iris_ensemble
    values = ensemble.influence(X_test, y_test)
    found = ensemble.downsampling(X_test, y_test)
    np.testing.assert_allclose(values, found.value)
    np.testing.assert_allclose(ensemble.influence_std_, found.std_error)
    table = ensemble.influential(X_test, y_test, q=0.1)
    assert len(set(table["row"]) & set(flipped)) >= 2
    assert (table.loc[table["row"].isin(flipped), "effect"] == "hurts").all()
    margins = ensemble.influence(X_test, y_test, target="margin")
    assert np.corrcoef(margins.ravel(), values.ravel())[0, 1] > 0.5
    masks, outputs = ensemble.lds_truth(X_test, y_test)
    datamodel = ensemble.datamodel(X_test, y_test).value
    assert linear_datamodeling_score(datamodel, masks, outputs).score > 0.6  # in sample
    lasso = ensemble.datamodel(X_test[:2], y_test[:2], alpha=0.01, kind="lasso")
    assert np.isnan(lasso.std_error).all()


def test_under_the_null_the_share_of_tests_with_a_discovery_is_at_most_q():
    """Outputs that do not depend on the masks: any discovery is false, so FDR is the chance of one."""
    rng = np.random.default_rng(0)
    q, replications = 0.2, 300
    any_found = 0
    for _ in range(replications):
        masks = rng.random((60, 25)) < 0.5
        found = weighted_contrast(masks, rng.normal(size=(60, 1)))
        values = MonteCarloValues(found.value[0], found.std_error[0], found.df[0])
        any_found += len(values.influential(q)) > 0
    assert any_found / replications < q + 3 * np.sqrt(q * (1 - q) / replications)


def test_bootstrap_gives_data_oob():
    X, y = load_iris(return_X_y=True)
    ensemble = SubsetEnsemble(60, sampling="bootstrap", random_state=0).fit(
        LogisticRegression(max_iter=500), X[::3], y[::3]
    )
    scores = ensemble.data_oob()
    assert (scores.value > 0).all()
    assert (scores.value < 1).all()
    assert ensemble.masks_.mean() == pytest.approx(1 - np.exp(-1), abs=0.03)
    outside = ~ensemble.masks_[:, 3]
    p = [
        m[0].predict_proba(X[[9]])[0, y[9]]
        for m, out in zip(ensemble._models, outside, strict=True)
        if out
    ]
    assert scores.value[3] == pytest.approx(np.mean(p))


def test_warm_starts_give_the_refits_of_the_estimator():
    X, y = load_iris(return_X_y=True)
    X = StandardScaler().fit_transform(X)
    model = LogisticRegression(solver="newton-cholesky", tol=1e-12).fit(X[::2], y[::2])
    values = [
        SubsetEnsemble(25, warm_start=warm, random_state=0)
        .fit(model, X[::2], y[::2])
        .influence(X[1::9], y[1::9])
        for warm in (False, True)
    ]
    np.testing.assert_allclose(values[0], values[1], atol=1e-5)


def test_subsets_that_lack_a_class_still_give_finite_losses():
    X, y = load_iris(return_X_y=True)
    rows = np.concatenate([np.arange(0, 20), np.arange(50, 70), [100]])
    ensemble = SubsetEnsemble(30, fraction=0.5, random_state=0).fit(
        LogisticRegression(max_iter=1000), X[rows], y[rows]
    )
    values = ensemble.influence(X[101:105], y[101:105])
    assert np.isfinite(values).all()
    assert (values[:, -1] > 0.5).all()  # the only record of its class
    one_class = ensemble._learner
    np.testing.assert_allclose(one_class.class_probabilities(None, X[:1])[0], one_class.shares)


# --- the same numbers, wherever they are computed ----------------------------------------------------------


def forest_values(**how):
    X, y = load_iris(return_X_y=True)
    ensemble = SubsetEnsemble(16, random_state=3, seeds=2, progress=False, **how)
    forest = RandomForestClassifier(2)
    return ensemble.fit(forest, X[::3], y[::3], X_val=X[1::30], y_val=y[1::30]).influence(
        X[1::30], y[1::30]
    )


def test_every_backend_gives_the_same_numbers():
    expected = forest_values()
    for backend in ("threading", "loky"):
        with joblib.parallel_config(backend=backend, n_jobs=2):
            np.testing.assert_array_equal(forest_values(n_jobs=2), expected)


def test_stored_outputs_serve_the_records_of_fit_alone(tmp_path):
    expected = forest_values()
    kept = forest_values(store="outputs", checkpoint_dir=tmp_path)
    np.testing.assert_array_equal(kept, expected)
    X, y = load_iris(return_X_y=True)
    ensemble = SubsetEnsemble(4, store="outputs", random_state=0).fit(
        LogisticRegression(max_iter=500), X[::3], y[::3]
    )
    with pytest.raises(ValueError, match="no models were kept"):
        ensemble.influence(X[1::3], y[1::3])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda X, y: SubsetEnsemble(1).fit(Ridge(), X, y), ValueError, "n_subsets"),
        (lambda X, y: SubsetEnsemble(fraction=1.0).fit(Ridge(), X, y), ValueError, "fraction"),
        (lambda X, y: SubsetEnsemble(sampling="all").fit(Ridge(), X, y), ValueError, "sampling"),
        (lambda X, y: SubsetEnsemble(2).fit(LinearSVC(), X, y > 0), TypeError, "predict_proba"),
        (lambda X, y: SubsetEnsemble(2).fit("model", X, y), TypeError, "scikit-learn estimator"),
        (lambda X, y: SubsetEnsemble(2).fit(LogisticRegression(), X, y * 0), ValueError, "two classes"),
        (lambda X, y: SubsetEnsemble(4).fit(Ridge(), X, y).banzhaf(X, y), ValueError, 'needs sampling="bernoulli"'),
        (lambda X, y: SubsetEnsemble(4).fit(Ridge(), X, y).ame(X, y), ValueError, 'needs sampling="ame"'),
        (
            lambda X, y: SubsetEnsemble(4, fraction=[0.3, 0.6]).fit(Ridge(), X, y).downsampling(X, y),
            ValueError, "one fraction",
        ),
        (
            lambda X, y: SubsetEnsemble(2, warm_start=True).fit(Ridge().fit(X, y), X, y, checkpoint_dir="x"),
            TypeError, "checkpoint_dir",
        ),
        (
            lambda X, y: SubsetEnsemble(2, checkpoint_dir="x").fit(Ridge(), X, y),
            ValueError, "random_state must be given",
        ),
        (lambda X, y: SubsetEnsemble(4).fit(LinearRegression(), X, np.append(y[1:], np.nan)), ValueError, "NaN"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_by_name(call, error, message):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(20, 2))
    with pytest.raises(error, match=message):
        call(X, X[:, 0] + rng.normal(size=20))
