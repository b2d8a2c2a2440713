"""`ex watch`: check again after each save. Files are looked at every 0.3 s; no service of the system is needed."""

from __future__ import annotations

import contextlib
import hashlib
import os
import select
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from . import kit
from .format import EXPLAIN, Exercise, ExerciseError
from .hints import next_hint, shown_hints
from .report import text
from .state import State
from .workbook import attempt, check_path, next_open, student_file

__all__ = ["Keys", "Watcher", "watch"]

KEYS = "keys: h hint  e explain  l list  n next  x reset  q quit"


class Keys:
    """Single keys from the terminal; none where there is no terminal."""

    def __init__(self) -> None:
        self.on = sys.stdin is not None and sys.stdin.isatty()

    @contextlib.contextmanager
    def raw(self) -> Iterator[None]:
        """Read keys without waiting for Enter, and put the terminal back afterwards."""
        if not self.on or os.name != "posix":
            yield
            return
        import termios
        import tty

        handle = sys.stdin.fileno()
        before = termios.tcgetattr(handle)
        try:
            tty.setcbreak(handle)
            yield
        finally:
            termios.tcsetattr(handle, termios.TCSADRAIN, before)

    def wait(self, seconds: float) -> str:
        """Return the key pressed within `seconds`, or the empty string."""
        if not self.on:
            time.sleep(seconds)
            return ""
        if os.name != "posix":
            return self._windows(seconds)
        ready, _, _ = select.select([sys.stdin], [], [], seconds)
        return os.read(sys.stdin.fileno(), 1).decode("latin-1").lower() if ready else ""

    def _windows(self, seconds: float) -> str:
        import importlib

        console = importlib.import_module("msvcrt")
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if console.kbhit():
                return str(console.getwch()).lower()
            time.sleep(0.02)
        return ""


class Watcher:
    """What `watch` does at each look and each key. `say` prints."""

    def __init__(self, folder: Path, exercise: Exercise, colour: bool, say: Callable[[str], None] = print) -> None:
        self.folder = folder
        self.exercise = exercise
        self.colour = colour
        self.say = say
        self.explain = "cause"
        self.asking = False
        self.passed = False
        self._seen: tuple[str, float, int] | None = None
        self._hash = ""

    def look(self, force: bool = False) -> bool:
        """Check the file if its content changed; return whether it was checked."""
        try:
            path = student_file(self.folder, self.exercise)
            stat = path.stat()
        except (ExerciseError, OSError):
            return False  # editors replace files; it will be back at the next look
        seen = (str(path), stat.st_mtime, stat.st_size)
        if seen == self._seen and not force:
            return False
        self._seen = seen
        try:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError:
            return False
        if digest == self._hash and not force:
            return False
        self._hash = digest
        result = check_path(self.exercise, path, explain=self.explain)
        attempt(self.folder, self.exercise, path, result)
        self.passed = bool(result)
        if self.colour:
            self.say("\x1b[2J\x1b[H")
        self.say(text(result, self.colour))
        self.say(f"  watching {path.name}; {'n goes on.  ' if result else ''}{KEYS}")
        return True

    def press(self, key: str) -> bool:
        """Act on a key; return whether to go on watching."""
        if self.asking:
            self.asking = False
            if key == "y":
                self._reset()
            else:
                self.say("kept")
            return True
        if key == "q":
            return False
        if key == "h":
            state = State.load(self.folder)
            refusal = next_hint(state, self.exercise)
            state.save()
            self.say("\n".join(shown_hints(state, self.exercise)))
            if refusal:
                self.say(refusal)
        elif key == "e":
            self.explain = EXPLAIN[(EXPLAIN.index(self.explain) + 1) % len(EXPLAIN)]
            self.look(force=True)
            self.say(f"  explaining: {self.explain}")
        elif key == "l":
            state = State.load(self.folder)
            marks = [f"[{'x' if state.passed(e.id) else ' '}] {e.key}" for e in kit.catalogue()]
            for start in range(0, len(marks), 8):
                self.say("  " + "  ".join(f"{m:<7}" for m in marks[start : start + 8]))
        elif key == "n":
            self._next()
        elif key == "x":
            self.say(f"Replace {self.exercise.filename} by the starting point? Your text is kept as .bak  [y/N]")
            self.asking = True
        return True

    def _next(self) -> None:
        state = State.load(self.folder)
        following = next_open(state, self.exercise.id)
        if following is None:
            self.say("All exercises are done!")
            return
        state.current = following.id
        state.save()
        self.exercise, self._seen, self._hash = following, None, ""
        self.say(f"now: {following.filename}, {following.title}")

    def _reset(self) -> None:
        from .build import student_text
        from .files import write_atomic

        path = self.folder / self.exercise.filename
        if path.exists():
            write_atomic(path.with_name(path.name + ".bak"), path.read_text(encoding="utf-8", errors="replace"))
        write_atomic(path, student_text(self.exercise))
        self.say("reset")


def watch(folder: Path, exercise: Exercise, interval: float, colour: bool) -> int:
    """Watch until `q` or Ctrl-C. Goes on to the next exercise only on the key `n`."""
    watcher = Watcher(folder, exercise, colour, lambda words: print(words, flush=True))
    keys = Keys()
    with keys.raw(), contextlib.suppress(KeyboardInterrupt):
        while True:
            watcher.look()
            key = keys.wait(interval)
            if key and not watcher.press(key):
                break
    return 0 if watcher.passed else 1
