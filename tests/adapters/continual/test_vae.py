"""The joint model: divergence, shapes of any size, and a classifier that grows."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from statml.adapters.continual.likelihoods import Bernoulli, Gaussian  # noqa: E402
from statml.adapters.continual.vae import (  # noqa: E402
    VAE,
    convolutional_coder,
    kl_divergence,
    mlp_coder,
)


def small(shape=(5, 4), n_classes=3, latent_dim=4):
    return VAE(shape, n_classes, *mlp_coder(shape, latent_dim, (8,)), latent_dim)


def test_the_divergence_of_a_gaussian_is_known_and_blind_to_the_sign_of_the_scale():
    mean = torch.tensor([[0.5, -1.0, 0.0]], dtype=torch.float64)
    scale = torch.tensor([[0.8, -0.5, 1.2]], dtype=torch.float64)
    kl = kl_divergence(mean, scale)
    np.testing.assert_allclose(kl[0], [0.168144, 0.818147, 0.037678], atol=1e-6)
    assert float(kl.sum()) == pytest.approx(1.023969, abs=1e-6)
    torch.testing.assert_close(kl, kl_divergence(mean, -scale))


def test_divergence_is_information_plus_the_distance_of_the_aggregate_posterior():
    """E KL(q(z|x) || p) = KL(q || p) + I(x; z), for two Gaussians at -2 and 2."""
    centres, scale = torch.tensor([[-2.0], [2.0]], dtype=torch.float64), torch.full((2, 1), 0.5)
    mean_kl = float(kl_divergence(centres, scale.double()).mean())
    z = np.linspace(-8, 8, 160_001)
    normal = lambda m, s: np.exp(-0.5 * ((z - m) / s) ** 2) / (s * np.sqrt(2 * np.pi))  # noqa: E731
    parts = [normal(m, 0.5) for m in (-2, 2)]
    q, p = (parts[0] + parts[1]) / 2, normal(0, 1)
    step = z[1] - z[0]
    kl_of_q = float((q * np.log(q / p)).sum() * step)
    information = float(
        sum(0.5 * (a * np.log(np.maximum(a, 1e-300) / q)).sum() for a in parts) * step
    )
    assert kl_of_q == pytest.approx(1.625094, abs=1e-5)
    assert mean_kl == pytest.approx(2.318147, abs=1e-6)
    assert kl_of_q + information == pytest.approx(mean_kl, abs=1e-5)


def test_old_rows_of_the_classifier_stay_bit_for_bit():
    module = small()
    before = module.classifier.weight.clone()
    module.grow(7)
    assert module.classifier.weight.shape == (7, 4)
    assert torch.equal(before, module.classifier.weight[:3])
    module.grow(5)
    assert module.classifier.out_features == 7


@pytest.mark.parametrize("shape", [(7,), (5, 4), (3, 6, 5)])
def test_the_fully_connected_coder_takes_records_of_any_shape(shape):
    module = VAE(shape, 2, *mlp_coder(shape, 3, (8, 6)), 3)
    logits, decoded, mean, scale = module(torch.rand(4, *shape))
    assert logits.shape == (4, 2)
    assert decoded.shape == (4, *shape)
    assert mean.shape == scale.shape == (4, 3)


@pytest.mark.parametrize("shape", [(28, 28), (1, 9, 13), (3, 17, 8)])
def test_the_convolutional_coder_takes_images_of_any_size(shape):
    module = VAE(shape, 2, *convolutional_coder(shape, 3, (4, 6)), 3)
    assert module(torch.rand(4, *shape))[1].shape == (4, *shape)


def test_noise_is_added_in_training_only():
    module = VAE((6,), 2, *mlp_coder((6,), 3, ()), 3, noise=0.5)
    X = torch.rand(4, 6)
    means = [module.train()(X)[2] for _ in range(2)]
    assert not torch.equal(*means)
    means = [module.eval()(X)[2] for _ in range(2)]
    assert torch.equal(*means)


def test_the_reconstruction_error_is_a_log_likelihood():
    X, logits = torch.tensor([[0.0, 1.0, 0.3]]), torch.tensor([[-1.0, 2.0, 0.0]])
    p = logits.sigmoid()
    expected = -(X * p.log() + (1 - X) * (1 - p).log())
    torch.testing.assert_close(Bernoulli((3,)).nll(X, logits), expected)
    torch.testing.assert_close(Gaussian((3,)).nll(X, logits), 0.5 * (X - logits) ** 2)
