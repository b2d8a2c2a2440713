"""Small parameters updated as one long vector."""

from __future__ import annotations

from typing import Any

from ..backend import namespace
from ..tensor import Tensor

__all__ = ["SMALL", "Bundle", "bundles"]

# Parameters with more elements are updated on their own: there the call is cheap beside the work, a copy is not.
SMALL = 1 << 16


class Bundle:
    """Several parameters of one type and device, laid end to end.

    Update rules are elementwise, so ten small parameters can be one vector: each line of the rule is one call instead
    of ten. The results are the same to the last bit. State lives in long arrays, of which each parameter's state is a
    part; values and gradients are copied in before a step, and values back after it.

    Args:
        params: the parameters.
        states: the state of each, whose arrays are replaced by parts of the long ones.
    """

    def __init__(self, params: list[Tensor], states: list[dict[str, Any]]) -> None:
        like = params[0].array
        total = sum(p.size for p in params)
        self.params, self.states = params, states
        self.p, self.g = (namespace(like).empty(total, dtype=like.dtype) for _ in range(2))
        self.parts = list(zip(self._cut(self.p), self._cut(self.g), strict=True))
        self.state: dict[str, Any] = {"step": states[0]["step"]}
        self.held: list[dict[str, Any]] = [{} for _ in states]
        for name in states[0].keys() - {"step"}:
            long = self.state[name] = namespace(like).empty(total, dtype=like.dtype)
            for state, part in zip(states, self._cut(long), strict=True):
                part[...] = state[name]
            self._share(name)

    def _share(self, name: str) -> None:
        """Give each parameter its part of a long array of the state."""
        for state, held, part in zip(self.states, self.held, self._cut(self.state[name]), strict=True):
            state[name] = held[name] = part

    def _cut(self, long: Any) -> list[Any]:
        """Return the part of a long array that belongs to each parameter, in its shape."""
        parts = []
        start = 0
        for p in self.params:
            parts.append(long[start : start + p.size].reshape(p.shape))
            start += p.size
        return parts

    def is_intact(self, states: dict[Tensor, dict[str, Any]]) -> bool:
        """Return whether the states of the parameters still are as the last step left them."""
        return all(
            states.get(p) is state
            and state["step"] == self.state["step"]
            and all(state.get(name) is part for name, part in held.items())
            for p, state, held in zip(self.params, self.states, self.held, strict=True)
        )

    def gather(self) -> None:
        """Copy values and gradients in, and count the step."""
        for p, state, (value, gradient) in zip(self.params, self.states, self.parts, strict=True):
            value[...] = p.array
            gradient[...] = p.grad.array
            state["step"] += 1
        self.state["step"] += 1

    def scatter(self) -> None:
        """Copy values back, and share out what the rule has added to the state."""
        for p, (value, _) in zip(self.params, self.parts, strict=True):
            p.array[...] = value
            p.edited()
        for name in self.state.keys() - self.held[0].keys() - {"step"}:
            self._share(name)


def bundles(params: list[Tensor], states: dict[Tensor, dict[str, Any]]) -> list[Bundle | Tensor]:
    """Return the parameters in bundles of what can be updated together, those left over as they are."""
    alike: dict[Any, list[Tensor]] = {}
    rest: list[Bundle | Tensor] = []
    for p in params:
        if p.size > SMALL:
            rest.append(p)
        else:
            alike.setdefault((p.device, p.dtype, states[p]["step"], tuple(states[p])), []).append(p)
    for group in alike.values():
        rest.append(Bundle(group, [states[p] for p in group]) if len(group) > 1 else group[0])
    return rest
