"""The simulator of images with known truth, what spoils images, and the spoken digits."""

import numpy as np
import pytest

from statml.datasets import _spoken_digits, corrupt_images, fetch_spoken_digits, make_latent_classes


def test_the_bayes_error_is_that_of_the_best_rule():
    """Argmax of the coordinates along the means, 40,000 records in four seeds."""
    wrong = []
    for seed in range(4):
        images = make_latent_classes(2000, 5, 1, separation=2.0, random_state=seed)
        said = (images.latent @ images.means[:5].T).argmax(axis=1)
        wrong.append(np.mean(said != images.target))
    p = images.bayes_error
    assert 0.1 < p < 0.4
    assert abs(np.mean(wrong) - p) < 4 * np.sqrt(p * (1 - p) / 40_000)


def test_the_image_determines_the_latent():
    """As the decoder can be undone, classes are as hard in pixels as in latents: logit, then two least squares."""
    images = make_latent_classes(100, 4, 2, latent_dim=8, random_state=0)
    logit = np.log(images.data / (1 - images.data))
    hidden = np.linalg.svd(logit - logit.mean(axis=0), full_matrices=False)[1]
    assert np.sum(hidden > 1e-8 * hidden[0]) == 32  # all of the hidden layer is in the pixels
    assert np.abs(images.data - 0.5).max() < 0.5
    assert images.data.std() > 0.15


def test_samples_with_other_seeds_are_of_the_same_problem():
    one, two, same = (make_latent_classes(random_state=s) for s in (0, 1, 0))
    np.testing.assert_array_equal(one.means, two.means)
    assert not np.array_equal(one.data, two.data)
    np.testing.assert_array_equal(one.data, same.data)
    assert np.bincount(one.target).tolist() == [100] * 10
    assert set(one.unknown_target) == {10, 11}
    gap = one.latent - one.means[one.target]
    assert abs(gap.mean()) < 5 / np.sqrt(gap.size)
    assert make_latent_classes(5, 1, 0, 1, random_state=0).bayes_error == 0
    assert make_latent_classes(5, 3, 0, random_state=0).unknown.shape == (0, 196)


def test_sizes_are_checked():
    with pytest.raises(ValueError, match="latent_dim must be an integer >= 12"):
        make_latent_classes(latent_dim=11)
    with pytest.raises(ValueError, match="image_size must be an integer >= 4"):
        make_latent_classes(image_size=3)


@pytest.mark.parametrize("kind", ["noise", "blur", "inversion", "occlusion", "uniform", "foreign"])
def test_strength_zero_changes_nothing_and_more_changes_more(kind):
    images = make_latent_classes(20, 3, 1, latent_dim=6, random_state=0)
    change = []
    for strength in (0.0, 0.3, 0.9):
        spoiled = corrupt_images(
            images.data, kind, strength, foreign=images.unknown, random_state=0
        )
        assert spoiled.shape == images.data.shape
        assert spoiled.min() >= 0
        assert spoiled.max() <= 1
        change.append(np.abs(spoiled - images.data).mean())
    assert change[0] == 0
    assert 0 < change[1] < change[2]
    as_square = corrupt_images(
        images.data.reshape(-1, 14, 14), kind, 0.9, foreign=images.unknown, random_state=0
    )
    np.testing.assert_array_equal(as_square.reshape(-1, 196), spoiled)


def test_each_corruption_is_what_its_name_says():
    one = np.full((50, 8, 8), 0.75)
    assert (corrupt_images(one, "inversion", 1.0) == 0.25).all()
    assert (corrupt_images(one, "foreign", 1.0, foreign=np.zeros((3, 64))) == 0).all()
    np.testing.assert_allclose(corrupt_images(one, "blur", 1.0), 0.75)
    hidden = corrupt_images(one, "occlusion", 0.5, random_state=0) == 0
    assert (hidden.sum(axis=(1, 2)) == 16).all()  # a square of 4 x 4, wherever it lies
    assert (hidden.any(axis=1).sum(axis=1) == 4).all()
    assert len(np.unique(hidden.any(axis=1), axis=0)) > 1
    noise = corrupt_images(np.full((400, 8, 8), 0.5), "noise", 0.05, random_state=0) - 0.5
    assert noise.std() == pytest.approx(0.05, rel=0.02)


def test_bad_images_are_refused():
    with pytest.raises(ValueError, match=r"images must lie in \[0, 1\]"):
        corrupt_images([[0.0, 2.0, 0.0, 0.0]], "noise")
    with pytest.raises(ValueError, match="images must have shape"):
        corrupt_images(np.zeros((2, 3)), "noise")
    with pytest.raises(ValueError, match="needs foreign images"):
        corrupt_images(np.zeros((2, 4)), "foreign")
    with pytest.raises(ValueError, match="foreign must hold images of 2 x 2"):
        corrupt_images(np.zeros((2, 4)), "foreign", foreign=np.zeros((2, 9)))
    with pytest.raises(ValueError, match="kind must be"):
        corrupt_images(np.zeros((2, 4)), "rain")


# --- spoken digits -----------------------------------------------------------------------------------


def test_spoken_digits_are_read_and_split_by_speaker(statml_data):
    if not (statml_data / _spoken_digits.NAME).is_file():
        pytest.skip(f"needs {_spoken_digits.NAME} in STATML_DATA")
    images, digits, speakers = fetch_spoken_digits()
    assert images.shape == (3000, 28, 28)
    assert images.dtype == np.uint8
    assert np.bincount(digits).tolist() == [300] * 10
    names, counts = np.unique(speakers, return_counts=True)
    assert len(names) == 6
    assert (counts == 500).all()


def test_spoken_digits_that_are_nowhere_say_where_they_belong(tmp_path, monkeypatch):
    monkeypatch.delenv("STATML_DATA", raising=False)
    with pytest.raises(OSError, match="STATML_DATA"):
        fetch_spoken_digits(data_home=tmp_path)
    (tmp_path / _spoken_digits.NAME).write_bytes(b"other")
    with pytest.raises(ValueError, match="wrong content"):
        fetch_spoken_digits(data_home=tmp_path)
