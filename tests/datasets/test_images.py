"""Fashion-MNIST: read from the files of any folder, and refused where they were changed."""

import gzip
import hashlib

import numpy as np
import pytest

from statml.datasets import _images, fetch_fashion_mnist


@pytest.fixture
def small(tmp_path, monkeypatch):
    """Three images in the format of the real files, with their checksums in place of the real ones."""
    images = np.arange(3 * 28 * 28, dtype=np.uint32).astype(np.uint8).reshape(3, 28, 28)
    labels = np.array([9, 0, 3], dtype=np.uint8)
    sums = {}
    for name, array in (
        ("t10k-images-idx3-ubyte.gz", images),
        ("t10k-labels-idx1-ubyte.gz", labels),
    ):
        head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
        content = head + array.tobytes()
        (tmp_path / name).write_bytes(gzip.compress(content))
        sums[name] = hashlib.sha256(content).hexdigest()
    monkeypatch.setattr(_images, "SHA256", sums)
    monkeypatch.setattr(_images, "DEBIAN", tmp_path / "nothing")
    monkeypatch.delenv("STATML_DATA", raising=False)
    return tmp_path, images, labels


def test_images_are_read_from_cache_package_and_data_folder(small, monkeypatch):
    folder, images, labels = small
    for way in ("cache", "package", "data"):
        if way == "package":
            monkeypatch.setattr(_images, "DEBIAN", folder)
        if way == "data":
            monkeypatch.setattr(_images, "DEBIAN", folder / "nothing")
            monkeypatch.setenv("STATML_DATA", str(folder))
        home = folder if way == "cache" else folder / "empty"
        found = fetch_fashion_mnist("test", data_home=home)
        np.testing.assert_array_equal(found[0], images)
        np.testing.assert_array_equal(found[1], labels)
        assert found[0].flags.writeable


def test_a_changed_file_is_refused(small, monkeypatch):
    folder, *_ = small
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(b"other"))
    with pytest.raises(ValueError, match="wrong content"):
        fetch_fashion_mnist("test", data_home=folder)
    monkeypatch.setattr(_images, "DEBIAN", folder)
    with pytest.raises(ValueError, match="dataset-fashion-mnist"):
        fetch_fashion_mnist("test", data_home=folder / "empty")


def test_the_subset_is_checked():
    with pytest.raises(ValueError, match="subset must be"):
        fetch_fashion_mnist("valid")
