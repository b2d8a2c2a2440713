"""Early stopping: no more epochs once the validation set says that they make the model worse."""

from __future__ import annotations

import math
from typing import Any

from ..errors import CheckpointError, OptionError

__all__ = ["EarlyStopping"]


class EarlyStopping:
    """Stop when a value has not improved for `patience` epochs, and give the model its best weights back.

    An epoch is the best one so far if its value beats the best before by more than `min_delta`. NaN never does.
    (Prechelt, "Early stopping, but when?", 1998; Goodfellow, Bengio & Courville, Deep Learning, algorithm 7.1.)

    Args:
        patience: how many epochs in a row may pass without an improvement before training ends.
        monitor: a column of the history: "val_loss", "val_accuracy", "train_loss".
        min_delta: the least change that counts.
        mode: "min", "max", or None: "max" if the name ends in "accuracy".
        restore_best: give the model the weights of the best epoch when training ends, for whatever reason.

    Raises:
        OptionError: an option is out of range.
    """

    def __init__(
        self,
        patience: int = 5,
        monitor: str = "val_loss",
        min_delta: float = 0.0,
        mode: str | None = None,
        restore_best: bool = True,
    ) -> None:
        if isinstance(patience, bool) or not isinstance(patience, int) or patience < 1:
            raise OptionError(f"patience is a whole number of epochs from 1 on, got {patience!r}")
        if not min_delta >= 0:
            raise OptionError(f"min_delta is from 0 on, got {min_delta!r}")
        if mode not in ("min", "max", None):
            raise OptionError(f"mode is 'min', 'max' or None, got {mode!r}")
        self.patience = patience
        self.monitor = monitor
        self.min_delta = min_delta
        self.mode = mode or ("max" if monitor.endswith("accuracy") else "min")
        self.restore_best = restore_best
        self.best: float | None = None
        self.best_epoch: int | None = None
        self.best_weights: dict[str, Any] | None = None
        self.waited = 0

    def update(self, row: dict[str, Any], model: Any) -> bool:
        """Note one epoch of the history, and return whether training should end now.

        Raises:
            OptionError: the epoch has no such value: `fit` without `validation` measures none on one.
        """
        value = row.get(self.monitor)
        if value is None:
            raise OptionError(f"early stopping watches {self.monitor!r}, but an epoch has {sorted(row)}")
        sign = 1 if self.mode == "min" else -1
        if not math.isnan(value) and (self.best is None or sign * value < sign * self.best - self.min_delta):
            self.best, self.best_epoch, self.waited = float(value), row["epoch"], 0
            if self.restore_best:
                self.best_weights = copied(model.state_dict())
        else:
            self.waited += 1
        return self.waited >= self.patience

    def restore(self, model: Any) -> None:
        """Give the model the weights of the best epoch, if there are any."""
        if self.restore_best and self.best_weights is not None:
            model.load_state_dict(self.best_weights)

    def state_dict(self) -> dict[str, Any]:
        """Return what has been seen so far, best weights included."""
        return {
            "best": self.best,
            "best_epoch": self.best_epoch,
            "waited": self.waited,
            "monitor": self.monitor,
            "best_weights": self.best_weights,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what another one had seen.

        Raises:
            CheckpointError: the state is damaged, or that one watched another value.
        """
        if set(state) != set(self.state_dict()):
            raise CheckpointError(f"this is no state of early stopping: it has {sorted(state)}")
        if state["monitor"] != self.monitor:
            raise CheckpointError(f"the state is of a run that watched {state['monitor']!r}, not {self.monitor!r}")
        self.best, self.best_epoch = state["best"], state["best_epoch"]
        self.waited, self.best_weights = state["waited"], state["best_weights"]


def copied(state_dict: dict[str, Any]) -> dict[str, Any]:
    """Return a state dict whose arrays are copies, so that training on does not change them."""
    return {name: getattr(value, "array", value).copy() for name, value in state_dict.items()}
