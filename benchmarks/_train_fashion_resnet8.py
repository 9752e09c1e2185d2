"""Trains the ResNet-8 for Fashion-MNIST that ships in adapters/quantization/weights.

    python benchmarks/_train_fashion_resnet8.py [epochs]      # about five minutes on one core

SGD with Nesterov's momentum and one cycle of the learning rate; images are mirrored and shifted by up to two pixels. Fixed
seeds, one thread; the last epoch is kept, and the test images are looked at once, at the end.
"""

from __future__ import annotations

import os
import sys
import time

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"

import torch
from safetensors.torch import save_file
from statml.adapters.quantization.networks import SHIPPED, as_input, resnet8
from torch import nn
from tqdm import trange

from statml.datasets import fetch_fashion_mnist

BATCH, LR, DECAY, SHIFT = 128, 0.2, 5e-4, 2


def augment(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Each image mirrored with probability 1/2 and shifted by up to SHIFT pixels, what comes in being black."""
    mirrored = torch.rand(len(x), generator=generator) < 0.5
    x = torch.where(mirrored[:, None, None, None], x.flip(-1), x)
    black = x.min().item()
    padded = nn.functional.pad(x, (SHIFT,) * 4, value=black)
    out = torch.empty_like(x)
    shifts = torch.randint(2 * SHIFT + 1, (len(x), 2), generator=generator)
    size = x.shape[-1]
    for i in range(2 * SHIFT + 1):
        for j in range(2 * SHIFT + 1):
            here = (shifts[:, 0] == i) & (shifts[:, 1] == j)
            out[here] = padded[here, :, i : i + size, j : j + size]
    return out


def main(epochs: int = 12) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    images, labels = fetch_fashion_mnist("train")
    X, y = as_input(images, "fashion-mnist"), torch.from_numpy(labels).long()
    network = resnet8()
    optimizer = torch.optim.SGD(
        network.parameters(), LR, momentum=0.9, weight_decay=DECAY, nesterov=True
    )
    steps = len(X) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LR, epochs=epochs, steps_per_epoch=steps
    )
    start = time.process_time()
    for _ in trange(epochs, desc="epochs"):
        network.train()
        for batch in torch.randperm(len(X), generator=generator)[: steps * BATCH].view(steps, -1):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(network(augment(X[batch], generator)), y[batch])
            loss.backward()
            optimizer.step()
            schedule.step()
    seconds = time.process_time() - start
    network.eval()
    images, labels = fetch_fashion_mnist("test")
    with torch.no_grad():
        predicted = torch.cat(
            [network(x).argmax(1) for x in as_input(images, "fashion-mnist").split(500)]
        )
    accuracy = (predicted == torch.from_numpy(labels)).float().mean().item()
    SHIPPED.mkdir(exist_ok=True)
    path = SHIPPED / "resnet8_fashion_mnist.safetensors"
    state = {name: value.contiguous() for name, value in network.state_dict().items()}
    save_file(state, path, metadata={"test_accuracy": f"{accuracy:.4f}", "epochs": str(epochs)})
    print(
        f"{path.name}: {path.stat().st_size / 1e3:.0f} kB, test accuracy {accuracy:.2%}, {seconds:.0f} s of CPU"
    )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
