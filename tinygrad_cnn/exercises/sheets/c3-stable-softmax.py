# /// exercise
# id = "c3-stable-softmax"
# title = "A softmax that does not overflow"
# topics = ["softmax"]
# requires = ["b5-sum-mean"]
# points = 2
# ///
# %% [markdown]
# `softmax(x)[n, k] = exp(x[n, k]) / sum over j of exp(x[n, j])`, row by row: N rows of logits become N probability
# distributions.
#
# `exp(1000)` overflows to infinity, and inf/inf is NaN. But softmax does not change if the same number is taken off all
# logits of a row. Which number makes the largest exponent harmless? Write `softmax(x)` for `x` of shape (N, K) so that
# it is right for logits up to 1e5 in size, in every row on its own.

# %%
import numpy as np


def softmax(x):
    # <solution>
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)
    # </solution>


# <checks>
from tinygrad_cnn.exercises import Same, edit, hint


def ordinary(rng):
    yield dict(x=rng.normal(size=(3, 5)))
    yield dict(x=rng.normal(size=(4, 2)))
    yield dict(x=rng.normal(size=(1, 7)))


def extreme(rng):
    yield dict(x=1000.0 * rng.normal(size=(3, 5)))
    yield dict(x=1e5 + rng.normal(size=(2, 4)))
    yield dict(x=-1e5 + rng.normal(size=(3, 4)))
    yield dict(x=np.array([[1e4], [-1e4], [0.0]]) + rng.normal(size=(3, 6)))


Same("softmax", ordinary, title="softmax(): ordinary logits")
Same("softmax", extreme, title="softmax(): extreme logits")
edit(
    "overflow: no maximum subtracted",
    "x - x.max(axis=1, keepdims=True)",
    "x",
    fix="Take the row's maximum off first: then the largest exponent is 0.",
)
edit(
    "one maximum for all rows",
    "x.max(axis=1, keepdims=True)",
    "x.max()",
    fix="A row far below the global maximum underflows to 0/0: take each row's own maximum.",
)
edit(
    "softmax over the batch",
    "x - x.max(axis=1, keepdims=True)",
    "x - x.max(axis=0, keepdims=True)",
    "e.sum(axis=1, keepdims=True)",
    "e.sum(axis=0, keepdims=True)",
    fix="Each row is a distribution: axis 1.",
)
edit(
    "minimum subtracted",
    "x.max(axis=1",
    "x.min(axis=1",
    fix="The minimum leaves large exponents: take the maximum off.",
)
edit(
    "maximum of each column",
    "x.max(axis=1, keepdims=True)",
    "x.max(axis=0, keepdims=True)",
    fix="Within a row the same number has to be subtracted: the maximum over axis 1.",
)
edit("not normalised", "e / e.sum(axis=1, keepdims=True)", "e", fix="Divide by the sum of the row.")
edit(
    "divided by the length",
    "e / e.sum(axis=1, keepdims=True)",
    "e / np.linalg.norm(e, axis=1, keepdims=True)",
    fix="Divide by the sum, so that a row sums to 1.",
)
hint("Multiply numerator and denominator by exp(-c): nothing changes. Choose c for each row.")
hint("softmax(x) = exp(x - m) / sum exp(x - m), with m the maximum of the row (keepdims=True keeps the shape).")
hint("e = np.exp(x - x.max(axis=1, keepdims=True)); return e / e.sum(axis=1, keepdims=True)")
# </checks>
# <hidden points=1>
Same(
    "softmax",
    lambda rng: [dict(x=rng.normal(size=(5, 3)) * s) for s in (1e-8, 1e2, 1e5)],
    title="softmax(): other scales",
)
# </hidden>
