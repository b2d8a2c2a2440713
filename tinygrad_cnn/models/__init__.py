"""Networks, by class or by name: `models.LeNet5()`, `models.resnet18(num_classes=10)`, `models.build("vgg16")`."""

from .alexnet import AlexNet, OverFeat, SPPNet, ZFNet
from .dense import MLP, LogisticRegression
from .googlenet import GoogLeNet, googlenet_loss
from .lenet import LeNet5, LeNet5Original, map_loss
from .registry import NAMES, build
from .resnet import (
    ResNet,
    resnet18,
    resnet34,
    resnet50,
    resnet101,
    resnet152,
    se_resnet18,
    se_resnet34,
    se_resnet50,
    se_resnet101,
    se_resnet152,
)
from .vgg import VGG, vgg11, vgg13, vgg16, vgg19

__all__ = [
    "MLP",
    "NAMES",
    "VGG",
    "AlexNet",
    "GoogLeNet",
    "LeNet5",
    "LeNet5Original",
    "LogisticRegression",
    "OverFeat",
    "ResNet",
    "SPPNet",
    "ZFNet",
    "build",
    "googlenet_loss",
    "map_loss",
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
    "vgg11",
    "vgg13",
    "vgg16",
    "vgg19",
]
