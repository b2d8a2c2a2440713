"""A strict stand-in for CuPy on NumPy: a second array library for machines without a GPU.

It is as strict as CuPy and stricter: arrays never turn into NumPy arrays by themselves, operands of both kinds do not
mix, reductions give arrays without axes instead of numbers, `empty` is filled with NaN, and every look at a value from
the host counts as a wait for the device, which can be forbidden. Functions, methods and parameters that CuPy does not
have are refused (fixtures/cupy_names.json tells which it has), and so is what it would do otherwise than NumPy.
"""

import inspect
import json
import math
import sys
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import standin_graph
from cuda_on_cpu import COMPILER, CpuModule

from tinygrad_cnn.backend.cuda_kernels import CudaKernels
from tinygrad_cnn.backend.device import Backend, register
from tinygrad_cnn.backend.device_kernels import DeviceKernels

# The names that CuPy offers, with their parameters; written by fixtures/make_cupy_names.py.
NAMES = json.loads((Path(__file__).parent / "fixtures" / "cupy_names.json").read_text(encoding="utf-8"))
# What finds out how large its result is has to wait for the device.
_SIZED_BY_VALUES = {"nonzero", "flatnonzero", "argwhere", "unique", "compress", "extract", "count_nonzero"}
# Element types that `add.at` takes, and operations that reduce or accumulate.
_ATOMIC = {"int32", "int64", "uint32", "uint64", "float16", "float32", "float64"}
_REDUCING = {"add", "multiply"}

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


_HERE = Path(__file__).resolve()
_TESTS = str(_HERE.parent)
_NOT_TESTS = (str(_HERE), str(_HERE.parent / "cuda_on_cpu"))
_PACKAGE = (str(_HERE.parent.parent / "tinygrad_cnn"), str(_HERE.parent.parent / "viz"))


def asked_by_a_test():
    """Return whether the code that asks is that of a test, which may look at values as it likes, or the package's."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(_PACKAGE):
            return False
        if name.startswith(_TESTS) and not name.startswith(_NOT_TESTS):
            return True
        frame = frame.f_back
    return False


class _DEVICE:
    id = 0


class Array:
    """A device array. What NumPy would do by itself (convert, compare, mix) raises, unless a test wants to compare."""

    __slots__ = ("__weakref__", "_held")
    __hash__ = None

    def __init__(self, held):
        standin_graph.forbid("an array was made")
        self._held = np.asarray(held)
        kind = self._held.dtype
        if (kind.kind not in "fiubc" and kind.name != "bfloat16") or kind.itemsize > 16 or not kind.isnative:
            raise TypeError(f"a device array cannot hold {kind}")

    def __array__(self, dtype=None, copy=None):
        if not asked_by_a_test():
            raise TypeError("no implicit conversion to a NumPy array; use to_host")
        return np.array(self._held, dtype)

    def __array_function__(self, function, types, args, kwargs):
        if not asked_by_a_test():
            raise TypeError(f"numpy.{function.__name__} got a device array")
        return function(*_on_host(args), **_on_host(kwargs))

    def __array_ufunc__(self, ufunc, method, *args, **kwargs):
        if not asked_by_a_test():
            raise TypeError(f"numpy.{ufunc.__name__} got a device array")
        return getattr(ufunc, method)(*_on_host(args), **_on_host(kwargs))

    @property
    def base(self):
        return None

    def __len__(self):
        return len(self._held)

    def __iter__(self):
        return (Array(v) for v in self._held)

    def __getitem__(self, index):
        index = _inner(index)
        _look_at_masks(index)
        return Array(self._held[index])

    def __setitem__(self, index, value):
        index, value = _inner(index), _inner(value)
        if np.size(value) > 1 and any(isinstance(i, (list, np.ndarray)) for i in _parts(index)):
            places = np.arange(self._held.size).reshape(self._held.shape)[index]
            if len(np.unique(places)) < places.size:
                raise ValueError("an element is assigned twice; which value stays is not defined on a device")
        self._held[index] = value

    def __getattr__(self, name):
        functions = NAMES["array"]["functions"]
        if name.startswith("__") or (name not in functions and name not in NAMES["array"]["values"]):
            raise AttributeError(f"CuPy's arrays have no {name}")
        if name in ("item", "tolist") or name in _SIZED_BY_VALUES:
            _waited(name)
        value = getattr(self._held, name)
        if name in ("item", "tolist"):
            return value
        return _checked(f"array.{name}", value, functions[name]) if name in functions else _outer(value)

    def __bool__(self):
        _waited("bool()")
        return bool(self._held)

    def __int__(self):
        _waited("int()")
        return int(self._held)

    def __float__(self):
        _waited("float()")
        return float(self._held)

    @property
    def device(self):
        return _DEVICE

    def get(self):
        """The array on the host, under CuPy's name for it."""
        return to_host(self)

    def __repr__(self):
        return f"standin.Array({self._held!r})"


def _define_operators():
    binary = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor")
    for name in (*binary, "lt", "le", "gt", "ge", "eq", "ne"):
        for kind in ("", "r", "i") if name in binary else ("",):
            method = f"__{kind}{name}__"

            def operate(self, other, method=method, in_place=kind == "i"):
                if hasattr(other, "__array_ufunc__") and not isinstance(other, (Array, np.ndarray, np.generic)):
                    return NotImplemented  # a tensor decides itself
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


def _parts(index):
    return index if isinstance(index, tuple) else (index,)


def _look_at_masks(index):
    """A mask gives as many elements as it holds, which only a look at it tells."""
    if any(getattr(getattr(i, "dtype", None), "kind", "") == "b" and np.ndim(i) for i in _parts(index)):
        _waited("an index by a mask")


def _signature(parameters):
    kinds = inspect.Parameter
    kind, optional, made = kinds.POSITIONAL_OR_KEYWORD, False, []
    for text in parameters:
        name = text.strip("*=")
        if name == "self":
            continue
        if text.startswith("**"):
            made.append(kinds(name, kinds.VAR_KEYWORD))
        elif text.startswith("*"):
            made.append(kinds(name, kinds.VAR_POSITIONAL))
            kind = kinds.KEYWORD_ONLY
        else:
            optional = optional or text.endswith("=")
            made.append(kinds(name, kind, default=None if optional else kinds.empty))
    return inspect.Signature(made)


def _checked(name, function, parameters):
    """Return NumPy's function on device arrays, called only as CuPy's can be called."""
    signature = _signature(parameters)

    def call(*args, **kwargs):
        try:
            signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"CuPy's {name}{signature} cannot be called like that: {error}") from error
        return _outer(function(*_inner(args), **_inner(kwargs)))

    return call


def _on_host(value):
    """Return a value with all device arrays in it as NumPy arrays."""
    if isinstance(value, Array):
        return value._held
    if isinstance(value, (tuple, list)):
        return type(value)(_on_host(v) for v in value)
    if isinstance(value, dict):
        return {k: _on_host(v) for k, v in value.items()}
    return value


def _inner(value):
    if isinstance(value, Array):
        return value._held
    if isinstance(value, np.ndarray) and not asked_by_a_test():
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
    same = dtype is None or np.dtype(dtype) == held.dtype
    return values if isinstance(values, Array) and same else Array(np.array(held, dtype=dtype))


class _Ufunc:
    """A function of elements, with what CuPy's have beside the call."""

    def __init__(self, function):
        self._function = function

    def __call__(self, *args, **kwargs):
        unknown = kwargs.keys() - {"out", "dtype", "casting"}
        if unknown:
            raise TypeError(f"CuPy's {self._function.__name__} takes no {unknown}")
        inner = _inner(kwargs)
        result = self._function(*_inner(args), **inner)
        return kwargs["out"] if kwargs.get("out") is not None else _outer(result)

    def at(self, target, index, values):
        if self._function.__name__ not in ("add", "subtract", "maximum", "minimum") or str(target.dtype) not in _ATOMIC:
            raise TypeError(f"CuPy's {self._function.__name__}.at does not take {target.dtype}")
        self._function.at(target._held, _inner(index), _inner(values))

    def _reducing(self, kind):
        if self._function.__name__ not in _REDUCING:
            raise NotImplementedError(f"CuPy's {self._function.__name__}.{kind} is not supported")
        return _outer(getattr(self._function, kind))

    @property
    def reduce(self):
        return self._reducing("reduce")

    @property
    def accumulate(self):
        return self._reducing("accumulate")


class _Part:
    """A part of the array module: what CuPy has of it."""

    def __init__(self, names, numpy):
        self._names, self._numpy = names, numpy

    def __getattr__(self, name):
        value = getattr(self._numpy, name)
        if name in self._names["functions"]:
            function = _checked(name, value, self._names["functions"][name])
            if name in _SIZED_BY_VALUES:
                _waited(name)
            return function
        if name in self._names["ufuncs"]:
            return _Ufunc(value)
        if name in self._names["values"]:
            return value
        raise AttributeError(f"CuPy has no {name}")


class _Lib:
    stride_tricks = _Part(NAMES["stride_tricks"], np.lib.stride_tricks)


class Module(_Part):
    """The array module: NumPy's functions on device arrays, as far as CuPy has them."""

    __name__ = "standin"
    linalg = _Part(NAMES["linalg"], np.linalg)
    lib = _Lib()

    def __init__(self):
        super().__init__(NAMES["module"], np)

    def asarray(self, values, dtype=None):
        return asarray(values, dtype)

    def array(self, values, dtype=None, copy=True, subok=False, order="K"):
        return Array(np.array(asarray(values, dtype)._held, copy=True, order=order))

    def empty(self, shape, dtype=float):
        held = np.empty(shape, dtype)
        held.fill(np.nan if held.dtype.kind in "fV" else 97)
        return Array(held)

    def zeros(self, shape, dtype=float):
        return Array(np.zeros(shape, dtype) if pool is None else pool.allocate(shape, dtype, 0))

    def where(self, condition, *values):
        if not values:
            _waited("where without values")
        return _outer(np.where(_inner(condition), *_inner(values)))

    @property
    def ogrid(self):
        class Grid:
            def __getitem__(self, key):
                return [Array(g) for g in np.ogrid[key]]

        return Grid()


class Generator:
    """Random numbers, made by NumPy and brought over. As with CuPy's, the state of its bits has no public name."""

    def __init__(self, seed):
        self._inner = np.random.Generator(np.random.PCG64(seed))

    def __getattr__(self, name):
        if name not in NAMES["generator"]["functions"]:
            raise AttributeError(f"CuPy's generators have no {name}")
        return _checked(f"Generator.{name}", getattr(self._inner, name), NAMES["generator"]["functions"][name])


def _set_generator_state(generator, state):
    generator._inner.bit_generator.state = state


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


_generic = DeviceKernels(xp, _erf)
_own = CudaKernels(xp, _erf, _raw_module, _engine) if COMPILER else _generic
_kernels = _own


def use_own_kernels(wanted):
    """Choose between the kernels in CUDA C, run where a C++ compiler is, each thread as a fiber, and the generic table.

    The first take seconds for what the second does in milliseconds.
    """
    global _kernels
    _kernels = _own if wanted else _generic


entered = []  # numbers of the devices that were made the current one


def _entered(index):
    entered.append(index)
    return nullcontext()


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
            context=_entered,
            synchronize=lambda index: None,
            index_of=lambda array: 0,
            generator_state=lambda generator: dict(generator._inner.bit_generator.state),
            set_generator_state=_set_generator_state,
        )
    )


def made_there(made):
    """Return `Tensor.made` such that a test which wraps a NumPy array gets a tensor on the stand-in."""

    def wrap(cls, array, *rest):
        if isinstance(array, np.ndarray) and asked_by_a_test():
            array = asarray(array)
        return made.__func__(cls, array, *rest)

    return classmethod(wrap)
