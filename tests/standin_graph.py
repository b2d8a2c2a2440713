"""A stand-in for CUDA graphs: capture notes launches by their addresses alone, and a replay launches exactly those.

It is stricter than a GPU. While it captures, nothing runs, nothing may be allocated and nobody may look at a value.
What a launch reads and writes is kept as an address, as a graph does, and a replay fails if the memory there was given
back in the meantime, where a GPU would compute with whatever stands there now. Memory of an engine's pool is filled
with NaN when it is given back.
"""

import ctypes
import weakref
from contextlib import contextmanager

import ml_dtypes
import numpy as np

capturing = None  # the list of launches of the capture under way
launches = []  # names of all kernels that ran one by one, for tests that count them


class CaptureError(RuntimeError):
    """Something that cannot be captured, or a graph that reads memory which was given back."""


def forbid(what):
    """Raise an error while a graph is captured."""
    if capturing is not None:
        raise CaptureError(f"{what} while a graph is captured")


def owner_of(held):
    while isinstance(held.base, np.ndarray):
        held = held.base
    return held


class _Frozen:
    """The arguments of a launch as a graph keeps them: addresses and numbers."""

    def __init__(self, arguments):
        self._owners, self.values = [], []
        for a in arguments:
            if isinstance(a, np.ndarray):
                if not a.flags.c_contiguous:
                    raise CaptureError("an array that is not contiguous")
                self._owners.append(weakref.ref(owner_of(a)))
                self.values.append((a.ctypes.data, a.shape, a.dtype))
            else:
                self.values.append(a)

    def thaw(self):
        if any(owner() is None for owner in self._owners):
            raise CaptureError("the graph reads memory that was given back")
        return [_at(*v) if isinstance(v, tuple) else v for v in self.values]


def _at(address, shape, dtype):
    size = int(np.prod(shape, dtype=int)) * dtype.itemsize
    return np.frombuffer((ctypes.c_char * size).from_address(address), dtype).reshape(shape)


class Modules:
    """Compiles kernels, and hands launches to the capture under way instead of running them."""

    def __init__(self, make, unwrap):
        self._make, self._unwrap = make, unwrap

    def __call__(self, code, options=()):
        module, unwrap = self._make(code, options), self._unwrap

        class Watched:
            def get_function(self, name):
                function = module.get_function(name)

                def run(grid, block, arguments):
                    arguments = [unwrap(a) for a in arguments]
                    if capturing is None:
                        launches.append(name)
                        function(grid, block, arguments)
                    else:
                        frozen = _Frozen(arguments)
                        capturing.append((name, lambda: function(grid, block, frozen.thaw())))

                return run

        return Watched()


class Pool:
    """Memory that is NaN until it is written to, and NaN again after it was given back."""

    def allocate(self, shape, dtype, fill):
        dtype = np.dtype(dtype)
        size = int(np.prod(shape, dtype=int)) * dtype.itemsize
        memory = (ctypes.c_char * max(size, 1))()
        held = np.frombuffer(memory, np.uint8)
        weakref.finalize(held, ctypes.memset, memory, 255, size).atexit = False
        result = held[:size].view(dtype).reshape(shape)
        result.flags.writeable = True
        if fill is not None:
            result[...] = fill
        return result


class Engine:
    """What `cuda_graph.Engine` is on a GPU; `standin` is the module of the stand-in device."""

    def __init__(self, standin):
        self._standin, self.pool, self.inside = standin, Pool(), False
        self.graphs = []  # names of the launches of every graph

    @contextmanager
    def working(self):
        if self.inside:
            raise CaptureError("the stream is in use already")
        before, self._standin.pool, self.inside = self._standin.pool, self.pool, True
        try:
            yield
        finally:
            self._standin.pool, self.inside = before, False

    def record(self, calls):
        global capturing
        if not self.inside:
            raise CaptureError("capture on a stream that is not the current one")
        capturing = taken = []
        try:
            for call in calls:
                call()
        finally:
            capturing = None
        self.graphs.append([name for name, _ in taken])

        def launch():
            if not self.inside:
                raise CaptureError("launch on a stream that is not ordered after the caller's")
            for _, run in taken:
                run()

        return launch

    def product(self, a, b, out, *, kind, result, turn_a=False, turn_b=False):
        arrays = [x._held for x in (a, b, out)]
        if capturing is not None:
            frozen = _Frozen(arrays)
            capturing.append(("product", lambda: _product(*frozen.thaw(), kind, result, turn_a, turn_b)))
        else:
            launches.append("product")
            _product(*arrays, kind, result, turn_a, turn_b)


_TYPES = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float32": np.float32, "float64": np.float64}


def _product(a, b, out, kind, result, turn_a, turn_b):
    """Multiply in float32, or float64 for that, and round to the type of the result, as cuBLAS does."""
    wide = np.float64 if kind == "float64" else np.float32
    a, b = (x.view(_TYPES[kind]).astype(wide) for x in (a, b))
    out.view(_TYPES[result])[...] = (a.T if turn_a else a) @ (b.T if turn_b else b)
