"""Pooling: kinds of statistics, subsampling, ties, and the invariance that the lecture draws.

python examples/03_pooling.py
"""

import argparse

import numpy as np

from tinygrad_cnn import Tensor, data
from tinygrad_cnn.nn import functional as F

argparse.ArgumentParser(description=__doc__).parse_known_args()

# One window, four statistics of it.
window = Tensor(np.array([[[[1.0, 2.0, 0.0], [4.0, 9.0, 3.0], [0.0, 5.0, 2.0]]]]))
print("a 3x3 window:", window.numpy().reshape(-1).tolist())
print(f"  maximum            {F.max_pool2d(window, 3).item():.3f}")
print(f"  average            {F.avg_pool2d(window, 3).item():.3f}")
print(f"  weighted (sigma 1) {F.gaussian_pool2d(window, 3, sigma=1.0).item():.3f}   near the centre counts more")
print(f"  L2 norm            {F.lp_pool2d(window, 2, 3).item():.3f}")

# Width 3, stride 2, on a row of detector outputs. Padding counts as -inf, so the edge windows are not pulled to 0.
row = Tensor(np.array([[[[-1.0, -0.2, -0.1, -0.9, -0.3, -0.5]]]]))
print("width 3, stride 2:", F.max_pool2d(row, (1, 3), (1, 2), (0, 1)).numpy().reshape(-1).tolist())

# Ties: who gets the gradient?
for ties in ("first", "split"):
    x = Tensor(np.array([[[[5.0, 5.0], [1.0, 5.0]]]]), requires_grad=True)
    F.max_pool2d(x, 2, ties=ties).sum().backward()
    print(f"three equal maxima, ties={ties!r}: gradient {np.round(x.grad.numpy().reshape(-1), 3).tolist()}")

# Invariance: shift the detector's output by one. Every single value changes place, about half of the maxima stay.
rng = np.random.default_rng(0)
detector = rng.normal(size=(200, 1, 1, 60))
shifted = np.roll(detector, 1, axis=3)
before = np.mean(detector == shifted)
pooled, pooled_shifted = (F.max_pool2d(v, (1, 3), 1).numpy() for v in (detector, shifted))
after = np.mean(pooled[..., 1:] == pooled_shifted[..., 1:])
print(f"random detector outputs shifted by one: {before:.0%} of the values stay, {after:.0%} of the pooled values stay")

digits, _ = data.mnist().test.take(np.arange(200))
edges = np.maximum(F.conv2d(digits, Tensor(np.array([[[[1.0, 0.0, -1.0]] * 3]], dtype=np.float32))).numpy(), 0)
moved = np.roll(edges, 1, axis=3)
a, b = (F.max_pool2d(v, 3, 1).numpy() for v in (edges, moved))
values = np.mean((edges == moved)[(edges > 0) | (moved > 0)])
maxima = np.mean((a == b)[(a > 0) | (b > 0)])
print(
    f"edge maps of 200 digits shifted by one: {values:.0%} of the active values stay, {maxima:.0%} of the pooled ones"
)
