"""Fetch a file once, and trust it only if its checksum is right."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import os
import tempfile
import urllib.request
import zlib
from pathlib import Path

from tqdm.auto import tqdm

CHUNK = 1 << 16  # bytes
TIMEOUT = 30.0  # seconds without an answer


def fetch_file(
    name: str, url: str, sha256: str, data_home: str | os.PathLike | None = None
) -> Path:
    """Find a file in the data or cache folder, or download it.

    Parameters
    ----------
    name : str
        File name in the folders.
    url : str
        Where to download it.
    sha256 : str
        Checksum of the content, for a name in .gz of the decompressed content.
    data_home : path or None, default=None
        Cache folder. None means ``$STATML_CACHE``, or else ``~/.cache/statml``.

    Returns
    -------
    pathlib.Path
        In the folder ``$STATML_DATA`` if the file is there, else in the cache folder.

    Raises
    ------
    OSError
        If the file is in no folder and cannot be downloaded.
    ValueError
        If the checksum is wrong. A wrong download is not kept; a wrong file in the folders is left alone.

    Examples
    --------
    >>> import hashlib, pathlib, tempfile
    >>> cache = pathlib.Path(tempfile.mkdtemp())
    >>> _ = (cache / "a.txt").write_bytes(b"x = 1")
    >>> fetch_file("a.txt", "https://example.org/a.txt", hashlib.sha256(b"x = 1").hexdigest(), cache).name
    'a.txt'
    """
    target = _cache_folder(data_home) / name
    given = os.environ.get("STATML_DATA")
    for path in filter(None, (given and Path(given) / name, target)):
        if path.is_file():
            _check(path, sha256, f"Delete it, or replace it by {url}.")
            return path

    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        partial = Path(folder) / name
        try:
            _download(url, partial)
        except (OSError, http.client.HTTPException) as error:
            raise OSError(
                f"{name} could not be downloaded ({error}). Download {url} by hand and put it at {target}, "
                "or into the folder that the environment variable STATML_DATA names."
            ) from error
        _check(partial, sha256, f"It came from {url} and was not kept; try again later.")
        os.replace(partial, target)
    return target


def _cache_folder(data_home: str | os.PathLike | None) -> Path:
    folder = data_home or os.environ.get("STATML_CACHE") or Path("~/.cache/statml")
    return Path(folder).expanduser()


def _download(url: str, path: Path) -> None:
    with urllib.request.urlopen(url, timeout=TIMEOUT) as response, path.open("wb") as file:
        size = int(response.headers.get("Content-Length") or 0)
        with tqdm(total=size or None, unit="B", unit_scale=True, desc=path.name, delay=1) as bar:
            while chunk := response.read(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
        if size and file.tell() != size:
            raise OSError(f"the connection broke after {file.tell()} of {size} bytes")


def _check(path: Path, sha256: str, remedy: str) -> None:
    digest = hashlib.sha256()
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
        found = f"sha256 {digest.hexdigest()}"
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        found = f"no complete gzip file ({error})"
    if found != f"sha256 {sha256}":
        raise ValueError(
            f"{path.name} has the wrong content: expected sha256 {sha256}, found {found}. {remedy}"
        )
