"""Checkpoints: all that a training run is at one moment, in one safetensors file, which holds data and no code.

A state is nested dicts, lists, numbers, texts and arrays. The arrays are the file's tensors, named by their place
in the state ("model/conv1.weight"); the rest is JSON in the file's metadata, with a digest of all of it.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from ..backend import to_host
from ..backend.dtypes import bfloat16
from ..errors import CheckpointError
from ..files import replace_file

__all__ = ["load_checkpoint", "load_state_dict_file", "save_checkpoint", "save_state_dict_file"]

_FORMAT = "tinygrad_cnn checkpoint 1"
_ARRAY = "$array"
_ITEMS = "$items"


def save_checkpoint(path: str | Path, state: dict[str, Any]) -> None:
    """Write a state to a safetensors file, in one step: a crash leaves the file before or the new one.

    Args:
        path: the file.
        state: nested dicts, lists and tuples (which come back as lists) of arrays, tensors, numbers, texts and None.

    Raises:
        CheckpointError: something in the state is none of these.
    """
    tensors: dict[str, Any] = {}
    text = json.dumps(_packed(state, "", tensors))
    metadata = {"format": _FORMAT, "state": text, "sha256": _digest(text, tensors)}
    _save(path, tensors, metadata)


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a state that `save_checkpoint()` wrote. Reading runs nothing that the file brings along.

    Raises:
        CheckpointError: the file is missing, cut off, altered, or no checkpoint.
        MissingExtraError: it holds bfloat16, and ml_dtypes is not installed.
    """
    tensors, metadata = _load(path)
    if metadata.get("format") != _FORMAT:
        raise CheckpointError(f"{path} is a safetensors file, but no checkpoint of a training run")
    text = metadata.get("state", "")
    if metadata.get("sha256") != _digest(text, tensors):
        raise CheckpointError(f"{path} was altered after it was written: its digest does not fit its content")
    try:
        state = _unpacked(json.loads(text), tensors)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path} holds a state that cannot be read ({type(error).__name__}: {error})") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{path} holds a {type(state).__name__} where a state should be")
    return state


def save_state_dict_file(path: str | Path, state_dict: dict[str, Any], metadata: dict[str, str] | None = None) -> None:
    """Write a model's state dict as a plain safetensors file that any reader of the format can load."""
    _save(path, {name: _host(value) for name, value in state_dict.items()}, metadata or {})


def load_state_dict_file(path: str | Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Read a plain safetensors file: arrays by name, and its metadata.

    Raises:
        CheckpointError: the file is missing, cut off, or no safetensors file.
        MissingExtraError: it holds bfloat16, and ml_dtypes is not installed.
    """
    return _load(path)


def _save(path: str | Path, tensors: dict[str, Any], metadata: dict[str, str]) -> None:
    from safetensors.numpy import save_file

    Path(path).parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, lambda beside: save_file(tensors, beside, metadata))


def _load(path: str | Path) -> tuple[dict[str, Any], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            if any(file.get_slice(name).get_dtype() == "BF16" for name in file.keys()):  # noqa: SIM118
                bfloat16()  # makes the type known, or says which package is missing
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no file {path}") from error
    except (SafetensorError, OSError, TypeError, ValueError, KeyError, AttributeError, MemoryError) as error:
        raise CheckpointError(f"{path} is damaged or no safetensors file ({error})") from error


def _host(value: Any) -> Any:
    # np.ascontiguousarray would give an array without axes one of size 1
    return np.asarray(to_host(getattr(value, "array", value)), order="C")


def _digest(text: str, tensors: dict[str, Any]) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        array = tensors[name]
        digest.update(f"\0{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _packed(value: Any, place: str, tensors: dict[str, Any]) -> Any:
    """Return `value` as JSON can hold it; arrays go to `tensors` and leave their name behind."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, dict):
        parts = [(key, _packed(part, f"{place}/{key}" if place else str(key), tensors)) for key, part in value.items()]
        if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return dict(parts)
        return {_ITEMS: [[_packed(key, place, tensors), part] for key, part in parts]}
    if isinstance(value, (list, tuple)):
        return [_packed(part, f"{place}/{i}" if place else str(i), tensors) for i, part in enumerate(value)]
    if isinstance(value, np.generic):
        return value.item()
    if hasattr(value, "dtype"):
        array = _host(value)
        # Shapes of no axes and no values do not survive every version of the format's reader; the shape is kept here.
        tensors[place] = array.reshape(-1) if array.ndim == 0 else array
        return {_ARRAY: place, "shape": list(getattr(value, "array", value).shape)}
    raise CheckpointError(f"a checkpoint cannot hold a {type(value).__name__} (at {place or 'its top'})")


def _unpacked(value: Any, tensors: dict[str, Any]) -> Any:
    if isinstance(value, dict):
        if _ARRAY in value:
            return tensors[value[_ARRAY]].reshape(value["shape"])
        if _ITEMS in value:
            return {key: _unpacked(part, tensors) for key, part in value[_ITEMS]}
        return {key: _unpacked(part, tensors) for key, part in value.items()}
    if isinstance(value, list):
        return [_unpacked(part, tensors) for part in value]
    return value
