"""LeNet-5: the form in use today, and the network of 1998."""

from __future__ import annotations

import math
from typing import Any

from .. import nn
from ..backend import Device, generator
from ..errors import OptionError, ShapeError
from ..nn import functional as F  # noqa: N812 - the field's name for it
from ..ops import concatenate, scatter
from ..tensor import Tensor, full

__all__ = ["BITMAPS", "CONNECTIONS", "LeNet5", "LeNet5Original", "map_loss"]


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

    def __new__(cls, form: Any = "modern", *arguments: Any, **options: Any) -> Any:
        """Make the network of 1998 if its form is asked for; subclasses take what arguments they like."""
        return LeNet5Original(**options) if cls is LeNet5 and form == "original" else super().__new__(cls)

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


# What each of the 16 maps of C3 sees of the 6 maps of S2: Table I of the paper, one entry per column.
CONNECTIONS: tuple[tuple[int, ...], ...] = (
    (0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (0, 4, 5), (0, 1, 5),
    (0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (0, 3, 4, 5), (0, 1, 4, 5), (0, 1, 2, 5),
    (0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5),
    (0, 1, 2, 3, 4, 5),
)  # fmt: skip

_DRAWN = """
....... ....... ....... ....... ....... ....... ....... ....... ....... .......
..###.. ...#... .#####. .#####. .....#. ####### ..####. ####### .#####. ..###..
.#...#. ..##... #.....# #.....# ....##. #...... .#..... ......# #.....# .#...#.
#.....# .#.#... ......# ......# ...#.#. #...... #...... ......# #.....# #.....#
#.....# ...#... ......# ......# ..#..#. #.####. #...... .....#. #.....# #.....#
#.....# ...#... .....#. ..####. .#...#. ##....# #.####. ....#.. .#####. #....##
#.....# ...#... ...##.. ......# #....#. ......# ##....# ....#.. #.....# .####.#
#.....# ...#... ..#.... ......# ####### ......# #.....# ...#... #.....# ......#
#.....# ...#... .#..... ......# .....#. ......# #.....# ...#... #.....# ......#
.#...#. ...#... #...... #.....# .....#. #.....# .#...#. ..#.... #.....# .....#.
..###.. .#####. ####### .#####. .....#. .#####. ..###.. ..#.... .#####. .####..
....... ....... ....... ....... ....... ....... ....... ....... ....... .......
"""

# The ten digits as 12 rows of 7 pixels, +1 black and -1 white: what the 84 units of F6 should show.
BITMAPS: list[list[float]] = [
    [1.0 if pixel == "#" else -1.0 for line in _DRAWN.split("\n")[1:-1] for pixel in line.split()[digit]]
    for digit in range(10)
]


def _spread(shape: tuple[int, ...], fan_in: int) -> nn.Parameter:
    """Return a parameter drawn uniformly from ±2.4 / fan_in, the rule of the paper's appendix A."""
    draw = generator().random(size=shape, dtype="float32")
    return nn.Parameter(((draw * 2 - 1) * (2.4 / fan_in)).astype("float32"))


class ScaledTanh(nn.Module):
    """y = 1.7159 tanh(2/3 x), so that f(1) = 1, f(-1) = -1, and the curvature is largest there."""

    def forward(self, x: Any) -> Any:
        """Return the squashed values."""
        return F.tanh(x * (2 / 3)) * 1.7159


class Subsampling(nn.Module):
    """y = weight · (sum of the four pixels of a 2x2 window) + bias, with one weight and one bias per map."""

    def __init__(self, channels: int) -> None:
        self.weight = _spread((channels,), 4)
        self.bias = _spread((channels,), 4)

    def forward(self, x: Any) -> Any:
        """Return maps of half the height and width."""
        total = F.avg_pool2d(x, 2, divisor_override=1)
        return total * self.weight.reshape(1, -1, 1, 1) + self.bias.reshape(1, -1, 1, 1)

    def connections(self, output_shape: tuple[int, ...]) -> int:
        """Four pixels and a bias for each unit."""
        return 5 * math.prod(output_shape)


class TableConv2d(nn.Module):
    """A convolution in which each output map sees only some of the input maps.

    One 5x5 kernel per connection: weight (number of connections, 5, 5), bias (16,). For the computation they are laid
    out in a full weight (16, 6, 5, 5) with zeros where there is no connection.
    """

    def __init__(self, in_channels: int, table: tuple[tuple[int, ...], ...], kernel: int) -> None:
        self.in_channels, self.table, self.kernel = in_channels, table, kernel
        area = kernel * kernel
        kernels = [_spread((len(maps), kernel, kernel), len(maps) * area).array for maps in table]
        biases = [_spread((1,), len(maps) * area).array for maps in table]
        self.weight, self.bias = nn.Parameter(concatenate(*kernels)), nn.Parameter(concatenate(*biases))
        pairs = [(o, c) for o, maps in enumerate(table) for c in maps]
        self._pairs = [o for o, _ in pairs], [c for _, c in pairs]
        self._places: dict[Device, Any] = {}

    def forward(self, x: Any) -> Any:
        """Return the maps."""
        device = self.weight.device
        if device not in self._places:
            self._places[device] = tuple(device.asarray(numbers) for numbers in self._pairs)
        shape = (len(self.table), self.in_channels, self.kernel, self.kernel)
        return F.conv2d(x, scatter(self.weight, shape=shape, index=self._places[device]), self.bias)

    def connections(self, output_shape: tuple[int, ...]) -> int:
        """Each unit of a map has the connections of its kernels and a bias."""
        return (self.weight.size + self.bias.size) * math.prod(output_shape[2:])


class RBF(nn.Module):
    """logit_i = -Σ_j (x_j - w_ij)²: minus the squared distance to the code of each class. The w are not learned."""

    def __init__(self, num_classes: int = 10) -> None:
        if num_classes == 10:
            self.prototypes = Tensor(BITMAPS)
        else:  # no digits, so codes without a picture: random signs, which lie far from each other too
            self.prototypes = Tensor(generator().integers(0, 2, size=(num_classes, 84)) * 2.0 - 1.0, dtype="float32")

    def forward(self, x: Any) -> Any:
        """Return the logits (n, 10) of codes (n, 84)."""
        difference = x.unsqueeze(1) - self.prototypes
        return -(difference * difference).sum(axis=2)

    def connections(self, output_shape: tuple[int, ...]) -> int:
        """Each unit sees the whole code."""
        return self.prototypes.shape[1] * math.prod(output_shape)


class LeNet5Original(nn.Module):
    """LeNet-5 as in the paper of 1998, 60 000 trainable parameters.

        layer      output          parameters   connections
        c1         (n, 6, 28, 28)         156       122 304
        s2         (n, 6, 14, 14)          12         5 880
        c3         (n, 16, 10, 10)      1 516       151 600
        s4         (n, 16, 5, 5)           32         2 000
        c5         (n, 120, 1, 1)      48 120        48 120
        f6         (n, 84)             10 164        10 164
        output     (n, 10)                  0           840
                                       60 000       340 908

    How it differs from `LeNet5`:

    - The images are 32x32, so that strokes can reach the centre of every filter of c3; `LeNet5` pads 28x28 by 2.
      The background is -0.1 and the ink 1.175, which makes mean and variance about 0 and 1.
    - Every layer up to f6 ends with the scaled tanh 1.7159 tanh(2x/3), `LeNet5` has ReLU.
    - Subsampling adds the four pixels of a window, times a weight, plus a bias, both learned, one pair per map; then
      comes the tanh. `LeNet5` takes the maximum, with nothing to learn.
    - Each map of c3 sees 3, 4 or 6 of the maps below (Table I), to break the symmetry and to save weights: 1 516
      parameters for 2 416.
    - c5 is a convolution whose filters are as large as its input; `LeNet5` has the same 48 120 weights as fc1.
    - The output units measure the distance of f6 to a 7x12 bitmap of each digit, which is fixed: nothing to learn for
      850 parameters of fc3. Figure 3 of the paper shows the bitmaps; those here are drawn in its manner.
    - Weights start uniform in ±2.4 / fan_in.
    - The paper's loss is `map_loss`, its optimizer a stochastic diagonal Levenberg-Marquardt method; any of `optim`
      will do here.

    The output is minus the distance, so that the largest value wins and `cross_entropy` can be used as it is: that is
    the paper's loss without its term for rubbish.

    Images of 28x28 are taken to be digits in [0, 1] and brought into the form above.

    Args:
        num_classes: with other than ten classes the codes are random signs instead of bitmaps.

    Raises:
        ShapeError: images of another size.

    Source: LeCun, Bottou, Bengio & Haffner, Gradient-based learning applied to document recognition, Proc. IEEE 86(11),
    1998, section II and appendix A.

    >>> from tinygrad_cnn import models, randn
    >>> model = models.LeNet5(form="original")
    >>> model(randn(2, 1, 32, 32)).shape
    (2, 10)
    >>> sum(p.numel() for p in model.parameters())
    60000
    """

    def __init__(self, num_classes: int = 10) -> None:
        self.c1 = nn.Conv2d(1, 6, 5)
        self.tanh1 = ScaledTanh()
        self.s2 = Subsampling(6)
        self.tanh2 = ScaledTanh()
        self.c3 = TableConv2d(6, CONNECTIONS, 5)
        self.tanh3 = ScaledTanh()
        self.s4 = Subsampling(16)
        self.tanh4 = ScaledTanh()
        self.c5 = nn.Conv2d(16, 120, 5)
        self.tanh5 = ScaledTanh()
        self.flatten = nn.Flatten()
        self.f6 = nn.Linear(120, 84)
        self.tanh6 = ScaledTanh()
        self.output = RBF(num_classes)
        for layer, outputs, fan_in in ((self.c1, 6, 25), (self.c5, 120, 400), (self.f6, 84, 120)):
            layer.weight, layer.bias = _spread(layer.weight.shape, fan_in), _spread((outputs,), fan_in)

    def forward(self, x: Any) -> Any:
        """Return minus the distances (n, num_classes) of images (n, 1, 32, 32) or digits (n, 1, 28, 28) in [0, 1]."""
        if tuple(x.shape[1:]) == (1, 28, 28):
            x = F.pad(x, (2, 2, 2, 2)) * 1.275 - 0.1
        elif tuple(x.shape[1:]) != (1, 32, 32):
            raise ShapeError(f"LeNet5Original: images must be (n, 1, 32, 32) or (n, 1, 28, 28), got {tuple(x.shape)}")
        x = self.tanh2(self.s2(self.tanh1(self.c1(x))))
        x = self.tanh4(self.s4(self.tanh3(self.c3(x))))
        x = self.flatten(self.tanh5(self.c5(x)))
        return self.output(self.tanh6(self.f6(x)))


def map_loss(logits: Any, target: Any, j: float = 10.0) -> Any:
    """Return the paper's loss (9), maximum a posteriori, averaged over the batch:

        E = y_D + ln(e^-j + Σ_i e^-y_i),   y = -logits the distances, D the right class

    The first term alone, its simple form (8), could be made 0 by one code for all images if the bitmaps were learned.
    The second pushes the wrong classes away; e^-j, for rubbish that is no digit, stops the push when they are at a
    distance beyond j. The paper gives no value of j. Without that term (j infinite) this is `cross_entropy`.

    Args:
        logits: minus distances (n, 10), as `LeNet5Original` returns them.
        target: the right classes (n,).
        j: the distance of rubbish, above 0.
    """
    rubbish = full((logits.shape[0], 1), -float(j), dtype=logits.dtype, device=logits.device)
    return F.cross_entropy(concatenate(logits, rubbish, axis=1), target)
