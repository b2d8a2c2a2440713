"""Convolution: sparse interactions, shared parameters, equivariance to translation, and padding.

python examples/02_convolution.py
"""

import argparse

import numpy as np

from tinygrad_cnn import Tensor, data
from tinygrad_cnn.nn import functional as F

argparse.ArgumentParser(description=__doc__).parse_known_args()
rng = np.random.default_rng(0)


def dense_matrix_of(weight, size):
    """Return the matrix A for which conv2d(x, weight) is A x: column j is the response to one bright pixel j."""
    h, w = size
    pixels = np.eye(h * w, dtype=weight.dtype).reshape(h * w, 1, h, w)
    return F.conv2d(pixels, weight).numpy().reshape(h * w, -1).T


# 1. The first layer of LeNet-5 looks at a 28x28 digit through 5x5 windows.
digit, label = data.mnist().test.take([0])
weight = Tensor(rng.normal(size=(6, 1, 5, 5)).astype(np.float32))
maps = F.conv2d(digit, weight)
matrix = dense_matrix_of(weight, (28, 28))
same = np.allclose(matrix @ digit.reshape(-1), maps.numpy().reshape(-1), atol=1e-4)
print(f"a digit {label.item()}: conv2d gives {maps.shape}")
print(f"the dense matrix {matrix.shape} times the pixels gives the same: {same}")
print(f"  dense layer: {matrix.size:>9,} connections, {matrix.size:>9,} parameters")
print(f"  convolution: {np.count_nonzero(matrix):>9,} connections, {weight.size:>9,} parameters")
if not same:
    raise SystemExit("the two must agree")

# 2. Equivariance: shift the digit, and the feature maps shift with it.
shifted = np.roll(digit, (2, 3), axis=(2, 3))
moved = np.roll(maps.numpy(), (2, 3), axis=(2, 3))
inside = np.s_[:, :, 4:-4, 4:-4]
difference = np.abs(F.conv2d(shifted, weight).numpy() - moved)[inside].max()
print(f"shifted by (2, 3): maps differ from the shifted maps by {difference:.1e} (away from the border)")

# 3. Padding: "valid" shrinks, "same" keeps the size, "full" applies every kernel element to every pixel.
image = Tensor(rng.normal(size=(1, 1, 7, 9)))
kernel = Tensor(rng.normal(size=(1, 1, 3, 5)))
for padding in ("valid", "same", "full", 1, ((2, 0), (0, 3))):
    out = F.conv2d(image, kernel, padding=padding)
    print(f"padding {padding!s:18} 7x9 image, 3x5 kernel -> {out.shape[2]}x{out.shape[3]}")

# How often does each pixel meet the kernel? With "full" all pixels meet it equally often.
for padding in ("valid", "same", "full"):
    ones = Tensor(np.ones((1, 1, 7, 9)), requires_grad=True)
    F.conv2d(ones, Tensor(np.ones((1, 1, 3, 5))), padding=padding).sum().backward()
    counts = ones.grad.numpy()
    print(
        f"padding {padding:6} uses a corner pixel {counts[0, 0, 0, 0]:g} times, the centre {counts[0, 0, 3, 4]:g} times"
    )
