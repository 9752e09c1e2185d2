"""The two scores of rejection on latents and errors that are known."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from scipy.spatial.distance import mahalanobis  # noqa: E402
from sklearn.covariance import LedoitWolf  # noqa: E402
from statml.adapters.continual.likelihoods import Gaussian  # noqa: E402
from statml.adapters.continual.rejection import Typicality  # noqa: E402
from statml.adapters.continual.trained import Trained  # noqa: E402
from statml.adapters.continual.vae import VAE, mlp_coder  # noqa: E402

D = 3


def trained():
    """A model whose latent is the record itself and whose class is the sign of the first value."""
    module = VAE((D,), 2, *mlp_coder((D,), D, ()), D, likelihood=Gaussian((D,)))
    with torch.no_grad():
        module.mean.weight.copy_(torch.eye(D))
        module.classifier.weight.copy_(torch.tensor([[-1.0, 0, 0], [1.0, 0, 0]]))
    return Trained(module, "cpu", np.zeros((1, D)))


def records(rng, n, spread=(0.3, 1.0, 0.01)):
    """Two classes at -4 and 4, that hardly vary in the third direction."""
    codes = rng.integers(2, size=n)
    X = rng.normal(size=(n, D)) * spread
    X[:, 0] += np.where(codes == 1, 4, -4)
    return X.astype(np.float32), codes


def test_the_latent_score_is_the_distance_by_the_covariance_within_classes():
    rng = np.random.default_rng(0)
    X, codes = records(rng, 4000)
    means = np.stack([X[codes == c].mean(0) for c in (0, 1)])
    typical = Typicality.of(trained(), X, codes, means)
    within = LedoitWolf(assume_centered=True).fit(X - means[codes]).covariance_
    np.testing.assert_allclose(typical.covariance, within, atol=1e-5)
    scores = typical.scores(trained(), X[:5])
    inverse = np.linalg.inv(typical.covariance)
    for x, c, found in zip(X[:5], codes[:5], scores[:, 0], strict=True):
        assert found == pytest.approx(mahalanobis(x, means[c], inverse) ** 2, rel=1e-4)


def test_a_step_where_nothing_known_varies_is_seen_by_the_latent_score():
    rng = np.random.default_rng(1)
    X, codes = records(rng, 2000)
    means = np.stack([X[codes == c].mean(0) for c in (0, 1)])
    typical = Typicality.of(trained(), X, codes, means)
    foreign = X[:200] + np.float32([0, 0, 0.2])
    known = typical.scores(trained(), X)[:, 0]
    assert (typical.scores(trained(), foreign)[:, 0] > np.quantile(known, 0.99)).mean() > 0.99
    step = np.linalg.norm(foreign - means[codes[:200]], axis=1)
    euclid = np.linalg.norm(X - means[codes], axis=1)
    assert (step > np.quantile(euclid, 0.99)).mean() < 0.05


def test_the_reconstruction_score_counts_spreads_of_the_class_both_ways():
    typical = Typicality(np.zeros((2, D)), np.eye(D), np.array([0.0, 1.0]), np.array([1.0, 0.5]))
    model = trained()
    model.reconstruction_nll = lambda X, mean: np.exp([2.0, -2.0, 2.0])
    X = np.float32([[-1, 0, 0], [-1, 0, 0], [1, 0, 0]])
    np.testing.assert_allclose(typical.scores(model, X)[:, 1], [2, 2, 2])


def test_where_no_record_is_classified_correctly_all_count():
    rng = np.random.default_rng(2)
    X, codes = records(rng, 100)
    typical = Typicality.of(trained(), X, 1 - codes, np.zeros((2, D)))
    assert np.isfinite(typical.scores(trained(), X)).all()
