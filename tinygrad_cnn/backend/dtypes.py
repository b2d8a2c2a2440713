"""Element types. They are NumPy's own dtype objects on every device, so `x.dtype == float32` holds everywhere."""

from typing import Any

import numpy as np

__all__ = ["bool_", "default_float", "float16", "float32", "float64", "int64", "is_float"]

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
