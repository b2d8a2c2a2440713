# /// exercise
# id = "d11-average-pool"
# title = "Average pooling and LeNet-5's subsampling"
# topics = ["pooling"]
# requires = ["d8-max-pool"]
# points = 3
# ///
# %% [markdown]
# 1. `avg_pool_vjp(dout, x, k)` for the mean over disjoint k x k windows: every pixel had the same influence.
# 2. LeNet-5 subsamples with two trainable numbers per channel: `y[n, c] = coefficient[c] * sum of window + bias[c]`.
#    Write `subsample_vjp(dout, x, coefficient, bias, k)`: it returns dx, dcoefficient and dbias. The two trainable
#    numbers of a channel are used in every window of every image.

# %%
import numpy as np


def window_sums(x, k):
    n, c, h, w = x.shape
    return x.reshape(n, c, h // k, k, w // k, k).sum(axis=(3, 5))


def avg_pool(x, k):
    return window_sums(x, k) / k**2


def subsample(x, coefficient, bias, k):
    return window_sums(x, k) * coefficient[:, None, None] + bias[:, None, None]


def enlarged(a, k):
    """Repeat every pixel as a k x k block."""
    return a.repeat(k, axis=2).repeat(k, axis=3)


# %%
def avg_pool_vjp(dout, x, k):
    # <solution>
    return enlarged(dout, k) / k**2
    # </solution>


def subsample_vjp(dout, x, coefficient, bias, k):
    # <solution>
    dx = enlarged(dout * coefficient[:, None, None], k)
    dcoefficient = (dout * window_sums(x, k)).sum(axis=(0, 2, 3))
    dbias = dout.sum(axis=(0, 2, 3))
    return dx, dcoefficient, dbias
    # </solution>


# <checks>
from tinygrad_cnn.exercises import Vjp, bug, edit, hint


def pools(rng):
    for shape, k in [((3, 2, 4, 6), 2), ((1, 3, 6, 9), 3), ((2, 1, 5, 3), 1)]:
        yield dict(x=rng.normal(size=shape), k=k)


def layers(rng):
    for (n, c, h, w), k in [((3, 2, 4, 6), 2), ((1, 4, 6, 9), 3), ((2, 3, 8, 2), 2)]:
        yield dict(x=rng.normal(size=(n, c, h, w)), coefficient=rng.normal(size=c), bias=rng.normal(size=c), k=k)


Vjp("avg_pool_vjp", of="avg_pool", wrt="x", cases=pools)
Vjp("subsample_vjp", of="subsample", wrt=("x", "coefficient", "bias"), cases=layers)
edit(
    "1/k^2 forgotten",
    "enlarged(dout, k) / k**2",
    "enlarged(dout, k)",
    fix="Each of k * k pixels has the share 1 / k^2 in the mean.",
)
edit("divided by k", "enlarged(dout, k) / k**2", "enlarged(dout, k) / k", fix="A window has k * k pixels.")
edit(
    "only the corner of the window",
    "enlarged(dout, k) / k**2",
    "enlarged(dout, k) / k**2 * (np.add.outer(np.arange(x.shape[2]) % k, np.arange(x.shape[3]) % k) == 0)",
    fix="All pixels of the window have a share.",
)
edit(
    "coefficient forgotten in dx",
    "enlarged(dout * coefficient[:, None, None], k)",
    "enlarged(dout, k)",
    fix="dy/dx is the coefficient of the channel.",
)
edit(
    "subsampling taken for a mean",
    "window_sums(x, k)).sum(axis=(0, 2, 3))",
    "window_sums(x, k) / k**2).sum(axis=(0, 2, 3))",
    fix="LeNet-5 multiplies the *sum* of the window.",
)
edit(
    "batch not summed in dcoefficient",
    "window_sums(x, k)).sum(axis=(0, 2, 3))",
    "window_sums(x, k))[0].sum(axis=(1, 2))",
    fix="The coefficient is used in every image: sum over the batch.",
)
edit(
    "mean for the sum in dbias",
    "dout.sum(axis=(0, 2, 3))",
    "dout.mean(axis=(0, 2, 3))",
    fix="All uses of the bias add up.",
)
edit(
    "bias gradient of one place",
    "dout.sum(axis=(0, 2, 3))",
    "dout[:, :, 0, 0].sum(axis=0)",
    fix="The bias is used at every place.",
)


@bug("upstream gradient ignored", on="avg_pool_vjp", fix="Spread dout, not 1.")
def _(ref, dout, x, k):
    return ref(np.ones_like(dout), x, k)


hint("How much does the mean of four numbers grow if one of them grows by 1?")
hint(
    "dx = enlarged(dout) / k^2. Subsampling: dx = enlarged(dout * coefficient), dcoefficient = sum(dout * window sums), dbias = sum(dout)."
)
hint("sums run over axes (0, 2, 3): batch, rows, columns. coefficient[:, None, None] lines the channels up.")
# </checks>
# <hidden points=1>
Vjp(
    "subsample_vjp",
    of="subsample",
    wrt=("x", "coefficient", "bias"),
    cases=lambda rng: [
        dict(x=rng.normal(size=(2, 5, 4, 8)), coefficient=rng.normal(size=5), bias=rng.normal(size=5), k=4)
    ],
)
# </hidden>
