"""The checker for a foreign pair of plain NumPy functions."""

import json

import numpy as np
import pytest

from tinygrad_cnn.gradcheck import GradientError, Mistake, check_pair

X = np.random.default_rng(3).normal(size=(3, 4))
W = np.random.default_rng(4).normal(size=(4, 5))
B = np.random.default_rng(5).normal(size=5)


def affine(x, w, b):
    return x @ w + b


def right(dout, x, w, b):
    return dout @ w.T, x.T @ dout, dout.sum(0)


def check(backward, **kwargs):
    return check_pair(affine, backward, (X, W, B), seed=7, **kwargs)


def test_a_right_rule_passes_and_the_report_is_true():
    report = check(right)
    assert report
    assert report.raise_() is report
    assert sum(p.checked for p in report.parts) == 37


def test_a_wrong_rule_is_reported_with_the_worst_index_and_both_values():
    def wrong(dout, x, w, b):
        dx, dw, db = right(dout, x, w, b)
        dw = dw.copy()
        dw[2, 3] += 0.5
        return dx, dw, db

    report = check(wrong)
    assert not report
    (part,) = report.failures
    assert part.name == "w"
    assert part.worst[0].index == (2, 3)
    assert part.worst[0].yours - part.worst[0].expected == pytest.approx(0.5)
    assert "unknown" in str(report)


WRONG = {
    "upstream ignored": lambda d, x, w, b: right(np.ones_like(d), x, w, b),
    "zero": lambda d, x, w, b: (0 * x, *right(d, x, w, b)[1:]),
    "factor sign": lambda d, x, w, b: (-(d @ w.T), *right(d, x, w, b)[1:]),
    "factor 1/output.shape[0]": lambda d, x, w, b: (*right(d, x, w, b)[:2], d.mean(0)),
    "first 0": lambda d, x, w, b: (*right(d, x, w, b)[:2], d[0].copy()),
    "not reduced": lambda d, x, w, b: (*right(d, x, w, b)[:2], d.copy()),
    "axes (1, 0)": lambda d, x, w, b: (d @ w.T, d.T @ x, d.sum(0)),
    "float32": lambda d, x, w, b: ((d @ w.T).astype(np.float32).astype(float), *right(d, x, w, b)[1:]),
    "truncated": lambda d, x, w, b: (np.trunc(d @ w.T), *right(d, x, w, b)[1:]),
    "upstream squared": lambda d, x, w, b: right(d * d, x, w, b),
    "decay w 0.01": lambda d, x, w, b: (d @ w.T, x.T @ d + 0.01 * w, d.sum(0)),
}


@pytest.mark.parametrize("cause", WRONG)
def test_generic_mistakes_are_named_without_knowledge_of_the_function(cause):
    report = check(WRONG[cause])
    assert not report
    assert report.cause is not None
    assert report.cause.id == cause
    assert report.cause.cases >= 2


def test_a_described_mistake_keeps_the_name_it_was_given():
    described = Mistake("no-x", "w is used as if x were ones", lambda ref, d, x, w, b: ref(d, np.ones_like(x), w, b))

    def wrong(d, x, w, b):
        return d @ w.T, np.ones_like(x).T @ d, d.sum(0)

    assert check(wrong, mistakes=[described]).cause.id == "no-x"
    assert check(wrong, mistakes=[described], reference=right).cause.id == "no-x"


def test_a_wrong_reference_is_not_believed():
    report = check(right, reference=lambda d, x, w, b: (x, w, b))
    assert report
    assert check(WRONG["zero"], reference=lambda d, x, w, b: (x, w, b)).cause.id == "zero"


def test_the_formula_of_the_output_given_the_input_is_named():
    report = check_pair(np.tanh, lambda d, x: d * (1 - x * x), (X,), names=["x"], seed=1)
    assert report.cause.id == "output missing for x"


def test_an_unexplained_error_stays_unknown():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=X.shape)
    report = check_pair(np.tanh, lambda d, x: d * (1 - np.tanh(x) ** 2) * (1 + 0.1 * noise), (X,), seed=1)
    assert not report
    assert report.cause is None
    assert "likely cause: unknown" in str(report)


CONTRACT = {
    "count": lambda d, x, w, b: (d @ w.T, x.T @ d),
    "missing": lambda d, x, w, b: (d @ w.T, None, d.sum(0)),
    "shape": lambda d, x, w, b: (d @ w.T, x.T @ d, d.sum(0, keepdims=True)),
    "finite": lambda d, x, w, b: (d @ w.T * np.nan, x.T @ d, d.sum(0)),
    "dtype": lambda d, x, w, b: (d @ w.T, (x.T @ d).astype(np.float32), d.sum(0)),
    "raised": lambda d, x, w, b: 1 // 0,
    "linear": lambda d, x, w, b: (d @ w.T, x.T @ d, d.sum(0) + 1.0),
}


@pytest.mark.parametrize("clause", CONTRACT)
def test_each_clause_of_the_contract_is_checked(clause):
    report = check(CONTRACT[clause])
    assert not report
    found = {f.check for f in report.findings} | {f.check for p in report.parts for f in p.findings}
    assert clause in found


def test_a_rule_that_writes_into_its_input_or_upstream_gradient_fails():
    def writes(d, x, w, b):
        result = right(d, x, w, b)
        x *= 0
        d += 1
        return result

    text = str(check(writes))
    assert "wrote into its input x" in text
    assert "upstream gradient dout" in text


def test_a_gradient_that_aliases_is_noted_or_fails_as_asked():
    def add(a, b):
        return a + b

    assert check_pair(add, lambda d, a, b: (d, d), (X, X), seed=0)
    assert not check_pair(add, lambda d, a, b: (d, d), (X, X), seed=0, alias="fail")


def test_a_rule_that_accumulates_between_calls_is_named():
    kept = np.zeros_like(X)

    def backward(d, x):
        nonlocal kept
        kept = kept + 2 * x * d
        return kept.copy()

    report = check_pair(lambda x: x * x, backward, (X,), seed=0)
    assert not report
    assert report.cause.id == "accumulates"


def test_a_random_forward_function_is_refused():
    rng = np.random.default_rng()
    report = check_pair(lambda x: x * (rng.random(x.shape) < 0.5), lambda d, x: d, (X,), seed=0)
    assert not report
    assert "two different outputs" in str(report)


def test_a_forward_function_that_raises_is_reported():
    report = check_pair(lambda x: x @ x, lambda d, x: d, (X,), seed=0)
    assert not report
    assert "the forward function raised ValueError" in str(report)


def test_derivatives_close_to_the_end_of_the_domain_are_found_or_the_entries_named():
    x = np.array([1e-8, 1e-4, 2.0])
    assert check_pair(np.log, lambda d, x: d / x, (x,), seed=0).parts[0].checked == 3
    inside = np.array([0.0, 1.0, 4.0])
    report = check_pair(lambda x: np.sqrt(x), lambda d, x: d * 0.5 / np.sqrt(x + (x == 0)), (inside,), seed=0)
    assert report
    assert "cannot be judged" in str(report)


def differences(step):
    def rule(d, x):
        gx = np.zeros_like(x)
        for i in np.ndindex(x.shape):
            e = np.zeros_like(x)
            e[i] = step
            gx[i] = (d * (np.tanh(x + e) - np.tanh(x - e))).sum() / (2 * step)
        return gx

    return rule


def test_finite_differences_handed_in_as_a_rule_raise_a_suspicion():
    def exact(d, x):
        return d * (1 - np.tanh(x) ** 2)

    good = check_pair(np.tanh, differences(1e-5), (X,), reference=exact, seed=0)
    assert good
    assert "finite differences?" in str(good)
    coarse = check_pair(np.tanh, differences(1e-3), (X,), reference=exact, seed=0)
    assert not coarse
    assert coarse.cause is None
    assert "finite differences" in str(coarse)
    assert "finite differences" not in str(check_pair(np.tanh, exact, (X,), reference=exact, seed=0))


def relu_with(value):
    return lambda d, x: d * np.where(x > 0, 1.0, np.where(x == 0, value, 0.0))


@pytest.mark.parametrize(
    ("value", "convention"),
    [(0.0, "left"), (1.0, "right"), (0.5, "average"), (0.25, "0.25"), (1.2, None), (-0.1, None)],
)
def test_relu_at_zero_may_be_anything_between_its_slopes_and_the_convention_is_named(value, convention):
    x = X.copy()
    x[0, :2] = 0.0
    report = check_pair(lambda x: np.maximum(x, 0), relu_with(value), (x,), seed=2)
    assert bool(report) == (convention is not None)
    if convention:
        assert report.convention == convention
    else:
        assert report.cause.id == "kink outside"


def max_rule(share):
    def backward(d, x):
        ties = x == x.max(-1, keepdims=True)
        count = ties.sum(-1, keepdims=True)
        first = np.cumsum(ties, -1) == 1
        last = np.cumsum(ties, -1) == count
        weights = {"first": ties & first, "last": ties & last, "split": ties / count, "all": ties, "minus": -1.0 * ties}
        return d[..., None] * weights[share]

    return backward


@pytest.mark.parametrize("share", ["first", "last", "split", "all", "minus"])
def test_shares_of_tied_maxima_must_add_up_to_one(share):
    x = X.copy()
    x[0, [1, 3]] = 2.5
    x[2, :3] = 3.0
    report = check_pair(lambda x: x.max(-1), max_rule(share), (x,), seed=2)
    if share in ("all", "minus"):
        assert not report
        assert report.parts[0].wrong == (5 if share == "all" else 6)
    else:
        assert report
        assert report.convention == share
    if share == "all":
        assert report.cause.id == "tie shares"


def test_a_tie_between_two_inputs_is_one_tie():
    both = np.ones((2, 3))
    report = check_pair(
        np.maximum, lambda d, a, b: (d * (a >= b), d * (b >= a)), (both, both.copy()), names=["a", "b"], seed=0
    )
    assert not report
    assert check_pair(np.maximum, lambda d, a, b: (d * (a >= b), d * (b > a)), (both, both.copy()), seed=0)


def test_a_strict_check_demands_the_convention_it_names():
    x = X.copy()
    x[0, :2] = 0.0
    relu = {"forward": lambda x: np.maximum(x, 0), "args": (x,), "seed": 1, "kinks": "strict"}
    assert check_pair(backward=relu_with(1.0), convention="right", **relu)
    report = check_pair(backward=relu_with(1.0), convention="left", **relu)
    assert not report
    assert report.cause.id == "convention right"


def test_a_wrong_constant_hidden_at_a_kink_is_found_beside_it():
    report = check_pair(lambda x: np.maximum(x, 0), lambda d, x: d * 0.5, (np.zeros((2, 3)),), seed=1)
    assert not report


def test_reports_are_short_and_narrow_whatever_happened():
    for rule in [*WRONG.values(), *CONTRACT.values(), right]:
        text = str(check(rule, name="a rule with a name that is far too long for one line of a terminal"))
        lines = text.split("\n")
        assert len(lines) <= 20
        assert max(map(len, lines)) <= 80


def test_a_report_is_json_html_and_repeatable():
    report, again = check(WRONG["first 0"]), check(WRONG["first 0"])
    assert str(report) == str(again)
    data = json.loads(report.to_json())
    assert data["status"] == "fail"
    failing = next(c for c in data["cases"] if c["status"] == "fail")
    assert failing["cause"][0]["id"] == "first 0"
    assert "<svg" in report._repr_html_()
    with pytest.raises(GradientError, match="likely cause"):
        report.raise_()


def test_several_outputs_and_drawn_cases_are_checked():
    def draw(rng):
        return (rng.normal(size=(3, rng.integers(2, 6))),), {"power": 2}

    def forward(x, power):
        return x**power, x.sum(0)

    def backward(dout, x, power):
        a, b = dout
        return power * x ** (power - 1) * a + b

    assert check_pair(forward, backward, draw, cases=4, seed=0)
    assert not check_pair(forward, lambda d, x, power: d[0] * 2 * x, draw, seed=0)
