"""Checkpoints: what goes in comes out, bit for bit; what was damaged or made to harm is refused and runs nothing."""

import hashlib
import json
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygrad_cnn import Tensor, nn
from tinygrad_cnn.errors import CheckpointError
from tinygrad_cnn.files import replace_file, write_text
from tinygrad_cnn.train import (
    load_checkpoint,
    load_state_dict_file,
    save_checkpoint,
    save_state_dict_file,
)

STATE = {
    "model": {"conv1.weight": np.arange(12, dtype=np.float32).reshape(3, 4).T, "empty": np.zeros((0, 3))},
    "optimizer": {"state": {0: {"step": 7, "m": np.float32(3)}, 10: {}}, "groups": [{"betas": [0.9, 0.999]}]},
    "generator": {"state": 2**127 + 12345, "name": "PCG64"},
    "scalar": np.array(1.5),
    "nothing": None,
    "flags": [True, False],
    "special": {"$array": "a name like ours", "inf": float("inf"), "third": 1 / 3},
}


def same(a, b):
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return isinstance(b, list) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
    return type(a) is type(b) and (a == b or a != a)


@pytest.fixture
def path(tmp_path):
    save_checkpoint(tmp_path / "run" / "c.safetensors", STATE)
    return tmp_path / "run" / "c.safetensors"


def test_a_state_comes_back_as_it_was(path):
    expected = json.loads("{}") | STATE
    expected["optimizer"] = {"state": {0: {"step": 7, "m": 3.0}, 10: {}}, "groups": STATE["optimizer"]["groups"]}
    assert same(expected, load_checkpoint(path))


leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.builds(
    np.asarray, st.lists(st.floats(width=32), max_size=3)
)  # fmt: skip
states = st.dictionaries(
    st.text(max_size=5) | st.integers(),
    st.recursive(leaves, lambda s: st.lists(s, max_size=3) | st.dictionaries(st.text(max_size=3), s, max_size=3)),
    max_size=4,
)


@settings(max_examples=60, deadline=None)
@given(state=states)
def test_any_nested_state_comes_back_as_it_was(tmp_path_factory, state):
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    save_checkpoint(path, state)
    assert same(state, load_checkpoint(path))


def test_tensors_are_saved_by_value(tmp_path):
    save_checkpoint(tmp_path / "c", {"x": Tensor([1.0, 2.0]), "y": [Tensor(3.0)]})
    state = load_checkpoint(tmp_path / "c")
    assert state["x"].tolist() == [1, 2]
    assert state["y"][0].shape == ()


def test_what_cannot_be_saved_is_named_with_its_place(tmp_path):
    with pytest.raises(CheckpointError, match=r"cannot hold a function \(at a/1\)"):
        save_checkpoint(tmp_path / "c", {"a": [1, lambda: 0]})
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_cut_off_anywhere_is_refused(path):
    whole = path.read_bytes()
    for length in [0, 1, 7, 8, 9, 100, len(whole) // 2, len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="damaged or no safetensors file"):
            load_checkpoint(path)


def test_a_checkpoint_with_any_byte_altered_is_refused(path):
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for at in [*range(16), *rng.integers(16, len(whole), 150).tolist(), len(whole) - 1]:
        altered = bytearray(whole)
        altered[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(altered)
        try:
            state = load_checkpoint(path)
        except CheckpointError:
            continue
        # Spaces that pad the header mean nothing; all else must have been noticed.
        assert whole[at : at + 1] == b" "
        assert same(load_checkpoint(path), state)


class Harm:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def raw(header, body=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def hostile(tmp_path):
    state = '{"model": {"$array": "model/none", "shape": [1]}}'
    deep = "[" * 100_000 + "]" * 100_000

    def ours(text):
        digest = hashlib.sha256(text.encode()).hexdigest()
        return {"__metadata__": {"format": "tinygrad_cnn checkpoint 1", "state": text, "sha256": digest}}

    return {
        "pickle": pickle.dumps(Harm(tmp_path / "harm")),
        "zip, as PyTorch writes": b"PK\x03\x04" + bytes(100),
        "header longer than the file": struct.pack("<Q", 2**62) + b"{}",
        "header of 200 MB": struct.pack("<Q", 200_000_000) + b"{" + bytes(1000),
        "header no JSON": raw(b"{]"),
        "offsets beyond the end": raw({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}, b"1234"),
        "gigantic shape": raw({"a": {"dtype": "F64", "shape": [2**40, 2**40], "data_offsets": [0, 8]}}, bytes(8)),
        "overlapping": raw({n: {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]} for n in "ab"}, b"1234"),
        "unknown type": raw({"a": {"dtype": "PICKLE", "shape": [1], "data_offsets": [0, 1]}}, b"1"),
        "no checkpoint of ours": raw({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}, b"1"),
        "array that is not there": raw(ours(state)),
        "state no JSON": raw(ours("import os")),
        "state nested without end": raw(ours(deep)),
        "number without end": raw(ours('{"a": ' + "9" * 5000 + "}")),
        "state no dict": raw(ours("[1, 2]")),
        "items that are no pairs": raw(ours('{"a": {"$items": [1]}}')),
        "keys that cannot be keys": raw(ours('{"a": {"$items": [[[1], 2]]}}')),
    }


@pytest.mark.parametrize("kind", hostile(Path()))
def test_a_hostile_file_is_refused_and_runs_nothing(kind, tmp_path):
    path = tmp_path / "c.safetensors"
    path.write_bytes(hostile(tmp_path)[kind])
    with pytest.raises(CheckpointError, match=r"c\.safetensors"):
        load_checkpoint(path)
    assert [p.name for p in tmp_path.iterdir()] == ["c.safetensors"]


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="there is no file"):
        load_checkpoint(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="damaged or no safetensors file"):
        load_checkpoint(tmp_path)


def test_weights_are_a_plain_safetensors_file_with_pytorchs_names(tmp_path):
    from safetensors.numpy import load_file

    weight = np.arange(6, dtype=np.float32).reshape(2, 3)
    save_state_dict_file(tmp_path / "m.safetensors", {"fc.weight": Tensor(weight)}, {"made": "here"})
    assert np.array_equal(load_file(tmp_path / "m.safetensors")["fc.weight"], weight)
    arrays, metadata = load_state_dict_file(tmp_path / "m.safetensors")
    assert np.array_equal(arrays["fc.weight"], weight)
    assert metadata == {"made": "here"}
    with pytest.raises(CheckpointError, match="no checkpoint of a training run"):
        load_checkpoint(tmp_path / "m.safetensors")


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "f.txt"
    write_text(path, "old")

    def fails(beside):
        beside.write_text("half of the n")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        replace_file(path, fails)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_on_the_disk_before_it_takes_its_place(tmp_path, monkeypatch):
    order = []
    real_fsync, real_replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (order.append("fsync"), real_fsync(fd))[1])
    monkeypatch.setattr(os, "replace", lambda a, b: (order.append("replace"), real_replace(a, b))[1])
    save_checkpoint(tmp_path / "c", {"a": 1})
    assert order[:2] == ["fsync", "replace"]


@pytest.mark.parametrize("way", ["weights", "checkpoint"])
def test_batch_normalisation_comes_back_from_a_file_with_its_count_of_batches(tmp_path, way):
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    model(Tensor(np.random.default_rng(0).normal(size=(4, 1, 5, 5)).astype(np.float32)))
    path = tmp_path / "model.safetensors"
    if way == "weights":
        save_state_dict_file(path, model.state_dict())
        found, _ = load_state_dict_file(path)
    else:
        save_checkpoint(path, model.state_dict())
        found = load_checkpoint(path)
    fresh = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    fresh.load_state_dict(found)
    for name, value in model.state_dict().items():
        there = fresh.state_dict()[name]
        assert there.shape == value.shape
        assert np.array_equal(np.asarray(there), np.asarray(value))
