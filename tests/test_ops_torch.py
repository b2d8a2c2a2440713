"""Values, first and second derivatives equal those of PyTorch 2.13, which were computed once (tests/fixtures)."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from on_devices import there
from torch_cases import CASES, weights

from tinygrad_cnn import Tensor, grad, nn, ops


class Ours:
    """The names that expressions of the cases use, as in torch."""

    ones = staticmethod(lambda n: Tensor(np.ones(n)))

    def __getattr__(self, name):
        return getattr(ops, name)


@pytest.fixture(scope="module")
def fixtures():
    with np.load(Path(__file__).parent / "fixtures" / "torch_ops.npz") as file:
        values, found, start = file["values"], {}, 0
        for name, shapes in json.loads(str(file["shapes"])).items():
            sizes = [int(np.prod(shape)) for shape in shapes]
            parts = np.split(values[start : start + sum(sizes)], np.cumsum(sizes)[:-1])
            found[name] = [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]
            start += sum(sizes)
        return str(file["torch"]), found


def test_the_fixtures_are_of_the_release_they_claim_and_complete(fixtures):
    release, found = fixtures
    assert re.match(r"2\.13\.", release)
    assert set(found) == {case.id for case in CASES}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_values_and_derivatives_equal_pytorch(case, fixtures):
    xs = [Tensor(x, requires_grad=True) for x in case.inputs()]
    y = case.ours(nn.functional, Ours(), *xs, *there(case.constants))
    first = grad(y, xs, [weights(y.shape)], create_graph=True, allow_unused=True)
    first = [Tensor(np.zeros(x.shape)) if g is None else g for x, g in zip(xs, first, strict=True)]
    total = sum((g * there(weights(g.shape, 1.0))).sum() for g in first)
    second = grad(total, xs, allow_unused=True) if total.requires_grad else [None] * len(xs)
    actual = (
        [y.array]
        + [g.array for g in first]
        + [np.zeros(x.shape) if g is None else g.array for x, g in zip(xs, second, strict=True)]
    )
    for i, (value, expected) in enumerate(zip(actual, fixtures[1][case.id], strict=True)):
        assert value.shape == expected.shape
        assert value.dtype == np.float64
        scale = max(1.0, float(np.abs(expected).max(initial=0)))
        assert np.allclose(value, expected, rtol=0, atol=1e-11 * scale), f"array {i} of {case.id}"
