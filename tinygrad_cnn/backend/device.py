"""Devices: where arrays live, which module computes on them, and their random generator."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import DeviceError

__all__ = [
    "Backend",
    "Device",
    "counter_key",
    "current_device",
    "device_of",
    "generator",
    "generator_states",
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


@dataclass(frozen=True)
class Backend:
    """What one array library has to offer. `register()` makes it known; nothing above this layer changes.

    Attributes:
        kind: first part of the device's name, "cpu" or "cuda".
        array_type: the class of its arrays.
        xp: its array module, with NumPy's names.
        kernels: returns the table of fast kernels, the same small set of names in every library.
        asarray: `asarray(values, dtype, index)`: onto device number `index`.
        to_host: an array of this library as a NumPy array.
        make_generator: `make_generator(seed, index)`: a random generator with NumPy's method names.
        count: how many devices of this kind there are.
        context: enters device number `index`.
        synchronize: waits until device number `index` has done what it was given.
        index_of: the device number of an array.
        generator_state: the state of a random generator: a dict of numbers, texts, dicts and host arrays.
        set_generator_state: gives a generator a state that `generator_state` returned.
    """

    kind: str
    array_type: type
    xp: Any
    kernels: Callable[[], Any]
    asarray: Callable[[Any, Any, int], Any]
    to_host: Callable[[Any], Any]
    make_generator: Callable[[int, int], Any]
    count: Callable[[], int]
    context: Callable[[int], AbstractContextManager[Any]]
    synchronize: Callable[[int], None]
    index_of: Callable[[Any], int]
    generator_state: Callable[[Any], dict[str, Any]]
    set_generator_state: Callable[[Any, dict[str, Any]], None]


_by_kind: dict[str, Backend] = {}
_by_array_type: dict[type, Backend] = {}
# Read at every op, hence a plain dict from array type to array module.
namespaces: dict[type, Any] = {}
# Kinds that are made known on first use: kind -> function that registers it or raises DeviceError with the remedy.
_lazy: dict[str, Callable[[], None]] = {}


def register(backend: Backend) -> None:
    """Make a backend known. Registering a kind again replaces it."""
    _by_kind[backend.kind] = backend
    _by_array_type[backend.array_type] = backend
    namespaces[backend.array_type] = backend.xp


def register_lazily(kind: str, load: Callable[[], None]) -> None:
    """Name a kind whose library is imported only when somebody asks for that device."""
    _lazy[kind] = load


def backend_for(kind: str) -> Backend:
    """Return the backend of a device kind, importing its library if this is the first use."""
    if kind not in _by_kind:
        if kind not in _lazy:
            known = ", ".join(repr(k) for k in sorted({*_by_kind, *_lazy}))
            raise DeviceError(f"there is no device kind {kind!r}; known kinds are {known}")
        _lazy[kind]()
    return _by_kind[kind]


@dataclass(frozen=True, order=True)
class Device:
    """A place where arrays live: `Device("cpu")`, `Device("cuda")` or `Device("cuda:1")`.

    Raises:
        DeviceError: the name is malformed, or there is no such device on this machine.
    """

    name: str = "cpu"

    def __post_init__(self) -> None:
        kind, colon, number = str(self.name).partition(":")
        if (colon and not number.isdecimal()) or not kind:
            raise DeviceError(f"{self.name!r} is no device name; write 'cpu', 'cuda' or 'cuda:0'")
        available = backend_for(kind).count()
        index = int(number or 0)
        if index >= available:
            raise DeviceError(f"there is no device {self.name!r}: this machine has {available} of kind {kind!r}")
        object.__setattr__(self, "name", kind if kind == "cpu" else f"{kind}:{index}")

    @property
    def kind(self) -> str:
        """The part of the name before the colon."""
        return self.name.partition(":")[0]

    @property
    def index(self) -> int:
        """The number of the device among those of its kind."""
        return int(self.name.partition(":")[2] or 0)

    @property
    def backend(self) -> Backend:
        """The array library that serves this device."""
        return backend_for(self.kind)

    @property
    def xp(self) -> Any:
        """The array module: NumPy or CuPy."""
        return self.backend.xp

    @property
    def kernels(self) -> Any:
        """The table of fast kernels of this device."""
        return self.backend.kernels()

    @property
    def generator(self) -> Any:
        """The random generator of this device, seeded by `manual_seed()`."""
        return generator(self)

    def asarray(self, values: Any, dtype: Any = None) -> Any:
        """Return `values` as an array on this device, without a copy where none is needed."""
        other = _by_array_type.get(type(values))
        if other is not None and other.kind not in ("cpu", self.kind):
            values = other.to_host(values)
        return self.backend.asarray(values, dtype, self.index)

    def to_host(self, array: Any) -> Any:
        """Return an array of this device as a NumPy array."""
        return self.backend.to_host(array)

    def context(self) -> AbstractContextManager[Any]:
        """Make this the current device of its array library inside a `with` block."""
        return self.backend.context(self.index)

    def synchronize(self) -> None:
        """Wait until the device has finished everything it was given. Nothing to do on a CPU."""
        self.backend.synchronize(self.index)

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"Device({self.name!r})"


_current: ContextVar[Device | None] = ContextVar("tinygrad_cnn_device", default=None)


def current_device() -> Device:
    """Return the device on which new tensors are made: the CPU, or what `use_device()` says."""
    return _current.get() or CPU


@contextmanager
def use_device(device: Device | str) -> Iterator[Device]:
    """Make new tensors on `device` inside a `with` block. Tensors that exist stay where they are."""
    device = device if isinstance(device, Device) else Device(device)
    token = _current.set(device)
    try:
        with device.context():
            yield device
    finally:
        _current.reset(token)


def namespace(*arrays: Any) -> Any:
    """Return the array module of the first array among the arguments; NumPy if there is none."""
    for array in arrays:
        xp = namespaces.get(type(array))
        if xp is not None:
            return xp
    return np


def device_of(array: Any) -> Device:
    """Return the device an array lives on."""
    backend = _by_array_type.get(type(array))
    if backend is None:
        raise DeviceError(f"{type(array).__name__} is not an array of any known device")
    if backend.kind == "cpu":
        return CPU
    return Device(f"{backend.kind}:{backend.index_of(array)}")


def kernels(array: Any) -> Any:
    """Return the fast kernels for this array's library."""
    backend = _by_array_type.get(type(array))
    return (backend or _by_kind["cpu"]).kernels()


def on_host(array: Any) -> bool:
    """Return whether looking at the values of an array costs no wait for a device."""
    return isinstance(array, np.ndarray)


def to_host(array: Any) -> Any:
    """Return any device's array as a NumPy array."""
    backend = _by_array_type.get(type(array))
    return np.asarray(array) if backend is None else backend.to_host(array)


_generators: dict[Device, Any] = {}
_seed: int | None = None
_generators_lock = threading.Lock()


def manual_seed(seed: int) -> None:
    """Seed the random generators of all devices; everything random in the package draws from them.

    The CPU generator is NumPy's PCG64. Without this call it starts from fresh entropy.
    """
    global _seed, _counter_key
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise DeviceError(f"manual_seed() takes a whole number from 0 on, got {seed!r}")
    with _generators_lock:
        _seed, _counter_key = int(seed), None
        _generators.clear()


_counter_key: Any = None


def counter_key() -> Any:
    """Return the key of kernels that make random numbers of a counter: an object whose `value` is 64 random bits.

    `manual_seed()` makes another object, so who counts knows by it when to begin anew. No generator draws these bits.
    """
    global _counter_key
    with _generators_lock:
        if _counter_key is None:
            sequence = np.random.SeedSequence(_seed, spawn_key=(1,))
            _counter_key = _CounterKey(int(sequence.generate_state(1, np.uint64)[0]))
        return _counter_key


class _CounterKey:
    """64 random bits, and how often each device has drawn with them."""

    def __init__(self, value: int) -> None:
        self.value = value
        self._calls: dict[Any, int] = {}

    def next_call(self, table: Any) -> int:
        """Return how many times this was called before for a table of kernels."""
        with _generators_lock:
            number = self._calls.get(id(table), 0)
            self._calls[id(table)] = number + 1
        return number


def generator(device: Device | None = None) -> Any:
    """Return the random generator of a device (default: the current one)."""
    device = device or current_device()
    with _generators_lock:
        found = _generators.get(device)
        if found is None:
            seed = _seed if _seed is not None else int(np.random.SeedSequence().generate_state(1, np.uint64)[0])
            found = _generators[device] = device.backend.make_generator(seed, device.index)
    return found


def generator_states() -> dict[str, dict[str, Any]]:
    """Return the states of the random generators of the CPU and of all devices in use, by the device's name."""
    generator(CPU)
    with _generators_lock:
        found = dict(_generators)
    states = {}
    for device, held in found.items():
        with device.context():
            states[device.name] = device.backend.generator_state(held)
    return states


def restore_generators(states: Mapping[str, dict[str, Any]]) -> None:
    """Give random generators the states of `generator_states()`; those of devices that are not here are left out."""
    for name, state in states.items():
        try:
            device = Device(name)
        except DeviceError:
            continue
        with device.context():
            device.backend.set_generator_state(generator(device), state)


def same_state(a: Any, b: Any) -> bool:
    """Return whether two states of generators, or of several devices, are equal."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(same_state(a[key], b[key]) for key in a)
    return bool(np.array_equal(a, b))


def _register_cpu() -> None:
    from . import cpu

    register(cpu.backend())


def _load_cuda() -> None:
    try:
        from . import cuda
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith(("cupy", f"{__package__}.cuda")):
            raise
        raise DeviceError(
            "device 'cuda' needs CuPy, which is not installed: "
            "pip install 'tinygrad-cnn[cuda13]' (or [cuda12], as your driver has it), or use device 'cpu'"
        ) from error
    except ImportError as error:
        raise DeviceError(
            f"device 'cuda': CuPy is installed, but cannot be imported ({str(error).strip().splitlines()[0]}); "
            "use device 'cpu', or install the CuPy that fits your driver: 'tinygrad-cnn[cuda13]' or [cuda12]"
        ) from error
    register(cuda.backend())


_register_cpu()
register_lazily("cuda", _load_cuda)
CPU = Device("cpu")
