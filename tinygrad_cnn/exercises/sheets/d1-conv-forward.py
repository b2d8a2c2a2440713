# /// exercise
# id = "d1-conv-forward"
# title = "Convolution by loops, and what it is really called"
# topics = ["convolution"]
# requires = ["b6-linear"]
# points = 3
# ///
# %% [markdown]
# A convolutional layer slides a small kernel over an image and writes down a weighted sum at each place:
#
# `y[n, f, i, j] = sum over c, a, b of x[n, c, i + a, j + b] * w[f, c, a, b]`
#
# with `x` of shape (N, C, H, W), `w` of shape (F, C, kh, kw) and `y` of shape (N, F, H - kh + 1, W - kw + 1).
# What networks call *convolution* is a **cross-correlation**: the kernel is used as it stands. The convolution of
# mathematics turns the kernel by 180 degrees first (flips both of its last axes).
#
# Write both. Loops are fine; a loop over i and j with a sum over a window is enough.

# %%
import numpy as np


def correlate(x, w):
    # <solution>
    n, _, h, wd = x.shape
    f, _, kh, kw = w.shape
    y = np.zeros((n, f, h - kh + 1, wd - kw + 1))
    for i in range(y.shape[2]):
        for j in range(y.shape[3]):
            window = x[:, :, i : i + kh, j : j + kw]
            y[:, :, i, j] = np.einsum("ncab,fcab->nf", window, w)
    return y
    # </solution>


def convolve(x, w):
    # <solution>
    return correlate(x, w[:, :, ::-1, ::-1])
    # </solution>


# <checks>
from tinygrad_cnn.exercises import Same, bug, edit, hint


def cases(rng):
    for (n, c, h, wd), (f, kh, kw) in [
        ((2, 3, 6, 5), (4, 3, 2)),
        ((1, 1, 4, 7), (2, 2, 3)),
        ((3, 2, 5, 4), (1, 1, 1)),
        ((1, 2, 3, 4), (3, 3, 4)),
    ]:
        yield dict(x=rng.normal(size=(n, c, h, wd)), w=rng.normal(size=(f, c, kh, kw)))


Same("correlate", cases)
Same("convolve", cases)


@bug(
    "true convolution for correlation",
    on="correlate",
    fix="correlate() uses the kernel as it stands; only convolve() turns it.",
)
def _(ref, x, w):
    return ref(x, w[:, :, ::-1, ::-1])


edit(
    "kernel not turned",
    "w[:, :, ::-1, ::-1]",
    "w",
    fix="convolve() turns the kernel by 180 degrees: w[:, :, ::-1, ::-1].",
)
edit(
    "kernel flipped along one axis only",
    "w[:, :, ::-1, ::-1]",
    "w[:, :, ::-1]",
    fix="A turn by 180 degrees flips rows *and* columns.",
)
edit("channels flipped too", "w[:, :, ::-1, ::-1]", "w[:, ::-1, ::-1, ::-1]", fix="Only the last two axes are space.")
edit(
    "only the first channel",
    '"ncab,fcab->nf", window, w)',
    '"nab,fab->nf", window[:, 0], w[:, 0])',
    fix="Sum over all input channels c.",
)
edit(
    "one place short",
    "np.zeros((n, f, h - kh + 1, wd - kw + 1))",
    "np.zeros((n, f, h - kh, wd - kw))",
    fix="A kernel of size k fits H - k + 1 times.",
)
edit(
    "mean for the sum",
    '"ncab,fcab->nf", window, w)',
    '"ncab,fcab->nf", window, w) / w[0].size',
    fix="A weighted sum; nothing is divided.",
)
edit(
    "same size as the input",
    "    return y\n",
    "    full = np.zeros((n, f, h, wd))\n    full[:, :, : y.shape[2], : y.shape[3]] = y\n    return full\n",
    fix="Without padding the output shrinks to H - kh + 1 rows.",
)


hint("At place (i, j) the window is x[:, :, i:i+kh, j:j+kw], of shape (N, C, kh, kw).")
hint("y[n, f, i, j] = sum over c, a, b of window[n, c, a, b] * w[f, c, a, b]: an einsum 'ncab,fcab->nf'.")
hint(
    "for i, for j: y[:, :, i, j] = np.einsum('ncab,fcab->nf', x[:, :, i:i+kh, j:j+kw], w); convolve: w[:, :, ::-1, ::-1]"
)
# </checks>
# <hidden points=1>
Same(
    "correlate",
    lambda rng: [dict(x=rng.normal(size=(2, 4, 7, 6)), w=rng.normal(size=(3, 4, 4, 2)))],
    title="correlate(): another size",
)
# </hidden>
