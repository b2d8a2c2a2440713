# /// exercise
# id = "f3-train"
# title = "Overfit 20 digits, then train"
# topics = ["LeNet-5"]
# requires = ["c6-cross-entropy", "e1-sgd"]
# points = 4
# limits = { wall = 40, cpu = 40 }
# ///
# %% [markdown]
# Before a long training there is one cheap test that finds most mistakes: can the network learn **20 images by heart**?
# If not, something is broken, and more data will not help.
#
# The network is below; you write the training:
#
# 1. `minibatches(count, size, seed)`: a list of index arrays. Shuffle 0 ... count - 1 with
#    `np.random.default_rng(seed).permutation(count)` and cut it into pieces of `size`; the last one may be shorter.
# 2. `train(parameters, x, labels, epochs, size, lr, seed)`: for each epoch e take the minibatches with seed `seed + e`;
#    for each of them compute the gradients and make a step `p - lr * gradient` for every parameter. Return the new dict
#    of parameters and a list with the mean loss of each epoch's minibatches. The dict you were given stays as it is.
#
# `ex.digits()` gives 600 digits of 14 x 14 pixels.

# %%
import numpy as np


def loss_and_gradients(parameters, x, labels):
    """A small LeNet: convolution 5 x 5, ReLU, max pool 2 x 2, linear layer, cross-entropy (mean over the batch)."""
    p, n = parameters, len(x)
    windows = np.lib.stride_tricks.sliding_window_view(x, (5, 5), axis=(2, 3))
    columns = windows.transpose(0, 2, 3, 1, 4, 5).reshape(n * 100, -1)
    z = columns @ p["conv.weight"] + p["conv.bias"]
    cells = np.maximum(z, 0).reshape(n, 5, 2, 5, 2, -1).transpose(0, 1, 3, 5, 2, 4).reshape(n, 5, 5, -1, 4)
    best, flat = cells.argmax(axis=4), cells.max(axis=4).reshape(n, -1)
    logits = flat @ p["linear.weight"] + p["linear.bias"]
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    loss = -log_p[np.arange(n), labels].mean()
    d = np.exp(log_p)
    d[np.arange(n), labels] -= 1
    d /= n
    share = np.zeros(cells.shape)
    np.put_along_axis(share, best[..., None], (d @ p["linear.weight"].T).reshape(best.shape)[..., None], axis=4)
    dz = share.reshape(n, 5, 5, -1, 2, 2).transpose(0, 1, 4, 2, 5, 3).reshape(n * 100, -1) * (z > 0)
    return loss, {
        "conv.weight": columns.T @ dz,
        "conv.bias": dz.sum(axis=0),
        "linear.weight": flat.T @ d,
        "linear.bias": d.sum(axis=0),
    }


def start(seed, filters=6):
    rng = np.random.default_rng(seed)
    return {
        "conv.weight": rng.uniform(-0.2, 0.2, size=(25, filters)),
        "conv.bias": np.zeros(filters),
        "linear.weight": rng.uniform(-0.1, 0.1, size=(25 * filters, 10)),
        "linear.bias": np.zeros(10),
    }


def predict(parameters, x):
    """Return the digit the network sees in each image."""
    n = len(x)
    columns = (
        np.lib.stride_tricks.sliding_window_view(x, (5, 5), axis=(2, 3))
        .transpose(0, 2, 3, 1, 4, 5)
        .reshape(n * 100, -1)
    )
    a = np.maximum(columns @ parameters["conv.weight"] + parameters["conv.bias"], 0)
    cells = a.reshape(n, 5, 2, 5, 2, -1).transpose(0, 1, 3, 5, 2, 4).reshape(n, 5, 5, -1, 4).max(axis=4).reshape(n, -1)
    return (cells @ parameters["linear.weight"] + parameters["linear.bias"]).argmax(axis=1)


# %%
def minibatches(count, size, seed):
    # <solution>
    order = np.random.default_rng(seed).permutation(count)
    return [order[i : i + size] for i in range(0, count, size)]
    # </solution>


def train(parameters, x, labels, epochs, size, lr, seed):
    # <solution>
    history = []
    for epoch in range(epochs):
        losses = []
        for batch in minibatches(len(x), size, seed + epoch):
            loss, gradients = loss_and_gradients(parameters, x[batch], labels[batch])
            parameters = {name: p - lr * gradients[name] for name, p in parameters.items()}
            losses.append(loss)
        history.append(np.mean(losses))
    return parameters, history
    # </solution>


# <checks>
from tinygrad_cnn.exercises import Property, Same, edit, ex, hint

images, digits = ex.digits()


def counts(rng):
    for count, size in [(10, 3), (12, 4), (7, 7), (5, 8)]:
        yield dict(count=count, size=size, seed=int(rng.integers(1000)))


def short(rng):
    for count, epochs, size in [(14, 3, 5), (9, 2, 4)]:
        pick = rng.choice(600, size=count, replace=False)
        yield dict(
            parameters=start(int(rng.integers(1000)), filters=3),
            x=images[pick],
            labels=digits[pick],
            epochs=epochs,
            size=size,
            lr=0.2,
            seed=int(rng.integers(1000)),
        )


def by_heart(space, rng):
    pick = rng.choice(600, size=20, replace=False)
    p, history = space.function("train")(start(1), images[pick], digits[pick], 60, 5, 0.3, 0)
    right = (predict(p, images[pick]) == digits[pick]).mean()
    return (
        None
        if right == 1
        else f"after 60 epochs {right:.0%} of the 20 digits are known by heart (loss {history[-1]:.2f})"
    )


def unseen(space, rng):
    p, history = space.function("train")(start(2), images[:400], digits[:400], 12, 20, 0.2, 0)
    right = (predict(p, images[400:]) == digits[400:]).mean()
    return (
        None
        if right > 0.8
        else f"{right:.0%} of 200 unseen digits are read correctly, 80 % are the goal (loss {history[-1]:.2f})"
    )


Same("minibatches", counts)
Same("train", short, rtol=1e-8, title="train(): two short trainings")
Property("20 digits by heart", by_heart, function="train")
Property("over 80 % of unseen digits", unseen, function="train")
edit(
    "last minibatch dropped",
    "range(0, count, size)]",
    "range(0, count - size + 1, size)]",
    fix="The last piece may be shorter, but it belongs to the epoch.",
)
edit(
    "not shuffled",
    "np.random.default_rng(seed).permutation(count)",
    "np.arange(count)",
    fix="Shuffle: permutation(count).",
)
edit(
    "images of the epoch drawn with repetition",
    "np.random.default_rng(seed).permutation(count)",
    "np.random.default_rng(seed).integers(0, count, size=count)",
    fix="A permutation visits every image once per epoch.",
)
edit("the same order in each epoch", "seed + epoch)", "seed)", fix="Take the minibatches with seed + epoch.")
edit("uphill", "p - lr * gradients", "p + lr * gradients", fix="Against the gradient: minus.")
edit(
    "labels not taken along", "labels[batch])", "labels[: len(batch)])", fix="Images and labels need the same indices."
)
edit(
    "all images in each step", "x[batch], labels[batch])", "x, labels)", fix="A step uses the images of its minibatch."
)
edit("last loss for the mean", "np.mean(losses)", "losses[-1]", fix="The history holds the mean loss of the epoch.")
edit(
    "gradient multiplied by the batch size",
    "p - lr * gradients[name]",
    "p - lr * len(batch) * gradients[name]",
    fix="The gradients belong to the mean loss; no further factor.",
)
edit(
    "steps from the start weights",
    "            parameters = {name: p - lr * gradients[name] for name, p in parameters.items()}\n            losses.append(loss)",
    "            new = {name: p - lr * gradients[name] for name, p in parameters.items()}\n            losses.append(loss)\n        parameters = new",
    fix="Every step starts where the last one ended.",
)
edit(
    "bias not trained",
    "{name: p - lr * gradients[name] for",
    "{name: p - lr * gradients[name] * (p.ndim > 1) for",
    fix="Every parameter gets a step, the biases too.",
)
hint("Three nested things: epochs, minibatches, parameters.")
hint(
    "order[i : i + size] for i in range(0, count, size). A step: {name: p - lr * gradients[name] for name, p in parameters.items()}."
)
hint(
    "for epoch: for batch in minibatches(len(x), size, seed + epoch): loss, gradients = loss_and_gradients(parameters, x[batch], labels[batch]); step; collect the losses"
)
# </checks>
