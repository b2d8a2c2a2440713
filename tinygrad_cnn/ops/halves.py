"""Which ops take float16 and bfloat16 as they are; all others compute in float32 and round their result once.

An op stands here if it moves its inputs or chooses among them, if it rounds once by itself, or if it is a product of
matrices whose sums GPU libraries keep in float32.
"""

from __future__ import annotations

from . import activations, convolution, elementwise, linear, losses, reductions, shapes

__all__: list[str] = []

_MOVE_OR_CHOOSE = (
    shapes.broadcast_to, shapes.concatenate, shapes.getitem, shapes.pad, shapes.reshape, shapes.stack,
    shapes.to_device, shapes.transpose, elementwise.astype, losses.pick, losses.place,
    elementwise.maximum, elementwise.minimum, elementwise.where, activations.relu, activations.relu_gradient,
    reductions.amax, reductions.amin, reductions.argmax, reductions.argmin,
    elementwise.equal, elementwise.greater, elementwise.greater_equal,
    elementwise.less, elementwise.less_equal, elementwise.not_equal,
)  # fmt: skip
_ROUND_ONCE = (
    elementwise.absolute, elementwise.add, elementwise.div, elementwise.mul, elementwise.neg, elementwise.sign,
    elementwise.sqrt, elementwise.sub,
)  # fmt: skip
_PRODUCTS = (
    convolution.conv2d, convolution.conv2d_input_gradient, convolution.conv2d_weight_gradient,
    linear.linear, linear.matmul,
)  # fmt: skip

for _op in (*_MOVE_OR_CHOOSE, *_ROUND_ONCE):
    _op.halves = "keep"
for _op in _PRODUCTS:
    _op.halves = "product"
