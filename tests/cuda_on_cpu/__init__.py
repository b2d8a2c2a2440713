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


def _signatures(code, options):
    """Return of every kernel the element types that its parameters must have, and whether each is an array.

    A wrong one is an error on no GPU: the kernel reads the bytes it was given, and those beside them.
    """
    chosen = dict(o.removeprefix("-D").partition("=")[::2] for o in options)
    types = {
        "int": "i4",
        "long long": "i8",
        "float": "f4",
        "double": "f8",
        "unsigned char": "u1",
        "unsigned": "u4",
        "bool": "b1",
    }
    types["REAL"] = types.get(chosen.get("REAL"), "f4")
    types["STORE"] = types["REAL"] if chosen.get("STORAGE", "0") == "0" else "u2"
    found = {}
    for name, parameters in re.findall(r'extern\s+"C"\s+__global__\s+void\s+(\w+)\s*\(([^)]*)\)', code):
        found[name] = []
        for parameter in parameters.split(","):
            kind = re.sub(r"\bconst\b|__restrict__", "", parameter)
            kind = re.sub(r"\w+\s*$", "", kind).strip()
            found[name].append((np.dtype(types[kind.rstrip("* ")]), "*" in kind))
    return found


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
        self._signatures = _signatures(code, options)

    def get_function(self, name):
        def run(grid, block, arguments):
            kept, given = [], [self._unwrap(a) for a in arguments]
            wanted = self._signatures[name]
            if len(given) != len(wanted):
                raise TypeError(f"{name}: a kernel with {len(wanted)} parameters was given {len(given)} arguments")
            for a, (dtype, array) in zip(given, wanted, strict=True):
                if isinstance(a, np.ndarray) != array or getattr(a, "dtype", None) != dtype:
                    raise TypeError(f"{name}: a parameter takes {dtype}{' array' * array}, got {a!r:.60}")
                if isinstance(a, np.ndarray):
                    if not a.flags.c_contiguous:
                        raise TypeError(f"{name}: a kernel was given an array that is not contiguous")
                    kept.append(ctypes.c_void_p(a.ctypes.data))
                else:
                    kept.append(np.ctypeslib.as_ctypes_type(a.dtype)(a.item()))
            values = (ctypes.c_void_p * len(kept))(*[ctypes.addressof(k) for k in kept])
            if getattr(self._library, f"launch_{name}")(grid[0], block[0], values, self._seed, self._shares[name]):
                raise BarrierError(name)

        return run
