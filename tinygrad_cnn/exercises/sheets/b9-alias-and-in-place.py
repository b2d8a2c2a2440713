# /// exercise
# id = "b9-alias-and-in-place"
# title = "Find the alias and the in-place edits"
# topics = ["memory"]
# requires = ["b2-fan-out"]
# points = 2
# ///
# %% [markdown]
# The three rules below return the right numbers, and yet training with them goes wrong: they write into memory that
# is not theirs, or hand out the same memory twice. Later some `+=` changes two gradients at once, or the backward pass
# of another layer reads an input that has been overwritten.
#
# **Repair them** so that
#
# - no argument is changed,
# - no result shares memory with an argument or with another result.

# %%
import numpy as np


def relu_vjp(dout, x):
    # <solution>
    return dout * (x > 0)
    # <starter>
    # dout[x <= 0] = 0
    # return dout
    # </solution>


def add_vjp(dout, a, b):
    """For y = a + b."""
    # <solution>
    return dout.copy(), dout.copy()
    # <starter>
    # return dout, dout
    # </solution>


def centre_vjp(dout, x):
    """For y = x - mean(x)."""
    # <solution>
    return dout - dout.mean()
    # <starter>
    # dout -= dout.mean()
    # return dout
    # </solution>


# <checks>
from tinygrad_cnn.exercises import Property, Vjp, bug, edit, hint


def one(rng):
    yield dict(x=rng.normal(size=(3, 5)))
    yield dict(x=rng.normal(size=7))


def two(rng):
    yield dict(a=rng.normal(size=(3, 5)), b=rng.normal(size=(3, 5)))


def separate(space, rng):
    dout, x, b = (rng.normal(size=(3, 5)) for _ in range(3))
    for name, args in (("relu_vjp", (dout, x)), ("centre_vjp", (dout, x)), ("add_vjp", (dout, x, b))):
        given = [a.copy() for a in args]
        result = space.function(name)(*given)
        results = list(result) if isinstance(result, (tuple, list)) else [result]
        for k, r in enumerate(results):
            if not isinstance(r, np.ndarray):
                return f"{name}() has to return arrays"
            if any(np.shares_memory(r, g) for g in given):
                return f"a result of {name}() shares memory with an argument: return a new array"
            if any(np.shares_memory(r, other) for other in results[:k]):
                return f"the results of {name}() share memory: make a copy for each"
    return None


Vjp("relu_vjp", of=lambda x: np.maximum(x, 0), wrt="x", cases=one)
Vjp("add_vjp", of=lambda a, b: a + b, wrt=("a", "b"), cases=two)
Vjp("centre_vjp", of=lambda x: x - x.mean(), wrt="x", cases=one)
Property("no memory is shared", separate, cause="memory shared")


@bug("dout overwritten by relu_vjp", on="relu_vjp", fix="dout * (x > 0) makes a new array.")
def _(ref, dout, x):
    dout[x <= 0] = 0
    return dout.copy()


@bug(
    "dout overwritten by centre_vjp", on="centre_vjp", fix="dout - dout.mean() makes a new array; -= edits the old one."
)
def _(ref, dout, x):
    dout -= dout.mean()
    return dout.copy()


edit("memory shared", "return dout.copy(), dout.copy()", "return dout, dout", fix="Return dout.copy() twice.")
edit(
    "mean of the gradient not taken off",
    "dout - dout.mean()",
    "dout.copy()",
    fix="y = x - mean(x) depends on x twice: the mean sends -mean(dout) to every entry.",
)
edit("relu without its mask", "dout * (x > 0)", "dout.copy()", fix="Where x <= 0 the gradient is 0.")
hint("Which of the lines write into an array that came in as an argument?")
hint("dout[...] = and dout -= edit in place. dout * mask and dout - mean make new arrays.")
hint("return dout * (x > 0);  return dout.copy(), dout.copy();  return dout - dout.mean()")
# </checks>
