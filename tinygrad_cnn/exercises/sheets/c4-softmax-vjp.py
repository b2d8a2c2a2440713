# /// exercise
# id = "c4-softmax-vjp"
# title = "The gradient of softmax"
# topics = ["softmax"]
# requires = ["c3-stable-softmax"]
# points = 3
# ///
# %% [markdown]
# Each probability of a row depends on all logits of that row:
#
# `dp[j] / dx[k] = p[j] * ((j == k) - p[k])`.
#
# Write `softmax_vjp(dout, x)`: `dx[n, k] = sum over j of dout[n, j] * dp[n, j]/dx[n, k]`. No loop and no K x K matrix is
# needed: multiply out the formula above, and only one sum per row remains.

# %%
import numpy as np


def softmax(x):
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def softmax_vjp(dout, x):
    # <solution>
    p = softmax(x)
    return p * (dout - (dout * p).sum(axis=1, keepdims=True))
    # </solution>


# <checks>
from tinygrad_cnn.exercises import Vjp, bug, edit, hint


def cases(rng):
    for n, k in [(3, 5), (1, 4), (4, 2), (5, 7)]:
        yield dict(x=rng.normal(size=(n, k)))


Vjp("softmax_vjp", of="softmax", wrt="x", cases=cases)
edit(
    "diagonal of the Jacobian only",
    "p * (dout - (dout * p).sum(axis=1, keepdims=True))",
    "dout * p * (1 - p)",
    fix="p(1-p) is only the case j = k; every probability depends on every logit of its row.",
)
edit(
    "shortcut of softmax with cross-entropy",
    "p * (dout - (dout * p).sum(axis=1, keepdims=True))",
    "p - dout",
    fix="p - t is the gradient of cross-entropy *and* softmax together; here dout is any gradient.",
)
edit(
    "sum over the batch",
    "(dout * p).sum(axis=1, keepdims=True)",
    "(dout * p).sum(axis=0, keepdims=True)",
    fix="Rows do not know each other: sum over axis 1.",
)
edit(
    "mean for the sum",
    "(dout * p).sum(axis=1",
    "(dout * p).mean(axis=1",
    fix="dx = p * (dout - sum(dout * p)): a sum, no mean.",
)
edit("probabilities missing inside the sum", "(dout * p).sum", "dout.sum", fix="The sum runs over dout * p.")
edit(
    "factor p forgotten",
    "p * (dout - (dout * p).sum(axis=1, keepdims=True))",
    "dout - (dout * p).sum(axis=1, keepdims=True)",
    fix="The whole bracket is multiplied by p.",
)
edit("sum added", "dout - (dout", "dout + (dout", fix="The second term is subtracted.")


@bug("upstream gradient ignored", fix="With dout of ones the gradient is 0 for every x; the real dout matters.")
def _(ref, dout, x):
    return np.zeros_like(x)


hint("Write the Jacobian of one row for K = 2 and multiply it by dout.")
hint("sum_j dout_j p_j ((j==k) - p_k) = p_k dout_k - p_k sum_j dout_j p_j = p_k (dout_k - sum_j dout_j p_j)")
hint("p = softmax(x); s = (dout * p).sum(axis=1, keepdims=True); return p * (dout - s)")
# </checks>
# <hidden points=1>
Vjp("softmax_vjp", of="softmax", wrt="x", cases=lambda rng: [dict(x=3 * rng.normal(size=s)) for s in ((2, 9), (6, 3))])
# </hidden>
