"""Array libraries behind one door. Everything above this layer gets its array module from here and never names one."""

from .device import (
    Device,
    current_device,
    device_of,
    generator,
    generator_states,
    kernels,
    manual_seed,
    namespace,
    on_host,
    register,
    restore_generators,
    same_state,
    to_host,
    use_device,
)
from .dtypes import bool_, default_float, float16, float32, float64, int64, is_float

__all__ = [
    "Device",
    "bool_",
    "current_device",
    "default_float",
    "device_of",
    "float16",
    "float32",
    "float64",
    "generator",
    "generator_states",
    "int64",
    "is_float",
    "kernels",
    "manual_seed",
    "namespace",
    "on_host",
    "register",
    "restore_generators",
    "same_state",
    "to_host",
    "use_device",
]
