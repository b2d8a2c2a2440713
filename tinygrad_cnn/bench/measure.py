"""How things are timed: contestants in turn, round after round, so that a busy moment of the machine meets all."""

from __future__ import annotations

import gc
import importlib.metadata
import os
import platform
import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from time import perf_counter, sleep
from typing import Any

__all__ = ["Contestant", "Result", "compare", "machine", "medians", "versions"]


_PAUSE = 0.05  # seconds between the turns of two contestants
_TURN = 0.08  # seconds of a turn


@dataclass
class Result:
    """One line of the report.

    Attributes:
        work: what was done.
        ours, peer: medians of each, in `unit`; None where there is no peer.
        ratio: how many times as fast we are (peer / ours); how many times as much, where more is better.
        target: what the ratio should reach, or None.
        limit: what `ours` should not exceed, or None.
        note: anything else worth knowing.
    """

    work: str
    ours: float
    unit: str = "ms"
    peer: float | None = None
    peer_name: str = ""
    more_is_better: bool = False
    target: float | None = None
    limit: float | None = None
    note: str = ""
    detail: dict[str, Any] = field(default_factory=dict)

    @property
    def ratio(self) -> float | None:
        if self.peer is None or not self.ours or not self.peer:
            return None
        return self.ours / self.peer if self.more_is_better else self.peer / self.ours

    @property
    def met(self) -> bool | None:
        """Whether the target is reached; None where there is none, or no peer to compare with."""
        if self.limit is not None:
            return self.ours <= self.limit
        if self.target is None or self.ratio is None:
            return None
        return self.ratio >= self.target

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "ratio": self.ratio, "met": self.met}


class Contestant:
    """A call that is timed in turns, and the clock that tells its time."""

    def __init__(self, call: Callable[[], Any], clock: Callable[[], float] = perf_counter) -> None:
        self.call = call
        self.clock = clock
        self.slow = False

    def warm_up(self, count: int) -> None:
        """Call some times, and see whether one call takes longer than a turn."""
        for _ in range(count):
            self.call()
        started = perf_counter()
        self.call()
        self.slow = perf_counter() - started > _TURN

    def turn(self) -> list[float]:
        """Return the times in seconds of the calls of one turn."""
        times = []
        begun = perf_counter()
        while not self.slow and perf_counter() < begun + _TURN / 4:
            self.call()
        while True:
            started = self.clock()
            self.call()
            times.append(self.clock() - started)
            if self.slow or perf_counter() > begun + _TURN:
                return times


def compare(
    contestants: Mapping[str, Callable[[], Any] | Contestant],
    seconds: float,
    *,
    warm_up: int = 5,
    turns: int = 5,
    clock: Callable[[], float] = perf_counter,
) -> dict[str, list[float]]:
    """Return the times in seconds of every call, contestants taking turns until the time is used up.

    Each turn repeats a call for 80 ms, of which the first 20 are not counted, so that caches and clocks are those of
    steady work. Before it there is a pause, because the threads of BLAS and of OpenMP go on looking for work for some
    20 ms, on a processor that the next contestant needs. There are at least `turns` turns, of which a slow contestant
    makes one call each. `clock` tells the time of plain calls: that on the wall, or `time.process_time`, the time of
    the processor, which other processes take nothing from.
    """
    all_of_them = {
        name: call if isinstance(call, Contestant) else Contestant(call, clock) for name, call in contestants.items()
    }
    for contestant in all_of_them.values():
        contestant.warm_up(warm_up)
    times: dict[str, list[float]] = {name: [] for name in contestants}
    collecting = gc.isenabled()
    gc.disable()
    try:
        end, done = perf_counter() + seconds, 0
        while perf_counter() < end or done < turns:
            for name, contestant in all_of_them.items():
                sleep(_PAUSE)
                times[name] += contestant.turn()
            done += 1
            gc.collect(0)
    finally:
        if collecting:
            gc.enable()
    return times


def medians(times: dict[str, list[float]], scale: float = 1e3) -> dict[str, float]:
    """Return the median of each list, in milliseconds."""
    return {name: statistics.median(values) * scale for name, values in times.items()}


def machine() -> dict[str, Any]:
    """Return what the numbers depend on: processor, CPUs this process may use, system, load."""
    from ..backend.threads import cpus

    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as lines:
            name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    except OSError:
        pass
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {"processor": name, "cpus": cpus(), "system": f"{platform.system()} {platform.machine()}", "load": load}


def versions() -> dict[str, str]:
    """Return the versions of Python, of this package and of the libraries compared."""
    found = {"python": platform.python_version()}
    for name in ("tinygrad-cnn", "numpy", "torch"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
