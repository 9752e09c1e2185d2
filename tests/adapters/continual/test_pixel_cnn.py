"""PixelVAE: every value is predicted from those before it and from nothing else."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from sklearn.datasets import load_digits  # noqa: E402
from statml.adapters.continual import OpenVAEClassifier  # noqa: E402
from statml.adapters.continual.pixel_cnn import REACH, WIDTH, PixelCNN  # noqa: E402


def model(shape, seed=0):
    torch.manual_seed(seed)
    cnn = PixelCNN(shape)
    return cnn.eval(), torch.randn(1, *cnn.decoded_shape)


@pytest.mark.parametrize("shape", [(1, 5, 6), (3, 4, 4)])
def test_a_value_depends_on_all_values_before_it_and_on_none_after(shape):
    """Raster order, and within a pixel the order of colours; gradients of each logit to the image."""
    cnn, decoded = model(shape)
    image = torch.rand(1, *shape, requires_grad=True)
    logits = cnn.logits(image, decoded)
    colours, height, width = shape
    place = {
        (c, i, j): (i * width + j) * colours + c
        for c in range(colours)
        for i in range(height)
        for j in range(width)
    }
    order = np.array([place[c, i, j] for c, i, j in np.ndindex(shape)]).reshape(shape)
    for at, rank in place.items():
        (gradient,) = torch.autograd.grad(
            logits[0, :, *at].square().sum(), image, retain_graph=True
        )
        np.testing.assert_array_equal(gradient[0].numpy()[order >= rank], 0)
        # no blind spot: what comes before within reach is seen
        assert (gradient[0].numpy()[order < rank] != 0).all()


def test_the_decoder_matters_and_the_likelihood_has_the_shape_of_the_images():
    cnn, decoded = model((6, 5))
    X = torch.rand(3, 6, 5)
    nll = cnn.nll(X, decoded.expand(3, -1, -1, -1))
    assert nll.shape == X.shape
    assert not torch.equal(nll, cnn.nll(X, torch.zeros(3, WIDTH, 6, 5)))


def test_drawing_needs_only_the_rows_within_reach():
    """Taller than the reach: the last row's logits from a crop are those of the whole image."""
    height = REACH + 5
    cnn, decoded = model((height, 4))
    image = torch.rand(1, 1, height, 4)
    whole = cnn.logits(image, decoded)[..., -1, :]
    top = height - 1 - REACH
    cropped = cnn.logits(image[:, :, top:], decoded[:, :, top:])[..., -1, :]
    torch.testing.assert_close(whole, cropped)
    further = cnn.logits(image[:, :, top + 1 :], decoded[:, :, top + 1 :])[..., -1, :]
    assert not torch.allclose(whole, further, atol=1e-7)


def test_draws_have_the_distribution_that_the_likelihood_states():
    """Of one pixel: mean and variance of draws against the softmax, within four standard errors; grey levels on the grid."""
    cnn, decoded = model((1, 1))
    n = 4000
    with torch.no_grad():
        drawn = cnn.records(decoded.expand(n, -1, -1, -1), np.random.default_rng(0)).numpy()
        p = cnn.logits(torch.zeros(1, 1, 1, 1), decoded)[0, :, 0, 0, 0].softmax(0).double().numpy()
    levels = np.arange(256) / 255
    mean = (p * levels).sum()
    variance = (p * (levels - mean) ** 2).sum()
    assert abs(drawn.mean() - mean) < 4 * np.sqrt(variance / n)
    assert abs(drawn.var() - variance) < 4 * variance * np.sqrt(2 / n)
    np.testing.assert_allclose(drawn * 255, np.round(drawn * 255), atol=1e-4)


def test_it_learns_that_pixels_copy_their_neighbours():
    """Rows of one random grey level of two: one bit for the first pixel of a row, and nothing for the others."""
    torch.manual_seed(0)
    cnn = PixelCNN((2, 4))
    decoded = torch.zeros(24, *cnn.decoded_shape)
    optimizer = torch.optim.Adam(cnn.parameters(), 3e-3)
    for _ in range(50):
        X = torch.randint(0, 2, (24, 2, 1)).float().expand(-1, -1, 4)
        loss = cnn.nll(X, decoded).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    values = cnn.nll(X, decoded).detach().mean((0, 1))
    assert float(values[0]) == pytest.approx(np.log(2), abs=0.1)
    assert float(values[1:].max()) < 0.1
    rows = cnn.records(decoded[:20], np.random.default_rng(0)).detach().numpy()
    assert np.mean(rows[..., 1:] == rows[..., :-1]) > 0.9


def test_tasks_are_learned_replayed_and_kept_in_a_file(tmp_path):
    X, y = load_digits(return_X_y=True)
    X = (X[:300] / 16).reshape(-1, 4, 2, 4, 2).mean((2, 4))
    y = y[:300]
    chosen = y < 2
    learner = OpenVAEClassifier(
        "conv",
        hidden=(8, 8),
        latent_dim=4,
        likelihood="pixelcnn",
        max_steps=15,
        replay_size=8,
        random_state=0,
    ).fit(X[chosen], y[chosen])
    assert learner.history_[-1]["reconstruction"] < np.log(256)
    drawn = learner.sample(4, random_state=0)
    assert drawn.X.shape == (4, 4, 4)
    np.testing.assert_array_equal(drawn.X, learner.sample(4, random_state=0).X)
    learner.save(tmp_path / "model")
    again = OpenVAEClassifier.load(tmp_path / "model")
    np.testing.assert_array_equal(again.outlier_proba(X[:5]), learner.outlier_proba(X[:5]))
    second = (y == 2) | (y == 3)
    again.partial_fit(X[second], y[second])
    assert again.classes_.tolist() == [0, 1, 2, 3]


def test_only_images_have_pixels():
    with pytest.raises(ValueError, match="takes images"):
        PixelCNN((64,))
