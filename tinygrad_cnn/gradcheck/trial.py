"""One independent case in which a suspected mistake has to reproduce the wrong gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .derivative import directional, jacobian
from .problem import Array, Problem

__all__ = ["Trial", "numeric_reference"]

# A Jacobian is kept whole below this number of elements; above, only its product with one upstream gradient.
WHOLE = 4_000_000
# The most evaluations of the forward function spent on one gradient of a wrong reference.
MOST_EVALUATIONS = 12_000


def numeric_reference(problem: Problem) -> Callable[..., Any]:
    """A rule like the one under test, but right: `ref(dout, *args, **options)` by finite differences."""

    def ref(dout: Any, *args: Any, **options: Any) -> Any:
        there = Problem(problem.forward, problem.backward, args, options, wrt=problem.wrt, names=problem.names)
        there.f(there.z)
        outputs = dout if there.several else [dout]
        for d, shape in zip(outputs, there.output_shapes, strict=True):
            if np.shape(d) != shape:
                raise ValueError(f"the upstream gradient has shape {np.shape(d)}, the output {shape}")
        g = there.flat(outputs)
        if 4 * there.z.size > MOST_EVALUATIONS:
            raise ValueError("too many entries")

        def projected(z: Array) -> Array:
            return np.array([g @ there.f(z)])

        found = jacobian(projected, there.z, np.arange(there.z.size), projected(there.z))
        parts = there.arrays(found.values[0])
        return parts[0] if len(parts) == 1 else tuple(parts)

    return ref


class Trial:
    """A point, an upstream gradient, what the rule under test says there, and what is right.

    Attributes:
        problem: the point.
        g: the upstream gradient as a vector.
        stated: what the rule returned, per checked input (any shape), or None where that is no array.
        right: the right gradient, per checked input.
        ref: `ref(dout, *args, **options)`: the right rule anywhere.
        raised: the error of the rule under test, or "".
        exact: whether `right` comes from a rule rather than from differences.
    """

    def __init__(self, problem: Problem, rng: np.random.Generator) -> None:
        self.problem = problem
        z = problem.z
        self.y = problem.f(z)
        self.g = rng.normal(size=self.y.size)
        self.dout = problem.cotangent(self.g)
        self.stated: list[Array | None] = []
        self.raised = ""
        try:
            results = problem.rule(self.g)
        except Exception as error:
            results, self.raised = [None] * len(problem.wrt), f"{type(error).__name__}: {error}"
        for raw in results:
            array = None if raw is None else np.asarray(raw)
            self.stated.append(array.astype(float) if array is not None and array.dtype.kind in "fiub" else None)
        self._matrix: Array | None = None
        self.exact = False
        self.ref = numeric_reference(problem)
        if problem.reference is not None and self._agrees(problem.reference):
            self.ref = problem.reference
        elif self.y.size * z.size <= WHOLE and 4 * z.size <= MOST_EVALUATIONS:
            self.right = problem.arrays(self.g @ self.matrix)
        else:
            raise ValueError("too many entries for a reference")

    @property
    def matrix(self) -> Array:
        """The Jacobian by differences, (outputs, entries); computed when first asked for."""
        if self._matrix is None:
            z = self.problem.z
            found = jacobian(self.problem.f, z, np.arange(z.size), self.y, fingerprint=self.problem.watch)
            self._matrix = found.values
        return self._matrix

    def _agrees(self, reference: Callable[..., Any]) -> bool:
        """Whether a reference is right along a few random directions; if so, it is used from now on."""
        p = self.problem
        try:
            theirs = p.results(reference(self.dout, *self.args(), **p.options))
            right = [np.array(a, dtype=float) for a in theirs]
        except Exception:
            return False
        if [a.shape for a in right] != p.shapes:
            return False
        flat, rng = p.flat(right), np.random.default_rng(0)
        for _ in range(2):
            v = rng.normal(size=p.z.shape)
            v /= float(np.linalg.norm(v)) or 1.0
            value, error = directional(p.f, p.z, v)
            slack = 8 * float(np.abs(self.g) @ error) + 1e-7 * float(np.linalg.norm(flat))
            if not abs(float(self.g @ value) - float(flat @ v)) <= slack:
                return False
        self.right, self.exact = right, True
        return True

    def args(self) -> tuple[Any, ...]:
        """All arguments at this point, fresh copies."""
        return self.problem.all_args(self.problem.z)

    def at(self, dout: Any, args: tuple[Any, ...], options: dict[str, Any]) -> list[Any]:
        """The right gradients for changed ingredients, or an exception where they do not fit."""
        return self.problem.results(self.ref(dout, *args, **options))

    def vjp(self, g: Array, k: int) -> Array:
        """The right gradient of checked input k for another upstream gradient at this point."""
        p = self.problem
        if not self.exact:
            return np.asarray((g @ self.matrix[:, p.part(k)]).reshape(p.shapes[k]))
        return np.asarray(self.at(p.cotangent(g), self.args(), p.options)[k], dtype=float)

    def peek(self, args: tuple[Any, ...], options: dict[str, Any], k: int, entries: Array) -> Array:
        """A few entries of the right gradient of checked input k for changed ingredients, by differences."""
        p = self.problem
        there = Problem(p.forward, p.backward, args, options, wrt=p.wrt, names=p.names)
        f0 = there.f(there.z)
        if there.output_shapes != p.output_shapes:
            raise ValueError("another output shape")
        found = jacobian(
            lambda z: np.array([self.g @ there.f(z)]), there.z, entries + there.bounds[k], np.array([self.g @ f0])
        )
        return np.asarray(found.values[0])

    def block(self, k: int) -> Array | None:
        """The Jacobian with respect to checked input k, (outputs, entries), if it is square and of moderate size."""
        size = int(np.prod(self.problem.shapes[k], dtype=int))
        if self.y.size != size or 4 * self.problem.z.size > MOST_EVALUATIONS or size > 2_000:
            return None
        return self.matrix[:, self.problem.part(k)]
