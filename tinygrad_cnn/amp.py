"""Mixed precision: products of matrices in 16 bits, everything delicate in float32, and gradients that do not vanish.

float16 has 11 bits of precision and reaches from 6e-8 to 65 504, bfloat16 has 8 bits and the range of float32.
`autocast` chooses a type for each op, `GradScaler` keeps small gradients from becoming 0 in float16. Parameters stay
float32 and get float32 gradients; the graph shows every conversion as an op `astype`.

A training step, as in PyTorch:

    with autocast():                        # forward: float16 where it is safe
        loss = criterion(model(x), labels)
    scaler.scale(loss).backward()           # gradients of loss · 2^16
    scaler.step(optimizer)                  # divided again; nothing happens if one of them overflowed
    scaler.update()                         # a smaller scale after an overflow, a larger one after 2000 good steps

Source: Micikevicius et al., Mixed precision training, ICLR 2018.
"""

from __future__ import annotations

import ctypes
import math
import numbers
from collections.abc import Callable, Iterable, Mapping
from contextvars import Token
from functools import wraps
from typing import Any

from . import ops
from .backend import as_dtype, device_of, float16, float32, float64, is_float, is_half, namespace
from .errors import CheckpointError, DTypeError, OptionError, TinygradError
from .graph import Traced, casting

__all__ = ["FLOAT32", "LOW", "GradScaler", "ScalerError", "autocast"]

# Source of both lists: PyTorch 2.13, aten/src/ATen/autocast_mode.h (AT_FORALL_LOWER_PRECISION_FP, AT_FORALL_FP32,
# AT_FORALL_FP32_SET_OPT_DTYPE). Names are those of our ops, and of the functions in nn.functional that consist of
# several ops; functions that are one op (softmax, linear, conv2d) are in the lists under the name of that op.
LOW = frozenset({"conv2d", "conv2d_input_gradient", "einsum_explicit", "linear", "matmul"})
FLOAT32 = frozenset(
    {
        *("exp", "expm1", "log", "log1p", "power", "softplus"),
        *("cumsum", "log_softmax", "logsumexp", "prod", "softmax", "sum"),
        *("binary_cross_entropy", "binary_cross_entropy_with_logits", "huber_loss", "l1_loss", "mse_loss", "nll_loss"),
        *("layer_norm", "smooth_l1_loss"),
    }
)


class ScalerError(TinygradError, RuntimeError):
    """The methods of a `GradScaler` were called in an order that makes no sense."""


def _low_type(dtype: Any) -> Any:
    found = as_dtype(dtype)
    if not is_half(found):
        raise OptionError(f"autocast: dtype must be 'float16' or 'bfloat16', got {dtype!r}")
    return found


class autocast:  # noqa: N801 - PyTorch's name; used like a function
    """Run each op in the type that suits it, in a `with` block or in every call of a decorated function.

    Products of matrices and convolutions (`LOW`) get their float32 inputs as `dtype` and add up in float32.
    Exponentials, logarithms, powers, sums, softmax, losses and layer normalisation (`FLOAT32`) get 16-bit inputs as
    float32. All other ops run in the type they are given, and where two types meet, in the wider one; max pooling and
    ReLU thus stay in 16 bits. Ops with a float64 input are left alone.

    The casts are recorded ops, so gradients come back through them: a float32 parameter gets a float32 gradient. The
    backward pass runs in the types that were recorded, whether `backward()` is called inside of the block or, better
    to read, after it. A parameter that is used twice is cast twice; PyTorch keeps the cast of the first use, and adds
    the two gradients in 16 bits.

    Args:
        dtype: "float16" or "bfloat16" (extra `amp`).
        enabled: False casts nothing in the block, also within another autocast.
        device_type: refused with a hint; PyTorch asks for it.

    Raises:
        OptionError: dtype is neither of the two.
        MissingExtraError: bfloat16 without ml_dtypes.

    >>> from tinygrad_cnn import nn, ones
    >>> from tinygrad_cnn.amp import autocast
    >>> layer = nn.Linear(3, 2)
    >>> with autocast("float16"):
    ...     y = layer(ones(4, 3))
    >>> y.sum().backward()
    >>> y.dtype.name, layer.weight.dtype.name, layer.weight.grad.dtype.name
    ('float16', 'float32', 'float32')
    """

    def __init__(self, dtype: Any = "float16", enabled: bool = True, *, device_type: Any = None) -> None:
        device = dtype if isinstance(dtype, str) and dtype.partition(":")[0] in ("cuda", "cpu") else device_type
        if device is not None:
            raise OptionError(
                f"autocast: the type is the first argument, and the device {device!r} is none, since casts happen "
                "where the tensors are: write autocast('float16') or autocast('bfloat16')"
            )
        self.dtype = _low_type(dtype) if enabled else None
        self.enabled = bool(enabled)
        self._tokens: list[Token[Any]] = []

    def __enter__(self) -> autocast:
        self._tokens.append(casting.set(self._cast if self.enabled else None))
        return self

    def __exit__(self, *exc: object) -> None:
        casting.reset(self._tokens.pop())

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        dtype = self.dtype

        @wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            with autocast(float16 if dtype is None else dtype, self.enabled):
                return function(*args, **kwargs)

        return wrapped

    def __repr__(self) -> str:
        return f"autocast({self.dtype})" if self.enabled else "autocast(enabled=False)"

    def _cast(self, name: str, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the inputs of an op or function in the type that it is to run in."""
        if name in LOW:
            return _in_type(inputs, self.dtype)
        return _in_type(inputs, float32) if name in FLOAT32 else inputs


def _in_type(inputs: tuple[Any, ...], dtype: Any) -> tuple[Any, ...]:
    """Cast what is a float, unless all are plain arrays, or one is float64: then its precision is wanted."""
    if not any(isinstance(x, Traced) for x in inputs):
        return inputs
    given = [getattr(x.array if isinstance(x, Traced) else x, "dtype", None) for x in inputs]
    if any(held is not None and held == float64 for held in given):  # NumPy takes None for float64
        return inputs
    return tuple(
        [
            ops.astype(x, dtype=dtype) if held is not None and held != dtype and is_float(held) else x
            for x, held in zip(inputs, given, strict=True)
        ]
    )


# Loss scaling ---------------------------------------------------------------------------------------------------------


class _Stage:
    """How far a step of one optimizer has come since the last `update()`: its gradients are divided."""

    def __init__(self, finite: list[Any]) -> None:
        self.finite = finite  # one truth per device, as arrays that nobody has looked at
        self.overflowed: bool | None = None
        self.stepped = False

    def look(self) -> bool:
        """Return whether a gradient overflowed. This is where the host waits for a GPU, once per device and step."""
        if self.overflowed is None:
            self.overflowed = not all(map(bool, self.finite))
        return self.overflowed


class GradScaler:
    """Multiplies the loss so that small gradients survive in float16, and divides the gradients before the update.

    The smallest number of float16 is 6e-8; what is smaller becomes 0, and in a network trained in float16 that can be
    half of all gradients. Backward is linear, so the gradients of scale · loss are scale times as large; they are
    divided by the scale in float32, where they fit. A scale that is too large shows in infinite gradients: that step
    is left out, parameters and optimizer stay untouched, and the scale is lowered:

        some gradient infinite or NaN:   scale = backoff_factor · scale, and no update
        growth_interval good steps:      scale = growth_factor · scale

    bfloat16 has the range of float32 and needs no scaling: use `enabled=False`, which makes every method pass through.

    Whether to update is decided on the host, because a left out step must not count in the bias correction of Adam:
    `step()` waits for the gradients once, whatever their number, and nothing else here waits for a GPU. (`update()`
    does where `unscale_()` was called and `step()` was not.)

    Args:
        init_scale: the scale to begin with, 2^16.
        growth_factor: what it is multiplied by after `growth_interval` steps without an overflow.
        backoff_factor: what it is multiplied by after an overflow.
        growth_interval: see above.
        enabled: False lets everything pass as if there were no scaler.

    Raises:
        OptionError: an argument outside of its range.

    >>> from tinygrad_cnn import Tensor, optim
    >>> from tinygrad_cnn.amp import GradScaler
    >>> w = Tensor([1.0], requires_grad=True)
    >>> scaler, sgd = GradScaler(init_scale=1024.0), optim.SGD([w], lr=1.0)
    >>> scaler.scale((w.half() * 1e-8).float().sum()).backward()  # without the scale the gradient would be 0
    >>> scaler.unscale_(sgd)
    >>> f"{w.grad.item():.1e}"
    '1.0e-08'
    >>> scaler.step(sgd)
    >>> scaler.update()
    >>> scaler.get_scale()
    1024.0
    """

    def __init__(
        self,
        init_scale: float = 65536.0,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
        enabled: bool = True,
    ) -> None:
        if isinstance(init_scale, str):
            raise OptionError(
                f"GradScaler: the first argument is the scale to begin with, got {init_scale!r}; "
                "the device is that of the gradients, leave it out"
            )
        self._enabled = bool(enabled)
        self._scale = _float32("init_scale", init_scale, lambda v: v > 0, "a number above 0")
        self._growth_factor = _float("growth_factor", growth_factor, lambda v: v > 1, "a number above 1")
        self._backoff_factor = _float("backoff_factor", backoff_factor, lambda v: 0 < v < 1, "between 0 and 1")
        self._growth_interval = _count("growth_interval", growth_interval, 1)
        self._growth_tracker = 0
        self._stages: dict[int, _Stage] = {}

    def scale(self, outputs: Any) -> Any:
        """Return the loss times the scale, or each of a list or tuple of losses; call `backward()` on the result."""
        if not self._enabled:
            return outputs
        if isinstance(outputs, Traced):
            # A loss of 16 bits might not hold the product.
            return ops.mul(ops.astype(outputs, dtype=float32) if is_half(outputs.array.dtype) else outputs, self._scale)
        if isinstance(outputs, (list, tuple)):
            return type(outputs)([self.scale(value) for value in outputs])
        if isinstance(outputs, Iterable) and not isinstance(outputs, (str, Mapping)) and not hasattr(outputs, "dtype"):
            return map(self.scale, outputs)
        raise DTypeError(f"GradScaler.scale: give a tensor or several, got {type(outputs).__name__}")

    def unscale_(self, optimizer: Any) -> None:
        """Divide the gradients of an optimizer by the scale, once per step: before clipping or looking at them.

        `step()` does it where this was not called. Nothing waits for a GPU here.

        Raises:
            ScalerError: it was called since the last `update()`, or `step()` was.
            DTypeError: a gradient is float16, so it cannot hold what the division makes of it.
        """
        if not self._enabled:
            return
        stage = self._stages.get(id(optimizer))
        if stage is not None and stage.stepped:
            raise ScalerError("unscale_() comes before step(): this optimizer has had its step; call update() first")
        if stage is not None:
            raise ScalerError("unscale_() has been called for this optimizer since the last update()")
        params = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        for p in params:
            if p.grad.array.dtype == float16:
                raise DTypeError(
                    f"GradScaler: the gradient of parameter {p.name or tuple(p.shape)} is float16; keep parameters in "
                    "float32 (model.float()) and let autocast() make the float16 of them"
                )
        inverse = _rounded(1 / self._scale)
        finite: dict[Any, Any] = {}
        for p in params:
            array = p.grad.array
            place, truth = device_of(array), namespace(array).isfinite(array).all()
            finite[place] = truth if place not in finite else finite[place] & truth
            p.grad = p.result_type.made(array * inverse)
        self._stages[id(optimizer)] = _Stage(list(finite.values()))

    def step(self, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        """Call `optimizer.step()` if all its gradients are finite, after `unscale_()` if that was not called.

        Returns:
            What `optimizer.step()` returned; None if it was left out.

        Raises:
            ScalerError: called twice without `update()`, without any gradient, or with a closure.
        """
        if not self._enabled:
            return optimizer.step(*args, **kwargs)
        if kwargs.get("closure", args[0] if args else None) is not None:
            raise ScalerError("GradScaler.step() takes no closure: the loss it computes would have to be scaled")
        stage = self._stages.get(id(optimizer))
        if stage is not None and stage.stepped:
            raise ScalerError("step() has been called for this optimizer since the last update()")
        if stage is None:
            self.unscale_(optimizer)
            stage = self._stages[id(optimizer)]
        if not stage.finite:
            del self._stages[id(optimizer)]
            raise ScalerError(
                "no parameter of this optimizer has a gradient: was scaler.scale(loss).backward() called?"
            )
        stage.stepped = True
        return None if stage.look() else optimizer.step(*args, **kwargs)

    def update(self, new_scale: float | None = None) -> None:
        """Choose the scale of the next step; call it once after the steps of all optimizers.

        Args:
            new_scale: take this instead.

        Raises:
            ScalerError: no optimizer has had a step, so there is nothing to judge by.
            OptionError: new_scale is no number above 0.
        """
        if not self._enabled:
            return
        if new_scale is not None:
            value = new_scale.item() if isinstance(new_scale, Traced) else new_scale
            self._scale = _float32("new_scale", value, lambda v: v > 0, "a number above 0")
        elif not self._stages:
            raise ScalerError("update() judges by the gradients of a step: call step(optimizer) first")
        elif any(stage.look() for stage in self._stages.values()):
            self._scale = _rounded(self._scale * self._backoff_factor)
            self._growth_tracker = 0
        else:
            self._growth_tracker += 1
            if self._growth_tracker == self._growth_interval:
                grown = _rounded(self._scale * self._growth_factor)
                self._scale = grown if math.isfinite(grown) else self._scale
                self._growth_tracker = 0
        self._stages.clear()

    def get_scale(self) -> float:
        """Return the scale; 1 if scaling is not enabled."""
        return self._scale if self._enabled else 1.0

    def is_enabled(self) -> bool:
        """Return whether this scaler does anything."""
        return self._enabled

    def state_dict(self) -> dict[str, Any]:
        """Return everything needed to go on later, with the keys of PyTorch; empty if scaling is not enabled."""
        if not self._enabled:
            return {}
        return {
            "scale": self._scale,
            "growth_factor": self._growth_factor,
            "backoff_factor": self._backoff_factor,
            "growth_interval": self._growth_interval,
            "_growth_tracker": self._growth_tracker,
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over what `state_dict()` returned.

        Raises:
            CheckpointError: it was saved from a scaler that was not enabled, or a value is missing or out of range;
                nothing has changed then.
        """
        if not self._enabled:
            return
        if not isinstance(state_dict, Mapping) or not state_dict:
            raise CheckpointError("GradScaler: the state dict is empty; was it saved with enabled=False?")
        try:
            loaded = GradScaler(
                *(state_dict[name] for name in ("scale", "growth_factor", "backoff_factor", "growth_interval"))
            )
            loaded._growth_tracker = _count("_growth_tracker", state_dict["_growth_tracker"], 0)
        except KeyError as error:
            raise CheckpointError(f"GradScaler: the state dict lacks {error}") from error
        except OptionError as error:
            raise CheckpointError(str(error)) from error
        vars(self).update(vars(loaded))

    def __repr__(self) -> str:
        return f"GradScaler(scale={self._scale:g})" if self._enabled else "GradScaler(enabled=False)"


def _rounded(value: float) -> float:
    """Return the float32 nearest to a number, infinity if it is too large."""
    return float(ctypes.c_float(value).value)


def _float(name: str, value: Any, holds: Callable[[Any], bool], expected: str) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value) or not holds(value):
        raise OptionError(f"GradScaler: {name} must be {expected}, got {value!r}")
    return float(value)


def _float32(name: str, value: Any, holds: Callable[[Any], bool], expected: str) -> float:
    return _float(name, _rounded(_float(name, value, holds, expected)), holds, f"{expected} that float32 can hold")


def _count(name: str, value: Any, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
        raise OptionError(f"GradScaler: {name} must be a whole number from {least} on, got {value!r}")
    return int(value)
