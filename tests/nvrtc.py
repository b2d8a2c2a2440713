"""NVIDIA's run-time compiler by ctypes: what CuPy hands kernels to, and it needs no GPU.

It comes with `pip install nvidia-cuda-nvrtc` or with a CUDA toolkit; `LIBRARY` is None where there is neither.
"""

import ctypes
import importlib.util
from pathlib import Path


def _find():
    places = []
    spec = importlib.util.find_spec("nvidia")
    for folder in spec.submodule_search_locations if spec is not None else ():
        places += sorted(Path(folder).glob("*/lib/libnvrtc.so.*"), reverse=True)
    places += sorted(Path("/usr/local/cuda/lib64").glob("libnvrtc.so.*"), reverse=True)
    for name in [*map(str, places), "libnvrtc.so"]:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


LIBRARY = _find()


class CompileError(RuntimeError):
    """NVRTC refused a text; the message is its log."""


def compiled(code, options, architecture):
    """Compile a text of CUDA C for an architecture ("sm_90"), and return what the assembler says of its kernels."""
    program = ctypes.c_void_p()
    _checked(LIBRARY.nvrtcCreateProgram(ctypes.byref(program), code.encode(), b"kernels.cu", 0, None, None))
    try:
        # Those that CuPy gives a RawModule.
        given = ["-std=c++17", "-ftz=true", "--device-as-default-execution-space", "--ptxas-options=-v"]
        flags = [f"--gpu-architecture={architecture}", *given, *options]
        values = (ctypes.c_char_p * len(flags))(*[f.encode() for f in flags])
        status = LIBRARY.nvrtcCompileProgram(program, len(flags), values)
        if status:
            raise CompileError(_text(program, "ProgramLog"))
        if len(_bytes(program, "CUBIN")) < 1000:
            raise CompileError("there is no machine code")
        return _text(program, "ProgramLog")
    finally:
        LIBRARY.nvrtcDestroyProgram(ctypes.byref(program))


def _bytes(program, what):
    size = ctypes.c_size_t()
    _checked(getattr(LIBRARY, f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
    held = ctypes.create_string_buffer(size.value)
    _checked(getattr(LIBRARY, f"nvrtcGet{what}")(program, held))
    return held.raw


def _text(program, what):
    return _bytes(program, what).rstrip(b"\0").decode()


def _checked(status):
    if status:
        raise RuntimeError(f"NVRTC failed with status {status}")
