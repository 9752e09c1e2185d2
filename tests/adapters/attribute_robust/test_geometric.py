"""Images turned, moved, scaled and sheared: exact cases, composition, derivatives."""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from scipy import ndimage  # noqa: E402
from statml.adapters.attribute_robust import (  # noqa: E402
    Chain,
    Rotation,
    Scale,
    Shear,
    Translate,
)
from statml.adapters.attribute_robust.geometric import (  # noqa: E402
    affine_warp,
    rotation_matrix,
    scale_matrix,
    shear_matrix,
    translation_matrix,
)

ALL = [Rotation(45), Translate(0.2), Scale(0.7, 1.3), Shear(20)]


def images(channels=3, height=28, width=20, dtype=torch.float64, n=4):
    return torch.rand(
        n, channels, height, width, dtype=dtype, generator=torch.Generator().manual_seed(0)
    )


def rows(*values, n=4, dtype=torch.float64):
    return torch.tensor([values], dtype=dtype).expand(n, -1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
def test_clean_values_return_the_image_bit_for_bit(channels, padding, dtype):
    x = images(channels, 29, 17, dtype)
    attributes = [(Rotation, 45), (Translate, 0.2), (Scale, 0.3), (Shear, 20)]
    chain = Chain([kind(reach, padding=padding) for kind, reach in attributes])
    value = torch.tensor(chain.clean, dtype=dtype).expand(4, -1)
    assert torch.equal(chain.apply(x, value, [None] * 4), x)


def test_a_clean_record_among_others_is_exact_and_the_others_move():
    x = images(dtype=torch.float32)
    value = torch.tensor([[0.0], [30.0], [0.0], [-5.0]])
    out = Rotation(45).apply(x, value)
    assert torch.equal(out[[0, 2]], x[[0, 2]])
    assert (out[[1, 3]] - x[[1, 3]]).abs().amax((1, 2, 3)).min() > 0.1


def test_a_quarter_turn_is_rot90():
    x = images(height=20)
    for turns in (1, 2, 3):
        out = Rotation(-90, 270).apply(x, rows(90.0 * turns))
        torch.testing.assert_close(out, torch.rot90(x, turns, (2, 3)), rtol=0, atol=1e-12)


def test_a_translation_by_whole_pixels_is_a_shift_to_the_right_and_down():
    x = images()
    out = Translate(0.2).apply(x, rows(3 / 20, -2 / 28))
    torch.testing.assert_close(out[:, :, :-2, 3:], x[:, :, 2:, :-3], rtol=0, atol=1e-12)
    assert (out[..., :3] == 0).all()


def test_a_third_column_of_two_pixels_width_moves_the_image_one_pixel_left():
    x = images()
    theta = torch.eye(2, 3, dtype=torch.float64).repeat(4, 1, 1)
    theta[:, 0, 2] = 2 / 20
    torch.testing.assert_close(affine_warp(x, theta)[..., :-1], x[..., 1:], rtol=0, atol=1e-12)


def test_the_warp_is_torchs_own():
    x = images()
    theta = torch.eye(2, 3, dtype=torch.float64) + 0.3 * torch.randn(4, 2, 3, dtype=torch.float64)
    for padding in ("zeros", "border", "reflection"):
        grid = torch.nn.functional.affine_grid(theta, list(x.shape), align_corners=False)
        expected = torch.nn.functional.grid_sample(
            x, grid, padding_mode=padding, align_corners=False
        )
        torch.testing.assert_close(affine_warp(x, theta, padding), expected, rtol=0, atol=1e-12)


def test_scale_above_one_enlarges_and_shear_leans_the_top_to_the_right():
    x = torch.zeros(1, 1, 40, 40, dtype=torch.float64)
    x[:, :, 16:24, 16:24] = 1
    enlarged = Scale(0.5).apply(x, rows(1.5, n=1))
    assert enlarged.sum() / x.sum() == pytest.approx(1.5**2, rel=0.02)
    leaning = Shear(45).apply(x, rows(45.0, n=1))[0, 0]
    columns = torch.arange(40, dtype=torch.float64)
    top, bottom = ((leaning[row] @ columns) / leaning[row].sum() for row in (17, 22))
    assert top - bottom == pytest.approx(5, abs=1e-9)


def test_rotation_of_a_wide_image_keeps_lengths():
    x = torch.zeros(1, 1, 31, 61, dtype=torch.float64)
    x[0, 0, 15, 25:36] = 1  # a bar of 11 pixels
    out = Rotation(90).apply(x, rows(90.0, n=1))[0, 0]
    expected = torch.zeros_like(out)
    expected[10:21, 30] = 1
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)


def test_neighbours_are_resampled_once_in_their_order():
    x = images(1, 32, 32)
    chain = Chain([Rotation(45), Translate(0.2)])
    value = rows(90.0, 0.25, 0.0)
    out = chain.apply(x, value, [None, None])
    # turned first, then moved right: whole pixels, so that nothing is interpolated
    expected = Translate(0.25).apply(torch.rot90(x, 1, (2, 3)), rows(0.25, 0.0))
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)
    other = Chain([Translate(0.2), Rotation(45)]).apply(x, rows(0.25, 0.0, 90.0), [None, None])
    assert (other - out).abs().max() > 0.5
    # one interpolation keeps more of the image than one a map
    smooth = torch.from_numpy(
        ndimage.gaussian_filter(np.random.default_rng(0).random((4, 1, 48, 48)), (0, 0, 3, 3))
    )
    there_and_back = Chain([Rotation(45), Rotation(45)]).apply(
        smooth, rows(20.0, -20.0), [None, None]
    )
    torch.testing.assert_close(there_and_back, smooth, rtol=0, atol=1e-12)
    twice = Rotation(45).apply(Rotation(45).apply(smooth, rows(20.0)), rows(-20.0))
    inner = (slice(None), slice(None), slice(12, 36), slice(12, 36))
    assert 1e-4 < (twice - smooth)[inner].abs().max() < 0.02


@given(
    st.floats(-360, 360),
    st.floats(0.1, 10),
    st.floats(-80, 80),
    st.floats(-50, 50),
    st.floats(-50, 50),
)
def test_every_map_has_its_inverse_in_the_same_family(degrees, factor, lean, right, down):
    a, s, k, r, d = (
        torch.tensor([v], dtype=torch.float64) for v in (degrees, factor, lean, right, down)
    )
    for there, back in (
        (rotation_matrix(a), rotation_matrix(-a)),
        (scale_matrix(s), scale_matrix(1 / s)),
        (shear_matrix(k), shear_matrix(-k)),
        (translation_matrix(r, d), translation_matrix(-r, -d)),
    ):
        torch.testing.assert_close(
            there @ back, torch.eye(3, dtype=torch.float64)[None], rtol=0, atol=1e-12
        )


def test_neighbours_with_other_paddings_are_applied_one_after_the_other():
    x = images()
    chain = Chain([Translate(0.2), Translate(0.2, padding="border")])
    out = chain.apply(x, rows(0.1, 0.0, 0.2, 0.0), [None, None])
    expected = Translate(0.2, padding="border").apply(
        Translate(0.2).apply(x, rows(0.1, 0.0)), rows(0.2, 0.0)
    )
    assert torch.equal(out, expected)


@pytest.mark.parametrize("attribute", ALL, ids=lambda a: type(a).__name__)
def test_derivatives_are_those_of_finite_differences(attribute):
    x = images(2, 7, 6, n=2).requires_grad_()
    value = torch.tensor(attribute.clean) + 0.37 * torch.tensor(attribute.high - attribute.clean)
    value = value.double().repeat(2, 1).requires_grad_()
    assert torch.autograd.gradcheck(attribute.apply, (x, value))


@pytest.mark.parametrize("attribute", ALL, ids=lambda a: type(a).__name__)
def test_the_derivative_at_the_clean_values_is_not_lost(attribute):
    x = torch.from_numpy(ndimage.gaussian_filter(images().numpy(), (0, 0, 2, 2)))
    clean = torch.tensor(attribute.clean).repeat(4, 1).double()
    weight = torch.linspace(0, 1, x.numel(), dtype=torch.float64).view_as(x) ** 2

    def loss(value):
        return (weight * attribute.apply(x, value) ** 2).sum()

    value = clean.clone().requires_grad_()
    loss(value).backward()
    # bilinear interpolation has kinks at whole pixels: the derivative lies between those of both sides
    for k in range(attribute.n_parameters):
        step = torch.zeros_like(clean)
        step[0, k] = 1e-6
        sides = [
            (loss(clean + step) - loss(clean)) / 1e-6,
            (loss(clean) - loss(clean - step)) / 1e-6,
        ]
        low, high = sorted(side.item() for side in sides)
        slack = 1e-3 * max(abs(low), abs(high))
        assert low - slack <= value.grad[0, k].item() <= high + slack
        assert value.grad[0, k] != 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Rotation(10, -10), "low must be at most high"),
        (lambda: Scale(0, 1.3), r"takes values in \[0.01, 100\]"),
        (lambda: Shear(90, 95), r"takes values in \[-85, 85\]"),
        (lambda: Translate(float("nan")), "must be a finite number"),
        (lambda: Rotation(10, padding="wrap"), "padding must be"),
    ],
)
def test_boxes_that_make_no_sense_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_box_that_changes_labels_is_warned_of():
    with pytest.warns(UserWarning, match="a 6 turned by 180 degrees"):
        Rotation(180).warn_of_labels()
    with pytest.warns(UserWarning, match="the box of right"):
        Translate((0.6, 0.4)).warn_of_labels()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Chain([Rotation(45), Translate(0.2), Scale(0.7, 1.3)]).warn_of_labels()


def test_data_that_are_no_images_are_refused():
    with pytest.raises(ValueError, match="takes images of shape"):
        Rotation(10).check((5, 28, 28))
    with pytest.raises(ValueError, match="channels seem to be last"):
        Rotation(10).check((5, 28, 28, 3))


def test_the_text_of_an_attribute_makes_it_again():
    for attribute in (*ALL, Translate((0.1, 0.2), padding="border")):
        again = eval(repr(attribute))
        assert repr(again) == repr(attribute)
        np.testing.assert_array_equal(again.low, attribute.low)
