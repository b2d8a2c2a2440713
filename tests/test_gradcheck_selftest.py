"""A share of the checker's own proof; `python -m tinygrad_cnn.gradcheck.selftest` runs all of it."""

import numpy as np
import pytest

from tinygrad_cnn.gradcheck import selftest
from tinygrad_cnn.gradcheck.bank import BANK
from tinygrad_cnn.gradcheck.derivative import complex_step, directional
from tinygrad_cnn.gradcheck.subjects import SUBJECTS


def test_there_are_at_least_200_wrong_rules_over_at_least_20_functions():
    every = list(selftest.mutants())
    assert len(every) >= 200
    assert len({m.subject.name for m in every}) >= 20
    assert sum(map(len, BANK.values())) >= 200
    assert BANK.keys() <= SUBJECTS.keys()


def test_no_wrong_rule_is_accepted():
    count, _, checks, missed = selftest.wrong_checks(1, only=lambda n: n % 8 == 0)
    assert count == checks >= 80
    assert missed == []


def test_no_right_rule_is_refused_and_kinks_are_among_them():
    made, kinky, names, failed = selftest.right_checks(300)
    assert made == 300
    assert kinky >= 15
    assert names >= 40
    assert failed == []


def test_composite_functions_are_accepted_where_their_inner_kinks_meet():
    made, kinky, failed = selftest.composite_checks(3)
    assert made == 36
    assert kinky >= 15
    assert failed == []


def test_legal_conventions_are_accepted_and_illegal_ones_rejected():
    for name, _, right, trials in selftest.conventions(5):
        assert (name, right) == (name, trials)


def test_mistakes_are_called_by_their_name_and_nothing_is_accused_falsely():
    result = selftest.causes(only=lambda n: n % 16 == 1)
    assert result.total >= 12
    assert result.named == result.total, result.wrong
    assert result.false == 0, result.wrong


def test_numerical_derivatives_are_right_to_eleven_digits_and_know_their_error():
    worst, covered, count = selftest.accuracy(3)
    assert count >= 90
    assert worst <= 1e-11
    assert covered >= 0.99


@pytest.mark.parametrize("x", [1e-3, 0.7, 40.0, 1e4])
def test_derivatives_far_from_one_are_right_too(x):
    for f, d in ((np.log, 1 / x), (np.sqrt, 0.5 / np.sqrt(x)), (np.square, 2 * x)):
        value, error = directional(f, np.array([x]), np.ones(1))
        assert abs(value[0] - d) <= max(8 * error[0], 1e-11 * abs(d))


def test_the_complex_step_is_exact_where_it_applies_and_silent_where_not():
    column = complex_step(np.exp, np.array([0.3]), 0)
    assert column == pytest.approx(np.exp(0.3), rel=1e-15)
    assert complex_step(lambda z: np.floor(z), np.array([0.3]), 0) is None
