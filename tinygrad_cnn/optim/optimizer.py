"""Optimizer: what all update rules share: parameter groups, penalties, state that can be saved."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

from ..backend import device_of, is_float, is_half, namespace, overflowing, to_host, widened
from ..errors import CheckpointError, GraphError, OptionError, ShapeError
from ..graph import Traced, enable_grad
from ..tensor import Tensor
from .bundle import Bundle, bundles

__all__ = ["Optimizer"]

Group = dict[str, Any]


class Optimizer:
    """Base of all optimizers: walks the parameters and hands each to the subclass's `update`.

    Before `update` sees the gradient g of a parameter p, every optimizer does, in this order and as asked:

        maximize                   g = -g
        weight_decay, decoupled    p = p - lr weight_decay p         (Loshchilov & Hutter, ICLR 2019)
        weight_decay, coupled      g = g + weight_decay p            (the gradient of weight_decay/2 ‖p‖²)
        l1                         g = g + l1 sign(p)                (a subgradient of l1 ‖p‖₁, 0 at 0)

    Parameters are changed in place, so a recorded graph that has read them can no longer be walked and says so.

    Args:
        params: tensors, (name, tensor) pairs, or groups `{"params": tensors, "lr": ...}` with options of their own.
        defaults: the options of groups that do not set them.

    Attributes:
        param_groups: list of dicts with "params" and all options; change `group["lr"]` whenever you like.
        state: parameter -> its arrays and step count. Empty until the first step.

    Raises:
        OptionError: no parameter at all, one of them twice, or an option outside of its range.
        GraphError: a parameter was computed from others, so it is no leaf.
    """

    # Options that every optimizer understands, and what they must satisfy. Subclasses add theirs to `ranges`.
    shared: ClassVar[dict[str, Any]] = {
        "weight_decay": 0.0,
        "decoupled_weight_decay": False,
        "l1": 0.0,
        "maximize": False,
    }
    ranges: ClassVar[dict[str, tuple[Callable[[Any], bool], str]]] = {}
    # Whether `update` treats every element by itself; then small parameters may be handed to it as one vector.
    elementwise: ClassVar[bool] = False

    def __init__(self, params: Iterable[Any], defaults: Group) -> None:
        self.defaults: Group = {**defaults, **{k: v for k, v in self.shared.items() if k not in defaults}}
        self.param_groups: list[Group] = []
        self.state: dict[Tensor, dict[str, Any]] = {}
        self._arrangements: dict[int, tuple[Any, list[Any]]] = {}
        if isinstance(params, (Traced, Mapping)):
            raise OptionError(
                f"{self._name}: params must be a list of tensors or of groups, got a single "
                f"{'tensor' if isinstance(params, Traced) else 'dict'}; put it into a list"
            )
        if hasattr(params, "parameters"):
            raise OptionError(
                f"{self._name}: params must be a list of tensors or of groups, got a {type(params).__name__}; "
                "give its .parameters()"
            )
        given = list(params)
        if not given:
            raise OptionError(
                f"{self._name}: there are no parameters to optimize. If they come from model.parameters(), does the "
                "model have any, and was the generator used up before?"
            )
        for group in given if isinstance(given[0], Mapping) else [{"params": given}]:
            self.add_param_group(group)

    @property
    def _name(self) -> str:
        return type(self).__name__

    # What a subclass writes

    def start(self, p: Any, group: Group) -> dict[str, Any]:
        """Return the state of parameter array `p` before its first step: new arrays by name."""
        raise NotImplementedError

    def update(self, p: Any, g: Any, state: dict[str, Any], group: Group) -> None:
        """Change the array `p` in place by one step along the gradient `g`; `state["step"]` counts from 1.

        `g` may be shared with others and must not be written to. If the class says that it is `elementwise`, p, g and
        the arrays of the state may hold several parameters end to end.
        """
        raise NotImplementedError

    # What a user calls

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Change every parameter that has a gradient, and return what `closure` returned.

        Args:
            closure: clears the gradients, computes the loss, calls `backward()` and returns the loss; optional.

        Raises:
            ShapeError: a gradient is no tensor of the shape of its parameter. No parameter has changed then.
        """
        loss = None
        if closure is not None:
            with enable_grad():
                loss = closure()
        ready = [[p for p in group["params"] if p.grad is not None] for group in self.param_groups]
        for params in ready:
            for p in params:
                if not isinstance(p.grad, Traced):
                    raise ShapeError(
                        f"{self._name}: the gradient of {self._called(p)} is {type(p.grad).__name__}, "
                        "expected a tensor; p.grad takes tensor(...)"
                    )
                if p.grad.array.shape != p.array.shape:
                    raise ShapeError(
                        f"{self._name}: the gradient of {self._called(p)} has shape {tuple(p.grad.array.shape)}, "
                        f"but the parameter has {p.shape}; was p.grad set by hand?"
                    )
        for number, (group, params) in enumerate(zip(self.param_groups, ready, strict=True)):
            for item in self._arranged(number, params):
                if isinstance(item, Bundle):
                    item.gather()
                    self._advance(item.p, item.g, item.state, group)
                    item.scatter()
                else:
                    state = self.state[item]
                    state["step"] += 1
                    self._advance(item.array, item.grad.array, state, group)
                    item.edited()
        return loss

    def _arranged(self, number: int, params: list[Tensor]) -> list[Any]:
        """Return the parameters of a group that have a gradient, small ones in bundles; kept from step to step."""
        key = tuple((id(p), p.array.dtype, type(p.array)) for p in params)
        before = self._arrangements.get(number)
        if before is not None and before[0] == key:
            items = before[1]
            if all(item.is_intact(self.state) if isinstance(item, Bundle) else item in self.state for item in items):
                return items
        for p in params:
            if p not in self.state:
                self.state[p] = {"step": 0, **self.start(p.array, self.param_groups[number])}
        items = bundles(params, self.state) if self.elementwise else list(params)
        self._arrangements[number] = key, items
        return items

    def _advance(self, p: Any, g: Any, state: dict[str, Any], group: Group) -> None:
        """Apply the options that all optimizers share, then the rule; on 16 bits in float32, rounding once.

        In float16 an eps of 1e-8 would be 0, and so would be most squares of gradients before a root is taken.
        """
        if is_half(p.dtype):
            wide = {name: widened(value) if hasattr(value, "dtype") else value for name, value in state.items()}
            wide_p = widened(p)
            self._advance(wide_p, widened(g), wide, group)
            with overflowing():
                p[...] = wide_p
                for name, value in wide.items():
                    if name in state and hasattr(value, "dtype"):
                        state[name][...] = value
                    else:
                        state[name] = value.astype(p.dtype) if hasattr(value, "dtype") else value
            return
        if group["maximize"]:
            g = -g
        decay = group["weight_decay"]
        if decay and group["decoupled_weight_decay"]:
            p *= 1 - group["lr"] * decay
        elif decay:
            g = g + decay * p
        if group["l1"]:
            g = g + group["l1"] * namespace(p).sign(p)
        self.update(p, g, state, group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of all parameters, or set them to zeros if `set_to_none` is false."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    # A new array: the old one may be shared with other tensors.
                    p.grad = None if set_to_none else p.result_type.made(namespace(p.array).zeros_like(p.grad.array))

    def add_param_group(self, group: Mapping[str, Any]) -> None:
        """Optimize more parameters: `{"params": tensors, "lr": 1e-4}`; options left out take their default."""
        if not isinstance(group, Mapping) or "params" not in group:
            raise OptionError(f"{self._name}: a parameter group is a dict with the key 'params', got {group!r:.80}")
        params = group["params"]
        if isinstance(params, (set, frozenset)):
            raise OptionError(
                f"{self._name}: a set of parameters has no fixed order, so state cannot be saved; use a list"
            )
        tensors = [self._named(p) for p in ([params] if isinstance(params, Traced) else params)]
        if not tensors:
            raise OptionError(f"{self._name}: parameter group {len(self.param_groups)} holds no parameters")
        taken = {id(p) for other in self.param_groups for p in other["params"]}
        for p in tensors:
            self._check_parameter(p)
            if id(p) in taken:
                raise OptionError(f"{self._name}: {self._called(p)} is given twice; each step would change it twice")
            taken.add(id(p))
        unknown = group.keys() - self.defaults.keys() - {"params"}
        if unknown:
            raise OptionError(
                f"{self._name} has no option {', '.join(sorted(unknown))}; its options are {', '.join(self.defaults)}"
            )
        options = {**self.defaults, **group, "params": tensors}
        self._check_options(options)
        self.param_groups.append(options)

    @staticmethod
    def _named(p: Any) -> Any:
        return p[1] if isinstance(p, tuple) and len(p) == 2 and isinstance(p[0], str) else p

    def _called(self, p: Any) -> str:
        name = getattr(p, "name", None)
        return f"parameter {name!r}" if name else f"a parameter of shape {tuple(p.array.shape)}"

    def _check_parameter(self, p: Any) -> None:
        if not isinstance(p, Tensor):
            raise OptionError(f"{self._name}: parameters are tensors, got {type(p).__name__}")
        if p.node is not None:
            raise GraphError(
                f"{self._name}: {self._called(p)} was computed by {p.node.op.name}, so it is no leaf and collects no "
                "gradient; optimize the tensors it was computed from, or make a leaf with .detach().requires_grad_()"
            )
        if not is_float(p.dtype):
            raise OptionError(f"{self._name}: parameters hold floats, {self._called(p)} holds {p.dtype}")

    def _check_options(self, options: Group) -> None:
        at_least_0 = (lambda value: value >= 0, "must be at least 0")
        for name, (holds, rule) in {
            "lr": at_least_0, "weight_decay": at_least_0, "l1": at_least_0, "eps": at_least_0, **self.ranges
        }.items():  # fmt: skip
            if name in options and not _satisfies(options[name], holds):
                raise OptionError(f"{self._name}: {name} {rule}, got {options[name]!r}")

    # Saving

    def state_dict(self) -> dict[str, Any]:
        """Return everything needed to go on later, with the keys of PyTorch.

        Returns:
            {"state": {i: {"step": int, name: NumPy array, ...}}, "param_groups": [{option: number, "params": [i]}]},
            where i counts the parameters over all groups. Arrays are copies in main memory.
        """
        numbers_of = {p: i for i, p in enumerate(p for group in self.param_groups for p in group["params"])}
        state = {
            numbers_of[p]: {name: value if name == "step" else to_host(value).copy() for name, value in held.items()}
            for p, held in self.state.items()
        }
        groups = [
            {**{k: v for k, v in group.items() if k != "params"}, "params": [numbers_of[p] for p in group["params"]]}
            for group in self.param_groups
        ]
        return {"state": dict(sorted(state.items())), "param_groups": groups}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over what `state_dict()` returned, options included. Numbers of parameters may be strings, as JSON has.

        Raises:
            CheckpointError: other groups, other shapes, or state of another optimizer; nothing has changed then.
        """
        groups, saved = self._saved_parts(state_dict)
        params = [
            (p, options) for group, options in zip(self.param_groups, groups, strict=True) for p in group["params"]
        ]
        state: dict[Tensor, dict[str, Any]] = {}
        for key, held in saved.items():
            number = int(key) if str(key).isdecimal() else -1
            if not 0 <= number < len(params):
                raise CheckpointError(
                    f"{self._name}: state for parameter {key!r}, but there are {len(params)} parameters"
                )
            p, options = params[number]
            state[p] = self._restored(number, p, options, held)
        for group, options in zip(self.param_groups, groups, strict=True):
            group.update(options)
        self.state = state

    def _saved_parts(self, state_dict: Any) -> tuple[list[Group], Mapping[Any, Any]]:
        """Check the frame of a state dict and return the options of its groups, and its state."""
        if not isinstance(state_dict, Mapping) or not {"state", "param_groups"} <= state_dict.keys():
            raise CheckpointError(f"{self._name}: a state dict has the keys 'state' and 'param_groups'")
        saved, state = state_dict["param_groups"], state_dict["state"]
        if not isinstance(state, Mapping) or not isinstance(saved, (list, tuple)):
            raise CheckpointError(f"{self._name}: 'state' must be a dict and 'param_groups' a list")
        if len(saved) != len(self.param_groups):
            raise CheckpointError(
                f"{self._name}: the state dict has {len(saved)} parameter groups, this one {len(self.param_groups)}"
            )
        groups = []
        for number, (theirs, ours) in enumerate(zip(saved, self.param_groups, strict=True)):
            if not isinstance(theirs, Mapping) or "params" not in theirs:
                raise CheckpointError(f"{self._name}: parameter group {number} of the state dict has no 'params'")
            if len(theirs["params"]) != len(ours["params"]):
                raise CheckpointError(
                    f"{self._name}: group {number} of the state dict has {len(theirs['params'])} parameters, "
                    f"this one {len(ours['params'])}"
                )
            missing = self.defaults.keys() - theirs.keys()
            if missing:
                raise CheckpointError(
                    f"{self._name}: group {number} of the state dict lacks {', '.join(sorted(missing))}; "
                    "was it saved from another optimizer?"
                )
            unknown = theirs.keys() - self.defaults.keys() - {"params", "initial_lr"}
            if unknown:
                raise CheckpointError(
                    f"{self._name}: group {number} of the state dict has options this optimizer does not know: "
                    f"{', '.join(sorted(unknown))}; was it saved from another one?"
                )
            # JSON knows no tuples: betas come back as lists.
            options = {k: tuple(v) if isinstance(v, list) else v for k, v in theirs.items() if k != "params"}
            try:
                self._check_options(options)
            except OptionError as error:
                raise CheckpointError(str(error)) from error
            groups.append(options)
        return groups, state

    def _restored(self, number: int, p: Tensor, options: Group, held: Any) -> dict[str, Any]:
        """Return the state of one parameter on its device, after comparing names and shapes with a fresh state."""
        fresh = self.start(p.array, options)
        place = device_of(p.array)
        if not isinstance(held, Mapping) or held.keys() != {"step", *fresh}:
            names = sorted(held) if isinstance(held, Mapping) else type(held).__name__
            raise CheckpointError(
                f"{self._name}: the state of parameter {number} holds {names}, expected {sorted(['step', *fresh])}; "
                "was it saved from another optimizer, or with other options?"
            )
        restored: dict[str, Any] = {"step": _whole(self._name, number, held["step"])}
        for name, like in fresh.items():
            array = to_host(held[name])  # looked at before it goes to a device, which may not know its type
            if array.shape != like.shape or not is_float(array.dtype):
                raise CheckpointError(
                    f"{self._name}: {name} of parameter {number} is {array.dtype} of shape {tuple(array.shape)}, "
                    f"expected {like.dtype} of shape {tuple(like.shape)}"
                )
            like[...] = place.asarray(array)
            restored[name] = like
        return restored

    def __repr__(self) -> str:
        lines = [self._name]
        for number, group in enumerate(self.param_groups):
            options = ", ".join(f"{k}={v}" for k, v in group.items() if k != "params")
            lines.append(f"  group {number}: {len(group['params'])} parameters, {options}")
        return "\n".join(lines)


def _satisfies(value: Any, holds: Callable[[Any], bool]) -> bool:
    """Whether a number, or each of a tuple of numbers, lies in its range; NaN never does."""
    values = value if isinstance(value, (tuple, list)) else (value,)
    return all(isinstance(v, numbers.Real) and holds(v) for v in values)


def _whole(name: str, number: int, step: Any) -> int:
    count = to_host(step).item() if hasattr(step, "dtype") else step
    if not isinstance(count, (int, float)) or count < 0 or count != int(count):
        raise CheckpointError(f"{name}: the step of parameter {number} is {step!r}, expected a whole number")
    return int(count)
