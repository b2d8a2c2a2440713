"""One command for a machine with a GPU: `python -m tinygrad_cnn.bench.on_gpu`, in a checkout, in under ten minutes.

It installs nothing. It runs the tests marked `gpu`, then the benchmark on the GPU, writes one JSON, and prints the
table that is to be quoted, with date, card, driver and versions. Its exit code is 0 if the tests passed (or were left
out) and all contestants computed the same.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..errors import DeviceError
from . import gpu
from .measure import Result, machine, versions
from .run import run, write

__all__ = ["main", "table"]

SECONDS_OF_TESTS = 300
SECONDS_PER_LINE = 4.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run tests and benchmark, write the JSON, print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m tinygrad_cnn.bench.on_gpu",
        description="Run the tests marked gpu and the benchmark on a GPU, and print what is to be quoted.\n"
        "Needed: CuPy (extra cuda13 or cuda12), pytest and hypothesis for the tests, PyTorch with CUDA for the ratios.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--device", default="cuda", metavar="NAME", help="cuda or cuda:1 [default: cuda]")
    parser.add_argument("--out", default="gpu.json", type=Path, metavar="FILE", help="the JSON [default: gpu.json]")
    parser.add_argument("--tests", type=Path, metavar="FOLDER", help="the tests [default: those of this checkout]")
    parser.add_argument("--no-tests", action="store_true", help="the benchmark alone")
    parser.add_argument("--quick", action="store_true", help="smaller and shorter: to see that it works")
    given = parser.parse_args(arguments)
    started = time.perf_counter()
    try:
        settings = gpu.GpuSettings(given.device, SECONDS_PER_LINE, given.quick)
    except DeviceError as error:
        print(f"on_gpu: {error}", file=sys.stderr)
        return 2
    report: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions(),
        "gpu": gpu.describe(settings),
    }
    for part in ("gpu", "versions", "machine"):
        print(f"{part}: " + ", ".join(f"{name} {value}" for name, value in report[part].items()), flush=True)
    report["tests"] = {"summary": "left out"} if given.no_tests else run_tests(given.tests)
    print(f"tests: {report['tests']['summary']}", flush=True)
    results: list[Result] = []
    report["failed"] = {}
    for name in gpu.WORK:
        try:
            results += run(
                [name], settings, lambda r: print(f"  {r.work}: {r.ours:.4g} {r.unit}", flush=True), gpu.WORK
            )
        except Exception as error:  # what was measured before is worth keeping
            report["failed"][name] = f"{type(error).__name__}: {error}"
            print(f"  {name} failed: {report['failed'][name]}", flush=True)
    report["results"] = [result.as_dict() for result in results]
    report["seconds"] = round(time.perf_counter() - started, 1)
    write(given.out, json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    print(f"\n{table(report)}\n\nwritten to {given.out} after {report['seconds']} s")
    same = all(result.met is not False for result in results if result.limit is not None)
    return 0 if same and not report["failed"] and report["tests"].get("passed", True) else 1


def run_tests(folder: Path | None) -> dict[str, Any]:
    """Run the tests marked `gpu` in a process of their own; return their summary and what failed."""
    folder = folder or Path(__file__).resolve().parents[2] / "tests"
    if not folder.exists():
        return {"summary": f"left out: there is no {folder}"}
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "--tb=short", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS_OF_TESTS)
    except subprocess.TimeoutExpired as error:
        text = error.stdout.decode(errors="replace") if isinstance(error.stdout, bytes) else str(error.stdout or "")
        return {"summary": f"not done after {SECONDS_OF_TESTS} s", "passed": False, "end": text[-4000:]}
    lines = done.stdout.strip().splitlines()
    summary = next(
        (line.strip("= ") for line in reversed(lines) if re.search(r"\d+ (passed|failed|skipped)", line)), ""
    )
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    passed = done.returncode == 0
    return {
        "summary": summary or f"pytest ended with {done.returncode}",
        "passed": passed,
        "failed": failed,
        "end": "" if passed else (done.stdout + done.stderr)[-4000:],
    }


def table(report: dict[str, Any]) -> str:
    """Return the table for the README: what was measured on what, and when."""
    about = report["gpu"]
    card = about.get("card", about.get("dry_run", ""))
    used = [f"{name} {about[name]}" for name in ("driver", "cuda", "cupy", "torch", "cudnn") if name in about]
    lines = [
        f"Measured on {report['date'][:10]}: {card}, {', '.join(used)}; float32, TF32 off in all.",
        f"Tests on the GPU: {report['tests']['summary']}.",
        "",
        "| work | here | PyTorch | ratio | |",
        "|---|---|---|---|---|",
    ]
    for result in report["results"]:
        unit = f" {result['unit']}" if result["unit"] else ""
        peer = "" if result["peer"] is None else f"{result['peer']:.3g}{unit} ({result['peer_name']})"
        ratio = "" if result["ratio"] is None else f"{result['ratio']:.2f}x"
        lines.append(f"| {result['work']} | {result['ours']:.3g}{unit} | {peer} | {ratio} | {result['note']} |")
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
