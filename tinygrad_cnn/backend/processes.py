"""Helper processes for a fixed list of work: two threads of Python hinder each other at every call, processes do not.

A thread that comes back from NumPy needs the interpreter's lock. If the other thread has it just then, the one that
waits is put to sleep and woken up again, for tens of microseconds; with calls of ten microseconds, of which a training
step of a small network has hundreds, this is a third of the time. So a `Helper` is a process, forked off when all that
it will work on is there. What both sides read and write lies in memory that they share (`shared_array`), and they wait
for each other by looking at a number in it.

Whatever goes wrong in a helper (an exception, a floating point error that somebody wants to hear of, a process that
was killed or does not answer) is answered by `wait()` with False: the caller then does that work itself, in its own
process, and meets the same error as if there were no helpers.
"""

from __future__ import annotations

import gc
import mmap
import os
import platform
import select
import signal
import sys
import threading
import warnings
import weakref
from collections.abc import Callable
from contextlib import suppress
from time import monotonic, sleep
from typing import Any, NoReturn

import numpy as np

__all__ = ["Helper", "available", "shared_array"]

Work = Callable[[int], Any]

IDLE_SECONDS = 1.0  # after which a helper ends
_AWAKE_SECONDS = 0.002  # for which each side looks out for the other before it sleeps
_PATIENCE = 20.0  # seconds after which a helper that does not answer is given up
_LOOKS = 2000  # at a number in memory, 0.1 ms, between two looks at the clock

# Where the numbers stand in the memory of a helper, each in a cache line of its own.
_ASKED, _DONE, _ASLEEP, _FAILED, _COMMAND = range(0, 40, 8)
_AWAKE, _SLEEPING, _GONE = range(3)


def available() -> bool:
    """Return whether helper processes can be used, and are of use, on this machine.

    They need fork(), and a processor that shows the writes of one core to the others in their order, as x86 does:
    Python has no instruction to ask for that. An interpreter without a global lock has no need of them.
    """
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "AMD64"):
        return False
    return bool(getattr(sys, "_is_gil_enabled", lambda: True)())


def shared_array(shape: tuple[int, ...] | int, dtype: Any) -> np.ndarray[Any, Any]:
    """Return an array of zeros whose memory is shared with the processes forked off from now on."""
    dtype = np.dtype(dtype)
    count = int(np.prod(shape))
    memory = mmap.mmap(-1, max(1, count * dtype.itemsize))
    array: np.ndarray[Any, Any] = np.frombuffer(memory, dtype, count).reshape(shape)
    return array


_helpers: weakref.WeakSet[Helper] = weakref.WeakSet()


class Helper:
    """A process that does `work(command)` for each command it is sent, one after the other.

    Args:
        work: called in the helper with a number; it reads and writes arrays made by `shared_array()`. All else that it
            changes, it changes in a copy.

    Raises:
        OSError: the system does not start another process.
    """

    def __init__(self, work: Work) -> None:
        self._work = work
        self._floats = np.geterr()
        self._numbers = memoryview(mmap.mmap(-1, 8 * 40)).cast("q")
        self._sent = 0
        self._pipe, self._wake = os.pipe()
        self._processes: list[int] = []  # the one there is, if any; the finalizer needs to know it
        self._finish = weakref.finalize(self, _end, self._pipe, self._wake, self._processes)
        self._lost = False
        self._start()
        _helpers.add(self)

    def send(self, command: int) -> None:
        """Let the helper begin with a command."""
        numbers = self._numbers
        if numbers[_DONE] != self._sent:
            self.wait()  # whoever sent the command before was interrupted
        if numbers[_ASLEEP] == _GONE:
            try:
                self._start()
            except OSError:  # the system has no more processes to give
                self._lost = True
        self._sent += 1
        numbers[_COMMAND] = command
        numbers[_ASKED] = self._sent
        if numbers[_ASLEEP] == _SLEEPING:
            os.write(self._wake, b".")

    def wait(self) -> bool:
        """Wait until the command is done; return False if it was not, or not without trouble."""
        numbers, sent = self._numbers, self._sent
        if self._lost or not self._answered(sent):
            self.stop()
            return False
        return not numbers[_FAILED]

    def _answered(self, sent: int) -> bool:
        numbers = self._numbers
        started = 0.0
        while True:
            for _ in range(_LOOKS):
                if numbers[_DONE] == sent:
                    return True
            now = monotonic()
            started = started or now
            # The helper may be waiting for this very processor.
            sleep(0 if now < started + _AWAKE_SECONDS else 2e-5)
            if now > started + _PATIENCE or (now > started + 0.05 and not any(map(_alive, self._processes))):
                return bool(numbers[_DONE] == sent)

    @property
    def usable(self) -> bool:
        """Whether the process answers, and floating point errors are treated now as they were when it began."""
        return not self._lost and np.geterr() == self._floats

    @property
    def process(self) -> int | None:
        """The number of the process; None when there is none."""
        return self._processes[0] if self._processes and self._numbers[_ASLEEP] != _GONE else None

    def stop(self) -> None:
        """End the process. It does not come back."""
        self._lost = True
        self._finish()

    def forget(self) -> None:
        """Do not count on the process: it is the child of a process of which this one is a fork."""
        self._lost = True
        self._finish.detach()

    def _start(self) -> None:
        """Fork the process off, also when it had nothing to do for long and left."""
        numbers = self._numbers
        while self._processes:
            with suppress(ChildProcessError):
                os.waitpid(self._processes.pop(), 0)
        numbers[_ASLEEP], numbers[_FAILED], numbers[_DONE] = _AWAKE, 0, self._sent
        parent = os.getpid()
        everything = signal.valid_signals()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, everything)
        try:
            with warnings.catch_warnings():
                # Python warns because other threads do not exist in the fork. Nothing there waits for any: it calls
                # NumPy, with BLAS held to one thread, and a helper that hangs all the same is given up.
                warnings.simplefilter("ignore", DeprecationWarning)
                process = os.fork()
            if process == 0:
                self._live(parent)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self._processes.append(process)

    def _live(self, parent: int) -> NoReturn:
        """Be the helper: never return, run nobody's clean-up, hold nobody's files open."""
        try:
            gc.disable()
            for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)  # the terminal's keys are meant for the parent
            for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM):
                signal.signal(number, signal.SIG_DFL)
            signal.set_wakeup_fd(-1)
            _close_all_but(self._pipe)
            signal.pthread_sigmask(signal.SIG_SETMASK, set())
            sys.settrace(None)
            sys.setprofile(None)
            threading.settrace(None)
            np.seterrcall(self._note)
            np.seterr(**{kind: "ignore" if how == "ignore" else "call" for kind, how in self._floats.items()})
            self._serve(parent)
        finally:
            os._exit(0)

    def _note(self, kind: str, flag: int) -> None:
        self._numbers[_FAILED] = 1

    def _serve(self, parent: int) -> None:
        numbers, done, since = self._numbers, self._sent, monotonic()
        while True:
            for _ in range(_LOOKS):
                if numbers[_ASKED] != done:
                    break
            else:
                now = monotonic()
                if now > since + _AWAKE_SECONDS and not self._sleep(done, since, parent):
                    return
                continue
            done = numbers[_ASKED]
            numbers[_FAILED] = 0
            try:
                self._work(numbers[_COMMAND])
            except BaseException:
                numbers[_FAILED] = 1
            numbers[_DONE] = done
            since = monotonic()

    def _sleep(self, done: int, since: float, parent: int) -> bool:
        """Sleep until there is work; return False if the helper should end instead."""
        numbers = self._numbers
        while True:
            leave = monotonic() > since + IDLE_SECONDS or os.getppid() != parent
            numbers[_ASLEEP] = _GONE if leave else _SLEEPING
            os.sched_yield()  # a call of the system: the number is seen before the next look
            if numbers[_ASKED] != done:
                numbers[_ASLEEP] = _AWAKE
                return True
            if leave:
                return False
            if select.select([self._pipe], [], [], 0.05)[0]:
                os.read(self._pipe, 64)


def _close_all_but(pipe: int) -> None:
    """Close every file but one, so that whoever reads a pipe of the parent sees its end when the parent ends."""
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    for name in os.listdir("/proc/self/fd"):
        number = int(name)
        if number > 2 and number != pipe:
            with suppress(OSError):
                os.close(number)


def _alive(process: int) -> bool:
    try:
        return os.waitpid(process, os.WNOHANG) == (0, 0)
    except ChildProcessError:
        return False


def _end(pipe: int, wake: int, processes: list[int]) -> None:
    """End a helper that nobody refers to any more, or at the end of the program."""
    for process in processes:
        if _alive(process):  # and so its number is not yet that of another process
            with suppress(ProcessLookupError, ChildProcessError):
                os.kill(process, signal.SIGKILL)
                os.waitpid(process, 0)
    os.close(pipe)
    os.close(wake)


def _after_fork() -> None:
    for helper in list(_helpers):
        helper.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
