"""tinygrad_cnn: understand, see and check how a convolutional network learns.

Tensors and their creation stand here; the parts `nn`, `optim`, `data`, `models`, `train`, `gradcheck`, `exercises` and
`viz` are imported when they are first used, so `import tinygrad_cnn` costs little more than `import numpy`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .backend import Device, float16, float32, float64, manual_seed, use_device
from .graph import enable_grad, no_grad
from .tensor import Tensor, arange, eye, from_dlpack, full, grad, ones, rand, randn, tensor, zeros

if TYPE_CHECKING:
    from . import autodiff, data, errors, exercises, gradcheck, models, nn, ops, optim, train, viz
    from .anomaly import detect_anomaly
    from .captured import compile
    from .profiler import profile

__version__ = "0.1.0"

__all__ = [
    "Device",
    "Tensor",
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

_PARTS = frozenset({"data", "exercises", "gradcheck", "models", "nn", "optim", "train", "viz"})
# Functions that live in a module of their own, which is imported when they are first asked for.
_LAZY: dict[str, str] = {"compile": "captured", "detect_anomaly": "anomaly", "profile": "profiler"}


def __getattr__(name: str) -> Any:
    if name in _PARTS:
        return import_module(f"{__name__}.{name}")
    if name in _LAZY:
        return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_PARTS, *_LAZY})
