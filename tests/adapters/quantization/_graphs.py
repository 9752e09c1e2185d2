"""Small quantised networks for tests, one for each kind of structure."""

import torch
from statml.adapters.quantization.lowering import round_to_nearest
from statml.adapters.quantization.networks import MobileNetV2, ResNet
from torch import nn


def settled(network: nn.Module, seed: int = 0) -> nn.Module:
    """A network as after training: normalisations away from their start, some of negative scale."""
    generator = torch.Generator().manual_seed(seed)
    for layer in network.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            n = layer.num_features
            layer.running_mean = torch.randn(n, generator=generator) * 0.2
            layer.running_var = torch.rand(n, generator=generator) + 0.5
            if layer.affine:
                signs = torch.where(torch.rand(n, generator=generator) < 0.2, -1.0, 1.0)
                layer.weight.data = signs * (torch.rand(n, generator=generator) + 0.5)
                layer.bias.data = torch.randn(n, generator=generator) * 0.2
    return network.eval()


class Joined(nn.Module):
    """Max pooling, two branches that are concatenated, average pooling, a mean over pixels."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.left, self.right = nn.Conv2d(6, 4, 1), nn.Conv2d(6, 5, 3, padding=2, dilation=2)
        self.mean = nn.AvgPool2d(2)
        self.last = nn.Linear(9, 3)

    def forward(self, x):
        x = self.pool(torch.relu(self.norm(self.stem(x))))
        x = torch.cat([torch.relu(self.left(x)), torch.relu(self.right(x))], 1)
        return self.last(self.mean(x).mean((2, 3)))


class NormFirst(nn.Module):
    """A normalisation before the layer, as in pre-activation networks, which can be folded into none."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3)
        self.norm, self.conv = nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1)
        self.last = nn.Linear(4, 3)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        x = x + self.conv(torch.relu(self.norm(x)))
        return self.last(x.mean((2, 3)))


def residual():
    return ResNet("basic", (1, 1), (4, 8), in_channels=1, n_classes=3, small_stem=True), (1, 12, 12)


def bottleneck():
    return ResNet("bottleneck", (1, 1), (4, 8), in_channels=3, n_classes=5), (3, 33, 33)


def depthwise():
    return MobileNetV2(n_classes=6, width=0.1), (3, 32, 32)


def one_dimension():
    layers = [
        nn.Conv1d(2, 6, 5, stride=2, padding=2),
        nn.BatchNorm1d(6),
        nn.ReLU(),
        nn.MaxPool1d(2),
    ]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(24, 3)), (2, 16)


def three_dimensions():
    layers = [nn.Conv3d(1, 4, 3, padding=1), nn.BatchNorm3d(4), nn.ReLU6(), nn.AdaptiveAvgPool3d(1)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4, 3)), (1, 4, 5, 6)


def perceptron():
    layers = [
        nn.Linear(7, 9),
        nn.BatchNorm1d(9),
        nn.ReLU(),
        nn.Linear(9, 8),
        nn.ReLU(),
        nn.Linear(8, 2),
    ]
    return nn.Sequential(*layers), (7,)


STRUCTURES = {
    "residual": residual,
    "bottleneck": bottleneck,
    "depthwise": depthwise,
    "joined": lambda: (Joined(), (2, 14, 15)),
    "norm first": lambda: (NormFirst(), (1, 9, 9)),
    "one dimension": one_dimension,
    "three dimensions": three_dimensions,
    "perceptron": perceptron,
}


def quantised(structure: str, n_bits_w: int = 8, n_bits_a: int = 8, placement: str = "deployable"):
    """A graph, the inputs that its steps come from, and the module that simulates it."""
    torch.manual_seed(0)
    network, shape = STRUCTURES[structure]()
    X = torch.randn(6, *shape, generator=torch.Generator().manual_seed(1))
    graph, module = round_to_nearest(
        settled(network), X, n_bits_w=n_bits_w, n_bits_a=n_bits_a, placement=placement
    )
    return graph, X, module
