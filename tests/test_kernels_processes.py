"""Helper processes do what they are told, are never trusted blindly, and leave with or before the one who uses them."""

import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings

import numpy as np
import pytest

from tinygrad_cnn.backend import fused, processes
from tinygrad_cnn.backend.fused import Convolution, Linear, Parameters, Program
from tinygrad_cnn.backend.numpy_kernels import adam_step
from tinygrad_cnn.backend.processes import Helper, shared_array
from tinygrad_cnn.errors import ProcessError

pytestmark = pytest.mark.skipif(not processes.available(), reason="helper processes are for Linux on x86-64")


@pytest.fixture
def numbers():
    return shared_array(8, np.int64)


@pytest.fixture
def made():
    """Makes helpers, and ends them after the test."""
    helpers = []

    def make(work):
        helpers.append(Helper(work))
        return helpers[-1]

    yield make
    for helper in helpers:
        helper.stop()


def gone(process):
    """Whether a process ends within some seconds."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            with open(f"/proc/{process}/stat") as file:
                if file.read().rpartition(")")[2].split()[0] == "Z":
                    return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.01)
    return False


def done(helper, command=0):
    helper.send(command)
    return helper.wait()


def test_a_helper_works_in_another_process_on_shared_memory(numbers, made):
    def work(command):
        numbers[command] += 1
        numbers[7] = os.getpid()

    helper = made(work)
    assert done(helper, 3)
    assert done(helper, 3)
    assert done(helper, 4)
    assert numbers.tolist() == [0, 0, 0, 2, 1, 0, 0, helper.process]
    assert helper.process != os.getpid()


def test_many_commands_in_a_row_are_done_once_each(numbers, made):
    def work(command):
        numbers[0] += command

    helper = made(work)
    for i in range(2000):
        assert done(helper, i)
    assert numbers[0] == sum(range(2000))


def test_an_exception_in_a_helper_is_reported_and_the_next_command_is_done(numbers, made):
    def work(command):
        numbers[0] = 1 // command

    helper = made(work)
    assert not done(helper, 0)
    assert helper.usable
    assert done(helper, 1)
    assert numbers[0] == 1


def test_a_helper_that_is_killed_at_work_is_noticed(numbers, made):
    def work(command):
        numbers[0] = os.getpid()
        time.sleep(60)

    helper = made(work)
    helper.send(0)
    while not numbers[0]:
        time.sleep(0.001)
    os.kill(int(numbers[0]), signal.SIGKILL)
    assert not helper.wait()
    assert not helper.usable


def test_a_helper_that_hangs_is_given_up(monkeypatch, made):
    monkeypatch.setattr(processes, "_PATIENCE", 0.1)
    helper = made(lambda command: time.sleep(60))
    process = helper.process
    assert not done(helper)
    assert not helper.usable
    assert gone(process)


def test_a_helper_sleeps_leaves_and_comes_back(numbers, made, monkeypatch):
    monkeypatch.setattr(processes, "IDLE_SECONDS", 0.3)

    def work(command):
        numbers[0] += 1

    helper = made(work)
    first = helper.process
    time.sleep(0.1)  # it sleeps now
    assert done(helper)
    assert helper.process == first
    assert gone(first)
    assert helper.process is None
    assert done(helper)
    assert helper.process != first
    assert numbers[0] == 2


def test_floating_point_errors_are_reported_if_somebody_wants_to_hear_of_them(made):
    huge = np.full(4, 1e300)
    with np.errstate(over="warn"):
        helper = made(lambda command: huge * huge if command else None)
        assert not done(helper, 1)
        assert done(helper, 0)
        with np.errstate(over="ignore"):
            assert not helper.usable  # it was started when somebody did
    with np.errstate(over="ignore"):
        assert done(made(lambda command: huge * huge))


def test_the_keys_of_the_terminal_do_not_end_a_helper(made):
    helper = made(lambda command: None)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    assert before == signal.pthread_sigmask(signal.SIG_BLOCK, [])
    os.kill(helper.process, signal.SIGINT)
    time.sleep(0.05)
    assert done(helper)


def test_a_helper_nobody_refers_to_ends():
    helper = Helper(lambda command: None)
    process = helper.process
    del helper
    gc.collect()
    assert gone(process)


def test_in_a_fork_of_the_parent_its_helpers_are_not_used(made):
    helper = made(lambda command: None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        os._exit(1 if helper.usable else 0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert helper.usable
    assert done(helper)


PROGRAM = """
    import os, signal, sys, time
    from tinygrad_cnn.backend.processes import Helper
    def work(command):
        time.sleep(command)
    helper = Helper(work)
    helper.send(0); helper.wait()
    print(helper.process, flush=True)
"""


@pytest.mark.parametrize("end", ["", "helper.send(1); os.kill(os.getpid(), signal.SIGKILL)", "os._exit(0)", "1 / 0"])
def test_helpers_end_with_their_program_however_it_ends(end):
    code = textwrap.dedent(PROGRAM) + end
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert gone(int(result.stdout))


# Programs that are shared with helpers --------------------------------------------------------------------------------

LAYERS = [
    Convolution(2, 3, (1, 3), (16, 16), (5, 5), (1, 1), ((2, 2), (2, 2)), (1, 1), True, (2, 2)),
    Convolution(4, 5, (3, 4), (8, 8), (3, 3), (1, 1), ((0, 0), (0, 0)), (1, 1), True, (2, 2)),
    Linear(0, 1, (36, 5), False),
]
SHAPES = [(5, 36), (5,), (3, 1, 5, 5), (3,), (4, 3, 3, 3), (4,)]
OPTIONS = {"lr": 0.01, "beta1": 0.9, "beta2": 0.99, "eps": 1e-8, "weight_decay": 0.01, "decoupled": False}
BATCH = 13


def program_on_fixed_numbers(**options):
    parameters = Parameters(SHAPES, "float32")
    parameters.flat[...] = np.random.default_rng(0).normal(0, 0.3, len(parameters.flat))
    return parameters, Program(LAYERS, parameters, BATCH, tile=4, **options)


def trained(program, parameters, steps, between=lambda step: None):
    """Return all losses, and the parameters and logits at the end."""
    rng, losses = np.random.default_rng(1), []
    for step in range(1, steps + 1):
        x, labels = rng.normal(size=(BATCH, 1, 16, 16)).astype("float32"), rng.integers(0, 5, BATCH)
        gradients = parameters.empty()
        losses.append(program.run(x, labels, gradients, {"step": step, **OPTIONS}))
        between(step)
    return losses, parameters.flat.copy(), program.logits.copy()


def same(a, b):
    assert a[0] == b[0]
    np.testing.assert_array_equal(a[1], b[1])
    np.testing.assert_array_equal(a[2], b[2])


@pytest.fixture
def in_threads(monkeypatch):
    """What a program gives that is never shared with processes."""
    with monkeypatch.context() as patch:
        patch.setattr(processes, "available", lambda: False)
        parameters, program = program_on_fixed_numbers(threads=3)
        result = trained(program, parameters, 8)
        assert not program._team.helpers
        return result


def test_processes_give_the_same_to_the_last_bit_as_threads(in_threads):
    parameters, program = program_on_fixed_numbers(threads=3)
    same(trained(program, parameters, 8), in_threads)
    assert len(program._team.helpers) == 2
    assert all(helper.usable for helper in program._team.helpers)
    assert program._team.begin(np.zeros((BATCH, 1, 16, 16), "float32"), np.zeros(BATCH, int))
    assert program._team.left_undone() == []


def test_a_helper_that_is_killed_costs_no_step(in_threads):
    parameters, program = program_on_fixed_numbers(threads=3)

    def kill(step):
        if step == 5:
            os.kill(program._team.helpers[1].process, signal.SIGKILL)

    same(trained(program, parameters, 8, kill), in_threads)
    assert not program._team.helpers[1].usable


def test_a_program_may_run_in_any_thread(in_threads):
    parameters, program = program_on_fixed_numbers(threads=3)
    results = []
    thread = threading.Thread(target=lambda: results.append(trained(program, parameters, 8)))
    thread.start()
    thread.join(timeout=30)
    same(results[0], in_threads)
    assert all(helper.usable for helper in program._team.helpers)


def test_gradients_somebody_keeps_are_not_overwritten():
    parameters, program = program_on_fixed_numbers(threads=2)
    x, labels = np.ones((BATCH, 1, 16, 16), "float32"), np.arange(BATCH) % 5
    kept = []
    for step in range(1, 6):
        gradients = parameters.empty()
        program.run(x, labels, gradients, {"step": step, **OPTIONS})
        kept.append((parameters.split(gradients), gradients.copy()))
    for views, copy in kept:
        for view, then in zip(views, parameters.split(copy), strict=True):
            np.testing.assert_array_equal(view, then)


def test_gradients_in_any_memory_are_good_for_an_update():
    parameters, program = program_on_fixed_numbers(threads=2)
    other, _ = program_on_fixed_numbers(threads=2)
    x, labels = np.ones((BATCH, 1, 16, 16), "float32"), np.arange(BATCH) % 5
    for step in range(1, 6):
        gradients = np.empty(len(parameters.flat), "float32")
        program.run(x, labels, gradients, {"step": step, **OPTIONS})
        adam_step(other.flat, gradients, *other.moments, step=step, **OPTIONS)
        np.testing.assert_array_equal(parameters.flat, other.flat)


def test_a_floating_point_error_in_a_helpers_share_is_heard_in_the_caller():
    parameters, program = program_on_fixed_numbers(threads=2)
    labels, gradients = np.zeros(BATCH, int), np.empty(len(parameters.flat), "float32")
    x = np.ones((BATCH, 1, 16, 16), "float32")
    for _ in range(4):
        program.run(x, labels, gradients)
    x[-1] = 3e38  # in the share of the helper
    with pytest.warns(RuntimeWarning):
        program.run(x, labels, gradients)
    with np.errstate(all="raise"), pytest.raises(FloatingPointError):
        program.run(x, labels, gradients)
    x[-1] = 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        program.run(x, labels, gradients)


def test_a_floating_point_error_in_a_helpers_update_is_heard_and_nothing_is_updated_twice():
    parameters, program = program_on_fixed_numbers(threads=2)
    other, _ = program_on_fixed_numbers(threads=2)
    x, labels = np.ones((BATCH, 1, 16, 16), "float32"), np.arange(BATCH) % 5
    for step in range(1, 6):
        gradients = parameters.empty()
        options = {"step": step, **OPTIONS, "weight_decay": 1e38 if step == 5 else 0.0}  # whose square is too large
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            program.run(x, labels, gradients, options)
            count = len(heard)
            adam_step(other.flat, gradients, *other.moments, **options)
        assert (count > 0) == (step == 5)
        assert program.parts[1].spans
        np.testing.assert_array_equal(parameters.flat, other.flat)
        for ours, expected in zip(parameters.moments, other.moments, strict=True):
            np.testing.assert_array_equal(ours, expected)


def test_a_helper_that_ends_while_it_updates_is_an_error(monkeypatch):
    """Nobody knows what it has done, so doing it again could be wrong without a word."""
    parameters, program = program_on_fixed_numbers(threads=2)
    caller, real = os.getpid(), fused.adam_step_alone

    def update(*arrays, **options):
        if os.getpid() != caller and options["step"] == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        real(*arrays, **options)

    monkeypatch.setattr(fused, "adam_step_alone", update)
    x, labels = np.ones((BATCH, 1, 16, 16), "float32"), np.arange(BATCH) % 5
    for step in range(1, 5):
        program.run(x, labels, parameters.empty(), {"step": step, **OPTIONS})
    with pytest.raises(ProcessError, match="last checkpoint"):
        program.run(x, labels, parameters.empty(), {"step": 5, **OPTIONS})
    program.run(x, labels, parameters.empty(), {"step": 6, **OPTIONS})  # alone from now on


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
def test_the_parts_of_the_parameters_are_all_of_them_once(threads):
    parameters, program = program_on_fixed_numbers(threads=threads)
    taken = np.zeros(len(parameters.flat), int)
    for part in program.parts:
        for span in part.spans:
            taken[span] += 1
    assert len(program.parts) == threads
    assert (taken == 1).all()


def test_an_interrupted_step_does_not_disturb_the_next(in_threads, monkeypatch):
    parameters, program = program_on_fixed_numbers(threads=3)
    kept = fused._Share.run

    def interrupt(step):
        if step != 5:
            return
        monkeypatch.setattr(fused._Share, "run", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            program.run(np.ones((BATCH, 1, 16, 16), "float32"), np.zeros(BATCH, int), parameters.empty())
        monkeypatch.setattr(fused._Share, "run", kept)

    same(trained(program, parameters, 8, interrupt), in_threads)


@pytest.mark.parametrize("failing", [1, 2])
def test_without_processes_to_be_had_there_are_threads(in_threads, monkeypatch, failing):
    calls = []

    def fork():
        calls.append(1)
        if len(calls) >= failing:
            raise BlockingIOError("no more processes")
        return kept()

    kept = os.fork
    monkeypatch.setattr(os, "fork", fork)
    parameters, program = program_on_fixed_numbers(threads=3)
    same(trained(program, parameters, 8), in_threads)
    assert len(calls) == failing
    assert not program._team.helpers


def test_a_helper_that_left_and_cannot_be_started_again_is_done_without(numbers, made, monkeypatch):
    monkeypatch.setattr(processes, "IDLE_SECONDS", 0.01)
    helper = made(lambda command: None)
    assert gone(helper.process)
    monkeypatch.setattr(os, "fork", lambda: (_ for _ in ()).throw(BlockingIOError("no more processes")))
    assert not done(helper)
    assert not helper.usable


def test_processes_can_be_declined(in_threads):
    parameters, program = program_on_fixed_numbers(threads=3, forking=False)
    same(trained(program, parameters, 8), in_threads)
    assert not program._team.helpers


def test_a_program_that_is_dropped_ends_its_helpers():
    parameters, program = program_on_fixed_numbers(threads=2)
    trained(program, parameters, 4)
    process = program._team.helpers[0].process
    assert process
    del program
    assert gone(process)
