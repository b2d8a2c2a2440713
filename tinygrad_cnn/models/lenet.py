"""LeNet-5: the form in use today, and the network of 1998."""

from __future__ import annotations

from typing import Any

from .. import nn
from ..errors import OptionError

__all__ = ["LeNet5"]


class LeNet5(nn.Module):
    """LeNet-5 for 28x28 images of digits: two convolutions, two poolings, three fully connected layers.

        layer         output          parameters
        conv1, relu1  (n, 6, 28, 28)         156    5x5 filters, padded by 2
        pool1         (n, 6, 14, 14)           0    maximum of 2x2
        conv2, relu2  (n, 16, 10, 10)      2 416    5x5 filters over all 6 maps
        pool2         (n, 16, 5, 5)            0
        fc1, relu3    (n, 120)            48 120
        fc2, relu4    (n, 84)             10 164
        fc3           (n, 10)                850    logits: cross_entropy makes them probabilities
                                          61 706

    Args:
        form: "modern", the network above, or "original", which makes a `LeNet5Original`.
        num_classes: how many logits.
        at_zero: the derivative of the ReLUs at exactly 0: "left" (0), "right" (1), "average" or a number.
        ties: who gets the gradient of equal maxima in a pooling window: "first" or "split".

    Raises:
        OptionError: another form.

    Source: LeCun, Bottou, Bengio & Haffner, Gradient-based learning applied to document recognition, Proc. IEEE 86(11),
    1998; in the form that tutorials teach: ReLU for the scaled tanh, maxima for trainable averages, padding for 32x32
    images, all maps connected in conv2, and logits for the distances to bitmaps. `LeNet5Original` tells each of them.

    >>> from tinygrad_cnn import models, randn
    >>> model = models.LeNet5()
    >>> model(randn(2, 1, 28, 28)).shape
    (2, 10)
    >>> sum(p.numel() for p in model.parameters())
    61706
    """

    def __init__(
        self, form: str = "modern", *, num_classes: int = 10, at_zero: Any = "left", ties: str = "first"
    ) -> None:
        if form != "modern":
            raise OptionError(f"LeNet5: form must be 'modern' or 'original', got {form!r}")
        self.conv1 = nn.Conv2d(1, 6, 5, padding=2)
        self.relu1 = nn.ReLU(at_zero)
        self.pool1 = nn.MaxPool2d(2, ties=ties)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.relu2 = nn.ReLU(at_zero)
        self.pool2 = nn.MaxPool2d(2, ties=ties)
        self.flatten = nn.Flatten()
        self.fc1 = nn.Linear(400, 120)
        self.relu3 = nn.ReLU(at_zero)
        self.fc2 = nn.Linear(120, 84)
        self.relu4 = nn.ReLU(at_zero)
        self.fc3 = nn.Linear(84, num_classes)

    def forward(self, x: Any) -> Any:
        """Return the logits (n, num_classes) of images (n, 1, 28, 28)."""
        x = self.pool1(self.relu1(self.conv1(x)))
        x = self.pool2(self.relu2(self.conv2(x)))
        x = self.flatten(x)
        x = self.relu3(self.fc1(x))
        x = self.relu4(self.fc2(x))
        return self.fc3(x)
