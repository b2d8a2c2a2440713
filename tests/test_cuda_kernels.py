"""The kernels in CUDA C, compiled for the CPU, against those of NumPy; and compiled for real GPUs where nvcc is."""

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import nvrtc
import pytest
from cuda_on_cpu import COMPILER, BarrierError, CpuModule
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygrad_cnn.backend import cuda_kernels, numpy_kernels
from tinygrad_cnn.backend.device_program import _ConvolutionPlan
from tinygrad_cnn.backend.fused import Convolution

needs_compiler = pytest.mark.skipif(COMPILER is None, reason="g++ is not installed")
SOURCE = Path(cuda_kernels.__file__).with_name("kernels.cu")


@pytest.fixture(scope="module")
def kernels():
    return cuda_kernels.CudaKernels(np, None, CpuModule)


class Counting:
    """A compiler of kernels that notes which of them ran."""

    def __init__(self):
        self.ran = []

    def __call__(self, code, options=()):
        module = CpuModule(code, options)
        outer = self

        class Watched:
            def get_function(self, name):
                outer.ran.append(name)
                return module.get_function(name)

        return Watched()


geometries = st.fixed_dictionaries(
    {
        "n": st.integers(1, 3),
        "c": st.integers(1, 3),
        "o": st.integers(1, 3),
        "groups": st.integers(1, 2),
        "size": st.tuples(st.integers(5, 8), st.integers(5, 8)),
        "kernel": st.tuples(st.integers(1, 3), st.integers(1, 3)),
        "stride": st.tuples(st.integers(1, 3), st.integers(1, 2)),
        "dilation": st.tuples(st.integers(1, 2), st.integers(1, 2)),
        "padding": st.tuples(*[st.tuples(st.integers(0, 2), st.integers(0, 2))] * 2),
        "dtype": st.sampled_from([np.float32, np.float64]),
        "seed": st.integers(0, 99),
    }
)


@needs_compiler
@settings(max_examples=40, deadline=None)
@given(g=geometries)
def test_convolution_and_both_gradients_equal_those_of_numpy(kernels, g):
    rng = np.random.default_rng(g["seed"])
    groups = g["groups"]
    x = rng.normal(size=(g["n"], g["c"] * groups, *g["size"])).astype(g["dtype"])
    weight = rng.normal(size=(g["o"] * groups, g["c"], *g["kernel"])).astype(g["dtype"])
    bias = rng.normal(size=g["o"] * groups).astype(g["dtype"])
    geometry = {"stride": g["stride"], "padding": g["padding"], "dilation": g["dilation"], "groups": groups}
    tolerance = {"rtol": 1e-4, "atol": 1e-4} if g["dtype"] is np.float32 else {"rtol": 1e-10, "atol": 1e-10}
    y = numpy_kernels.conv2d(x, weight, bias, **geometry)
    np.testing.assert_allclose(kernels.conv2d(x, weight, bias, **geometry), y, **tolerance)
    gy = rng.normal(size=y.shape).astype(g["dtype"])
    np.testing.assert_allclose(
        kernels.conv2d_input_gradient(gy, weight, size=g["size"], **geometry),
        numpy_kernels.conv2d_input_gradient(gy, weight, size=g["size"], **geometry),
        **tolerance,
    )
    np.testing.assert_allclose(
        kernels.conv2d_weight_gradient(x, gy, kernel=g["kernel"], **geometry),
        numpy_kernels.conv2d_weight_gradient(x, gy, kernel=g["kernel"], **geometry),
        **tolerance,
    )


@needs_compiler
@settings(max_examples=30, deadline=None)
@given(g=geometries, ties=st.sampled_from(["first", "split"]), special=st.booleans())
def test_max_pooling_and_its_gradient_equal_those_of_numpy(kernels, g, ties, special):
    rng = np.random.default_rng(g["seed"])
    x = rng.integers(-2, 2, size=(g["n"], g["c"], *g["size"])).astype(g["dtype"])  # whole numbers tie often
    if special:
        x.reshape(-1)[rng.integers(0, x.size, size=3)] = [np.nan, -np.inf, np.inf]
    padding = tuple(
        (min(a, d * (k - 1) // 2), min(b, d * (k - 1) // 2))
        for (a, b), k, d in zip(g["padding"], g["kernel"], g["dilation"], strict=True)
    )
    geometry = {"kernel": g["kernel"], "stride": g["stride"], "padding": padding, "dilation": g["dilation"]}
    output = tuple(
        (n + sum(p) - d * (k - 1) - 1) // s + 1
        for n, p, d, k, s in zip(g["size"], padding, g["dilation"], g["kernel"], g["stride"], strict=True)
    )
    y = numpy_kernels.max_pool2d(x, output=output, **geometry)
    np.testing.assert_array_equal(kernels.max_pool2d(x, output=output, **geometry), y)
    gy = rng.normal(size=y.shape).astype(g["dtype"])
    np.testing.assert_allclose(
        kernels.max_pool2d_input_gradient(gy, x, y, ties=ties, **geometry),
        numpy_kernels.max_pool2d_input_gradient(gy, x, y, ties=ties, **geometry),
        rtol=1e-5,
        atol=1e-6,
    )


@needs_compiler
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_softmax_cross_entropy_equals_that_of_numpy_for_huge_logits_too(kernels, dtype):
    rng = np.random.default_rng(0)
    logits = (rng.normal(size=(300, 10)) * 100).astype(dtype)
    labels = rng.integers(0, 10, size=300)
    losses, log_p = kernels.softmax_cross_entropy(logits, labels)
    expected = numpy_kernels.softmax_cross_entropy(logits, labels)
    np.testing.assert_allclose(losses, expected[0], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(log_p, expected[1], rtol=1e-4, atol=1e-4)
    g = rng.normal(size=300).astype(dtype)
    np.testing.assert_allclose(
        kernels.softmax_cross_entropy_gradient(g, log_p, labels),
        numpy_kernels.softmax_cross_entropy_gradient(g, expected[1], labels),
        rtol=1e-3,
        atol=1e-5,
    )


@needs_compiler
def test_a_label_that_is_no_class_gives_a_nan(kernels):
    losses, _ = kernels.softmax_cross_entropy(np.zeros((3, 4), np.float32), np.array([0, 4, -1]))
    assert np.isnan(losses).tolist() == [False, True, True]


@needs_compiler
@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_adam_equals_that_of_numpy_over_ten_steps(kernels, dtype, decoupled):
    rng = np.random.default_rng(0)
    start = rng.normal(size=1000).astype(dtype)
    states = []
    for table in (kernels, numpy_kernels):
        p, m, v = start.copy(), np.zeros_like(start), np.zeros_like(start)
        grads = np.random.default_rng(1)
        for step in range(1, 11):
            g = grads.normal(size=1000).astype(dtype)
            table.adam_step(
                p, g, m, v, step=step, lr=1e-2, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.1, decoupled=decoupled
            )  # fmt: skip
        states.append(p)
    np.testing.assert_allclose(
        *states, rtol=1e-5 if dtype is np.float32 else 1e-12, atol=2e-6 if dtype is np.float32 else 0
    )


@needs_compiler
def test_small_convolutions_take_our_kernels_and_large_ones_the_matrix_product():
    compiler = Counting()
    table = cuda_kernels.CudaKernels(np, None, compiler)
    plain = {"stride": (1, 1), "padding": ((0, 0), (0, 0)), "dilation": (1, 1), "groups": 1}
    table.conv2d(np.ones((1, 6, 14, 14), np.float32), np.ones((16, 6, 5, 5), np.float32), **plain)
    assert compiler.ran == ["conv2d"]
    table.conv2d(np.ones((1, 64, 8, 8), np.float32), np.ones((8, 64, 3, 3), np.float32), **plain)
    assert compiler.ran == ["conv2d"]


@needs_compiler
def test_a_missing_barrier_is_found():
    text = SOURCE.read_text(encoding="utf-8")
    start = text.index("void conv2d_weight_gradient")
    loop = text.index("for (int half", start)
    broken = text[:loop].replace("part[t] = sum;\n        __syncthreads();", "part[t] = sum;") + text[loop:]
    assert broken != text
    rng = np.random.default_rng(0)
    x, g = rng.normal(size=(2, 1, 20, 20)), rng.normal(size=(2, 1, 18, 18))
    plain = {"kernel": (3, 3), "stride": (1, 1), "padding": ((0, 0), (0, 0)), "dilation": (1, 1), "groups": 1}
    right = numpy_kernels.conv2d_weight_gradient(x, g, **plain)
    worst = 0.0
    for seed in range(3):
        table = cuda_kernels.CudaKernels(
            np, None, lambda code, options, seed=seed: CpuModule(code.replace(text, broken), options, seed=seed)
        )
        worst = max(worst, float(np.abs(table.conv2d_weight_gradient(x, g, **plain) - right).max()))
    assert worst > 1e-3


@needs_compiler
def test_a_barrier_that_some_threads_never_reach_is_found():
    code = 'extern "C" __global__ void bad(int n) { if (threadIdx.x < n) __syncthreads(); }'
    with pytest.raises(BarrierError):
        CpuModule(code).get_function("bad")((1,), (32,), (np.int32(5),))


def by_nvcc(code, options, architecture):
    """Compile with nvcc, and return what the assembler says."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "kernels.cu"
        source.write_text(code, encoding="utf-8")
        flags = [f"-arch={architecture}", "-std=c++17", "-ftz=true", *options, "-cubin", "-Xptxas", "-v"]
        done = subprocess.run(
            ["nvcc", *flags, "-o", f"{folder}/out.cubin", str(source)], capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stderr
    return done.stderr


def texts():
    """Everything that is compiled for LeNet-5: the kernels of eager ops, of a step, and of its convolutions."""
    read = {p.name: p.read_text(encoding="utf-8") for p in SOURCE.parent.glob("*.cu")}
    for real in ("float", "double"):
        yield f"eager {real}", read["philox.cu"] + read["kernels.cu"], [f"-DREAL={real}"]
    first = Convolution(0, 1, (1, 6), (28, 28), (5, 5), (1, 1), ((2, 2), (2, 2)), (1, 1), True, (2, 2))
    second = Convolution(2, 3, (6, 16), (14, 14), (5, 5), (1, 1), ((0, 0), (0, 0)), (1, 1), True, (2, 2))
    for real, storage in (("float", 0), ("double", 0), ("float", 1), ("float", 2)):
        options = [f"-DREAL={real}", f"-DSTORAGE={storage}"]
        yield f"step {real} {storage}", read["program_types.cu"] + read["philox.cu"] + read["program.cu"], options
        for n in (64, 4096) if storage == 0 else (256,):
            for which, layer in enumerate((first, second)):
                plan = _ConvolutionPlan(layer, n, np.float32 if real == "float" else np.float64, which == 0)
                constants = [f"-D{name}={value}" for name, value in plan.constants.items()]
                code = read["program_types.cu"] + read["program_convolution.cu"]
                yield f"convolution {which} at {n}, {real} {storage}", code, options + constants


@pytest.mark.skipif(
    shutil.which("nvcc") is None and nvrtc.LIBRARY is None,
    reason="there is neither NVRTC (pip install nvidia-cuda-nvrtc) nor nvcc",
)
@pytest.mark.parametrize(
    ("architecture", "code", "options"),
    [
        pytest.param(architecture, code, options, id=f"{name}-{architecture}")
        for name, code, options in texts()
        for architecture in (("sm_90",) if "-DREAL=double" in options else ("sm_80", "sm_90", "sm_100"))
    ],
)
def test_the_kernels_compile_for_gpus_without_spilling_registers(architecture, code, options):
    # NVRTC is what CuPy uses: it knows no headers, and so nothing that nvcc quietly gets from them.
    said = (by_nvcc if nvrtc.LIBRARY is None else nvrtc.compiled)(code, options, architecture)
    spills = re.findall(r"(\d+) bytes spill (?:stores|loads)", said)
    assert spills, said
    assert all(int(s) == 0 for s in spills), said
