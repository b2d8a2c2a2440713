# /// exercise
# id = "b4-unbroadcast"
# title = "Undo broadcasting"
# topics = ["broadcasting"]
# points = 2
# ///
# %% [markdown]
# When `x` of shape `(5,)` is added to `y` of shape `(3, 5)`, NumPy uses each `x[j]` three times, once per row.
# In the backward pass each use sends back a gradient of its own, and they **add up**:
# `dx[j] = sum over i of dout[i, j]`.
#
# Write `unbroadcast(g, shape)`. `g` is a gradient of the shape *after* broadcasting; the result has `shape`,
# the shape *before*. Two things may have happened to an axis:
#
# - it was **not there** (NumPy adds axes on the left): sum over it, and it is gone;
# - it was there with **size 1** and was stretched: sum over it, but keep it with size 1.

# %%
import numpy as np


def unbroadcast(g, shape):
    """Return the gradient of an array of `shape` that was broadcast to the shape of g."""
    # <solution>
    new = g.ndim - len(shape)
    g = g.sum(axis=tuple(range(new)))
    stretched = tuple(i for i, n in enumerate(shape) if n == 1 and g.shape[i] != 1)
    return g.sum(axis=stretched, keepdims=True)
    # </solution>


# <checks>
from tinygrad_cnn.exercises import Same, edit, hint


def cases(rng):
    yield dict(g=rng.normal(size=(3, 5)), shape=(5,))
    yield dict(g=rng.normal(size=(3, 5)), shape=(3, 5))
    yield dict(g=rng.normal(size=(4, 3)), shape=(4, 1))
    yield dict(g=rng.normal(size=(2, 3, 5, 7)), shape=(3, 1, 7))
    yield dict(g=rng.normal(size=(2, 3, 4)), shape=())
    yield dict(g=rng.normal(size=(6, 1, 5)), shape=(1, 5))


Same("unbroadcast", cases)
edit(
    "not summed at all",
    "g = g.sum(axis=tuple(range(new)))\n",
    "return g\n",
    fix="The result must have `shape`: sum over every axis that broadcasting added or stretched.",
)
edit(
    "mean instead of sum",
    "g.sum(axis=tuple(range(new)))",
    "g.mean(axis=tuple(range(new)))",
    "g.sum(axis=stretched",
    "g.mean(axis=stretched",
    fix="Every use of x sends back a gradient; they are added, not averaged.",
)
edit(
    "stretched axes are not summed",
    "return g.sum(axis=stretched, keepdims=True)",
    "return g",
    fix="An axis of size 1 that was stretched has to be summed too, with keepdims=True.",
)
edit(
    "keepdims forgotten",
    "keepdims=True",
    "keepdims=False",
    fix="A stretched axis stays, with size 1: keepdims=True.",
)
edit(
    "only the first copy counted",
    "return g.sum(axis=stretched, keepdims=True)",
    "return g[tuple(slice(0, 1) if i in stretched else slice(None) for i in range(g.ndim))]",
    fix="All copies contribute, not only the first.",
)
hint("Try it by hand: x of shape (1,) added to y of shape (3,). How often is x[0] used? What is dL/dx[0]?")
hint("dx = sum of g over the added axes (the first g.ndim - len(shape)) and over the axes with shape[i] == 1.")
hint("g = g.sum(axis=tuple(range(added))); then g = g.sum(axis=the axes of size 1 in shape, keepdims=True).")


# </checks>
# <hidden points=1>
def more(rng):
    yield dict(g=rng.normal(size=(4, 2, 3, 6, 5)), shape=(2, 1, 6, 1))
    yield dict(g=rng.normal(size=(7, 2)), shape=(1, 2))
    yield dict(g=rng.normal(size=(3, 4, 2)), shape=(1, 1, 1))


Same("unbroadcast", more, title="unbroadcast(): more shapes")
# </hidden>
