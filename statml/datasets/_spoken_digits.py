"""Spoken digits as images: small spectrograms of recordings by six speakers."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ._base import _cache_folder, _check

NAME = "fsdd_spectrograms_28x28.npz"
SHA256 = "3263bcc6d657cc24e367260f63d7b86f5d89e108fbd9aeb8322b9ca0fab861e2"
SOURCE = "https://github.com/Jakobovski/free-spoken-digit-dataset"


def fetch_spoken_digits(
    data_home: str | os.PathLike | None = None,
) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.str_]]:
    """Spectrograms of the digits zero to nine, spoken in English fifty times by each of six people.

    Each recording (8 kHz) became a short-time Fourier transform in decibels over a range of 80, scaled to grey
    levels, with low frequencies at the bottom, shrunk to 28 x 28. A fair test asks about a speaker who was not heard in training:
    split by the third array.

    Nothing is downloaded: the file of spectrograms has no public address. It is looked for in ``$STATML_DATA`` and in the
    cache folder.

    Parameters
    ----------
    data_home : path or None, default=None
        Cache folder, as in `statml.datasets`.

    Returns
    -------
    images : ndarray of uint8, shape (3000, 28, 28)
    digits : ndarray of int, shape (3000,)
    speakers : ndarray of str, shape (3000,)
        "george", "jackson", "lucas", "nicolas", "theo" or "yweweler", 500 each.

    Raises
    ------
    OSError
        If the file is in neither folder.
    ValueError
        If its checksum is wrong.

    References
    ----------
    Jackson, Z. et al. Free Spoken Digit Dataset. https://github.com/Jakobovski/free-spoken-digit-dataset. The recordings, and
    with them the spectrograms, are under the licence CC BY-SA 4.0.

    Examples
    --------
    >>> from statml.datasets import fetch_spoken_digits
    >>> images, digits, speakers = fetch_spoken_digits()  # doctest: +SKIP
    >>> images[speakers != "theo"].shape  # doctest: +SKIP
    (2500, 28, 28)
    """
    cached = _cache_folder(data_home) / NAME
    given = os.environ.get("STATML_DATA")
    for path in filter(None, (given and Path(given) / NAME, cached)):
        if path.is_file():
            _check(path, SHA256, "Delete it, or replace it by the original.")
            with np.load(path, allow_pickle=False) as file:
                return file["X"].reshape(-1, 28, 28), file["y"], file["s"]
    raise OSError(
        f"{NAME} was not found, and there is nowhere to download it from. Put it at {cached}, or into the folder that the "
        f"environment variable STATML_DATA names. The recordings it was made from are at {SOURCE}."
    )
