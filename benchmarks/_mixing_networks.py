"""What both sides of the cost comparison of benchmarks/loss_mixing.py share: networks and losses."""

import torch
from torch import nn
from torch.nn.functional import cross_entropy

CLASSES, TEMPERATURE = 10, 4.0


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(784, 512),
        nn.ReLU(),
        nn.Linear(512, 512),
        nn.ReLU(),
        nn.Linear(512, 512),
        nn.ReLU(),
        nn.Linear(512, CLASSES),
    )


def convnet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 49, CLASSES),
    )


def last_layer() -> nn.Module:
    return nn.Linear(512, CLASSES)


NETWORKS = {"MLP": mlp, "MLP, double": mlp, "convnet": convnet, "last layer": last_layer}


def mixed_losses(z: torch.Tensor, y: torch.Tensor, teachers: torch.Tensor) -> torch.Tensor:
    """Cross-entropy and one distillation loss a teacher (K, B, C), as (B, K + 1)."""
    log_p = (z / TEMPERATURE).log_softmax(1)
    log_q = (teachers / TEMPERATURE).log_softmax(2)
    distilled = TEMPERATURE**2 * (log_q.exp() * (log_q - log_p)).sum(2)
    return torch.cat([cross_entropy(z, y, reduction="none")[:, None], distilled.T], dim=1)
