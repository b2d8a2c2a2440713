"""IDX, the file format of MNIST and its relatives: a magic number, the sizes, then the values in row-major order."""

from __future__ import annotations

import gzip
import hashlib
import lzma
import math
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError

__all__ = ["read_idx"]

# Third byte of the magic number -> type of the values, big-endian as they lie in the file.
_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_MAX_AXES = 8
# No byte of a compressed file can stand for more values than this: deflate's longest match is 258 bytes in 2 bits.
# For xz the bound is that of a run of matches at the least price a range coder can charge, rounded up.
_MAX_EXPANSION = {".gz": 1032, ".xz": 8192}
_CHUNK = 1 << 22


def read_idx(path: str | Path, *, max_bytes: int = 1 << 32, sha256: str | None = None) -> Any:
    """Read one IDX file, plain or compressed (`.gz`, `.xz`), as a NumPy array in native byte order.

    The sizes in the header are compared with the size of the file before memory for them is asked for.

    Args:
        path: the file; its suffix says how it is compressed.
        max_bytes: refuse files that hold more bytes of values than this.
        sha256: expected SHA-256 of the decompressed file, if known.

    Raises:
        DataError: the file is missing, truncated, too long, damaged, or no IDX file.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        with _opened(path) as file:
            return _read(path, file, size, max_bytes, sha256)
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: the compressed data are damaged or cut off ({error}); get the file again") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error


def _opened(path: Path) -> Any:
    if path.suffix == ".gz":
        return gzip.open(path, "rb")
    if path.suffix == ".xz":
        return lzma.open(path, "rb")
    return path.open("rb")


def _read(path: Path, file: Any, size: int, max_bytes: int, sha256: str | None) -> Any:
    digest = hashlib.sha256()
    dtype, shape = _header(path, file, digest)
    expected = math.prod(shape) * dtype.itemsize
    announced = f"the header of {path} announces {' x '.join(map(str, shape))} values ({expected:,} bytes)"
    room = (size - 4 - 4 * len(shape)) if path.suffix not in _MAX_EXPANSION else size * _MAX_EXPANSION[path.suffix]
    if expected > room:
        raise DataError(f"{announced}, but the file has only {size:,} bytes; it is cut off or its header is damaged")
    if expected > max_bytes:
        raise DataError(f"{announced}, more than the limit of {max_bytes:,}; raise it with max_bytes if this is right")
    values = np.empty(shape, dtype)
    view = values.reshape(-1).view(np.uint8).data
    filled = 0
    while filled < expected:
        count = file.readinto(view[filled : filled + _CHUNK])
        if not count:
            raise DataError(f"{announced}, but only {filled:,} bytes follow; the file is cut off")
        digest.update(view[filled : filled + count])
        filled += count
    if file.read(1):
        raise DataError(f"{announced}, but more than that follows; the file or its header is damaged")
    if sha256 is not None and digest.hexdigest() != sha256:
        raise DataError(f"{path}: the data are damaged: SHA-256 is {digest.hexdigest()}, it should be {sha256}")
    return values.astype(dtype.newbyteorder("="), copy=False)


def _header(path: Path, file: Any, digest: Any) -> tuple[np.dtype[Any], tuple[int, ...]]:
    magic = file.read(4)
    if len(magic) < 4:
        raise DataError(f"{path}: {len(magic)} bytes are no IDX file; the file is empty or cut off")
    zero, kind, axes = struct.unpack(">HBB", magic)
    if zero or kind not in _TYPES or not 1 <= axes <= _MAX_AXES:
        raise DataError(
            f"{path}: begins with 0x{magic.hex()}, which is not the magic number of an IDX file "
            "(images of MNIST begin with 0x00000803, labels with 0x00000801)"
        )
    sizes = file.read(4 * axes)
    if len(sizes) < 4 * axes:
        raise DataError(f"{path}: the header is cut off after {4 + len(sizes)} bytes")
    digest.update(magic + sizes)
    return np.dtype(_TYPES[kind]), struct.unpack(f">{axes}I", sizes)
