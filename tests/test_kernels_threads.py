"""Threads come when there is work, stay within what the user allows, and leave; results do not depend on them."""

import itertools
import os
import threading
import time

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from tinygrad_cnn.backend import bands, fused, patches, stages, threads, tiles, workspaces
from tinygrad_cnn.backend.fused import Convolution, Linear, Parameters, Program
from tinygrad_cnn.backend.threads import Crew, cpus, single_threaded_blas

VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@pytest.fixture
def plain(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.mark.parametrize("name", VARIABLES)
def test_the_usual_variables_limit_threads(plain, name):
    plain.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    plain.setenv(name, "3")
    assert cpus() == 3
    plain.setenv(name, "3,2")  # nested levels: the outermost counts
    assert cpus() == 3
    for nonsense in ("0", "", "many", "-1"):
        plain.setenv(name, nonsense)
        assert cpus() == 8


def test_affinity_limits_threads(plain):
    plain.setattr(os, "sched_getaffinity", lambda pid: {5}, raising=False)
    plain.setenv("OMP_NUM_THREADS", "4")
    assert cpus() == 1


def blas_threads():
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]


def test_blas_has_one_thread_inside_and_as_many_as_before_outside():
    before = blas_threads()
    with single_threaded_blas():
        assert all(count == 1 for count in blas_threads())
        with single_threaded_blas():
            pass
        assert all(count == 1 for count in blas_threads())
    assert blas_threads() == before
    with pytest.raises(ZeroDivisionError), single_threaded_blas():
        raise ZeroDivisionError
    assert blas_threads() == before


def test_blas_has_one_thread_inside_in_any_thread():
    """Also where somebody else has set the number before, in another thread."""
    found = []

    def look():
        with single_threaded_blas():
            found.extend(blas_threads())

    with threadpool_limits(2, user_api="blas"):
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
    assert found
    assert all(count == 1 for count in found)


def test_a_crew_runs_its_tasks_at_the_same_time_and_keeps_their_order():
    meeting = threading.Barrier(3, timeout=10)  # nobody passes before all are there

    def task(number):
        meeting.wait()
        return number, threading.current_thread()

    results = Crew().run([lambda i=i: task(i) for i in range(3)])
    assert [number for number, _ in results] == [0, 1, 2]
    assert results[0][1] is threading.current_thread()
    assert len({thread for _, thread in results}) == 3


def test_an_error_in_any_thread_is_raised_after_all_have_finished():
    finished = []

    def fail():
        raise ValueError("on purpose")

    def slow():
        time.sleep(0.02)
        finished.append(True)

    crew = Crew()
    with pytest.raises(ValueError, match="on purpose"):
        crew.run([fail, slow])
    assert finished == [True]
    with pytest.raises(ValueError, match="on purpose"):
        crew.run([slow, fail])
    assert crew.run([lambda: 1, lambda: 2]) == [1, 2]  # it still works


def test_helpers_handle_floating_point_errors_as_the_caller_does():
    crew, huge = Crew(), np.full(1000, 1e300)
    with np.errstate(over="ignore"):
        crew.run([lambda: None, lambda: huge * huge])
    with np.errstate(over="raise"), pytest.raises(FloatingPointError):
        crew.run([lambda: None, lambda: huge * huge])


def test_threads_leave_when_there_is_nothing_to_do_and_come_back(monkeypatch):
    monkeypatch.setattr(threads, "IDLE_SECONDS", 0.01)
    crew = Crew()
    for _ in range(2):
        _, helper = crew.run([lambda: None, threading.current_thread])
        helper.join(timeout=10)
        assert not helper.is_alive()


def test_a_crew_serves_several_callers():
    crew, results = Crew(), []

    def caller(number):
        for _ in range(20):
            results.append(crew.run([lambda: number, lambda: number]) == [number, number])

    callers = [threading.Thread(target=caller, args=(i,)) for i in range(4)]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join(timeout=10)
    assert results == [True] * 80


def test_pools_are_the_same_in_threads(monkeypatch):
    from tinygrad_cnn.backend import numpy_kernels

    rng = np.random.default_rng(0)
    x = rng.integers(0, 3, (3, 2, 9, 8)).astype(float)
    pool = {"kernel": (2, 2), "stride": (2, 2), "padding": ((0, 0), (0, 0)), "dilation": (1, 1)}

    def everything():
        y = numpy_kernels.max_pool2d(x, output=(4, 4), **pool)
        wide = numpy_kernels.max_pool2d(x, output=(7, 3), **{**pool, "kernel": (3, 3), "stride": (1, 2)})
        return y, wide, numpy_kernels.max_pool2d_input_gradient(y + 1, x, y, ties="first", **pool)

    expected = everything()
    monkeypatch.setattr(threads, "_WORTH", 0)
    monkeypatch.setattr(threads, "cpus", lambda: 3)
    for array, other in zip(everything(), expected, strict=True):
        np.testing.assert_array_equal(array, other)


def test_adam_is_the_same_in_threads(monkeypatch):
    from tinygrad_cnn.backend import numpy_kernels

    def trained():
        rng = np.random.default_rng(0)
        p, m, v = rng.normal(size=(50, 30)), np.zeros((50, 30)), np.zeros((50, 30))
        for step in range(1, 4):
            g = rng.normal(size=p.shape)
            numpy_kernels.adam_step(p, g, m, v, step=step, lr=0.1, beta1=0.9, beta2=0.99, eps=1e-8, weight_decay=0.1)
        return p

    expected = trained()
    monkeypatch.setattr(threads, "_WORTH", 0)
    monkeypatch.setattr(threads, "cpus", lambda: 3)
    monkeypatch.setattr(numpy_kernels, "_ADAM_CHUNK", 64)
    np.testing.assert_array_equal(trained(), expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork() here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_starts_threads_of_its_own():
    crew = Crew()
    crew.run([lambda: None, lambda: None])  # the helper waits for more, in the parent only
    with single_threaded_blas():
        child = os.fork()
        if not child:
            code = 1
            try:
                with single_threaded_blas():
                    code = 0 if crew.run([lambda: 1, lambda: 2]) == [1, 2] else 2
            finally:
                os._exit(code)
    end = time.monotonic() + 20
    done, status = 0, 0
    while not done and time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        time.sleep(0.01)
    if not done:
        os.kill(child, 9)
        os.waitpid(child, 0)
    assert done
    assert os.waitstatus_to_exitcode(status) == 0


def test_workspaces_start_at_a_cache_line_and_hold_zeros():
    for shape, dtype in itertools.product([(), (0, 3), (7,), (3, 5)], ["float32", "float64", bool]):
        array = workspaces.aligned(shape, dtype)
        assert array.shape == shape
        assert array.dtype == dtype
        assert not array.size or array.ctypes.data % 64 == 0
        assert not array.any()
        assert array.flags.writeable


def test_memory_can_be_given_back():
    workspaces.release()  # nothing to see from here but that it does no harm
    workspaces.keep_freed_memory()


def test_the_users_own_allocator_settings_are_respected(monkeypatch):
    calls = []

    class Library:
        @staticmethod
        def mallopt(option, value):
            calls.append(option)

    monkeypatch.setattr(workspaces, "_libc", Library)
    for name in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)
    workspaces.keep_freed_memory()
    assert len(calls) == 2
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1")
    workspaces.keep_freed_memory()
    assert len(calls) == 2


# Fused programs -------------------------------------------------------------------------------------------------------

NONE = ((0, 0), (0, 0))
LAYERS = [
    Convolution(0, 1, (1, 3), (16, 16), (5, 5), (1, 1), ((2, 2), (2, 2)), (1, 1), True, (2, 2)),
    Convolution(2, 3, (3, 4), (8, 8), (3, 3), (1, 1), NONE, (1, 1), True, (2, 2)),
    Linear(4, 5, (36, 5), False),
]
SHAPES = [(3, 1, 5, 5), (3,), (4, 3, 3, 3), (4,), (5, 36), (5,)]


def outcome(batch, **options):
    """Return (loss, gradients, logits) of a program on fixed numbers."""
    rng = np.random.default_rng(0)
    parameters = Parameters(SHAPES, "float64")
    parameters.flat[...] = rng.normal(0, 0.3, len(parameters.flat))
    x, labels = rng.normal(size=(batch, 1, 16, 16)), rng.integers(0, 5, batch)
    program = Program(LAYERS, parameters, batch, **options)
    gradients = parameters.empty()
    loss = program.run(x, labels, gradients)
    return loss, gradients, program.logits


@pytest.mark.parametrize("batch", [1, 2, 7, 20])
@pytest.mark.parametrize("options", [{"tile": 1}, {"tile": 3, "threads": 2}, {"threads": 3}, {"tile": 5, "threads": 1}])
def test_results_do_not_depend_on_tiles_or_threads(batch, options, monkeypatch):
    monkeypatch.setattr(stages, "_NARROWEST", 1)
    monkeypatch.setattr(stages, "most_unpacked", lambda: 5000)
    loss, gradients, logits = outcome(batch, **options)
    monkeypatch.undo()
    expected_loss, expected_gradients, expected_logits = outcome(batch, tile=batch, threads=1)
    assert loss == pytest.approx(expected_loss, rel=1e-12)
    np.testing.assert_allclose(gradients, expected_gradients, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(logits, expected_logits, rtol=1e-10)


def test_two_runs_of_a_program_are_equal_to_the_last_bit():
    first, second = outcome(20, tile=4, threads=3), outcome(20, tile=4, threads=3)
    assert first[0] == second[0]
    np.testing.assert_array_equal(first[1], second[1])


def test_buffers_stay_within_their_budget(monkeypatch):
    """The estimate behind the size of a tile is at least what the buffers of a tile take."""
    taken = []
    real = tiles.aligned

    def counting(shape, dtype):
        array = real(shape, dtype)
        taken.append(array.nbytes)
        return array

    whole = patches.largest_tile(LAYERS, "float64")
    assert whole in (patches.TILE, 2 * patches.TILE)
    for budget in (1 << 20, 1 << 18):
        monkeypatch.setattr(patches, "BUDGET", budget)
        tile = patches.largest_tile(LAYERS, "float64")
        assert 1 <= tile < whole
        program = Program(LAYERS, Parameters(SHAPES, "float64"), 1, threads=1)
        taken.clear()
        with monkeypatch.context() as patched:
            for module in (tiles, stages, bands):
                patched.setattr(module, "aligned", counting)
            tiles.Tile(program, tile, real(program.width, "float64"))
        assert sum(taken) < 1.5 * budget


def test_any_choice_of_patches_gives_the_same(monkeypatch):
    """The choice is one of speed alone: every block and every split that fits is tried."""
    expected = outcome(6, tile=6, threads=1)
    tried = 0
    for size in [(1, 1), (2, 2), (4, 1), (1, 2)]:
        for block, split in [(size, (1, 1)), ((1, 1), size)]:
            first = patches.Patch(LAYERS[0], (1, 1), block, split)
            second = patches.Patch(LAYERS[1], first.result_phases, (1, 1), (1, 1))
            if not second.reads(first.result_phases):
                continue
            monkeypatch.setattr(fused, "choose_patches", lambda layers, chosen=(first, second): list(chosen))
            loss, gradients, _ = outcome(6, tile=6, threads=1)
            assert loss == pytest.approx(expected[0], rel=1e-12)
            np.testing.assert_allclose(gradients, expected[1], rtol=1e-9, atol=1e-12)
            tried += 1
    assert tried >= 4
