# /// exercise
# id = "d8-max-pool"
# title = "Max pooling, disjoint windows"
# topics = ["pooling"]
# requires = ["c1-relu"]
# points = 3
# ///
# %% [markdown]
# Max pooling cuts an image into k x k windows that do not overlap and keeps the largest number of each:
#
# `y[n, c, i, j] = max over a, b < k of x[n, c, i * k + a, j * k + b]`
#
# Only the largest number of a window had any influence, so it gets the whole gradient of its window; the others get 0.
# Write `max_pool_vjp(dout, x, k)`. Height and width are multiples of k, and no two numbers are equal here.

# %%
import numpy as np


def max_pool(x, k):
    n, c, h, w = x.shape
    return x.reshape(n, c, h // k, k, w // k, k).max(axis=(3, 5))


def max_pool_vjp(dout, x, k):
    # <solution>
    y = max_pool(x, k)
    mask = x == y.repeat(k, axis=2).repeat(k, axis=3)
    return mask * dout.repeat(k, axis=2).repeat(k, axis=3)
    # </solution>


# <checks>
from tinygrad_cnn.exercises import Vjp, bug, edit, hint


def cases(rng):
    for (n, c, h, w), k in [((3, 2, 4, 6), 2), ((1, 3, 6, 9), 3), ((2, 1, 8, 4), 4), ((2, 2, 3, 5), 1)]:
        x = rng.permutation(n * c * h * w).reshape(n, c, h, w) / 10 - 3.0
        yield dict(x=x, k=k)


Vjp("max_pool_vjp", of="max_pool", wrt="x", cases=cases)


@bug("average pooling", fix="Only the largest number gets a gradient, and all of it.")
def _(ref, dout, x, k):
    return dout.repeat(k, axis=2).repeat(k, axis=3) / k**2


@bug("everybody gets the gradient", fix="Only the largest number of a window had influence.")
def _(ref, dout, x, k):
    return dout.repeat(k, axis=2).repeat(k, axis=3)


@bug("always the first pixel of the window", fix="Find where the maximum is; it is not always at the top left.")
def _(ref, dout, x, k):
    dx = np.zeros(x.shape)
    dx[:, :, ::k, ::k] = dout
    return dx


@bug("minimum for maximum", fix="The gradient goes to the largest number.")
def _(ref, dout, x, k):
    return ref(dout, -x, k)


@bug("upstream gradient ignored", fix="Put dout of the window where the maximum is, not 1.")
def _(ref, dout, x, k):
    return ref(np.ones_like(dout), x, k)


edit(
    "multiplied by the value",
    "    return mask * dout",
    "    return x * mask * dout",
    fix="The derivative of the maximum is 1, not its value.",
)


@bug("maximum over the channels", fix="Each channel is pooled on its own.")
def _(ref, dout, x, k):
    y = max_pool(x, k).max(axis=1, keepdims=True)
    mask = x == y.repeat(k, axis=2).repeat(k, axis=3)
    return mask * dout.repeat(k, axis=2).repeat(k, axis=3)


@bug(
    "tiled instead of repeated",
    fix="np.repeat enlarges each pixel to a block; np.tile puts copies of the image side by side.",
)
def _(ref, dout, x, k):
    return (ref(np.ones_like(dout), x, k)) * np.tile(dout, (1, 1, k, k))


hint("If the largest number of a window grows a little, y grows as much. What if another one grows a little?")
hint("Enlarge y and dout by k in both directions (np.repeat twice) and compare x with the enlarged y.")
hint("big = lambda a: a.repeat(k, axis=2).repeat(k, axis=3); return (x == big(max_pool(x, k))) * big(dout)")
# </checks>
# <hidden points=1>
Vjp("max_pool_vjp", of="max_pool", wrt="x", cases=lambda rng: [dict(x=rng.normal(size=(2, 4, 6, 4)), k=2)])
# </hidden>
