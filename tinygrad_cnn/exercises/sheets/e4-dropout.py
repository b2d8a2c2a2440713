# /// exercise
# id = "e4-dropout"
# title = "Inverted dropout"
# topics = ["dropout"]
# requires = ["b1-local-vjps"]
# points = 2
# ///
# %% [markdown]
# In training, dropout switches each unit off with probability `p`. The units that stay are multiplied by `1/(1 - p)`,
# so that the mean of the output does not change, and at test time nothing at all has to be done.
#
# The random numbers come from outside: `u` has the shape of x and is uniform in [0, 1). A unit stays where `u >= p`.
#
# 1. `dropout(x, u, p, training)` returns y.
# 2. `dropout_vjp(dout, x, u, p)` for the training mode: the *same* units, the same factor. Take the mask from u, not from
#    the zeros of y: a unit that stays may well have the value 0.

# %%
import numpy as np


def dropout(x, u, p, training):
    # <solution>
    if not training:
        return x.copy()
    return x * (u >= p) / (1 - p)
    # </solution>


def dropout_vjp(dout, x, u, p):
    # <solution>
    return dout * (u >= p) / (1 - p)
    # </solution>


# <checks>
from tinygrad_cnn.exercises import Same, Vjp, bug, edit, hint


def layers(rng):
    for shape, p in [((3, 5), 0.2), ((4, 7), 0.5), ((6,), 0.7), ((2, 3), 0.0)]:
        for training in (True, False):
            yield dict(x=rng.normal(size=shape), u=rng.uniform(size=shape), p=p, training=training)


def points(rng):
    for shape, p in [((3, 5), 0.2), ((4, 7), 0.6), ((6,), 0.7)]:
        x = rng.normal(size=shape)
        x[rng.uniform(size=shape) < 0.3] = 0.0  # values that are 0 without being dropped
        yield dict(x=x, u=rng.uniform(size=shape), p=p)


def forward(x, u, p):
    return x * (u >= p) / (1 - p)


Same("dropout", layers)
Vjp("dropout_vjp", of=forward, wrt="x", cases=points)
edit(
    "not scaled",
    "return x * (u >= p) / (1 - p)",
    "return x * (u >= p)",
    fix="Divide by 1 - p, so that the mean stays the same.",
)
edit(
    "scaled by 1/p",
    "return x * (u >= p) / (1 - p)",
    "return x * (u >= p) / p if p else x * 1.0",
    fix="A unit stays with probability 1 - p: divide by 1 - p.",
)
edit(
    "mask inverted",
    "return x * (u >= p)",
    "return x * (u < p)",
    fix="A unit stays where u >= p: p is the probability to be dropped.",
)
edit("scaled at test time", "return x.copy()", "return x * (1 - p)", fix="Inverted dropout does nothing at test time.")
edit(
    "dropped at test time too",
    "    if not training:\n        return x.copy()\n",
    "",
    fix="At test time nothing is dropped.",
)
edit(
    "gradient without the mask",
    "return dout * (u >= p) / (1 - p)",
    "return dout / (1 - p)",
    fix="Dropped units had no influence: their gradient is 0.",
)
edit(
    "gradient not scaled",
    "return dout * (u >= p) / (1 - p)",
    "return dout * (u >= p)",
    fix="The factor 1/(1 - p) belongs to the gradient too.",
)
edit(
    "gradient mask inverted",
    "return dout * (u >= p)",
    "return dout * (u < p)",
    fix="The same units as in the forward pass: u >= p.",
)


@bug("mask guessed from the zeros of the output", on="dropout_vjp", fix="A unit that stays may be 0 by itself: use u.")
def _(ref, dout, x, u, p):
    return dout * (forward(x, u, p) != 0) / (1 - p)


hint("Three factors per unit: the value, the mask (0 or 1), the scale.")
hint("y = x * (u >= p) / (1 - p) in training, y = x at test time; dx = dout * (u >= p) / (1 - p).")
hint("return x * (u >= p) / (1 - p) if training else x.copy();   return dout * (u >= p) / (1 - p)")
# </checks>
# <hidden points=1>
Same("dropout", layers, title="dropout(): other numbers")
# </hidden>
