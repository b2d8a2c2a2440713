"""Random changes to batches of images: `transform(x, rng)` returns new images and touches neither x nor any label.

x has shape (n, c, h, w) and a float type, which is kept; every image draws its own numbers from `rng`, a
`numpy.random.Generator`. Pixels from outside of an image have the value `fill`, 0 by default, which is MNIST's
background in [0, 1]. Where a change can leave the range of the pixels, `clip` bounds it ((0, 1) by default, None for
no bounds, which suits other normalisations).

>>> rng = np.random.Generator(np.random.PCG64(0))
>>> transform = Compose([Shift(2), Rotate(10), Noise(0.05)])
>>> transform(np.zeros((64, 1, 28, 28), np.float32), rng).shape
(64, 1, 28, 28)

These names say what is done to the picture; whether the label survives is a matter of the data: a digit keeps its
label under all of them but the flips (a mirrored 2 is no digit) and a rotation so wide that a 6 becomes a 9.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np

from ..backend import device_of, namespace
from ..backend.device import namespaces
from ..errors import DTypeError, OptionError, ShapeError

__all__ = [
    "Brightness",
    "Compose",
    "Contrast",
    "Crop",
    "ElasticDistortion",
    "HorizontalFlip",
    "Noise",
    "Resize",
    "Rotate",
    "Saturation",
    "Shear",
    "Shift",
    "Sometimes",
    "VerticalFlip",
    "Warp",
    "digits",
    "resize",
]

Generator = np.random.Generator
Transform = Callable[[Any, Generator], Any]
Range = tuple[float, float]
_TILE = 1 << 15  # values sampled at a time on the CPU


@dataclass(frozen=True)
class Compose:
    """Apply transforms one after the other."""

    transforms: Sequence[Transform]

    def __call__(self, x: Any, rng: Generator) -> Any:
        for transform in self.transforms:
            x = transform(x, rng)
        return x


@dataclass(frozen=True)
class Sometimes:
    """Apply a transform to each image with probability p, and leave the others as they are."""

    transform: Transform
    p: float = 0.5

    def __post_init__(self) -> None:
        _probability("Sometimes", self.p)

    def __call__(self, x: Any, rng: Generator) -> Any:
        chosen = np.flatnonzero(rng.random(_images("Sometimes", x)[0]) < self.p)
        y = x.copy()
        if chosen.size:
            y[chosen] = self.transform(x[chosen], rng)
        return y


@dataclass(frozen=True)
class Noise:
    """Add Gaussian noise: y = x + std · N(0, 1)."""

    std: float = 0.1
    _: KW_ONLY
    clip: Range | None = (0.0, 1.0)

    def __post_init__(self) -> None:
        _not_negative("Noise", std=self.std)

    def __call__(self, x: Any, rng: Generator) -> Any:
        _images("Noise", x)
        # Drawn on the host, so that one seed gives the same noise on every device.
        noise = rng.standard_normal(x.shape, dtype=np.float32)
        return _clipped(x + self.std * _like(noise, x), self.clip)


@dataclass(frozen=True)
class Shift:
    """Move each image by a whole number of pixels, from -pixels to pixels along both axes."""

    pixels: int = 2
    _: KW_ONLY
    fill: float = 0.0

    def __post_init__(self) -> None:
        _not_negative("Shift", pixels=self.pixels)

    def __call__(self, x: Any, rng: Generator) -> Any:
        _, _, h, w = _images("Shift", x)
        return Crop((h, w), padding=self.pixels, fill=self.fill)(x, rng)


@dataclass(frozen=True)
class Crop:
    """Cut a window of `size` (height, width) out of each image, at a place of its own, after padding all four sides."""

    size: int | tuple[int, int]
    _: KW_ONLY
    padding: int = 0
    fill: float = 0.0

    def __post_init__(self) -> None:
        _not_negative("Crop", padding=self.padding)

    def __call__(self, x: Any, rng: Generator) -> Any:
        n, _, h, w = _images("Crop", x)
        oh, ow = _pair(self.size)
        p = self.padding
        if not (0 < oh <= h + 2 * p and 0 < ow <= w + 2 * p):
            raise ShapeError(f"Crop: a window of {oh} x {ow} does not fit into images of {h} x {w} with padding {p}")
        xp = namespace(x)
        padded = xp.pad(x, ((0, 0), (0, 0), (p, p), (p, p)), constant_values=self.fill)
        windows = xp.lib.stride_tricks.sliding_window_view(padded, (oh, ow), axis=(2, 3))
        top = _on_device(rng.integers(0, h + 2 * p - oh + 1, n), x)
        left = _on_device(rng.integers(0, w + 2 * p - ow + 1, n), x)
        return windows[_on_device(np.arange(n), x), :, top, left]


@dataclass(frozen=True)
class Warp:
    """Rotate, shear, resize, move and bend each image in one resampling, about its centre.

    An output pixel p reads the input at A⁻¹(p - t) + d(p), with A = rotation · shear · scale, t the shift and d a
    smooth random field, between four neighbours by bilinear interpolation.

    Args:
        rotate: largest angle in degrees, to both sides.
        shear: largest angle in degrees by which vertical lines lean, to both sides.
        scale: smallest and largest factor of the size.
        shift: largest move in pixels along both axes; fractions too.
        elastic: strength alpha of the field, in pixels: uniform noise in [-1, 1], smoothed by a Gaussian of `sigma`
            pixels, times alpha (Simard, Steinkraus & Platt, ICDAR 2003: sigma 4 and alpha 34 for MNIST).
        sigma: smoothness of the field in pixels.
        fill: value of pixels from outside.
    """

    _: KW_ONLY
    rotate: float = 0.0
    shear: float = 0.0
    scale: Range = (1.0, 1.0)
    shift: float = 0.0
    elastic: float = 0.0
    sigma: float = 4.0
    fill: float = 0.0

    def __post_init__(self) -> None:
        _not_negative(type(self).__name__, rotate=self.rotate, shift=self.shift, elastic=self.elastic)
        if not 0 <= self.shear < 90:
            raise OptionError(f"{type(self).__name__}: shear is an angle from 0 to below 90 degrees, got {self.shear}")
        if not 0 < self.scale[0] <= self.scale[1]:
            raise OptionError(f"{type(self).__name__}: scale is a smallest and a largest factor, got {self.scale}")
        if self.sigma <= 0:
            raise OptionError(f"{type(self).__name__}: sigma is above 0, got {self.sigma}")

    def __call__(self, x: Any, rng: Generator) -> Any:
        n, _, h, w = _images(type(self).__name__, x)
        xp = namespace(x)
        dtype = np.promote_types(x.dtype, np.float32)  # positions in float16 would be off by a pixel
        inverse, shift = self._affine(n, rng)
        inverse, shift = (_on_device(a.astype(dtype), x) for a in (inverse, shift))
        rows = xp.arange(h, dtype=dtype)[:, None] - (h - 1) / 2
        columns = xp.arange(w, dtype=dtype)[None, :] - (w - 1) / 2
        rows = rows - shift[:, 0, None, None]
        columns = columns - shift[:, 1, None, None]
        m = inverse[:, :, :, None, None]
        at_row = m[:, 0, 0] * rows + m[:, 0, 1] * columns + (h - 1) / 2
        at_column = m[:, 1, 0] * rows + m[:, 1, 1] * columns + (w - 1) / 2
        if self.elastic:
            field = _smooth(_on_device(rng.random((2, n, h, w), dtype=np.float32) * 2 - 1, x), self.sigma)
            at_row += self.elastic * field[0]
            at_column += self.elastic * field[1]
        return _sampled(x, at_row, at_column, self.fill)

    def _affine(self, n: int, rng: Generator) -> tuple[Any, Any]:
        """Draw A⁻¹ (n, 2, 2), acting on (row, column), and t (n, 2)."""
        angle = np.deg2rad(rng.uniform(-self.rotate, self.rotate, n))
        lean = np.tan(np.deg2rad(rng.uniform(-self.shear, self.shear, n)))
        scale = rng.uniform(*self.scale, n)
        shift = rng.uniform(-self.shift, self.shift, (n, 2))
        cos, sin, zero, one = np.cos(angle), np.sin(angle), np.zeros(n), np.ones(n)

        def matrices(a: Any, b: Any, c: Any, d: Any) -> Any:
            return np.stack([np.stack([a, b], -1), np.stack([c, d], -1)], -2)

        unrotated = matrices(cos, sin, -sin, cos)
        unsheared = matrices(one, zero, lean, one)
        return unsheared @ unrotated / scale[:, None, None], shift


class Rotate(Warp):
    """Rotate each image about its centre by an angle of up to `degrees`, to both sides."""

    def __init__(self, degrees: float = 15.0, *, fill: float = 0.0) -> None:
        super().__init__(rotate=degrees, fill=fill)


class Shear(Warp):
    """Lean each image by an angle of up to `degrees`, to both sides."""

    def __init__(self, degrees: float = 10.0, *, fill: float = 0.0) -> None:
        super().__init__(shear=degrees, fill=fill)


class Resize(Warp):
    """Enlarge or shrink what is in each image by a factor from `scale`; the image keeps its size."""

    def __init__(self, scale: Range = (0.9, 1.1), *, fill: float = 0.0) -> None:
        super().__init__(scale=scale, fill=fill)


class ElasticDistortion(Warp):
    """Bend each image by a smooth random field (Simard, Steinkraus & Platt, ICDAR 2003).

    Args:
        alpha: strength in pixels.
        sigma: smoothness in pixels.
        fill: value of pixels from outside.
    """

    def __init__(self, alpha: float = 34.0, sigma: float = 4.0, *, fill: float = 0.0) -> None:
        super().__init__(elastic=alpha, sigma=sigma, fill=fill)


@dataclass(frozen=True)
class HorizontalFlip:
    """Mirror each image left to right with probability p. Digits and letters do not keep their label under this."""

    p: float = 0.5

    def __post_init__(self) -> None:
        _probability("HorizontalFlip", self.p)

    def __call__(self, x: Any, rng: Generator) -> Any:
        return _flipped("HorizontalFlip", x, rng, self.p, axis=3)


@dataclass(frozen=True)
class VerticalFlip:
    """Turn each image upside down with probability p, as a mirror does."""

    p: float = 0.5

    def __post_init__(self) -> None:
        _probability("VerticalFlip", self.p)

    def __call__(self, x: Any, rng: Generator) -> Any:
        return _flipped("VerticalFlip", x, rng, self.p, axis=2)


@dataclass(frozen=True)
class Brightness:
    """Multiply each image by a factor: y = f x."""

    factor: Range = (0.8, 1.2)
    _: KW_ONLY
    clip: Range | None = (0.0, 1.0)

    def __post_init__(self) -> None:
        _factors("Brightness", self.factor)

    def __call__(self, x: Any, rng: Generator) -> Any:
        return _clipped(x * _drawn("Brightness", x, rng, self.factor), self.clip)


@dataclass(frozen=True)
class Contrast:
    """Spread each image about its mean m: y = m + f (x - m)."""

    factor: Range = (0.8, 1.2)
    _: KW_ONLY
    clip: Range | None = (0.0, 1.0)

    def __post_init__(self) -> None:
        _factors("Contrast", self.factor)

    def __call__(self, x: Any, rng: Generator) -> Any:
        f = _drawn("Contrast", x, rng, self.factor)
        mean = x.mean(axis=(1, 2, 3), keepdims=True)
        return _clipped(mean + f * (x - mean), self.clip)


@dataclass(frozen=True)
class Saturation:
    """Move the colours of each RGB image away from its grey g: y = g + f (x - g), g = 0.299 R + 0.587 G + 0.114 B.

    The weights are those of ITU-R BT.601.
    """

    factor: Range = (0.8, 1.2)
    _: KW_ONLY
    clip: Range | None = (0.0, 1.0)

    def __post_init__(self) -> None:
        _factors("Saturation", self.factor)

    def __call__(self, x: Any, rng: Generator) -> Any:
        f = _drawn("Saturation", x, rng, self.factor)
        if x.shape[1] != 3:
            raise ShapeError(f"Saturation: colours need 3 channels (red, green, blue), got images of shape {x.shape}")
        grey = 0.299 * x[:, 0:1] + 0.587 * x[:, 1:2] + 0.114 * x[:, 2:3]
        return _clipped(grey + f * (x - grey), self.clip)


def digits(strength: float = 1.0, *, fill: float = 0.0) -> Transform:
    """Return changes under which handwritten digits keep their label, in one resampling; 0 is none, 1 is usual."""
    _not_negative("digits", strength=strength)
    s = strength
    return Warp(
        rotate=10 * s, shear=8 * s, scale=(1 / (1 + 0.12 * s), 1 + 0.12 * s), shift=1.6 * s, elastic=24 * s, fill=fill
    )


def resize(x: Any, size: int | tuple[int, int]) -> Any:
    """Return images (n, c, h, w) in another size, by bilinear interpolation between pixel centres.

    Edge pixels are repeated outwards. A strong reduction should be smoothed first, else lines may drop out.
    """
    _, _, h, w = _images("resize", x)
    oh, ow = _pair(size)
    if oh < 1 or ow < 1:
        raise OptionError(f"resize: sizes are from 1 on, got {oh} x {ow}")
    xp = namespace(x)
    dtype = np.promote_types(x.dtype, np.float32)
    rows = xp.clip((xp.arange(oh, dtype=dtype) + 0.5) * (h / oh) - 0.5, 0, h - 1)
    columns = xp.clip((xp.arange(ow, dtype=dtype) + 0.5) * (w / ow) - 0.5, 0, w - 1)
    grid = (1, oh, ow)
    at_row, at_column = xp.broadcast_to(rows[:, None], grid), xp.broadcast_to(columns[None, :], grid)
    return _sampled(x, at_row, at_column, 0.0)


def _sampled(x: Any, at_row: Any, at_column: Any, fill: float) -> Any:
    """Read x (n, c, h, w) at positions (n or 1, oh, ow) in pixels, by bilinear interpolation; `fill` lies outside."""
    xp = namespace(x)
    n, c, h, w = x.shape
    tile = max(1, _TILE // max(1, c * math.prod(at_row.shape[1:])))
    if xp is np and n > tile:  # a few images at a time stay in the cache
        parts = []
        for i in range(0, n, tile):
            part = slice(i, i + tile) if len(at_row) == n else slice(None)
            parts.append(_sampled(x[i : i + tile], at_row[part], at_column[part], fill))
        return xp.concatenate(parts)
    oh, ow = at_row.shape[1:]
    # One pixel of border stands for all that is outside, so no read needs a test.
    pw = w + 3
    padded = xp.full((n, c, h + 3, pw), fill, x.dtype)
    padded[:, :, 1 : h + 1, 1 : w + 1] = x
    at_row = xp.clip(at_row, -1, h) + 1
    at_column = xp.clip(at_column, -1, w) + 1
    row, column = at_row.astype(np.intp), at_column.astype(np.intp)
    fy = (at_row - row)[:, None]
    fx = (at_column - column)[:, None]
    image = xp.arange(n * c).reshape(n, c, 1, 1) * ((h + 3) * pw)
    corner = image + (row * pw + column)[:, None]
    flat = padded.reshape(-1)
    a, b = flat[corner], flat[corner + 1]
    top = a + fx * (b - a)
    corner += pw
    a, b = flat[corner], flat[corner + 1]
    bottom = a + fx * (b - a)
    return (top + fy * (bottom - top)).astype(x.dtype, copy=False).reshape(n, c, oh, ow)


def _smooth(field: Any, sigma: float) -> Any:
    """Smooth the last two axes by a Gaussian of `sigma` pixels that sees 0 outside: two small matrix products."""
    xp = namespace(field)

    def kernel(length: int) -> Any:
        at = np.arange(length)
        weights = np.exp(-((at[:, None] - at[None, :]) ** 2) / (2 * sigma**2)) / (sigma * math.sqrt(2 * math.pi))
        return _on_device(weights.astype(np.float32), field)

    h, w = field.shape[-2:]
    return xp.matmul(kernel(h), xp.matmul(field, kernel(w)))


def _images(who: str, x: Any) -> tuple[int, int, int, int]:
    """Return the shape of a batch of images, after making sure that it is one."""
    if type(x) not in namespaces:
        raise DTypeError(f"{who}: transforms work on arrays, got {type(x).__name__}")
    if x.ndim != 4:
        raise ShapeError(f"{who}: images have shape (n, c, h, w), got {x.shape}")
    if x.dtype.kind != "f":
        raise DTypeError(f"{who}: images are of a float type, got {x.dtype}; scale them first, x / 255 in float32")
    return x.shape  # type: ignore[no-any-return]


def _flipped(who: str, x: Any, rng: Generator, p: float, axis: int) -> Any:
    n = _images(who, x)[0]
    chosen = _on_device(np.flatnonzero(rng.random(n) < p), x)
    y = x.copy()
    y[chosen] = namespace(x).flip(x[chosen], axis)
    return y


def _drawn(who: str, x: Any, rng: Generator, bounds: Range) -> Any:
    """Draw one factor per image, shape (n, 1, 1, 1), in the type of x."""
    n = _images(who, x)[0]
    return _like(rng.uniform(*bounds, (n, 1, 1, 1)), x)


def _on_device(values: Any, x: Any) -> Any:
    return device_of(x).asarray(values)


def _like(values: Any, x: Any) -> Any:
    return _on_device(values.astype(x.dtype, copy=False), x)


def _clipped(y: Any, bounds: Range | None) -> Any:
    return y if bounds is None else namespace(y).clip(y, *bounds)


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


def _not_negative(who: str, **options: float) -> None:
    for name, value in options.items():
        if not value >= 0:
            raise OptionError(f"{who}: {name} is from 0 on, got {value}")


def _probability(who: str, p: float) -> None:
    if not 0 <= p <= 1:
        raise OptionError(f"{who}: p is a probability from 0 to 1, got {p}")


def _factors(who: str, factor: Range) -> None:
    if not 0 <= factor[0] <= factor[1]:
        raise OptionError(f"{who}: factor is a smallest and a largest factor from 0 on, got {factor}")
