"""GoogLeNet: inception modules and side classifiers."""

from __future__ import annotations

from typing import Any, NamedTuple

from .. import nn
from ..nn import functional as F  # noqa: N812 - the field's name for it
from ..nn import init
from ..ops import concatenate
from ..tensor import Tensor

__all__ = ["GoogLeNet", "GoogLeNetOutputs", "googlenet_loss"]


# Standard deviations and means of the pixels of ImageNet in [0, 1], for red, green and blue.
_IMAGENET = (0.229, 0.224, 0.225), (0.485, 0.456, 0.406)


class GoogLeNetOutputs(NamedTuple):
    """Logits of GoogLeNet in training: the main ones, and those of the two side classifiers (None without them)."""

    logits: Any
    aux_logits2: Any
    aux_logits1: Any


class BasicConv2d(nn.Module):
    """Convolution, batch normalisation, ReLU."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, padding: int = 0) -> None:
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(out_channels, eps=0.001)
        self.relu = nn.ReLU()

    def forward(self, x: Any) -> Any:
        """Return the maps."""
        return self.relu(self.bn(self.conv(x)))


class Inception(nn.Module):
    """Four views of the same maps, side by side: 1x1, 3x3, two sizes of 1x1 to save work, and a pooling.

    Args:
        in_channels: maps below.
        ones: maps of the 1x1 branch.
        before_threes, threes: maps of the second branch, before and after its 3x3 filters.
        before_fives, fives: likewise for the third branch.
        pooled: maps of the fourth branch, behind a 3x3 maximum.
    """

    def __init__(
        self, in_channels: int, ones: int, before_threes: int, threes: int, before_fives: int, fives: int, pooled: int
    ) -> None:
        self.branch1 = BasicConv2d(in_channels, ones, 1)
        self.branch2 = nn.Sequential(
            BasicConv2d(in_channels, before_threes, 1), BasicConv2d(before_threes, threes, 3, padding=1)
        )
        self.branch3 = nn.Sequential(
            BasicConv2d(in_channels, before_fives, 1), BasicConv2d(before_fives, fives, 3, padding=1)
        )
        self.branch4 = nn.Sequential(
            nn.MaxPool2d(3, stride=1, padding=1, ceil_mode=True), BasicConv2d(in_channels, pooled, 1)
        )

    def forward(self, x: Any) -> Any:
        """Return the maps of all branches."""
        return concatenate(self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x), axis=1)


class InceptionAux(nn.Module):
    """A side classifier: it feeds a gradient into the middle of the network, and is left out after training."""

    def __init__(self, in_channels: int, num_classes: int, dropout: float = 0.7) -> None:
        self.conv = BasicConv2d(in_channels, 128, 1)
        self.fc1 = nn.Linear(2048, 1024)
        self.fc2 = nn.Linear(1024, num_classes)
        self.relu = nn.ReLU()
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Any) -> Any:
        """Return the logits."""
        x = self.conv(F.adaptive_avg_pool2d(x, (4, 4)))
        return self.fc2(self.dropout(self.relu(self.fc1(F.flatten(x, 1)))))


class GoogLeNet(nn.Module):
    """GoogLeNet, winner of ImageNet 2014: nine inception modules, two side classifiers in training.

    6 624 904 parameters, 13 004 888 with the side classifiers. Names and layers as in torchvision, which differs from
    the paper: batch normalisation behind every convolution instead of local response normalisation, and 3x3 filters in
    the branch that the paper gives 5x5.

    In training the result is a `GoogLeNetOutputs`, for `googlenet_loss`; in evaluation the logits alone.

    Args:
        num_classes: how many logits.
        aux_logits: whether there are side classifiers.
        dropout, dropout_aux: share of the units dropped before the last layers.
        transform_input: bring images normalised by ImageNet's means and deviations to [-1, 1] first, as the weights
            that torchvision publishes expect.

    Images: 3x224x224; others from 32x32 on work too.

    Source: Szegedy et al., Going deeper with convolutions, CVPR 2015.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        aux_logits: bool = True,
        dropout: float = 0.2,
        dropout_aux: float = 0.7,
        transform_input: bool = False,
    ) -> None:
        self.transform_input = transform_input
        self.conv1 = BasicConv2d(3, 64, 7, stride=2, padding=3)
        self.maxpool1 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.conv2 = BasicConv2d(64, 64, 1)
        self.conv3 = BasicConv2d(64, 192, 3, padding=1)
        self.maxpool2 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.inception3a = Inception(192, 64, 96, 128, 16, 32, 32)
        self.inception3b = Inception(256, 128, 128, 192, 32, 96, 64)
        self.maxpool3 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.inception4a = Inception(480, 192, 96, 208, 16, 48, 64)
        self.inception4b = Inception(512, 160, 112, 224, 24, 64, 64)
        self.inception4c = Inception(512, 128, 128, 256, 24, 64, 64)
        self.inception4d = Inception(512, 112, 144, 288, 32, 64, 64)
        self.inception4e = Inception(528, 256, 160, 320, 32, 128, 128)
        self.maxpool4 = nn.MaxPool2d(2, stride=2, ceil_mode=True)
        self.inception5a = Inception(832, 256, 160, 320, 32, 128, 128)
        self.inception5b = Inception(832, 384, 192, 384, 48, 128, 128)
        self.aux1 = InceptionAux(512, num_classes, dropout_aux) if aux_logits else None
        self.aux2 = InceptionAux(528, num_classes, dropout_aux) if aux_logits else None
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.flatten = nn.Flatten()
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(1024, num_classes)
        init.apply_(self, init.trunc_normal_, std=0.01)

    def forward(self, x: Any) -> Any:
        """Return the logits (n, num_classes) of images (n, 3, h, w); in training with those of the side classifiers."""
        if self.transform_input:
            deviation, mean = (Tensor(v, dtype=x.dtype, device=x.device).reshape(1, 3, 1, 1) for v in _IMAGENET)
            x = (x * deviation + (mean - 0.5)) * 2
        x = self.maxpool1(self.conv1(x))
        x = self.maxpool2(self.conv3(self.conv2(x)))
        x = self.maxpool3(self.inception3b(self.inception3a(x)))
        x = self.inception4a(x)
        aux1 = self.aux1(x) if self.training and self.aux1 is not None else None
        x = self.inception4d(self.inception4c(self.inception4b(x)))
        aux2 = self.aux2(x) if self.training and self.aux2 is not None else None
        x = self.maxpool4(self.inception4e(x))
        x = self.inception5b(self.inception5a(x))
        logits = self.fc(self.dropout(self.flatten(self.avgpool(x))))
        if self.training and self.aux1 is not None:
            return GoogLeNetOutputs(logits, aux2, aux1)
        return logits


def googlenet_loss(outputs: Any, target: Any, weight: float = 0.3) -> Any:
    """Return the cross-entropy of the logits plus `weight` times that of each side classifier, the paper's 0.3."""
    if not isinstance(outputs, GoogLeNetOutputs):
        return F.cross_entropy(outputs, target)
    sides = F.cross_entropy(outputs.aux_logits1, target) + F.cross_entropy(outputs.aux_logits2, target)
    return F.cross_entropy(outputs.logits, target) + sides * weight
