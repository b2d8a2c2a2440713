# /// exercise
# id = "b5-sum-mean"
# title = "Sum and mean over axes"
# topics = ["reductions"]
# requires = ["b4-unbroadcast"]
# points = 2
# ///
# %% [markdown]
# `y = x.sum(axis, keepdims=keepdims)`: every `x[i, j]` that went into a sum has the derivative 1 there. So the gradient
# of the sum is handed to all of them: it is *broadcast* back to the shape of x. For the mean over n numbers each gets
# one n-th.
#
# Write `sum_vjp(dout, x, axis, keepdims)` and `mean_vjp(dout, x, axis, keepdims)`. `axis` is None (all axes), an int
# (possibly negative) or a tuple of ints. If `keepdims` is False, the summed axes are missing in `dout`.
# `np.expand_dims` puts an axis of size 1 back.

# %%
import numpy as np


def sum_vjp(dout, x, axis, keepdims):
    # <solution>
    if axis is None:
        axis = tuple(range(x.ndim))
    if not keepdims:
        dout = np.expand_dims(dout, axis)
    return np.broadcast_to(dout, x.shape).copy()
    # </solution>


def mean_vjp(dout, x, axis, keepdims):
    # <solution>
    count = x.size / dout.size
    return sum_vjp(dout, x, axis, keepdims) / count
    # </solution>


# <checks>
from tinygrad_cnn.exercises import Vjp, bug, edit, hint


def cases(rng):
    for axis in (1, 0, -1, (0, 2), None):
        for keepdims in (True, False):
            yield dict(x=rng.normal(size=(3, 4, 5)), axis=axis, keepdims=keepdims)


Vjp("sum_vjp", of=lambda x, axis, keepdims: x.sum(axis, keepdims=keepdims), wrt="x", cases=cases)
Vjp("mean_vjp", of=lambda x, axis, keepdims: x.mean(axis, keepdims=keepdims), wrt="x", cases=cases)
edit("1/n forgotten in the mean", " / count", "", fix="Each of n numbers has the derivative 1/n in their mean.")
edit(
    "divided by the total size",
    "x.size / dout.size",
    "x.size",
    fix="n is the number of averaged entries, x.size / dout.size, not all of x.",
)
edit(
    "divided by the number of results",
    "x.size / dout.size",
    "dout.size",
    fix="n is the number of averaged entries: x.size / dout.size.",
)
edit("multiplied by n", "keepdims) / count", "keepdims) * count", fix="Divide by n.")


@bug("upstream gradient ignored", on="sum_vjp", fix="Each entry gets dout of its sum, not 1.")
def _(ref, dout, x, axis, keepdims):
    return np.ones_like(x)


@bug("divided by n in the sum", on="sum_vjp", fix="There is no 1/n in a sum: every entry gets all of dout.")
def _(ref, dout, x, axis, keepdims):
    return ref(dout, x, axis, keepdims) / (x.size / dout.size)


@bug("not expanded to the shape of x", on="sum_vjp", fix="Broadcast dout to x.shape.")
def _(ref, dout, x, axis, keepdims):
    return dout


hint("y = x[0] + x[1] + x[2]: what is dy/dx[1]? What does dL/dy = 5 mean for x[1]?")
hint(
    "Put the missing axes back (size 1), then np.broadcast_to(dout, x.shape). For the mean, divide by x.size / dout.size."
)
hint(
    "if not keepdims: dout = np.expand_dims(dout, axis)  (for None: all axes);  return np.broadcast_to(dout, x.shape).copy()"
)
# </checks>
# <hidden points=1>
Vjp(
    "mean_vjp",
    of=lambda x, axis, keepdims: x.mean(axis, keepdims=keepdims),
    wrt="x",
    cases=lambda rng: [
        dict(x=rng.normal(size=(2, 6, 1, 7)), axis=a, keepdims=k) for a in ((1, 2), (-1, 0), 3) for k in (True, False)
    ],
)
# </hidden>
