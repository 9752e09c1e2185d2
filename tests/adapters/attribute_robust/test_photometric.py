"""Light, colour, blur, noise and coarse degradations: closed forms, identities, derivatives."""

import io

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from scipy import ndimage  # noqa: E402
from statml.adapters.attribute_robust import (  # noqa: E402
    Blur,
    Brightness,
    Contrast,
    Gamma,
    Hue,
    Jpeg,
    Noise,
    Pixelate,
    Saturation,
)

ALL = [
    Brightness(0.3),
    Contrast(0.5, 1.5),
    Gamma(0.5, 2),
    Hue(60),
    Saturation(0, 2),
    Blur(1.5),
    Noise(0.5),
    Pixelate(4),
    Jpeg(60),
]
SMOOTH = [a for a in ALL if a.differentiable]
LUMINANCE = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)


def images(channels=3, height=28, width=20, dtype=torch.float64, n=4):
    return torch.rand(
        n, channels, height, width, dtype=dtype, generator=torch.Generator().manual_seed(0)
    )


def rows(value, n=4, dtype=torch.float64):
    return torch.full((n, 1), float(value), dtype=dtype)


def noise_of(attribute, x):
    return attribute.draw_noise(x, torch.Generator().manual_seed(1))


def by_name(attribute):
    return type(attribute).__name__


@pytest.mark.parametrize("attribute", ALL, ids=by_name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_clean_value_returns_the_image_bit_for_bit(attribute, dtype):
    x = images(dtype=dtype)
    x[:, :, :3] = 0  # black, where powers and quotients have their edge
    value = rows(attribute.clean[0], dtype=dtype)
    assert torch.equal(attribute.apply(x, value, noise_of(attribute, x)), x)


@pytest.mark.parametrize("attribute", ALL, ids=by_name)
def test_records_have_their_own_values(attribute):
    x, noise = images(), noise_of(attribute, images())
    value = torch.linspace(attribute.low[0], attribute.high[0], 4, dtype=torch.float64)[:, None]
    whole = attribute.apply(x, value, noise)
    for i in range(4):
        own = None if noise is None else noise[i : i + 1]
        part = attribute.apply(x[i : i + 1], value[i : i + 1], own)
        torch.testing.assert_close(whole[i : i + 1], part)


@pytest.mark.parametrize("attribute", SMOOTH, ids=by_name)
def test_derivatives_are_those_of_finite_differences(attribute):
    x = (0.1 + 0.8 * images(3, 6, 8, n=2)).requires_grad_()
    value = rows(attribute.clean[0] + 0.6 * (attribute.high[0] - attribute.clean[0]), 2)
    noise = noise_of(attribute, x)
    assert torch.autograd.gradcheck(
        lambda x, value: attribute.apply(x, value, noise), (x, value.requires_grad_())
    )


@pytest.mark.parametrize("attribute", [a for a in ALL if a.channels is None], ids=by_name)
@pytest.mark.parametrize("channels", [1, 3])
def test_the_farther_from_clean_the_stronger(attribute, channels):
    x = torch.from_numpy(ndimage.gaussian_filter(images(channels).numpy(), (0, 0, 1, 1)))
    noise = noise_of(attribute, x)
    steps = np.linspace(attribute.clean[0], attribute.high[0], 5)
    found = [(attribute.apply(x, rows(v), noise) - x).norm().item() for v in steps]
    assert found[0] == 0
    assert (np.diff(found) > 0).all()


def test_brightness_and_contrast_have_their_closed_forms():
    x = images()
    torch.testing.assert_close(Brightness(0.3).apply(x, rows(0.2)), x + 0.2)
    out = Contrast(0.5, 1.5).apply(x, rows(0.6))
    torch.testing.assert_close(out.mean((2, 3)), x.mean((2, 3)))
    torch.testing.assert_close(out.std((2, 3)), 0.6 * x.std((2, 3)))


def test_gamma_is_a_power_and_leaves_what_has_none():
    x = images()
    torch.testing.assert_close(Gamma(0.5, 2).apply(x, rows(1.7)), x**1.7)
    value = rows(0.5).requires_grad_()
    out = Gamma(0.5, 2).apply(torch.full((4, 1, 2, 2), -0.1, dtype=torch.float64), value)
    out.sum().backward()
    assert (out == -0.1).all()
    assert (value.grad == 0).all()


def test_hue_and_saturation_keep_luminance_and_grey():
    x = images()
    for attribute, value in ((Hue(180), 70), (Saturation(0, 2), 0.3)):
        out = attribute.apply(x, rows(value))
        change = torch.einsum("c,nchw->nhw", LUMINANCE, out - x)
        assert change.abs().max() < 1e-6
        grey = x[:, :1].expand(-1, 3, -1, -1)
        torch.testing.assert_close(attribute.apply(grey, rows(value)), grey, rtol=0, atol=1e-6)
    there = Hue(180).apply(x, rows(70))
    torch.testing.assert_close(Hue(180).apply(there, rows(-70)), x)
    grey = Saturation(0, 2).apply(x, rows(0))
    torch.testing.assert_close(grey[:, 0], torch.einsum("c,nchw->nhw", LUMINANCE, x))


def test_hue_turns_red_towards_green():
    red = torch.tensor([0.8, 0.2, 0.2], dtype=torch.float64).view(1, 3, 1, 1)
    out = Hue(180).apply(red, rows(120, 1)).flatten()
    assert out.argmax() == 1


@pytest.mark.parametrize("sd", [0.3, 1.0, 2.5])
def test_blur_is_scipys(sd):
    x = images()
    expected = ndimage.gaussian_filter(x.numpy(), sd, mode="reflect", axes=(2, 3), truncate=12)
    out = Blur(3).apply(x, rows(sd)).numpy()
    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-9)
    np.testing.assert_allclose(out.mean((2, 3)), x.numpy().mean((2, 3)), rtol=0, atol=1e-9)


def test_the_derivative_in_the_spread_of_noise_is_that_of_a_fixed_draw():
    x = images()
    attribute = Noise(0.5)
    noise = noise_of(attribute, x)
    weight = torch.randn(x[0].numel(), generator=torch.Generator().manual_seed(2)).double()

    def loss(sd):
        return torch.tanh(attribute.apply(x, sd, noise).flatten(1) @ weight / 20).sum()

    sd = rows(0.2).requires_grad_()
    loss(sd).backward()
    for i in range(4):
        step = torch.zeros_like(sd)
        step[i] = 1e-5
        numeric = (loss(sd + step) - loss(sd - step)) / 2e-5
        assert sd.grad[i].item() == pytest.approx(numeric.item(), rel=1e-6)


def test_noise_has_the_spread_that_was_asked_for_and_its_own_seed():
    x = torch.zeros(50, 1, 20, 20)
    attribute = Noise(0.5)
    first, again = (noise_of(attribute, x) for _ in range(2))
    assert torch.equal(first, again)
    sd = attribute.apply(x, rows(0.3, 50, torch.float32), first).std().item()
    assert abs(sd / 0.3 - 1) < 4 / np.sqrt(2 * x.numel())


def test_pixelate_gives_means_of_squares_also_at_the_rim():
    x = images(1, 7, 8)
    out = Pixelate(4).apply(x, rows(3))
    torch.testing.assert_close(
        out[:, :, :3, :3], x[:, :, :3, :3].mean((2, 3), True).expand(-1, -1, 3, 3)
    )
    torch.testing.assert_close(out[:, :, 6, 6:], x[:, :, 6, 6:].mean(-1, True).expand(-1, -1, 2))
    torch.testing.assert_close(out.mean(), x.mean())


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_pillows(channels):
    from PIL import Image

    x = images(channels, dtype=torch.float32)
    levels = (255 * x[0]).round().byte().permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(levels.squeeze()).save(file, "JPEG", quality=40)
    expected = np.asarray(Image.open(file)) / 255
    out = Jpeg(60).apply(x, rows(60, dtype=torch.float32))[0].permute(1, 2, 0).squeeze()
    np.testing.assert_allclose(out.numpy(), expected, atol=1e-6)


def test_boxes_reach_from_the_clean_value_to_both_sides_within_what_makes_sense():
    assert (Blur(1.6).low[0], Blur(1.6).high[0]) == (0, 1.6)
    assert (Noise(0.5).low[0], Noise(0.5).high[0]) == (0, 0.5)
    assert (Gamma(0.5).low[0], Gamma(0.5).high[0]) == (0.5, 1.5)
    assert (Pixelate(3).low[0], Pixelate(3).high[0]) == (1, 4)


def test_data_and_boxes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="Hue takes images of 3 channels"):
        Hue(10).check((5, 1, 28, 28))
    with pytest.raises(ValueError, match="Jpeg takes images of 1 or 3 channels"):
        Jpeg(10).check((5, 5, 28, 28))
    with pytest.raises(ValueError, match="at most 4 pixels, a quarter of the shorter side"):
        Blur(5).check((5, 1, 16, 28))
    with pytest.raises(ValueError, match="takes images of shape"):
        Brightness(0.1).check((5, 10))
    with pytest.raises(ValueError, match=r"takes values in \[0, inf\]"):
        Noise(-0.1, 0.5)
    with pytest.raises(ValueError, match=r"takes values in \[0, 99\]"):
        Jpeg(0, 100)
    with pytest.warns(UserWarning, match="box of contrast"):
        Contrast(0, 2).warn_of_labels()
    Noise(0.5).check((5, 10))  # any data have noise
