"""Arrays that code outside the engine can write to, and whether it did.

`Tensor.numpy()` and `Tensor.data` hand out the very memory that recorded nodes will read again in the backward pass.
A write there would give a wrong gradient in silence. So memory is watched from the moment it is handed out: nodes
that read it afterwards keep a checksum of what they read, nodes that had read it before rely on the checksum taken
at that moment, and the backward walk compares. Arrays that were never handed out cost nothing.
"""

import weakref
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from .device import on_host, to_host

__all__ = ["changed", "expose", "exposed", "is_exposed", "memory_of", "seal"]

# id of the array that owns the memory -> (creation index at which it was handed out, checksum of all of it then)
exposed: dict[int, tuple[int, int]] = {}


def memory_of(array: Any) -> Any:
    """Return the array that owns the memory of a view; an array that is no view is its own."""
    while isinstance(array.base, type(array)):
        array = array.base
    return array


def _checksum(array: Any) -> int:
    return zlib.crc32(np.ascontiguousarray(to_host(array)).reshape(-1).view(np.uint8).data)


def expose(array: Any, index: int) -> None:
    """Watch the memory of `array` from creation index `index` on, until its owner is collected."""
    owner = memory_of(array)
    key = id(owner)
    if key not in exposed:
        exposed[key] = (index, _checksum(owner))
        weakref.finalize(owner, exposed.pop, key, None).atexit = False


def is_exposed(array: Any) -> bool:
    """Return whether the memory of `array` was handed out, so that others may read it or write to it."""
    return hasattr(array, "base") and id(memory_of(array)) in exposed


def seal(arrays: Sequence[Any], foreign: Sequence[bool]) -> tuple[int | None, ...] | None:
    """Return the checksums of those of `arrays` that are watched or foreign (None for the others); None if none is.

    Foreign are arrays that a user gave to an op as they are: nobody knows who else writes to them. Those of a GPU are
    not looked at, because every look would wait for the device.
    """
    sums = tuple(
        _checksum(a) if (f and on_host(a)) or is_exposed(a) else None for a, f in zip(arrays, foreign, strict=True)
    )
    return None if all(s is None for s in sums) else sums


def changed(array: Any, sealed: int | None, index: int) -> bool:
    """Return whether a watched array was written to since the node with creation index `index` read it."""
    if sealed is not None:
        return _checksum(array) != sealed
    if not is_exposed(array):
        return False
    owner = memory_of(array)
    since, checksum = exposed[id(owner)]
    return index < since and _checksum(owner) != checksum
