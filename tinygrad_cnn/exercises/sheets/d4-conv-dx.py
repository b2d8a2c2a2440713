# /// exercise
# id = "d4-conv-dx"
# title = "Convolution: gradient of the input"
# topics = ["convolution"]
# requires = ["d3-conv-dw"]
# points = 3
# ///
# %% [markdown]
# `y[n, f, i, j] = sum over c, a, b of x[n, c, i + a, j + b] * w[f, c, a, b]`
#
# Which outputs does one pixel `x[n, c, p, q]` take part in? Those with `i + a = p` and `j + b = q`: the kernel lies over
# the pixel in kh * kw ways, and weight (a, b) leads to the output at (p - a, q - b). So
#
# `dx[n, c, p, q] = sum over f, a, b of dout[n, f, p - a, q - b] * w[f, c, a, b]`
#
# with dout taken as 0 outside of its borders. Seen as a whole this is a *full* correlation of dout with the kernel
# turned by 180 degrees. Write `conv2d_dx(dout, x, w)`. (x is only needed for its shape.)

# %%
import numpy as np


def conv2d(x, w):
    """y[n, f, i, j] = sum over c, a, b of x[n, c, i + a, j + b] * w[f, c, a, b]"""
    windows = np.lib.stride_tricks.sliding_window_view(x, w.shape[2:], axis=(2, 3))
    return np.einsum("ncijab,fcab->nfij", windows, w)


def conv2d_dx(dout, x, w):
    # <solution>
    kh, kw = w.shape[2:]
    padded = np.pad(dout, ((0, 0), (0, 0), (kh - 1, kh - 1), (kw - 1, kw - 1)))
    turned = w[:, :, ::-1, ::-1]
    return conv2d(padded, turned.transpose(1, 0, 2, 3))
    # </solution>


# <checks>
from tinygrad_cnn.exercises import Vjp, bug, edit, hint


def cases(rng):
    for (n, c, h, wd), (f, kh, kw) in [
        ((3, 2, 7, 6), (5, 3, 2)),
        ((1, 3, 5, 4), (2, 2, 4)),
        ((2, 1, 4, 6), (3, 1, 1)),
        ((2, 3, 6, 5), (3, 3, 3)),
    ]:
        yield dict(x=rng.normal(size=(n, c, h, wd)), w=rng.normal(size=(f, c, kh, kw)))


Vjp("conv2d_dx", of="conv2d", wrt="x", cases=cases)
edit(
    "kernel not turned by 180 degrees",
    "w[:, :, ::-1, ::-1]",
    "w",
    fix="Weight (a, b) leads *back* by (a, b): turn the kernel, w[:, :, ::-1, ::-1].",
    hint="Weight (0, 0) joins pixel (p, q) to output (p, q), weight (1, 0) joins it to output (p - 1, q). In which direction do the outputs run?",
)
edit(
    "kernel flipped along the rows only",
    "w[:, :, ::-1, ::-1]",
    "w[:, :, ::-1]",
    fix="Turn by 180 degrees: flip both axes.",
)
edit(
    "kernel flipped along the columns only",
    "w[:, :, ::-1, ::-1]",
    "w[:, :, :, ::-1]",
    fix="Turn by 180 degrees: flip both axes.",
)
edit("channels flipped", "w[:, :, ::-1, ::-1]", "w[:, ::-1, ::-1, ::-1]", fix="Only the axes of space are turned.")
edit(
    "averaged over the batch",
    "turned.transpose(1, 0, 2, 3))",
    "turned.transpose(1, 0, 2, 3)) / len(x)",
    fix="Every image has its own gradient; there is no 1/N here.",
)
edit(
    "padding on one side only",
    "(kh - 1, kh - 1), (kw - 1, kw - 1)",
    "(0, 2 * (kh - 1)), (0, 2 * (kw - 1))",
    fix="A full correlation has k - 1 zeros at both ends.",
)


@bug("upstream gradient ignored", fix="Each path is weighted with dout of the output it leads to.")
def _(ref, dout, x, w):
    return ref(np.ones_like(dout), x, w)


@bug("only the first filter", fix="Sum over all filters f.")
def _(ref, dout, x, w):
    return ref(dout[:, :1], x, w[:1])


@bug("only the centre tap", fix="All kh * kw weights lead back to the pixel.")
def _(ref, dout, x, w):
    v = np.zeros_like(w)
    v[:, :, 0, 0] = w[:, :, 0, 0]
    return ref(dout, x, v)


hint("Which outputs does the pixel (p, q) take part in, and with which weight each?")
hint("dx = full correlation of dout with the turned kernel: pad dout by k - 1 on all sides, use w[:, :, ::-1, ::-1].")
hint(
    "Pad dout by kh-1 and kw-1, then conv2d(padded, turned w with its first two axes exchanged). Or: for a, b: dx[:, :, a:a+oh, b:b+ow] += einsum('nfij,fc->ncij', dout, w[:, :, a, b])"
)
# </checks>
# <hidden points=1>
Vjp(
    "conv2d_dx",
    of="conv2d",
    wrt="x",
    cases=lambda rng: [dict(x=rng.normal(size=(8, 3, 6, 8)), w=rng.normal(size=(2, 3, 2, 5)))],
)
# </hidden>
