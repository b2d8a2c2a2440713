"""Stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from ..backend import namespace
from ..errors import OptionError
from .optimizer import Group, Optimizer

__all__ = ["SGD"]


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum if asked:

        b = momentum b + (1 - dampening) g      (b = g at the first step)
        g = b,   or with nesterov   g = g + momentum b
        p = p - lr g

    As in PyTorch the velocity b is not multiplied by lr, so a change of lr acts at once.

    Args:
        params: tensors or groups of them.
        lr: the learning rate.
        momentum: share of the velocity kept from step to step, 0 for plain gradient descent.
        dampening: share of the new gradient left out of the velocity.
        weight_decay: the L2 penalty; see `Optimizer` for it and the further options.
        nesterov: look ahead along the velocity. Needs a momentum and no dampening.
        l1: the L1 penalty.
        decoupled_weight_decay: shrink the parameter itself instead of adding to the gradient.
        maximize: climb instead of descend.

    Raises:
        OptionError: no parameters, an option outside of its range, or nesterov without momentum.

    Source: Robbins & Monro, Ann. Math. Stat. 22, 1951; Polyak, 1964; Nesterov, 1983; in the form of Sutskever et al.,
    ICML 2013.

    >>> from tinygrad_cnn import Tensor, optim
    >>> x = Tensor([1.0, -2.0], requires_grad=True)
    >>> sgd = optim.SGD([x], lr=0.1)
    >>> (x * x).sum().backward()
    >>> sgd.step()
    >>> x
    Tensor([ 0.8, -1.6], dtype=float32, requires_grad=True)
    """

    elementwise: ClassVar[bool] = True
    ranges: ClassVar[dict[str, Any]] = {
        "momentum": (lambda value: value >= 0, "must be at least 0"),
    }

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        l1: float = 0.0,
        decoupled_weight_decay: bool = False,
        maximize: bool = False,
    ) -> None:
        options = {
            "lr": lr, "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay, "nesterov": nesterov,
            "l1": l1, "decoupled_weight_decay": decoupled_weight_decay, "maximize": maximize,
        }  # fmt: skip
        super().__init__(params, options)

    def _check_options(self, options: Group) -> None:
        super()._check_options(options)
        if options["nesterov"] and (options["momentum"] <= 0 or options["dampening"] != 0):
            raise OptionError(
                "SGD: nesterov needs a momentum above 0 and a dampening of 0, "
                f"got momentum={options['momentum']} and dampening={options['dampening']}"
            )

    def start(self, p: Any, group: Group) -> dict[str, Any]:
        return {"momentum_buffer": namespace(p).zeros_like(p)} if group["momentum"] else {}

    def update(self, p: Any, g: Any, state: dict[str, Any], group: Group) -> None:
        momentum = group["momentum"]
        if momentum:
            b = state.get("momentum_buffer")
            if b is None:  # momentum was switched on after the first steps
                b = state["momentum_buffer"] = namespace(p).zeros_like(p)
                b += g
            elif state["step"] == 1:
                b += g
            else:
                b *= momentum
                b += (1 - group["dampening"]) * g
            g = g + momentum * b if group["nesterov"] else b
        p -= group["lr"] * g
