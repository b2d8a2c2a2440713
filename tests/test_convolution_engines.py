"""Which way a GPU computes a convolution; cuDNN called as its package wants it; columns in parts of bounded memory."""

import sys
import threading
import types

import numpy as np
import pytest
import standin
from cuda_on_cpu import COMPILER
from fake_cudnn import FakeCudnn, cudnnGraphNotSupportedError, numerical_note
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygrad_cnn.backend import convolution_engines, device_kernels, numpy_kernels
from tinygrad_cnn.backend.convolution_engines import ENGINES, Cudnn, Runtime, engine_for, load_cudnn
from tinygrad_cnn.backend.cuda_kernels import CudaKernels
from tinygrad_cnn.backend.device_kernels import DeviceKernels
from tinygrad_cnn.cli import main

RUNTIME = Runtime(pointer=lambda a: a._held.ctypes.data, stream=lambda: 77, device=lambda: 0)
PLAIN = {"stride": (1, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 1), "groups": 1}


def engine(module, tf32=False):
    return Cudnn(standin.xp, RUNTIME, lambda: (module, None), tf32)


def table(module):
    return CudaKernels(standin.xp, None, standin._raw_module, make_cudnn=lambda: engine(module))


def over(*arrays):
    return [standin.asarray(a) for a in arrays]


geometries = st.fixed_dictionaries(
    {
        "n": st.integers(1, 3),
        "c": st.integers(1, 3),
        "o": st.integers(1, 3),
        "groups": st.integers(1, 3),
        "size": st.tuples(st.integers(5, 8), st.integers(5, 8)),
        "kernel": st.tuples(st.integers(1, 3), st.integers(1, 3)),
        "stride": st.tuples(st.integers(1, 3), st.integers(1, 2)),
        "dilation": st.tuples(st.integers(1, 2), st.integers(1, 2)),
        "padding": st.tuples(*[st.tuples(st.integers(0, 2), st.integers(0, 2))] * 2),
        "seed": st.integers(0, 99),
    }
)


def drawn(g, dtype=np.float32):
    rng = np.random.default_rng(g["seed"])
    x = rng.normal(size=(g["n"], g["c"] * g["groups"], *g["size"])).astype(dtype)
    weight = rng.normal(size=(g["o"] * g["groups"], g["c"], *g["kernel"])).astype(dtype)
    options = {name: g[name] for name in ("stride", "padding", "dilation", "groups")}
    y = numpy_kernels.conv2d(x.astype(np.float64), weight.astype(np.float64), **options)
    return x, weight, rng.normal(size=y.shape).astype(dtype), options


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@settings(max_examples=25, deadline=None)
@given(g=geometries)
def test_cudnn_is_asked_for_what_numpy_computes(dtype, g):
    x, weight, gy, options = drawn(g, dtype)
    cudnn = engine(FakeCudnn())
    tolerance = {"rtol": 1e-4, "atol": 1e-4} if dtype is np.float32 else {"rtol": 2e-2, "atol": 2e-2}
    wide = [a.astype(np.float32) for a in (x, weight, gy)]
    for found, expected in (
        (cudnn.conv2d(*over(x, weight), **options), numpy_kernels.conv2d(wide[0], wide[1], **options)),
        (
            cudnn.conv2d_input_gradient(*over(gy, weight), size=g["size"], **options),
            numpy_kernels.conv2d_input_gradient(wide[2], wide[1], size=g["size"], **options),
        ),
        (
            cudnn.conv2d_weight_gradient(*over(x, gy), kernel=g["kernel"], **options),
            numpy_kernels.conv2d_weight_gradient(wide[0], wide[2], kernel=g["kernel"], **options),
        ),
    ):
        assert isinstance(found, standin.Array)
        assert found.dtype == dtype
        np.testing.assert_allclose(standin.to_host(found), expected, **tolerance)


def test_a_plan_is_made_once_per_shape_and_runs_on_the_current_stream():
    module = FakeCudnn()
    cudnn = engine(module)
    x, weight = over(np.ones((2, 3, 6, 6), np.float32), np.ones((4, 3, 3, 3), np.float32))
    for _ in range(3):
        cudnn.conv2d(x, weight, **PLAIN)
    assert (len(module.graphs), len(module.handles)) == (1, 1)
    cudnn.conv2d(x, weight, **{**PLAIN, "stride": (2, 2)})
    assert len(module.graphs) == 2
    assert [stream for _, _, stream in module.runs] == [77] * 4


def test_handles_and_plans_belong_to_a_thread():
    module = FakeCudnn()
    cudnn = engine(module)
    x, weight = over(np.ones((2, 3, 6, 6), np.float32), np.ones((4, 3, 3, 3), np.float32))
    threads = [threading.Thread(target=lambda: cudnn.conv2d(x, weight, **PLAIN)) for _ in range(2)]
    for thread in threads:
        thread.start()
        thread.join()
    assert (len(module.handles), len(module.graphs), len(module.runs)) == (2, 2, 2)


def test_arrays_in_any_memory_order_are_handed_over_contiguous():
    x = np.random.default_rng(0).normal(size=(2, 6, 6, 3)).astype(np.float32)
    weight = np.random.default_rng(1).normal(size=(4, 3, 3, 3)).astype(np.float32)
    there, filters = over(x, weight)
    found = engine(FakeCudnn()).conv2d(there.transpose(0, 3, 1, 2), filters.transpose(0, 1, 3, 2), **PLAIN)
    expected = numpy_kernels.conv2d(x.transpose(0, 3, 1, 2), weight.transpose(0, 1, 3, 2), **PLAIN)
    np.testing.assert_allclose(standin.to_host(found), expected, rtol=1e-5, atol=1e-5)


def test_float32_stays_exact_and_repeatable_unless_tf32_is_allowed(monkeypatch):
    x, weight = over(np.ones((1, 2, 4, 4), np.float32), np.ones((2, 2, 3, 3), np.float32))
    for tf32, notes in ((False, set()), (True, {numerical_note.TENSOR_CORE, numerical_note.DOWN_CONVERT_INPUTS})):
        module = FakeCudnn()
        engine(module, tf32).conv2d(x, weight, **PLAIN)
        assert module.runs[0][1] == notes
    module = FakeCudnn()
    engine(module).conv2d(*over(np.ones((1, 2, 4, 4), np.float16), np.ones((2, 2, 3, 3), np.float16)), **PLAIN)
    assert module.runs[0][1] == {numerical_note.TENSOR_CORE}  # float16 multiplies exactly there
    for value, allowed in (("0", False), ("1", True), ("", False), ("yes", False)):
        monkeypatch.setenv("CUPY_TF32", value)
        assert convolution_engines.tf32_allowed() is allowed
    monkeypatch.delenv("CUPY_TF32")
    assert not convolution_engines.tf32_allowed()


def test_what_cudnn_has_no_plan_for_is_computed_otherwise_and_the_reason_kept():
    module = FakeCudnn(fails=cudnnGraphNotSupportedError("not this shape"))
    kernels = table(module)
    x, weight = np.ones((1, 64, 5, 5), np.float32), np.ones((2, 64, 3, 3), np.float32)
    for _ in range(2):
        found = kernels.conv2d(*over(x, weight), **PLAIN)
    np.testing.assert_allclose(standin.to_host(found), numpy_kernels.conv2d(x, weight, **PLAIN), rtol=1e-5)
    assert len(module.graphs) == 1  # asked once
    ((shape, reason),) = kernels.cudnn.refused.items()
    assert shape.startswith("conv_fprop (1, 64, 5, 5)")
    assert reason == "cudnnGraphNotSupportedError: not this shape"


def test_types_and_empty_arrays_that_cudnn_does_not_take_are_not_offered():
    module = FakeCudnn()
    cudnn = engine(module)
    for dtype, n in ((np.float64, 1), (np.float32, 0)):
        assert cudnn.conv2d(*over(np.ones((n, 2, 4, 4), dtype), np.ones((2, 2, 3, 3), dtype)), **PLAIN) is None
    assert cudnn.conv2d(*over(np.ones((1, 2, 4, 4), np.float32), np.ones((2, 2, 3, 3), np.float16)), **PLAIN) is None
    assert not module.graphs


@pytest.mark.skipif(COMPILER is None, reason="g++ is not installed")
def test_each_shape_takes_the_engine_of_the_table():
    module = FakeCudnn()
    kernels = table(module)
    small = over(np.ones((1, 1, 6, 6), np.float32), np.ones((2, 1, 3, 3), np.float32))
    large = over(np.ones((1, 64, 5, 5), np.float32), np.ones((2, 64, 3, 3), np.float32))
    kernels.conv2d(*small, **PLAIN)
    assert not module.runs
    y = kernels.conv2d(*large, *over(np.ones(2, np.float32)), **PLAIN)
    kernels.conv2d_input_gradient(y, large[1], size=(5, 5), **PLAIN)
    kernels.conv2d_weight_gradient(large[0], y, kernel=(3, 3), **PLAIN)
    assert [kind for kind, _, _ in module.runs] == ["conv_fprop", "conv_dgrad", "conv_wgrad"]
    assert standin.to_host(y)[0, 0, 2, 2] == 64 * 9 + 1


def test_the_table_falls_back_to_what_is_there():
    assert engine_for(6 * 25) == "direct"
    assert engine_for(64 * 9) == "gemm"
    assert engine_for(64 * 9, ("direct", "cudnn", "gemm")) == "cudnn"
    assert engine_for(9, ("gemm",)) == "gemm"
    assert all(names[-1] == "gemm" for _, names in ENGINES)


def test_a_missing_or_broken_cudnn_is_no_error_and_says_why(monkeypatch):
    monkeypatch.setitem(sys.modules, "cudnn", None)
    assert load_cudnn()[0] is None
    assert "pip install 'tinygrad-cnn[cudnn]'" in load_cudnn()[1]
    monkeypatch.setitem(sys.modules, "cudnn", types.ModuleType("cudnn"))
    assert "has no pygraph" in load_cudnn()[1]

    class Broken(FakeCudnn):
        def backend_version(self):
            raise RuntimeError("Unable to find symbol cudnnGetVersion")

    monkeypatch.setitem(sys.modules, "cudnn", Broken())
    assert "libcudnn is not found" in load_cudnn()[1]
    kernels = CudaKernels(standin.xp, None, standin._raw_module, make_cudnn=lambda: Cudnn(standin.xp, RUNTIME))
    y = kernels.conv2d(*over(np.ones((1, 64, 5, 5), np.float32), np.ones((2, 64, 3, 3), np.float32)), **PLAIN)
    assert standin.to_host(y)[0, 0, 2, 2] == 64 * 9


def test_info_prints_the_table_and_why_cudnn_is_not_used(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "cudnn", None)
    monkeypatch.delenv("CUPY_TF32", raising=False)
    assert main(["info"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "direct or else gemm up to 160 products per output, then cudnn or else gemm" in printed
    assert "nvidia-cudnn-frontend is not installed" in printed
    assert "TF32 off" in printed
    monkeypatch.setitem(sys.modules, "cudnn", FakeCudnn())
    monkeypatch.setenv("CUPY_TF32", "1")
    assert main(["info"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "92000, by nvidia-cudnn-frontend 1.32.0" in printed
    assert "TF32 allowed" in printed


@pytest.mark.parametrize("kind", ["conv_fprop", "conv_dgrad", "conv_wgrad"])
def test_the_package_itself_accepts_our_graphs_where_it_is_installed(kind):
    cudnn = pytest.importorskip("cudnn")

    class WithoutLibrary:
        """The package on a machine without GPU: graphs are made and validated, handles and plans cannot be had."""

        def __getattr__(self, name):
            return getattr(cudnn, name)

        def create_handle(self):
            return None

    made = []

    class Recording(WithoutLibrary):
        def pygraph(self, **options):
            made.append(cudnn.pygraph(**options))
            return made[-1]

    found = engine(Recording())
    x, weight = over(np.ones((2, 4, 6, 5), np.float32), np.ones((6, 2, 3, 3), np.float32))
    options = {**PLAIN, "groups": 2, "padding": ((1, 0), (2, 1))}
    g = standin.asarray(numpy_kernels.conv2d(x._held, weight._held, **options))
    call = {
        "conv_fprop": lambda: found.conv2d(x, weight, **options),
        "conv_dgrad": lambda: found.conv2d_input_gradient(g, weight, size=(6, 5), **options),
        "conv_wgrad": lambda: found.conv2d_weight_gradient(x, g, kernel=(3, 3), **options),
    }
    assert call[kind]() is None
    (graph,) = made
    (node,) = graph.nodes
    assert node.node_type.name == kind.upper()
    assert node.params["pre_padding"] == [1, 2]
    assert node.params["post_padding"] == [0, 1]
    (reason,) = found.refused.values()  # no graph is wrong: what is missing is a driver or the library
    assert "driver" in reason or "symbol" in reason or "libcudnn" in reason, reason


@settings(max_examples=25, deadline=None)
@given(g=geometries)
def test_columns_in_parts_give_what_they_give_at_once(g):
    x, weight, gy, options = drawn(g, np.float64)
    kernels = DeviceKernels(np, None)
    before = device_kernels.WORKSPACE
    try:
        device_kernels.WORKSPACE = 1  # one sample at a time
        assert len(kernels._parts(g["n"], 100)) == g["n"]
        found = (
            kernels.conv2d(x, weight, **options),
            kernels.conv2d_input_gradient(gy, weight, size=g["size"], **options),
            kernels.conv2d_weight_gradient(x, gy, kernel=g["kernel"], **options),
        )
    finally:
        device_kernels.WORKSPACE = before
    expected = (
        numpy_kernels.conv2d(x, weight, **options),
        numpy_kernels.conv2d_input_gradient(gy, weight, size=g["size"], **options),
        numpy_kernels.conv2d_weight_gradient(x, gy, kernel=g["kernel"], **options),
    )
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)
