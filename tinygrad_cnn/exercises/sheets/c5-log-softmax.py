# /// exercise
# id = "c5-log-softmax"
# title = "The gradient of log-softmax"
# topics = ["cross-entropy"]
# requires = ["c4-softmax-vjp"]
# points = 2
# ///
# %% [markdown]
# `log_softmax(x) = x - log(sum(exp(x)))`, row by row. It is computed directly, not as `log(softmax(x))`, because a
# probability that underflows to 0 has no logarithm.
#
# Write `log_softmax_vjp(dout, x)`. The same care is needed: a gradient that divides by a probability gives NaN as soon
# as that probability is 0. The checker tries logits as far apart as 2000.

# %%
import numpy as np


def softmax(x):
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def log_softmax(x):
    shifted = x - x.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def log_softmax_vjp(dout, x):
    # <solution>
    return dout - softmax(x) * dout.sum(axis=1, keepdims=True)
    # </solution>


# <checks>
from tinygrad_cnn.exercises import Same, Vjp, bug, edit, hint


def cases(rng):
    for n, k in [(3, 5), (1, 4), (4, 2), (5, 7)]:
        yield dict(x=rng.normal(size=(n, k)))


def far_apart(rng):
    for n, k in [(3, 5), (2, 4)]:
        x = rng.normal(size=(n, k))
        x[:, 0] += 2000.0
        yield dict(dout=rng.normal(size=(n, k)), x=x)


Vjp("log_softmax_vjp", of="log_softmax", wrt="x", cases=cases)
Same("log_softmax_vjp", far_apart, title="log_softmax_vjp(): logits far apart")
edit(
    "sum of dout taken as 1",
    "softmax(x) * dout.sum(axis=1, keepdims=True)",
    "softmax(x)",
    fix="dout - p holds only if the row of dout sums to 1; in general p * sum(dout).",
)
edit(
    "sum of dout forgotten",
    "dout.sum(axis=1, keepdims=True)",
    "dout",
    fix="All entries of the row's dout meet in the sum.",
)
edit("mean for the sum", "dout.sum(axis=1", "dout.mean(axis=1", fix="A sum, no mean.")
edit("sum over the batch", "dout.sum(axis=1", "dout.sum(axis=0", fix="Rows do not know each other: axis 1.")
edit(
    "only the first term",
    "dout - softmax(x) * dout.sum(axis=1, keepdims=True)",
    "dout.copy()",
    fix="The normalisation log(sum(exp(x))) depends on x too.",
)


@bug(
    "divides by the probabilities",
    fix="dout / p is NaN or infinite where p underflows; in dout - p * sum(dout) nothing is divided.",
)
def _(ref, dout, x):
    p = softmax(x)
    g = dout / p
    return p * (g - (g * p).sum(axis=1, keepdims=True))


hint("log_softmax(x)[j] = x[j] - log(sum(exp(x))). What is the derivative of the second term with respect to x[k]?")
hint("d log_softmax[j] / dx[k] = (j == k) - p[k]. Multiply by dout[j] and sum over j.")
hint("return dout - softmax(x) * dout.sum(axis=1, keepdims=True)")
# </checks>
# <hidden points=1>
Vjp(
    "log_softmax_vjp",
    of="log_softmax",
    wrt="x",
    cases=lambda rng: [dict(x=3 * rng.normal(size=s)) for s in ((2, 9), (6, 3))],
)
# </hidden>
