"""In what form arrays are handed to a user by layers that know only arrays.

A data loader stands below nothing that knows tensors, yet its user wants them. So the tensor layer says here, once,
how an array becomes one, and the loader asks here.
"""

from collections.abc import Callable
from typing import Any

__all__ = ["deliver_as", "delivered"]

_wrap: Callable[[Any], Any] | None = None


def deliver_as(wrap: Callable[[Any], Any]) -> None:
    """Let `wrap(array)` be what users get; the tensor layer calls this once, with the way it wraps an array."""
    global _wrap
    _wrap = wrap


def delivered(array: Any) -> Any:
    """Return `array` in the form users get it: a tensor, or the array where no tensor layer is loaded."""
    return array if _wrap is None else _wrap(array)
