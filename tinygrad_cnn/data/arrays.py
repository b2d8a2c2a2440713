"""Data sets made of arrays, and parts of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from ..backend import Device, device_of, generator, to_host
from ..errors import DataError, OptionError

__all__ = ["ArrayDataset", "Dataset", "Subset", "TensorDataset", "random_split", "seeded"]


@runtime_checkable
class Dataset(Protocol):
    """Anything with a length and items: `dataset[i]` is one sample, a tuple such as (image, label).

    A data set that also has `take(indices)`, which returns whole batches, is read without a Python loop.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


class ArrayDataset:
    """Samples that lie in arrays of equal length: `ArrayDataset(images, labels)`.

    >>> dataset = ArrayDataset(np.eye(3, dtype=np.float32), np.arange(3))
    >>> dataset[1]
    (array([0., 1., 0.], dtype=float32), np.int64(1))
    >>> dataset.take([2, 0])[1].tolist()
    [2, 0]

    Args:
        arrays: one or more arrays (NumPy's or the device's); the first axis counts samples.
        normalise: a function applied to the first array of a batch or sample as it is taken.
        classes: the number of classes of the labels, for those who ask.

    Raises:
        DataError: the arrays differ in length, or there are none.
    """

    def __init__(self, *arrays: Any, normalise: Callable[[Any], Any] | None = None, classes: int | None = None) -> None:
        if not arrays:
            raise DataError("a data set needs at least one array")
        # A tensor is handed in as what it holds; lists become arrays.
        held = [getattr(a, "array", a) for a in arrays]
        self.arrays = tuple(a if hasattr(a, "shape") else np.asarray(a) for a in held)
        lengths = [a.shape[0] if a.ndim else None for a in self.arrays]
        if None in lengths or len(set(lengths)) > 1:
            shapes = ", ".join(str(a.shape) for a in self.arrays)
            raise DataError(f"the arrays of a data set have one length along the first axis, got shapes {shapes}")
        self.normalise = normalise
        self.classes = classes

    @property
    def images(self) -> Any:
        """The first array, as it is stored."""
        return self.arrays[0]

    @property
    def labels(self) -> Any:
        """The second array.

        Raises:
            DataError: the data set has only one array.
        """
        if len(self.arrays) < 2:
            raise DataError("this data set holds one array only, no labels")
        return self.arrays[1]

    def __len__(self) -> int:
        return int(self.arrays[0].shape[0])

    def take(self, indices: Any) -> tuple[Any, ...]:
        """Return the batch of the samples at `indices` (a sequence or a slice), normalised."""
        if not isinstance(indices, slice):
            indices = np.asarray(indices, dtype=np.intp)
        batch = tuple(_at(a, indices) for a in self.arrays)
        if self.normalise is not None:
            batch = (self.normalise(batch[0]), *batch[1:])
        return batch

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        length = len(self)
        if not -length <= index < length:
            raise IndexError(f"sample {index} of a data set of {length}")
        index = index % length
        return tuple(a[0] for a in self.take(slice(index, index + 1)))

    def __repr__(self) -> str:
        parts = ", ".join(f"{a.dtype}{list(a.shape[1:])}" for a in self.arrays)
        return f"<ArrayDataset of {len(self)} x ({parts})>"


def _at(array: Any, indices: Any) -> Any:
    """Return array[indices]; the indices go to where the array lives."""
    if isinstance(indices, slice) or isinstance(array, np.ndarray):
        return array[indices]
    return array[device_of(array).asarray(indices)]


# The name that PyTorch's users look for.
TensorDataset = ArrayDataset


class Subset:
    """The samples of a data set at certain indices, without a copy."""

    def __init__(self, dataset: Any, indices: Sequence[int] | Any) -> None:
        self.dataset = dataset
        self.indices = np.asarray(indices, dtype=np.intp)
        if self.indices.ndim != 1:
            raise DataError(f"indices of a subset lie along one axis, got shape {self.indices.shape}")
        if self.indices.size and not -len(dataset) <= self.indices.min() <= self.indices.max() < len(dataset):
            raise DataError(f"indices of a subset go from 0 to {len(dataset) - 1}, the length of its data set less one")

    @property
    def labels(self) -> Any:
        """The labels of these samples."""
        return _at(self.dataset.labels, self.indices)

    @property
    def classes(self) -> int | None:
        """The number of classes, as the whole data set tells it."""
        return getattr(self.dataset, "classes", None)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[int(self.indices[index])]

    def take(self, indices: Any) -> Any:
        """Return a batch of these samples."""
        return take(self.dataset, self.indices[indices])

    def __repr__(self) -> str:
        return f"<Subset of {len(self)} of {self.dataset!r}>"


def take(dataset: Any, indices: Any) -> Any:
    """Return the samples at `indices` (an array or a slice) as one batch, in one piece where the data set can do it."""
    if hasattr(dataset, "take"):
        return dataset.take(indices)
    if isinstance(indices, slice):
        indices = range(*indices.indices(len(dataset)))
    return collate([dataset[int(i)] for i in indices])


def collate(samples: list[Any]) -> Any:
    """Stack samples to a batch: tuples, dicts and arrays keep their form, numbers become arrays."""
    first = samples[0]
    if isinstance(first, (tuple, list)):
        if len({len(s) for s in samples}) > 1:
            raise DataError("samples of one batch are tuples of different lengths")
        return tuple(collate(list(column)) for column in zip(*samples, strict=True))
    if isinstance(first, dict):
        return {key: collate([s[key] for s in samples]) for key in first}
    if isinstance(first, (str, bytes)):
        return samples
    values = [np.asarray(to_host(getattr(s, "array", s))) for s in samples]
    if len({v.shape for v in values}) > 1:
        shapes = sorted({v.shape for v in values})
        raise DataError(f"samples of one batch have different shapes, {shapes[0]} and {shapes[1]}")
    batch = np.stack(values)
    # As a tensor of Python floats would be: float32.
    return batch.astype(np.float32) if isinstance(first, float) else batch


def seeded(seed: int | None) -> int:
    """Return `seed`, or one drawn from the package's generator, so that `manual_seed()` decides everything."""
    if seed is None:
        return int(generator(Device("cpu")).integers(2**63))
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise OptionError(f"a seed is a whole number from 0 on, got {seed!r}")
    return int(seed)


def random_split(dataset: Any, lengths: Sequence[float], seed: int | None = None) -> list[Subset]:
    """Split a data set at random into parts without overlap: `train, validation = random_split(d, [55_000, 5_000])`.

    Args:
        dataset: what to split.
        lengths: numbers of samples that sum to the length, or fractions that sum to 1.
        seed: makes the split repeatable; None draws from the generator of `manual_seed()`.

    Raises:
        OptionError: the lengths do not sum to the whole.
    """
    n = len(dataset)
    if all(isinstance(k, (int, np.integer)) for k in lengths):
        counts = [int(k) for k in lengths]
    else:
        if abs(sum(lengths) - 1) > 1e-9:
            raise OptionError(f"fractions of a split sum to 1, got {list(lengths)}")
        ends = [round(n * sum(lengths[: i + 1])) for i in range(len(lengths))]
        counts = [end - start for start, end in zip([0, *ends], ends, strict=False)]
    if sum(counts) != n or min(counts, default=-1) < 0:
        raise OptionError(f"the parts of a split sum to the {n} samples there are, got {list(lengths)}")
    order = np.random.Generator(np.random.PCG64([seeded(seed), n])).permutation(n)
    return [Subset(dataset, part) for part in np.split(order, np.cumsum(counts)[:-1])]
