# /// exercise
# id = "b6-linear"
# title = "The linear layer"
# topics = ["affine layer"]
# requires = ["b1-local-vjps"]
# points = 3
# ///
# %% [markdown]
# A linear layer maps a batch of N rows with D numbers each to N rows with K numbers:
#
# `y = x @ w + b`, with `x` of shape (N, D), `w` of shape (D, K), `b` of shape (K,).
#
# `linear_vjp(dout, x, w, b)` returns `dx, dw, db`. Write `y[n, k] = sum over d of x[n, d] * w[d, k] + b[k]` on paper
# and ask for each of the three: in which outputs does this number take part, and with which factor?
#
# Shapes help: of the products of `dout` (N, K) with `x` (N, D), only one has the shape of `w`.

# %%
import numpy as np


def linear(x, w, b):
    return x @ w + b


def linear_vjp(dout, x, w, b):
    # <solution>
    dx = dout @ w.T
    dw = x.T @ dout
    db = dout.sum(axis=0)
    return dx, dw, db
    # </solution>


# <checks>
from tinygrad_cnn.exercises import Vjp, bug, edit, hint


def cases(rng):
    for n, d, k in [(3, 5, 4), (1, 2, 6), (4, 4, 4), (7, 1, 3)]:
        yield dict(x=rng.normal(size=(n, d)), w=rng.normal(size=(d, k)), b=rng.normal(size=k))


Vjp("linear_vjp", of="linear", wrt=("x", "w", "b"), cases=cases)


@bug("upstream gradient ignored", fix="Every product needs dout: it says how much each output matters.")
def _(ref, dout, x, w, b):
    return ref(np.ones_like(dout), x, w, b)


edit(
    "W not transposed in dx",
    "dout @ w.T",
    "dout @ w",
    fix="dx[n, d] = sum over k of dout[n, k] * w[d, k]: w is transposed.",
)
edit("dW transposed", "x.T @ dout", "dout.T @ x", fix="dw has the shape of w, (D, K): x.T @ dout.")
edit(
    "mean over the batch in db",
    "dout.sum(axis=0)",
    "dout.mean(axis=0)",
    fix="b is used once per row, and the uses add up: sum.",
)
edit(
    "mean over the batch in dW",
    "x.T @ dout",
    "x.T @ dout / len(x)",
    fix="No 1/N here: the mean, if any, is part of the loss.",
)
edit(
    "db summed over the wrong axis",
    "dout.sum(axis=0)",
    "dout.sum(axis=1)",
    fix="b has one number per column: sum over the rows, axis 0.",
)
edit("db not summed", "dout.sum(axis=0)", "dout", fix="b was broadcast over the batch: sum its gradient over axis 0.")
edit(
    "db keeps an axis",
    "dout.sum(axis=0)",
    "dout.sum(axis=0, keepdims=True)",
    fix="db has the shape of b: (K,), not (1, K).",
)
edit("only the first row counted in db", "dout.sum(axis=0)", "dout[0]", fix="All rows of the batch contribute to db.")
edit("results in another order", "return dx, dw, db", "return dw, dx, db", fix="The order is dx, dw, db.")
hint("Start with db: y[n, k] contains b[k] for every n. So each row of dout sends a contribution to b.")
hint("dx = dout times w transposed; dw = x transposed times dout; db = sum of dout over the batch.")
hint("dx = dout @ w.T;  dw = x.T @ dout;  db = dout.sum(axis=0)")


# </checks>
# <hidden points=1>
def more(rng):
    for n, d, k in [(8, 3, 5), (1, 1, 1), (2, 9, 7)]:
        yield dict(x=rng.normal(size=(n, d)), w=rng.normal(size=(d, k)), b=rng.normal(size=k))


Vjp("linear_vjp", of="linear", wrt=("x", "w", "b"), cases=more)
# </hidden>
