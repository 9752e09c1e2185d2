"""The corruptions of CIFAR-10-C: each against its definition, and how strength goes with severity."""

import io
import math

import numpy as np
import pytest
from scipy import ndimage

pytest.importorskip("torch")
skimage = pytest.importorskip("skimage")

from skimage import color, data, transform  # noqa: E402
from statml.adapters.attribute_robust.cifar_corruptions import (  # noqa: E402
    CORRUPTIONS,
    _magnified,
    _plasma,
    _streaks,
    corrupt,
)

# severities at which the constants themselves do not get stronger one by one
NOT_MONOTONE = {"glass_blur", "saturate", "elastic_transform", "snow"}
GREY_TOO = [name for name in CORRUPTIONS if name != "saturate"]


@pytest.fixture(scope="module")
def photographs():
    """Two photographs of 32 x 32 pixels, shape (2, 3, 32, 32)."""
    images = [
        transform.resize(load(), (32, 32), anti_aliasing=True)
        for load in (data.astronaut, data.coffee)
    ]
    return np.clip(np.stack(images).transpose(0, 3, 1, 2), 0, 1)


def hsv(images):
    return color.rgb2hsv(images.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


def rgb(images):
    return color.hsv2rgb(images.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


def strength(images, name, severity):
    out = corrupt(images, name, severity, random_state=0)
    return math.sqrt(((out - images) ** 2).mean())


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_it_is_stronger_the_higher_the_severity(name, photographs):
    found = [strength(photographs, name, severity) for severity in range(1, 6)]
    assert found[0] > 0.005
    if name in NOT_MONOTONE:
        # by the constants: displacement falls while distortion grows, saturation goes down and then up,
        # snow's threshold and threads of glass take turns
        within = {"saturate": [(0, 1), (2, 4)], "glass_blur": [(0, 3), (2, 4)]}
        for low, high in within.get(name, [(0, 2)] if name == "snow" else []):
            assert found[high] > found[low]
    else:
        # equal up to rounding at worst: motion_blur has the same sd at severities 3 and 4
        assert (np.diff(found) > -1e-3).all()
        assert found[4] > 1.3 * found[0]


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_the_same_seed_gives_the_same_image_in_range_and_the_input_is_left_alone(name, photographs):
    x = photographs.astype(np.float32)
    before = x.copy()
    out = corrupt(x, name, 3, random_state=1)
    assert (out.dtype, out.shape) == (np.float32, x.shape)
    assert out.min() >= 0
    assert out.max() <= 1
    np.testing.assert_array_equal(out, corrupt(x, name, 3, random_state=1))
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("name", GREY_TOO)
def test_grey_images_of_any_size_are_taken(name):
    x = np.random.default_rng(0).random((3, 20, 26))
    out = corrupt(x, name, 5, random_state=0)
    assert out.shape == x.shape
    assert np.isfinite(out).all()
    with_channel = corrupt(x[:, None], name, 5, random_state=0)
    np.testing.assert_array_equal(with_channel[:, 0], out)


@pytest.mark.parametrize(
    ("name", "sd"),
    [
        ("gaussian_noise", lambda x: np.full_like(x, 0.10)),
        ("shot_noise", lambda x: np.sqrt(x / 50)),
        ("speckle_noise", lambda x: 0.2 * x),
    ],
)
def test_noise_has_the_mean_and_the_spread_of_its_model(name, sd):
    # mid-grey images, so that nothing is clipped
    x = np.random.default_rng(0).uniform(0.4, 0.45, (40, 3, 16, 16))
    residuals = (corrupt(x, name, 5, random_state=0) - x) / sd(x)
    n = x.size
    assert abs(residuals.mean()) < 4 / math.sqrt(n)
    assert abs(residuals.std() - 1) < 4 / math.sqrt(2 * n)


def test_impulse_noise_turns_the_stated_share_of_values_black_or_white():
    x = np.full((30, 3, 32, 32), 0.5)
    out = corrupt(x, "impulse_noise", 5, random_state=0)
    hit = out != 0.5
    assert set(np.unique(out)) == {0.0, 0.5, 1.0}
    assert abs(hit.mean() - 0.07) < 4 * math.sqrt(0.07 * 0.93 / x.size)
    assert abs(out[hit].mean() - 0.5) < 4 * math.sqrt(0.25 / hit.sum())


def test_blurs_keep_a_flat_image_and_total_light():
    flat = np.full((2, 3, 32, 32), 0.3)
    point = np.zeros((1, 1, 33, 33))
    point[0, 0, 16, 16] = 1
    for name in ("gaussian_blur", "defocus_blur", "motion_blur", "zoom_blur", "glass_blur"):
        np.testing.assert_allclose(corrupt(flat, name, 5, random_state=0), flat, atol=1e-12)
    for name in ("gaussian_blur", "defocus_blur", "motion_blur", "glass_blur"):
        assert corrupt(point, name, 5, random_state=0).sum() == pytest.approx(1, abs=1e-9)


def test_gaussian_blur_and_defocus_have_their_kernels():
    point = np.zeros((1, 1, 33, 33))
    point[0, 0, 16, 16] = 1
    blurred = corrupt(point, "gaussian_blur", 5)[0, 0]
    np.testing.assert_allclose(blurred, ndimage.gaussian_filter(point[0, 0], 1.0), atol=1e-12)
    # radius 1.5 holds the nine pixels of a 3 x 3 square; sd 0.1 does not smooth it
    defocused = corrupt(point, "defocus_blur", 5)[0, 0]
    np.testing.assert_allclose(defocused[15:18, 15:18], np.full((3, 3), 1 / 9), atol=1e-12)


def test_motion_blur_is_half_a_gaussian_along_its_line():
    point = np.zeros((1, 1, 33, 33))
    point[0, 0, 16, 24] = 1
    out = _streaks(point, 6, 2.0, np.array([0.0]))[0, 0]
    expected = np.exp(-(np.arange(13) ** 2) / 8)
    np.testing.assert_allclose(out[16, 24 - np.arange(13)], expected / expected.sum())
    assert out.sum() == pytest.approx(1)


def test_zoom_blur_magnifies_about_the_centre():
    ramp = np.broadcast_to(np.linspace(0, 1, 33), (1, 1, 33, 33))
    magnified = _magnified(ramp, 1.25)[0, 0, 16]
    np.testing.assert_allclose(magnified, 0.5 + np.linspace(-0.5, 0.5, 33) / 1.25, atol=1e-12)


def test_fog_is_a_rough_field_over_the_unit_range_and_fades_what_is_below():
    rough, smooth = (_plasma(32, decay, np.random.default_rng(0)) for decay in (1.5, 3))
    for field in (rough, smooth):
        assert (field.min(), field.max()) == (0, 1)
    steps = [np.abs(np.diff(field, axis=1)).mean() for field in (rough, smooth)]
    assert steps[0] > 2 * steps[1]
    x = np.random.default_rng(0).random((200, 1, 32, 32))
    out = corrupt(x, "fog", 4, random_state=0)
    slope = np.polyfit(x.ravel(), out.ravel(), 1)[0]
    assert slope == pytest.approx(
        1 / (1 + 1), abs=0.02
    )  # the range of [0, 1 + amount] becomes [0, 1]


def test_brightness_and_saturation_are_those_of_hsv(photographs):
    raised = hsv(photographs)
    raised[:, 2] = np.clip(raised[:, 2] + 0.3, 0, 1)
    np.testing.assert_allclose(
        corrupt(photographs, "brightness", 5), rgb(raised), rtol=0, atol=1e-10
    )
    saturated = hsv(photographs)
    saturated[:, 1] = np.clip(2.5 * saturated[:, 1] + 0.2, 0, 1)
    np.testing.assert_allclose(
        corrupt(photographs, "saturate", 5), rgb(saturated), rtol=0, atol=1e-10
    )


def test_grey_pixels_and_black_ones_are_no_special_case():
    x = np.zeros((1, 3, 4, 4))
    x[0, :, 0] = 0.5  # grey; the rest is black
    brighter = hsv(x)
    brighter[:, 2] = np.clip(brighter[:, 2] + 0.3, 0, 1)
    np.testing.assert_allclose(corrupt(x, "brightness", 5), rgb(brighter), atol=1e-12)
    saturated = hsv(x)
    saturated[:, 1] = np.clip(2.5 * saturated[:, 1] + 0.2, 0, 1)
    np.testing.assert_allclose(corrupt(x, "saturate", 5), rgb(saturated), atol=1e-12)


def test_contrast_keeps_the_means_and_shrinks_the_spread(photographs):
    out = corrupt(photographs, "contrast", 4)
    np.testing.assert_allclose(out.mean((2, 3)), photographs.mean((2, 3)))
    np.testing.assert_allclose(out.std((2, 3)), 0.3 * photographs.std((2, 3)))


def test_jpeg_and_pixelate_are_pillows(photographs):
    from PIL import Image

    image = Image.fromarray(np.rint(255 * photographs[0]).astype(np.uint8).transpose(1, 2, 0))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=40)
    expected = np.asarray(Image.open(file)).transpose(2, 0, 1) / 255
    np.testing.assert_allclose(corrupt(photographs, "jpeg_compression", 5)[0], expected)
    small = image.resize((20, 20), Image.Resampling.BOX)
    expected = np.asarray(small.resize((32, 32), Image.Resampling.BOX)).transpose(2, 0, 1) / 255
    np.testing.assert_allclose(corrupt(photographs, "pixelate", 5)[0], expected)


def test_elastic_transform_of_severity_one_is_an_affine_map():
    rows, columns = np.mgrid[:32, :32] / 31
    x = np.stack([rows, columns])[:, None]
    out = corrupt(x, "elastic_transform", 1, random_state=3)
    # coordinates mapped affinely are affine in the coordinates, away from the mirrored border
    inner = (slice(8, 24), slice(8, 24))
    for k in range(2):
        design = np.c_[rows[inner].ravel(), columns[inner].ravel(), np.ones(256)]
        _, residuals, _, _ = np.linalg.lstsq(design, out[k, 0][inner].ravel())
        assert residuals < 1e-20
    assert np.abs(out - x).max() > 0.02


def test_snow_whitens_and_never_darkens(photographs):
    out = corrupt(photographs, "snow", 3, random_state=0)
    assert (out >= photographs - 1e-12).all()
    assert out.mean() > photographs.mean() + 0.05


@pytest.mark.parametrize(
    ("images", "name", "message"),
    [
        (np.zeros((2, 8, 8, 3)), "fog", "channels stand last"),
        (np.zeros((2, 4, 8, 8)), "fog", "with 1 or 3 channels"),
        (np.full((1, 3, 8, 8), 255.0), "fog", r"must lie in \[0, 1\], got values from 255 to 255"),
        (np.full((1, 3, 8, 8), np.nan), "fog", r"must lie in \[0, 1\]"),
        (np.zeros((1, 1, 8, 8)), "saturate", "three channels"),
        (np.zeros((1, 3, 8, 8)), "frost", "corruption must be"),
    ],
)
def test_images_that_do_not_fit_are_refused(images, name, message):
    with pytest.raises(ValueError, match=message):
        corrupt(images, name, 1)


def test_no_images_are_no_error():
    assert corrupt(np.zeros((0, 3, 8, 8)), "fog", 1).shape == (0, 3, 8, 8)
