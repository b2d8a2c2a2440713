"""Mini-batches: the mean gradient of k examples has 1/k of the variance of one example's. Measured on LeNet-5.

python examples/06_minibatch_variance.py
"""

import argparse

import numpy as np

import tinygrad_cnn as tg
from tinygrad_cnn import data, models
from tinygrad_cnn.nn import functional as F

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--quick", action="store_true", help="fewer batches")
args = parser.parse_args()

tg.manual_seed(0)
train = data.mnist().train
model = models.LeNet5()
parameters = list(model.parameters())
rng = np.random.default_rng(0)


def gradient(indices):
    """The gradient of the mean loss over these examples, as one long vector."""
    x, y = train.take(indices)
    grads = tg.grad(F.cross_entropy(model(x), y), parameters)
    return np.concatenate([g.numpy().reshape(-1) for g in grads])


batches = 40 if args.quick else 300
print("   k   variance of the gradient   times k")
for k in (1, 4, 16, 64):
    samples = np.stack([gradient(rng.integers(0, len(train), size=k)) for _ in range(batches)])
    variance = samples.var(axis=0, ddof=1).sum()
    print(f"{k:4d}   {variance:24.5f}   {variance * k:7.3f}")
print("the last column stays about the same: the variance falls as 1/k")
