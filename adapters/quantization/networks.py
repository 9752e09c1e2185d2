"""Networks to quantize: residual networks and MobileNetV2, with torchvision's names of parameters.

A state dictionary made by torchvision (or by anything that keeps its names) loads into them as it is, and torchvision need not be
installed. No ReLU works in place, so that hooks see what they were given.

Two sets of trained weights can be had by name: ``resnet8("fashion-mnist")`` ships with the package (0.3 MB, made by
benchmarks/_train_fashion_resnet8.py), ``mobilenet_v2("imagenet")`` is fetched once (13 MB,
`statml.datasets.fetch_mobilenet_v2_weights`). `as_input` brings images into the form that they were trained on.

References
----------
He, K., Zhang, X., Ren, S. and Sun, J. (2016). Deep residual learning for image recognition. CVPR.
Sandler, M., Howard, A., Zhu, M., Zhmoginov, A. and Chen, L.-C. (2018). MobileNetV2: inverted residuals and linear bottlenecks. CVPR.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from statml._validation import check_choice, check_integer

SHIPPED = Path(__file__).parent / "weights"

# Mean and standard deviation of each colour over the training images, on the scale 0 to 1.
INPUT_STATS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "fashion-mnist": ((0.2860,), (0.3530,)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


class ResNet(nn.Module):
    """A residual network.

    Parameters
    ----------
    block : {"basic", "bottleneck"}
        Two 3x3 convolutions, or 1x1, 3x3, 1x1 with four times the channels at the end.
    depths : sequence of int
        Blocks in each stage; every stage but the first halves the image.
    widths : sequence of int
        Channels of the 3x3 convolutions in each stage.
    in_channels, n_classes : int
    small_stem : bool, default=False
        For small images: a 3x3 convolution of stride 2, instead of 7x7 and max-pooling.
    """

    def __init__(
        self,
        block: str,
        depths: Sequence[int],
        widths: Sequence[int],
        *,
        in_channels: int = 3,
        n_classes: int = 1000,
        small_stem: bool = False,
    ) -> None:
        super().__init__()
        check_choice("block", block, ("basic", "bottleneck"))
        if len(depths) != len(widths) or not 1 <= len(depths) <= 4:
            raise ValueError(
                f"depths and widths must have one entry for each of 1 to 4 stages; got {depths!r} and {widths!r}"
            )
        make = {"basic": BasicBlock, "bottleneck": Bottleneck}[block]
        kernel = 3 if small_stem else 7
        self.conv1 = nn.Conv2d(
            in_channels, widths[0], kernel, stride=2, padding=kernel // 2, bias=False
        )
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU()
        self.maxpool = nn.Identity() if small_stem else nn.MaxPool2d(3, stride=2, padding=1)
        channels, stages = widths[0], []
        for k, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            blocks = []
            for i in range(depth):
                blocks.append(make(channels, width, stride=2 if k and not i else 1))
                channels = width * make.expansion
            self.add_module(f"layer{k + 1}", nn.Sequential(*blocks))
            stages.append(f"layer{k + 1}")
        self.stages = tuple(stages)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, n_classes)
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for stage in self.stages:
            x = getattr(self, stage)(x)
        return self.fc(torch.flatten(self.avgpool(x), 1))


class BasicBlock(nn.Module):
    """Two convolutions of 3 x 3 around a shortcut: the block of ResNet-8 and ResNet-18."""

    expansion = 1

    def __init__(self, channels: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _shortcut(channels, width, stride)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        return self.relu2(self.bn2(self.conv2(x)) + shortcut)


class Bottleneck(nn.Module):
    """Convolutions of 1 x 1, 3 x 3 and 1 x 1 around a shortcut: the block of ResNet-50."""

    expansion = 4

    def __init__(self, channels: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = _shortcut(channels, 4 * width, stride)
        self.relu3 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu2(self.bn2(self.conv2(x)))
        return self.relu3(self.bn3(self.conv3(x)) + shortcut)


def _shortcut(channels: int, out_channels: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and channels == out_channels:
        return None
    convolution = nn.Conv2d(channels, out_channels, 1, stride=stride, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels))


class MobileNetV2(nn.Module):
    """MobileNetV2: 17 inverted residuals with depthwise convolutions and ReLU6; 3.5 million parameters for 1,000 classes.

    Parameters
    ----------
    in_channels, n_classes : int
    width : float, default=1.0
        Factor of all numbers of channels, which are rounded to multiples of 8.
    """

    # of Sandler et al. (2018), table 2: expansion, channels, blocks, stride of the first
    STAGES = (
        (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2),
        (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
    )  # fmt: skip

    def __init__(self, *, in_channels: int = 3, n_classes: int = 1000, width: float = 1.0) -> None:
        super().__init__()
        channels = _divisible(32 * width)
        features = [_ConvBNReLU6(in_channels, channels, 3, stride=2)]
        for expansion, wide, n, stride in self.STAGES:
            for i in range(n):
                out = _divisible(wide * width)
                features.append(InvertedResidual(channels, out, 1 if i else stride, expansion))
                channels = out
        last = _divisible(1280 * max(1.0, width))
        features.append(_ConvBNReLU6(channels, last, 1))
        self.features = nn.Sequential(*features)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(last, n_classes))
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


class InvertedResidual(nn.Module):
    """Widen, filter each channel, narrow, around a shortcut where shapes allow: the block of MobileNetV2."""

    def __init__(self, channels: int, out_channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = channels * expansion
        layers: list[nn.Module] = []
        if expansion != 1:
            layers.append(_ConvBNReLU6(channels, wide, 1))
        layers += [
            _ConvBNReLU6(wide, wide, 3, stride=stride, groups=wide),
            nn.Conv2d(wide, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        ]
        self.conv = nn.Sequential(*layers)
        self.has_shortcut = stride == 1 and channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.has_shortcut else self.conv(x)


class _ConvBNReLU6(nn.Sequential):
    def __init__(
        self, channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__(
            nn.Conv2d(
                channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False
            ),
            nn.BatchNorm2d(out_channels),
            nn.ReLU6(),
        )


def _divisible(channels: float) -> int:
    """Rounded to a multiple of 8, never down by more than a tenth."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def _initialise(network: nn.Module) -> None:
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")


def resnet8(
    pretrained: str | os.PathLike | None = None,
    *,
    in_channels: int = 1,
    n_classes: int = 10,
    width: int = 16,
) -> ResNet:
    """A residual network of eight layers for small images: stem, three basic blocks, classifier.

    Parameters
    ----------
    pretrained : "fashion-mnist", path or None, default=None
        "fashion-mnist" gives the weights that ship with the package, for 28x28 images after ``as_input(images, "fashion-mnist")``.
    in_channels, n_classes : int, default=1 and 10
    width : int, default=16
        Channels of the first block; the others have twice and four times as many.

    Returns
    -------
    ResNet
        In evaluation mode if pretrained.

    Examples
    --------
    >>> network = resnet8("fashion-mnist")
    >>> sum(p.numel() for p in network.parameters())
    77754
    """
    width = check_integer("width", width, low=1)
    network = ResNet(
        "basic",
        (1, 1, 1),
        (width, 2 * width, 4 * width),
        in_channels=in_channels,
        n_classes=n_classes,
        small_stem=True,
    )
    if pretrained == "fashion-mnist":
        pretrained = SHIPPED / "resnet8_fashion_mnist.safetensors"
    return _load(network, pretrained)


def resnet18(
    pretrained: str | os.PathLike | None = None, *, in_channels: int = 3, n_classes: int = 1000
) -> ResNet:
    """ResNet-18.

    Parameters
    ----------
    pretrained : path or None, default=None
        A state dictionary with torchvision's names.
    in_channels, n_classes : int, default=3 and 1000

    Returns
    -------
    ResNet
        In evaluation mode if pretrained.
    """
    return _load(
        ResNet(
            "basic",
            (2, 2, 2, 2),
            (64, 128, 256, 512),
            in_channels=in_channels,
            n_classes=n_classes,
        ),
        pretrained,
    )


def resnet50(
    pretrained: str | os.PathLike | None = None, *, in_channels: int = 3, n_classes: int = 1000
) -> ResNet:
    """ResNet-50.

    Parameters
    ----------
    pretrained : path or None, default=None
        A state dictionary with torchvision's names.
    in_channels, n_classes : int, default=3 and 1000

    Returns
    -------
    ResNet
        In evaluation mode if pretrained.
    """
    return _load(
        ResNet(
            "bottleneck",
            (3, 4, 6, 3),
            (64, 128, 256, 512),
            in_channels=in_channels,
            n_classes=n_classes,
        ),
        pretrained,
    )


def mobilenet_v2(
    pretrained: str | os.PathLike | None = None,
    *,
    in_channels: int = 3,
    n_classes: int = 1000,
    width: float = 1.0,
) -> MobileNetV2:
    """MobileNetV2.

    Parameters
    ----------
    pretrained : "imagenet", path or None, default=None
        "imagenet" fetches torchvision's first weights (71.88 % top-1 by its documentation), for 224x224 images after
        ``as_input(images, "imagenet")``; a path names a state dictionary with torchvision's names.
    in_channels, n_classes : int, default=3 and 1000
    width : float, default=1.0
        Factor of all numbers of channels.

    Returns
    -------
    MobileNetV2
        In evaluation mode if pretrained.
    """
    if pretrained == "imagenet":
        from statml.datasets import fetch_mobilenet_v2_weights

        pretrained = fetch_mobilenet_v2_weights()
    network = MobileNetV2(in_channels=in_channels, n_classes=n_classes, width=width)
    return _load(network, pretrained)


def _load(network: nn.Module, path: str | os.PathLike | None) -> nn.Module:
    """A network with the weights of a file that cannot execute anything, in evaluation mode."""
    if path is None:
        return network
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"pretrained must be the name of shipped weights or an existing file; got {str(path)!r}"
        )
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        state = load_file(path)
    else:
        state = torch.load(path, map_location="cpu", weights_only=True)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(
            f"the weights of {str(path)!r} are not those of this {type(network).__name__}: {error}"
        ) from error
    return network.eval()


def as_input(images: ArrayLike, weights: str) -> Tensor:
    """Images as the named weights were trained on them: standardised by colour.

    Parameters
    ----------
    images : array-like of shape (n, height, width) or (n, height, width, n_colours)
        Bytes 0 to 255, or floats 0 to 1.
    weights : {"fashion-mnist", "imagenet"}

    Returns
    -------
    Tensor of float32, shape (n, n_colours, height, width)

    Examples
    --------
    >>> import numpy as np
    >>> as_input(np.zeros((2, 28, 28), np.uint8), "fashion-mnist").shape
    torch.Size([2, 1, 28, 28])
    """
    check_choice("weights", weights, tuple(INPUT_STATS))
    mean, std = INPUT_STATS[weights]
    images = np.asarray(images)
    if images.ndim == 3 and len(mean) == 1:
        images = images[..., None]
    if images.ndim != 4 or images.shape[-1] != len(mean):
        raise ValueError(
            f"images for {weights!r} must have shape (n, height, width{', 3' if len(mean) == 3 else ''}); got {images.shape}"
        )
    if images.dtype == np.uint8:
        pixels = images.astype(np.float32) / 255
    elif np.issubdtype(images.dtype, np.floating):
        pixels = images.astype(np.float32)
        if not (pixels.min() >= 0 and pixels.max() <= 1):  # NaN fails too
            raise ValueError(
                f"images of floats must lie between 0 and 1; got {pixels.min():.3g} to {pixels.max():.3g}"
            )
    else:
        raise TypeError(f"images must be bytes (uint8) or floats; got {images.dtype}")
    standard = (pixels - np.float32(mean)) / np.float32(std)
    return torch.from_numpy(np.ascontiguousarray(standard.transpose(0, 3, 1, 2)))
