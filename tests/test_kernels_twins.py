"""Every fast kernel agrees with a slow twin that says the same in plain loops, whatever shapes and memory layouts."""

import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tinygrad_cnn.backend import blas, few_images, rows, threads, winograd
from tinygrad_cnn.backend import numpy_kernels as kernels

quick = settings(max_examples=60, deadline=None)


# Twins ----------------------------------------------------------------------------------------------------------------


def positions(size, padding, kernel, stride, dilation):
    return (size + sum(padding) - dilation * (kernel - 1) - 1) // stride + 1


def taps(geometry, kernel, output):
    """Yield (output row, output column, kernel row, kernel column, input row, input column), outside ones too."""
    (sh, sw), ((top, _), (left, _)), (dh, dw) = geometry["stride"], geometry["padding"], geometry["dilation"]
    for i, j, p, q in itertools.product(*map(range, (*output, *kernel))):
        yield i, j, p, q, i * sh + p * dh - top, j * sw + q * dw - left


def inside(x, row, column):
    return 0 <= row < x.shape[2] and 0 <= column < x.shape[3]


def slow_conv2d(x, weight, bias, geometry, output):
    n, c, groups = x.shape[0], x.shape[1], geometry["groups"]
    o = weight.shape[0]
    y = np.zeros((n, o, *output)) + (0 if bias is None else bias[None, :, None, None])
    for i, j, p, q, row, column in taps(geometry, weight.shape[2:], output):
        if inside(x, row, column):
            for k in range(o):
                first = k // (o // groups) * (c // groups)
                for channel in range(c // groups):
                    y[:, k, i, j] += x[:, first + channel, row, column] * weight[k, channel, p, q]
    return y


def slow_conv2d_gradients(x, weight, g, geometry):
    gx, gw = np.zeros(x.shape), np.zeros(weight.shape)
    c, o, groups = x.shape[1], weight.shape[0], geometry["groups"]
    for i, j, p, q, row, column in taps(geometry, weight.shape[2:], g.shape[2:]):
        if inside(x, row, column):
            for k in range(o):
                first = k // (o // groups) * (c // groups)
                for channel in range(c // groups):
                    gx[:, first + channel, row, column] += g[:, k, i, j] * weight[k, channel, p, q]
                    gw[k, channel, p, q] += (g[:, k, i, j] * x[:, first + channel, row, column]).sum()
    return gx, gw


def windows(x, kernel, geometry, output):
    """Yield (n, c, i, j, places inside the image in row-major order) of every window."""
    for n, c in np.ndindex(*x.shape[:2]):
        for i, j in np.ndindex(*output):
            places = [
                (row, column) for a, b, _, _, row, column in taps(geometry, kernel, output)
                if (a, b) == (i, j) and inside(x, row, column)
            ]  # fmt: skip
            yield n, c, i, j, places


def maxima(x, n, c, places, ties):
    """Return the places of the maxima of a window; NaN is larger than everything."""
    values = np.array([x[n, c, row, column] for row, column in places])
    if not len(values):
        return []
    best = np.isnan(values) if np.isnan(values).any() else values == values.max()
    found = [place for place, is_best in zip(places, best, strict=True) if is_best]
    return found[:1] if ties == "first" else found


# What the twins are compared on ---------------------------------------------------------------------------------------

LAYOUTS = {
    "rows": lambda a: a,
    "columns": np.asfortranarray,
    "batch innermost": lambda a: a.transpose(1, 2, 3, 0).copy().transpose(3, 0, 1, 2),
    "rows outermost": lambda a: a.transpose(2, 1, 3, 0).copy().transpose(3, 1, 0, 2),
    "channels last": lambda a: a.transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2),
    "every second": lambda a: np.repeat(np.repeat(a, 2, axis=0), 2, axis=3)[::2, :, :, ::2],
    "backwards": lambda a: a[:, ::-1, ::-1, ::-1].copy()[:, ::-1, ::-1, ::-1],
    "broadcast": lambda a: np.broadcast_to(a[:1], a.shape) if len(a) else a,
}
layouts = st.sampled_from(sorted(LAYOUTS))
pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))
sides = st.tuples(st.integers(0, 2), st.integers(0, 2))


@st.composite
def convolutions(draw):
    groups = draw(st.integers(1, 3))
    geometry = {
        "stride": draw(pairs),
        "padding": (draw(sides), draw(sides)),
        "dilation": draw(pairs),
        "groups": groups,
    }
    kernel = draw(pairs)
    n, c, o = draw(st.integers(0, 3)), groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 2))
    size = tuple(
        max(1, d * (k - 1) + 1 - sum(p)) + draw(st.integers(0, 4))
        for d, k, p in zip(geometry["dilation"], kernel, geometry["padding"], strict=True)
    )
    rng = np.random.default_rng(draw(st.integers(0, 9)))
    x = LAYOUTS[draw(layouts)](rng.normal(size=(n, c, *size)))
    weight = LAYOUTS[draw(layouts)](rng.normal(size=(o, c // groups, *kernel)))
    output = tuple(
        positions(size[a], geometry["padding"][a], kernel[a], geometry["stride"][a], geometry["dilation"][a])
        for a in (0, 1)
    )
    g = LAYOUTS[draw(layouts)](rng.normal(size=(n, o, *output)))
    bias = rng.normal(size=o) if draw(st.booleans()) else None
    return x, weight, bias, g, geometry


@st.composite
def pools(draw):
    kernel, stride = draw(pairs), draw(pairs)
    dilation = draw(st.sampled_from([(1, 1), (2, 1), (1, 2)]))
    half = [st.tuples(st.integers(0, k // 2), st.integers(0, k // 2)) for k in kernel]
    geometry = {"stride": stride, "padding": (draw(half[0]), draw(half[1])), "dilation": dilation}
    size, output = [], []
    for a in (0, 1):
        before, after = geometry["padding"][a]
        size.append(max(1, dilation[a] * (kernel[a] - 1) + 1 - before - after) + draw(st.integers(0, 4)))
        count = positions(size[a], (before, after), kernel[a], stride[a], dilation[a])
        # Ceil mode may add a window that reaches past the padding, if it starts inside.
        if draw(st.booleans()) and count * stride[a] < size[a] + before:
            count += 1
        output.append(count)
    rng = np.random.default_rng(draw(st.integers(0, 9)))
    shape = (draw(st.integers(0, 2)), draw(st.integers(1, 2)), *size)
    x = rng.integers(0, 4, shape).astype(float)  # few values: many ties
    special = draw(st.sampled_from([None, np.nan, np.inf, -np.inf]))
    if special is not None:
        x[rng.random(shape) < 0.5] = special
    return (
        LAYOUTS[draw(layouts)](x),
        kernel,
        geometry,
        tuple(output),
        draw(layouts),
        draw(st.sampled_from(["first", "split"])),
    )


# Comparisons ----------------------------------------------------------------------------------------------------------


@pytest.fixture(params=[0, 2, 4], ids="at most {} images one by one".format)
def image_by_image(request, monkeypatch):
    """Batches of up to so many images are computed image by image."""
    monkeypatch.setattr(few_images, "_FEW", request.param)


same_fixture = settings(quick, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.usefixtures("image_by_image")
@same_fixture
@given(convolutions())
def test_conv2d_agrees_with_loops(case):
    x, weight, bias, g, geometry = case
    y = kernels.conv2d(x, weight, bias, **geometry)
    np.testing.assert_allclose(y, slow_conv2d(x, weight, bias, geometry, g.shape[2:]), atol=1e-12)


@pytest.mark.usefixtures("image_by_image")
@same_fixture
@given(convolutions())
def test_gradients_of_conv2d_agree_with_loops(case):
    x, weight, _, g, geometry = case
    gx, gw = slow_conv2d_gradients(x, weight, g, geometry)
    np.testing.assert_allclose(kernels.conv2d_input_gradient(g, weight, size=x.shape[2:], **geometry), gx, atol=1e-12)
    np.testing.assert_allclose(
        kernels.conv2d_weight_gradient(x, g, kernel=weight.shape[2:], **geometry), gw, atol=1e-12
    )


@quick
@given(convolutions(), st.integers(1, 40), st.sampled_from([1, 1000]), st.sampled_from([0, 1000]), st.booleans())
def test_conv2d_is_the_same_in_pieces_threads_and_by_views(case, workspace, few, channels, with_blas):
    x, weight, bias, g, geometry = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(few_images, "_FEW", 0)
        patch.setattr(rows, "_WORKSPACE", workspace)
        patch.setattr(rows, "_SMALL", 0)
        patch.setattr(rows, "_FEW_ROWS", few)
        patch.setattr(kernels, "_FEW_CHANNELS", channels)
        patch.setattr(rows, "cpus", lambda: 3)
        patch.setattr(threads, "_WORTH", 0)
        patch.setattr(threads, "cpus", lambda: 3)
        if not with_blas:
            patch.setattr(blas, "_gemm", lambda kind: None)
        y = kernels.conv2d(x, weight, bias, **geometry)
        gx = kernels.conv2d_input_gradient(g, weight, size=x.shape[2:], **geometry)
        gw = kernels.conv2d_weight_gradient(x, g, kernel=weight.shape[2:], **geometry)
    np.testing.assert_allclose(y, kernels.conv2d(x, weight, bias, **geometry), atol=1e-12)
    expected = kernels.conv2d_input_gradient(g, weight, size=x.shape[2:], **geometry)
    np.testing.assert_allclose(gx, expected, atol=1e-12)
    expected = kernels.conv2d_weight_gradient(x, g, kernel=weight.shape[2:], **geometry)
    np.testing.assert_allclose(gw, expected, atol=1e-12)


@pytest.mark.parametrize("few", [1, 1000])
@pytest.mark.parametrize("kernel", [(1, 1), (1, 4), (4, 1), (2, 4), (3, 5), (2, 7)])
@pytest.mark.parametrize("stride", [(2, 2), (3, 2), (1, 3), (4, 1)])
@pytest.mark.parametrize("padding", [((0, 0), (0, 0)), ((0, 0), (1, 2)), ((2, 0), (0, 0)), ((1, 1), (3, 5))])
def test_columns_by_phase_give_what_loops_give(few, kernel, stride, padding, monkeypatch):
    """Kernel columns of several phases are one product, and rows that a kernel steps over are left out."""
    monkeypatch.setattr(rows, "_FEW_ROWS", few)
    monkeypatch.setattr(rows, "_SMALL", 0)
    monkeypatch.setattr(rows, "_FILTERS", 5)
    monkeypatch.setattr(rows, "cpus", lambda: 2)
    rng = np.random.default_rng(0)
    geometry = {"stride": stride, "padding": padding, "dilation": (1, 1), "groups": 1}
    x = LAYOUTS["rows outermost"](rng.normal(size=(2, 3, 9, 10)))
    weight = rng.normal(size=(4, 3, *kernel))
    output = tuple(positions(x.shape[2 + a], padding[a], kernel[a], stride[a], 1) for a in (0, 1))
    g = rng.normal(size=(2, 4, *output))
    np.testing.assert_allclose(
        kernels.conv2d(x, weight, None, **geometry), slow_conv2d(x, weight, None, geometry, output), atol=1e-12
    )
    gw = kernels.conv2d_weight_gradient(x, g, kernel=kernel, **geometry)
    np.testing.assert_allclose(gw, slow_conv2d_gradients(x, weight, g, geometry)[1], atol=1e-12)


@pytest.mark.parametrize("workspace", [1, 100, 400, 1 << 18])
@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("unpacked", [0, 300, 1_000_000])
def test_bands_that_share_their_columns_give_what_loops_give(workspace, threads, unpacked, monkeypatch):
    """Few input channels: several bands of a piece see the same copied rows, and are cut into runs of columns."""
    monkeypatch.setattr(rows, "_WORKSPACE", workspace)
    monkeypatch.setattr(rows, "_SMALL", 0)
    monkeypatch.setattr(rows, "most_unpacked", lambda: unpacked)
    monkeypatch.setattr(rows, "_NARROWEST", 1)
    monkeypatch.setattr(rows, "cpus", lambda: threads)
    rng = np.random.default_rng(0)
    for stride, dilation, size in itertools.product([(1, 1), (2, 1), (3, 2)], [(1, 1), (2, 2)], [(7, 6), (12, 13)]):
        geometry = {"stride": stride, "padding": ((1, 0), (1, 1)), "dilation": dilation, "groups": 1}
        x, weight, bias = rng.normal(size=(2, 2, *size)), rng.normal(size=(3, 2, 3, 3)), rng.normal(size=3)
        output = tuple(positions(size[a], geometry["padding"][a], 3, stride[a], dilation[a]) for a in (0, 1))
        g = rng.normal(size=(2, 3, *output))
        y = kernels.conv2d(x, weight, bias, **geometry)
        np.testing.assert_allclose(y, slow_conv2d(x, weight, bias, geometry, output), atol=1e-12)
        gx, gw = slow_conv2d_gradients(x, weight, g, geometry)
        np.testing.assert_allclose(kernels.conv2d_weight_gradient(x, g, kernel=(3, 3), **geometry), gw, atol=1e-12)
        found, again = (kernels.conv2d_input_gradient(g, weight, size=size, **geometry) for _ in range(2))
        np.testing.assert_allclose(found, gx, atol=1e-12)
        np.testing.assert_array_equal(found, again)


@quick
@given(convolutions(), st.sampled_from([0, 1, 1000]), st.sampled_from([0, 30, 1 << 22]))
def test_few_images_are_the_same_with_the_kernel_turned_and_without(case, filters, largest):
    x, weight, _, g, geometry = case
    geometry = {**geometry, "stride": (1, 1)}
    shape = [len(x), len(weight)]
    for a in (0, 1):
        shape.append(positions(x.shape[2 + a], geometry["padding"][a], weight.shape[2 + a], 1, geometry["dilation"][a]))
    g = np.resize(g, shape) if g.size else np.ones(shape)
    gx, _ = slow_conv2d_gradients(x, weight, g, geometry)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(few_images, "_FILTERS", filters)
        patch.setattr(few_images, "_LARGEST", largest)
        found = kernels.conv2d_input_gradient(g, weight, size=x.shape[2:], **geometry)
    np.testing.assert_allclose(found, gx, atol=1e-12)


@pytest.mark.parametrize("n", [1, 4, 5])
def test_few_images_keep_single_precision_and_agree_with_many(n, monkeypatch):
    rng = np.random.default_rng(0)
    x, weight, bias = (rng.normal(size=s).astype("f") for s in ((n, 6, 14, 14), (16, 6, 5, 5), (16,)))
    geometry = {"stride": (1, 1), "padding": ((0, 0), (0, 0)), "dilation": (1, 1), "groups": 1}
    found = []
    for most in (0, 4):
        monkeypatch.setattr(few_images, "_FEW", most)
        y = kernels.conv2d(x, weight, bias, **geometry)
        assert y.dtype == np.float32
        if n <= most:
            assert y.flags.c_contiguous
        gx = kernels.conv2d_input_gradient(y, weight, size=(14, 14), **geometry)
        gw = kernels.conv2d_weight_gradient(x, y, kernel=(5, 5), **geometry)
        assert gx.dtype == gw.dtype == np.float32
        found.append((y, gx, gw))
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max())


@st.composite
def three_rows_high(draw):
    """Convolutions that Winograd's algorithm can compute, with channels, heights and paddings that fit no tile."""
    kernel = (3, draw(st.integers(1, 4)))
    n, c, o = draw(st.integers(0, 3)), draw(st.integers(1, 5)), draw(st.integers(1, 5))
    padding = (
        draw(st.tuples(st.integers(0, 7), st.integers(0, 3))),
        draw(st.tuples(st.integers(0, 5), st.integers(0, 5))),
    )
    size = tuple(max(1, k - sum(p)) + draw(st.integers(0, 9)) for k, p in zip(kernel, padding, strict=True))
    output = tuple(positions(size[a], padding[a], kernel[a], 1, 1) for a in (0, 1))
    rng = np.random.default_rng(draw(st.integers(0, 9)))
    x = LAYOUTS[draw(layouts)](rng.normal(size=(n, c, *size)))
    weight = LAYOUTS[draw(layouts)](rng.normal(size=(o, c, *kernel)))
    g = LAYOUTS[draw(layouts)](rng.normal(size=(n, o, *output)))
    bias = rng.normal(size=o) if draw(st.booleans()) else None
    return x, weight, bias, g, {"stride": (1, 1), "padding": padding, "dilation": (1, 1), "groups": 1}


@quick
@given(three_rows_high(), st.sampled_from([1, 2, 3, 4, 7, 13]), st.booleans())
def test_sums_of_rows_give_what_loops_give(case, threads, with_blas):
    x, weight, bias, g, geometry = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(few_images, "_FEW", 0)
        patch.setattr(winograd, "pays", lambda *shapes: True)
        patch.setattr(winograd, "cpus", lambda: threads)
        patch.setattr(winograd, "_RUN", 4)
        patch.setattr(winograd, "_WORTH", 3)
        if not with_blas:
            patch.setattr(blas, "_gemm", lambda kind: None)
        y = kernels.conv2d(x, weight, bias, **geometry)
        gx = kernels.conv2d_input_gradient(g, weight, size=x.shape[2:], **geometry)
        gw = kernels.conv2d_weight_gradient(x, g, kernel=weight.shape[2:], **geometry)
    np.testing.assert_allclose(y, slow_conv2d(x, weight, bias, geometry, g.shape[2:]), atol=1e-11)
    slow_gx, slow_gw = slow_conv2d_gradients(x, weight, g, geometry)
    np.testing.assert_allclose(gx, slow_gx, atol=1e-11)
    np.testing.assert_allclose(gw, slow_gw, atol=1e-11)


@pytest.mark.parametrize("size", [(16, 16), (5, 9), (8, 3)])
def test_sums_of_rows_keep_single_precision(size):
    """Errors stay below 1e-5 of the largest result, and the two ways are chosen by geometry alone."""
    rng = np.random.default_rng(0)
    x, weight, g = (rng.normal(size=s).astype("f") for s in ((32, 64, *size), (96, 64, 3, 3), (32, 96, *size)))
    geometry = {"stride": (1, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 1), "groups": 1}

    def everything(*arrays):
        x, weight, g = arrays
        return (
            kernels.conv2d(x, weight, None, **geometry),
            kernels.conv2d_input_gradient(g, weight, size=size, **geometry),
            kernels.conv2d_weight_gradient(x, g, kernel=(3, 3), **geometry),
        )

    assert winograd.pays(np.float32, 32, weight.shape, (1, 1), (1, 1), size) == (size != (5, 9))
    assert not winograd.pays(np.float64, 32, weight.shape, (1, 1), (1, 1), size)
    exact = everything(*(a.astype(float) for a in (x, weight, g)))
    found, again = everything(x, weight, g), everything(x, weight, g)
    for a, b, c in zip(found, exact, again, strict=True):
        assert a.dtype == np.float32
        np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max())
        np.testing.assert_array_equal(a, c)  # two runs are equal to the last bit


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int64"])
@pytest.mark.parametrize("add", [False, True])
def test_products_of_blas_are_those_of_matmul(dtype, add):
    rng = np.random.default_rng(0)

    def matrices(rows, columns):
        whole = rng.integers(-3, 4, (2 * rows + 1, 2 * columns + 1)).astype(dtype)
        yield whole[:rows, :columns]
        yield np.asfortranarray(whole[:rows, :columns])
        yield whole[: 2 * rows : 2, 1 : columns + 1]
        yield whole[:rows, ::2][:, :columns]
        yield whole[:rows, :columns][::-1]
        yield whole[:rows, :columns][::-1].T.copy().T
        yield np.broadcast_to(whole[0, :columns], (rows, columns))
        yield np.broadcast_to(whole[:rows, :1], (rows, columns))

    for m, k, n in ((2, 3, 4), (1, 3, 4), (2, 1, 4), (2, 3, 1), (1, 1, 1), (0, 2, 3), (2, 0, 3), (2, 3, 0)):
        for a, b in itertools.product(matrices(m, k), matrices(k, n)):
            for out in (np.ones((m, n), dtype), np.ones((m + 1, n + 2), dtype)[1:, 1:-1], np.ones((n, m), dtype).T):
                expected = a @ b + (out if add else 0)
                blas.multiply(a, b, out, add=add)
                np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("with_blas", [True, False])
def test_a_product_looked_at_once_reads_what_its_arrays_hold_at_each_call(with_blas, monkeypatch):
    if not with_blas:
        monkeypatch.setattr(blas, "_gemm", lambda kind: None)
    rng = np.random.default_rng(0)
    a, b, out = rng.normal(size=(3, 5)), rng.normal(size=(5, 4)), np.zeros((3, 4))
    write = blas.product(a, b, out)
    for _ in range(3):
        a[...], b[...] = rng.normal(size=a.shape), rng.normal(size=b.shape)
        write()
        np.testing.assert_allclose(out, a @ b, rtol=1e-12)
    add = blas.product(a, b, out, add=True)
    add()
    add()
    np.testing.assert_allclose(out, 3 * (a @ b), rtol=1e-12)


@pytest.mark.parametrize("with_blas", [True, False])
@pytest.mark.parametrize("count", [0, 1, 3])
def test_products_of_stacks_are_added_one_by_one_or_all_to_one(with_blas, count, monkeypatch):
    if not with_blas:
        monkeypatch.setattr(blas, "_gemm", lambda kind: None)
    rng = np.random.default_rng(0)
    whole = rng.normal(size=(2 * count + 1, 9, 11))
    rights = whole[: 2 * count : 2, :5, :4], whole[:count, :4, 2:7].transpose(0, 2, 1), whole[:count, :5, ::-1][..., :4]
    for b in rights:
        for a in (rng.normal(size=(3, 5)), rng.normal(size=(count, 5, 3)).transpose(0, 2, 1)):
            start = rng.normal(size=(count, 3, 6))
            each, one = start.copy(), np.ones((3, 4))
            blas.add_products(a, b, each[..., 1:5])
            expected = start.copy()
            expected[..., 1:5] += np.matmul(a, b)
            np.testing.assert_allclose(each, expected, rtol=1e-12)
            blas.add_products(a, b, one)
            np.testing.assert_allclose(one, 1 + np.matmul(a, b).sum(axis=0), rtol=1e-12)
    if count:
        with pytest.raises(ValueError, match="same length"):
            blas.add_products(np.ones((count + 1, 3, 5)), np.ones((count, 5, 4)), np.ones((3, 4)))


def test_products_of_misfits_are_refused_before_anything_is_written():
    a, b, out = np.ones((2, 3), "f"), np.ones((3, 4), "f"), np.zeros((2, 4), "f")
    for wrong in ((a, b, out[:1]), (a, b, out[:, :3]), (a[:, :2], b, out), (a.astype(float), b, out)):
        with pytest.raises(ValueError, match="sizes must agree"):
            blas.multiply(*wrong)
    read_only = np.zeros((2, 4), "f")
    read_only.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        blas.multiply(a, b, read_only)
    assert not out.any()


@quick
@given(pools())
def test_max_pooling_and_its_gradient_agree_with_loops(case):
    x, kernel, geometry, output, layout, ties = case
    y = kernels.max_pool2d(x, kernel=kernel, output=output, **geometry)
    rng = np.random.default_rng(0)
    g = LAYOUTS[layout](rng.normal(size=y.shape))
    u = LAYOUTS[layout](rng.normal(size=x.shape))
    slow_y, slow_gx, slow_u = np.full(y.shape, -np.inf), np.zeros(x.shape), np.zeros(y.shape)
    for n, c, i, j, places in windows(x, kernel, geometry, output):
        best = maxima(x, n, c, places, ties)
        for row, column in best:
            slow_y[n, c, i, j] = x[n, c, row, column]
            slow_gx[n, c, row, column] += g[n, c, i, j] / len(best)
            slow_u[n, c, i, j] += u[n, c, row, column] / len(best)
    np.testing.assert_array_equal(y, slow_y)
    gx = kernels.max_pool2d_input_gradient(g, x, y, kernel=kernel, ties=ties, **geometry)
    np.testing.assert_allclose(gx, slow_gx, atol=1e-12)
    selected = kernels.max_pool2d_select(u, x, y, kernel=kernel, ties=ties, **geometry)
    np.testing.assert_allclose(selected, slow_u, atol=1e-12)


@quick
@given(pools(), st.booleans(), st.sampled_from([None, 3]))
def test_average_pooling_and_its_gradient_agree_with_loops(case, include, override):
    x, kernel, geometry, output, layout, _ = case
    x = np.nan_to_num(x, posinf=1, neginf=-1)
    geometry = {**geometry, "dilation": (1, 1)}
    (sh, sw), ((top, bottom), (left, right)) = geometry["stride"], geometry["padding"]
    options = {
        "kernel": kernel, "stride": geometry["stride"], "padding": geometry["padding"],
        "count_include_pad": include, "divisor_override": override,
    }  # fmt: skip
    y = kernels.avg_pool2d(x, output=output, **options)
    g = LAYOUTS[layout](np.random.default_rng(0).normal(size=y.shape))
    slow_y, slow_gx = np.zeros(y.shape), np.zeros(x.shape)
    for n, c, i, j, places in windows(x, kernel, geometry, output):
        rows_seen = min(i * sh - top + kernel[0], x.shape[2] + bottom) - (i * sh - top)
        columns_seen = min(j * sw - left + kernel[1], x.shape[3] + right) - (j * sw - left)
        divisor = override or (rows_seen * columns_seen if include else len(places))
        for row, column in places:
            slow_y[n, c, i, j] += x[n, c, row, column] / divisor
            slow_gx[n, c, row, column] += g[n, c, i, j] / divisor
    np.testing.assert_allclose(y, slow_y, atol=1e-12)
    np.testing.assert_allclose(kernels.avg_pool2d_input_gradient(g, size=x.shape[2:], **options), slow_gx, atol=1e-12)


@quick
@given(st.integers(1, 5), st.integers(1, 6), st.integers(0, 9))
def test_softmax_cross_entropy_agrees_with_its_formula(n, k, seed):
    rng = np.random.default_rng(seed)
    logits, labels, g = rng.normal(size=(n, k)) * 300, rng.integers(0, k, n), rng.normal(size=n)
    losses, log_p = kernels.softmax_cross_entropy(logits, labels)
    gradient = kernels.softmax_cross_entropy_gradient(g, log_p, labels)
    for row in range(n):
        z = logits[row] - logits[row].max()
        log_sum = np.log(np.exp(z).sum())
        np.testing.assert_allclose(losses[row], log_sum - z[labels[row]], atol=1e-12)
        np.testing.assert_allclose(log_p[row], z - log_sum, atol=1e-12)
        one_hot = np.arange(k) == labels[row]
        np.testing.assert_allclose(gradient[row], g[row] * (np.exp(z - log_sum) - one_hot), atol=1e-12)


@pytest.mark.parametrize("shape", [(), (5,), (3, 4), (130, 150)])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("decoupled", [False, True])
def test_adam_agrees_with_its_formula(shape, order, decoupled):
    rng = np.random.default_rng(0)
    p = np.asarray(rng.normal(size=shape), order=order)
    m, v, q, a, b = np.zeros_like(p), np.zeros_like(p), p.copy(), 0, 0
    lr, beta1, beta2, eps, decay = 0.1, 0.8, 0.95, 1e-3, 0.2
    for step in range(1, 5):
        g = rng.normal(size=shape)
        kernels.adam_step(
            p, g, m, v, step=step, lr=lr, beta1=beta1, beta2=beta2, eps=eps, weight_decay=decay, decoupled=decoupled
        )
        if decoupled:
            q = q - lr * decay * q
        else:
            g = g + decay * q
        a, b = beta1 * a + (1 - beta1) * g, beta2 * b + (1 - beta2) * g**2
        q = q - lr * (a / (1 - beta1**step)) / (np.sqrt(b / (1 - beta2**step)) + eps)
        np.testing.assert_allclose(p, q, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(m, a, rtol=1e-12)
        np.testing.assert_allclose(v, b, rtol=1e-12)


# Types and ownership --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("groups", [1, 2])
def test_results_have_the_type_of_the_inputs(dtype, groups):
    rng = np.random.default_rng(0)
    x, weight = rng.normal(size=(2, 2, 6, 6)).astype(dtype), rng.normal(size=(2, 2 // groups, 3, 3)).astype(dtype)
    geometry = {"stride": (1, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 1), "groups": groups}
    y = kernels.conv2d(x, weight, np.zeros(2, dtype), **geometry)
    gx = kernels.conv2d_input_gradient(y, weight, size=(6, 6), **geometry)
    gw = kernels.conv2d_weight_gradient(x, y, kernel=(3, 3), **geometry)
    pool = {"kernel": (2, 2), "stride": (2, 2), "padding": ((0, 0), (0, 0))}
    top = kernels.max_pool2d(x, dilation=(1, 1), output=(3, 3), **pool)
    gtop = kernels.max_pool2d_input_gradient(top, x, top, dilation=(1, 1), ties="first", **pool)
    mean = kernels.avg_pool2d(x, output=(3, 3), count_include_pad=True, divisor_override=None, **pool)
    for result in (y, gx, gw, top, gtop, mean):
        assert result.dtype == dtype
    np.testing.assert_allclose(
        y,
        slow_conv2d(x.astype(float), weight.astype(float), None, geometry, (6, 6)),
        atol=3e-2 if dtype == "float16" else 1e-5,
    )


def test_results_share_no_memory_with_inputs_or_with_later_results():
    rng = np.random.default_rng(0)
    x = np.ascontiguousarray(rng.normal(size=(5, 2, 4, 6)).transpose(1, 2, 3, 0)).transpose(3, 0, 1, 2)
    weight = np.ones((2, 2, 1, 1))
    geometry = {"stride": (1, 1), "padding": ((0, 0), (0, 0)), "dilation": (1, 1), "groups": 1}
    pool = {"kernel": (1, 1), "stride": (1, 1), "padding": ((0, 0), (0, 0)), "dilation": (1, 1)}

    def everything():
        y = kernels.conv2d(x, weight, None, **geometry)
        top = kernels.max_pool2d(x, output=(4, 6), **pool)
        return [
            y,
            top,
            kernels.conv2d_input_gradient(y, weight, size=(4, 6), **geometry),
            kernels.conv2d_weight_gradient(x, y, kernel=(1, 1), **geometry),
            kernels.max_pool2d_input_gradient(y, x, top, ties="first", **pool),
            kernels.max_pool2d_select(x, x, top, ties="first", **pool),
        ]

    first, second = everything(), everything()
    for a in first:
        assert not np.may_share_memory(a, x)
        assert not any(np.may_share_memory(a, b) for b in second)


def test_two_runs_are_equal_to_the_last_bit():
    rng = np.random.default_rng(0)
    x, weight = rng.normal(size=(16, 8, 20, 20)).astype("float32"), rng.normal(size=(8, 8, 3, 3)).astype("float32")
    geometry = {"stride": (1, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 1), "groups": 1}
    first, second = (kernels.conv2d(x, weight, None, **geometry) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    gradients = [kernels.conv2d_weight_gradient(x, first, kernel=(3, 3), **geometry) for _ in range(2)]
    np.testing.assert_array_equal(*gradients)


@quick
@given(
    st.tuples(*[st.integers(0, 9)] * 3), st.sampled_from("fd"), st.booleans(), st.booleans(), st.integers(1, 4)
)  # fmt: skip
def test_products_are_the_same_in_threads(sizes, kind, turned_a, turned_b, count):
    m, k, n = sizes
    rng = np.random.default_rng(0)
    a = rng.integers(-9, 9, (k, m)).astype(kind).T if turned_a else rng.integers(-9, 9, (m, k)).astype(kind)
    b = rng.integers(-9, 9, (n, k)).astype(kind).T if turned_b else rng.integers(-9, 9, (k, 2 * n))[:, ::2].astype(kind)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blas, "_ALONE", -1)
        patch.setattr(blas, "_SMALL", -1)
        patch.setattr(threads, "cpus", lambda: count)
        y = blas.matmul(a, b)
    expected = np.array([[sum(a[i, p] * b[p, j] for p in range(k)) for j in range(n)] for i in range(m)])
    assert y.dtype == kind
    np.testing.assert_array_equal(y, expected.reshape(m, n))


def test_products_hold_blas_to_one_thread_where_it_would_use_its_own(monkeypatch):
    held = []
    inside = blas.single_threaded_blas
    monkeypatch.setattr(blas, "single_threaded_blas", lambda: held.append(True) or inside())
    small, large = np.ones((8, 8), np.float32), np.ones((128, 128), np.float32)
    blas.matmul(small, small)
    assert not held
    np.testing.assert_array_equal(blas.matmul(large, large), np.full((128, 128), 128))
    assert held


def test_products_of_other_things_are_those_of_numpy():
    stack, matrix, row = np.ones((2, 3, 4)), np.ones((4, 5), np.float32), np.arange(4)
    for a, b in ((stack, matrix), (row, matrix), (matrix.T, matrix.astype(float)), (row, row)):
        y = blas.matmul(a, b)
        np.testing.assert_array_equal(y, np.matmul(a, b))
        assert y.dtype == np.matmul(a, b).dtype
    with pytest.raises(ValueError, match="mismatch"):
        blas.matmul(matrix, matrix)
