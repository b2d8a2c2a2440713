"""Steps scaled per coordinate by past gradients: AdaGrad, RMSprop, AdaDelta."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from ..backend import namespace
from .optimizer import Group, Optimizer

__all__ = ["AdaDelta", "AdaGrad", "Adadelta", "Adagrad", "RMSProp", "RMSprop"]

_AT_LEAST_0 = (lambda value: value >= 0, "must be at least 0")
_SHARE = (lambda value: 0 <= value <= 1, "must be in [0, 1]")


class RMSprop(Optimizer):
    """Divide the gradient by a running root mean square of itself:

        s = α s + (1 - α) g²
        r = √s + eps,   or centered:   a = α a + (1 - α) g,   r = √(s - a²) + eps
        p = p - lr g / r,   or with momentum:   b = momentum b + g / r,   p = p - lr b

    Args:
        params: tensors or groups of them.
        lr: the learning rate.
        alpha: how fast the running means forget.
        eps: keeps the division finite; added outside of the root, as in PyTorch.
        weight_decay: the L2 penalty; see `Optimizer` for it and the further options.
        momentum: share of the velocity kept from step to step.
        centered: divide by the standard deviation instead.
        l1, decoupled_weight_decay, maximize: as in `Optimizer`.

    Raises:
        OptionError: no parameters, or an option outside of its range.

    Source: Tieleman & Hinton, Neural networks for machine learning, lecture 6.5, 2012; centered: Graves, 2013.
    """

    elementwise: ClassVar[bool] = True
    ranges: ClassVar[dict[str, Any]] = {"alpha": _SHARE, "momentum": _AT_LEAST_0}

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        *,
        l1: float = 0.0,
        decoupled_weight_decay: bool = False,
        maximize: bool = False,
    ) -> None:
        options = {
            "lr": lr, "alpha": alpha, "eps": eps, "weight_decay": weight_decay, "momentum": momentum,
            "centered": centered, "l1": l1, "decoupled_weight_decay": decoupled_weight_decay, "maximize": maximize,
        }  # fmt: skip
        super().__init__(params, options)

    def start(self, p: Any, group: Group) -> dict[str, Any]:
        names = ["square_avg"]
        if group["momentum"]:
            names.append("momentum_buffer")
        if group["centered"]:
            names.append("grad_avg")
        return {name: namespace(p).zeros_like(p) for name in names}

    def update(self, p: Any, g: Any, state: dict[str, Any], group: Group) -> None:
        xp = namespace(p)
        alpha, s = group["alpha"], state["square_avg"]
        s *= alpha
        s += (1 - alpha) * (g * g)
        if group["centered"]:
            a = state["grad_avg"]
            a += (1 - alpha) * (g - a)
            r = xp.sqrt(s - a * a) + group["eps"]
        else:
            r = xp.sqrt(s) + group["eps"]
        if group["momentum"]:
            b = state["momentum_buffer"]
            b *= group["momentum"]
            b += g / r
            p -= group["lr"] * b
        else:
            p -= group["lr"] * (g / r)


class Adagrad(Optimizer):
    """Divide the gradient by the root of the sum of all its squares so far:

        s = s + g²
        p = p - lr / (1 + (t - 1) lr_decay) · g / (√s + eps)

    Args:
        params: tensors or groups of them.
        lr: the learning rate.
        lr_decay: by how much a further step divides it.
        weight_decay: the L2 penalty; see `Optimizer` for it and the further options.
        initial_accumulator_value: where s starts.
        eps: keeps the division finite.
        l1, decoupled_weight_decay, maximize: as in `Optimizer`.

    Raises:
        OptionError: no parameters, or an option outside of its range.

    Source: Duchi, Hazan & Singer, JMLR 12, 2011.
    """

    elementwise: ClassVar[bool] = True
    ranges: ClassVar[dict[str, Any]] = {"lr_decay": _AT_LEAST_0, "initial_accumulator_value": _AT_LEAST_0}

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        *,
        l1: float = 0.0,
        decoupled_weight_decay: bool = False,
        maximize: bool = False,
    ) -> None:
        options = {
            "lr": lr, "lr_decay": lr_decay, "weight_decay": weight_decay, "eps": eps,
            "initial_accumulator_value": initial_accumulator_value,
            "l1": l1, "decoupled_weight_decay": decoupled_weight_decay, "maximize": maximize,
        }  # fmt: skip
        super().__init__(params, options)

    def start(self, p: Any, group: Group) -> dict[str, Any]:
        return {"sum": namespace(p).full_like(p, group["initial_accumulator_value"])}

    def update(self, p: Any, g: Any, state: dict[str, Any], group: Group) -> None:
        s = state["sum"]
        s += g * g
        lr = group["lr"] / (1 + (state["step"] - 1) * group["lr_decay"])
        p -= lr * (g / (namespace(p).sqrt(s) + group["eps"]))


class Adadelta(Optimizer):
    """Give the step the units of the parameter, from running mean squares of gradients and of past steps:

        s = ρ s + (1 - ρ) g²
        d = √(a + eps) / √(s + eps) · g
        a = ρ a + (1 - ρ) d²
        p = p - lr d

    Args:
        params: tensors or groups of them.
        lr: a factor on the step; 1 is the paper's method.
        rho: how fast the running means forget.
        eps: keeps the first steps from being 0. It stands inside of the roots.
        weight_decay: the L2 penalty; see `Optimizer` for it and the further options.
        l1, decoupled_weight_decay, maximize: as in `Optimizer`.

    Raises:
        OptionError: no parameters, or an option outside of its range.

    Source: Zeiler, arXiv:1212.5701, 2012.
    """

    elementwise: ClassVar[bool] = True
    ranges: ClassVar[dict[str, Any]] = {"rho": _SHARE}

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1.0,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        *,
        l1: float = 0.0,
        decoupled_weight_decay: bool = False,
        maximize: bool = False,
    ) -> None:
        options = {
            "lr": lr, "rho": rho, "eps": eps, "weight_decay": weight_decay,
            "l1": l1, "decoupled_weight_decay": decoupled_weight_decay, "maximize": maximize,
        }  # fmt: skip
        super().__init__(params, options)

    def start(self, p: Any, group: Group) -> dict[str, Any]:
        xp = namespace(p)
        return {"square_avg": xp.zeros_like(p), "acc_delta": xp.zeros_like(p)}

    def update(self, p: Any, g: Any, state: dict[str, Any], group: Group) -> None:
        xp = namespace(p)
        s, a, rho, eps = state["square_avg"], state["acc_delta"], group["rho"], group["eps"]
        s *= rho
        s += (1 - rho) * (g * g)
        d = xp.sqrt(a + eps) / xp.sqrt(s + eps) * g
        a *= rho
        a += (1 - rho) * (d * d)
        p -= group["lr"] * d


# The spellings of the papers.
RMSProp = RMSprop
AdaGrad = Adagrad
AdaDelta = Adadelta
