"""From bytes to numbers: what a network is shown of a pixel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..backend import namespace
from ..errors import OptionError

__all__ = ["NORMALISATIONS", "Affine", "normalisation"]


@dataclass(frozen=True)
class Affine:
    """y = (x - zero) / scale in float32, for pixels x from 0 to 255.

    `Affine(0, 255)` maps to [0, 1], with the very numbers of a division by 255.
    """

    zero: float
    scale: float

    def __call__(self, x: Any) -> Any:
        xp = namespace(x)
        if self.zero:
            y = xp.subtract(x, np.float32(self.zero), dtype=np.float32)
            y /= np.float32(self.scale)
            return y
        return xp.divide(x, np.float32(self.scale), dtype=np.float32)


def _standard(images: Any) -> Affine:
    # From the histogram: exact, and no copy of all images as floats.
    counts = np.bincount(np.asarray(images).reshape(-1), minlength=256)
    values = np.arange(256)
    mean = float(counts @ values) / counts.sum()
    deviation = float(np.sqrt(counts @ (values - mean) ** 2 / counts.sum()))
    return Affine(mean, deviation or 1.0)


# Name -> function of the training images that returns the normalisation.
NORMALISATIONS: dict[str, Callable[[Any], Affine]] = {
    "unit": lambda images: Affine(0.0, 255.0),
    "centred": lambda images: Affine(127.5, 127.5),
    "standard": _standard,
    # LeCun et al. 1998, section II: background -0.1, foreground 1.175, so that mean and variance are about 0 and 1.
    "lecun": lambda images: Affine(0.1 * 255 / 1.275, 255 / 1.275),
}


def normalisation(choice: Any, images: Any) -> Callable[[Any], Any] | None:
    """Return the function that a choice stands for: a name, a function, or None for bytes as they are."""
    if choice is None or callable(choice):
        return choice  # type: ignore[no-any-return]
    if choice not in NORMALISATIONS:
        known = ", ".join(repr(n) for n in NORMALISATIONS)
        raise OptionError(f"normalise={choice!r} is not known; choose one of {known}, None, or give a function")
    return NORMALISATIONS[choice](images)
