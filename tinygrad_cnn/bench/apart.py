"""Contestants in processes of their own.

In one process they would share what belongs to a process: how its C library keeps freed memory, which this package
sets and PyTorch gains from, and the processors that the idle threads of one go on using during the turn of the other.
Here each of them runs as it does for somebody who uses it alone.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import Any

from .measure import Contestant

__all__ = ["Apart", "apart", "serve"]


class Apart(Contestant):
    """A contestant that a function makes in a new process.

    Args:
        make: a function of a module, which returns the call to be timed.
        arguments: of `make`, as JSON can hold them.
        clock: the name of a function of `time`.
        plain: whether the C library is left as it is.
    """

    def __init__(
        self,
        make: Callable[..., Callable[[], Any]],
        arguments: Sequence[Any],
        *,
        clock: str = "perf_counter",
        plain: bool = False,
    ) -> None:
        self.name = f"{make.__name__}({', '.join(map(repr, arguments))})"
        code = f"from {__name__} import serve; serve()"
        spec = json.dumps([make.__module__, make.__qualname__, list(arguments), clock])
        environment = dict(os.environ)
        if plain:
            environment.setdefault("GLIBC_TUNABLES", "")  # which `keep_freed_memory` takes for the user's own choice
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, spec], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=environment,
        )  # fmt: skip

    def _ask(self, *command: Any) -> Any:
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None
        assert stdout is not None
        try:
            stdin.write(json.dumps(command) + "\n")
            stdin.flush()
            answer = stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            raise RuntimeError(f"the process of {self.name} ended with status {self.process.wait()}; it says why above")
        return json.loads(answer)

    def warm_up(self, count: int) -> None:
        self._ask("warm_up", count)

    def turn(self) -> list[float]:
        times: list[float] = self._ask("turn")
        return times

    def close(self) -> None:
        """End the process: by itself, so that its helpers end with it, or by force."""
        try:
            self.process.communicate(timeout=5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()


@contextmanager
def apart(
    make: Callable[..., Callable[[], Any]], kinds: Sequence[str], *arguments: Any, clock: str = "perf_counter"
) -> Iterator[dict[str, Contestant]]:
    """Give a contestant `make(kind, *arguments)` for each kind; PyTorch's is that of kind "torch"."""
    with ExitStack() as stack:
        found: dict[str, Contestant] = {}
        for kind in kinds:
            contestant = Apart(make, [kind, *arguments], clock=clock, plain=kind == "torch")
            stack.callback(contestant.close)
            found[kind] = contestant
        yield found


def serve() -> None:
    """Do, in such a process, what standard input says, and write the answers."""
    module, function, arguments, clock = json.loads(sys.argv[1])
    contestant = Contestant(getattr(import_module(module), function)(*arguments), getattr(time, clock))
    gc.disable()
    for line in sys.stdin:
        command, *values = json.loads(line)
        print(json.dumps(getattr(contestant, command)(*values)), flush=True)
        gc.collect(0)
