"""The node tests of the onnx package, for every operator that has a counterpart here."""

import importlib
import json
import pkgutil
import warnings
from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

import onnx.backend.test.case.node as node_cases  # noqa: E402
from onnx_operators import OPERATORS, DoesNotApplyError  # noqa: E402

from tinygrad_cnn import Tensor  # noqa: E402

# {"cases": {operator: {reason: [case, ...]}}, "operators": {reason: [operator, ...]}}
NOT_APPLICABLE = json.loads((Path(__file__).parent / "fixtures" / "onnx_skipped.json").read_text(encoding="utf-8"))
# The release the tables of skipped cases were written for; others may have more cases or fewer.
EXACT = onnx.__version__.startswith("1.23.")


def plain(name):
    return name.lower().replace("_", "")


MODULES = {plain(m.name): m.name for m in pkgutil.iter_modules(node_cases.__path__) if not m.name.startswith("_")}
if "rangeop" in MODULES:
    MODULES["range"] = MODULES.pop("rangeop")


def cases_of(name):
    """Return the cases of one operator as graphs of one node; importing its module makes them.

    Most operators are also tested as the graph of other operators they are defined by; those cases repeat the same
    numbers and test a runtime's ability to inline functions, so they are left out.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some cases divide by zero on purpose while they are made
        importlib.import_module(f"{node_cases.__name__}.{MODULES[plain(name)]}")
    single = [c for c in node_cases._NodeTestCases if len(c.model.graph.node) == 1]
    return [c for c in single if c.model.graph.node[0].op_type == name]


def run(case, inputs):
    (node,) = case.model.graph.node
    given = dict(zip([i.name for i in case.model.graph.input], inputs, strict=True))
    tensors = [Tensor(given[name]) if name else None for name in node.input]
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    with np.errstate(all="ignore"):
        return OPERATORS[node.op_type]({"number of outputs": len(node.output), **attributes}, *tensors)


def as_array(value):
    if isinstance(value, onnx.TensorProto):
        value = onnx.numpy_helper.to_array(value)
    if not isinstance(value, (np.ndarray, np.generic)) or value.dtype.isbuiltin != 1 or value.dtype.kind not in "fiub":
        raise DoesNotApplyError("elements are neither floats of 16 to 64 bits, nor integers, nor booleans")
    return value


def compare(case):
    for data in case.data_sets:
        inputs, outputs = ([as_array(value) for value in values] for values in data)
        found = run(case, inputs)
        for actual, expected in zip(found, outputs, strict=False):
            assert actual.shape == expected.shape, f"{case.name}: {actual.shape} instead of {expected.shape}"
            assert actual.dtype == expected.dtype, f"{case.name}: {actual.dtype} instead of {expected.dtype}"
            # Half precision is compared to its own last digits.
            rtol = max(case.rtol, 2e-3) if expected.dtype == np.float16 else case.rtol
            assert np.allclose(actual.array, expected, rtol=rtol, atol=max(case.atol, 1e-6), equal_nan=True), case.name


@pytest.mark.parametrize("name", sorted(OPERATORS))
def test_all_node_tests_of_an_operator_pass_but_those_that_do_not_apply(name):
    skipped, passed = {}, 0
    for case in cases_of(name):
        try:
            compare(case)
            passed += 1
        except DoesNotApplyError as reason:
            skipped.setdefault(str(reason), []).append(case.name)
    assert passed, f"no case of {name} applies"
    expected = NOT_APPLICABLE["cases"].get(name, {})
    if EXACT:
        assert {reason: sorted(cases) for reason, cases in skipped.items()} == expected
    else:
        assert set(skipped) <= set(expected)


def test_every_operator_of_onnx_is_here_or_has_a_reason_not_to_be():
    here = {plain(name) for name in OPERATORS}
    elsewhere = {name for names in NOT_APPLICABLE["operators"].values() for name in names}
    assert not here & elsewhere, "an operator cannot be both"
    if EXACT:
        assert here | elsewhere == set(MODULES)


def test_the_table_of_skipped_cases_names_operators_that_are_here():
    assert set(NOT_APPLICABLE["cases"]) <= set(OPERATORS)
