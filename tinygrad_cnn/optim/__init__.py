"""Optimizers: how gradients change parameters. Names and arguments are those of PyTorch."""

from ..nn.utils import clip_grad_norm_, clip_grad_value_
from . import lr_scheduler
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
    "clip_grad_norm_",
    "clip_grad_value_",
    "lr_scheduler",
]
