"""The child process in which a submission runs, and the messages it exchanges with the grader.

This file is run as a program (`python -I child.py`) and imports nothing of tinygrad_cnn, so neither solutions nor
checks are in the same process as the submission. Data travel as JSON and `.npy` blocks without pickling: whatever a
submission returns, the grader reads only numbers, texts and arrays.

A message: 4 bytes length of the JSON header, 8 bytes length of the rest, the header, the `.npy` blocks.
"""

from __future__ import annotations

import builtins
import io
import json
import os
import struct
import sys
import traceback
from typing import Any, BinaryIO

import numpy as np

# Loaded before the process changes its user, who may be unable to read the library.
resource: Any
try:
    import resource
except ImportError:  # Windows
    resource = None

KINDS = "fiubcUS"
LENGTHS = struct.Struct("<IQ")


class RefusedError(Exception):
    """A value that cannot travel, or a message that is not one."""


def encode(value: Any, blocks: list[bytes], functions: list[Any] | None = None, depth: int = 0) -> Any:
    """Return `value` as JSON; arrays go to `blocks`, functions (where allowed) to `functions`."""
    if depth > 50:
        raise RefusedError("nested more than 50 levels deep")
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        if abs(value) >= 2**63:
            return {"i": str(value)[:5000]}
        return int(value)
    if isinstance(value, complex):
        value = np.complex128(value)
    if isinstance(value, float):
        return {"r": repr(float(value))}
    if isinstance(value, (np.ndarray, np.generic)):
        array = np.asarray(value)
        if array.dtype.kind not in KINDS:
            raise RefusedError(f"an array of dtype {array.dtype}")
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, np.ascontiguousarray(array).reshape(array.shape), allow_pickle=False)
        blocks.append(buffer.getvalue())
        return {"s" if isinstance(value, np.generic) else "a": len(blocks) - 1}
    if isinstance(value, (list, tuple)):
        return {"t" if isinstance(value, tuple) else "l": [encode(v, blocks, functions, depth + 1) for v in value]}
    if isinstance(value, (set, frozenset)):
        return {"e": [encode(v, blocks, functions, depth + 1) for v in value]}
    if isinstance(value, dict):
        pairs = [
            [encode(k, blocks, functions, depth + 1), encode(v, blocks, functions, depth + 1)] for k, v in value.items()
        ]
        return {"d": pairs}
    if functions is not None and callable(value):
        functions.append(value)
        return {"f": len(functions) - 1, "n": getattr(value, "__name__", "function")}
    raise RefusedError(f"a value of type {type(value).__name__}")


def decode(value: Any, blocks: list[bytes], remote: Any = None) -> Any:
    """The reverse of `encode`; `remote(number, name)` makes a function that calls back."""
    if not isinstance(value, dict):
        return value
    ((kind, inside),) = [(k, v) for k, v in value.items() if k != "n"]
    if kind in "as":
        array = np.lib.format.read_array(io.BytesIO(blocks[inside]), allow_pickle=False)
        return array[()] if kind == "s" else array
    if kind == "r":
        return float(inside)
    if kind == "i":
        return int(inside)
    if kind == "l":
        return [decode(v, blocks, remote) for v in inside]
    if kind == "t":
        return tuple(decode(v, blocks, remote) for v in inside)
    if kind == "e":
        return {decode(v, blocks, remote) for v in inside}
    if kind == "d":
        return {decode(k, blocks, remote): decode(v, blocks, remote) for k, v in inside}
    if kind == "f" and remote is not None:
        return remote(inside, value.get("n", "function"))
    raise RefusedError(f"unknown mark {kind!r}")


def pack(header: dict[str, Any], blocks: list[bytes]) -> bytes:
    text = json.dumps({**header, "sizes": [len(b) for b in blocks]}).encode()
    rest = b"".join(blocks)
    return LENGTHS.pack(len(text), len(rest)) + text + rest


def unpack(text: bytes, rest: bytes) -> tuple[dict[str, Any], list[bytes]]:
    header = json.loads(text)
    blocks, at = [], 0
    for size in header["sizes"]:
        blocks.append(rest[at : at + size])
        at += size
    return header, blocks


def take(stream: BinaryIO, count: int) -> bytes:
    parts = []
    while count:
        part = stream.read(min(count, 1 << 20))
        if not part:
            raise EOFError
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def receive(stream: BinaryIO, cap: int | None = None) -> tuple[dict[str, Any], list[bytes]]:
    """Read one message; longer ones than `cap` bytes are refused unread."""
    head, rest = LENGTHS.unpack(take(stream, LENGTHS.size))
    if cap is not None and head + rest > cap:
        raise RefusedError(f"a reply of {head + rest} bytes, where {cap} are allowed")
    return unpack(take(stream, head), take(stream, rest))


def spread(array: Any) -> Any:
    """Return an array of equal values that is not contiguous: gaps between entries, the axes in reverse order."""
    if not array.ndim:
        return array
    *others, last = array.shape[::-1]
    gap = np.nan if array.dtype.kind in "fc" else 0  # whoever reads the memory as it lies gets nonsense
    apart = np.full((*others, 2 * last), gap, dtype=array.dtype)[..., ::2].T
    apart[...] = array
    return apart


# ---------------------------------------------------------------------------------------------- in the child only


def isolate(user: bool) -> list[str]:
    """On Linux, move into namespaces of its own: no network, and no process outside can be seen or signalled.

    The first fork becomes number 1 of a new process namespace; when it ends, so does everything inside. The second
    fork goes on as an ordinary process there. Returns what holds, or an empty list where the system refuses.
    """
    if not sys.platform.startswith("linux"):
        return []
    import ctypes

    new_process, new_user, new_network = 0x20000000, 0x10000000, 0x40000000
    wanted = new_process | new_network | (new_user if user else 0)
    try:
        if ctypes.CDLL(None, use_errno=True).unshare(wanted) != 0:
            return []
    except (OSError, AttributeError):
        return []
    for _ in range(2):
        inside = os.fork()
        if inside:
            _stand_by(inside)
    return ["network", "process namespace"]


def _stand_by(inside: int) -> None:
    """Wait for the forked process and end the way it ended; a signal becomes the exit code 128 + signal."""
    os.closerange(0, 64)
    _, status = os.waitpid(inside, 0)
    os._exit(128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status))


def limit(limits: dict[str, Any]) -> list[str]:
    """Lower what this process may use, and return which limits hold."""
    if resource is None:
        return []
    held = []
    cpu, size = max(1, int(limits["cpu"] + 0.999)), int(limits["mem_mb"] * 2**20)
    wanted = [
        ("cpu", resource.RLIMIT_CPU, cpu),
        ("memory", getattr(resource, "RLIMIT_AS", None), size),
        ("file size", resource.RLIMIT_FSIZE, 2**20),
        ("open files", resource.RLIMIT_NOFILE, 32),
        ("core dumps", resource.RLIMIT_CORE, 0),
        ("processes", getattr(resource, "RLIMIT_NPROC", None), 0),
    ]
    if limits.get("uid") is not None:
        try:
            os.setgroups([])
            os.setgid(limits["uid"])
            os.setuid(limits["uid"])
            held.append("user")
        except (OSError, AttributeError):
            pass
    for name, which, value in wanted:
        if which is None:
            continue
        try:
            resource.setrlimit(which, (value, value))
            if name != "processes" or os.geteuid() != 0:  # root may always fork
                held.append(name)
        except (OSError, ValueError):
            pass
    return held


def guard(allowed: list[str], module: str) -> None:
    """Let the submission import only what is on the list. A speed bump: Python code can find ways around it."""
    original = builtins.__import__
    tops = set(allowed)

    def guarded(name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:
        if globals is not None and globals.get("__name__") == module and name.split(".")[0] not in tops:
            raise ImportError(f"an exercise may import {', '.join(allowed)}; {name} is not among them")
        return original(name, globals, locals, fromlist, level)

    builtins.__import__ = guarded


class Child:
    def __init__(self, source: BinaryIO, sink: BinaryIO) -> None:
        self.source = source
        self.sink = sink
        self.names: dict[str, Any] = {}
        self.filename = ""

    def send(self, header: dict[str, Any], blocks: list[bytes]) -> None:
        self.sink.write(pack(header, blocks))
        self.sink.flush()

    def remote(self, number: int, name: str) -> Any:
        """Return a function that lives in the grader."""

        def function(*args: Any) -> Any:
            blocks: list[bytes] = []
            self.send({"do": "call back", "number": number, "args": encode(list(args), blocks)}, blocks)
            header, got = receive(self.source)
            if header["do"] == "raise":
                raise RuntimeError(header["text"])
            return decode(header["value"], got)

        function.__name__ = str(name)
        return function

    def failure(self, error: BaseException) -> dict[str, Any]:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == self.filename]
        line, where = (frames[-1].lineno, frames[-1].name) if frames else (None, "")
        kind, text = "raised", f"{type(error).__name__}: {error}"
        if isinstance(error, SyntaxError):
            kind, line, text = "syntax", error.lineno, f"{type(error).__name__}: {error.msg}"
        elif isinstance(error, NotImplementedError):
            kind, text = "unwritten", str(error) or "not written yet"
        elif isinstance(error, MemoryError):
            kind, text = "memory", "the memory limit was reached"
        elif isinstance(error, SystemExit):
            kind, text = "exit", f"the code called exit({error.code!r})"
        elif isinstance(error, RefusedError):
            kind, text = (
                "value",
                f"the function returned {error}; arrays, numbers, texts, lists and dicts can be checked",
            )
        return {"do": "failed", "kind": kind, "text": text[:500], "line": line, "where": where}

    def run(self, header: dict[str, Any]) -> dict[str, Any]:
        self.filename = header["filename"]
        self.names["__name__"] = "exercise"
        exec(compile(header["code"], self.filename, "exec"), self.names)
        defined = {k: callable(v) for k, v in self.names.items() if isinstance(k, str) and not k.startswith("__")}
        return {"do": "defined", "names": defined}

    def call(self, header: dict[str, Any], got: list[bytes], blocks: list[bytes]) -> dict[str, Any]:
        function = self.names[header["name"]]
        args = decode(header["args"], got, self.remote)
        for position in header.get("spread", ()):
            args[position] = spread(args[position])
        for position in header.get("locked", ()):
            args[position].flags.writeable = False
        before = [a.tobytes() if isinstance(a, np.ndarray) else None for a in args]
        with np.errstate(all="ignore"):
            value = function(*args)
        changed = [i for i, a in enumerate(args) if before[i] is not None and a.tobytes() != before[i]]
        parts = list(value)[:100] if isinstance(value, (tuple, list)) else [value]
        shared = [
            [p, i]
            for p, part in enumerate(parts)
            for i, a in enumerate(args)
            if isinstance(part, np.ndarray) and isinstance(a, np.ndarray) and np.may_share_memory(part, a)
        ]
        twins = [
            [p, q]
            for q, b in enumerate(parts)
            for p, a in enumerate(parts[:q])
            if isinstance(a, np.ndarray) and isinstance(b, np.ndarray) and np.may_share_memory(a, b)
        ]
        reply = {"do": "returned", "value": encode(value, blocks), "shared": shared[:100], "twins": twins[:100]}
        reply["changed"] = [[i, encode(args[i], blocks)] for i in changed]
        return reply

    def answer(self, header: dict[str, Any], got: list[bytes]) -> None:
        blocks: list[bytes] = []
        try:
            if header["do"] == "run":
                reply = self.run(header)
            elif header["do"] == "call":
                reply = self.call(header, got, blocks)
            elif header["do"] == "value":
                reply = {"do": "returned", "value": encode(self.names[header["name"]], blocks)}
            else:
                raise RefusedError(f"unknown request {header['do']!r}")
        except BaseException as error:
            blocks.clear()
            reply = self.failure(error)
        self.send(reply, blocks)


def main() -> None:
    """Serve requests on stdin and stdout until the grader hangs up."""
    source = os.fdopen(os.dup(0), "rb")
    sink = os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(2, 1)  # what the submission prints goes to stderr, which the grader reads up to a limit
    child = Child(source, sink)
    header, _ = receive(source)
    import numpy.fft
    import numpy.linalg
    import numpy.random  # noqa: F401 - loaded before the limits, as a changed user may be unable to read the files

    limits = header["limits"]
    held = isolate(user=os.name == "posix" and os.geteuid() != 0) if limits["isolate"] else []
    held += limit(limits)
    guard(header["allowed"], "exercise")
    child.send({"do": "ready", "held": held}, [])
    while True:
        try:
            header, got = receive(source)
        except EOFError:
            break
        child.answer(header, got)
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
