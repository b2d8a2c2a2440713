"""Threads for kernels that work on slices of a batch, and BLAS held to one thread meanwhile."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from contextvars import copy_context
from functools import cache, partial
from itertools import pairwise
from typing import Any

__all__ = ["Crew", "blas_files", "cpus", "in_parts", "most_unpacked", "shared", "single_threaded_blas"]

IDLE_SECONDS = 1.0


def cpus() -> int:
    """Return how many threads kernels may use: the CPUs of this process, or less if the user's environment says so.

    The variables of the BLAS libraries count, because they are what people set to keep a program to fewer cores.
    """
    if hasattr(os, "sched_getaffinity"):
        available = len(os.sched_getaffinity(0))
    else:
        available = os.cpu_count() or 1
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        value = os.environ.get(name, "").split(",")[0].strip()
        if value.isdecimal() and int(value) > 0:
            available = min(available, int(value))
    return available


@cache
def _blas() -> tuple[Any, ...]:
    """Return the controllers of the BLAS libraries loaded, usually one."""
    from threadpoolctl import ThreadpoolController

    return tuple(ThreadpoolController().select(user_api="blas").lib_controllers)


def blas_files() -> list[str]:
    """Return the paths of the BLAS libraries loaded."""
    return [str(library.filepath) for library in _blas()]


@cache
def most_unpacked() -> int:
    """Return up to how many multiplications BLAS takes matrices as they are, which is up to twice as fast.

    OpenBLAS does where the processor has AVX-512. Elsewhere it always packs them first (0), which takes long beside a
    product of few rows, and is not saved by cutting it.
    """
    as_they_are = all(
        library.internal_api != "openblas" or str(library.architecture).lower() in _UNPACKING for library in _blas()
    )
    return 1_000_000 if as_they_are else 0


_UNPACKING = ("skylakex", "cooperlake", "sapphirerapids")  # names of processors in OpenBLAS


@cache
def _controls() -> tuple[tuple[Callable[[], Any], Callable[[int], Any]], ...]:
    """Return the functions that get and set the number of threads of each BLAS library."""
    return tuple(map(_functions, _blas()))


def _functions(library: Any) -> tuple[Callable[[], Any], Callable[[int], Any]]:
    """Return OpenBLAS's own functions if it is that, else those of threadpoolctl.

    threadpoolctl looks the names up at every call, which takes longer than a small product. And its newer versions let
    only one thread of a program set the number, and ignore the others in silence.
    """
    if library.internal_api == "openblas" and library.threading_layer == "pthreads":
        for prefix in ("", "scipy_"):
            for suffix in ("", "64_", "_64"):
                names = (f"{prefix}openblas_{verb}_num_threads{suffix}" for verb in ("get", "set"))
                get, put = (getattr(library.dynlib, name, None) for name in names)
                if get is not None and put is not None:
                    return get, put
    return library.get_num_threads, library.set_num_threads


_blas_lock = threading.Lock()
_blas_users = 0
_blas_before: list[int] = []


class _SingleThreadedBlas:
    """Counts who holds BLAS to one thread; there is one of it."""

    def __enter__(self) -> None:
        global _blas_users, _blas_before
        with _blas_lock:
            if _blas_users == 0:
                controls = _controls()
                _blas_before = [get() for get, _ in controls]
                for (_, put), before in zip(controls, _blas_before, strict=True):
                    if before != 1:
                        put(1)
            _blas_users += 1

    def __exit__(self, *error: object) -> None:
        global _blas_users
        with _blas_lock:
            _blas_users -= 1
            if _blas_users == 0:
                for (_, put), before in zip(_controls(), _blas_before, strict=True):
                    if before != 1:
                        put(before)


_single_threaded_blas = _SingleThreadedBlas()


def single_threaded_blas() -> AbstractContextManager[None]:
    """Hold BLAS to one thread per call inside a `with` block; blocks may nest and overlap between threads."""
    return _single_threaded_blas


_crews: weakref.WeakSet[Crew] = weakref.WeakSet()


class Crew:
    """A caller and its helpers: `crew.run(tasks)` runs one task here and each of the others in a thread of its own.

    The threads are started when first needed and end when nothing came for a second, so that a program which has
    finished training is left without them.
    """

    def __init__(self) -> None:
        self.forget()
        _crews.add(self)

    def forget(self) -> None:
        """Start with no threads: in a process that was forked off, those of the parent do not run."""
        self._helpers: list[_Helper] = []
        self._lock = threading.Lock()

    def run(self, tasks: Sequence[Callable[[], Any]]) -> list[Any]:
        """Run all tasks at the same time and return their results in order; the first error is raised again."""
        with self._lock:
            while len(self._helpers) < len(tasks) - 1:
                self._helpers.append(_Helper())
            pending = [helper.start(task) for helper, task in zip(self._helpers, tasks[1:], strict=False)]
            try:
                results = [tasks[0]()] if tasks else []
            finally:
                outcomes = [job.outcome() for job in pending]
            for result, error in outcomes:
                if error is not None:
                    raise error
                results.append(result)
            return results


class _Job:
    """One task given to a helper, and what came of it."""

    def __init__(self, task: Callable[[], Any]) -> None:
        self.task = task
        self.context = copy_context()  # NumPy's errstate() is there, and holds for the helpers too
        self.result: Any = None
        self.error: BaseException | None = None
        self.done = threading.Lock()
        self.done.acquire()

    def work(self) -> None:
        try:
            self.result = self.context.run(self.task)
        except BaseException as error:
            self.error = error
        self.done.release()

    def outcome(self) -> tuple[Any, BaseException | None]:
        self.done.acquire()
        return self.result, self.error


class _Helper:
    """A thread that takes jobs one at a time. Bare locks carry them: a queue costs several times as much."""

    def __init__(self) -> None:
        self._wake = threading.Lock()
        self._wake.acquire()
        self._state = threading.Lock()
        self._job: _Job | None = None
        self._alive = False

    def start(self, task: Callable[[], Any]) -> _Job:
        job = _Job(task)
        with self._state:
            self._job = job
            if not self._alive:
                self._alive = True
                threading.Thread(target=self._loop, name="tinygrad_cnn", daemon=True).start()
        self._wake.release()
        return job

    def _loop(self) -> None:
        while True:
            if not self._wake.acquire(timeout=IDLE_SECONDS):
                with self._state:
                    if self._job is None:
                        self._alive = False
                        return
                continue
            job, self._job = self._job, None
            if job is not None:
                job.work()
            del job


# The threads of the kernels. Callers in several threads take turns.
shared = Crew()

_WORTH = 6_000_000  # elements below which threads hinder each other more than they help


def in_parts(task: Callable[[int, int], Any], count: int, work: int, worth: int | None = None) -> list[Any]:
    """Call `task(start, end)` on parts of range(count), in as many threads as pay; return what they return, in order.

    Args:
        task: what is done for a part.
        count: how many rows, say, there are to be shared.
        work: of all of it; elements to pass over, unless `worth` counts something else.
        worth: the work below which one thread is fastest.
    """
    threads = min(cpus(), count) if work > (_WORTH if worth is None else worth) else 1
    if threads <= 1:
        return [task(0, count)]
    ends = [i * count // threads for i in range(threads + 1)]
    return shared.run([partial(task, start, end) for start, end in pairwise(ends)])


def _after_fork() -> None:
    global _blas_lock, _blas_users
    _blas_lock, _blas_users = threading.Lock(), 0
    for crew in list(_crews):
        crew.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
