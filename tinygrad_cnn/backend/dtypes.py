"""Element types. They are NumPy's own dtype objects on every device, so `x.dtype == float32` holds everywhere.

bfloat16 is not among NumPy's own types. The package ml_dtypes adds it to NumPy, and CuPy knows it from there; it is
imported when the type is first asked for by name.
"""

from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from ..errors import DTypeError, MissingExtraError

__all__ = [
    "as_dtype",
    "bfloat16",
    "bool_",
    "default_float",
    "finfo",
    "float16",
    "float32",
    "float64",
    "int64",
    "is_float",
    "is_half",
    "is_number",
    "overflowing",
    "widened",
]

float16 = np.dtype(np.float16)
float32 = np.dtype(np.float32)
float64 = np.dtype(np.float64)
int64 = np.dtype(np.int64)
bool_ = np.dtype(np.bool_)

# What Python floats become when a tensor is made of them, as in PyTorch; NumPy arrays keep the type they have.
default_float = float32

_KNOWN = "float16, bfloat16, float32, float64, an integer type or bool"


def bfloat16() -> Any:
    """Return the element type bfloat16: the 8 bits of float32's exponent and 7 of its mantissa.

    Raises:
        MissingExtraError: ml_dtypes is not installed.
    """
    try:
        import ml_dtypes
    except ImportError as error:
        raise MissingExtraError(
            "bfloat16 needs the package ml_dtypes, since NumPy has no such type: pip install 'tinygrad-cnn[amp]'; "
            "float16 works without it"
        ) from error
    return np.dtype(ml_dtypes.bfloat16)


def is_float(dtype: Any) -> bool:
    """Return whether values of this type can carry a gradient."""
    found = np.dtype(dtype)
    return bool((found.kind == "f" and found.itemsize > 1) or found.name == "bfloat16")


def is_half(dtype: Any) -> bool:
    """Return whether this is a float type of 16 bits: float16 or bfloat16."""
    return bool(dtype.itemsize == 2 and (dtype.kind == "f" or dtype.name == "bfloat16"))


def is_number(dtype: Any) -> bool:
    """Return whether a tensor can hold elements of this type: floats, whole numbers, booleans."""
    return bool(dtype.kind in "iub" or is_float(dtype))


def finfo(dtype: Any) -> Any:
    """Return the limits of a float type (eps, max, tiny, ...); NumPy does not know those of bfloat16."""
    if np.dtype(dtype).kind == "f":
        return np.finfo(dtype)
    from ml_dtypes import finfo as of_ml_dtypes

    return of_ml_dtypes(dtype)  # type: ignore[no-untyped-call,unused-ignore]


def widened(array: Any) -> Any:
    """Return float16 and bfloat16 arrays as float32, and everything else as it is."""
    return array.astype(float32) if is_half(array.dtype) else array


def overflowing() -> AbstractContextManager[Any]:
    """Let numbers overflow without a warning: in 16 bits they do so as a matter of course, and loss scaling looks."""
    return np.errstate(over="ignore", invalid="ignore")


def as_dtype(dtype: Any) -> Any:
    """Return an element type given as a dtype, a NumPy or Python type, or a name.

    Raises:
        DTypeError: it is none that a tensor can hold.
        MissingExtraError: it is "bfloat16", and ml_dtypes is not installed.
    """
    if isinstance(dtype, str) and dtype == "bfloat16":
        return bfloat16()
    try:
        found = np.dtype(dtype)
    except TypeError as error:
        raise DTypeError(f"{dtype!r} is no element type; give {_KNOWN}") from error
    if not is_number(found) or found.itemsize > 8:
        raise DTypeError(f"tensors cannot hold {found}; give {_KNOWN}")
    # Files may hold the other byte order, arrays in memory must not. There is one object per type in NumPy's own order,
    # and the engine tells types apart by it.
    return found if found.isnative else np.dtype(found.type)
