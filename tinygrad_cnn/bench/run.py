"""The command line of the benchmarks."""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from ..backend.threads import single_threaded_blas
from ..errors import DeviceError
from . import gpu
from .measure import Result, machine, versions
from .peers import torch_or_none
from .work import WORK, Settings

__all__ = ["main", "run", "write"]


def run(names: Iterable[str], settings: Any, show: Any = None, work: Any = None) -> list[Result]:
    """Measure the named groups of `work` (default: WORK, the CPU's), calling `show(result)` as each line is ready."""
    results = []
    for name in names:
        for result in (work or WORK)[name](settings):
            results.append(result)
            if show is not None:
                show(result)
    return results


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmarks named on the command line, print a table, write JSON. A missed target is no error."""
    parser = argparse.ArgumentParser(
        prog="python -m tinygrad_cnn.bench",
        description="Measure tinygrad_cnn beside PyTorch, if that is installed: pip install 'tinygrad-cnn[bench]'.",
        epilog="Groups: " + "; ".join(f"{name}: {(work.__doc__ or '').strip()}" for name, work in WORK.items()),
    )
    parser.add_argument("groups", nargs="*", metavar="GROUP", help="what to measure; everything if none is named")
    parser.add_argument("--quick", action="store_true", help="smaller and shorter: to see that it works")
    parser.add_argument("--seconds", type=float, default=5.0, help="how long to measure each line (default 5)")
    parser.add_argument(
        "--one-thread",
        action="store_true",
        help="the processor's time with one thread each: for machines on which others work too",
    )
    parser.add_argument(
        "--device", default="cpu", metavar="NAME", help=f"cpu, or cuda, which measures {', '.join(gpu.WORK)} there"
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the numbers to FILE too")
    given = parser.parse_args(arguments)
    work = WORK if given.device == "cpu" else gpu.WORK
    unknown = [name for name in given.groups if name not in work]
    if unknown:
        parser.error(f"there is no group {unknown[0]!r} on {given.device}; there are {', '.join(work)}")
    try:
        settings: Any = (
            Settings(given.seconds, given.quick, given.one_thread)
            if given.device == "cpu"
            else gpu.GpuSettings(given.device, given.seconds, given.quick)
        )
    except DeviceError as error:
        parser.error(str(error))

    from rich.console import Console
    from rich.markup import escape

    console = Console()
    about, used = machine(), versions()
    if given.device != "cpu":
        about |= gpu.describe(settings)
    console.print(
        f"{about['processor']}, {about['cpus']} CPUs, {about['system']}, load {about['load']}", highlight=False
    )
    console.print(", ".join(f"{name} {version}" for name, version in used.items()), highlight=False)
    if given.device != "cpu":
        console.print(", ".join(f"{name} {about[name]}" for name in gpu.SAID if name in about), highlight=False)
    if "torch" not in used:
        console.print("PyTorch is not installed, so there is nothing to compare with.", style="yellow")

    def show(result: Result) -> None:
        console.print(_line(result, escape), highlight=False, soft_wrap=True)

    header = f"{'':52} {'ours':>9} {'peer':>9} {'':8} {'ratio':>6}  target"
    console.print(header, style="bold", highlight=False, soft_wrap=True)
    with _one_thread() if given.one_thread else nullcontext():
        results = run(given.groups or work, settings, show, work)
    if given.json is not None:
        report = {"machine": about, "versions": used, "results": [result.as_dict() for result in results]}
        write(given.json, json.dumps(report, indent=1, ensure_ascii=False) + "\n")
        console.print(f"written to {given.json}")
    return 0


@contextmanager
def _one_thread() -> Iterator[None]:
    """Hold this package, BLAS and PyTorch to one thread each."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    torch = torch_or_none()
    threads = torch.get_num_threads() if torch else 1
    try:
        if torch:
            torch.set_num_threads(1)
        with single_threaded_blas():
            yield
    finally:
        if torch:
            torch.set_num_threads(threads)
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


def _line(result: Result, escape: Any) -> str:
    peer = " " * 9 if result.peer is None else _number(result.peer)
    ratio = " " * 6 if result.ratio is None else f"{result.ratio:5.2f}x"
    target = ""
    if result.limit is not None:
        target = f"<= {result.limit:g} {result.unit}".rstrip()
    elif result.target is not None:
        target = f">= {result.target:g}x"
    colour = {True: "green", False: "red", None: "default"}[result.met]
    numbers = f"{_number(result.ours)} {peer} {result.unit:8} [{colour}]{ratio}  {target}[/]"
    return f"{escape(result.work):52} {numbers} {escape(result.note)}".rstrip()


def _number(value: float) -> str:
    """Return a number of three digits, or a whole one if it has more, as a column of the table."""
    return f"{value:9,.0f}" if abs(value) >= 999.5 else f"{value:9.3g}"


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
