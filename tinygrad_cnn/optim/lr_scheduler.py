"""Schedules: learning rates that change with time. Names and arguments are those of PyTorch.

A schedule is a formula lr(t) with t = 0, 1, ... counting its `step()` calls, once per epoch or once per update as the
training loop decides. The formula always starts from the learning rates the groups had when their first schedule was
made (kept in the group as "initial_lr"), so a schedule set to any t gives the same rates as one that walked there.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

from ..errors import CheckpointError, OptionError
from .optimizer import Optimizer

__all__ = [
    "ConstantLR",
    "CosineAnnealingLR",
    "ExponentialLR",
    "LRScheduler",
    "LambdaLR",
    "LinearLR",
    "MultiStepLR",
    "OneCycleLR",
    "ReduceLROnPlateau",
    "SequentialLR",
    "StepLR",
]


class LRScheduler:
    """Base of the schedules that are a formula in the number of steps: subclasses write `lr_at`.

    Args:
        optimizer: whose groups' learning rates are set, at once and at every `step()`.

    Attributes:
        last_epoch: t, how often `step()` was called.
        base_lrs: the learning rates of the groups at the start.
    """

    needs_metric: ClassVar[bool] = False

    def __init__(self, optimizer: Optimizer) -> None:
        if not isinstance(optimizer, Optimizer):
            raise OptionError(f"{type(self).__name__} takes an optimizer, got {type(optimizer).__name__}")
        self.optimizer = optimizer
        self.base_lrs: list[float] = []
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
            self.base_lrs.append(float(group["initial_lr"]))
        self.last_epoch = 0
        self._set()

    def lr_at(self, t: int, group: int) -> float:
        """Return the learning rate of group number `group` after `t` steps."""
        raise NotImplementedError(f"{type(self).__name__} has no formula; write lr_at(t, group)")

    def step(self) -> None:
        """Go on by one."""
        self.last_epoch += 1
        self._set()

    def _set(self) -> None:
        for number, group in enumerate(self.optimizer.param_groups[: len(self.base_lrs)]):
            group["lr"] = self.lr_at(self.last_epoch, number)

    def get_last_lr(self) -> list[float]:
        """Return the learning rates in force, one per group."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """Return where the schedule stands, as numbers and texts."""
        return {"schedule": type(self).__name__, "last_epoch": self.last_epoch, "base_lrs": list(self.base_lrs)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go to where a schedule of the same kind stood, and set the learning rates.

        Raises:
            CheckpointError: it is the state of another kind of schedule, or for another number of groups.
        """
        state = _checked(self, state_dict)
        if len(state["base_lrs"]) != len(self.base_lrs):
            raise CheckpointError(
                f"{type(self).__name__}: the state is for {len(state['base_lrs'])} parameter groups, "
                f"the optimizer has {len(self.base_lrs)}"
            )
        self.base_lrs = [float(lr) for lr in state["base_lrs"]]
        self.last_epoch = int(state["last_epoch"])
        self._set()


def _checked(schedule: Any, state: Any) -> Mapping[str, Any]:
    """Return a state after comparing its keys and kind with those of a schedule."""
    name, expected = type(schedule).__name__, schedule.state_dict()
    if not isinstance(state, Mapping) or state.keys() != expected.keys():
        given = sorted(state) if isinstance(state, Mapping) else type(state).__name__
        raise CheckpointError(f"{name}: the state has {given}, expected {sorted(expected)}")
    if state["schedule"] != name:
        raise CheckpointError(f"{name}: this is the state of a {state['schedule']}")
    return state


def _whole(schedule: str, **values: Any) -> None:
    for name, value in values.items():
        if not hasattr(value, "__index__") or isinstance(value, bool) or value < 1:
            raise OptionError(f"{schedule}: {name} must be a whole number from 1 on, got {value!r}")


def _positive(schedule: str, **values: Any) -> None:
    for name, value in values.items():
        if not value > 0:
            raise OptionError(f"{schedule}: {name} must be above 0, got {value!r}")


class LambdaLR(LRScheduler):
    """lr(t) = lr · f(t), for a function of your own, or one per group."""

    def __init__(
        self, optimizer: Optimizer, lr_lambda: Callable[[int], float] | Sequence[Callable[[int], float]]
    ) -> None:
        groups = len(optimizer.param_groups)
        self.lr_lambdas = [lr_lambda] * groups if callable(lr_lambda) else list(lr_lambda)
        if len(self.lr_lambdas) != groups:
            raise OptionError(f"LambdaLR: {len(self.lr_lambdas)} functions for {groups} parameter groups")
        super().__init__(optimizer)

    def lr_at(self, t: int, group: int) -> float:
        return self.base_lrs[group] * self.lr_lambdas[group](t)


class ConstantLR(LRScheduler):
    """lr(t) = factor · lr for t < total_iters, then lr."""

    def __init__(self, optimizer: Optimizer, factor: float = 1 / 3, total_iters: int = 5) -> None:
        _whole("ConstantLR", total_iters=total_iters)
        self.factor, self.total_iters = factor, total_iters
        super().__init__(optimizer)

    def lr_at(self, t: int, group: int) -> float:
        return self.base_lrs[group] * (self.factor if t < self.total_iters else 1)


class LinearLR(LRScheduler):
    """A warm-up: lr(t) = lr · (start_factor + (end_factor - start_factor) · min(t / total_iters, 1)).

    >>> from tinygrad_cnn import Tensor, optim
    >>> sgd = optim.SGD([Tensor([1.0], requires_grad=True)], lr=0.4)
    >>> warm_up = optim.lr_scheduler.LinearLR(sgd, start_factor=0.25, total_iters=3)
    >>> for _ in range(5):
    ...     print(round(sgd.param_groups[0]["lr"], 3), end=" ")
    ...     warm_up.step()
    0.1 0.2 0.3 0.4 0.4
    """

    def __init__(
        self, optimizer: Optimizer, start_factor: float = 1 / 3, end_factor: float = 1.0, total_iters: int = 5
    ) -> None:
        _whole("LinearLR", total_iters=total_iters)
        _positive("LinearLR", start_factor=start_factor)
        self.start_factor, self.end_factor, self.total_iters = start_factor, end_factor, total_iters
        super().__init__(optimizer)

    def lr_at(self, t: int, group: int) -> float:
        share = min(t / self.total_iters, 1)
        return self.base_lrs[group] * (self.start_factor + (self.end_factor - self.start_factor) * share)


class StepLR(LRScheduler):
    """lr(t) = lr · gamma^(t // step_size)."""

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1) -> None:
        _whole("StepLR", step_size=step_size)
        self.step_size, self.gamma = step_size, gamma
        super().__init__(optimizer)

    def lr_at(self, t: int, group: int) -> float:
        return self.base_lrs[group] * self.gamma ** (t // self.step_size)


class MultiStepLR(LRScheduler):
    """lr(t) = lr · gamma^(number of milestones that are at most t)."""

    def __init__(self, optimizer: Optimizer, milestones: Iterable[int], gamma: float = 0.1) -> None:
        self.milestones, self.gamma = sorted(milestones), gamma
        super().__init__(optimizer)

    def lr_at(self, t: int, group: int) -> float:
        return self.base_lrs[group] * self.gamma ** bisect_right(self.milestones, t)


class ExponentialLR(LRScheduler):
    """lr(t) = lr · gamma^t."""

    def __init__(self, optimizer: Optimizer, gamma: float) -> None:
        self.gamma = gamma
        super().__init__(optimizer)

    def lr_at(self, t: int, group: int) -> float:
        return self.base_lrs[group] * self.gamma**t


class CosineAnnealingLR(LRScheduler):
    """lr(t) = eta_min + (lr - eta_min) · (1 + cos(π t / T_max)) / 2: from lr down to eta_min at T_max, and up again.

    Source: Loshchilov & Hutter, SGDR, ICLR 2017, without the restarts.
    """

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0) -> None:
        _whole("CosineAnnealingLR", T_max=T_max)
        self.T_max, self.eta_min = T_max, eta_min
        super().__init__(optimizer)

    def lr_at(self, t: int, group: int) -> float:
        return self.eta_min + (self.base_lrs[group] - self.eta_min) * (1 + math.cos(math.pi * t / self.T_max)) / 2


class OneCycleLR(LRScheduler):
    """Up from max_lr / div_factor to max_lr, then down to the start divided by final_div_factor; call it every update.

    The momentum (or Adam's β1) goes the other way, from max_momentum down to base_momentum and back.

    Args:
        optimizer: whose groups' learning rates and momenta are set.
        max_lr: the highest learning rate, one number or one per group.
        total_steps: length of the cycle; or give epochs and steps_per_epoch.
        epochs, steps_per_epoch: their product is the length.
        pct_start: share of the cycle that goes up.
        anneal_strategy: "cos" or "linear".
        cycle_momentum: whether the momentum moves too.
        base_momentum, max_momentum: its bounds.
        div_factor: max_lr divided by the learning rate at the start.
        final_div_factor: the learning rate at the start divided by that at the end.
        three_phase: go down as slowly as up, and to the end in a third phase.

    Raises:
        OptionError: no length, an option out of range, or a step beyond the end of the cycle.

    Source: Smith & Topin, Super-convergence, 2018.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: float | Sequence[float],
        total_steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: str = "cos",
        cycle_momentum: bool = True,
        base_momentum: float = 0.85,
        max_momentum: float = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
    ) -> None:
        if total_steps is None:
            if epochs is None or steps_per_epoch is None:
                raise OptionError("OneCycleLR: give total_steps, or epochs and steps_per_epoch")
            _whole("OneCycleLR", epochs=epochs, steps_per_epoch=steps_per_epoch)
            total_steps = epochs * steps_per_epoch
        _whole("OneCycleLR", total_steps=total_steps)
        _positive("OneCycleLR", div_factor=div_factor, final_div_factor=final_div_factor)
        if not 0 <= pct_start <= 1:
            raise OptionError(f"OneCycleLR: pct_start must be in [0, 1], got {pct_start}")
        if anneal_strategy not in ("cos", "linear"):
            raise OptionError(f"OneCycleLR: anneal_strategy must be 'cos' or 'linear', got {anneal_strategy!r}")
        groups = optimizer.param_groups
        peaks: list[Any] = list(max_lr) if isinstance(max_lr, (list, tuple)) else [max_lr] * len(groups)
        if len(peaks) != len(groups):
            raise OptionError(f"OneCycleLR: {len(peaks)} values of max_lr for {len(groups)} parameter groups")
        if cycle_momentum and not all("momentum" in group or "betas" in group for group in groups):
            raise OptionError("OneCycleLR: the optimizer has no momentum to move; set cycle_momentum=False")
        self.total_steps, self.strategy, self.cycle_momentum = total_steps, anneal_strategy, cycle_momentum
        up = float(pct_start * total_steps) - 1
        end = total_steps - 1
        # Phases as (last step, place of the learning rate at its end, place of the momentum at its end).
        if three_phase:
            self.phases = [(up, "top", "low"), (2 * up, "start", "high"), (end, "end", "high")]
        else:
            self.phases = [(up, "top", "low"), (end, "end", "high")]
        self._lrs = [
            {"start": peak / div_factor, "top": peak, "end": peak / div_factor / final_div_factor} for peak in peaks
        ]
        self._momenta = {"low": base_momentum, "high": max_momentum}
        for group, lrs in zip(groups, self._lrs, strict=True):
            group["initial_lr"] = lrs["start"]
        super().__init__(optimizer)

    def _between(self, t: int, values: Mapping[str, float], column: int, first: str) -> float:
        if t > self.total_steps:  # a loop of total_steps updates, each followed by step(), ends at t = total_steps
            raise OptionError(f"OneCycleLR: step {t} is beyond the cycle of {self.total_steps} steps")
        begin, name = 0.0, first
        for number, phase in enumerate(self.phases):
            end, target = float(phase[0]), str(phase[column])
            if t <= end or number == len(self.phases) - 1:
                share = (t - begin) / (end - begin) if end != begin else 1.0
                if self.strategy == "cos":
                    share = (1 - math.cos(math.pi * share)) / 2
                return values[name] + (values[target] - values[name]) * share
            begin, name = end, target
        raise AssertionError("the last phase ends the loop")

    def lr_at(self, t: int, group: int) -> float:
        return self._between(t, self._lrs[group], 1, "start")

    def _set(self) -> None:
        super()._set()
        if self.cycle_momentum:
            momentum = self._between(self.last_epoch, self._momenta, 2, "high")
            for group in self.optimizer.param_groups:
                if "betas" in group:
                    group["betas"] = (momentum, *group["betas"][1:])
                else:
                    group["momentum"] = momentum


class SequentialLR(LRScheduler):
    """One schedule after the other: schedule i rules from milestone i - 1 on, counting from 0 there.

    Args:
        optimizer: the optimizer of all of them.
        schedulers: two or more schedules that are formulas.
        milestones: when the second, third, ... take over; ascending.

    Raises:
        OptionError: the numbers do not fit, or the schedules belong to other optimizers.

    >>> from tinygrad_cnn import Tensor, optim
    >>> sgd = optim.SGD([Tensor([1.0], requires_grad=True)], lr=1.0)
    >>> warm_up = optim.lr_scheduler.LinearLR(sgd, start_factor=0.5, total_iters=2)
    >>> decay = optim.lr_scheduler.ExponentialLR(sgd, gamma=0.5)
    >>> both = optim.lr_scheduler.SequentialLR(sgd, [warm_up, decay], milestones=[2])
    >>> for _ in range(5):
    ...     print(sgd.param_groups[0]["lr"], end=" ")
    ...     both.step()
    0.5 0.75 1.0 0.5 0.25
    """

    def __init__(self, optimizer: Optimizer, schedulers: Sequence[LRScheduler], milestones: Sequence[int]) -> None:
        if not schedulers or len(milestones) != len(schedulers) - 1 or sorted(set(milestones)) != list(milestones):
            raise OptionError(
                f"SequentialLR: {len(schedulers)} schedules need {max(len(schedulers) - 1, 0)} ascending milestones, "
                f"got {list(milestones)}"
            )
        for schedule in schedulers:
            if getattr(schedule, "optimizer", None) is not optimizer or not isinstance(schedule, LRScheduler):
                raise OptionError("SequentialLR: all schedules must be formulas for the optimizer given")
        self.schedulers, self.milestones = list(schedulers), list(milestones)
        super().__init__(optimizer)

    def _set(self) -> None:
        number = bisect_right(self.milestones, self.last_epoch)
        schedule = self.schedulers[number]
        schedule.base_lrs = self.base_lrs
        schedule.last_epoch = self.last_epoch - (self.milestones[number - 1] if number else 0)
        schedule._set()


class ReduceLROnPlateau:
    """Multiply the learning rates by `factor` when a figure has not improved for more than `patience` steps.

    Args:
        optimizer: whose groups' learning rates are changed.
        mode: "min" if the figure should fall, "max" if it should rise.
        factor: below 1.
        patience: how many steps without improvement are waited for.
        threshold: how much counts as improvement.
        threshold_mode: "rel": best · (1 - threshold), or "abs": best - threshold (with + for mode "max").
        cooldown: steps to wait after a cut before counting again.
        min_lr: the lowest learning rate.
        eps: cuts smaller than this are not made.

    Raises:
        OptionError: an option out of range.
    """

    needs_metric: ClassVar[bool] = True

    def __init__(
        self,
        optimizer: Optimizer,
        mode: str = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: str = "rel",
        cooldown: int = 0,
        min_lr: float = 0.0,
        eps: float = 1e-8,
    ) -> None:
        if not 0 <= factor < 1:
            raise OptionError(f"ReduceLROnPlateau: factor must be in [0, 1), got {factor}")
        if mode not in ("min", "max"):
            raise OptionError(f"ReduceLROnPlateau: mode must be 'min' or 'max', got {mode!r}")
        if threshold_mode not in ("rel", "abs"):
            raise OptionError(f"ReduceLROnPlateau: threshold_mode must be 'rel' or 'abs', got {threshold_mode!r}")
        if patience < 0 or cooldown < 0:
            raise OptionError(
                f"ReduceLROnPlateau: patience and cooldown must be at least 0, got {patience}, {cooldown}"
            )
        self.optimizer, self.mode, self.factor, self.patience = optimizer, mode, factor, patience
        self.threshold, self.threshold_mode, self.cooldown = threshold, threshold_mode, cooldown
        self.min_lr, self.eps = min_lr, eps
        self.last_epoch = 0
        self.best = math.inf if mode == "min" else -math.inf
        self.num_bad_epochs = 0
        self.cooldown_counter = 0

    def step(self, metrics: Any) -> None:
        """Note the figure of one more epoch, and cut the learning rates if it is time."""
        figure = float(metrics)
        self.last_epoch += 1
        if self._improves(figure):
            self.best = figure
            self.num_bad_epochs = 0
        else:
            self.num_bad_epochs += 1
        if self.cooldown_counter > 0:
            self.cooldown_counter -= 1
            self.num_bad_epochs = 0
        if self.num_bad_epochs > self.patience:
            for group in self.optimizer.param_groups:
                lower = max(group["lr"] * self.factor, self.min_lr)
                if group["lr"] - lower > self.eps:
                    group["lr"] = lower
            self.cooldown_counter = self.cooldown
            self.num_bad_epochs = 0

    def _improves(self, figure: float) -> bool:
        if math.isinf(self.best):
            return figure < self.best if self.mode == "min" else figure > self.best
        margin = self.threshold * (self.best if self.threshold_mode == "rel" else 1)
        return figure < self.best - margin if self.mode == "min" else figure > self.best + margin

    def get_last_lr(self) -> list[float]:
        """Return the learning rates in force, one per group."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """Return where the schedule stands; the learning rates are in the optimizer's own state."""
        return {
            "schedule": "ReduceLROnPlateau",
            "last_epoch": self.last_epoch,
            "best": None if math.isinf(self.best) else self.best,
            "num_bad_epochs": self.num_bad_epochs,
            "cooldown_counter": self.cooldown_counter,
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go to where a schedule of the same kind stood.

        Raises:
            CheckpointError: it is the state of another kind of schedule.
        """
        state = _checked(self, state_dict)
        worst = math.inf if self.mode == "min" else -math.inf
        self.best = worst if state["best"] is None else float(state["best"])
        self.last_epoch, self.num_bad_epochs = int(state["last_epoch"]), int(state["num_bad_epochs"])
        self.cooldown_counter = int(state["cooldown_counter"])
