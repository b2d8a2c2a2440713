# /// exercise
# id = "d2-output-size"
# title = "Output size with padding and stride"
# topics = ["padding", "stride"]
# requires = ["d1-conv-forward"]
# points = 2
# ///
# %% [markdown]
# Along one axis: `size` pixels, `padding` zeros added **at each end**, a kernel of `kernel` pixels that moves on by
# `stride`. The first place is at 0; the last one is where the kernel still fits. How many places are there?
#
# 1. `output_size(size, kernel, stride, padding)` for one axis.
# 2. `conv_shape(x_shape, w_shape, stride, padding)` for images: `x_shape = (N, C, H, W)`,
#    `w_shape = (F, C, kh, kw)`, `stride = (sh, sw)`, `padding = (ph, pw)`; returns a tuple of four ints.
# 3. `same_padding(kernel)`: the padding that keeps the size, for stride 1 and an odd kernel.

# %%
def output_size(size, kernel, stride, padding):
    # <solution>
    return (size + 2 * padding - kernel) // stride + 1
    # </solution>


def conv_shape(x_shape, w_shape, stride, padding):
    # <solution>
    n, _, h, w = x_shape
    f, _, kh, kw = w_shape
    rows = output_size(h, kh, stride[0], padding[0])
    columns = output_size(w, kw, stride[1], padding[1])
    return n, f, rows, columns
    # </solution>


def same_padding(kernel):
    # <solution>
    return kernel // 2
    # </solution>


# <checks>
from tinygrad_cnn.exercises import Same, edit, hint


def one(rng):
    yield dict(size=28, kernel=5, stride=1, padding=0)
    yield dict(size=7, kernel=3, stride=2, padding=1)
    yield dict(size=8, kernel=3, stride=2, padding=0)  # one row is left over
    for _ in range(12):
        kernel = int(rng.integers(1, 6))
        yield dict(
            size=int(rng.integers(kernel, 20)),
            kernel=kernel,
            stride=int(rng.integers(1, 5)),
            padding=int(rng.integers(0, 4)),
        )


def images(rng):
    for _ in range(8):
        kh, kw = (int(k) for k in rng.integers(1, 6, size=2))
        yield dict(
            x_shape=(int(rng.integers(1, 5)), 3, int(rng.integers(kh + 2, 20)), int(rng.integers(kw + 2, 30))),
            w_shape=(int(rng.integers(5, 9)), 3, kh, kw),
            stride=(int(rng.integers(1, 4)), int(rng.integers(1, 4))),
            padding=(int(rng.integers(0, 3)), int(rng.integers(0, 3))),
        )


Same("output_size", one)
Same("conv_shape", images)
Same("same_padding", lambda rng: [dict(kernel=k) for k in (1, 3, 5, 11)])
edit("padding counted once", "2 * padding", "padding", fix="Zeros are added at both ends: 2 * padding.")
edit(
    "rounded up",
    "(size + 2 * padding - kernel) // stride + 1",
    "-(-(size + 2 * padding - kernel) // stride) + 1",
    fix="A place where the kernel does not fit any more does not count: round down.",
)
edit(
    "the first place forgotten",
    "// stride + 1",
    "// stride",
    fix="Between the first and the last place there are n steps and n + 1 places.",
)
edit(
    "1 added before the division",
    "(size + 2 * padding - kernel) // stride + 1",
    "(size + 2 * padding - kernel + 1) // stride",
    fix="First divide by the stride, then add 1.",
)
edit(
    "kernel not subtracted",
    "2 * padding - kernel)",
    "2 * padding)",
    fix="The last place starts kernel pixels before the end.",
)
edit(
    "height used for width",
    "output_size(w, kw, stride[1], padding[1])",
    "output_size(h, kh, stride[0], padding[0])",
    fix="Rows and columns have sizes of their own.",
)
edit(
    "rows and columns exchanged",
    "return n, f, rows, columns",
    "return n, f, columns, rows",
    fix="The order is (N, F, rows, columns).",
)
edit(
    "channels for filters",
    "return n, f, rows",
    "return n, x_shape[1], rows",
    fix="The output has one channel per filter: F.",
)
edit("padding one too large", "kernel // 2", "(kernel + 1) // 2", fix="size + 2p - k + 1 = size gives p = (k - 1) / 2.")
hint("Without padding and with stride 1 there are size - kernel + 1 places: try size 5, kernel 3.")
hint("(size + 2 * padding - kernel) // stride + 1, rows and columns separately.")
hint("return (size + 2*padding - kernel)//stride + 1;  (N, F, rows, columns);  same padding: kernel // 2")
# </checks>
# <hidden points=1>
Same("conv_shape", images, title="conv_shape(): other sizes")
# </hidden>
