"""Dropout as an ensemble: the average over random sub-networks against the one scaled network.

python examples/08_dropout_ensemble.py
"""

import argparse

import numpy as np

import tinygrad_cnn as tg
from tinygrad_cnn import data, nn, optim
from tinygrad_cnn.nn import functional as F

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--quick", action="store_true", help="train less")
args = parser.parse_args()

tg.manual_seed(0)
train, test = data.mnist()
# The lecture keeps input units with 0.8 and hidden units with 0.5.
model = nn.Sequential(
    nn.Flatten(), nn.Dropout(0.2), nn.Linear(784, 256), nn.ReLU(), nn.Dropout(0.5), nn.Linear(256, 10)
)
optimizer = optim.Adam(model.parameters())
for step, (x, y) in enumerate(data.DataLoader(train, batch_size=128, shuffle=True, seed=0)):
    optimizer.zero_grad()
    F.cross_entropy(model(x), y).backward()
    optimizer.step()
    if step == (60 if args.quick else 400):
        break

x, y = test.take(np.arange(1000))
with tg.no_grad():
    scaled = F.softmax(model.eval()(x), 1).numpy()
    model.train()
    total = np.zeros_like(scaled)
    for masks in range(1, 65):
        total += F.softmax(model(x), 1).numpy()
        if masks in (1, 4, 16, 64):
            mean = total / masks
            accuracy, difference = np.mean(mean.argmax(1) == y), np.abs(mean - scaled).mean()
            print(f"mean of {masks:2d} sub-networks: accuracy {accuracy:.1%}, from the scaled one {difference:.4f}")
print(f"the scaled network:      accuracy {np.mean(scaled.argmax(1) == y):.1%}")
