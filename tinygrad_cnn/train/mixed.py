"""A training step in mixed precision, with the interface of the step that `compile()` returns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..amp import GradScaler, autocast
from ..backend import as_dtype
from ..errors import OptionError

__all__ = ["PRECISIONS", "MixedStep", "check_precision"]

PRECISIONS = ("float32", "float16", "bfloat16")


def check_precision(precision: Any) -> str:
    """Return the name of a precision to train in.

    Raises:
        OptionError: there is no such precision.
        MissingExtraError: it is "bfloat16", and ml_dtypes is not installed.
    """
    if precision not in PRECISIONS:
        raise OptionError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    as_dtype(precision)
    return str(precision)


class MixedStep:
    """Trains on one batch: forward under `autocast`, backward from the scaled loss, and an update if all is finite.

    Attributes:
        logits: what the model said in the last call, as float32, without a graph.
        reason: why no step is replayed.
    """

    def __init__(
        self, model: Any, loss: Callable[[Any, Any], Any], optimizer: Any, precision: str, scaler: GradScaler
    ) -> None:
        self.model, self.loss, self.optimizer, self.scaler = model, loss, optimizer, scaler
        self.precision = precision
        self.logits: Any = None
        self.reason = "mixed precision runs without replay"

    def __call__(self, x: Any, y: Any) -> Any:
        self.optimizer.zero_grad()
        with autocast(self.precision):
            outputs = self.model(x)
            value = self.loss(outputs, y)
        self.scaler.scale(value).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.logits = outputs.detach().float()
        return value
