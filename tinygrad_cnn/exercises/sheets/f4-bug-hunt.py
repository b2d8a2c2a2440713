# /// exercise
# id = "f4-bug-hunt"
# title = "Bug hunt: a training script with five mistakes"
# topics = ["everything"]
# requires = ["f3-train"]
# points = 4
# ///
# %% [markdown]
# This script trains a small classifier, runs without an error, and hardly learns. **There are five mistakes in it**, one
# in each of five functions; two functions are right. Find and repair them. What each function is meant to do stands in
# its first line.
#
# A good order: test the pieces that are easy to test (a gradient with differences, a shuffle by looking at it) before you
# stare at the loss.

# %%
import numpy as np


def scaled(pixels):
    """Bytes 0 ... 255 become numbers from 0 to 1."""
    # <solution>
    return pixels.astype(float) / 255
    # <starter>
    # return (pixels // 255).astype(float)
    # </solution>


def shuffled(images, labels, order):
    """Images and labels in the same new order: entry i becomes what was at order[i]."""
    # <solution>
    return images[order], labels[order]
    # <starter>
    # return images[order], labels
    # </solution>


def forward(x, w1, b1, w2, b2):
    """A hidden layer with ReLU, then logits; returns the hidden layer and the logits."""
    hidden = np.maximum(x @ w1 + b1, 0)
    return hidden, hidden @ w2 + b2


def loss_gradient(logits, labels):
    """Gradient of the mean cross-entropy with respect to the logits."""
    # <solution>
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    p = e / e.sum(axis=1, keepdims=True)
    p[np.arange(len(labels)), labels] -= 1
    return p / len(labels)
    # <starter>
    # e = np.exp(logits - logits.max(axis=1, keepdims=True))
    # p = e / e.sum(axis=0, keepdims=True)
    # p[np.arange(len(labels)), labels] -= 1
    # return p / len(labels)
    # </solution>


def backward(dlogits, x, hidden, w2):
    """Gradients of w1, b1, w2, b2."""
    # <solution>
    dw2, db2 = hidden.T @ dlogits, dlogits.sum(axis=0)
    dhidden = dlogits @ w2.T * (hidden > 0)
    return x.T @ dhidden, dhidden.sum(axis=0), dw2, db2
    # <starter>
    # dw2, db2 = hidden.T @ dlogits, dlogits.sum(axis=0)
    # dhidden = dlogits @ w2.T
    # return x.T @ dhidden, dhidden.sum(axis=0), dw2, db2
    # </solution>


def step(parameter, gradient, velocity, lr, mu):
    """SGD with momentum: v = mu * v + g, then w = w - lr * v; returns the new w and v."""
    # <solution>
    velocity = mu * velocity + gradient
    return parameter - lr * velocity, velocity
    # <starter>
    # velocity = mu * velocity + gradient
    # return parameter - lr * gradient, velocity
    # </solution>


def accuracy(logits, labels):
    """The share of rows whose largest logit is at the label."""
    return float((logits.argmax(axis=1) == labels).mean())


# <checks>
from tinygrad_cnn.exercises import Same, edit, hint


def pixels(rng):
    yield dict(pixels=rng.integers(0, 256, size=(3, 4)).astype(np.uint8))
    yield dict(pixels=rng.integers(0, 256, size=(2, 5, 6)).astype(np.uint8))


def orders(rng):
    for n in (5, 8):
        yield dict(images=rng.normal(size=(n, 3)), labels=rng.integers(0, 10, size=n), order=rng.permutation(n))


def batches(rng):
    for n, k in [(4, 3), (6, 5), (2, 7)]:
        yield dict(logits=rng.normal(size=(n, k)), labels=rng.integers(0, k, size=n))


def nets(rng):
    for n, d, h, k in [(4, 5, 6, 3), (7, 2, 8, 4)]:
        x, w1, w2 = rng.normal(size=(n, d)), rng.normal(size=(d, h)), rng.normal(size=(h, k))
        yield dict(dlogits=rng.normal(size=(n, k)), x=x, hidden=np.maximum(x @ w1, 0), w2=w2)


def steps(rng):
    for mu in (0.9, 0.5, 0.0):
        yield dict(
            parameter=rng.normal(size=(3, 2)),
            gradient=rng.normal(size=(3, 2)),
            velocity=rng.normal(size=(3, 2)),
            lr=0.1,
            mu=mu,
        )


Same("scaled", pixels)
Same("shuffled", orders)
Same("loss_gradient", batches)
Same("backward", nets)
Same("step", steps)
Same("accuracy", batches, title="accuracy(): was right, and still is")
edit(
    "integer division",
    "pixels.astype(float) / 255",
    "(pixels // 255).astype(float)",
    fix="// throws the fraction away: everything below 255 becomes 0.",
)
edit(
    "labels not shuffled",
    "images[order], labels[order]",
    "images[order], labels",
    fix="Labels need the same order as their images.",
)
edit(
    "softmax over the batch",
    "p = e / e.sum(axis=1, keepdims=True)",
    "p = e / e.sum(axis=0, keepdims=True)",
    fix="A row sums to 1: axis 1.",
)
edit(
    "relu mask forgotten",
    "dlogits @ w2.T * (hidden > 0)",
    "dlogits @ w2.T",
    fix="Where the hidden unit is 0 the gradient stops: * (hidden > 0).",
)
edit(
    "momentum computed but not used",
    "parameter - lr * velocity",
    "parameter - lr * gradient",
    fix="The step goes along the velocity.",
)
edit("not scaled", "pixels.astype(float) / 255", "pixels.astype(float)", fix="Divide by 255.")
edit(
    "mask from the gradient",
    "(hidden > 0)",
    "(dlogits @ w2.T > 0)",
    fix="The mask belongs to the forward pass: hidden > 0.",
)
edit(
    "shuffled back",
    "images[order], labels[order]",
    "images[np.argsort(order)], labels[np.argsort(order)]",
    fix="Entry i becomes what was at order[i].",
)
hint("Test each function alone, with arrays so small that you can see the right answer.")
hint("Scaling: what becomes of 100? Shuffling: do images and labels still belong together? Softmax: do rows sum to 1?")
hint("/ for //; labels[order]; axis=1; * (hidden > 0); - lr * velocity.")
# </checks>
