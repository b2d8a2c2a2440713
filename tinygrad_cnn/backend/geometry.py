"""Where kernels and windows stand on an image: the arithmetic that every array library's kernels share."""

from __future__ import annotations

__all__ = ["Padding", "Pair", "positions", "window_padding"]

Pair = tuple[int, int]
Padding = tuple[Pair, Pair]


def positions(size: int, padding: Pair, kernel: int, stride: int, dilation: int) -> int:
    """Return how many positions a kernel has along one axis.

    floor((size + before + after - dilation (kernel - 1) - 1) / stride) + 1
    """
    return (size + sum(padding) - dilation * (kernel - 1) - 1) // stride + 1


def window_padding(size: Pair, kernel: Pair, stride: Pair, padding: Padding, dilation: Pair, output: Pair) -> Padding:
    """Return the padding that lets every window end inside: ceil mode may reach past the given one."""
    ends = [(o - 1) * s + d * (k - 1) + 1 for o, s, d, k in zip(output, stride, dilation, kernel, strict=True)]
    (top, bottom), (left, right) = padding
    return (top, max(bottom, ends[0] - size[0] - top)), (left, max(right, ends[1] - size[1] - left))
