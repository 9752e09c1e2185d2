"""Images of clothes: the drop-in successor of the MNIST digits."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .._validation import check_choice
from ._base import _check, fetch_file

URL = "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/"
DEBIAN = Path(
    "/usr/share/datasets/fashion-mnist"
)  # where the package dataset-fashion-mnist puts the files
# of the decompressed files
SHA256 = {
    "train-images-idx3-ubyte.gz": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte.gz": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte.gz": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte.gz": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}


def fetch_fashion_mnist(
    subset: str = "train", data_home: str | os.PathLike | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Grey-level images of clothes in ten classes (Fashion-MNIST).

    Parameters
    ----------
    subset : {"train", "test"}, default="train"
        60,000 or 10,000 images.
    data_home : path or None, default=None
        Cache folder, as in `statml.datasets`; looked at after ``$STATML_DATA`` and the folder of Debian's package
        dataset-fashion-mnist. Else 26 or 4 MB are downloaded.

    Returns
    -------
    images : ndarray of uint8, shape (n, 28, 28)
    labels : ndarray of uint8, shape (n,)
        0 T-shirt/top, 1 trouser, 2 pullover, 3 dress, 4 coat, 5 sandal, 6 shirt, 7 sneaker, 8 bag, 9 ankle boot.

    Raises
    ------
    OSError
        If the files are in no folder and cannot be downloaded.
    ValueError
        If a checksum is wrong.

    References
    ----------
    Xiao, H., Rasul, K. and Vollgraf, R. (2017). Fashion-MNIST: a novel image dataset for benchmarking machine learning
    algorithms. arXiv:1708.07747. MIT licence.
    """
    check_choice("subset", subset, ("train", "test"))
    prefix = {"train": "train", "test": "t10k"}[subset]
    images = _read(f"{prefix}-images-idx3-ubyte.gz", data_home)
    labels = _read(f"{prefix}-labels-idx1-ubyte.gz", data_home)
    return images, labels


def _read(name: str, data_home: str | os.PathLike | None) -> NDArray[np.uint8]:
    """An array from a file in the format idx: two zeros, a type, the number of dimensions, the dimensions, the values."""
    path = _find(name, data_home)
    with gzip.open(path) as file:
        content = file.read()
    n_dimensions = content[3]
    shape = np.frombuffer(content, ">u4", n_dimensions, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * n_dimensions).reshape(shape).copy()


def _find(name: str, data_home: str | os.PathLike | None) -> Path:
    given = os.environ.get("STATML_DATA")
    packaged = DEBIAN / name
    if packaged.is_file() and not (given and (Path(given) / name).is_file()):
        _check(packaged, SHA256[name], "Install the package dataset-fashion-mnist again.")
        return packaged
    return fetch_file(name, URL + name, SHA256[name], data_home)
