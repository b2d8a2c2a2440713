# /// exercise
# id = "d9-overlapping-pool"
# title = "Max pooling, overlapping windows"
# topics = ["pooling"]
# requires = ["d8-max-pool"]
# points = 3
# ///
# %% [markdown]
# With windows of width 3 and stride 2, neighbouring windows share a column. One pixel can be the maximum of up to four
# windows, and it gets the gradients of **all** of them.
#
# `y[n, c, i, j] = max over a, b < k of x[n, c, i * s + a, j * s + b]`
#
# Write `max_pool_vjp(dout, x, k, s)`. Rows or columns that fit into no window get 0.

# %%
import numpy as np


def max_pool(x, k, s):
    windows = np.lib.stride_tricks.sliding_window_view(x, (k, k), axis=(2, 3))[:, :, ::s, ::s]
    return windows.max(axis=(4, 5))


def max_pool_vjp(dout, x, k, s):
    # <solution>
    dx = np.zeros(x.shape)
    n, c, oh, ow = dout.shape
    batch, channel = np.indices((n, c))
    for i in range(oh):
        for j in range(ow):
            window = x[:, :, i * s : i * s + k, j * s : j * s + k].reshape(n, c, k * k)
            a, b = np.divmod(window.argmax(axis=2), k)
            dx[batch, channel, i * s + a, j * s + b] += dout[:, :, i, j]
    return dx
    # </solution>


# <checks>
from tinygrad_cnn.exercises import Vjp, bug, edit, hint


def cases(rng):
    for (n, c, h, w), k, s in [((3, 2, 7, 5), 3, 2), ((1, 3, 6, 8), 3, 1), ((2, 1, 8, 6), 3, 2), ((2, 2, 5, 7), 2, 3)]:
        yield dict(x=rng.permutation(n * c * h * w).reshape(n, c, h, w) / 10 - 3.0, k=k, s=s)


Vjp("max_pool_vjp", of="max_pool", wrt="x", cases=cases)
edit(
    "windows overwrite each other",
    "] += dout[:, :, i, j]",
    "] = dout[:, :, i, j]",
    fix="A pixel that wins in several windows gets the sum of their gradients: +=.",
)
edit(
    "offset inside the window forgotten",
    "i * s + a, j * s + b]",
    "i * s, j * s]",
    fix="argmax counts from the corner of the window: add its offset.",
)
edit(
    "row and column of the maximum exchanged",
    "a, b = np.divmod",
    "b, a = np.divmod",
    fix="divmod(argmax, k) gives the row first.",
)
edit("minimum for maximum", "window.argmax", "window.argmin", fix="The gradient goes to the largest number.")


@bug("stride taken as the window width", fix="The window (i, j) starts at (i * s, j * s), not at (i * k, j * k).")
def _(ref, dout, x, k, s):
    dx = np.zeros((*x.shape[:2], 99, 99))
    dx[:, :, : x.shape[2], : x.shape[3]] = x
    big = ref(dout, dx, k, k)
    return big[:, :, : x.shape[2], : x.shape[3]].copy()


@bug("divided by the number of windows won", fix="Gradients add up; nothing is divided.")
def _(ref, dout, x, k, s):
    wins = ref(np.ones_like(dout), x, k, s)
    return ref(dout, x, k, s) / np.maximum(wins, 1)


@bug("upstream gradient ignored", fix="Add dout of the window, not 1.")
def _(ref, dout, x, k, s):
    return ref(np.ones_like(dout), x, k, s)


@bug("average pooling", fix="Only the largest number of a window gets its gradient.")
def _(ref, dout, x, k, s):
    dx = np.zeros(x.shape)
    for i in range(dout.shape[2]):
        for j in range(dout.shape[3]):
            dx[:, :, i * s : i * s + k, j * s : j * s + k] += dout[:, :, i : i + 1, j : j + 1] / k**2
    return dx


hint("Go through the windows one by one; each sends its dout to the place of its maximum.")
hint("window = x[:, :, i*s:i*s+k, j*s:j*s+k]; argmax over its k*k numbers; a, b = divmod(argmax, k).")
hint("n_idx, c_idx = np.indices((N, C)); dx[n_idx, c_idx, i*s + a, j*s + b] += dout[:, :, i, j]")
# </checks>
# <hidden points=1>
Vjp("max_pool_vjp", of="max_pool", wrt="x", cases=lambda rng: [dict(x=rng.normal(size=(2, 4, 9, 6)), k=4, s=2)])
# </hidden>
