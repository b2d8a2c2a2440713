"""Products of matrices, and Einstein's summation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..backend.basics import product
from ..errors import OptionError, ShapeError
from ..op import op
from .elementwise import where
from .reductions import sum as sum_of
from .rules import broadcast_shape, raw, size_of, xp_of
from .shapes import broadcast_to, expand_dims, reshape, swapaxes, transpose

__all__ = ["einsum", "linear", "matmul"]

Shape = tuple[int, ...]


def _matmul_shape(a: Shape, b: Shape) -> Shape:
    if not a or not b:
        raise ShapeError(f"matmul: a {a} and b {b} must each have at least one axis; use * for a number")
    inner = b[-2] if len(b) > 1 else b[0]
    if a[-1] != inner:
        raise ShapeError(
            f"matmul: a {a} and b {b} do not fit: the last axis of a has size {a[-1]}, "
            f"the {'second last' if len(b) > 1 else 'only'} axis of b {inner}"
        )
    lead = broadcast_shape("matmul", (a[:-2], b[:-2]), ("leading axes of a", "of b"))
    return lead + (a[-2:-1] if len(a) > 1 else ()) + (b[-1:] if len(b) > 1 else ())


def _matmul_flops(y: Shape, a: Shape, b: Shape) -> int:
    return 2 * size_of(y) * a[-1]


@op(shape=_matmul_shape, flops=_matmul_flops, family="linear", broadcasts=True)
def matmul(xp: Any, a: Any, b: Any) -> Any:
    """y[..., i, j] = Σ_k a[..., i, k] b[..., k, j], leading axes broadcast; a 1-D input is a row a or a column b.

    Raises:
        ShapeError: the inner sizes differ, or the leading axes do not broadcast.
    """
    return product(xp, a, b)


@matmul.vjp("a", "g bᵀ")
def _(g: Any, y: Any, a: Any, b: Any) -> Any:
    if len(b.shape) == 1:
        return expand_dims(g, -1) * b
    if len(a.shape) == 1:  # a is a row: y[..., j] = Σ_k a[k] b[..., k, j]
        return matmul(b, expand_dims(g, -1)).reshape(b.shape[:-1])
    return matmul(g, swapaxes(b, -1, -2))


@matmul.vjp("b", "aᵀ g")
def _(g: Any, y: Any, a: Any, b: Any) -> Any:
    if len(a.shape) == 1:
        return a * g if len(b.shape) == 1 else expand_dims(a, -1) * expand_dims(g, -2)
    if len(b.shape) == 1:
        return matmul(swapaxes(a, -1, -2), expand_dims(g, -1)).reshape((*a.shape[:-2], a.shape[-1]))
    if len(b.shape) == 2 and len(a.shape) > 2:  # one product of tall matrices instead of a batch of them and a sum
        rows = size_of(a.shape[:-1])
        a, g = reshape(a, shape=(rows, a.shape[-1])), reshape(g, shape=(rows, g.shape[-1]))
    return matmul(swapaxes(a, -1, -2), g)


@matmul.sample
def _(rng: Any) -> Iterator[Any]:
    yield (rng.normal(size=(3, 4)), rng.normal(size=(4, 2))), {}
    yield (rng.normal(size=(2, 1, 3, 4)), rng.normal(size=(5, 4, 2))), {}
    yield (rng.normal(size=(4,)), rng.normal(size=(4,))), {}
    yield (rng.normal(size=(4,)), rng.normal(size=(2, 4, 3))), {}
    yield (rng.normal(size=(2, 3, 4)), rng.normal(size=(4,))), {}
    yield (rng.normal(size=(2, 3, 4)), rng.normal(size=(4, 2))), {}
    yield (rng.normal(size=(0, 4)), rng.normal(size=(4, 2))), {}
    yield (rng.normal(size=(3, 1)), rng.normal(size=(1, 2))), {}
    yield (rng.normal(size=(2, 3, 0)), rng.normal(size=(0, 2))), {}


@matmul.error_sample
def _(rng: Any) -> Iterator[Any]:
    yield (rng.normal(size=(3, 4)), rng.normal(size=(3, 4))), {}, ShapeError, "do not fit"
    yield (rng.normal(size=()), rng.normal(size=(3, 4))), {}, ShapeError, "at least one axis"


def _linear_shape(x: Shape, weight: Shape, bias: Shape | None = None) -> Shape:
    if not x or len(weight) != 2:
        raise ShapeError(f"linear: x {x} must have at least one axis and weight {weight} two: (out, in)")
    if x[-1] != weight[1]:
        raise ShapeError(f"linear: x {x} has {x[-1]} features, but weight {weight} (out, in) expects {weight[1]}")
    if bias is not None and tuple(bias) != (weight[0],):
        raise ShapeError(
            f"linear: bias {bias} must have shape {(weight[0],)}, one number per output of weight {weight}"
        )
    return (*x[:-1], weight[0])


def _linear_flops(y: Shape, x: Shape, weight: Shape, bias: Shape | None = None) -> int:
    return 2 * size_of(y) * weight[1] + (0 if bias is None else size_of(y))


@op(shape=_linear_shape, flops=_linear_flops, family="linear")
def linear(xp: Any, x: Any, weight: Any, bias: Any = None) -> Any:
    """y = x Wᵀ + b: a fully connected layer; x (..., in), weight (out, in), bias (out,), y (..., out).

    Raises:
        ShapeError: the features of x and weight differ, or bias has another length than weight has rows.
    """
    if x.shape[-1] != weight.shape[1] or (bias is not None and bias.shape != weight.shape[:1]):
        _linear_shape(x.shape, weight.shape, None if bias is None else bias.shape)
    y = product(xp, x, weight.T)
    if bias is not None:
        # A bias of a wider type must widen the result, as an addition would.
        y = xp.add(y, bias, out=y if y.dtype == bias.dtype else None)
    return y


@linear.vjp("x", "g W")
def _(g: Any, y: Any, x: Any, weight: Any, bias: Any = None) -> Any:
    return matmul(g, weight)


@linear.vjp("weight", "gᵀ x")
def _(g: Any, y: Any, x: Any, weight: Any, bias: Any = None) -> Any:
    if len(x.shape) != 2:
        g, x = (
            reshape(g, shape=(size_of(g.shape[:-1]), g.shape[-1])),
            reshape(x, shape=(size_of(x.shape[:-1]), x.shape[-1])),
        )
    return matmul(transpose(g), x)


@linear.vjp("bias", "Σ g over all rows")
def _(g: Any, y: Any, x: Any, weight: Any, bias: Any = None) -> Any:
    return sum_of(g, axis=tuple(range(len(g.shape) - 1)))


@linear.sample
def _(rng: Any) -> Iterator[Any]:
    yield (rng.normal(size=(3, 4)), rng.normal(size=(2, 4)), rng.normal(size=(2,))), {}
    yield (rng.normal(size=(2, 3, 4)), rng.normal(size=(5, 4)), rng.normal(size=(5,))), {}
    yield (rng.normal(size=(4,)), rng.normal(size=(2, 4)), rng.normal(size=(2,))), {}
    yield (rng.normal(size=(3, 4)), rng.normal(size=(2, 4))), {}
    yield (rng.normal(size=(0, 4)), rng.normal(size=(1, 4)), rng.normal(size=(1,))), {}


@linear.error_sample
def _(rng: Any) -> Iterator[Any]:
    yield (rng.normal(size=(3, 4)), rng.normal(size=(4, 2))), {}, ShapeError, "4 features"
    yield (rng.normal(size=(3, 4)), rng.normal(size=(2, 4)), rng.normal(size=(1,))), {}, ShapeError, "bias"


# Einstein's summation. The rule of each input is again an einsum, with the letters of the output as one more input.


def _parse(spec: str) -> tuple[list[str], str]:
    inputs, _, output = spec.partition("->")
    return inputs.split(","), output


def _einsum_shape(*xs: Shape, spec: str) -> Shape:
    inputs, output = _parse(spec)
    if len(inputs) != len(xs):
        raise ShapeError(f"einsum: {spec!r} names {len(inputs)} inputs, got {len(xs)}")
    sizes: dict[str, int] = {}
    for letters, s in zip(inputs, xs, strict=True):
        if len(letters) != len(s):
            raise ShapeError(f"einsum: {letters!r} in {spec!r} names {len(letters)} axes, but its input has shape {s}")
        for letter, n in zip(letters, s, strict=True):
            if sizes.setdefault(letter, n) != n:
                raise ShapeError(
                    f"einsum: axis {letter!r} of {spec!r} has size {sizes[letter]} in one input and {n} in another"
                )
    return tuple(sizes[letter] for letter in output)


def _einsum_flops(y: Shape, *xs: Shape, spec: str) -> int:
    inputs, _ = _parse(spec)
    sizes = {letter: n for letters, s in zip(inputs, xs, strict=True) for letter, n in zip(letters, s, strict=True)}
    return max(1, len(xs)) * size_of(tuple(sizes.values()))


@op(shape=_einsum_shape, flops=_einsum_flops, family="linear")
def einsum_explicit(xp: Any, *xs: Any, spec: str) -> Any:
    """y = Σ over the letters missing in the output of the product of all inputs; no letter twice in one input."""
    # Above some thousand products it pays to look for a matrix product among them.
    large = len(xs) > 1 and _einsum_flops((), *[x.shape for x in xs], spec=spec) > 50_000
    return xp.einsum(spec, *xs, optimize=large or len(xs) > 2)


@einsum_explicit.vjp("xs", "einsum of g with the other inputs")
def _(position: int, g: Any, y: Any, *xs: Any, spec: str) -> Any:
    inputs, output = _parse(spec)
    mine = inputs[position]
    others = [(letters, x) for i, (letters, x) in enumerate(zip(inputs, xs, strict=True)) if i != position]
    known = set(output).union(*[letters for letters, _ in others]) if others else set(output)
    present = "".join(letter for letter in mine if letter in known)
    gx = einsum_explicit(
        g, *[x for _, x in others], spec=",".join([output, *[letters for letters, _ in others]]) + "->" + present
    )
    if present == mine:
        return gx
    # Letters that only this input has were summed over: their gradient is the same at every position.
    shape = xs[position].shape
    gx = reshape(gx, shape=tuple(n if letter in known else 1 for letter, n in zip(mine, shape, strict=True)))
    return broadcast_to(gx, shape=shape)


@einsum_explicit.sample
def _(rng: Any) -> Iterator[Any]:
    yield (rng.normal(size=(2, 3)), rng.normal(size=(3, 4))), {"spec": "ij,jk->ik"}
    yield (rng.normal(size=(2, 3, 4)),), {"spec": "ijk->ki"}
    yield (rng.normal(size=(2, 3, 4)),), {"spec": "ijk->kji"}
    yield (rng.normal(size=(2, 3)), rng.normal(size=(2, 3)), rng.normal(size=(3,))), {"spec": "ij,ij,j->"}
    yield (rng.normal(size=(2,)), rng.normal(size=(3,))), {"spec": "i,j->ji"}
    yield (rng.normal(size=(0, 3)), rng.normal(size=(3, 1))), {"spec": "ij,jk->ik"}


@einsum_explicit.error_sample
def _(rng: Any) -> Iterator[Any]:
    yield (rng.normal(size=(2, 3)), rng.normal(size=(4, 2))), {"spec": "ij,jk->ik"}, ShapeError, "axis 'j'"
    yield (rng.normal(size=(2, 3)),), {"spec": "ijk->k"}, ShapeError, "names 3 axes"


def einsum(spec: str, *xs: Any) -> Any:
    """Return Einstein's sum as `numpy.einsum` does: implicit output, ellipsis and repeated letters included.

    Example: `einsum("bij,bjk->bik", a, b)` is a batched matrix product.

    Raises:
        OptionError: the specification is malformed.
        ShapeError: it does not fit the shapes of the inputs.
    """
    if not isinstance(spec, str):
        raise OptionError(
            f"einsum: the first argument is the specification, such as 'ij,jk->ik', got {type(spec).__name__}"
        )
    given = spec.replace(" ", "")
    left, arrow, output = given.partition("->")
    inputs = left.split(",")
    if len(inputs) != len(xs):
        raise ShapeError(f"einsum: {spec!r} names {len(inputs)} inputs, got {len(xs)}")
    letters = set(given) - set(",->.")
    if not all(c.isalpha() for c in letters) or any(t.replace("...", "", 1).count(".") for t in [*inputs, output]):
        raise OptionError(f"einsum: {spec!r} may hold letters, one '...' per term, commas and one '->'")
    free = [c for c in "ZYXWVUTSRQPONMLKJIHGFEDCBAzyxwvutsrqponmlkjihgfedcba" if c not in letters]
    widths = [len(x.shape) - len(t.replace("...", "")) if "..." in t else 0 for t, x in zip(inputs, xs, strict=True)]
    if min(widths, default=0) < 0 or max(widths, default=0) > len(free):
        raise ShapeError(f"einsum: {spec!r} names more axes than an input has")
    wide = "".join(free[: max(widths, default=0)])
    inputs = [t.replace("...", wide[len(wide) - w :]) for t, w in zip(inputs, widths, strict=True)]
    if arrow:
        output = output.replace("...", wide)
    else:
        joined = "".join(inputs)
        output = wide + "".join(sorted(c for c in set(joined) - set(wide) if joined.count(c) == 1))
    if len(set(output)) != len(output) or not set(output) <= set("".join(inputs)):
        raise OptionError(f"einsum: each letter of the output of {spec!r} must stand there once and occur in an input")
    terms = [_without_repeats(t, x, spec) for t, x in zip(inputs, xs, strict=True)]
    terms = _unstretched(terms, wide)
    return einsum_explicit(*[x for _, x in terms], spec=",".join(t for t, _ in terms) + "->" + output)


def _unstretched(terms: list[tuple[str, Any]], wide: str) -> list[tuple[str, Any]]:
    """Stretch axes of size 1 under an ellipsis, which broadcast, to the size they have elsewhere."""
    sizes: dict[str, int] = {}
    for t, x in terms:
        for letter, n in zip(t, x.shape, strict=False):
            if letter in wide:
                sizes[letter] = n if sizes.get(letter, 1) == 1 else sizes[letter]
    result = []
    for t, x in terms:
        shape = tuple(sizes.get(c, n) if n == 1 else n for c, n in zip(t, x.shape, strict=False))
        result.append((t, broadcast_to(x, shape=shape) if len(t) == len(x.shape) and shape != tuple(x.shape) else x))
    return result


def _without_repeats(term: str, x: Any, spec: str) -> tuple[str, Any]:
    """Take the diagonal of x for every letter that stands twice in its term."""
    if len(term) != len(x.shape):
        raise ShapeError(
            f"einsum: {term!r} in {spec!r} names {len(term)} axes, but its input has shape {tuple(x.shape)}"
        )
    for letter in dict.fromkeys(term):
        while term.count(letter) > 1:
            first = term.index(letter)
            second = term.index(letter, first + 1)
            n = x.shape[first]
            if x.shape[second] != n:
                raise ShapeError(
                    f"einsum: axis {letter!r} of {spec!r} has sizes {n} and {x.shape[second]} in one input"
                )
            xp = xp_of(raw(x))
            mask = xp.eye(n, dtype=bool).reshape(tuple(n if i in (first, second) else 1 for i in range(len(x.shape))))
            # The diagonal is what remains of x when the rest is removed and one of the two axes summed away.
            x = sum_of(where(mask, x, 0), axis=second)
            term = term[:second] + term[second + 1 :]
    return term, x
