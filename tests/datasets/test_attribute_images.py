"""Scenes with known nuisances, and the loader of CIFAR-10-C."""

import hashlib
import io
import re
import tarfile

import numpy as np
import pytest

from statml.datasets import _attribute_images, fetch_cifar10c, make_attribute_images
from statml.datasets._attribute_images import N_CIFAR10C, SCENE_COLOURS, render_scenes


@pytest.mark.parametrize(
    ("hard", "reach", "radius", "power", "bright", "glow", "floors"),
    [(False, 0.4, 0.34, 0.5, 0.63, 0.45, 0.4), (True, 0.6, 0.22, 0.7, 0.49, 0.7, 0.45)],
)
def test_a_pixel_follows_the_formula(hard, reach, radius, power, bright, glow, floors):
    scenes = make_attribute_images(3, source=1, hard=hard, random_state=1)
    k, row, column = 2, 13, 10
    shape, size, x, y, light, background = scenes.attributes[k]
    u, v = (2 * column + 1) / 24 - 1 - reach * x, (2 * row + 1) / 24 - 1 - reach * y
    t = (1 + shape) / 2
    d = (1 - t) * np.hypot(u, v) + t * max(abs(u), abs(v))
    r = radius * 2 ** (power * size)
    cover = 1 / (1 + np.exp((d - r) / 0.04))
    shade = bright * np.exp(glow * light - 0.3 * (d / r) ** 2)
    rgb = np.array(SCENE_COLOURS[scenes.target_names[scenes.target[k]]]) / 255
    expected = cover * shade * rgb + (1 - cover) * (0.5 + floors * background)
    np.testing.assert_allclose(scenes.images[k, :, row, column], expected, rtol=1e-5)


@pytest.mark.parametrize("hard", [False, True])
def test_every_scene_stays_in_the_unit_range_at_the_corners_of_the_domain(hard):
    corners = np.array(np.meshgrid(*[[-1.0, 1.0]] * 6)).reshape(6, -1).T
    for rgb in SCENE_COLOURS.values():
        images = render_scenes(
            corners, np.tile(np.array(rgb) / 255, (len(corners), 1)), 24, hard=hard
        )
        assert images.min() >= 0
        assert images.max() <= 1


def test_the_attributes_say_what_is_seen():
    def scene(**values):
        attributes = np.zeros((1, 6))
        for name, value in values.items():
            attributes[0, ["shape", "size", "x", "y", "light", "background"].index(name)] = value
        return render_scenes(attributes, np.array([[1.0, 0.0, 0.0]]), 48)[0]

    def red(image):
        return image[0] - image[1]

    plain, columns = red(scene()), np.arange(48)
    assert red(scene(size=1)).sum() > 1.5 * plain.sum()
    right, down = red(scene(x=1)), red(scene(y=1))
    moved = (right.sum(0) @ columns / right.sum()) - (plain.sum(0) @ columns / plain.sum())
    assert moved == pytest.approx(0.4 * 24, abs=0.05)
    np.testing.assert_allclose(down, right.T, atol=1e-12)
    assert red(scene(light=1)).max() > 1.5 * plain.max()
    assert scene(background=1)[2, 0, 0] == pytest.approx(0.9, abs=1e-6)
    # a disc of this radius covers pi / 4 of the square
    disc, square = scene(shape=-1)[2] < 0.25, scene(shape=1)[2] < 0.25
    assert disc.sum() / square.sum() == pytest.approx(np.pi / 4, abs=0.03)


def test_the_source_is_a_narrow_part_of_the_domain_and_attributes_can_be_held():
    narrow = make_attribute_images(400, source=0.3, random_state=0)
    wide = make_attribute_images(400, source=1.0, random_state=0)
    assert 0.28 < np.abs(narrow.attributes).max() <= 0.3
    np.testing.assert_array_equal(narrow.target, wide.target)
    np.testing.assert_allclose(wide.attributes * 0.3, narrow.attributes)
    held = make_attribute_images(400, ("size", "light"), random_state=0)
    assert (held.attributes[:, [0, 2, 3, 5]] == 0).all()
    np.testing.assert_array_equal(held.attributes[:, 1], narrow.attributes[:, 1])
    assert np.bincount(wide.target, minlength=8).min() > 20
    # attributes say nothing about the class
    assert np.abs(np.corrcoef(wide.attributes.T, wide.target)[-1, :-1]).max() < 4 / np.sqrt(400)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0}, "n must be an integer >= 1, got 0"),
        ({"source": 1.5}, "source must be a finite number in [0, 1], got 1.5"),
        ({"attributes": ["colour"]}, "each of attributes must be"),
        ({"attributes": ["x", "x"]}, "named once each"),
        ({"size": 2}, "size must be an integer >= 4"),
    ],
)
def test_bad_arguments_are_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make_attribute_images(**arguments)


# --- CIFAR-10-C --------------------------------------------------------------------------------------


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """An archive in the layout of CIFAR-10-C, with images of 2 x 2 pixels."""
    rows = np.arange(5 * N_CIFAR10C)
    images = np.broadcast_to((rows // N_CIFAR10C + 1)[:, None, None, None], (len(rows), 2, 2, 3))
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        for name, values in (("fog", images * np.array([1, 10, 20])), ("labels", rows % 10)):
            file = io.BytesIO()
            np.save(file, values.astype(np.uint8))
            member = tarfile.TarInfo(f"CIFAR-10-C/{name}.npy")
            member.size = file.tell()
            file.seek(0)
            tar.addfile(member, file)
    (tmp_path / "CIFAR-10-C.tar").write_bytes(content.getvalue())
    checksum = hashlib.sha256(content.getvalue()).hexdigest()
    monkeypatch.setattr(
        _attribute_images, "CIFAR10C", ("CIFAR-10-C.tar", "https://nowhere.invalid/x", checksum)
    )
    monkeypatch.delenv("STATML_DATA", raising=False)
    return tmp_path


def test_a_severity_of_cifar10c_is_its_ten_thousand_rows_with_channels_first(archive):
    images, labels = fetch_cifar10c("fog", 3, archive)
    assert images.shape == (N_CIFAR10C, 3, 2, 2)
    assert (images == np.array([3, 30, 60])[:, None, None]).all()
    np.testing.assert_array_equal(labels, np.arange(N_CIFAR10C) % 10)


def test_a_changed_archive_is_refused(archive):
    path = archive / "CIFAR-10-C.tar"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match="wrong content"):
        fetch_cifar10c("fog", 1, archive)


def test_without_the_archive_and_offline_the_error_says_where_to_put_it(archive):
    (archive / "CIFAR-10-C.tar").unlink()
    with pytest.raises(OSError, match="by hand and put it at"):
        fetch_cifar10c("fog", 1, archive)


def test_unknown_corruptions_and_severities_are_refused():
    with pytest.raises(ValueError, match="corruption must be"):
        fetch_cifar10c("rain", 1)
    with pytest.raises(ValueError, match="severity must be an integer in"):
        fetch_cifar10c("fog", 6)
