# /// exercise
# id = "a4-which-are-wrong"
# title = "Six backward functions, three are wrong"
# topics = ["gradient checking"]
# requires = ["a1-differences"]
# points = 2
# ///
# %% [markdown]
# Below are six functions with their backward functions. **Three backward functions are wrong.** Find them.
#
# `numeric(forward, dout, x)` measures the right answer with differences. Compare `pairs[name][1](dout, x)` with it.
# Two choices of the upstream gradient `dout` are popular:
#
# - `dout = ones`: what you get from `loss = y.sum()`
# - `dout` random
#
# One of the two tests finds all three mistakes, the other one finds one. Which are missed, and why?

# %%
import numpy as np


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


pairs = {
    "square": (lambda x: x**2, lambda dout, x: 2 * x * dout),
    "exp": (np.exp, lambda dout, x: np.exp(x)),
    "tanh": (np.tanh, lambda dout, x: dout * (1 - x**2)),
    "mean": (lambda x: np.mean(x), lambda dout, x: np.full(x.shape, dout / x.size)),
    "softmax": (softmax, lambda dout, x: np.zeros_like(x)),
    "relu": (lambda x: np.maximum(x, 0), lambda dout, x: dout * (x > 0)),
}


def numeric(forward, dout, x, h=1e-5):
    """Measure d sum(dout * forward(x)) / dx, entry by entry."""
    dx = np.zeros_like(x)
    for i in range(x.size):
        step = np.zeros_like(x)
        step[i] = h
        dx[i] = np.sum(dout * (forward(x + step) - forward(x - step))) / (2 * h)
    return dx


if __name__ == "__main__":
    x = np.array([0.3, -0.7, 1.2, 0.5])
    for name, (forward, backward) in pairs.items():
        dout = np.ones_like(forward(x))  # try np.random.default_rng(0).normal(size=...)
        print(name, np.abs(numeric(forward, dout, x) - backward(dout, x)).max())

# %%
wrong = {
    # <solution>
    "square": False,
    "exp": True,
    "tanh": True,
    "mean": False,
    "softmax": True,
    "relu": False,
    # <starter>
    # "square": None,
    # "exp": None,
    # "tanh": None,
    # "mean": None,
    # "softmax": None,
    # "relu": None,
    # </solution>
}

# True where dout = ones finds nothing although the function is wrong
missed_by_ones = {
    # <solution>
    "exp": True,
    "tanh": False,
    "softmax": True,
    # <starter>
    # "exp": None,
    # "tanh": None,
    # "softmax": None,
    # </solution>
}


# <checks>
from tinygrad_cnn.exercises import Answer, edit, hint

names = ("square", "exp", "tanh", "mean", "softmax", "relu")
Answer("wrong", about=dict.fromkeys(names, "Compare with numeric() for a random dout."), title="which are wrong")
Answer(
    "missed_by_ones",
    about=dict.fromkeys(names, "Compare with numeric() for dout of ones."),
    title="which the ones miss",
)
edit(
    "exp trusted",
    '"exp": True,\n    "tanh": True',
    '"exp": False,\n    "tanh": True',
    fix="The backward of exp ignores dout: with ones that cannot be seen.",
)
edit("softmax trusted", '"softmax": True,\n    "relu"', '"softmax": False,\n    "relu"',
     fix="Softmax always sums to 1, so with dout of ones the gradient is 0, whatever x is. With random dout it is not.")  # fmt: skip
edit(
    "tanh trusted",
    '"tanh": True',
    '"tanh": False',
    fix="The derivative of tanh is 1 - tanh(x)^2, with the output, not with x.",
)
edit("relu accused", '"relu": False', '"relu": True', fix="Away from 0 this is right: dout where x > 0.")
edit(
    "tanh taken as missed",
    '"tanh": False,\n    "softmax": True,\n}',
    '"tanh": True,\n    "softmax": True,\n}',
    fix="Ones show that one.",
)
edit(
    "softmax taken as found",
    '"softmax": True,\n}',
    '"softmax": False,\n}',
    fix="With ones, 0 is the right answer for softmax.",
)
hint("First test with dout of ones, then with random numbers, and note the largest difference for each function.")
hint("A backward function has the form dout * derivative. Is dout used in each of them?")
hint("With dout of ones: exp looks right as its factor dout is 1; softmax looks right as its gradient really is 0.")
# </checks>
