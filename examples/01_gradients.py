"""What backward() does: a function, its derivative, its second derivative, and a chosen derivative at a kink.

python examples/01_gradients.py
"""

import argparse

import tinygrad_cnn as tg
from tinygrad_cnn import Tensor

argparse.ArgumentParser(description=__doc__).parse_known_args()

# y = x³ - 2x at x = 3. backward() fills in dy/dx = 3x² - 2 = 25.
x = Tensor(3.0, requires_grad=True)
y = x**3 - 2 * x
y.backward()
print(f"y = x³ - 2x at x = 3 is {y.item():g}, dy/dx is {x.grad.item():g}")

# create_graph=True records the derivative itself, so it can be differentiated again: d²y/dx² = 6x = 18.
y = x**3 - 2 * x
(first,) = tg.grad(y, x, create_graph=True)
(second,) = tg.grad(first, x)
print(f"d²y/dx² is {second.item():g}")

# Where a value is used twice, its contributions add up: y = x · x + x has dy/dx = 2x + 1.
x = Tensor(3.0, requires_grad=True)
(x * x + x).backward()
print(f"x·x + x has the derivative {x.grad.item():g} at 3")

# ReLU has no derivative at 0, only the interval [0, 1] of subgradients. Here you choose, and the graph remembers.
for choice in ("left", "right", "average", 0.25):
    x = Tensor(0.0, requires_grad=True)
    y = x.relu(at_zero=choice)
    options = y.node.options
    y.backward()
    print(f"relu'(0) with at_zero={choice!r:9} is {x.grad.item():g}; the node says {options}")

# What would silently be wrong elsewhere is an error here.
w = Tensor([1.0, 2.0], requires_grad=True, name="w")
loss = (w * w).sum()
with tg.no_grad():
    w += 1
try:
    loss.backward()
except tg.errors.GraphError as error:
    print(f"edited too early: {error}")
