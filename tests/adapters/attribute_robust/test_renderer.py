"""The renderer of scenes in torch, and the editor that learns one."""

import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from statml.adapters.attribute_robust import (  # noqa: E402
    AttributeRenderer,
    LearnedEditor,
    fit_editor,
)
from statml.adapters.attribute_robust.renderer import scene_colours  # noqa: E402

from statml.datasets import make_attribute_images  # noqa: E402


@pytest.fixture(scope="module")
def scenes():
    return make_attribute_images(300, source=1, random_state=0)


def tensors(scenes, dtype=torch.float32):
    return torch.from_numpy(scenes.images).to(dtype), torch.from_numpy(scenes.attributes).to(dtype)


def test_it_gives_the_pixels_of_the_data_set(scenes):
    x, values = tensors(scenes)
    torch.testing.assert_close(AttributeRenderer().apply(x, values), x, rtol=0, atol=2e-6)


def test_it_gives_the_pixels_of_hard_scenes():
    x, values = tensors(make_attribute_images(300, source=1, hard=True, random_state=0))
    renderer = AttributeRenderer(hard=True)
    torch.testing.assert_close(renderer.apply(x, values), x, rtol=0, atol=2e-6)
    assert (AttributeRenderer().apply(x, values) - x).abs().max() > 0.1
    assert repr(renderer).endswith("hard=True)")


def test_other_attributes_give_the_scene_that_they_describe(scenes):
    # the same seed with a narrower source has the same colours and other attributes
    narrow = make_attribute_images(300, source=0.3, random_state=0)
    x, _ = tensors(narrow)
    _, values = tensors(scenes)
    out = AttributeRenderer().apply(x, values)
    np.testing.assert_allclose(out.numpy(), scenes.images, rtol=0, atol=2e-6)


def test_the_colour_is_read_without_an_error(scenes):
    x, _ = tensors(make_attribute_images(5000, source=1, random_state=1))
    target = make_attribute_images(5000, source=1, random_state=1).target
    np.testing.assert_array_equal(scene_colours(x).numpy(), target)


def test_derivatives_are_those_of_finite_differences():
    x, value = tensors(make_attribute_images(3, source=1, size=9, random_state=0), torch.float64)
    renderer = AttributeRenderer()
    assert torch.autograd.gradcheck(lambda v: renderer.apply(x, v), (value.requires_grad_(),))


def test_attributes_that_are_not_set_are_at_zero(scenes):
    held = make_attribute_images(100, ("light", "x"), source=1, random_state=2)
    x, values = tensors(held)
    renderer = AttributeRenderer(attributes=("x", "light"))
    out = renderer.apply(x, values[:, [2, 4]])
    torch.testing.assert_close(out, x, rtol=0, atol=2e-6)
    assert renderer.names == ("x", "light")


def test_images_that_are_no_scenes_are_refused(scenes):
    x, values = tensors(scenes)
    renderer = AttributeRenderer()
    with pytest.raises(ValueError, match="hold other colours"):
        renderer.apply(x + 0.05 * torch.randn(x.shape), values)
    with pytest.raises(ValueError, match="hold other colours"):
        renderer.apply(x.flip(1), values)
    with pytest.raises(ValueError, match="images of 3 channels"):
        renderer.check((5, 1, 24, 24))
    with pytest.raises(ValueError, match="square images"):
        renderer.check((5, 3, 24, 28))
    with pytest.raises(ValueError, match=r"takes values in \[-1, 1\]"):
        AttributeRenderer(1.5, 1.6)
    with pytest.raises(ValueError, match="each of attributes must be"):
        AttributeRenderer(attributes=["colour"])


# --- the learned editor ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small_scenes():
    return make_attribute_images(400, source=1, size=12, random_state=0)


@pytest.fixture(scope="module")
def editor(small_scenes):
    s = small_scenes
    return fit_editor(
        s.images, s.attributes, s.target, s.attribute_names, epochs=60, width=16, random_state=0
    )


def test_it_explains_most_of_the_pixels_and_colours_of_records_that_it_has_not_seen(editor):
    assert editor.r2_ > 0.75
    assert editor.loss_curve_[-1] < 0.3 * editor.loss_curve_[0]
    fresh = make_attribute_images(300, source=1, size=12, random_state=9)
    other = make_attribute_images(300, source=0.5, size=12, random_state=9)  # the same colours
    x, values = torch.from_numpy(fresh.images), torch.from_numpy(other.attributes).float()
    edited = editor.apply(x, values).numpy()

    def explained(a, b):
        return 1 - ((a - b) ** 2).sum() / ((b - b.mean(0)) ** 2).sum()

    assert explained(edited, other.images) > 0.75
    # what is no grey is the object's colour, a small part of the variance of pixels
    colour, expected = (a - a.mean(1, keepdims=True) for a in (edited, other.images))
    assert explained(colour, expected) > 0.7


def test_an_edit_does_what_the_attribute_says(editor, small_scenes):
    x = torch.from_numpy(small_scenes.images[:100])
    dark, bright = (
        editor.apply(x, torch.tensor([[0, 0, 0, 0, 0, b]]).expand(100, -1)) for b in (-0.9, 0.9)
    )
    corner = (bright - dark)[:, :, 0, 0].mean().item()
    assert corner == pytest.approx(0.4 * 1.8, abs=0.15)  # the floor's formula


def test_it_has_derivatives_in_the_attributes_and_its_weights_stay(editor, small_scenes):
    x = torch.from_numpy(small_scenes.images[:5])
    value = torch.zeros(5, 6, requires_grad=True)
    editor.apply(x, value).square().sum().backward()
    assert (value.grad.abs().amax(0) > 1e-4).all()
    assert not any(p.requires_grad for p in editor.module.parameters())


def test_its_box_is_what_was_recorded(editor, small_scenes):
    np.testing.assert_allclose(editor.low, small_scenes.attributes.min(0), rtol=1e-6)
    np.testing.assert_allclose(editor.high, small_scenes.attributes.max(0), rtol=1e-6)
    assert editor.names == tuple(small_scenes.attribute_names)


def test_the_same_seed_trains_the_same_editor_and_copies_are_equal(small_scenes):
    s = small_scenes
    first, again = (
        fit_editor(s.images, s.attributes, s.target, epochs=1, width=8, random_state=3)
        for _ in range(2)
    )
    x, value = torch.from_numpy(s.images[:4]), torch.zeros(4, 6)
    assert torch.equal(first.apply(x, value), again.apply(x, value))
    assert torch.equal(first.apply(x, value), copy.deepcopy(first).apply(x, value))


def test_any_generator_is_an_editor():
    editor = LearnedEditor(lambda x, value: x + value[:, :1, None, None], 0.5, names=["glow"])
    out = editor.apply(torch.zeros(2, 1, 3, 3), torch.tensor([[0.1], [0.2]]))
    assert out[1].unique().item() == pytest.approx(0.2)
    with pytest.raises(TypeError, match="module must be a generator"):
        LearnedEditor("net", 0.5, names=["glow"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"X": np.zeros((6, 3, 10, 12))}, "multiples of 4"),
        ({"X": np.full((6, 3, 8, 8), np.nan)}, "Input X contains NaN"),
        ({"X": np.full((6, 3, 8, 8), 1e300)}, "Input X contains infinity"),
        ({"X": np.zeros((6, 3, 8, 8)) + 1j}, "Complex data not supported"),
        ({"y": np.array([0, None, 0, 0, 0, 0])}, "y must hold a label for every record"),
        ({"attributes": np.zeros(6)}, r"attributes must have shape \(6, k\)"),
        ({"y": np.arange(5)}, r"y \(6,\)"),
        ({"y": np.arange(6)}, "two records or more"),
        ({"names": ["a"]}, "names must hold 2 names"),
        ({"n_partners": 0}, "n_partners must be an integer >= 1"),
        ({"validation_fraction": 1.0}, r"validation_fraction must be a finite number in \[0, 1\)"),
    ],
)
def test_bad_arguments_are_refused_by_name(change, message):
    arguments = {"X": np.zeros((6, 3, 8, 8)), "attributes": np.zeros((6, 2)), "y": np.zeros(6)}
    with pytest.raises(ValueError, match=message):
        fit_editor(**{**arguments, **change})
