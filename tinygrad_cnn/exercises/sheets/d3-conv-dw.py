# /// exercise
# id = "d3-conv-dw"
# title = "Convolution: gradients of kernel and bias"
# topics = ["convolution"]
# requires = ["d2-output-size"]
# points = 3
# ///
# %% [markdown]
# The layer computes `y = conv2d(x, w) + b`, with one bias per filter:
#
# `y[n, f, i, j] = sum over c, a, b of x[n, c, i + a, j + b] * w[f, c, a, b] + b[f]`
#
# A kernel weight is used at *every* place (i, j) of *every* image: that is parameter sharing. All these uses send back
# gradients, and they add up.
#
# 1. `conv2d_db(dout)` of shape (F,)
# 2. `conv2d_dw(dout, x, w)` of the shape of w. For fixed (a, b), which pixels of x does `w[f, c, a, b]` meet, and with
#    which outputs? The answer is a correlation of x with dout.

# %%
import numpy as np


def conv2d(x, w):
    """y[n, f, i, j] = sum over c, a, b of x[n, c, i + a, j + b] * w[f, c, a, b]"""
    windows = np.lib.stride_tricks.sliding_window_view(x, w.shape[2:], axis=(2, 3))
    return np.einsum("ncijab,fcab->nfij", windows, w)


def conv2d_db(dout):
    # <solution>
    return dout.sum(axis=(0, 2, 3))
    # </solution>


def conv2d_dw(dout, x, w):
    # <solution>
    oh, ow = dout.shape[2:]
    dw = np.zeros(w.shape)
    for a in range(w.shape[2]):
        for b in range(w.shape[3]):
            dw[:, :, a, b] = np.einsum("nfij,ncij->fc", dout, x[:, :, a : a + oh, b : b + ow])
    return dw
    # </solution>


# <checks>
from tinygrad_cnn.exercises import Same, Vjp, bug, edit, hint


def cases(rng):
    for (n, c, h, wd), (f, kh, kw) in [((3, 2, 7, 6), (5, 3, 2)), ((1, 3, 5, 4), (2, 2, 4)), ((2, 1, 4, 6), (3, 1, 1))]:
        yield dict(x=rng.normal(size=(n, c, h, wd)), w=rng.normal(size=(f, c, kh, kw)))


Same(
    "conv2d_db",
    lambda rng: [dict(dout=rng.normal(size=s)) for s in ((3, 5, 4, 6), (1, 2, 3, 2), (2, 1, 5, 1))],
    title="conv2d_db(): gradient of b",
)
Vjp("conv2d_dw", of="conv2d", wrt="w", cases=cases)
edit(
    "bias: no sum over the image",
    "dout.sum(axis=(0, 2, 3))",
    "dout[:, :, 0, 0].sum(axis=0)",
    fix="b[f] is used at every place of the image: sum over the rows and columns too.",
)
edit(
    "bias: mean for the sum",
    "dout.sum(axis=(0, 2, 3))",
    "dout.mean(axis=(0, 2, 3))",
    fix="The uses of b add up; there is no mean.",
)
edit(
    "bias: mean over the batch",
    "dout.sum(axis=(0, 2, 3))",
    "dout.sum(axis=(2, 3)).mean(axis=0)",
    fix="The uses of b add up; there is no mean.",
)
edit(
    "bias: batch not summed",
    "dout.sum(axis=(0, 2, 3))",
    "dout.sum(axis=(2, 3))",
    fix="Sum over the batch as well: one number per filter.",
)
edit(
    "kernel gradient turned by 180 degrees",
    "    return dw\n",
    "    return dw[:, :, ::-1, ::-1].copy()\n",
    fix="The forward pass is a correlation, so the gradient of the kernel is one too: nothing is turned.",
)
edit(
    "averaged over the batch",
    "    return dw\n",
    "    return dw / len(x)\n",
    fix="No 1/N here: a mean belongs to the loss.",
)
edit(
    "averaged over batch and places",
    "    return dw\n",
    "    return dw / (len(x) * oh * ow)\n",
    fix="All uses of a weight add up, there is no mean over places.",
)
edit(
    "only the first image",
    '"nfij,ncij->fc", dout, x[',
    '"nfij,ncij->fc", dout[:1], x[:1][',
    fix="Sum over all images of the batch.",
)
edit(
    "window at the wrong place",
    "x[:, :, a : a + oh, b : b + ow]",
    "x[:, :, :oh, :ow]",
    fix="Weight (a, b) meets the pixels (i + a, j + b).",
)
edit(
    "offsets exchanged",
    "x[:, :, a : a + oh, b : b + ow]",
    "np.pad(x, ((0, 0), (0, 0), (0, 9), (0, 9)))[:, :, b : b + oh, a : a + ow]",
    fix="a is the offset of the rows, b that of the columns.",
)


@bug("upstream gradient ignored", on="conv2d_dw", fix="Each use is weighted with dout of the output it went into.")
def _(ref, dout, x, w):
    return ref(np.ones_like(dout), x, w)


hint("w[f, c, a, b] is multiplied by x[n, c, i + a, j + b] to give y[n, f, i, j]. Its gradient is the sum of what?")
hint(
    "dw[f, c, a, b] = sum over n, i, j of dout[n, f, i, j] * x[n, c, i + a, j + b];  db[f] = sum over n, i, j of dout."
)
hint("for a, for b: dw[:, :, a, b] = np.einsum('nfij,ncij->fc', dout, x[:, :, a:a+oh, b:b+ow])")
# </checks>
# <hidden points=1>
Vjp(
    "conv2d_dw",
    of="conv2d",
    wrt="w",
    cases=lambda rng: [dict(x=rng.normal(size=(4, 3, 6, 8)), w=rng.normal(size=(2, 3, 2, 5)))],
)
# </hidden>
