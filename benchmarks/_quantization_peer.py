"""The peers' part of benchmarks/quantization.py: W8A8 without data by statml and model-compression-toolkit, and by those that want images.

The toolkit makes images of three channels only, so that all get the ResNet-8 for Fashion-MNIST with its first convolution shared
out over three equal channels. As many images on both sides, made in one batch; the toolkit with its default number of iterations. onnxruntime's
quantize_static and torchao make no images: they, and the toolkit once more, calibrate on those that statml made.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import numpy as np
import pandas as pd
import torch
from statml.adapters import GenieQuantizer
from statml.adapters.quantization.networks import ResNet, as_input, resnet8
from statml.adapters.quantization.runtime import open_session, run_session

from statml.datasets import fetch_fashion_mnist

torch.set_num_threads(1)
ROOT = Path(__file__).resolve().parents[1]
N_IMAGES = 128
PACKAGES = (
    "networkx<3.6", "tqdm", "Pillow", "scikit-image", "scikit-learn", "tensorboard", "PuLP", "matplotlib<3.10.0",
    "mct-quantizers~=1.7.0", "pydantic<2.12.0", "edge-mdt-cl~=1.1.0", "edge-mdt-tpc",
)  # fmt: skip
PEERS = ("model-compression-toolkit==2.6.1", "torchao==0.18.0")


def environment() -> Path:
    """Python with the two peers, in .venv-mct; made on first use."""
    folder = ROOT / ".venv-mct"
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        torch_version = f"torch=={torch.__version__.split('+')[0]}"
        pip = [python, "-m", "pip", "install", "-q"]
        # the constraints of this package and the toolkit's exclude each other, but for torch
        subprocess.run([*pip, "-c", ROOT / "constraints.txt", torch_version], check=True)
        subprocess.run([*pip, torch_version, *PACKAGES], check=True)
        subprocess.run([*pip, "--no-deps", *PEERS], check=True)
        (folder / "ready").touch()
    return python


def three_channels() -> torch.nn.Module:
    """The ResNet-8 with three input channels: the same outputs where they are equal."""
    state = resnet8("fashion-mnist").state_dict()
    state["conv1.weight"] = state["conv1.weight"].repeat(1, 3, 1, 1) / 3
    network = ResNet("basic", (1, 1, 1), (16, 32, 64), in_channels=3, n_classes=10, small_stem=True)
    network.load_state_dict(state)
    return network.eval()


def by_onnxruntime(network: torch.nn.Module, images: np.ndarray, folder: Path) -> bytes:
    """W8A8 by onnxruntime's quantize_static, calibrated on given images."""
    from onnxruntime.quantization import (  # fmt: skip
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    path, ready, made = (folder / name for name in ("float.onnx", "ready.onnx", "static.onnx"))
    program = torch.onnx.export(
        network, (torch.from_numpy(images[:2]),), dynamo=True, verbose=False, input_names=["input"],
        dynamic_shapes=({0: torch.export.Dim.AUTO},),
    )  # fmt: skip
    program.save(path, external_data=False)
    quant_pre_process(path, ready)

    class Reader(CalibrationDataReader):
        parts = iter(np.array_split(images, len(images) // 32))

        def get_next(self):
            part = next(self.parts, None)
            return None if part is None else {"input": part}

    quantize_static(
        ready, made, Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
    )  # fmt: skip
    return made.read_bytes()


def main() -> None:
    test, labels = fetch_fashion_mnist("test")
    X = as_input(test, "fashion-mnist").repeat(1, 3, 1, 1)
    network = three_channels()
    wall, cpu = time.perf_counter(), time.process_time()
    quantizer = GenieQuantizer(8, 8, n_samples=N_IMAGES, random_state=0)
    quantizer.fit(network, input_shape=(3, 28, 28))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    rows = [row("statml", quantizer.predict(X) == labels, wall, cpu)]
    images = quantizer.synthetic_data_
    with tempfile.TemporaryDirectory() as folder:
        weights, records = Path(folder) / "weights.pt", Path(folder) / "records.pt"
        torch.save(network.state_dict(), weights)
        y = torch.from_numpy(labels.astype("int64"))
        torch.save({"X": X, "y": y, "images": torch.from_numpy(images)}, records)
        worker = ROOT / "benchmarks" / "_quantization_peer_worker.py"
        command = [environment(), worker, weights, records]
        run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        rows += json.loads(run.stdout.splitlines()[-1])
        wall, cpu = time.perf_counter(), time.process_time()
        static = by_onnxruntime(network, images, Path(folder))
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    session = open_session(static)
    out = np.concatenate([run_session(session, part.numpy())[0] for part in X.split(500)])
    rows.append(row("onnxruntime, statml's images", out.argmax(1) == labels, wall, cpu))
    table = pd.DataFrame(rows).sort_values("network", key=lambda names: names != "float")
    print(f"\nResNet-8, three channels, W8A8, {N_IMAGES} images\n")
    table.columns = ["network", "accuracy %", "wall s", "CPU s"]
    print(table.to_markdown(index=False, floatfmt=("", ".2f", ".0f", ".0f")))


def row(name: str, right: np.ndarray, wall: float, cpu: float) -> dict:
    return {"network": name, "accuracy": 100 * right.mean(), "wall": wall, "cpu": cpu}


if __name__ == "__main__":
    main()
