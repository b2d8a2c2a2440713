"""Residual networks, plain and with squeeze-and-excitation."""

from __future__ import annotations

from typing import Any

from .. import nn
from ..errors import OptionError
from ..nn import init

__all__ = [
    "ResNet",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "se_resnet18",
    "se_resnet34",
    "se_resnet50",
    "se_resnet101",
    "se_resnet152",
]


class SqueezeExcitation(nn.Module):
    """Weigh every map by a number in (0, 1) that depends on the means of all maps.

    s = sigmoid(W2 relu(W1 mean(x) + b1) + b2),   y = s · x

    Args:
        channels: number of maps.
        reduction: the hidden layer has channels / reduction units, rounded to a multiple of 8.
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        hidden = max(8, int(channels / reduction + 4) // 8 * 8)
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.relu = nn.ReLU()
        self.fc2 = nn.Conv2d(hidden, channels, 1)
        self.gate = nn.Sigmoid()

    def forward(self, x: Any) -> Any:
        """Return the maps, weighed."""
        means = x.mean(axis=(2, 3), keepdims=True)
        return x * self.gate(self.fc2(self.relu(self.fc1(means))))


class BasicBlock(nn.Module):
    """y = relu(x + f(x)), f two 3x3 convolutions with batch normalisation."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int, squeeze: bool) -> None:
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.se = SqueezeExcitation(width) if squeeze else None
        self.relu2 = nn.ReLU()
        self.downsample = _shortcut(in_channels, width, stride)

    def last_norm(self) -> Any:
        """Return the normalisation that ends f."""
        return self.bn2

    def forward(self, x: Any) -> Any:
        """Return the maps."""
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.se is not None:
            y = self.se(y)
        return self.relu2(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """y = relu(x + f(x)), f a 1x1, a 3x3 and a 1x1 convolution with batch normalisation; the 3x3 has the stride."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int, squeeze: bool) -> None:
        wide = width * self.expansion
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv2d(width, wide, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(wide)
        self.se = SqueezeExcitation(wide) if squeeze else None
        self.relu3 = nn.ReLU()
        self.downsample = _shortcut(in_channels, wide, stride)

    def last_norm(self) -> Any:
        """Return the normalisation that ends f."""
        return self.bn3

    def forward(self, x: Any) -> Any:
        """Return the maps."""
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.relu2(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        if self.se is not None:
            y = self.se(y)
        return self.relu3(y + (x if self.downsample is None else self.downsample(x)))


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Sequential | None:
    """Return what brings x to the shape of f(x), or None where it has it already."""
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels))


# Depth -> the block, and how many of them at each of four sizes of the maps.
_BLOCKS: dict[int, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, int, int, int]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
}


class ResNet(nn.Module):
    """ResNet, winner of ImageNet 2015: layers learn what to add to their input, so that 152 of them can be trained.

        depth        18           34           50          101          152
        plain    11 689 512   21 797 672   25 557 032   44 549 160   60 192 808   parameters
        squeeze  11 779 624   21 960 416   28 088 024   49 326 872   66 821 848   SE-ResNet, winner of ImageNet 2017

    Names as in torchvision; those of squeeze-and-excitation as in timm: `layer1.0.se.fc1.weight`. As there, the stride
    of a bottleneck is in its 3x3 layer, not in its first one as in the paper.

    Args:
        depth: layers with weights: 18, 34, 50, 101 or 152.
        num_classes: how many logits.
        squeeze: weigh the maps of each block by squeeze-and-excitation: SE-ResNet.
        zero_init_residual: start each block as the identity.
        small_images: for images of about 32x32 pixels (CIFAR): begin with a 3x3 convolution and no pooling, so that
            the maps do not shrink before the first block.

    Images: 3x224x224; other sizes work too.

    Raises:
        OptionError: another depth.

    Source: He, Zhang, Ren & Sun, Deep residual learning for image recognition, CVPR 2016; Hu, Shen & Sun,
    Squeeze-and-excitation networks, CVPR 2018.
    """

    def __init__(
        self,
        depth: int = 18,
        num_classes: int = 1000,
        squeeze: bool = False,
        zero_init_residual: bool = False,
        small_images: bool = False,
    ) -> None:
        if depth not in _BLOCKS:
            raise OptionError(f"ResNet: depth must be one of {', '.join(map(str, _BLOCKS))}, got {depth!r}")
        block, counts = _BLOCKS[depth]
        self.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False) if small_images else nn.Conv2d(
            3, 64, 7, stride=2, padding=3, bias=False
        )  # fmt: skip
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        self.maxpool = nn.Identity() if small_images else nn.MaxPool2d(3, stride=2, padding=1)
        channels = 64
        for i, count in enumerate(counts):
            width = 64 * 2**i
            blocks = []
            for j in range(count):
                blocks.append(block(channels, width, 2 if i > 0 and j == 0 else 1, squeeze))
                channels = width * block.expansion
            setattr(self, f"layer{i + 1}", nn.Sequential(*blocks))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif zero_init_residual and isinstance(module, (BasicBlock, Bottleneck)):
                init.zeros_(module.last_norm().weight)

    def forward(self, x: Any) -> Any:
        """Return the logits (n, num_classes) of images (n, 3, h, w)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):  # type: ignore[attr-defined]
            x = layer(x)
        return self.fc(self.flatten(self.avgpool(x)))


def resnet18(**options: Any) -> ResNet:
    """Return ResNet-18; options as of `ResNet`."""
    return ResNet(18, **options)


def resnet34(**options: Any) -> ResNet:
    """Return ResNet-34; options as of `ResNet`."""
    return ResNet(34, **options)


def resnet50(**options: Any) -> ResNet:
    """Return ResNet-50; options as of `ResNet`."""
    return ResNet(50, **options)


def resnet101(**options: Any) -> ResNet:
    """Return ResNet-101; options as of `ResNet`."""
    return ResNet(101, **options)


def resnet152(**options: Any) -> ResNet:
    """Return ResNet-152; options as of `ResNet`."""
    return ResNet(152, **options)


def se_resnet18(**options: Any) -> ResNet:
    """Return SE-ResNet-18; options as of `ResNet`."""
    return ResNet(18, squeeze=True, **options)


def se_resnet34(**options: Any) -> ResNet:
    """Return SE-ResNet-34; options as of `ResNet`."""
    return ResNet(34, squeeze=True, **options)


def se_resnet50(**options: Any) -> ResNet:
    """Return SE-ResNet-50; options as of `ResNet`."""
    return ResNet(50, squeeze=True, **options)


def se_resnet101(**options: Any) -> ResNet:
    """Return SE-ResNet-101; options as of `ResNet`."""
    return ResNet(101, squeeze=True, **options)


def se_resnet152(**options: Any) -> ResNet:
    """Return SE-ResNet-152; options as of `ResNet`."""
    return ResNet(152, squeeze=True, **options)
