"""`tinygrad-cnn info`: what this machine has to offer, for bug reports and for the curious."""

from __future__ import annotations

import argparse
import math
import os
import platform
import shutil
from importlib import metadata, util

from .main import Run

__all__ = ["command"]

# Optional package -> what it is for.
EXTRAS = {
    "matplotlib": "curves (plot)",
    "pillow": "predict, pictures (plot)",
    "graphviz": "graph layout (graph)",
    "ml_dtypes": "bfloat16 (amp)",
    "cupy-cuda13x": "NVIDIA GPU (cuda13)",
    "cupy-cuda12x": "NVIDIA GPU (cuda12)",
    "torch": "comparisons (bench)",
}
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


def command(parser: argparse.ArgumentParser) -> Run:
    """Add the options of `tinygrad-cnn info`, and return what runs it."""
    parser.description = "Print versions, libraries and devices of this machine."
    return run


def run(arguments: argparse.Namespace) -> int:
    """Print a line per fact."""
    from rich.text import Text

    from .. import __version__
    from .console import output

    console = output()
    facts = {
        "tinygrad_cnn": __version__,
        "Python": f"{platform.python_version()} ({platform.python_implementation()})",
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "processor": f"{_processor()}, {_usable()} of {os.cpu_count()} cores usable",
        "NumPy": metadata.version("numpy"),
        **_blas(),
        "threads": ", ".join(f"{name}={os.environ[name]}" for name in THREADS if name in os.environ)
        or "no thread variable set",
    }
    for name in ("rich", "safetensors", "threadpoolctl"):
        facts[name] = metadata.version(name)
    for name, purpose in EXTRAS.items():
        facts[name] = f"{_version(name) or 'not installed':<15}{purpose}"
    facts["dot"] = shutil.which("dot") or "not found      pictures are laid out without it"
    facts["devices"] = ", ".join(["cpu", *_gpus()])
    facts |= _engines()
    width = max(map(len, facts)) + 2
    for name, value in facts.items():
        console.print(Text.assemble((f"{name:<{width}}", "bold"), value))
    return 0


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _usable() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def _blas() -> dict[str, str]:
    import numpy  # noqa: F401 - so that its BLAS is loaded
    from threadpoolctl import threadpool_info

    found = [library for library in threadpool_info() if library.get("user_api") == "blas"]
    if not found:
        return {"BLAS": "none found"}
    one = found[0]
    kind = f", {one['architecture']}" if one.get("architecture") else ""
    return {"BLAS": f"{one['internal_api']} {one.get('version') or ''}{kind}, {one['num_threads']} threads"}


def _engines() -> dict[str, str]:
    """Say which convolutions a GPU computes how, by the number of products per output, and in what precision."""
    from ..backend.convolution_engines import ENGINES, load_cudnn, tf32_allowed

    ways = [
        f"{' or else '.join(names)}{f' up to {limit:.0f} products per output' if limit < math.inf else ''}"
        for limit, names in ENGINES
    ]
    module, reason = load_cudnn()
    return {
        "conv, cuda": ", then ".join(ways),
        "cuDNN": reason or f"{module.backend_version()}, by nvidia-cudnn-frontend {module.__version__}",
        "TF32": "allowed for float32 products, by CUPY_TF32" if tf32_allowed() else "off (CUPY_TF32=1 allows it)",
    }


def _gpus() -> list[str]:
    if util.find_spec("cupy") is None:
        return []
    from ..backend.device import backend_for
    from ..errors import DeviceError

    try:
        return [f"cuda:{i}" for i in range(backend_for("cuda").count())]
    except DeviceError:
        return []
