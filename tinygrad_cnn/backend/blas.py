"""Products of matrices: with threads that get along with others, and such that add to what is there, C = A B + C.

The threads of OpenBLAS go on looking for work for a while after a product, on the processor that the next kernel's
threads need, and a product that has to wait for them may take ten times as long. So products that it would share among
its threads are held to one, and large ones are shared among those of this package.

NumPy's matmul can only overwrite its result, so a sum of products costs a buffer and another pass over memory per term.
The library that NumPy brings along can add, and is called here through ctypes. Where it is not found, or does not pass
a test, NumPy does the same in two steps.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np

from .threads import blas_files, in_parts, single_threaded_blas

__all__ = ["add_products", "matmul", "multiply", "product"]

Array = np.ndarray[Any, Any]
Call = Callable[..., None]

_ROW_MAJOR, _PLAIN, _TRANSPOSED = 101, 111, 112  # of cblas.h
# Symbols as NumPy's wheels, Debian and conda have them; "64_" says that sizes are 64 bits wide.
_NAMES = ("scipy_cblas_{}gemm64_", "cblas_{}gemm64_", "scipy_cblas_{}gemm", "cblas_{}gemm")


@cache
def _gemm(kind: str) -> Call | None:
    """Return cblas_sgemm ("f") or cblas_dgemm ("d") of NumPy's own library, or None."""
    letter, real = {"f": ("s", ctypes.c_float), "d": ("d", ctypes.c_double)}[kind]
    for path in blas_files():
        try:
            library = ctypes.CDLL(path)
        except OSError:
            continue
        for name in _NAMES:
            call = getattr(library, name.format(letter), None)
            if call is None:
                continue
            size = ctypes.c_int64 if name.endswith("64_") else ctypes.c_int
            place = ctypes.c_void_p
            call.argtypes = (
                *[ctypes.c_int] * 3, size, size, size, real, place, size, place, size, real, place, size
            )  # fmt: skip
            call.restype = None
            if _works(call, kind):
                return call  # type: ignore[no-any-return]
    return None


def _works(call: Call, kind: str) -> bool:
    """Whether a product of small whole numbers comes out right."""
    a, b, c = np.arange(6, dtype=kind).reshape(2, 3), np.arange(12, dtype=kind).reshape(3, 4), np.ones((2, 4), kind)
    expected = a @ b + c
    call(_ROW_MAJOR, _PLAIN, _PLAIN, 2, 4, 3, 1.0, a.ctypes.data, 3, b.ctypes.data, 4, 1.0, c.ctypes.data, 4)
    return bool((c == expected).all())


def _stored(a: Array) -> tuple[int, int] | None:
    """Return how BLAS is told about a matrix: as it lies or transposed, and the step from line to line."""
    (rows, columns), (down, across), size = a.shape, a.strides, a.itemsize
    if (across == size or columns == 1) and down % size == 0 and (down >= columns * size or rows == 1):
        return _PLAIN, max(down // size, columns)
    if (down == size or rows == 1) and across % size == 0 and (across >= rows * size or columns == 1):
        return _TRANSPOSED, max(across // size, rows)
    return None


def _look(a: Array, b: Array, out: Array) -> tuple[Call, tuple[int, int], tuple[int, int], int] | None:
    """Return how BLAS is called for these matrices: the function, what it is told about a and b, and the step of out.

    None stands for matrices that BLAS cannot read, or where there is nothing to do.
    """
    if a.shape[1] != b.shape[0] or out.shape != (a.shape[0], b.shape[1]) or not a.dtype == b.dtype == out.dtype:
        raise ValueError(
            f"a product of {a.dtype} {a.shape} and {b.dtype} {b.shape} does not fit {out.dtype} {out.shape}; sizes "
            "must agree and types be the same"
        )
    if not out.flags.writeable:
        raise ValueError("a product: the result is read-only")
    call = _gemm(out.dtype.char) if out.dtype.char in "fd" else None
    left, right, result = _stored(a), _stored(b), _stored(out)
    if not (call and left and right and result and result[0] == _PLAIN and out.size and a.size):
        return None
    return call, left, right, result[1]


def _place(a: Array) -> int:
    place: int = a.__array_interface__["data"][0]
    return place


def multiply(a: Array, b: Array, out: Array, *, add: bool = False) -> None:
    """Write the matrix product a b to `out`, or add it to what is there; all of one type, `out` with whole rows."""
    found = _look(a, b, out)
    if found is None:
        _without_blas(a, b, out, add)
        return
    call, left, right, step = found
    call(
        _ROW_MAJOR, left[0], right[0], out.shape[0], out.shape[1], a.shape[1], 1.0, _place(a), left[1],
        _place(b), right[1], 1.0 if add else 0.0, _place(out), step,
    )  # fmt: skip


def _without_blas(a: Array, b: Array, out: Array, add: bool) -> None:
    if add:
        out += np.matmul(a, b)
    else:
        np.matmul(a, b, out=out)


def product(a: Array, b: Array, out: Array, *, add: bool = False) -> Callable[[], Any]:
    """Return a call that does what `multiply` does.

    The operands are looked at once, which takes as long as a small product: a loop that repeats a product of the same
    arrays, with other numbers in them, only calls.
    """
    found = _look(a, b, out)
    if found is None:
        return partial(_without_blas, a, b, out, add)
    call, left, right, step = found
    places = [ctypes.c_void_p(_place(array)) for array in (a, b, out)]
    for place, array in zip(places, (a, b, out), strict=True):
        place.array = array  # type: ignore[attr-defined]  # lives as long as its address is used
    return partial(
        call, _ROW_MAJOR, left[0], right[0], out.shape[0], out.shape[1], a.shape[1], 1.0, places[0], left[1],
        places[1], right[1], 1.0 if add else 0.0, places[2], step,
    )  # fmt: skip


def add_products(a: Array, b: Array, out: Array) -> None:
    """Add the product of each pair of matrices of two stacks to its matrix of `out`, or all to the one that `out` is.

    A single matrix a meets all of b. The operands are looked at once, as in `product`.
    """
    count = len(b)
    if not count:
        return
    steps = [array.strides[0] if array.ndim == 3 else 0 for array in (a, b, out)]
    first = [array[0] if array.ndim == 3 else array for array in (a, b, out)]
    if any(array.ndim == 3 and len(array) != count for array in (a, out)):
        raise ValueError(f"stacks of {a.shape}, {b.shape} and {out.shape} matrices do not have the same length")
    found = _look(*first)
    if found is None:
        for i in range(count):
            x, y, z = (array[i] if array.ndim == 3 else array for array in (a, b, out))
            _without_blas(x, y, z, True)
        return
    call, left, right, step = found
    (m, n), k = first[2].shape, first[0].shape[1]
    places = [_place(array) for array in first]
    for i in range(count):
        call(
            _ROW_MAJOR, left[0], right[0], m, n, k, 1.0, places[0] + i * steps[0], left[1],
            places[1] + i * steps[1], right[1], 1.0, places[2] + i * steps[2], step,
        )  # fmt: skip


_ALONE = 1 << 18  # multiplications up to which OpenBLAS uses no threads
_SMALL = 40_000_000  # multiplications below which two threads hinder each other more than they help


def matmul(a: Array, b: Array) -> Array:
    """Return the matrix product a b as `np.matmul` does, without the threads of BLAS for two matrices."""
    alike = a.ndim == b.ndim == 2 and a.dtype == b.dtype and a.dtype.char in "fd" and a.shape[1] == b.shape[0]
    if not alike or a.size * b.shape[1] <= _ALONE:
        result: Array = np.matmul(a, b)
        return result
    rows, columns = a.shape[0], b.shape[1]
    out: Array = np.empty((rows, columns), a.dtype)

    def task(start: int, end: int) -> None:
        if rows >= columns:
            np.matmul(a[start:end], b, out=out[start:end])
        else:
            np.matmul(a, b[:, start:end], out=out[:, start:end])

    with single_threaded_blas():
        in_parts(task, max(rows, columns), a.size * columns, _SMALL)
    return out
