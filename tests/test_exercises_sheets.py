"""The exercises that ship: each one is sound, and its mistakes are found in a student's file."""

import pytest

from tinygrad_cnn.exercises import kit
from tinygrad_cnn.exercises.build import verify

EVERY = kit.catalogue()


@pytest.mark.parametrize("exercise", EVERY, ids=lambda e: e.key)
def test_the_starter_fails_the_solution_passes_and_every_mistake_is_named(exercise):
    verdict = verify(exercise, seeds=(1,))
    assert not verdict.problems
    assert verdict.named == verdict.bugs >= 3
    assert verdict.hints >= 3


def test_exercises_require_only_exercises_that_come_before_them():
    seen = set()
    for exercise in EVERY:
        assert set(exercise.requires) <= seen, exercise.id
        seen.add(exercise.id)


def test_short_names_are_unique():
    keys = [e.key for e in EVERY]
    assert len(keys) == len(set(keys))
