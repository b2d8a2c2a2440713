"""Batches: every sample once per pass, the same for the same seed, resumable at any batch."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_cnn as tg
from tinygrad_cnn import data
from tinygrad_cnn.backend import manual_seed
from tinygrad_cnn.data.transforms import Noise
from tinygrad_cnn.errors import CheckpointError, DataError, OptionError


def numbers(n):
    return data.ArrayDataset(np.arange(n), np.arange(n) * 10)


def loader(n=10, batch_size=3, **options):
    return data.DataLoader(numbers(n), batch_size, as_arrays=True, **options)


def seen(batches):
    return [x.tolist() for x, _ in batches]


def test_without_shuffling_batches_come_in_order_and_the_last_is_smaller():
    assert seen(loader()) == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]
    assert len(loader()) == 4


def test_drop_last_leaves_out_the_smaller_batch():
    assert seen(loader(drop_last=True)) == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert len(loader(drop_last=True)) == 3
    assert len(loader(9, drop_last=True)) == 3


@given(n=st.integers(1, 50), size=st.integers(1, 60), shuffle=st.booleans(), drop=st.booleans())
def test_a_pass_gives_len_batches_and_no_sample_twice(n, size, shuffle, drop):
    batches = list(loader(n, size, shuffle=shuffle, drop_last=drop, seed=1))
    got = [int(i) for x, _ in batches for i in x]
    assert len(batches) == len(loader(n, size, drop_last=drop))
    assert len(set(got)) == len(got) == (n // size * size if drop else n)
    assert all((x * 10 == y).all() for x, y in batches)


def test_passes_differ_in_order_and_a_seed_repeats_them():
    first, second = loader(50, shuffle=True, seed=7), loader(50, shuffle=True, seed=7)
    passes = [seen(first), seen(first)]
    assert passes[0] != passes[1]
    assert passes == [seen(second), seen(second)]
    assert seen(loader(50, shuffle=True, seed=8)) != passes[0]


def test_manual_seed_decides_the_seed_of_a_loader_that_has_none():
    orders = []
    for _ in range(2):
        manual_seed(3)
        orders.append(seen(loader(30, shuffle=True)))
    assert orders[0] == orders[1]
    assert seen(loader(30, shuffle=True)) != orders[0]


@pytest.mark.parametrize("stop", range(9))
def test_a_loader_resumes_at_the_batch_where_it_was_left_with_transforms_too(stop):
    def make(seed):
        images = data.ArrayDataset(np.zeros((10, 1, 2, 2), np.float32))
        return data.DataLoader(images, 3, shuffle=True, seed=seed, transform=Noise(1.0, clip=None), as_arrays=True)

    def forever(source):
        while True:
            yield from source

    straight = [x for (x,) in itertools.islice(forever(make(5)), 12)]
    broken = make(5)
    for _ in zip(range(stop), forever(broken), strict=False):
        pass
    if stop and stop % 4 == 0:
        assert broken.state_dict()["batch"] in (0, 4)
    state = json.loads(json.dumps(broken.state_dict()))
    resumed = make(99)
    resumed.load_state_dict(state)
    done = state["epoch"] * 4 + state["batch"]
    rest = [x for (x,) in itertools.islice(forever(resumed), 12 - done)]
    assert all(np.array_equal(a, b) for a, b in zip(straight[done:], rest, strict=True))


def test_a_pass_that_was_broken_off_is_not_continued_but_followed_by_a_new_one():
    one = loader(20, shuffle=True, seed=1)
    for _ in one:
        break
    assert len(seen(one)) == len(one)
    assert one.state_dict() == {"seed": 1, "epoch": 2, "batch": 0, "batches": 7}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({}, "no state of a data loader"),
        ({"seed": 1, "epoch": 0, "batch": -1, "batches": 4}, "no state of a data loader"),
        ({"seed": 1, "epoch": 0, "batch": 1.5, "batches": 4}, "no state of a data loader"),
        ({"seed": 1, "epoch": 0, "batch": 1, "batches": 5}, "a loader with 5 batches, this one has 4"),
        ({"seed": 1, "epoch": 0, "batch": 5, "batches": 4}, "at batch 5 of 4"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(state, message):
    with pytest.raises(CheckpointError, match=message):
        loader().load_state_dict(state)


def test_any_sequence_of_samples_is_a_data_set():
    class Pairs:
        def __len__(self):
            return 4

        def __getitem__(self, i):
            return {"x": np.full((2,), i, np.float32), "name": f"n{i}", "more": (i, float(i))}

    first, _ = data.DataLoader(Pairs(), 3, as_arrays=True)
    assert first["x"].tolist() == [[0, 0], [1, 1], [2, 2]]
    assert first["name"] == ["n0", "n1", "n2"]
    assert first["more"][0].tolist() == [0, 1, 2]
    assert first["more"][1].dtype == np.float32


def test_samples_that_cannot_be_stacked_are_refused():
    with pytest.raises(DataError, match=r"different shapes, \(1,\) and \(2,\)"):
        next(iter(data.DataLoader([np.zeros(1), np.zeros(2)], 2)))
    with pytest.raises(DataError, match="tuples of different lengths"):
        next(iter(data.DataLoader([(1,), (1, 2)], 2)))


@pytest.mark.parametrize("size", [0, -1, 2.0, True, "3"])
def test_a_batch_size_that_is_no_positive_whole_number_is_refused(size):
    with pytest.raises(OptionError, match="batch_size is a whole number from 1 on"):
        data.DataLoader(numbers(3), size)


def test_other_wrong_arguments_are_refused():
    with pytest.raises(DataError, match="iterator is no data set"):
        data.DataLoader(iter(range(3)))
    with pytest.raises(OptionError, match="a seed is a whole number"):
        loader(seed=-1)
    with pytest.raises(DataError, match=r"got shapes \(2,\), \(3,\)"):
        data.ArrayDataset(np.zeros(2), np.zeros(3))
    with pytest.raises(DataError, match="at least one array"):
        data.ArrayDataset()
    with pytest.raises(DataError, match="no labels"):
        _ = data.ArrayDataset(np.zeros(2)).labels


def test_a_data_set_is_indexed_like_a_list():
    dataset = numbers(5)
    assert tuple(map(int, dataset[-1])) == (4, 40)
    with pytest.raises(IndexError, match="sample 5 of a data set of 5"):
        dataset[5]
    assert [int(x) for x, _ in dataset] == [0, 1, 2, 3, 4]


def test_a_split_covers_everything_once_and_is_repeatable():
    parts = data.random_split(numbers(20), [0.5, 0.25, 0.25], seed=3)
    assert [len(p) for p in parts] == [10, 5, 5]
    assert sorted(int(x) for p in parts for x, _ in p) == list(range(20))
    again = data.random_split(numbers(20), [10, 5, 5], seed=3)
    assert [p.indices.tolist() for p in parts] == [p.indices.tolist() for p in again]
    nested = data.Subset(parts[0], [3, 1])
    assert nested.take(slice(0, 2))[1].tolist() == nested.labels.tolist()
    with pytest.raises(OptionError, match="sum to the 20 samples"):
        data.random_split(numbers(20), [10, 5])
    with pytest.raises(OptionError, match="fractions of a split sum to 1"):
        data.random_split(numbers(20), [0.5, 0.4])
    with pytest.raises(DataError, match="from 0 to 19"):
        data.Subset(numbers(20), [20])


def test_a_loader_gives_tensors_and_arrays_on_request():
    from tinygrad_cnn import Tensor

    dataset = data.ArrayDataset(np.eye(3, dtype=np.float32), np.arange(3))
    ((x, y),) = data.DataLoader(dataset, 3)
    assert (type(x), type(y)) == (Tensor, Tensor)
    assert (x.dtype, y.dtype) == (np.float32, np.int64)
    assert not x.requires_grad
    ((x, y),) = data.DataLoader(dataset, 3, as_arrays=True)
    assert type(x) is type(y) is type(tg.zeros(1).array)


def test_a_data_set_of_tensors_holds_their_arrays():
    from tinygrad_cnn import Tensor

    dataset = data.TensorDataset(Tensor(np.eye(3)), [1, 2, 3])
    assert type(dataset.images) is type(tg.zeros(1).array)
    assert dataset.take([2])[1].tolist() == [3]
