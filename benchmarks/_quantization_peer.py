"""The peer's part of benchmarks/quantization.py: data-free W8A8 by model-compression-toolkit and by statml, the same network.

The toolkit makes images of three channels only, so that both get the ResNet-8 for Fashion-MNIST with its first convolution shared
out over three equal channels. As many images on both sides, made in one batch; the toolkit with its default number of iterations.
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

import torch
from statml.adapters import GenieQuantizer
from statml.adapters.quantization.networks import ResNet, as_input, resnet8

from statml.datasets import fetch_fashion_mnist

torch.set_num_threads(1)
ROOT = Path(__file__).resolve().parents[1]
N_IMAGES = 128
PACKAGES = (
    "networkx<3.6", "tqdm", "Pillow", "scikit-image", "scikit-learn", "tensorboard", "PuLP", "matplotlib<3.10.0",
    "mct-quantizers~=1.7.0", "pydantic<2.12.0", "edge-mdt-cl~=1.1.0", "edge-mdt-tpc",
)  # fmt: skip


def environment() -> Path:
    folder = ROOT / ".venv-mct"
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        torch_version = f"torch=={torch.__version__.split('+')[0]}"
        pip = [python, "-m", "pip", "install", "-q"]
        # the constraints of this package and the toolkit's exclude each other, but for torch
        subprocess.run([*pip, "-c", ROOT / "constraints.txt", torch_version], check=True)
        subprocess.run([*pip, torch_version, *PACKAGES], check=True)
        subprocess.run([*pip, "--no-deps", "model-compression-toolkit==2.6.1"], check=True)
        (folder / "ready").touch()
    return python


def three_channels() -> torch.nn.Module:
    """The ResNet-8 with three input channels: the same outputs where they are equal."""
    state = resnet8("fashion-mnist").state_dict()
    state["conv1.weight"] = state["conv1.weight"].repeat(1, 3, 1, 1) / 3
    network = ResNet("basic", (1, 1, 1), (16, 32, 64), in_channels=3, n_classes=10, small_stem=True)
    network.load_state_dict(state)
    return network.eval()


def main() -> None:
    images, labels = fetch_fashion_mnist("test")
    X = as_input(images, "fashion-mnist").repeat(1, 3, 1, 1)
    network = three_channels()
    rows = []
    wall, cpu = time.perf_counter(), time.process_time()
    quantizer = GenieQuantizer(8, 8, n_samples=N_IMAGES, random_state=0)
    quantizer.fit(network, input_shape=(3, 28, 28))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    rows.append(
        ("statml, GENIE-D, GENIE-M", 100 * (quantizer.predict(X) == labels).mean(), wall, cpu)
    )
    with tempfile.TemporaryDirectory() as folder:
        weights, records = Path(folder) / "weights.pt", Path(folder) / "records.pt"
        torch.save(network.state_dict(), weights)
        torch.save({"X": X, "y": torch.from_numpy(labels.astype("int64"))}, records)
        worker = ROOT / "benchmarks" / "_quantization_mct_worker.py"
        command = [environment(), worker, weights, records, str(N_IMAGES)]
        run = subprocess.run(command, check=True, capture_output=True, text=True)
    peer = json.loads(run.stdout.splitlines()[-1])
    rows.append(("model-compression-toolkit", peer["accuracy"], peer["wall s"], peer["CPU s"]))
    print(f"\nData-free W8A8, {N_IMAGES} images; float {peer['float']:.2f} %")
    print("| | accuracy % | wall s | CPU s |\n|---|---|---|---|")
    for name, right, wall, cpu in rows:
        print(f"| {name} | {right:.2f} | {wall:.0f} | {cpu:.0f} |")


if __name__ == "__main__":
    main()
