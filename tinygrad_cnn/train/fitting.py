"""The training loop: epochs of steps, with validation, early stopping and checkpoints that resume to the bit."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from ..amp import GradScaler
from ..backend import current_device, float64, generator_states, restore_generators
from ..captured import CapturedStep, compile
from ..errors import CheckpointError, OptionError, TinygradError
from .checkpoint import load_checkpoint, save_checkpoint
from .evaluation import are_classes, array_of, evaluate
from .history import History
from .mixed import MixedStep, check_precision
from .stopping import EarlyStopping

__all__ = ["DivergedError", "Progress", "fit"]

_LOOK_EVERY = 100  # steps between looks at the loss on a device that would have to be waited for


class DivergedError(TinygradError, ArithmeticError):
    """The loss became NaN or infinite: training cannot recover from that."""


@dataclass
class Progress:
    """Where training stands, for whoever shows it. Losses and accuracies are means over the epoch so far.

    Attributes:
        epoch: number of the epoch, from 1 on.
        epochs: how many there will be at most.
        step: steps done in this epoch.
        steps: steps of an epoch.
        samples: samples of this epoch seen so far.
        loss, accuracy: means over these; the accuracy is None where outputs are no classes.
        seconds: time spent on this epoch in this process.
        fresh: samples of this epoch seen in this process, so that fresh / seconds is the speed.
    """

    epoch: int
    epochs: int
    step: int = 0
    steps: int = 0
    samples: int = 0
    loss: float = 0.0
    accuracy: float | None = None
    seconds: float = 0.0
    fresh: int = 0


class _Sums:
    """Running sums of an epoch, kept where the arrays are, so that no step has to wait for a number."""

    def __init__(self, loss: Any = 0.0, right: Any = 0, samples: int = 0, classes: bool = True) -> None:
        self.loss, self.right, self.samples, self.classes = loss, right, samples, classes

    def add(self, loss: Any, outputs: Any, y: Any) -> None:
        n = len(y)
        self.samples += n
        self.loss = self.loss + loss.array.astype(float64) * n  # the sum is the same after a resume, to the bit
        self.classes = self.classes and are_classes(outputs, y)
        if self.classes:
            self.right = self.right + (outputs.array.argmax(axis=1) == array_of(y)).sum()

    def means(self) -> tuple[float, float | None]:
        count = max(1, self.samples)
        return float(self.loss) / count, float(self.right) / count if self.classes else None

    def check(self, run: _Run) -> None:
        """Raise an error once a loss of this epoch was no finite number; the sum keeps the trace of it."""
        total = float(self.loss)
        if not math.isfinite(total):
            raise DivergedError(
                f"the loss became {total} at step {run.step} of epoch {run.epoch + 1}; "
                "use a smaller learning rate, or find the op that made it with detect_anomaly()"
            )

    def state(self) -> dict[str, Any]:
        return {"loss": float(self.loss), "right": int(self.right), "samples": self.samples, "classes": self.classes}


class _Watched(Progress):
    """Progress whose means are computed when somebody looks at them, because every look waits for the device."""

    def __init__(self, run: _Run, epochs: int, steps: int) -> None:
        self.run = run
        super().__init__(run.epoch + 1, epochs, run.step, steps)

    @property
    def loss(self) -> float:
        return self.run.sums.means()[0]

    @loss.setter
    def loss(self, value: float) -> None:
        pass

    @property
    def accuracy(self) -> float | None:
        return self.run.sums.means()[1]

    @accuracy.setter
    def accuracy(self, value: float | None) -> None:
        pass


def fit(
    model: Any,
    train: Any,
    *,
    optimizer: Any,
    epochs: int,
    loss: Callable[[Any, Any], Any] | None = None,
    validation: Any = None,
    schedule: Any = None,
    schedule_every: str = "epoch",
    stopping: EarlyStopping | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: float | None = 20.0,
    resume: bool = False,
    note: dict[str, Any] | None = None,
    on_step: Callable[[Progress], None] | None = None,
    on_epoch: Callable[[dict[str, Any], History], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    precision: str = "float32",
) -> History:
    """Train a model, and return what happened in each epoch.

    One step is: outputs = model(x); loss(outputs, y).backward(); optimizer.step(); where `compile()` knows the
    model, it is replayed without a graph. With `checkpoint`, everything
    that decides about the weights to come is written to one file, at the end of each epoch and now and then within:
    weights, optimizer, schedule, early stopping, random generator, and the place in the data. A run that was killed
    at any moment and is called again with `resume=True` ends with the same weights, bit for bit, as one that was not.

    >>> import numpy as np
    >>> from tinygrad_cnn import data, manual_seed, nn, optim
    >>> manual_seed(0)
    >>> x = np.eye(4, dtype=np.float32)
    >>> model = nn.Linear(4, 2)
    >>> history = fit(
    ...     model,
    ...     data.DataLoader(data.ArrayDataset(x, np.array([0, 1, 0, 1])), batch_size=2, shuffle=True),
    ...     optimizer=optim.Adam(model.parameters(), lr=0.1),
    ...     epochs=20,
    ... )
    >>> len(history), history.stopped, history[-1]["train_accuracy"]
    (20, 'epochs', 1.0)

    Args:
        model: a module; left in evaluation mode, with its best weights if `stopping` restores them.
        train: a `DataLoader`, or any iterable of (inputs, targets); only a loader can resume within an epoch.
        optimizer: made with the parameters of the model.
        epochs: how many passes over the data, at most.
        loss: `loss(outputs, targets)`, the mean over a batch; cross-entropy if None.
        validation: a loader that is evaluated after each epoch.
        schedule: changes the learning rate; its `step()` is called at the end of each epoch or step.
        schedule_every: "epoch" or "step".
        stopping: ends training early.
        checkpoint: file to write; its folder is made.
        checkpoint_every: seconds between checkpoints within an epoch; 0 for every step, None for ends of epochs only.
        resume: go on from `checkpoint` if that file exists.
        note: numbers and texts that are kept in the checkpoint for the reader.
        on_step: called after each step with a `Progress` (one object that changes).
        on_epoch: called after each epoch with its row and the history.
        should_stop: asked after each step; True ends training there, with a checkpoint from which it can resume.
        precision: "float32", or "float16" or "bfloat16" (extra `amp`) for mixed precision: products in that type,
            weights in float32, and with float16 a scaled loss, whose scale is in the history; see `amp`. Validation
            runs in float32.

    Raises:
        DivergedError: the loss became NaN or infinite.
        CheckpointError: the checkpoint is damaged or does not fit the model, the optimizer or the data.
        OptionError: an option is out of range, or options contradict each other.
        MissingExtraError: precision is "bfloat16", and ml_dtypes is not installed.
    """
    check_precision(precision)
    if isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 1:
        raise OptionError(f"epochs is a whole number from 1 on, got {epochs!r}")
    if schedule_every not in ("epoch", "step"):
        raise OptionError(f"schedule_every is 'epoch' or 'step', got {schedule_every!r}")
    if resume and checkpoint is None:
        raise OptionError("resume=True needs to know from where: give checkpoint=FILE")
    if stopping is not None and stopping.monitor.startswith("val_") and validation is None:
        raise OptionError(f"early stopping watches {stopping.monitor!r}: give a validation loader, or another monitor")
    run = _Run(model, train, optimizer, schedule, stopping, checkpoint, note, precision)
    if resume and Path(str(checkpoint)).exists():
        run.load()
    if loss is None:
        from ..nn import functional

        loss = functional.cross_entropy
    step: CapturedStep | MixedStep
    if precision == "float32":
        step = compile(model, loss, optimizer, at_once=True)
    else:
        step = MixedStep(model, loss, optimizer, precision, run.scaler)
    history = run.history
    while history.stopped is None:
        if run.epoch >= epochs:
            history.stopped = "epochs"
            break
        finished = _epoch(run, epochs, step, schedule_every, checkpoint_every, on_step, should_stop)
        if not finished:
            run.save()
            # Not part of the state: whoever resumes wants to go on.
            history.stopped = "interrupted"
            break
        row = run.row()
        if validation is not None:
            result = evaluate(model, validation, loss)
            row["val_loss"] = result.loss
            if result.accuracy is not None:
                row["val_accuracy"] = result.accuracy
        history.append(row)
        run.epoch += 1
        run.step = 0
        run.sums = _Sums()
        if schedule is not None and schedule_every == "epoch":
            _step_schedule(schedule, row)
        if stopping is not None and stopping.update(row, model):
            history.stopped = "early stopping"
        elif run.epoch >= epochs:
            history.stopped = "epochs"
        run.save()
        if on_epoch is not None:
            on_epoch(row, history)
    if stopping is not None and history.stopped != "interrupted":
        stopping.restore(model)
        history.best_epoch = stopping.best_epoch
    model.eval()
    return history


def _epoch(
    run: _Run,
    epochs: int,
    step: CapturedStep | MixedStep,
    schedule_every: str,
    checkpoint_every: float | None,
    on_step: Callable[[Progress], None] | None,
    should_stop: Callable[[], bool] | None,
) -> bool:
    """Train for the rest of one epoch; return False if it was stopped before its end."""
    run.model.train()
    steps = len(run.train) if hasattr(run.train, "__len__") else 0
    progress = _Watched(run, epochs, steps)
    started = saved = perf_counter()
    before = run.sums.samples
    on_host = current_device().kind == "cpu"
    for x, y in run.train:
        value = step(x, y)
        run.lr = float(run.optimizer.param_groups[0]["lr"])
        if run.schedule is not None and schedule_every == "step":
            run.schedule.step()
        run.sums.add(value, step.logits, y)
        run.step += 1
        run.steps_done += 1
        now = perf_counter()
        run.seconds += now - started - progress.seconds
        progress.seconds = now - started
        if on_step is not None:
            progress.step, progress.samples = run.step, run.sums.samples
            progress.fresh = run.sums.samples - before
            on_step(progress)
        last = run.step == steps
        if on_host or last or run.step % _LOOK_EVERY == 0:
            run.sums.check(run)
        if should_stop is not None and not last and should_stop():
            return False
        if checkpoint_every is not None and not last and now - saved >= checkpoint_every:
            run.sums.check(run)
            run.save()
            saved = perf_counter()
    return True


def _step_schedule(schedule: Any, row: dict[str, Any]) -> None:
    if getattr(schedule, "needs_metric", False):
        schedule.step(row.get("val_loss", row["train_loss"]))
    else:
        schedule.step()


class _Run:
    """All that decides about the weights to come, and how it is written and read."""

    def __init__(
        self,
        model: Any,
        train: Any,
        optimizer: Any,
        schedule: Any,
        stopping: EarlyStopping | None,
        checkpoint: str | Path | None,
        note: dict[str, Any] | None,
        precision: str,
    ) -> None:
        self.model, self.train, self.optimizer = model, train, optimizer
        self.schedule, self.stopping = schedule, stopping
        self.checkpoint = checkpoint
        self.note = note or {}
        self.precision = precision
        self.scaler = GradScaler(enabled=precision == "float16")  # the others have the range of float32
        self.history = History()
        self.epoch = 0  # epochs done
        self.step = 0  # steps done of the epoch in progress
        self.steps_done = 0  # in all
        self.lr = 0.0  # of the last step, before the schedule went on
        self.seconds = 0.0  # time of the steps of the epoch in progress, over all processes that worked on it
        self.sums = _Sums()

    def row(self) -> dict[str, Any]:
        """Return what the history says of the epoch that has just been trained."""
        loss, accuracy = self.sums.means()
        row: dict[str, Any] = {"epoch": self.epoch + 1, "step": self.steps_done}
        row["lr"] = self.lr
        row["train_loss"] = loss
        if accuracy is not None:
            row["train_accuracy"] = accuracy
        if self.scaler.is_enabled():
            row["loss_scale"] = self.scaler.get_scale()
        row["seconds"] = round(self.seconds, 3)
        row["samples_per_second"] = round(self.sums.samples / self.seconds, 1) if self.seconds else None
        self.seconds = 0.0
        return row

    def save(self) -> None:
        if self.checkpoint is None:
            return
        generators = generator_states()
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": None if self.schedule is None else self.schedule.state_dict(),
            "stopping": None if self.stopping is None else self.stopping.state_dict(),
            "precision": self.precision,
            "scaler": self.scaler.state_dict(),
            "loader": self.train.state_dict() if hasattr(self.train, "state_dict") else None,
            "generator": generators.pop("cpu"),
            "generators": generators,
            "history": list(self.history),
            "stopped": self.history.stopped,
            "progress": {
                "epoch": self.epoch,
                "step": self.step,
                "steps_done": self.steps_done,
                "seconds": self.seconds,
                "lr": self.lr,
                "sums": self.sums.state(),
            },
            "note": self.note,
        }
        save_checkpoint(self.checkpoint, state)

    def load(self) -> None:
        assert self.checkpoint is not None
        state = load_checkpoint(self.checkpoint)
        try:
            self._take(state)
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise CheckpointError(
                f"{self.checkpoint} does not hold a whole training state ({type(error).__name__}: {error})"
            ) from error
        except CheckpointError as error:
            raise CheckpointError(f"{self.checkpoint}: {error}") from error

    def _take(self, state: dict[str, Any]) -> None:
        for name, part in (("schedule", self.schedule), ("stopping", self.stopping)):
            if (part is None) != (state[name] is None):
                has, needs = ("with", "without") if state[name] is not None else ("without", "with")
                raise CheckpointError(f"the run was started {has} {name} and is resumed {needs}")
        before = state.get("precision", "float32")  # checkpoints of the time before there was a choice have none
        if before != self.precision:
            raise CheckpointError(f"the run was started in {before} and is resumed in {self.precision}")
        if hasattr(self.train, "load_state_dict") and state["loader"] is not None:
            self.train.load_state_dict(state["loader"])
        elif state["progress"]["step"]:
            raise CheckpointError("the run stopped within an epoch, and this loader cannot resume there")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])
        if self.schedule is not None:
            self.schedule.load_state_dict(state["schedule"])
        if self.stopping is not None:
            self.stopping.load_state_dict(state["stopping"])
        self.history = History(state["history"])
        self.history.stopped = state["stopped"] if state["stopped"] == "early stopping" else None
        progress = state["progress"]
        self.epoch, self.step, self.steps_done = progress["epoch"], progress["step"], progress["steps_done"]
        self.seconds, self.lr = progress["seconds"], progress["lr"]
        self.sums = _Sums(**progress["sums"])
        restore_generators({"cpu": state["generator"], **state.get("generators", {})})
