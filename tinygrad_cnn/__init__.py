"""tinygrad_cnn: understand, see and check how a convolutional network learns.

Tensors and their creation stand here; the parts `nn`, `optim`, `data`, `models`, `train`, `gradcheck`, `exercises` and
`viz` are imported when they are first used, so `import tinygrad_cnn` costs little more than `import numpy`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .backend import Device, float16, float32, float64, manual_seed, use_device
from .backend.dtypes import bfloat16 as _bfloat16
from .graph import enable_grad, no_grad
from .tensor import Tensor, arange, eye, from_dlpack, full, grad, ones, rand, randn, tensor, zeros

if TYPE_CHECKING:
    from . import amp, autodiff, data, errors, exercises, gradcheck, models, nn, ops, optim, train, viz
    from .anomaly import detect_anomaly
    from .captured import compile
    from .profiler import profile

__version__ = "0.1.0"

__all__ = [
    "Device",
    "Tensor",
    "amp",
    "arange",
    "autodiff",
    "compile",
    "data",
    "detect_anomaly",
    "enable_grad",
    "errors",
    "exercises",
    "eye",
    "float16",
    "float32",
    "float64",
    "from_dlpack",
    "full",
    "grad",
    "gradcheck",
    "manual_seed",
    "models",
    "nn",
    "no_grad",
    "ones",
    "ops",
    "optim",
    "profile",
    "rand",
    "randn",
    "tensor",
    "train",
    "use_device",
    "viz",
    "zeros",
]

_PARTS = frozenset({"amp", "data", "exercises", "gradcheck", "models", "nn", "optim", "train", "viz"})
# Functions that live in a module of their own, which is imported when they are first asked for.
_LAZY: dict[str, str] = {"compile": "captured", "detect_anomaly": "anomaly", "profile": "profiler"}


def __getattr__(name: str) -> Any:
    if name in _PARTS:
        return import_module(f"{__name__}.{name}")
    if name == "bfloat16":  # a type of ml_dtypes, which need not be there
        return _bfloat16()
    if name in _LAZY:
        return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}{_hint(name)}")


# What to write for names that other libraries have at their top level.
_INSTEAD = {
    "autocast": "tinygrad_cnn.amp.autocast('float16')",
    "autograd": "tinygrad_cnn.grad(outputs, inputs)",
    "bool": "the dtype 'bool', or x.bool()",
    "cat": "tinygrad_cnn.ops.concatenate([a, b], axis=0)",
    "cuda": "tinygrad_cnn.Device('cuda'), or tinygrad_cnn.use_device('cuda')",
    "device": "tinygrad_cnn.Device('cpu')",
    "double": "tinygrad_cnn.float64",
    "float": "tinygrad_cnn.float32",
    "half": "tinygrad_cnn.float16",
    "from_numpy": "tinygrad_cnn.tensor(array)",
    "inference_mode": "tinygrad_cnn.no_grad()",
    "int": "the dtype 'int32'",
    "int64": "the dtype 'int64', or x.long()",
    "linspace": "tinygrad_cnn.tensor(numpy.linspace(start, stop, num))",
    "load": "tinygrad_cnn.train.load_checkpoint(path)",
    "long": "the dtype 'int64', or x.long()",
    "max": "x.max(axis) for the values, x.argmax(axis) for where they are",
    "min": "x.min(axis) for the values, x.argmin(axis) for where they are",
    "mm": "a @ b",
    "ones_like": "tinygrad_cnn.ones(x.shape)",
    "randint": "tinygrad_cnn.tensor(numpy.random.default_rng(seed).integers(low, high, size))",
    "save": "tinygrad_cnn.train.save_checkpoint(path, model.state_dict())",
    "utils": "tinygrad_cnn.data for DataLoader and Dataset",
    "zeros_like": "tinygrad_cnn.zeros(x.shape)",
}


def _hint(name: str) -> str:
    if name in _INSTEAD:
        return f"; use {_INSTEAD[name]}"
    if name.startswith("_"):
        return ""
    from . import ops

    ways = [f"x.{name}(...)"] if hasattr(Tensor, name) else []
    ways += [f"tinygrad_cnn.ops.{name}(...)"] if name in ops.__all__ else []
    return f"; use {' or '.join(ways)}" if ways else ""


def __dir__() -> list[str]:
    return sorted({*globals(), *_PARTS, *_LAZY})
