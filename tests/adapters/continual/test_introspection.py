"""Introspection: whose gradient which term is, and that fakes leave batch normalisation alone."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from sklearn.datasets import load_digits  # noqa: E402
from statml.adapters.continual import OpenVAEClassifier  # noqa: E402
from statml.adapters.continual.training import MARGIN, frozen_statistics, introspect  # noqa: E402
from statml.adapters.continual.vae import VAE, kl_divergence, mlp_coder  # noqa: E402


def network():
    torch.manual_seed(0)
    return VAE((6,), 2, *mlp_coder((6,), 3, (8,)), 3).train()


def test_each_side_gets_its_own_gradient():
    """Against two losses written out, the encoder's with images detached, the decoder's with the encoder's weights fixed."""
    module, X = network(), torch.rand(16, 6)
    encoder = [*module.encoder.parameters(), *module.mean.parameters(), *module.scale.parameters()]
    decoder = list(module.decoder.parameters())
    torch.manual_seed(1)
    decoded = module(X)[1]
    state = torch.get_rng_state()
    introspect(module, decoded, gamma=0.4, beta=0.1)

    torch.set_rng_state(state)
    fakes = [decoded.sigmoid(), module.decode(torch.randn(16, 3)).sigmoid()]
    kl = lambda x: kl_divergence(*module.encode(x)).mean(1)  # noqa: E731
    critic = sum((MARGIN / 3 - kl(x.detach())).clamp(min=0).mean() for x in fakes)
    expected = torch.autograd.grad(0.1 * 0.4 / 2 * critic, encoder, retain_graph=True)
    for parameter, gradient in zip(encoder, expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)
    expected = torch.autograd.grad(0.4 / 2 * sum(kl(x).mean() for x in fakes), decoder)
    for parameter, gradient in zip(decoder, expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)
        assert gradient.abs().max() > 0
    assert module.classifier.weight.grad is None


def test_batch_normalisation_does_not_learn_from_fakes():
    module = network()
    before = {k: v.clone() for k, v in module.named_buffers() if "running" in k}
    with frozen_statistics(module):
        module(10 * torch.rand(16, 6))
    for name, value in before.items():
        assert torch.equal(value, module.get_buffer(name))
    module(10 * torch.rand(16, 6))
    assert any(not torch.equal(v, module.get_buffer(k)) for k, v in before.items())


def test_what_is_decoded_from_the_prior_passes_better_and_digits_are_still_told_apart():
    """Divergence of decoded prior draws over that of digits: the decoder's terms make it smaller, in each of two seeds."""
    X, y = load_digits(return_X_y=True)
    X, X_test, y, y_test = X[::2] / 16, X[1::2] / 16, y[::2], y[1::2]
    for seed in (0, 1):
        ratios = []
        for weight in (0.0, 0.25):
            model = OpenVAEClassifier(
                hidden=(64,), latent_dim=10, max_steps=250, introspection=weight, random_state=seed
            ).fit(X, y)
            assert model.score(X_test, y_test) > 0.8
            rng = np.random.default_rng(0)
            fakes = model._trained().decode(rng.standard_normal((500, 10)), rng)
            latents = [model._trained().encode(A.astype(np.float32)) for A in (fakes, X_test)]
            kl = [kl_divergence(*map(torch.from_numpy, pair)).sum(1).mean() for pair in latents]
            ratios.append(float(kl[0] / kl[1]))
        assert ratios[1] < ratios[0]


def test_what_cannot_be_introspected_is_refused():
    X, y = np.random.default_rng(0).random((20, 4, 4)), np.arange(20) % 2
    with pytest.raises(ValueError, match="likelihood must not be 'pixelcnn'"):
        OpenVAEClassifier("conv", likelihood="pixelcnn", introspection=0.25).fit(X, y)
    with pytest.raises(ValueError, match="accelerate must be None"):
        OpenVAEClassifier(introspection=0.25, accelerate={}).fit(X, y)
