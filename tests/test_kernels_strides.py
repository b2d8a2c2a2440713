"""Axes of size 1 may have any stride; the kernels must not read along it."""

import numpy as np
import pytest

from tinygrad_cnn.backend import few_images, numpy_kernels

PLAIN = {"stride": (1, 1), "padding": ((0, 0), (0, 0)), "dilation": (1, 1), "groups": 1}


SHAPES = [(1, 16, 5, 5), (3, 1, 5, 5), (1, 1, 5, 5), (1, 16, 5, 1), (2, 16, 1, 5)]


@pytest.mark.parametrize("most", [0, 4])
@pytest.mark.parametrize(("shape", "axis"), [(s, axis) for s in SHAPES for axis in range(4) if s[axis] == 1])
def test_the_stride_of_an_axis_of_size_one_does_not_matter(shape, axis, most, monkeypatch):
    monkeypatch.setattr(few_images, "_FEW", most)
    rng = np.random.default_rng(0)
    n, c, h, w = shape
    x = rng.normal(size=(h, c, w, n)).transpose(3, 1, 0, 2)  # the order in which the kernels need no copy
    kernel = tuple(min(n, 5) for n in shape[2:])
    weight = rng.normal(size=(7, shape[1], *kernel))
    strides = list(x.strides)
    strides[axis] = 1 << 20  # following it would leave the array
    odd = np.lib.stride_tricks.as_strided(x, shape, strides, writeable=False)
    expected = np.einsum("ncij,ocij->no", x[:, :, : kernel[0], : kernel[1]], weight)
    y = numpy_kernels.conv2d(odd, weight, **PLAIN)
    np.testing.assert_allclose(y[:, :, 0, 0], expected, rtol=1e-10)
    g = rng.normal(size=y.shape)
    np.testing.assert_allclose(
        numpy_kernels.conv2d_weight_gradient(odd, g, kernel=kernel, **PLAIN),
        numpy_kernels.conv2d_weight_gradient(x.copy(), g, kernel=kernel, **PLAIN),
        rtol=1e-10,
    )
    gy = np.lib.stride_tricks.as_strided(g, g.shape, (g.strides[0], g.strides[1], 1 << 20, 1 << 20), writeable=False)
    if g.shape[2:] == (1, 1):
        np.testing.assert_allclose(
            numpy_kernels.conv2d_input_gradient(gy, weight, size=shape[2:], **PLAIN),
            numpy_kernels.conv2d_input_gradient(g, weight, size=shape[2:], **PLAIN),
            rtol=1e-10,
        )
