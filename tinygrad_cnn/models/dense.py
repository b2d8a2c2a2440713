"""Networks without convolution, to compare with."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from .. import nn
from ..errors import OptionError

__all__ = ["MLP", "LogisticRegression"]


class LogisticRegression(nn.Module):
    """Logits that are linear in the pixels: softmax regression, whose loss is convex.

    Args:
        in_features: pixels per image; images of any shape are flattened.
        num_classes: how many logits.

    >>> from tinygrad_cnn import models, zeros
    >>> models.LogisticRegression()(zeros(2, 1, 28, 28)).shape
    (2, 10)
    """

    def __init__(self, in_features: int = 784, num_classes: int = 10) -> None:
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(in_features, num_classes)

    def forward(self, x: Any) -> Any:
        """Return the logits (n, num_classes)."""
        return self.linear(self.flatten(x))


class MLP(nn.Module):
    """A multi-layer perceptron: fully connected layers with ReLU in between, and dropout if asked.

    Args:
        in_features: pixels per image; images of any shape are flattened.
        hidden: the size of each hidden layer. The default is a net of LeCun et al. 1998; Kingma & Ba use (1000, 1000).
        num_classes: how many logits.
        dropout: share of each hidden layer that is dropped in training; the lecture and Srivastava et al. 2014 use 0.5.
        input_dropout: share of the pixels that is dropped in training; they use 0.2.

    Raises:
        OptionError: no hidden layer; that is `LogisticRegression`.

    >>> from tinygrad_cnn import models, zeros
    >>> models.MLP(hidden=(30, 20))(zeros(2, 1, 28, 28)).shape
    (2, 10)
    """

    def __init__(
        self,
        in_features: int = 784,
        hidden: Sequence[int] = (300, 100),
        num_classes: int = 10,
        dropout: float = 0.0,
        input_dropout: float = 0.0,
    ) -> None:
        if not hidden:
            raise OptionError("MLP: give the size of at least one hidden layer, or use LogisticRegression")
        self.flatten = nn.Flatten()
        self.dropout0 = nn.Dropout(input_dropout)
        sizes = (in_features, *hidden)
        for i, (before, after) in enumerate(pairwise(sizes), 1):
            setattr(self, f"fc{i}", nn.Linear(before, after))
            setattr(self, f"relu{i}", nn.ReLU())
            setattr(self, f"dropout{i}", nn.Dropout(dropout))
        self.depth = len(hidden)
        setattr(self, f"fc{self.depth + 1}", nn.Linear(sizes[-1], num_classes))

    def forward(self, x: Any) -> Any:
        """Return the logits (n, num_classes)."""
        for module in self.children():
            x = module(x)
        return x
