"""Element types. They are NumPy's own dtype objects on every device, so `x.dtype == float32` holds everywhere."""

from typing import Any

import numpy as np

from ..errors import DTypeError

__all__ = ["as_dtype", "bool_", "default_float", "float16", "float32", "float64", "int64", "is_float"]

float16 = np.dtype(np.float16)
float32 = np.dtype(np.float32)
float64 = np.dtype(np.float64)
int64 = np.dtype(np.int64)
bool_ = np.dtype(np.bool_)

# What Python floats become when a tensor is made of them, as in PyTorch; NumPy arrays keep the type they have.
default_float = float32


def is_float(dtype: Any) -> bool:
    """Return whether values of this type can carry a gradient."""
    return bool(np.dtype(dtype).kind == "f")


def as_dtype(dtype: Any) -> Any:
    """Return an element type given as a dtype, a NumPy or Python type, or a name.

    Raises:
        DTypeError: it is none that a tensor can hold.
    """
    try:
        found = np.dtype(dtype)
    except TypeError as error:
        raise DTypeError(
            f"{dtype!r} is no element type; give float16, float32, float64, an integer type or bool"
        ) from error
    if found.kind not in "fiub" or found.itemsize > 8:
        raise DTypeError(f"tensors cannot hold {found}; element types are float16, float32, float64, integers and bool")
    # Files may hold the other byte order, arrays in memory must not. There is one object per type in NumPy's own order,
    # and the engine tells types apart by it.
    return found if found.isnative else np.dtype(found.type)
