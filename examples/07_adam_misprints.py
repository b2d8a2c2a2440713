"""The two misprints that circulate with Adam's formula, and how they hide each other.

Printed: v = beta2 v + (1 - beta2) m (m for the square of the gradient), and p -= lr m̂ / (v̂ + eps) (no square root).
Right (Kingma & Ba 2014, Algorithm 1): v = beta2 v + (1 - beta2) g², and p -= lr m̂ / (√v̂ + eps).

    python examples/07_adam_misprints.py
"""

import argparse

import numpy as np

from tinygrad_cnn import Tensor, optim

argparse.ArgumentParser(description=__doc__).parse_known_args()


def adam(c, p, steps, squares=True, root=True, lr=0.01, b1=0.9, b2=0.999, eps=1e-8):
    """Adam on f(p) = c/2 |p|², each misprint a switch. Returns the path of p and how often v was negative."""
    m = v = np.zeros_like(p)
    path, negative = [p], 0
    for t in range(1, steps + 1):
        g = c * p
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * (g * g if squares else m)
        mh, vh = m / (1 - b1**t), v / (1 - b2**t)
        with np.errstate(invalid="ignore"):
            p = p - lr * mh / ((np.sqrt(vh) if root else vh) + eps)
        path.append(p)
        negative += bool((v < 0).any())
    return np.array(path), negative


start = np.array([1.0, -2.0])
print("f(p) = c/2 |p|², p = (1, -2), lr 0.01: the first step of Adam is lr, whatever the scale c of the loss")
for title, options in (
    ("right", {}),
    ("as printed", {"squares": False, "root": False}),
    ("only the root restored", {"squares": False}),
    ("only g² restored", {"root": False}),
):
    firsts = [abs(adam(c, start, 1, **options)[0][1] - start)[0] for c in (1e-3, 1.0, 1e3)]
    path, negative = adam(1.0, start, 200, **options)
    end = ", ".join(f"{value:.3f}" for value in path[-1])
    print(f"{title:23} first step for c = 1e-3, 1, 1e3: {firsts[0]:.2g}, {firsts[1]:.2g}, {firsts[2]:.2g}")
    print(f"{'':23} v negative in {negative} of 200 steps; p ends at ({end})")

# The optimizer of this package is the right one.
p = Tensor(start, requires_grad=True)
optimizer = optim.Adam([p], lr=0.01)
for _ in range(200):
    optimizer.zero_grad()
    (0.5 * (p * p).sum()).backward()
    optimizer.step()
difference = abs(p.numpy() - adam(1.0, start, 200)[0][-1]).max()
print(f"optim.Adam against Algorithm 1 after 200 steps: difference {difference:.1e}")
