"""Optimizers: how gradients change parameters. Names and arguments are those of PyTorch."""

from .adam import Adam, Adamax, AdamW
from .adaptive import AdaDelta, Adadelta, AdaGrad, Adagrad, RMSProp, RMSprop
from .optimizer import Optimizer
from .sgd import SGD

__all__ = [
    "SGD",
    "AdaDelta",
    "AdaGrad",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Optimizer",
    "RMSProp",
    "RMSprop",
]
