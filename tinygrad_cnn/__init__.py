"""tinygrad_cnn: understand, see and check how a convolutional network learns."""

from .backend import Device, float16, float32, float64, manual_seed, use_device
from .graph import no_grad
from .tensor import Tensor, arange, eye, full, grad, ones, rand, randn, tensor, zeros

__version__ = "0.1.0"

__all__ = [
    "Device",
    "Tensor",
    "arange",
    "eye",
    "float16",
    "float32",
    "float64",
    "full",
    "grad",
    "manual_seed",
    "no_grad",
    "ones",
    "rand",
    "randn",
    "tensor",
    "use_device",
    "zeros",
]
