# /// exercise
# id = "c7-loss-at-start"
# title = "Is the loss ln 10 before training?"
# topics = ["sanity checks"]
# requires = ["c6-cross-entropy"]
# points = 2
# ///
# %% [markdown]
# Before training, a classifier of ten digits knows nothing: it should give each class about 1/10, so the loss should be
# about one particular number. A glance at it finds a broken initialisation before an hour of training does.
#
# Run this file: it prints the loss of four networks at the start. Then answer.

# %%
import numpy as np


def network(kind, rng):
    w1, b1 = rng.uniform(-1 / 8, 1 / 8, size=(64, 30)), np.zeros(30)
    w2, b2 = rng.uniform(-1 / 6, 1 / 6, size=(30, 10)), np.zeros(10)
    if kind == "B":
        w1, w2 = rng.normal(size=w1.shape), rng.normal(size=w2.shape)
    if kind == "C":
        b2[3] = 4.0
    if kind == "D":
        w1, w2 = np.zeros_like(w1), np.zeros_like(w2)
    return w1, b1, w2, b2


def loss_at_start(kind, seed=0):
    rng = np.random.default_rng(seed)
    w1, b1, w2, b2 = network(kind, rng)
    x, labels = rng.uniform(size=(200, 64)), rng.integers(0, 10, size=200)
    logits = np.maximum(x @ w1 + b1, 0) @ w2 + b2
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return -log_p[np.arange(200), labels].mean()


if __name__ == "__main__":
    for kind in "ABCD":
        print(kind, loss_at_start(kind))

# %% [markdown]
# - `"expected loss"`: the number, to three digits at least
# - `"A"` to `"D"`: `"fine"` or `"broken"`, judged by **the loss at the start** alone
# - `"too large weights"`, `"biased to one class"`: the letter of the network
# - `"fine loss, but its hidden layer never learns"`: the letter of the network

# %%
answers = {
    # <solution>
    "expected loss": 2.302585,
    "A": "fine",
    "B": "broken",
    "C": "broken",
    "D": "fine",
    "too large weights": "B",
    "biased to one class": "C",
    "fine loss, but its hidden layer never learns": "D",
    # <starter>
    # "expected loss": None,
    # "A": None,
    # "B": None,
    # "C": None,
    # "D": None,
    # "too large weights": None,
    # "biased to one class": None,
    # "fine loss, but its hidden layer never learns": None,
    # </solution>
}


# <checks>
from tinygrad_cnn.exercises import Answer, edit, hint

Answer(
    "answers",
    atol=2e-3,
    about={
        "expected loss": "-log of the probability that somebody gives who knows nothing.",
        "D": "Only the loss at the start counts here.",
        "fine loss, but its hidden layer never learns": "What gradient reaches w1 if w2 is 0? And w2, if the hidden layer is 0?",
    },
)
edit(
    "base 10 or 2 for the natural logarithm",
    '"expected loss": 2.302585',
    '"expected loss": 1.0',
    fix="The loss uses the natural logarithm: -ln(1/10) = ln 10.",
)
edit(
    "the chance of being right",
    '"expected loss": 2.302585',
    '"expected loss": 0.1',
    fix="1/10 is the probability; the loss is its negative logarithm, ln 10.",
)
edit(
    "large loss taken for fine",
    '"B": "broken"',
    '"B": "fine"',
    fix="Large weights make the network sure and mostly wrong: the loss is far above ln 10.",
)
edit(
    "biased class overlooked",
    '"C": "broken"',
    '"C": "fine"',
    fix="One class gets most of the probability; the others pay for it.",
)
edit(
    "zero weights judged by learning",
    '"D": "fine"',
    '"D": "broken"',
    fix="All logits are 0, so the loss is exactly ln 10. What is wrong with D shows later.",
)
edit(
    "the biased one said not to learn",
    'never learns": "D"',
    'never learns": "C"',
    fix="With w2 = 0 no gradient reaches w1, and with a hidden layer of 0 none reaches w2: D.",
)
hint("Somebody who knows nothing gives each of ten classes the probability 1/10.")
hint("The expected loss is -ln(1/10) = ln 10. Compare the four printed losses with it.")
hint("A is near it, B and C far above, D exactly there. D: all hidden units are 0 and get no gradient.")
# </checks>
