"""An op of your own in one file: forward, gradient rule, check. Its second derivative comes for free.

python examples/09_own_op.py
"""

import argparse

from tinygrad_cnn import Tensor, grad
from tinygrad_cnn.ops import relu
from tinygrad_cnn.ops.rules import unary

argparse.ArgumentParser(description=__doc__).parse_known_args()


@unary(flops=2, family="activation", source="So et al., NeurIPS 2021")
def squared_relu(xp, x):
    """y = max(x, 0)². Its derivative, 2 max(x, 0), is continuous at 0."""
    return xp.maximum(x, 0) ** 2


@squared_relu.vjp("x", "g 2 max(x, 0)")
def _(g, y, x):
    return g * (2 * relu(x))


x = Tensor([-1.0, 0.5, 2.0], dtype="float64", requires_grad=True)
(first,) = grad(squared_relu(x).sum(), x, create_graph=True)
(second,) = grad(first.sum(), x)
print("x      ", x.tolist())
print("y      ", squared_relu(x).tolist())
print("dy/dx  ", first.tolist())
print("d²y/dx²", second.tolist())

h = 1e-6
numeric = ((squared_relu(x + h) - squared_relu(x - h)) / (2 * h)).tolist()
print("central differences", [round(v, 6) for v in numeric])
