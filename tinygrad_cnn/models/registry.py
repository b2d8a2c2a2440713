"""Names for networks, as the command line and checkpoints use them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..errors import OptionError
from ..nn import Module
from . import resnet, vgg
from .alexnet import AlexNet, OverFeat, SPPNet, ZFNet
from .dense import MLP, LogisticRegression
from .googlenet import GoogLeNet
from .lenet import LeNet5, LeNet5Original

__all__ = ["NAMES", "Entry", "build", "entry"]


@dataclass(frozen=True)
class Entry:
    """A network by name.

    Attributes:
        make: makes it; keyword options are passed on.
        input_shape: (channels, height, width) of the images it was designed for.
        text: what it is, in a line.
    """

    make: Callable[..., Module]
    input_shape: tuple[int, int, int]
    text: str


_DIGITS = (1, 28, 28)
_PHOTO = (3, 224, 224)

_TABLE: dict[str, Entry] = {
    "lenet5": Entry(LeNet5, _DIGITS, "LeNet-5 with ReLU, max pooling and logits"),
    "lenet5-original": Entry(LeNet5Original, (1, 32, 32), "LeNet-5 as in the paper of 1998"),
    "mlp": Entry(MLP, _DIGITS, "fully connected, 300 and 100 hidden units"),
    "logistic": Entry(LogisticRegression, _DIGITS, "softmax regression"),
    "alexnet": Entry(AlexNet, _PHOTO, "AlexNet in one column, as in torchvision"),
    "alexnet-original": Entry(partial(AlexNet, form="original"), _PHOTO, "AlexNet in two columns, as in the paper"),
    "zfnet": Entry(ZFNet, _PHOTO, "ZFNet (Clarifai)"),
    "overfeat-fast": Entry(OverFeat, (3, 231, 231), "OverFeat, fast form"),
    "overfeat-accurate": Entry(partial(OverFeat, form="accurate"), (3, 221, 221), "OverFeat, accurate form"),
    "vgg11": Entry(vgg.vgg11, _PHOTO, "VGG, 11 layers"),
    "vgg13": Entry(vgg.vgg13, _PHOTO, "VGG, 13 layers"),
    "vgg16": Entry(vgg.vgg16, _PHOTO, "VGG, 16 layers"),
    "vgg19": Entry(vgg.vgg19, _PHOTO, "VGG, 19 layers"),
    "googlenet": Entry(GoogLeNet, _PHOTO, "GoogLeNet with two side classifiers"),
    "sppnet": Entry(SPPNet, _PHOTO, "SPP-net: ZFNet with a spatial pyramid"),
    "resnet18": Entry(resnet.resnet18, _PHOTO, "ResNet, 18 layers"),
    "resnet34": Entry(resnet.resnet34, _PHOTO, "ResNet, 34 layers"),
    "resnet50": Entry(resnet.resnet50, _PHOTO, "ResNet, 50 layers"),
    "resnet101": Entry(resnet.resnet101, _PHOTO, "ResNet, 101 layers"),
    "resnet152": Entry(resnet.resnet152, _PHOTO, "ResNet, 152 layers"),
    "se-resnet18": Entry(resnet.se_resnet18, _PHOTO, "ResNet with squeeze-and-excitation, 18 layers"),
    "se-resnet34": Entry(resnet.se_resnet34, _PHOTO, "ResNet with squeeze-and-excitation, 34 layers"),
    "se-resnet50": Entry(resnet.se_resnet50, _PHOTO, "ResNet with squeeze-and-excitation, 50 layers"),
    "se-resnet101": Entry(resnet.se_resnet101, _PHOTO, "ResNet with squeeze-and-excitation, 101 layers"),
    "se-resnet152": Entry(resnet.se_resnet152, _PHOTO, "ResNet with squeeze-and-excitation, 152 layers"),
}

NAMES: tuple[str, ...] = tuple(_TABLE)


def entry(name: str) -> Entry:
    """Return what is known of a network by name.

    Raises:
        OptionError: there is no network of this name; the message lists those there are.
    """
    found = _TABLE.get(name)
    if found is None:
        raise OptionError(f"there is no model {name!r}; there are {', '.join(NAMES)}")
    return found


def build(name: str, **options: Any) -> Module:
    """Return a new network by name, with weights drawn from the generator that `manual_seed()` seeds.

    Args:
        name: one of `models.NAMES`.
        options: passed on, such as num_classes.

    Raises:
        OptionError: there is no network of this name.

    >>> from tinygrad_cnn import models
    >>> type(models.build("lenet5")).__name__
    'LeNet5'
    """
    return entry(name).make(**options)
