"""The exercises that ship: each one is sound, and its mistakes are found in a student's file."""

import pytest

from tinygrad_cnn.exercises import kit
from tinygrad_cnn.exercises.build import verify
from tinygrad_cnn.exercises.checks import load
from tinygrad_cnn.exercises.runner import run

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


@pytest.mark.parametrize("exercise", [e for e in EVERY if e.group != "F"], ids=lambda e: e.key)
def test_a_mistake_that_is_left_out_of_the_list_is_not_taken_for_another_on_it(exercise):
    loaded = load(exercise)
    every = loaded.bugs
    for bug in every:
        mutant = loaded.mutant(bug)
        loaded.bugs = [b for b in every if b is not bug]
        result = run(loaded, mutant, seed=2, stop=True)
        named = {c.id for c in result.causes[:1]}
        assert not named & {b.id for b in loaded.bugs}, bug.name
        loaded.bugs = every
