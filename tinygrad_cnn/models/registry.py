"""Names for networks, as the command line and checkpoints use them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..errors import OptionError
from ..nn import Module
from .dense import MLP, LogisticRegression
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

_TABLE: dict[str, Entry] = {
    "lenet5": Entry(LeNet5, _DIGITS, "LeNet-5 with ReLU, max pooling and logits"),
    "lenet5-original": Entry(LeNet5Original, (1, 32, 32), "LeNet-5 as in the paper of 1998"),
    "mlp": Entry(MLP, _DIGITS, "fully connected, 300 and 100 hidden units"),
    "logistic": Entry(LogisticRegression, _DIGITS, "softmax regression"),
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
