# /// exercise
# id = "c6-cross-entropy"
# title = "Cross-entropy, averaged over the batch"
# topics = ["cross-entropy"]
# requires = ["c5-log-softmax"]
# points = 3
# ///
# %% [markdown]
# The loss of a classifier: N rows of logits for K classes, and the right class of each row.
#
# `loss = - mean over n of log_softmax(logits)[n, labels[n]]`
#
# Write `cross_entropy(logits, labels)` (a number) and `cross_entropy_vjp(dout, logits, labels)` (an array like the
# logits). `dout` is a number here: how much the final result depends on this loss, usually 1. The famous result is
# short: *probabilities minus the one-hot labels*, divided by the number of rows.

# %%
import numpy as np


def log_softmax(x):
    shifted = x - x.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def cross_entropy(logits, labels):
    # <solution>
    rows = np.arange(len(labels))
    return -log_softmax(logits)[rows, labels].mean()
    # </solution>


def cross_entropy_vjp(dout, logits, labels):
    # <solution>
    dx = np.exp(log_softmax(logits))
    dx[np.arange(len(labels)), labels] -= 1
    return dout * dx / len(labels)
    # </solution>


# <checks>
from tinygrad_cnn.exercises import Same, Vjp, bug, edit, hint


def cases(rng):
    for n, k in [(3, 5), (1, 4), (7, 2), (4, 10)]:
        yield dict(logits=rng.normal(size=(n, k)), labels=rng.integers(0, k, size=n))


def sure(rng):
    for n, k in [(3, 4), (2, 6)]:
        logits = 2000 * rng.normal(size=(n, k))
        yield dict(logits=logits, labels=logits.argmin(axis=1))


def loss(logits, labels):
    return -log_softmax(logits)[np.arange(len(labels)), labels].mean()


Same("cross_entropy", cases)
Same("cross_entropy", sure, title="cross_entropy(): large logits")
Vjp("cross_entropy_vjp", of=loss, wrt="logits", cases=cases)
edit(
    "1/N forgotten in the gradient",
    "dout * dx / len(labels)",
    "dout * dx",
    fix="The loss is a mean over N rows: divide by N.",
)
edit(
    "divided by the number of classes",
    "dout * dx / len(labels)",
    "dout * dx / dx.shape[1]",
    fix="The mean is over rows, N, not over classes, K.",
)
edit("divided by N K", "dout * dx / len(labels)", "dout * dx / dx.size", fix="The mean is over the N rows only.")
edit("divided by N twice", "dout * dx / len(labels)", "dout * dx / len(labels) ** 2", fix="One mean, one 1/N.")
edit(
    "1 subtracted in whole columns",
    "dx[np.arange(len(labels)), labels] -= 1",
    "dx[:, labels] -= 1",
    fix="dx[:, labels] takes whole columns; dx[np.arange(N), labels] takes one entry per row.",
)
edit(
    "only the right class has a gradient",
    "    return dout * dx / len(labels)",
    "    dx[np.arange(dx.shape[1])[None, :] != labels[:, None]] = 0\n    return dout * dx / len(labels)",
    fix="All logits take part through the normalisation: p for the wrong classes.",
)
edit(
    "labels not subtracted",
    "    dx[np.arange(len(labels)), labels] -= 1\n",
    "",
    fix="Subtract 1 at the right class of each row.",
)
edit(
    "sign flipped",
    "dout * dx / len(labels)",
    "-dout * dx / len(labels)",
    fix="Probabilities minus labels, not the other way round.",
)
edit("sum for the mean in the loss", "labels].mean()", "labels].sum()", fix="The loss is the mean over the rows.")
edit(
    "loss of all classes",
    "log_softmax(logits)[rows, labels].mean()",
    "log_softmax(logits).mean()",
    fix="Only the right class of each row enters the loss.",
)
edit(
    "sign of the loss",
    "return -log_softmax",
    "return log_softmax",
    fix="Logarithms of probabilities are negative: minus makes a loss of them.",
)


@bug("upstream gradient ignored", on="cross_entropy_vjp", fix="Multiply by dout, also if it is usually 1.")
def _(ref, dout, logits, labels):
    return ref(1.0, logits, labels)


@bug("log of softmax", on="cross_entropy", fix="A probability that underflows has no logarithm: use log_softmax.")
def _(ref, logits, labels):
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return -np.log((e / e.sum(axis=1, keepdims=True))[np.arange(len(labels)), labels]).mean()


hint("a[np.arange(N), labels] takes one entry from each row: the one of the right class.")
hint("d loss / d logits = (softmax(logits) - one_hot(labels)) / N, times dout.")
hint("dx = np.exp(log_softmax(logits)); dx[np.arange(N), labels] -= 1; return dout * dx / N")
# </checks>
# <hidden points=1>
Vjp(
    "cross_entropy_vjp",
    of=loss,
    wrt="logits",
    cases=lambda rng: [dict(logits=rng.normal(size=(6, 3)), labels=rng.integers(0, 3, size=6))] * 2,
)
# </hidden>
