# /// exercise
# id = "d5-zero-padding"
# title = "Zero padding, forward and back"
# topics = ["zero padding"]
# requires = ["d4-conv-dx"]
# points = 3
# ///
# %% [markdown]
# Zeros around the image keep the output as large as the input, and let border pixels take part as often as others.
#
# 1. `pad_vjp(dout, x, ph, pw)` for `y = pad(x)`: ph rows of zeros above and below, pw columns left and right. The zeros
#    are no variables: what flows to them is dropped.
# 2. `padded_conv_vjp(dout, x, w, ph, pw)` for `y = conv2d(pad(x), w)`: returns dx and dw. Put it together from
#    `conv2d_dx` and `conv2d_dw` below, which know nothing of padding. Which x does the kernel meet?

# %%
import numpy as np


def conv2d(x, w):
    """y[n, f, i, j] = sum over c, a, b of x[n, c, i + a, j + b] * w[f, c, a, b]"""
    windows = np.lib.stride_tricks.sliding_window_view(x, w.shape[2:], axis=(2, 3))
    return np.einsum("ncijab,fcab->nfij", windows, w)


def conv2d_dx(dout, x, w):
    kh, kw = w.shape[2:]
    wide = np.pad(dout, ((0, 0), (0, 0), (kh - 1, kh - 1), (kw - 1, kw - 1)))
    return conv2d(wide, w[:, :, ::-1, ::-1].transpose(1, 0, 2, 3))


def conv2d_dw(dout, x, w):
    return conv2d(x.transpose(1, 0, 2, 3), dout.transpose(1, 0, 2, 3)).transpose(1, 0, 2, 3)


def pad(x, ph, pw):
    return np.pad(x, ((0, 0), (0, 0), (ph, ph), (pw, pw)))


# %%
def pad_vjp(dout, x, ph, pw):
    # <solution>
    h, w = x.shape[2:]
    return dout[:, :, ph : ph + h, pw : pw + w].copy()
    # </solution>


def padded_conv_vjp(dout, x, w, ph, pw):
    # <solution>
    wide = pad(x, ph, pw)
    dx = pad_vjp(conv2d_dx(dout, wide, w), x, ph, pw)
    dw = conv2d_dw(dout, wide, w)
    return dx, dw
    # </solution>


# <checks>
from tinygrad_cnn.exercises import Vjp, bug, edit, hint


def pads(rng):
    for shape, ph, pw in [((3, 2, 4, 5), 1, 2), ((1, 3, 2, 4), 3, 1), ((2, 1, 5, 3), 0, 2), ((2, 2, 3, 4), 0, 0)]:
        yield dict(x=rng.normal(size=shape), ph=ph, pw=pw)


def convs(rng):
    for (n, c, h, wd), (f, kh, kw), ph, pw in [
        ((3, 2, 7, 6), (5, 3, 2), 1, 2),
        ((1, 3, 5, 4), (2, 2, 4), 2, 1),
        ((2, 1, 4, 6), (3, 3, 3), 1, 1),
    ]:
        yield dict(x=rng.normal(size=(n, c, h, wd)), w=rng.normal(size=(f, c, kh, kw)), ph=ph, pw=pw)


Vjp("pad_vjp", of="pad", wrt="x", cases=pads)
Vjp("padded_conv_vjp", of=lambda x, w, ph, pw: conv2d(pad(x, ph, pw), w), wrt=("x", "w"), cases=convs)
edit(
    "padding not cropped",
    "dout[:, :, ph : ph + h, pw : pw + w].copy()",
    "dout.copy()",
    fix="dx has the shape of x: cut ph rows and pw columns off each side.",
)
edit(
    "cropped at one side",
    "dout[:, :, ph : ph + h, pw : pw + w]",
    "dout[:, :, :h, :w]",
    fix="The image starts at row ph and column pw.",
)
edit(
    "cropped at the other side",
    "dout[:, :, ph : ph + h, pw : pw + w]",
    "dout[:, :, 2 * ph : 2 * ph + h, 2 * pw : 2 * pw + w]",
    fix="The image starts at row ph and column pw.",
)
edit(
    "ph and pw exchanged",
    "dout[:, :, ph : ph + h, pw : pw + w]",
    "np.pad(dout, ((0, 0), (0, 0), (0, 9), (0, 9)))[:, :, pw : pw + h, ph : ph + w]",
    fix="ph belongs to the rows, pw to the columns.",
)
edit(
    "zeros returned",
    "dout[:, :, ph : ph + h, pw : pw + w].copy()",
    "np.zeros(x.shape)",
    fix="Inside, dout passes through unchanged.",
)


@bug(
    "dW from the image without padding",
    on="padded_conv_vjp",
    fix="The kernel met the padded image: conv2d_dw needs pad(x).",
)
def _(ref, dout, x, w, ph, pw):
    dx, _ = ref(dout, x, w, ph, pw)
    other = np.pad(x, ((0, 0), (0, 0), (0, 2 * ph), (0, 2 * pw)))
    return dx, conv2d_dw(dout, other, w)


@bug(
    "dX of the convolution left uncropped",
    on="padded_conv_vjp",
    fix="conv2d_dx gives the gradient of the padded image; pad_vjp takes it back to x.",
)
def _(ref, dout, x, w, ph, pw):
    return conv2d_dx(dout, pad(x, ph, pw), w), ref(dout, x, w, ph, pw)[1]


edit("results exchanged", "    return dx, dw\n", "    return dw, dx\n", fix="The order is dx, dw.")
hint("Padding copies x into the middle of an array of zeros. Where is x[0, 0] in y?")
hint(
    "pad_vjp: dout[:, :, ph:ph+H, pw:pw+W]. Then dx = pad_vjp(conv2d_dx(dout, pad(x), w)), dw = conv2d_dw(dout, pad(x), w)."
)
hint("wide = pad(x, ph, pw); return pad_vjp(conv2d_dx(dout, wide, w), x, ph, pw), conv2d_dw(dout, wide, w)")
# </checks>
# <hidden points=1>
Vjp(
    "padded_conv_vjp",
    of=lambda x, w, ph, pw: conv2d(pad(x, ph, pw), w),
    wrt=("x", "w"),
    cases=lambda rng: [dict(x=rng.normal(size=(2, 3, 3, 5)), w=rng.normal(size=(4, 3, 3, 2)), ph=3, pw=1)],
)
# </hidden>
