"""The calls for one slice of a batch in a fused program, bound to their buffers: see `fused`."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from .bands import BandCalls
from .patches import Band, Patch
from .stages import PatchCalls, product
from .workspaces import aligned

if TYPE_CHECKING:
    from .fused import Program

__all__ = ["Tile"]

Array = np.ndarray[Any, Any]
Call = Callable[[], Any]


def _calls(tile: Tile, patch: Patch | Band, *arguments: Any, first: bool) -> PatchCalls | BandCalls:
    if isinstance(patch, Band):
        return BandCalls(tile, patch, *arguments, first=first)
    return PatchCalls(tile, patch, *arguments, first=first)


class Tile:
    """The calls for one slice of the batch, bound to their buffers."""

    def __init__(self, program: Program, n: int, gradients: Array) -> None:
        patches, linears = program.patches, program.linears
        self.n = n
        self.scale = program.dtype.type(1 / program.batch)
        self.dtype = program.dtype
        self.int_type = np.dtype(f"i{program.dtype.itemsize}")
        self.sign_shift = program.dtype.itemsize * 8 - 1
        self._zeros: dict[int, Array] = {}
        self.forward: list[Call] = []
        backward: list[list[Call]] = []
        h: Array
        gh: Array | None

        stages = [
            _calls(self, patch, program.matrix(i), program.matrix_gradient(i, gradients), n, first=i == 0)
            for i, patch in enumerate(patches)
        ]
        if stages:
            self.input = stages[0].interior
            for stage, following in zip(stages, [*stages[1:], None], strict=False):
                if following is None:
                    patch = stage.patch
                    shape = (*patch.result_phases, patch.layer.channels[1], *patch.positions, n)
                    result = aligned(shape, self.dtype)
                    incoming = aligned(result.shape, self.dtype)
                else:
                    result, incoming = following.interior, following.g_interior
                self.forward += stage.forward(result)
                backward.append(stage.backward(result, incoming))
            h, gh = result.reshape(-1, n), incoming.reshape(-1, n)
        else:
            self.input = aligned((linears[0].features[0], n), self.dtype)
            h, gh = self.input, None

        ones = np.ones(n, self.dtype)
        targets = program.linear_gradients(gradients)
        views = program.parameters.views
        for layer in linears:
            w = views[layer.weight]
            z = aligned((layer.features[1], n), self.dtype)
            gz = aligned(z.shape, self.dtype)
            self.forward.append(product(w, h, z))
            if layer.bias is not None:
                self.forward.append(partial(np.add, z, views[layer.bias][:, None], z))
            calls: list[Call] = []
            if layer.relu:
                self.forward.append(partial(np.maximum, z, self.zeros(z.shape), out=z))
                mask = aligned(z.shape, bool)
                calls += [partial(np.greater, z, self.dtype.type(0), mask), partial(np.multiply, gz, mask, gz)]
            calls.append(partial(np.dot, gz, h.T, targets[layer.weight]))
            if layer.bias is not None:
                calls.append(partial(np.dot, gz, ones, targets[layer.bias]))
            if gh is not None:
                calls.append(product(w.T, gz, gh))
            backward.append(calls)
            h, gh = z, gz

        self.logits, self.g_logits = h, gz
        self.highest = aligned((1, n), self.dtype)
        self.backward = [call for calls in reversed(backward) for call in calls]
        self.samples = np.arange(n)

    def zeros(self, shape: tuple[int, ...]) -> Array:
        """Return zeros to compare with: NumPy's maximum of two arrays is several times as fast as that with a number.

        Layers share them; nobody writes there.
        """
        size = math.prod(shape)
        if size not in self._zeros:
            self._zeros[size] = aligned(size, self.dtype)
        return self._zeros[size].reshape(shape)

    def run(self, x: Array, labels: Array, losses: Array) -> None:
        """Write the loss of each of these samples, and leave their gradients in the buffers."""
        if self.input.ndim == 2:
            np.copyto(self.input, x.reshape(self.n, -1).T)
        else:
            np.copyto(self.input[0, 0], x.transpose(1, 2, 3, 0))
        for call in self.forward:
            call()
        self._cross_entropy(labels, losses)
        for call in self.backward:
            call()

    def _cross_entropy(self, labels: Array, losses: Array) -> None:
        """loss = log Σ exp(z) − z[label], gradient (softmax(z) − one-hot) / batch."""
        z, g, high = self.logits, self.g_logits, self.highest
        np.maximum.reduce(z, axis=0, out=high, keepdims=True)
        np.subtract(z, high, g)
        true = labels * self.n
        true += self.samples
        flat = g.reshape(-1)
        picked = flat.take(true)
        np.exp(g, g)
        np.add.reduce(g, axis=0, out=high, keepdims=True)
        np.divide(g, high, g)
        flat[true] -= 1
        np.multiply(g, self.scale, g)
        np.log(high, high)
        np.subtract(high[0], picked, losses)
