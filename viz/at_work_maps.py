"""What a network sees: the numbers behind the pictures in `at_work`, as NumPy arrays."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from ..backend import to_host
from ..errors import OptionError, ShapeError
from ..graph import Observer, Traced, no_grad, observing, state
from ..nn import functional as F  # noqa: N812 - the field's name for it
from ..tensor import Tensor, grad

__all__ = [
    "Layer",
    "Shift",
    "activations",
    "equivariance",
    "grad_cam",
    "gradient_norms",
    "occlusion",
    "probabilities",
    "saliency",
    "shifted",
]


@dataclass(frozen=True)
class Layer:
    """What one layer gave: its module path, the op that made the values, the op's family, and the values (n, ...)."""

    name: str
    kind: str
    family: str
    values: Any


class _Watcher(Observer):
    """Collects what each layer gives: the last op of a module without children, every op of one that has some."""

    def __init__(self, model: Any) -> None:
        self.names = {id(module): name for name, module in model.named_modules()}
        self.leaves = {id(module) for module in model.modules() if not list(module.children())}
        self.found: list[tuple[str, Any, Any]] = []  # name, op, result
        self._last: Any = None

    def op_finished(self, op: Any, inputs: tuple[Any, ...], options: dict[str, Any], output: Any, result: Any) -> None:
        if not isinstance(result, Traced):
            return
        scope = state.mode.scope
        module = None if scope is None else scope.module
        if scope is not None and scope is self._last and id(module) in self.leaves:
            self.found.pop()
        self._last = scope
        self.found.append((self.names.get(id(module), "") or op.name, op, result))


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Run a model in evaluation mode, and leave each module as it was."""
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


def batch(image: Any) -> Any:
    """Return an image (h, w), (c, h, w) or (1, c, h, w) as a float32 batch of one.

    Raises:
        ShapeError: another number of axes, or several images.
    """
    x = np.asarray(image.numpy() if isinstance(image, Tensor) else image, np.float32)
    x = x.reshape((1,) * (4 - x.ndim) + x.shape) if x.ndim in (2, 3) else x
    if x.ndim != 4 or len(x) != 1:
        raise ShapeError(f"one image is needed, of shape (h, w), (c, h, w) or (1, c, h, w); got {x.shape}")
    return x


def _scores(model: Any, x: Any) -> Any:
    y = model(x)
    return y[0] if isinstance(y, (tuple, list)) else y  # networks with side classifiers give the main scores first


def _device(model: Any, x: Any) -> Any:
    parameter = next(iter(model.parameters()), None)
    return Tensor(x) if parameter is None else Tensor(x, device=parameter.device)


def probabilities(model: Any, images: Any) -> Any:
    """Return the softmax probabilities (n, classes) of images (n, c, h, w), without recording a graph."""
    with evaluating(model), no_grad():
        scores = to_host(_scores(model, _device(model, np.asarray(images, np.float32))).array).astype(np.float64)
    e = np.exp(scores - scores.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def answer(model: Any, image: Any) -> Any:
    """Return the probabilities of the classes for one image; None for a model that gives no scores (n, classes)."""
    x = batch(image)
    with evaluating(model), no_grad():
        scores = _scores(model, _device(model, x))
    return probabilities(model, x)[0] if scores.ndim == 2 else None


def activations(model: Any, image: Any) -> list[Layer]:
    """Return what every layer gives for an image, in the order they ran."""
    watcher = _Watcher(model)
    with evaluating(model), no_grad(), observing(watcher):
        _scores(model, _device(model, batch(image)))
    return [
        Layer(name, op.name, op.family, to_host(result.array))
        for name, op, result in watcher.found
        if result.array.ndim >= 2 and len(result.array) == 1
    ]


def _chosen(model: Any, x: Any, label: int | None) -> int:
    row = probabilities(model, x)[0]
    if label is None:
        return int(row.argmax())
    if not 0 <= label < len(row):
        raise OptionError(f"label must lie in 0 .. {len(row) - 1}, got {label}")
    return int(label)


def saliency(model: Any, image: Any, label: int | None = None) -> Any:
    """Return |d score / d pixel| (h, w), the largest of the channels, for the score of `label`.

    Args:
        model: maps images (n, c, h, w) to scores (n, classes).
        image: one image.
        label: whose score; by default that of the network's answer.

    Source: Simonyan, Vedaldi & Zisserman, Deep inside convolutional networks, ICLR workshop 2014.
    """
    pixels = batch(image)
    label = _chosen(model, pixels, label)
    with evaluating(model):
        x = _device(model, pixels).requires_grad_(True)
        gx = grad(_scores(model, x)[0, label], [x])[0]
    return np.abs(to_host(gx.array)[0]).max(axis=0)


def occlusion(
    model: Any, image: Any, label: int | None = None, *, size: int = 5, fill: float | None = None, most: int = 256
) -> Any:
    """Return how much the probability of `label` falls when a square around each pixel is covered, (h, w).

    Args:
        model: maps images (n, c, h, w) to scores (n, classes).
        image: one image.
        label: whose probability; by default that of the network's answer.
        size: side of the square in pixels.
        fill: what it is covered with; by default the smallest value of the image, its background.
        most: images per batch.

    Source: Zeiler & Fergus, Visualizing and understanding convolutional networks, ECCV 2014, section 4.2.
    """
    x = batch(image)
    label = _chosen(model, x, label)
    h, w = x.shape[-2:]
    if not 1 <= size <= min(h, w):
        raise OptionError(f"size must lie in 1 .. {min(h, w)}, got {size}")
    cover = float(x.min()) if fill is None else fill
    whole = probabilities(model, x)[0, label]
    places = [(i, j) for i in range(h) for j in range(w)]
    result = np.empty(len(places))
    before, after = (size - 1) // 2, size // 2 + 1
    for start in range(0, len(places), most):
        part = places[start : start + most]
        covered = np.repeat(x, len(part), axis=0)
        for k, (i, j) in enumerate(part):
            covered[k, :, max(0, i - before) : i + after, max(0, j - before) : j + after] = cover
        result[start : start + most] = whole - probabilities(model, covered)[:, label]
    return result.reshape(h, w)


def grad_cam(model: Any, image: Any, label: int | None = None, *, layer: str | None = None) -> Any:
    """Return relu(Σ a_k A_k) (h, w) scaled to [0, 1]: A_k are the maps of a layer, a_k the mean of d score / dA_k.

    Args:
        model: maps images (n, c, h, w) to scores (n, classes).
        image: one image.
        label: whose score; by default that of the network's answer.
        layer: path of the module whose maps are used; by default the last convolution, after its activation.

    Raises:
        OptionError: no such layer, or it gives no maps.

    Source: Selvaraju et al., Grad-CAM: Visual explanations from deep networks via gradient-based localization,
    ICCV 2017.
    """
    pixels = batch(image)
    label = _chosen(model, pixels, label)
    watcher = _Watcher(model)
    with evaluating(model):
        x = _device(model, pixels).requires_grad_(True)
        with observing(watcher):
            score = _scores(model, x)[0, label]
        maps = _maps_of(watcher.found, layer)
        g = grad(score, [maps])[0]
    A, gA = to_host(maps.array)[0], to_host(g.array)[0]
    weighted = np.maximum((gA.mean(axis=(1, 2))[:, None, None] * A).sum(axis=0), 0)
    peak = weighted.max()
    return resized(weighted / peak if peak > 0 else weighted, pixels.shape[-2:])


def _maps_of(found: list[tuple[str, Any, Any]], layer: str | None) -> Any:
    maps = [(name, op, y) for name, op, y in found if y.array.ndim == 4 and y.requires_grad]
    if layer is not None:
        named = [y for name, _, y in maps if name == layer]
        if not named:
            known = ", ".join(dict.fromkeys(name for name, _, _ in maps)) or "none"
            raise OptionError(f"no layer {layer!r} gives maps; those that do: {known}")
        return named[-1]
    last = max((k for k, (_, op, _) in enumerate(maps) if op.name.startswith("conv")), default=None)
    if last is None:
        raise OptionError("Grad-CAM needs a network with a convolution")
    if last + 1 < len(maps) and maps[last + 1][1].family == "activation":
        last += 1
    return maps[last][2]


def resized(image: Any, size: Sequence[int]) -> Any:
    """Return (h, w) values at another size by bilinear interpolation between pixel centres."""
    for axis, n in enumerate(size):
        old = image.shape[axis]
        at = np.clip((np.arange(n) + 0.5) * old / n - 0.5, 0, old - 1)
        low = np.floor(at).astype(int)
        high = np.minimum(low + 1, old - 1)
        share = (at - low).reshape((-1, 1) if axis == 0 else (1, -1))
        image = np.take(image, low, axis) * (1 - share) + np.take(image, high, axis) * share
    return image


def shifted(image: Any, down: int = 0, right: int = 1) -> Any:
    """Return an image (..., h, w) moved by whole pixels; what comes in from outside is the image's smallest value."""
    x = np.asarray(image)
    h, w = x.shape[-2:]
    if abs(down) >= h or abs(right) >= w:
        raise OptionError(f"a shift by ({down}, {right}) moves an image of {h} x {w} out of sight")
    result = np.full_like(x, x.min())
    result[..., max(0, down) : h + min(0, down), max(0, right) : w + min(0, right)] = x[
        ..., max(0, -down) : h + min(0, -down), max(0, -right) : w + min(0, -right)
    ]
    return result


@dataclass(frozen=True)
class Shift:
    """A convolution and a pooling before and after the image moved one pixel to the right.

    Attributes:
        images: before and after, (2, h, w).
        detector: the maps of the first convolution after its activation, (2, k, h, w).
        pooled: maxima of `width` x `width` windows of these at stride 1, (2, k, h', w').
        error: equivariance: max |f(shifted x) - shifted f(x)| / max |f(x)|, columns touched by the border left out.
        detector_stays, pooled_stays: invariance: share of values that are the same before and after at the same
            place, among those that are not their map's background (its median) both times.
        width: of the pooling window.
    """

    images: Any
    detector: Any
    pooled: Any
    error: float
    detector_stays: float
    pooled_stays: float
    width: int


def equivariance(model: Any, image: Any, *, width: int = 3) -> Shift:
    """Move an image by one pixel and compare the first convolution's maps, and maxima over windows of them.

    A convolution is equivariant to translation: the maps move along. Maxima over windows are nearly invariant to it:
    a value stays where the largest detector of its window stays in the window (Goodfellow, Bengio & Courville, Deep
    Learning, 2016, section 9.3 and figure 9.8).

    Raises:
        OptionError: the network has no convolution.
    """
    x = batch(image)
    images = np.concatenate([x, shifted(x)])
    maps, margin = [], 0
    for one in images:
        layers = activations(model, one)
        first = next((k for k, layer in enumerate(layers) if layer.kind.startswith("conv")), None)
        if first is None:
            raise OptionError("the network has no convolution")
        after = first + 1 < len(layers) and layers[first + 1].family == "activation"
        maps.append(layers[first + after].values[0])
    # A kernel of this size sees the border of the image in as many columns on each side.
    margin = max((p.array.shape[-1] for p in model.parameters() if p.array.ndim == 4), default=1)
    detector = np.stack(maps)
    with no_grad():
        pooled = F.max_pool2d(Tensor(detector), width, 1).numpy()
    a, b = detector[0][..., margin : -margin - 1], detector[1][..., margin + 1 : -margin]
    error = float(np.abs(b - a).max() / max(float(np.abs(detector[0]).max()), 1e-30))
    return Shift(images[:, 0], detector, pooled, error, _stays(detector), _stays(pooled), width)


def _stays(pair: Any) -> float:
    """Return the share of values that are equal in both, among those that are not background in both."""
    a, b = pair - np.median(pair, axis=(0, 2, 3), keepdims=True)
    near = 1e-5 * max(float(np.abs(a).max()), 1e-30)
    alive = (np.abs(a) > near) | (np.abs(b) > near)
    return float((np.abs(a - b) <= near)[alive].mean()) if alive.any() else math.nan


def gradient_norms(
    activation: str, images: Any, labels: Any, *, depth: int = 8, width: int = 64, steps: int = 200, lr: float = 0.1
) -> Any:
    """Train a deep fully connected network and return the norm of each layer's weight gradient, (steps, depth).

    Weights are drawn with variance 2 / inputs for "relu" (He et al., ICCV 2015) and 1 / inputs for others (Glorot &
    Bengio, AISTATS 2010), so each activation starts from what suits it; the optimizer is plain SGD.

    Args:
        activation: "sigmoid", "tanh" or "relu".
        images, labels: the training data, (n, ...) in float32 and (n,).
        depth: number of layers.
        width: units of each hidden layer.
        steps: mini-batches of 64.
        lr: learning rate.
    """
    functions = {"sigmoid": F.sigmoid, "tanh": F.tanh, "relu": F.relu}
    if activation not in functions:
        raise OptionError(f"activation must be one of {', '.join(functions)}, got {activation!r}")
    rng = np.random.default_rng(0)
    x = np.asarray(images, np.float32).reshape(len(images), -1)
    t = np.asarray(labels)
    sizes = [x.shape[1], *[width] * (depth - 1), int(t.max()) + 1]
    gain = 2.0 if activation == "relu" else 1.0
    weights = [
        Tensor((rng.standard_normal((o, i)) * math.sqrt(gain / i)).astype(np.float32), requires_grad=True)
        for i, o in pairwise(sizes)
    ]
    biases = [Tensor(np.zeros(o, np.float32), requires_grad=True) for o in sizes[1:]]
    norms = np.empty((steps, depth))
    for step in range(steps):
        chosen = rng.integers(0, len(x), 64)
        y: Any = Tensor(x[chosen])
        for k, (w, b) in enumerate(zip(weights, biases, strict=True)):
            y = F.linear(y, w, b)
            if k < depth - 1:
                y = functions[activation](y)
        gradients = grad(F.cross_entropy(y, t[chosen]), [*weights, *biases])
        norms[step] = [np.linalg.norm(to_host(g.array)) for g in gradients[:depth]]
        for p, g in zip([*weights, *biases], gradients, strict=True):
            p.array[...] -= lr * g.array
            p.edited()
    return norms
