import numpy as np
import pytest
import scipy.sparse as sp
import statsmodels.api as sm

from statml.inference import sandwich


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    x = sm.add_constant(rng.normal(size=(60, 2)))
    clusters = rng.integers(0, 9, size=60)
    return x, clusters, rng


@pytest.fixture(params=["linear", "poisson"])
def fit(request, data):
    """A statsmodels model, with the inverse of its information and its scores."""
    x, _, rng = data
    if request.param == "linear":
        model = sm.OLS(x @ [1.0, 0.5, 0.0] + rng.normal(size=60) * (1 + x[:, 1] ** 2), x)
        residuals, weights = model.fit().resid, np.ones(60)
    else:
        family = sm.families.Poisson()
        model = sm.GLM(rng.poisson(np.exp(x @ [0.5, 0.3, 0.0])), x, family=family)
        mean = model.fit(tol=1e-12).fittedvalues
        residuals, weights = model.endog - mean, mean
    return model, np.linalg.inv(x.T @ (weights[:, None] * x)), residuals[:, None] * x


@pytest.mark.parametrize("convert", [np.asarray, sp.csr_array, sp.coo_matrix])
def test_without_clusters_it_is_the_hc0_covariance(fit, convert):
    model, bread, scores = fit
    expected = model.fit(cov_type="HC0").cov_params()
    np.testing.assert_allclose(sandwich(bread, convert(scores)), expected, rtol=1e-6)


@pytest.mark.parametrize("convert", [np.asarray, sp.csr_array])
def test_with_clusters_it_is_the_cluster_covariance_without_small_sample_factor(fit, data, convert):
    model, bread, scores = fit
    _, clusters, _ = data
    expected = model.fit(
        cov_type="cluster", cov_kwds={"groups": clusters, "use_correction": False}
    ).cov_params()
    found = sandwich(bread, convert(scores), clusters)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    names = np.array([f"cluster {k}" for k in clusters])
    np.testing.assert_array_equal(sandwich(bread, convert(scores), names), found)


def test_a_cluster_an_observation_changes_nothing(fit):
    _, bread, scores = fit
    order = np.random.default_rng(1).permutation(60)
    np.testing.assert_allclose(sandwich(bread, scores, order), sandwich(bread, scores))


def test_some_rows_of_the_bread_give_their_block_of_the_covariance(fit):
    _, bread, scores = fit
    np.testing.assert_allclose(sandwich(bread[:2], scores), sandwich(bread, scores)[:2, :2])


def test_sparse_bread_gives_a_dense_covariance(fit):
    _, bread, scores = fit
    found = sandwich(sp.csr_array(bread), sp.csr_array(scores))
    assert isinstance(found, np.ndarray)
    np.testing.assert_allclose(found, sandwich(bread, scores))


def test_bad_input_is_refused():
    scores = np.ones((4, 2))
    with pytest.raises(ValueError, match=r"one column a parameter each, got shapes \(3, 3\)"):
        sandwich(np.eye(3), scores)
    with pytest.raises(ValueError, match="scores contains NaN"):
        sandwich(np.eye(2), np.full((4, 2), np.nan))
    with pytest.raises(ValueError, match=r"one label for each of 4 scores, got \(3,\)"):
        sandwich(np.eye(2), scores, clusters=[0, 1, 1])
    with pytest.raises(ValueError, match="missing labels"):
        sandwich(np.eye(2), scores, clusters=[0, 1, 1, np.nan])
