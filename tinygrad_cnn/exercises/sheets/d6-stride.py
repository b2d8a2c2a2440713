# /// exercise
# id = "d6-stride"
# title = "Stride: a gradient with holes"
# topics = ["stride"]
# requires = ["d4-conv-dx"]
# points = 3
# ///
# %% [markdown]
# With stride s the kernel jumps: `y[n, f, i, j]` looks at the window that starts at `(i * s, j * s)`.
#
# `y[n, f, i, j] = sum over c, a, b of x[n, c, i * s + a, j * s + b] * w[f, c, a, b]`
#
# Write `strided_conv_vjp(dout, x, w, s)`: returns dx and dw. Two traps. Everything that was at place i in the gradient
# belongs to place i * s in the image. And if the stride does not fit, the last rows or columns of x are never looked
# at: their gradient is 0, but dx still has the shape of x.

# %%
import numpy as np


def strided_conv(x, w, s):
    windows = np.lib.stride_tricks.sliding_window_view(x, w.shape[2:], axis=(2, 3))[:, :, ::s, ::s]
    return np.einsum("ncijab,fcab->nfij", windows, w)


def strided_conv_vjp(dout, x, w, s):
    # <solution>
    oh, ow = dout.shape[2:]
    dx, dw = np.zeros(x.shape), np.zeros(w.shape)
    for a in range(w.shape[2]):
        for b in range(w.shape[3]):
            rows, columns = slice(a, a + s * oh, s), slice(b, b + s * ow, s)
            dx[:, :, rows, columns] += np.einsum("nfij,fc->ncij", dout, w[:, :, a, b])
            dw[:, :, a, b] = np.einsum("nfij,ncij->fc", dout, x[:, :, rows, columns])
    return dx, dw
    # </solution>


# <checks>
from tinygrad_cnn.exercises import Vjp, bug, edit, hint


def cases(rng):
    for (n, c, h, wd), (f, kh, kw), s in [
        ((3, 2, 7, 6), (5, 3, 2), 2),
        ((1, 3, 9, 12), (2, 2, 4), 3),
        ((2, 1, 9, 7), (3, 3, 3), 2),
        ((2, 2, 4, 5), (3, 2, 3), 1),
        ((1, 2, 8, 7), (2, 1, 2), 3),
    ]:
        yield dict(x=rng.normal(size=(n, c, h, wd)), w=rng.normal(size=(f, c, kh, kw)), s=s)


Vjp("strided_conv_vjp", of="strided_conv", wrt=("x", "w"), cases=cases)
edit(
    "stride missing in dx and dw",
    "slice(a, a + s * oh, s), slice(b, b + s * ow, s)",
    "slice(a, a + oh), slice(b, b + ow)",
    fix="Output i belongs to row i * s of the image.",
)
edit(
    "stride applied to the rows only",
    "slice(b, b + s * ow, s)",
    "slice(b, b + ow)",
    fix="The kernel jumps along the columns as well.",
)
edit(
    "windows overwrite each other",
    "dx[:, :, rows, columns] += ",
    "dx[:, :, rows, columns] = ",
    fix="A pixel under several windows collects from all of them: +=.",
)
edit(
    "kernel turned where it should not be",
    '"nfij,fc->ncij", dout, w[:, :, a, b])',
    '"nfij,fc->ncij", dout, w[:, :, -1 - a, -1 - b])',
    fix="In this form weight (a, b) sends its share to offset (a, b); turning is not needed.",
)
edit(
    "leftover rows cut off",
    "    return dx, dw\n",
    "    last = (oh - 1) * s + w.shape[2], (ow - 1) * s + w.shape[3]\n    return dx[:, :, : last[0], : last[1]].copy(), dw\n",
    fix="Pixels that no window saw have the gradient 0, and dx has the shape of x.",
)
edit(
    "gradient divided by the stride",
    "    return dx, dw\n",
    "    return dx / s, dw\n",
    fix="Nothing is averaged over the stride.",
)


@bug("dW of stride 1", fix="dw[a, b] meets the pixels a, a + s, a + 2s, ...")
def _(ref, dout, x, w, s):
    dx, dw = ref(dout, x, w, s)
    oh, ow = dout.shape[2:]
    for a in range(w.shape[2]):
        for b in range(w.shape[3]):
            dw[:, :, a, b] = np.einsum("nfij,ncij->fc", dout, x[:, :, a : a + oh, b : b + ow])
    return dx, dw


hint("For weight (a, b), the pixels it meets are x[:, :, a::s, b::s], as many as there are outputs.")
hint("dx[:, :, a : a + s*oh : s, b : b + s*ow : s] += dout times w[:, :, a, b]; dw[:, :, a, b] from the same pixels.")
hint(
    "for a, b: R, C = slice(a, a + s*oh, s), slice(b, b + s*ow, s); dx[:, :, R, C] += einsum('nfij,fc->ncij', dout, w[:, :, a, b]); dw[:, :, a, b] = einsum('nfij,ncij->fc', dout, x[:, :, R, C])"
)
# </checks>
# <hidden points=1>
Vjp(
    "strided_conv_vjp",
    of="strided_conv",
    wrt=("x", "w"),
    cases=lambda rng: [dict(x=rng.normal(size=(2, 2, 10, 9)), w=rng.normal(size=(3, 2, 2, 3)), s=4)],
)
# </hidden>
