"""Why ReLU: the gradient norm per layer of a deep net with sigmoid, tanh, threshold and ReLU units, on real digits.

python examples/04_vanishing_gradient.py
"""

import argparse

import numpy as np

import tinygrad_cnn as tg
from tinygrad_cnn import data, nn
from tinygrad_cnn.nn import functional as F

argparse.ArgumentParser(description=__doc__).parse_known_args()
x, y = data.mnist().train.take(np.arange(256))
depth, width = 10, 64


def net(unit, gain):
    """A deep fully connected net whose weights keep the variance of their inputs (times gain²)."""
    rng = np.random.default_rng(0)
    layers = [nn.Flatten()]
    for i in range(depth):
        layer = nn.Linear(784 if i == 0 else width, width)
        fan_in = layer.weight.shape[1]
        layer.weight.data = rng.normal(scale=gain / np.sqrt(fan_in), size=layer.weight.shape)
        layer.bias.zero_()
        layers += [layer, unit()]
    return nn.Sequential(*layers, nn.Linear(width, 10))


print(f"norm of the weight gradient per layer, {depth} hidden layers of {width} units, cross-entropy on 256 digits")
for unit, gain in ((nn.Sigmoid, 1.0), (nn.Tanh, 1.0), (nn.ThresholdUnit, 1.0), (nn.ReLU, 2**0.5)):
    tg.manual_seed(0)
    model = net(unit, gain)
    zeros = []

    def count_zeros(module, inputs, output, zeros=zeros):
        zeros.append(float((output.numpy() == 0).mean()))

    for module in model:
        if isinstance(module, unit):
            module.register_forward_hook(count_zeros)
    F.cross_entropy(model(x), y).backward()
    grads = [layer.weight.grad for layer in model if isinstance(layer, nn.Linear)]
    norms = [0.0 if g is None else float(np.linalg.norm(g.numpy())) for g in grads]
    print(f"{unit.__name__:14}" + " ".join(f"{v:7.0e}" for v in norms))
    print(
        f"{'':14}first / last layer {norms[0] / norms[-1]:.0e}; share of units that are exactly 0: {np.mean(zeros):.0%}"
    )
