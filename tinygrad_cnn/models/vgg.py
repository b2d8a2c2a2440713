"""VGG: deep stacks of 3x3 convolutions."""

from __future__ import annotations

from typing import Any

from .. import nn
from ..errors import OptionError
from ..nn import init

__all__ = ["VGG", "vgg11", "vgg13", "vgg16", "vgg19"]

# How many convolutions stand between two poolings; their maps are 64, 128, 256, 512, 512.
_STACKS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
_WIDTHS = (64, 128, 256, 512, 512)


class VGG(nn.Module):
    """VGG, second of ImageNet 2014: stacks of 3x3 convolutions, each stack followed by 2x2 pooling and twice the maps.

    Two 3x3 layers see as far as one of 5x5, with fewer parameters and one more ReLU. VGG-16 has 138 357 544 parameters,
    VGG-19 143 667 240. Names as in torchvision.

    Args:
        depth: layers with weights: 11, 13, 16 or 19.
        num_classes: how many logits.
        dropout: share of the hidden units dropped in training.
        batch_norm: normalise behind every convolution (vgg16_bn and so on).
        hidden: units of the fully connected layers, 4096.

    Images: 3x224x224; others from 32x32 on work too, since the last maps are averaged to 7x7.

    Raises:
        OptionError: another depth.

    Source: Simonyan & Zisserman, Very deep convolutional networks for large-scale image recognition, ICLR 2015.
    """

    def __init__(
        self,
        depth: int = 16,
        num_classes: int = 1000,
        dropout: float = 0.5,
        batch_norm: bool = False,
        *,
        hidden: int = 4096,
    ) -> None:
        if depth not in _STACKS:
            raise OptionError(f"VGG: depth must be one of {', '.join(map(str, _STACKS))}, got {depth!r}")
        layers: list[nn.Module] = []
        channels = 3
        for count, width in zip(_STACKS[depth], _WIDTHS, strict=True):
            for _ in range(count):
                layers.append(nn.Conv2d(channels, width, 3, padding=1))
                if batch_norm:
                    layers.append(nn.BatchNorm2d(width))
                layers.append(nn.ReLU())
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d((7, 7))
        self.flatten = nn.Flatten()
        self.classifier = nn.Sequential(
            nn.Linear(512 * 49, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, num_classes),
        )
        init.apply_(self.features, init.kaiming_normal_, mode="fan_out", nonlinearity="relu")
        init.apply_(self.classifier, init.normal_, std=0.01)

    def forward(self, x: Any) -> Any:
        """Return the logits (n, num_classes) of images (n, 3, h, w)."""
        return self.classifier(self.flatten(self.avgpool(self.features(x))))


def vgg11(**options: Any) -> VGG:
    """Return VGG-11, 132 863 336 parameters; options as of `VGG`."""
    return VGG(11, **options)


def vgg13(**options: Any) -> VGG:
    """Return VGG-13, 133 047 848 parameters; options as of `VGG`."""
    return VGG(13, **options)


def vgg16(**options: Any) -> VGG:
    """Return VGG-16, 138 357 544 parameters; options as of `VGG`."""
    return VGG(16, **options)


def vgg19(**options: Any) -> VGG:
    """Return VGG-19, 143 667 240 parameters; options as of `VGG`."""
    return VGG(19, **options)
