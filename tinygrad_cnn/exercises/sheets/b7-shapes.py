# /// exercise
# id = "b7-shapes"
# title = "Reshape, transpose, flatten"
# topics = ["shapes"]
# requires = ["b1-local-vjps"]
# points = 2
# ///
# %% [markdown]
# These operations move numbers and do not change them. Their gradients move the numbers back.
#
# - `reshape_vjp(dout, x, shape)` for `y = x.reshape(shape)`
# - `transpose_vjp(dout, x, axes)` for `y = np.transpose(x, axes)`: axis `i` of y is axis `axes[i]` of x. Which
#   permutation undoes that? (It is not `axes` itself: try `(1, 2, 0)`.)
# - `flatten_vjp(dout, x)` for `y = x.transpose(0, 2, 3, 1).reshape(N, H*W*C)`: a batch of images `(N, C, H, W)` written
#   as rows with the channels innermost.

# %%
import numpy as np


def reshape_vjp(dout, x, shape):
    # <solution>
    return dout.reshape(x.shape).copy()
    # </solution>


def transpose_vjp(dout, x, axes):
    # <solution>
    return np.transpose(dout, np.argsort(axes)).copy()
    # </solution>


def flatten_vjp(dout, x):
    # <solution>
    n, c, h, w = x.shape
    return dout.reshape(n, h, w, c).transpose(0, 3, 1, 2).copy()
    # </solution>


# <checks>
from tinygrad_cnn.exercises import Vjp, edit, hint


def reshapes(rng):
    yield dict(x=rng.normal(size=(3, 4)), shape=(2, 6))
    yield dict(x=rng.normal(size=(2, 3, 5)), shape=(5, 6))
    yield dict(x=rng.normal(size=(4, 3)), shape=(12,))


def transposes(rng):
    yield dict(x=rng.normal(size=(2, 3, 4)), axes=(1, 2, 0))
    yield dict(x=rng.normal(size=(2, 3)), axes=(1, 0))
    yield dict(x=rng.normal(size=(2, 3, 4, 5)), axes=(2, 0, 3, 1))
    yield dict(x=rng.normal(size=(3, 3, 3)), axes=(2, 0, 1))


def images(rng):
    yield dict(x=rng.normal(size=(2, 3, 4, 5)))
    yield dict(x=rng.normal(size=(3, 2, 1, 6)))


Vjp("reshape_vjp", of=lambda x, shape: x.reshape(shape), wrt="x", cases=reshapes)
Vjp("transpose_vjp", of=lambda x, axes: np.transpose(x, axes), wrt="x", cases=transposes)
Vjp("flatten_vjp", of=lambda x: x.transpose(0, 2, 3, 1).reshape(len(x), -1), wrt="x", cases=images)
edit(
    "column order in reshape",
    "dout.reshape(x.shape)",
    'dout.reshape(x.shape, order="F")',
    fix="NumPy reads rows first (order C), forward and backward.",
)
edit(
    "transposed again the same way",
    "np.argsort(axes)",
    "axes",
    fix="Undo it with the inverse permutation, np.argsort(axes).",
)
edit(
    "all axes reversed",
    "np.argsort(axes)",
    "np.argsort(axes)[::-1]",
    fix="The inverse permutation is np.argsort(axes).",
)
edit(
    "channels taken for the outermost axis",
    "dout.reshape(n, h, w, c).transpose(0, 3, 1, 2)",
    "dout.reshape(n, c, h, w)",
    fix="The channels are innermost in a row: reshape to (N, H, W, C) first.",
)
edit(
    "height and width exchanged",
    "dout.reshape(n, h, w, c).transpose(0, 3, 1, 2)",
    "dout.reshape(n, w, h, c).transpose(0, 3, 2, 1)",
    fix="The rows were written as (H, W, C).",
)
edit("reshape not undone", "dout.reshape(x.shape).copy()", "dout.copy()", fix="The gradient has the shape of x.")
hint("Where did x[1, 2] go? Its gradient comes from there.")
hint("reshape: back to x.shape. transpose: the inverse permutation. flatten: undo the two steps in reverse order.")
hint("dout.reshape(x.shape); np.transpose(dout, np.argsort(axes)); dout.reshape(n, h, w, c).transpose(0, 3, 1, 2)")
# </checks>
# <hidden points=1>
Vjp(
    "transpose_vjp",
    of=lambda x, axes: np.transpose(x, axes),
    wrt="x",
    cases=lambda rng: [
        dict(x=rng.normal(size=(2, 3, 4, 5, 2)), axes=tuple(int(i) for i in rng.permutation(5))) for _ in range(4)
    ],
)
# </hidden>
