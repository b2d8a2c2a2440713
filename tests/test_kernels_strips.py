"""Convolution of few channels in strips: what comes out is what plain loops give, however it is cut."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_kernels_twins import LAYOUTS, layouts, sides, slow_conv2d, slow_conv2d_gradients

from tinygrad_cnn.backend import numpy_kernels as kernels
from tinygrad_cnn.backend import rows, strips, threads

quick = settings(max_examples=60, deadline=None)


@st.composite
def cases(draw):
    kernel = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    padding = draw(sides), draw(sides)
    size = tuple(max(1, k - sum(p)) + draw(st.integers(0, 6)) for k, p in zip(kernel, padding, strict=True))
    n, c, o = draw(st.sampled_from([1, 2, 5, 17])), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(st.integers(0, 9)))
    output = tuple(s + sum(p) - k + 1 for s, p, k in zip(size, padding, kernel, strict=True))
    x = LAYOUTS[draw(layouts)](rng.normal(size=(n, c, *size)))
    weight = LAYOUTS[draw(layouts)](rng.normal(size=(o, c, *kernel)))
    g = LAYOUTS[draw(layouts)](rng.normal(size=(n, o, *output)))
    bias = rng.normal(size=o) if draw(st.booleans()) else None
    return x, weight, bias, g, padding


def geometry(padding):
    return {"stride": (1, 1), "padding": padding, "dilation": (1, 1), "groups": 1}


@quick
@given(cases(), st.sampled_from([1, 2, 5]), st.sampled_from([0.1, 16, 1000]))
def test_strips_agree_with_loops_however_they_are_cut(case, count, copying):
    x, weight, bias, g, padding = case
    output, size, kernel = g.shape[2:], x.shape[2:], weight.shape[2:]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strips, "_SMALL", 0)
        patch.setattr(threads, "cpus", lambda: count)
        patch.setattr(strips, "_COPYING", copying)
        patch.setattr(strips, "_plan", strips._Plan)
        y = strips.correlate(x, weight, bias, padding=padding, output=output)
        gw = strips.correlate_weight(x, g, kernel, padding=padding, dtype=x.dtype)
        gx = strips.input_gradient(g, weight, size=size, padding=padding)
    np.testing.assert_allclose(y, slow_conv2d(x, weight, bias, geometry(padding), output), atol=1e-12)
    slow_gx, slow_gw = slow_conv2d_gradients(x, weight, g, geometry(padding))
    np.testing.assert_allclose(gw, slow_gw, atol=1e-11)
    np.testing.assert_allclose(gx, slow_gx, atol=1e-12)
    assert (y.shape, gx.shape, gw.shape) == (g.shape, x.shape, weight.shape)


def images(n=16, c=2, size=(9, 8), o=5, kernel=5, dtype=np.float32):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, c, *size)).astype(dtype)
    weight = rng.normal(size=(o, c, kernel, kernel)).astype(dtype)
    g = rng.normal(size=(n, o, *size)).astype(dtype)
    return x, weight, rng.normal(size=o).astype(dtype), g, ((kernel // 2,) * 2,) * 2


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_layers_of_few_channels_are_computed_so_in_every_type(monkeypatch, dtype):
    monkeypatch.setattr(rows, "_Plan", None)  # nobody asks for the other way
    x, weight, bias, g, padding = images(c=4, dtype=dtype)
    y = kernels.conv2d(x, weight, bias, **geometry(padding))
    gx = kernels.conv2d_input_gradient(g, weight, size=x.shape[2:], **geometry(padding))
    gw = kernels.conv2d_weight_gradient(x, g, kernel=weight.shape[2:], **geometry(padding))
    assert y.dtype == gx.dtype == gw.dtype == dtype
    wide = [a.astype(float) for a in (x, weight, bias, g)]
    slow_gx, slow_gw = slow_conv2d_gradients(wide[0], wide[1], wide[3], geometry(padding))
    error = {np.float16: 2e-3, np.float32: 1e-6, np.float64: 1e-14}[dtype]
    for fast, slow in (
        (y, slow_conv2d(*wide[:3], geometry(padding), g.shape[2:])),
        (gx, slow_gx),
        (gw, slow_gw),
    ):
        assert np.abs(fast - slow).max() <= error * np.abs(slow).max()


def test_a_wider_bias_widens_the_result():
    x, weight, bias, g, padding = images()
    y = kernels.conv2d(x, weight, bias.astype(float), **geometry(padding))
    assert y.dtype == np.float64
    expected = slow_conv2d(x.astype(float), weight.astype(float), bias.astype(float), geometry(padding), g.shape[2:])
    np.testing.assert_allclose(y, expected, atol=1e-12)


def test_the_batch_is_innermost_and_the_channels_next():
    x, weight, bias, g, padding = images(c=4)
    for made in (
        kernels.conv2d(x, weight, bias, **geometry(padding)),
        kernels.conv2d_input_gradient(g, weight, size=x.shape[2:], **geometry(padding)),
    ):
        assert made.transpose(2, 3, 1, 0).flags.c_contiguous


@pytest.mark.parametrize(
    ("batch", "weight", "stride", "dilation"),
    [
        (15, (6, 1, 5, 5), (1, 1), (1, 1)),
        (64, (6, 1, 5, 5), (2, 1), (1, 1)),
        (64, (6, 1, 5, 5), (1, 1), (1, 2)),
        (64, (64, 3, 3, 3), (1, 1), (1, 1)),
        (64, (16, 16, 3, 3), (1, 1), (1, 1)),
        (64, (0, 1, 3, 3), (1, 1), (1, 1)),
        (64, (3, 0, 3, 3), (1, 1), (1, 1)),
    ],
)
def test_other_layers_are_not(batch, weight, stride, dilation):
    assert not strips.pays(batch, weight, stride, dilation)
    assert strips.pays(64, (6, 1, 5, 5), (1, 1), (1, 1))


def test_an_image_narrower_than_its_padding_gets_no_gradient_from_outside():
    x, weight, bias, _, _ = images(size=(1, 1), c=4)
    around = ((2, 2), (6, 6))
    g = np.ones((16, 5, 1, 9), np.float32)
    gx = kernels.conv2d_input_gradient(g, weight, size=(1, 1), **geometry(around))
    slow, _ = slow_conv2d_gradients(x, weight, g, geometry(around))
    np.testing.assert_allclose(gx, slow, atol=1e-4)
    y = kernels.conv2d(x, weight, bias, **geometry(around))
    np.testing.assert_allclose(y, slow_conv2d(x, weight, bias, geometry(around), (1, 9)), atol=1e-4)
