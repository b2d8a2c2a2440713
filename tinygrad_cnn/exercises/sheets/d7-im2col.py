# /// exercise
# id = "d7-im2col"
# title = "im2col and col2im"
# topics = ["convolution"]
# requires = ["d6-stride"]
# points = 3
# ///
# %% [markdown]
# Fast convolutions are matrix products. `im2col` writes each window of the image as one column:
#
# `cols` has the shape (N, C * kh * kw, OH * OW); the row `(c * kh + a) * kw + b` and the column `i * OW + j` hold
# `x[n, c, i * s + a, j * s + b]`. Then `w.reshape(F, -1) @ cols` is the convolution.
#
# Its backward function is `col2im(cols, x_shape, kh, kw, s)`: every number goes back to the pixel it was copied from.
# A pixel under several windows was copied several times. (So col2im(im2col(x)) is *not* x.)

# %%
import numpy as np


def im2col(x, kh, kw, s):
    # <solution>
    windows = np.lib.stride_tricks.sliding_window_view(x, (kh, kw), axis=(2, 3))[:, :, ::s, ::s]
    n, c, oh, ow = windows.shape[:4]
    return windows.transpose(0, 1, 4, 5, 2, 3).reshape(n, c * kh * kw, oh * ow)
    # </solution>


def col2im(cols, x_shape, kh, kw, s):
    # <solution>
    n, c, h, w = x_shape
    oh, ow = (h - kh) // s + 1, (w - kw) // s + 1
    parts = cols.reshape(n, c, kh, kw, oh, ow)
    x = np.zeros(x_shape)
    for a in range(kh):
        for b in range(kw):
            x[:, :, a : a + s * oh : s, b : b + s * ow : s] += parts[:, :, a, b]
    return x
    # </solution>


# <checks>
from tinygrad_cnn.exercises import Same, edit, hint

sizes = [((2, 3, 6, 5), 3, 2, 1), ((1, 2, 7, 8), 2, 3, 2), ((3, 1, 5, 4), 1, 1, 1), ((2, 2, 8, 7), 3, 3, 2)]


def images(rng):
    for shape, kh, kw, s in sizes:
        yield dict(x=rng.normal(size=shape), kh=kh, kw=kw, s=s)


def columns(rng):
    for (n, c, h, w), kh, kw, s in sizes:
        places = ((h - kh) // s + 1) * ((w - kw) // s + 1)
        yield dict(cols=rng.normal(size=(n, c * kh * kw, places)), x_shape=(n, c, h, w), kh=kh, kw=kw, s=s)


Same("im2col", images)
Same("col2im", columns)
edit(
    "copies overwrite each other",
    "b : b + s * ow : s] += parts",
    "b : b + s * ow : s] = parts",
    fix="A pixel was copied into several columns: add up what comes back, +=.",
)
edit(
    "stride ignored on the way back",
    "a : a + s * oh : s, b : b + s * ow : s]",
    "a : a + oh, b : b + ow]",
    fix="Place i of the output belongs to row i * s.",
)
edit(
    "offsets before channels",
    "windows.transpose(0, 1, 4, 5, 2, 3)",
    "windows.transpose(0, 4, 5, 1, 2, 3)",
    fix="The order within a column is channel, row, column: (c * kh + a) * kw + b.",
)
edit(
    "places and offsets exchanged",
    "windows.transpose(0, 1, 4, 5, 2, 3).reshape(n, c * kh * kw, oh * ow)",
    "windows.transpose(0, 1, 2, 3, 4, 5).reshape(n, c * kh * kw, oh * ow)",
    fix="Rows are offsets within the window, columns are places.",
)
edit(
    "row and column offset exchanged",
    "windows.transpose(0, 1, 4, 5, 2, 3)",
    "windows.transpose(0, 1, 5, 4, 2, 3)",
    fix="a, the row offset, comes before b.",
)
edit(
    "averaged over the copies",
    "    return x\n",
    "    count = np.zeros(x_shape)\n    for a in range(kh):\n        for b in range(kw):\n            count[:, :, a : a + s * oh : s, b : b + s * ow : s] += 1\n    return x / np.maximum(count, 1)\n",
    fix="Gradients of copies add up; there is no mean.",
)
hint("Draw a 3x3 image and 2x2 windows. Which numbers stand in the first column, which in the first row?")
hint(
    "im2col: windows (N, C, OH, OW, kh, kw) -> transpose to (N, C, kh, kw, OH, OW) -> reshape. col2im: the reverse, with +=."
)
hint(
    "col2im: parts = cols.reshape(N, C, kh, kw, OH, OW); for a, b: x[:, :, a:a+s*OH:s, b:b+s*OW:s] += parts[:, :, a, b]"
)
# </checks>
# <hidden points=1>
Same("col2im", columns, title="col2im(): other numbers")
# </hidden>
