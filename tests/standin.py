"""A strict stand-in for CuPy on NumPy: a second array library for machines without a GPU.

It is as strict as CuPy and stricter: arrays never turn into NumPy arrays by themselves, operands of both kinds do not
mix, reductions give arrays without axes instead of numbers, `empty` is filled with NaN, and every look at a value from
the host counts as a wait for the device, which can be forbidden.
"""

import math
import sys
from contextlib import contextmanager, nullcontext

import numpy as np
import standin_graph
from cuda_on_cpu import COMPILER, CpuModule

from tinygrad_cnn.backend.cuda_kernels import CudaKernels
from tinygrad_cnn.backend.device import Backend, register
from tinygrad_cnn.backend.device_kernels import DeviceKernels

waits = 0
_forbidden = False
pool = None  # that of a recording engine at work; None is the memory of everybody


class WaitError(RuntimeError):
    """The host looked at a value of the device where this was forbidden."""


@contextmanager
def no_waiting():
    """Forbid looking at values from the host, as while a CUDA graph is captured."""
    global _forbidden
    before, _forbidden = _forbidden, True
    try:
        yield
    finally:
        _forbidden = before


def _waited(what):
    global waits
    waits += 1
    standin_graph.forbid(what)
    if _forbidden:
        raise WaitError(f"{what} waits for the device")


class Array:
    """A device array. What NumPy would do by itself (convert, compare, mix) raises."""

    __slots__ = ("__weakref__", "_held")
    __array_ufunc__ = None
    __hash__ = None

    def __init__(self, held):
        standin_graph.forbid("an array was made")
        self._held = np.asarray(held)

    def __array__(self, *args, **kwargs):
        raise TypeError("no implicit conversion to a NumPy array; use to_host")

    def __array_function__(self, function, *args):
        raise TypeError(f"numpy.{function.__name__} got a device array")

    @property
    def base(self):
        return None

    def __len__(self):
        return len(self._held)

    def __iter__(self):
        return (Array(v) for v in self._held)

    def __getitem__(self, index):
        return Array(self._held[_inner(index)])

    def __setitem__(self, index, value):
        self._held[_inner(index)] = _inner(value)

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        if name in ("item", "tolist"):
            _waited(name)
            return getattr(self._held, name)
        return _outer(getattr(self._held, name))

    def __bool__(self):
        _waited("bool()")
        return bool(self._held)

    def __int__(self):
        _waited("int()")
        return int(self._held)

    def __float__(self):
        _waited("float()")
        return float(self._held)

    def __repr__(self):
        return f"standin.Array({self._held!r})"


def _define_operators():
    binary = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor")
    for name in (*binary, "lt", "le", "gt", "ge", "eq", "ne"):
        for kind in ("", "r", "i") if name in binary else ("",):
            method = f"__{kind}{name}__"

            def operate(self, other, method=method, in_place=kind == "i"):
                result = getattr(self._held, method)(_inner(other))
                if result is NotImplemented:
                    return result
                if in_place:
                    self._held = result
                    return self
                return Array(result)

            setattr(Array, method, operate)
    for name in ("neg", "pos", "abs", "invert"):
        setattr(Array, f"__{name}__", lambda self, method=f"__{name}__": Array(getattr(self._held, method)()))


_define_operators()


def _inner(value):
    if isinstance(value, Array):
        return value._held
    if isinstance(value, np.ndarray):
        raise TypeError("a NumPy array met a device array; bring it over with asarray")
    if isinstance(value, (tuple, list)):
        return type(value)(_inner(v) for v in value)
    if isinstance(value, dict):
        return {k: _inner(v) for k, v in value.items()}
    return value


def _outer(value):
    if isinstance(value, (np.ndarray, np.generic)):
        return Array(value)
    if isinstance(value, (tuple, list)) and any(isinstance(v, np.ndarray) for v in value):
        return type(value)(_outer(v) for v in value)
    if callable(value) and not isinstance(value, type):
        return lambda *args, **kwargs: _outer(value(*_inner(args), **_inner(kwargs)))
    return value


def asarray(values, dtype=None):
    held = values._held if isinstance(values, Array) else np.asarray(values)
    return values if isinstance(values, Array) and dtype in (None, held.dtype) else Array(np.array(held, dtype=dtype))


class _Ufunc:
    """A function that also has `at`, as `add.at`."""

    def __init__(self, function):
        self._function = function

    def __call__(self, *args, **kwargs):
        return _outer(self._function(*_inner(args), **_inner(kwargs)))

    def at(self, target, index, values):
        self._function.at(target._held, _inner(index), _inner(values))


class Module:
    """The array module: NumPy's functions on device arrays."""

    __name__ = "standin"

    def asarray(self, values, dtype=None):
        return asarray(values, dtype)

    def array(self, values, dtype=None, copy=True, subok=False, order="K"):
        return Array(np.array(asarray(values, dtype)._held, copy=True, order=order))

    def empty(self, shape, dtype=float):
        held = np.empty(shape, dtype)
        held.fill(np.nan if held.dtype.kind == "f" else 97)
        return Array(held)

    def zeros(self, shape, dtype=float):
        return Array(np.zeros(shape, dtype) if pool is None else pool.allocate(shape, dtype, 0))

    @property
    def ogrid(self):
        class Grid:
            def __getitem__(self, key):
                return [Array(g) for g in np.ogrid[key]]

        return Grid()

    def __getattr__(self, name):
        value = getattr(np, name)
        if isinstance(value, np.ufunc):
            return _Ufunc(value)
        return _outer(value)


class Generator:
    """Random numbers, made by NumPy and brought over."""

    def __init__(self, seed):
        self._inner = np.random.Generator(np.random.PCG64(seed))

    def __getattr__(self, name):
        value = getattr(self._inner, name)
        return _outer(value) if callable(value) else value


def to_host(array):
    if isinstance(array, np.ndarray):
        return array
    _waited("to_host")
    return array._held.copy()


xp = Module()


def _erf(x):
    return Array(np.vectorize(math.erf, otypes=[x.dtype])(x._held))


_raw_module = standin_graph.Modules(CpuModule, lambda a: a._held if isinstance(a, Array) else a)


def _engine(index):
    return standin_graph.Engine(sys.modules[__name__])


# With a C++ compiler the kernels in CUDA C run too, each thread as a fiber; without one, the generic table serves.
_kernels = CudaKernels(xp, _erf, _raw_module, _engine) if COMPILER else DeviceKernels(xp, _erf)


def install():
    """Make the device "standin" known."""
    register(
        Backend(
            kind="standin",
            array_type=Array,
            xp=xp,
            kernels=lambda: _kernels,
            asarray=lambda values, dtype, index: asarray(values, dtype),
            to_host=to_host,
            make_generator=lambda seed, index: Generator(seed),
            count=lambda: 1,
            context=lambda index: nullcontext(),
            synchronize=lambda index: None,
            index_of=lambda array: 0,
        )
    )
