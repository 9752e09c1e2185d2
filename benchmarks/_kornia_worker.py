"""The affine warp of statml and of kornia, in one process: the same maps, the same images, time forward and backward.

Runs inside .venv-kornia, which benchmarks/attribute_robust_settings.py makes; prints JSON.
"""

from __future__ import annotations

import json
import os
import time

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import numpy as np
import torch
from kornia.geometry.transform import get_affine_matrix2d, warp_affine
from statml.adapters.attribute_robust.geometric import (
    affine_theta,
    affine_warp,
    rotation_matrix,
    scale_matrix,
    translation_matrix,
)

torch.set_num_threads(1)
REPEATS = 40


def our_theta(degrees, shift, factor, size):
    """Scaled, turned, then moved: one map in torch's coordinates."""
    matrix = scale_matrix(factor) @ rotation_matrix(degrees) @ translation_matrix(*shift.unbind(1))
    return affine_theta(matrix, size, size)


def their_matrix(degrees, shift, factor, size):
    """The same map by kornia's own function: in pixels, of which the first has its centre at 0."""
    centre = torch.full((len(degrees), 2), (size - 1) / 2, dtype=degrees.dtype)
    return get_affine_matrix2d(shift, centre, factor[:, None].expand(-1, 2), -degrees)[:, :2]


def ours(x, theta):
    return affine_warp(x, theta)


def theirs(x, matrix):
    return warp_affine(x, matrix, tuple(x.shape[2:]))


def cpu_seconds(function, *parameters):
    values = [p.clone().requires_grad_() for p in parameters]
    start = time.process_time()
    (function(*values) ** 2).sum().backward()
    return time.process_time() - start


def compared(sides):
    """CPU milliseconds of both sides, in turn so that both meet the same load: the smallest, and the median of ratios."""
    times = np.array([[cpu_seconds(*side) for side in sides] for _ in range(REPEATS)])
    return *1e3 * times.min(0), float(np.median(times[:, 1] / times[:, 0]))


def main() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = []
    for channels, size in ((1, 28), (3, 32), (3, 64)):
        x = torch.rand(128, channels, size, size, generator=generator)
        uniform = 2 * torch.rand(4, 128, generator=generator) - 1
        parameters = (45 * uniform[0], 0.15 * size * uniform[1:3].T, 1 + 0.3 * uniform[3])
        difference = {}
        for dtype in (torch.float32, torch.float64):
            given, images = [p.to(dtype) for p in parameters], x.to(dtype)
            left = ours(images, our_theta(*given, size))
            right = theirs(images, their_matrix(*given, size))
            difference[dtype] = (left - right).abs().max().item()
        theta, matrix = our_theta(*parameters, size), their_matrix(*parameters, size)
        sides = {
            "the warp": (
                (lambda t, x=x: ours(x, t), theta),
                (lambda m, x=x: theirs(x, m), matrix),
            ),
            "parameters, maps and warp": (
                (lambda *p, x=x: ours(x, our_theta(*p, x.shape[-1])), *parameters),
                (lambda *p, x=x: theirs(x, their_matrix(*p, x.shape[-1])), *parameters),
            ),
        }
        for what, pair in sides.items():
            our_ms, their_ms, ratio = compared(pair)
            rows.append(
                {
                    "images": f"128 x {channels} x {size} x {size}",
                    "what": what,
                    "statml ms": our_ms,
                    "kornia ms": their_ms,
                    "ratio of smallest": their_ms / our_ms,
                    "median ratio": ratio,
                    "difference, float32": difference[torch.float32],
                    "float64": difference[torch.float64],
                }
            )
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
