"""Adam and its relatives: steps scaled by running moments of the gradient."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from ..backend import kernels, namespace
from ..errors import OptionError
from .optimizer import Group, Optimizer

__all__ = ["Adam", "AdamW", "Adamax"]

_BETAS = (lambda value: 0 <= value < 1, "must be two numbers in [0, 1)")


def _check_pair(betas: Any) -> None:
    if not isinstance(betas, (tuple, list)) or len(betas) != 2:
        raise OptionError(f"betas must be two numbers in [0, 1), got {betas!r}")


class Adam(Optimizer):
    """Adam, Algorithm 1 of Kingma & Ba:

        m = β1 m + (1 - β1) g               first moment: running mean of the gradient
        v = β2 v + (1 - β2) g²              second moment: running mean of its square
        m̂ = m / (1 - β1^t)                  both start at 0 and are too small at first,
        v̂ = v / (1 - β2^t)                  which this corrects; t = 1, 2, ...
        p = p - lr m̂ / (√v̂ + eps)

    Two misprints of these lines are in circulation. In one the second moment averages m instead of itself,
    v = β2 m + (1 - β2) g², which mixes a gradient with its square and can turn v negative. In the other the root is
    missing, p = p - lr m̂ / (v̂ + eps), which makes the step depend on the scale of the loss: Adam's steps do not change
    when the loss is multiplied by a constant, those of the misprint shrink by it. With the lines above the first step
    has length lr in each coordinate, whatever the gradient; see the example.

    The order of operations is that of PyTorch: eps is added after the root has been corrected, as in Algorithm 1, and
    not to the uncorrected root as in the paper's section 2 and in Keras ("epsilon hat").

    Args:
        params: tensors or groups of them.
        lr: the step size α of the paper, 0.001.
        betas: (β1, β2), how fast the two running means forget.
        eps: keeps the division finite.
        weight_decay: the L2 penalty, added to the gradient; see `Optimizer` for it and the further options.
        amsgrad: divide by the largest v so far instead of v (Reddi, Kale & Kumar, ICLR 2018).
        decoupled_weight_decay: shrink the parameter itself instead: `AdamW`.
        l1: the L1 penalty.
        maximize: climb instead of descend.

    Raises:
        OptionError: no parameters, or an option outside of its range.

    Source: Kingma & Ba, Adam: a method for stochastic optimization, ICLR 2015.

    >>> from tinygrad_cnn import Tensor, optim
    >>> x = Tensor([1.0, 1.0], dtype="float64", requires_grad=True)
    >>> adam = optim.Adam([x], lr=0.1)
    >>> for _ in range(2):
    ...     adam.zero_grad()
    ...     (x * x * Tensor([1.0, 1000.0], dtype="float64")).sum().backward()
    ...     adam.step()
    ...     print(x.tolist())
    [0.9000000005, 0.9000000000005]
    [0.8004122..., 0.8004122...]
    """

    elementwise: ClassVar[bool] = True
    shared: ClassVar[dict[str, Any]] = {**Optimizer.shared, "amsgrad": False}
    ranges: ClassVar[dict[str, Any]] = {"betas": _BETAS}

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        decoupled_weight_decay: bool = False,
        l1: float = 0.0,
        maximize: bool = False,
    ) -> None:
        options = {
            "lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "amsgrad": amsgrad,
            "decoupled_weight_decay": decoupled_weight_decay, "l1": l1, "maximize": maximize,
        }  # fmt: skip
        super().__init__(params, options)

    def _check_options(self, options: Group) -> None:
        super()._check_options(options)
        _check_pair(options["betas"])

    def start(self, p: Any, group: Group) -> dict[str, Any]:
        xp = namespace(p)
        names = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq") if group["amsgrad"] else ("exp_avg", "exp_avg_sq")
        return {name: xp.zeros_like(p) for name in names}

    def update(self, p: Any, g: Any, state: dict[str, Any], group: Group) -> None:
        m, v, t = state["exp_avg"], state["exp_avg_sq"], state["step"]
        lr, (beta1, beta2), eps = group["lr"], group["betas"], group["eps"]
        fused = getattr(kernels(p), "adam_step", None)
        if fused is not None and p.ndim and not group["amsgrad"]:
            fused(p, g, m, v, step=t, lr=lr, beta1=beta1, beta2=beta2, eps=eps)
            return
        xp = namespace(p)
        m *= beta1
        m += (1 - beta1) * g
        v *= beta2
        v += (1 - beta2) * (g * g)
        if group["amsgrad"]:
            v = xp.maximum(state["max_exp_avg_sq"], v, out=state["max_exp_avg_sq"])
        root = xp.sqrt(v) / (1 - beta2**t) ** 0.5
        p -= (lr / (1 - beta1**t)) * (m / (root + eps))


class AdamW(Adam):
    """Adam with decoupled weight decay: p = p - lr weight_decay p, then a step of `Adam` on the bare gradient.

    An L2 penalty in the gradient would be divided by √v̂ like the rest of it, so that weights with large gradients
    hardly decay. Taken off the weight itself, all decay alike.

    Args:
        params, lr, betas, eps, amsgrad, l1, maximize: as in `Adam`.
        weight_decay: what a parameter loses per step, times lr.

    Raises:
        OptionError: no parameters, or an option outside of its range.

    Source: Loshchilov & Hutter, Decoupled weight decay regularization, ICLR 2019.

    >>> from tinygrad_cnn import Tensor, optim
    >>> x = Tensor([2.0], requires_grad=True)
    >>> adamw = optim.AdamW([x], lr=0.5, weight_decay=0.1)
    >>> (x * 3.0).sum().backward()
    >>> adamw.step()
    >>> x.item()  # 2 - 0.5 * 0.1 * 2, then a step of length 0.5
    1.399999976158142
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        l1: float = 0.0,
        maximize: bool = False,
    ) -> None:
        super().__init__(
            params, lr, betas, eps, weight_decay, amsgrad, decoupled_weight_decay=True, l1=l1, maximize=maximize
        )


class Adamax(Optimizer):
    """Adam with the infinity norm, Algorithm 2 of the same paper:

        m = β1 m + (1 - β1) g
        u = max(β2 u, |g| + eps)
        p = p - lr / (1 - β1^t) · m / u

    The eps is not in the paper; as in PyTorch it keeps 0/0 away.

    Args:
        params, lr, betas, eps, weight_decay, l1, decoupled_weight_decay, maximize: as in `Adam`; lr is 0.002.

    Raises:
        OptionError: no parameters, or an option outside of its range.

    Source: Kingma & Ba, ICLR 2015, section 7.1.
    """

    elementwise: ClassVar[bool] = True
    ranges: ClassVar[dict[str, Any]] = {"betas": _BETAS}

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        l1: float = 0.0,
        decoupled_weight_decay: bool = False,
        maximize: bool = False,
    ) -> None:
        options = {
            "lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay,
            "l1": l1, "decoupled_weight_decay": decoupled_weight_decay, "maximize": maximize,
        }  # fmt: skip
        super().__init__(params, options)

    def _check_options(self, options: Group) -> None:
        super()._check_options(options)
        _check_pair(options["betas"])

    def start(self, p: Any, group: Group) -> dict[str, Any]:
        xp = namespace(p)
        return {"exp_avg": xp.zeros_like(p), "exp_inf": xp.zeros_like(p)}

    def update(self, p: Any, g: Any, state: dict[str, Any], group: Group) -> None:
        xp = namespace(p)
        m, u, t = state["exp_avg"], state["exp_inf"], state["step"]
        beta1, beta2 = group["betas"]
        m *= beta1
        m += (1 - beta1) * g
        u *= beta2
        xp.maximum(u, abs(g) + group["eps"], out=u)
        p -= (group["lr"] / (1 - beta1**t)) * (m / u)
