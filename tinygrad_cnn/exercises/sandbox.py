"""A submission in a child process: limits, time-outs, and replies that are only data.

This keeps an honest mistake (an endless loop, a runaway allocation, a crash) from taking the grader along, and puts a
bump in the road of a dishonest one. It is not a security boundary; `docs/teacher.md` says what holds on which system.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from . import child as protocol
from .space import Space, StudentError

__all__ = ["ChildSpace", "Limits"]

ALLOWED = ["numpy", "math", "cmath", "itertools", "functools", "collections", "operator", "dataclasses", "typing",
           "__future__"]  # fmt: skip


class Limits:
    """What a child may use: seconds of wall clock and CPU per exercise, memory, printed and returned bytes.

    `isolate` asks for namespaces of its own (Linux: no network, no sight of other processes), `drop_user` for the
    user "nobody" where the grader runs as root; both hold where the system allows them, see `ChildSpace.held`.
    """

    def __init__(
        self,
        wall: float = 10.0,
        cpu: float = 10.0,
        mem_mb: float = 1024.0,
        reply_mb: float = 64.0,
        output_mb: float = 4.0,
        allowed: list[str] | None = None,
        isolate: bool = False,
        drop_user: bool = False,
    ) -> None:
        self.wall = wall
        self.cpu = cpu
        self.mem_mb = mem_mb
        self.reply = int(reply_mb * 2**20)
        self.output = int(output_mb * 2**20)
        self.allowed = [*ALLOWED, "tinygrad_cnn"] if allowed is None else allowed
        self.isolate = isolate
        self.drop_user = drop_user

    def message(self) -> dict[str, Any]:
        root = hasattr(os, "geteuid") and os.geteuid() == 0
        uid = 65534 if self.drop_user and root else None
        return {"cpu": self.cpu, "mem_mb": self.mem_mb, "isolate": self.isolate, "uid": uid}


class ChildSpace(Space):
    """A student's file in a child process of its own. Use it as a context manager, or call `close()`.

    Args:
        code: the text of the file.
        filename: its name, for messages.
        limits: what the child may use; the wall clock runs from the first request to the last.
    """

    def __init__(self, code: str, filename: str = "exercise.py", limits: Limits | None = None) -> None:
        self.code = code
        self.filename = filename
        self.limits = limits or Limits()
        self.defined: dict[str, bool] = {}
        self.printed = b""
        self.held: list[str] = []
        self.calls_back = 0
        self._dead: StudentError | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="exercise-", ignore_cleanup_errors=True)
        if self.limits.message()["uid"] is not None:
            os.chmod(self._folder.name, 0o777)
        environment = {
            "PATH": os.defpath,
            "HOME": self._folder.name,
            "TMPDIR": self._folder.name,
            "LC_ALL": "C.UTF-8",
            "PYTHONDONTWRITEBYTECODE": "1",
            "OPENBLAS_NUM_THREADS": "1",  # each BLAS thread reserves memory that counts against the limit
            "OMP_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
        }
        for name in ("SYSTEMROOT", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"):
            if name in os.environ:
                environment[name] = os.environ[name]
        self._process = subprocess.Popen(
            [sys.executable, "-I", str(Path(protocol.__file__))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=self._folder.name,
            env=environment,
            start_new_session=os.name == "posix",
        )
        self._replies: queue.Queue[Any] = queue.Queue()
        self._flood = False
        self._threads = [
            threading.Thread(target=self._read_replies, daemon=True),
            threading.Thread(target=self._read_prints, daemon=True),
        ]
        for thread in self._threads:
            thread.start()
        self._send({"limits": self.limits.message(), "allowed": self.limits.allowed}, [])
        self._deadline = time.monotonic() + self.limits.wall + 10.0  # start-up is not the student's time
        self._started = False

    def start(self) -> None:
        """Run the file. The child itself was started by the constructor, so start-up overlaps with other work."""
        if self._started:
            return
        self._started = True
        header, _ = self._receive()
        self.held = list(header.get("held", ()))
        self._deadline = time.monotonic() + self.limits.wall
        self._send({"do": "run", "code": self.code, "filename": self.filename}, [])
        header, _ = self._receive()
        self.defined = dict(header["names"])

    def has(self, name: str) -> bool:
        self.start()
        return name in self.defined

    def value(self, name: str) -> Any:
        if not self.has(name):
            raise StudentError("missing", f"the file does not define {name}")
        self._send({"do": "value", "name": name}, [])
        header, blocks = self._receive()
        return self._decode(header["value"], blocks)

    def call(self, name: str, *args: Any) -> Any:
        if not self.has(name):
            raise StudentError("missing", f"the file defines no function {name}()")
        if not self.defined[name]:
            raise StudentError("missing", f"{name} is not a function")
        blocks: list[bytes] = []
        functions: list[Callable[..., Any]] = []
        locked = [i for i, a in enumerate(args) if isinstance(a, np.ndarray) and not a.flags.writeable]
        apart = [i for i, a in enumerate(args) if isinstance(a, np.ndarray) and not a.flags.c_contiguous]
        encoded = protocol.encode(list(args), blocks, functions)
        layout = {"locked": locked, "spread": apart}
        self._send({"do": "call", "name": name, "args": encoded["l"] and encoded, **layout}, blocks)
        while True:
            header, got = self._receive()
            if header["do"] != "call back":
                break
            self._call_back(functions, header, got)
        value = self._decode(header["value"], got)
        return self._reflect(value, args, header, got)

    def _call_back(self, functions: list[Callable[..., Any]], header: dict[str, Any], got: list[bytes]) -> None:
        """Run a function of the checks on arguments that the submission gave."""
        self.calls_back += 1
        blocks: list[bytes] = []
        try:
            number = header["number"]
            if not isinstance(number, int) or not 0 <= number < len(functions):
                raise protocol.RefusedError("no such function")
            value = functions[number](*self._decode(header["args"], got))
            reply = {"do": "returned", "value": protocol.encode(value, blocks)}
        except Exception as error:
            blocks, reply = [], {"do": "raise", "text": f"{type(error).__name__}: {error}"[:500]}
        self._send(reply, blocks)

    def _reflect(self, value: Any, args: tuple[Any, ...], header: dict[str, Any], blocks: list[bytes]) -> Any:
        """Repeat here what the child's function did to its arguments, so that checks of them see it."""
        try:
            for position, new in header.get("changed", ()):
                array, seen = args[position], self._decode(new, blocks)
                if isinstance(array, np.ndarray) and array.flags.writeable and seen.shape == array.shape:
                    array[...] = seen
            for part, position in header.get("shared", ()):
                array = args[position]
                got = value[part] if isinstance(value, (tuple, list)) else value
                if isinstance(got, np.ndarray) and isinstance(array, np.ndarray) and got.size <= array.size:
                    view = array.reshape(-1)[: got.size].reshape(got.shape)
                    if not isinstance(value, (tuple, list)):
                        if np.array_equal(view, got, equal_nan=True):
                            value = view
                    elif np.array_equal(view, got, equal_nan=True):
                        value = type(value)(view if i == part else v for i, v in enumerate(value))
            for first, second in header.get("twins", ()):
                if np.array_equal(value[first], value[second], equal_nan=True):
                    value = type(value)(value[first] if i == second else v for i, v in enumerate(value))
        except (TypeError, ValueError, IndexError, KeyError, AttributeError):
            pass  # a forged reply; the values themselves are judged anyway
        return value

    def _decode(self, value: Any, blocks: list[bytes]) -> Any:
        try:
            return protocol.decode(value, blocks)
        except Exception as error:
            raise StudentError("value", f"the reply cannot be read: {type(error).__name__}: {error}"[:300]) from error

    def _send(self, header: dict[str, Any], blocks: list[bytes]) -> None:
        if self._dead is not None:
            raise self._dead
        stdin = self._process.stdin
        # A broken pipe shows up, with its reason, when the reply is awaited.
        with contextlib.suppress(OSError, ValueError):
            if stdin is not None:
                stdin.write(protocol.pack(header, blocks))
                stdin.flush()

    def _receive(self) -> tuple[dict[str, Any], list[bytes]]:
        if self._dead is not None:
            raise self._dead
        try:
            reply = self._replies.get(timeout=max(0.0, self._deadline - time.monotonic()))
        except queue.Empty:
            raise self._end(StudentError("timeout", f"no answer within {self.limits.wall:g} s")) from None
        if isinstance(reply, StudentError):
            raise self._end(reply)
        if reply is None:
            raise self._end(self._why_ended())
        header, blocks = reply
        if header.get("do") == "failed":
            line = header.get("line")
            raise StudentError(
                str(header.get("kind")),
                str(header.get("text"))[:500],
                line if isinstance(line, int) else None,
                str(header.get("where", ""))[:100],
            )
        if header.get("do") not in ("ready", "defined", "returned", "call back"):
            raise self._end(StudentError("value", "the reply is not of the agreed form"))
        return header, blocks

    def _why_ended(self) -> StudentError:
        if self._flood:
            return StudentError("output", f"printed more than {self.limits.output / 2**20:g} MB")
        try:
            code = self._process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            return StudentError("crash", "closed its connection to the checker")
        if code > 128 and "process namespace" in self.held:
            code = 128 - code  # the signal of the process inside
        if code >= 0:
            return StudentError("exit", f"the process ended with exit code {code} in the middle of a call")
        name = signal.Signals(-code).name if -code in {s.value for s in signal.Signals} else str(-code)
        if name == "SIGXCPU":
            return StudentError("timeout", f"used more than {self.limits.cpu:g} s of CPU time")
        return StudentError("crash", f"the process was ended by signal {name}")

    def _end(self, error: StudentError) -> StudentError:
        self._dead = error
        self.kill()
        return error

    def kill(self) -> None:
        """End the child and all processes of its group."""
        if os.name == "posix":
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        with contextlib.suppress(OSError):
            self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)

    def drain(self) -> None:
        """Wait for what the submission printed to arrive."""
        with contextlib.suppress(OSError, ValueError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=0.5)
        self._threads[1].join(timeout=0.5)

    def close(self) -> None:
        """End the child and remove its folder."""
        self.kill()
        for thread in self._threads:
            thread.join(timeout=2)
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            with contextlib.suppress(OSError, ValueError):
                if stream is not None:
                    stream.close()
        self._folder.cleanup()

    def __enter__(self) -> ChildSpace:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _read_replies(self) -> None:
        stream = self._process.stdout
        assert stream is not None
        try:
            while True:
                self._replies.put(protocol.receive(stream, self.limits.reply))  # type: ignore[arg-type]
        except protocol.RefusedError as error:
            self._replies.put(StudentError("output", str(error)))
        except (EOFError, OSError, ValueError):
            self._replies.put(None)
        except Exception as error:  # a forged header
            self._replies.put(StudentError("value", f"the reply cannot be read: {type(error).__name__}"))

    def _read_prints(self) -> None:
        stream = self._process.stderr
        assert stream is not None
        total = 0
        with contextlib.suppress(OSError, ValueError):
            while part := os.read(stream.fileno(), 1 << 16):
                total += len(part)
                if len(self.printed) < 1 << 16:
                    self.printed += part
                if total > self.limits.output:
                    self._flood = True
                    self.kill()
                    return
