# /// exercise
# id = "d10-pool-ties"
# title = "Max pooling with ties: what is legal"
# topics = ["pooling", "subgradient"]
# requires = ["d8-max-pool"]
# points = 3
# ///
# %% [markdown]
# After a ReLU many numbers are exactly 0, and whole windows are tied. At a tie the maximum has no derivative. Legal are
# all *convex* choices: every tied number gets a share between 0 and 1, and **the shares of a window add up to 1**.
#
# | choice | tied 2 x 2 window | legal? |
# |---|---|---|
# | first | 1, 0, 0, 0 | yes |
# | last | 0, 0, 0, 1 | yes |
# | split | 1/4, 1/4, 1/4, 1/4 | yes |
# | everybody | 1, 1, 1, 1 | **no**: four times the gradient |
#
# The mask `x == y` of the exercise before is the last line. Write `max_pool_vjp(dout, x, k)` with any legal choice; the
# checker will tell you which one it sees. Equal means exactly equal: two numbers 1e-3 apart are no tie.

# %%
import numpy as np


def max_pool(x, k):
    n, c, h, w = x.shape
    return x.reshape(n, c, h // k, k, w // k, k).max(axis=(3, 5))


def max_pool_vjp(dout, x, k):
    # <solution>
    n, c, h, w = x.shape
    windows = x.reshape(n, c, h // k, k, w // k, k).transpose(0, 1, 2, 4, 3, 5).reshape(n, c, h // k, w // k, k * k)
    share = np.zeros(windows.shape)
    np.put_along_axis(share, windows.argmax(axis=4)[..., None], 1.0, axis=4)
    dx = share * dout[..., None]
    return dx.reshape(n, c, h // k, w // k, k, k).transpose(0, 1, 2, 4, 3, 5).reshape(x.shape)
    # </solution>


# <checks>
from tinygrad_cnn.exercises import Kinked, Vjp, bug, edit, hint


def distinct(rng):
    for (n, c, h, w), k in [((3, 2, 4, 6), 2), ((1, 3, 6, 3), 3)]:
        yield dict(x=rng.permutation(n * c * h * w).reshape(n, c, h, w) / 10 - 3.0, k=k)


def near(rng):
    for (n, c, h, w), k in [((2, 2, 4, 6), 2), ((1, 2, 6, 3), 3)]:
        yield dict(x=1 + 1e-6 * rng.permutation(n * c * h * w).reshape(n, c, h, w), k=k)


def ties(rng):
    for (n, c, h, w), k in [((1, 2, 4, 6), 2), ((2, 1, 3, 6), 3)]:
        x = rng.permutation(n * c * h * w).reshape(n, c, h, w) / 10 + 1.0
        x[0, 0, :k, :k] = 0.0  # a window in which all are equal
        corner = x[-1, -1, -k:, -k:]
        corner[0, 0] = corner[-1, -1] = 50.0  # a window with two equal maxima
        yield dict(x=x, k=k)


Vjp("max_pool_vjp", of="max_pool", wrt="x", cases=distinct, title="max_pool_vjp(): no ties")
Vjp("max_pool_vjp", of="max_pool", wrt="x", cases=near, title="max_pool_vjp(): numbers close to each other")
Kinked("max_pool_vjp", of="max_pool", wrt="x", cases=ties, title="max_pool_vjp(): ties")


def big(a, k):
    return a.repeat(k, axis=2).repeat(k, axis=3)


@bug(
    "the whole gradient to every tied maximum",
    fix="Shares of tied maxima add up to 1: choose one, or divide by the number of ties.",
)
def _(ref, dout, x, k):
    return (x == big(max_pool(x, k), k)) * big(dout, k)


@bug("nothing at ties", fix="The shares of a window add up to 1, also where there is a tie.")
def _(ref, dout, x, k):
    mask = x == big(max_pool(x, k), k)
    count = mask.reshape(len(x), x.shape[1], x.shape[2] // k, k, -1, k).sum(axis=(3, 5))
    return mask * big(dout * (count == 1), k)


@bug(
    "nearly equal taken for equal", fix="Compare with ==, not with np.isclose: numbers that differ a little are no tie."
)
def _(ref, dout, x, k):
    mask = np.isclose(x, big(max_pool(x, k), k), rtol=0, atol=1e-3)
    count = mask.reshape(len(x), x.shape[1], x.shape[2] // k, k, -1, k).sum(axis=(3, 5))
    return mask * big(dout / count, k)


@bug("divided by the window size", fix="Divide by the number of *tied* numbers, not by k * k.")
def _(ref, dout, x, k):
    mask = x == big(max_pool(x, k), k)
    count = mask.reshape(len(x), x.shape[1], x.shape[2] // k, k, -1, k).sum(axis=(3, 5))
    return mask * big(dout * np.where(count > 1, 1 / k**2, 1), k) * np.where(big(count, k) == k * k, 0.5, 1)


edit("minimum for maximum", "windows.argmax", "windows.argmin", fix="The gradient goes to the largest number.")
hint("Take dout = 1 at a window: what should the four numbers of dx add up to?")
hint("argmax returns the first of several equal maxima. Or divide the mask by the number of ties in the window.")
hint(
    "windows = x.reshape(N,C,H//k,k,W//k,k).transpose(0,1,2,4,3,5).reshape(...,k*k); put 1 at argmax with np.put_along_axis; transpose back."
)
# </checks>
# <hidden points=1>
Kinked(
    "max_pool_vjp",
    of="max_pool",
    wrt="x",
    cases=lambda rng: [dict(x=np.maximum(rng.normal(size=(1, 2, 4, 4)), 0), k=2)],
    title="max_pool_vjp(): after a ReLU",
)
# </hidden>
