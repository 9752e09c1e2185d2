"""The network on which channel pruning is timed, and the clock; shared with the peer's environment, so torch and numpy alone."""

import time

import numpy as np
import torch
from torch import nn

CPU_REPEATS = 15


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.first, self.norm1 = (
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.second, self.norm2 = (
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x):
        y = self.norm2(self.second(torch.relu(self.norm1(self.first(x)))))
        return torch.relu(x + y)


class ResidualNet(nn.Module):
    """Two stages of two residual blocks on images of 28 x 28 pixels; 205,000 parameters."""

    def __init__(self, width=32):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.stage1 = nn.Sequential(Block(width), Block(width))
        self.down, self.norm_down = (
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.BatchNorm2d(2 * width),
        )
        self.stage2 = nn.Sequential(Block(2 * width), Block(2 * width))
        self.head = nn.Linear(2 * width, 10)

    def forward(self, x):
        x = self.stage1(torch.relu(self.norm(self.stem(x))))
        x = self.stage2(torch.relu(self.norm_down(self.down(x))))
        return self.head(x.mean((2, 3)))


@torch.no_grad()
def cpu_times(runs, n_repeats):
    """CPU seconds of each run, shape (n_runs, n_repeats), the runs in turns after a warm-up."""
    times = np.empty((len(runs), n_repeats))
    for k in range(-2, n_repeats):
        for i, run in enumerate(runs):
            start = time.process_time()
            run()
            times[i, k] = time.process_time() - start
    return times
