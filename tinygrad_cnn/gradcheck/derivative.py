"""Numerical derivatives with an error estimate.

    C(h) = (f(z + h e) - f(z - h e)) / 2h          error O(h^2)
    D(h) = (4 C(h/2) - C(h)) / 3                   error O(h^4)
    E(h) = (16 D(h/2) - D(h)) / 15                 error O(h^6)

and a kink shows in the second difference: with G(h) = (f(z+h) - 2 f(z) + f(z-h)) / h, the number 2 G(h/2) - G(h) is
O(h^3) where f is smooth, and the size of the jump in the slope where it is not.

Source: Ridders, Adv. Eng. Software 4(2), 1982; Richardson, Phil. Trans. A 210, 1911.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .problem import Array

__all__ = ["Jacobian", "along", "complex_step", "directional", "jacobian", "one_sided", "slopes"]

EPSILON = float(np.finfo(np.float64).eps)
FIRST_STEP = 1e-3
LAST_STEP = 1e-7
# A jump in slope below this share of the slope itself is curvature or noise.
JUMP = 1e-4

Function = Callable[[Array], Array]
Fingerprint = Callable[[Array], "bytes | None"]


@dataclass
class Jacobian:
    """Columns of a Jacobian, found numerically.

    Attributes:
        entries: which entries of z the columns belong to.
        values: (outputs, columns).
        errors: bounds for the error of `values`.
        kinks: where the function has a kink at z itself.
        right, left: one-sided derivatives, equal to `values` away from kinks.
        steps: the first step used for each column.
        sure: columns whose error is an estimate from several steps, not from two only.
    """

    entries: Array
    values: Array
    errors: Array
    kinks: Array
    right: Array
    left: Array
    steps: Array
    sure: Array


def _noise(*values: Array) -> Array:
    top = np.abs(values[0])
    for v in values[1:]:
        top = np.maximum(top, np.abs(v))
    return EPSILON * top


def along(f: Function, z: Array, v: Array, f0: Array, first: float, last: float) -> tuple[Array, Array, Array, Array]:
    """Derivative of f at z in direction v from a ladder of halved steps: values, errors, and both one-sided slopes.

    Per output, the rung with the smallest error estimate wins.
    """
    count = max(4, int(np.ceil(np.log2(first / last))) + 1)
    steps = first * 0.5 ** np.arange(count)
    with np.errstate(all="ignore"):
        plus = np.stack([f(z + h * v) for h in steps])
        minus = np.stack([f(z - h * v) for h in steps])
        h = steps.reshape(-1, 1)
        noise = _noise(plus, minus, np.broadcast_to(f0, plus.shape)) / h
        central = (plus - minus) / (2 * h)
        value, error = _best(central, noise, (4.0, 16.0))
        right, right_error = _best((plus - f0) / h, 2 * noise, (2.0, 4.0, 8.0))
        left, left_error = _best((f0 - minus) / h, 2 * noise, (2.0, 4.0, 8.0))
    sides = np.stack([right, left])
    return value, error, sides, np.stack([right_error, left_error])


def _best(rungs: Array, noise: Array, powers: tuple[float, ...]) -> tuple[Array, Array]:
    """Extrapolate a ladder and take, per output, the rung whose last two orders agree best."""
    table, previous = rungs, rungs
    for p in powers:
        previous = table
        table = (p * table[1:] - table[:-1]) / (p - 1)
    finer = previous[1:]
    error = np.abs(table - finer) + 4 * noise[len(powers) :]
    error = np.where(np.isfinite(error) & np.isfinite(table), error, np.inf)
    which = np.argmin(error, axis=0)
    columns = np.arange(rungs.shape[1])
    value, best = table[which, columns], error[which, columns]
    return np.where(np.isfinite(best), value, np.nan), best


def directional(f: Function, z: Array, v: Array) -> tuple[Array, Array]:
    """Derivative of f at z in direction v, per output, with a bound for its error.

    >>> value, error = directional(np.sin, np.array([1.0]), np.array([1.0]))
    >>> bool(abs(value[0] - np.cos(1.0)) < 1e-11), bool(error[0] < 1e-10)
    (True, True)
    """
    scale = max(1.0, float(np.max(np.abs(z[v != 0]), initial=0.0)))
    size = float(np.max(np.abs(v), initial=0.0)) or 1.0
    value, error, _, _ = along(f, z, v, f(z), FIRST_STEP * scale / size, LAST_STEP * scale / size)
    return value, error


def slopes(f: Function, z: Array, v: Array) -> tuple[Array, Array, Array, Array]:
    """Derivatives of f at z in direction v: the lower and the higher slope per output, an error, and where they differ.

    Away from kinks both slopes are the derivative.
    """
    scale = max(1.0, float(np.max(np.abs(z[v != 0]), initial=0.0)))
    size = float(np.max(np.abs(v), initial=0.0)) or 1.0
    value, error, sides, side_errors = along(f, z, v, f(z), FIRST_STEP * scale / size, LAST_STEP * scale / size)
    gap = np.abs(sides[0] - sides[1])
    kinks = gap > 8 * side_errors.sum(axis=0) + JUMP * np.abs(sides).max(axis=0)
    kinks &= np.isfinite(gap)
    low, high = np.where(kinks, sides.min(axis=0), value), np.where(kinks, sides.max(axis=0), value)
    return low, high, np.where(kinks, side_errors.max(axis=0), error), kinks


def one_sided(f: Function, z: Array, v: Array, f0: Array) -> tuple[Array, Array]:
    """The derivative from the right in direction v, lim (f(z + h v) - f(z)) / h, with a bound for its error."""
    size = float(np.max(np.abs(v), initial=0.0)) or 1.0
    scale = max(1.0, float(np.max(np.abs(z[v != 0]), initial=0.0))) / size
    count = int(np.ceil(np.log2(FIRST_STEP / 1e-6)))
    steps = FIRST_STEP * scale * 0.5 ** np.arange(count)
    with np.errstate(all="ignore"):
        plus = np.stack([f(z + h * v) for h in steps])
        h = steps.reshape(-1, 1)
        noise = 2 * _noise(plus, np.broadcast_to(f0, plus.shape)) / h
        return _best((plus - f0) / h, noise, (2.0, 4.0, 8.0))


def jacobian(
    f: Function,
    z: Array,
    entries: Array,
    f0: Array,
    *,
    fingerprint: Fingerprint | None = None,
    first: float = FIRST_STEP,
) -> Jacobian:
    """Columns `entries` of the Jacobian of f at z, two steps each; columns that look rough are examined further."""
    entries = np.asarray(entries, dtype=int)
    m, n = f0.size, len(entries)
    values, errors = np.empty((m, n)), np.empty((m, n))
    found = Jacobian(entries, values, errors, np.zeros((m, n), bool), values, values, np.empty(n), np.zeros(n, bool))
    print0 = fingerprint(z) if fingerprint is not None else None
    rough = np.zeros(n, bool)
    probe = z.copy()
    start = first
    with np.errstate(all="ignore"):
        for j, i in enumerate(entries):
            scale = max(1.0, abs(float(z[i])))
            h, smooth = start * scale, False
            if print0 is not None and fingerprint is not None:
                h, smooth = _smooth_step(fingerprint, z, int(i), h, print0)
                start = min(first, 4 * h / scale)  # what was right for the last entry is a good guess for this one
            found.steps[j] = h
            sums, differences = [], []
            for step in (h, h / 2):
                probe[i] = z[i] + step
                plus = f(probe)
                probe[i] = z[i] - step
                minus = f(probe)
                sums.append((plus - 2 * f0 + minus) / step)
                differences.append((plus - minus) / (2 * step))
            probe[i] = z[i]
            value = (4 * differences[1] - differences[0]) / 3
            values[:, j] = value
            top = max(float(np.max(np.abs(value), initial=0.0)), float(np.max(np.abs(sums[1]), initial=0.0)))
            spread = np.abs(differences[1] - differences[0])
            errors[:, j] = 8 * _noise(plus, minus, f0) / h + spread**2 / (top or 1.0)
            bend = np.abs(2 * sums[1] - sums[0])
            noise = 64 * EPSILON * np.max(np.abs(f0), initial=0.0) / h
            rough[j] = not np.all(np.isfinite(value)) or (not smooth and bool(np.any(bend > 1e-6 * top + noise)))
    if rough.any():
        found.right, found.left = values.copy(), values.copy()
    for column in np.flatnonzero(rough):
        examine(found, f, z, f0, int(column))
    return found


def _smooth_step(fingerprint: Fingerprint, z: Array, i: int, h: float, print0: bytes) -> tuple[float, bool]:
    """The largest step, down to 1e-7, at which both probes stay on the smooth piece z is on, and whether they do."""
    probe = z.copy()
    least = LAST_STEP * max(1.0, abs(float(z[i])))
    while h > least:
        probe[i] = z[i] + h
        if fingerprint(probe) == print0:
            probe[i] = z[i] - h
            if fingerprint(probe) == print0:
                return h, True
        h /= 4
    return max(h, least), False


def examine(found: Jacobian, f: Function, z: Array, f0: Array, j: int) -> None:
    """Replace column j by a careful estimate and say where it has kinks at z."""
    i = int(found.entries[j])
    v = np.zeros_like(z)
    v[i] = 1.0
    scale = max(1.0, abs(float(z[i])))
    first = float(found.steps[j])
    value, error, sides, side_errors = along(f, z, v, f0, first, min(LAST_STEP * scale, first / 8))
    near = abs(float(z[i]))
    if 0 < near < 1 and np.any(error > 1e-9 * np.abs(value)):
        # Close to 0 a step of its own size may leave the domain, of a logarithm say.
        small = along(f, z, v, f0, near / 8, near / 8e4)
        better = small[1] < error
        value, error = np.where(better, small[0], value), np.where(better, small[1], error)
        sides, side_errors = np.where(better, small[2], sides), np.where(better, small[3], side_errors)
    # The gap between the slopes at two small steps: halves with h on a curve, stays at a kink.
    with np.errstate(all="ignore"):
        gaps = []
        for h in (4e-6 * scale, 1e-6 * scale):
            gaps.append((f(z + h * v) - 2 * f0 + f(z - h * v)) / h)
        size = np.maximum(np.abs(sides[0]), np.abs(sides[1]))
        noise = 16 * EPSILON * np.abs(f0) / (1e-6 * scale)
        kinks = (np.abs(gaps[1]) > JUMP * size + noise) & (np.abs(gaps[1]) > 0.6 * np.abs(gaps[0]))
        kinks &= np.isfinite(sides).all(axis=0)
    found.values[:, j] = value
    found.errors[:, j] = np.where(kinks, side_errors.max(axis=0), error)
    found.kinks[:, j] = kinks
    if found.right is found.values:
        found.right, found.left = found.values.copy(), found.values.copy()
    found.right[:, j] = np.where(kinks, sides[0], value)
    found.left[:, j] = np.where(kinks, sides[1], value)
    found.sure[j] = True


def complex_step(f: Function, z: Array, i: int) -> Array | None:
    """Im f(z + ih e) / h with h = 1e-30, or None where f does not compute with complex numbers.

    Exact for analytic functions and silently wrong where the code takes absolute values or variances, so it only
    ever serves as a second opinion.
    """
    probe = z.astype(complex)
    probe[i] += 1e-30j
    try:
        with np.errstate(all="ignore"):
            y = f(probe)
    except (TypeError, ValueError):
        return None
    return np.asarray(np.imag(y) / 1e-30)
