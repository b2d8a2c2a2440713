# /// exercise
# id = "c1-relu"
# title = "ReLU, and its derivative at 0"
# topics = ["ReLU", "subgradient"]
# requires = ["b1-local-vjps"]
# points = 2
# ///
# %% [markdown]
# `relu(x) = max(x, 0)` has the slope 0 left of 0 and the slope 1 right of it. *At* 0 it has no derivative: every number
# between 0 and 1 is a legal subgradient. Frameworks have to choose, and they choose differently. Here the caller does:
#
# | `at_zero` | derivative where x is exactly 0 |
# |---|---|
# | `"left"` | 0 |
# | `"right"` | 1 |
# | `"average"` | 1/2 |
#
# Write `relu_vjp(dout, x, at_zero)`. The checker puts exact zeros into x, and names the convention you follow.

# %%
import numpy as np


def relu_vjp(dout, x, at_zero):
    # <solution>
    value = {"left": 0.0, "right": 1.0, "average": 0.5}[at_zero]
    return dout * np.where(x == 0, value, x > 0)
    # </solution>


# <checks>
from tinygrad_cnn.exercises import Kinked, Vjp, bug, edit, hint


def relu(x, at_zero):
    return np.maximum(x, 0)


def smooth(rng):
    for at_zero in ("left", "right", "average"):
        x = rng.normal(size=(3, 5))
        yield dict(x=x + 0.05 * np.sign(x), at_zero=at_zero)


def zeros(rng):
    for at_zero in ("left", "right", "average"):
        x = rng.normal(size=(3, 4))
        x = x + 0.05 * np.sign(x)
        x[rng.permutation(3)[:2], rng.integers(0, 4, size=2)] = 0.0
        yield dict(x=x, at_zero=at_zero)


Vjp("relu_vjp", of=relu, wrt="x", cases=smooth, title="relu_vjp(): away from 0")
Kinked("relu_vjp", of=relu, wrt="x", cases=zeros, convention=lambda x, at_zero: at_zero, title="relu_vjp(): at 0")
edit(
    "mask from dout",
    "np.where(x == 0, value, x > 0)",
    "(dout > 0)",
    fix="The mask depends on x, the input of the forward pass, not on dout.",
)
edit("mask inverted", "x > 0)", "x < 0)", fix="The gradient passes where x > 0.")
edit(
    "leaky slope",
    "np.where(x == 0, value, x > 0)",
    "np.where(x == 0, value, np.where(x > 0, 1.0, 0.01))",
    fix="Left of 0 the slope is exactly 0; 0.01 is a leaky ReLU.",
)
edit(
    "derivative of the absolute value",
    "np.where(x == 0, value, x > 0)",
    "np.where(x == 0, value, np.sign(x))",
    fix="Left of 0 the slope of ReLU is 0, not -1.",
)
edit(
    "at_zero ignored",
    "np.where(x == 0, value, x > 0)",
    "(x > 0)",
    fix="Where x == 0 use the value that at_zero asks for.",
)
edit(
    "left and right exchanged",
    '"left": 0.0, "right": 1.0',
    '"left": 1.0, "right": 0.0',
    fix="The slope on the left is 0, on the right 1.",
)
edit(
    "no legal value at 0",
    '"average": 0.5',
    '"average": 1.5',
    fix="Only values between the two slopes, 0 and 1, are subgradients.",
)


@bug("multiplied by the output", fix="The derivative is 0 or 1; x itself does not appear in it.")
def _(ref, dout, x, at_zero):
    return ref(dout, x, at_zero) * np.where(x == 0, 1, np.maximum(x, 0))


hint("Three cases for each entry: x < 0, x == 0, x > 0.")
hint("dx = dout * s with s = 0, at_zero's value, 1 in the three cases.")
hint("value = {'left': 0, 'right': 1, 'average': 0.5}[at_zero];  return dout * np.where(x == 0, value, x > 0)")
# </checks>
# <hidden points=1>
Kinked(
    "relu_vjp", of=relu, wrt="x", cases=zeros, convention=lambda x, at_zero: at_zero, title="relu_vjp(): other zeros"
)
# </hidden>
