"""The calls to CUDA of a recorded step, on a driver that notes them: their order, and what cuBLAS is asked for.

What a real driver does with them no test here can say.
"""

import ctypes
import importlib
import sys
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace

import ml_dtypes
import numpy as np
import pytest

from tinygrad_cnn.errors import DeviceError

TYPES = {0: np.float32, 1: np.float64, 2: np.float16, 14: ml_dtypes.bfloat16}  # cudaDataType_t


class Driver:
    """Notes calls; its streams, events, pools and devices are names."""

    def __init__(self):
        self.calls, self.current, self.held = [], "outer", []

    def module(self):
        driver = self

        class Stream:
            def __init__(self, non_blocking=False, name="own"):
                self.name, self.ptr, self.non_blocking = name, 77, non_blocking

            def record(self, event):
                driver.calls.append(f"{self.name} records {event.name}")

            def wait_event(self, event):
                driver.calls.append(f"{self.name} waits for {event.name}")

            def __enter__(self):
                driver.calls.append(f"on {self.name}")

            def __exit__(self, *_):
                driver.calls.append(f"off {self.name}")

            def begin_capture(self):
                driver.calls.append("capture")

            def end_capture(self):
                driver.calls.append("captured")
                return SimpleNamespace(launch=lambda stream: driver.calls.append(f"launch on {stream.name}"))

        class Event:
            def __init__(self, disable_timing=False):
                assert disable_timing
                self.name = f"event {len(driver.held)}"
                driver.held.append(self)

        class MemoryPool:
            def malloc(self, size):
                driver.calls.append(f"malloc {size}")
                return SimpleNamespace(ptr=4096)

        @contextmanager
        def noted(name):
            driver.calls.append(name)
            yield

        outer = Stream(name="outer")
        cuda = SimpleNamespace(
            Stream=Stream, Event=Event, MemoryPool=MemoryPool, Device=lambda index: noted(f"device {index}"),
            using_allocator=lambda allocator: noted("own memory"), get_current_stream=lambda: outer,
        )  # fmt: skip
        found = ModuleType("cupy")
        found.cuda = cuda
        return found


class Library:
    """cuBLAS in NumPy: column by column, as it counts."""

    def __init__(self, calls, status=0):
        self._calls, self._status = calls, status
        self.cublasGemmEx = self.Product()

    class Product:
        argtypes = None

        def __call__(self, handle, turn_a, turn_b, m, n, k, alpha, a, kind_a, lda, b, kind_b, ldb, beta, c, kind_c, ldc,
                     compute, algorithm):  # fmt: skip
            assert handle == 5
            assert algorithm == -1
            assert len(self.argtypes) == 19
            double = kind_a == 1
            assert compute == (70 if double else 68)
            number = ctypes.c_double if double else ctypes.c_float
            assert number.from_address(alpha).value == 1
            assert number.from_address(beta).value == 0
            left = self._matrix(a, kind_a, lda, m if turn_a else k)
            right = self._matrix(b, kind_b, ldb, k if turn_b else n)
            left = (left.T if turn_a else left)[:m, :k].astype(np.float64)
            right = (right.T if turn_b else right)[:k, :n].astype(np.float64)
            self._matrix(c, kind_c, ldc, n)[:m] = left @ right
            return 0

        @staticmethod
        def _matrix(address, kind, rows, columns):
            dtype = np.dtype(TYPES[kind])
            memory = (ctypes.c_char * (rows * columns * dtype.itemsize)).from_address(address)
            return np.frombuffer(memory, dtype).reshape(columns, rows).T

    def cublasCreate_v2(self, handle):  # noqa: N802
        handle._obj.value = 5
        return self._status

    def cublasSetStream_v2(self, handle, stream):  # noqa: N802
        self._calls.append(f"handle {handle.value} on stream {stream.value}")
        return 0

    def cublasSetWorkspace_v2(self, handle, memory, size):  # noqa: N802
        self._calls.append(f"workspace {memory.value} of {size.value}")
        return 0

    def cublasDestroy_v2(self, handle):  # noqa: N802
        return 0


@pytest.fixture
def driver(monkeypatch):
    found = Driver()
    monkeypatch.setitem(sys.modules, "cupy", found.module())
    monkeypatch.delitem(sys.modules, "tinygrad_cnn.backend.cuda_graph", raising=False)
    found.code = importlib.import_module("tinygrad_cnn.backend.cuda_graph")
    monkeypatch.setattr(found.code, "_cublas", lambda: Library(found.calls))
    yield found
    sys.modules.pop("tinygrad_cnn.backend.cuda_graph", None)


def test_work_is_ordered_after_what_the_caller_queued_and_before_what_follows(driver):
    engine = driver.code.Engine(1)
    assert engine.stream.non_blocking
    driver.calls.clear()
    with engine.working():
        driver.calls.append("work")
    assert driver.calls == [
        "device 1", "outer records event 0", "own waits for event 0", "own memory", "on own", "work", "off own",
        "own records event 1", "outer waits for event 1",
    ]  # fmt: skip


def test_the_caller_waits_for_work_that_failed_too(driver):
    engine = driver.code.Engine(0)
    with pytest.raises(ZeroDivisionError), engine.working():
        raise ZeroDivisionError
    assert driver.calls[-2:] == ["own records event 1", "outer waits for event 1"]


def test_calls_are_captured_once_and_launched_on_the_own_stream(driver):
    engine = driver.code.Engine(0)
    driver.calls.clear()
    with engine.working():
        replay = engine.record([lambda: driver.calls.append("one"), lambda: driver.calls.append("two")])
        replay()
        replay()
    start = driver.calls.index("capture")
    assert driver.calls[start : start + 6] == ["capture", "one", "two", "captured", "launch on own", "launch on own"]


def test_a_capture_that_fails_is_ended(driver):
    engine = driver.code.Engine(0)

    def fail():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        engine.record([fail])
    assert driver.calls[-1] == "captured"


class Matrix:
    def __init__(self, values):
        self.values, self.shape = np.ascontiguousarray(values), values.shape
        self.data = SimpleNamespace(ptr=self.values.ctypes.data)


@pytest.mark.parametrize("kind", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize(("turn_a", "turn_b"), [(False, False), (True, False), (False, True)])
def test_products_are_those_of_matrices_that_count_along_rows(driver, kind, turn_a, turn_b):
    engine, rng = driver.code.Engine(0), np.random.default_rng(0)
    dtype = np.dtype(getattr(ml_dtypes, kind, kind))
    a, b = rng.integers(-3, 4, (5, 7)).astype(dtype), rng.integers(-3, 4, (7, 4)).astype(dtype)
    for result in {kind, "float32" if kind != "float64" else kind}:
        out = Matrix(np.full((5, 4), 9, np.dtype(getattr(ml_dtypes, result, result))))
        engine.product(
            Matrix(a.T if turn_a else a), Matrix(b.T if turn_b else b), out, kind=kind, result=result, turn_a=turn_a,
            turn_b=turn_b,
        )  # fmt: skip
        np.testing.assert_array_equal(out.values.astype(float), a.astype(float) @ b.astype(float))


def test_cublas_gets_its_workspace_after_its_stream_which_would_take_it_away(driver):
    engine = driver.code.Engine(0)
    driver.calls.clear()
    one = Matrix(np.ones((2, 2), "float32"))
    for _ in range(2):
        engine.product(one, one, Matrix(np.ones((2, 2), "float32")), kind="float32", result="float32")
    size = 32 << 20
    assert driver.calls == ["handle 5 on stream 77", f"malloc {size}", f"workspace 4096 of {size}"]


def test_an_error_of_cublas_is_named(driver, monkeypatch):
    monkeypatch.setattr(driver.code, "_cublas", lambda: Library(driver.calls, status=3))
    one = Matrix(np.ones((2, 2), "float32"))
    with pytest.raises(DeviceError, match="cublasCreate_v2 failed with status 3"):
        driver.code.Engine(0).product(one, one, one, kind="float32", result="float32")
