"""Convolutions of up to four images: image by image, each by one product.

With the batch innermost in memory, runs of neighbouring numbers are as long as the batch: good from some sixteen
images on, bad for one. Here the runs are rows of an image, and there is little else to do: the columns that the kernel
sees are copied, (C · KH · KW, OH · OW) of an image, and multiplied with the weight. Threads are those of BLAS, which
wakes them up for large products only. The results lie in memory as (N, C, H, W).
Source: Chellapilla, Puri & Simard, IWFHR 2006.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .geometry import Padding, Pair

__all__ = ["correlate", "correlate_weight", "input_gradient", "pays"]

Array = np.ndarray[Any, Any]

_FEW = 4
_LARGEST = 1 << 22  # elements of the columns of an image: 16 MiB of float32
_FILTERS = 6  # per channel, up to which turning pays


def pays(n: int, weight_shape: tuple[int, ...], output: Pair) -> bool:
    """Return whether a convolution of n images without groups is computed here."""
    _, c, kh, kw = weight_shape
    return 0 < n <= _FEW and 0 < c * kh * kw * output[0] * output[1] <= _LARGEST


def _padded(x: Array, padding: Padding, dtype: Any) -> Array:
    """Return images as neighbouring numbers (N, C, H, W), with zeros around."""
    (top, bottom), (left, right) = padding
    if not (top or bottom or left or right):
        return np.ascontiguousarray(x, dtype)
    n, c, h, w = x.shape
    out: Array = np.zeros((n, c, h + top + bottom, w + left + right), dtype)
    out[:, :, top : top + h, left : left + w] = x
    return out


def _columns(x: Array, number: int, kernel: Pair, stride: Pair, dilation: Pair, output: Pair) -> Array:
    """Return what every element of the kernel sees of a padded image: (C · KH · KW, OH · OW)."""
    (kh, kw), (oh, ow), c = kernel, output, x.shape[1]
    start, channel, down, across = x.strides
    windows: Array = np.ndarray(  # as_strided takes as long as the copy of a small image
        (c, kh, kw, oh, ow), x.dtype, x, number * start,
        (channel, down * dilation[0], across * dilation[1], down * stride[0], across * stride[1]),
    )  # fmt: skip
    columns: Array = windows.reshape(c * kh * kw, oh * ow)
    return columns


def correlate(
    x: Array, weight: Array, bias: Array | None, *, stride: Pair, padding: Padding, dilation: Pair, output: Pair
) -> Array:
    """Return y (N, O, OH, OW) of x (N, C, H, W) and a weight (O, C, KH, KW) in the type to compute in."""
    o, _, *kernel = weight.shape
    n, (oh, ow) = len(x), output
    x, matrix = _padded(x, padding, weight.dtype), weight.reshape(o, -1)
    y: Array = np.empty((n, o, oh, ow), weight.dtype)
    for i in range(n):
        image = y[i].reshape(o, oh * ow)
        np.matmul(matrix, _columns(x, i, (kernel[0], kernel[1]), stride, dilation, output), out=image)
        if bias is not None:
            image += bias[:, None]
    return y


def correlate_weight(
    x: Array, g: Array, kernel: Pair, *, stride: Pair, padding: Padding, dilation: Pair, dtype: Any
) -> Array:
    """Return the gradient (O, C, KH, KW) of the weight from x (N, C, H, W) and g (N, O, OH, OW), of a type."""
    (n, o, *output), c = g.shape, x.shape[1]
    x, flat = _padded(x, padding, dtype), np.ascontiguousarray(g, dtype).reshape(n, o, -1)
    total: Array = np.zeros((o, c * kernel[0] * kernel[1]), dtype)
    for i in range(n):
        total += flat[i] @ _columns(x, i, kernel, stride, dilation, (output[0], output[1])).T
    return total.reshape(o, c, *kernel)


def input_gradient(g: Array, weight: Array, *, size: Pair, stride: Pair, padding: Padding, dilation: Pair) -> Array:
    """Return the gradient (N, C, H, W) of the input of a convolution from g (N, O, OH, OW).

    With stride 1 it is the convolution of g with the kernel turned by 180°, which needs no additions into overlapping
    places; but with many filters to a channel it copies more than that saves, and turning a large weight takes longer
    than the product with a small image.
    """
    o, c, kh, kw = weight.shape
    (top, bottom), (left, right) = padding
    down, across = dilation[0] * (kh - 1), dilation[1] * (kw - 1)
    around = (down - top, down - bottom), (across - left, across - right)
    if (
        stride == (1, 1)
        and o <= _FILTERS * c
        and c <= size[0] * size[1]
        and min(map(min, around)) >= 0
        and pays(len(g), (c, o, kh, kw), size)
    ):
        turned = np.ascontiguousarray(weight[:, :, ::-1, ::-1].transpose(1, 0, 2, 3))
        return correlate(g, turned, None, stride=stride, padding=around, dilation=dilation, output=size)
    return _spread(g, weight, size=size, stride=stride, padding=padding, dilation=dilation)


def _spread(g: Array, weight: Array, *, size: Pair, stride: Pair, padding: Padding, dilation: Pair) -> Array:
    """Return the same: every g times the kernel, added in its place."""
    (n, o, oh, ow), (_, c, kh, kw) = g.shape, weight.shape
    (h, w), (sh, sw), (dh, dw), ((top, bottom), (left, right)) = size, stride, dilation, padding
    flat = np.ascontiguousarray(g, weight.dtype).reshape(n, o, oh * ow)
    columns = np.matmul(weight.reshape(o, -1).T, flat).reshape(n, c, kh, kw, oh, ow)
    total: Array = np.zeros((n, c, h + top + bottom, w + left + right), weight.dtype)
    for i in range(kh):
        rows = slice(i * dh, i * dh + sh * (oh - 1) + 1, sh)
        for j in range(kw):
            total[:, :, rows, j * dw : j * dw + sw * (ow - 1) + 1 : sw] += columns[:, :, i, j]
    return total[:, :, top : top + h, left : left + w]
