"""CUDA C kernels compiled with g++ and run on NumPy arrays, with the calls of CuPy's RawModule."""

import ctypes
import re
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
COMPILER = shutil.which("g++")


class BarrierError(RuntimeError):
    """Some threads of a block ended while others waited for them."""


@cache
def _compiled(code, options):
    """Return the library made of a text, and of every kernel whether its threads share memory or meet at barriers."""
    names = re.findall(r'extern\s+"C"\s+__global__\s+void\s+(\w+)\s*\(', code)
    parts = re.split(r'(?=extern\s+"C"\s+__global__)', code)[1:]
    shares = {n: "__shared__" in part or "__sync" in part for n, part in zip(names, parts, strict=True)}
    launchers = "\n".join(
        f'extern "C" int launch_{n}(unsigned blocks, unsigned threads, void** values, unsigned seed, bool s)'
        f" {{ return on_cpu::launch({n}, blocks, threads, values, seed, s); }}"
        for n in names
    )
    folder = Path(tempfile.mkdtemp())
    try:
        source, library = folder / "kernels.cpp", folder / "kernels.so"
        source.write_text(f'#include "cuda_on_cpu.h"\n{code}\n{launchers}\n', encoding="utf-8")
        flags = ["-std=c++17", "-O1", "-shared", "-fPIC", "-w", f"-I{HERE}", *options]
        subprocess.run([COMPILER, *flags, "-o", str(library), str(source)], check=True)
        return ctypes.CDLL(str(library)), shares
    finally:
        shutil.rmtree(folder)


class CpuModule:
    """A text of CUDA C, compiled; `get_function(name)(grid, block, arguments)` runs a kernel."""

    def __init__(self, code, options=(), unwrap=lambda a: a, seed=0):
        self._unwrap, self._seed = unwrap, seed
        self._library, self._shares = _compiled(code, tuple(options))

    def get_function(self, name):
        def run(grid, block, arguments):
            kept = []
            for a in map(self._unwrap, arguments):
                if isinstance(a, np.ndarray):
                    if not a.flags.c_contiguous:
                        raise TypeError(f"{name}: a kernel was given an array that is not contiguous")
                    kept.append(ctypes.c_void_p(a.ctypes.data))
                elif isinstance(a, np.generic):
                    kept.append(np.ctypeslib.as_ctypes_type(a.dtype)(a.item()))
                else:
                    raise TypeError(f"{name}: a kernel takes arrays and sized numbers, got {type(a).__name__}")
            values = (ctypes.c_void_p * len(kept))(*[ctypes.addressof(k) for k in kept])
            if getattr(self._library, f"launch_{name}")(grid[0], block[0], values, self._seed, self._shares[name]):
                raise BarrierError(name)

        return run
