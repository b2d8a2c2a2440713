"""Batches of a data set: fast for arrays, shuffled by a seed, and resumable at any batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..backend import Device, current_device
from ..backend.delivery import delivered
from ..errors import CheckpointError, DataError, OptionError
from .arrays import seeded, take

__all__ = ["DataLoader"]


class DataLoader:
    """Go through a data set in batches: `for x, y in DataLoader(train, batch_size=64, shuffle=True)`.

    What is random is a function of (seed, pass, batch) and of nothing else: two loaders with one seed give the same
    batches, and `load_state_dict()` continues a pass at the very batch where it was left, transforms included.

    >>> from tinygrad_cnn.data import ArrayDataset
    >>> loader = DataLoader(ArrayDataset(np.arange(5.0)), batch_size=2, as_arrays=True)
    >>> [x.tolist() for (x,) in loader], len(loader)
    ([[0.0, 1.0], [2.0, 3.0], [4.0]], 3)

    Args:
        dataset: anything with a length and items; one with `take(indices)` is read in whole batches.
        batch_size: samples per batch; the last batch may be smaller.
        shuffle: a new order in every pass.
        drop_last: leave out a last batch that is smaller than the others.
        seed: for order and transforms; None draws one from the generator of `manual_seed()`.
        transform: `transform(x, rng)` changes the first array of each batch; see `data.transforms`.
        device: where batches go; None for the current device.
        as_arrays: give plain arrays in place of tensors.
        num_workers, pin_memory: accepted so that code written for PyTorch runs; batches of arrays are made faster in
            this process than another one could send them.

    Raises:
        OptionError: an option is out of range.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int = 1,
        shuffle: bool = False,
        drop_last: bool = False,
        *,
        seed: int | None = None,
        transform: Callable[[Any, np.random.Generator], Any] | None = None,
        device: Device | str | None = None,
        as_arrays: bool = False,
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        if isinstance(batch_size, bool) or not isinstance(batch_size, (int, np.integer)) or batch_size < 1:
            raise OptionError(f"batch_size is a whole number from 1 on, got {batch_size!r}")
        if not hasattr(dataset, "__len__") or not (hasattr(dataset, "take") or hasattr(dataset, "__getitem__")):
            raise DataError(f"{type(dataset).__name__} is no data set: it needs __len__ and __getitem__")
        self.dataset = dataset
        self.batch_size = int(batch_size)
        self.shuffle = shuffle
        self.drop_last = drop_last
        random = shuffle or transform is not None or seed is not None
        self.seed = seeded(seed) if random else 0  # no number is drawn where none is needed
        self.transform = transform
        self.device = Device(device) if isinstance(device, str) else device
        self.as_arrays = as_arrays
        self._epoch = 0  # passes begun, less the one in progress
        self._batch = 0  # batches of the pass in progress that were handed out
        self._resuming = False

    def __len__(self) -> int:
        whole, rest = divmod(len(self.dataset), self.batch_size)
        return whole + (1 if rest and not self.drop_last else 0)

    def __iter__(self) -> Iterator[Any]:
        if self._batch and not self._resuming:
            self._epoch += 1  # the pass before was broken off; this is a new one
            self._batch = 0
        self._resuming = False
        return self._batches(self._epoch, self._batch)

    def _batches(self, epoch: int, start: int) -> Iterator[Any]:
        n = len(self.dataset)
        order = None
        if self.shuffle:
            order = np.random.Generator(np.random.PCG64([self.seed, epoch])).permutation(n)
        for number in range(start, len(self)):
            span = slice(number * self.batch_size, min((number + 1) * self.batch_size, n))
            batch = take(self.dataset, span if order is None else order[span])
            if self.transform is not None:
                rng = np.random.Generator(np.random.PCG64([self.seed, epoch, number]))
                first, *rest = batch if isinstance(batch, tuple) else (batch,)
                first = self.transform(first, rng)
                batch = (first, *rest) if isinstance(batch, tuple) else first
            batch = self._handed_out(batch, self.device or current_device())
            self._epoch, self._batch = epoch, number + 1
            yield batch
        self._epoch, self._batch = epoch + 1, 0

    def _handed_out(self, batch: Any, device: Device) -> Any:
        if isinstance(batch, tuple):
            return tuple(self._handed_out(part, device) for part in batch)
        if isinstance(batch, dict):
            return {key: self._handed_out(part, device) for key, part in batch.items()}
        if isinstance(batch, list):
            return batch  # texts
        array = device.asarray(batch)
        return array if self.as_arrays else delivered(array)

    def state_dict(self) -> dict[str, int]:
        """Return where the loader stands: the seed, the pass, and how many of its batches were handed out."""
        return {"seed": self.seed, "epoch": self._epoch, "batch": self._batch, "batches": len(self)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Stand where another loader stood: the next iteration gives the batches that one had still to give.

        Raises:
            CheckpointError: the state is damaged, or is of a loader with another number of batches.
        """
        expected = {"seed", "epoch", "batch", "batches"}
        if set(state) != expected or not all(type(v) is int and v >= 0 for v in state.values()):
            raise CheckpointError(f"this is no state of a data loader: expected whole numbers {sorted(expected)}")
        if state["batches"] != len(self):
            raise CheckpointError(
                f"the state is of a loader with {state['batches']} batches, this one has {len(self)}; "
                "give it the same data and batch size"
            )
        if state["batch"] > state["batches"]:
            raise CheckpointError(f"the state is at batch {state['batch']} of {state['batches']}")
        self.seed, self._epoch, self._batch = state["seed"], state["epoch"], state["batch"]
        self._resuming = self._batch > 0
