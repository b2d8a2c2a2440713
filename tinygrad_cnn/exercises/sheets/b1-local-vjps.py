# /// exercise
# id = "b1-local-vjps"
# title = "Add, multiply, exp, log: their gradients"
# topics = ["chain rule"]
# points = 2
# ///
# %% [markdown]
# A *backward rule* answers one question: the loss changes by `dout[i]` per unit of the output `y[i]`.
# By how much does it change per unit of the input `x[i]`? The chain rule says: multiply by the derivative,
#
# `dx = dout * dy/dx`.
#
# `dout` is called the **upstream gradient**. It has the shape of the output, and `dx` has the shape of the input.
#
# Write the rules of four elementwise functions. `a`, `b` and `x` are arrays of equal shape.
#
# | forward | rule | returns |
# |---|---|---|
# | `y = a + b` | `add_vjp(dout, a, b)` | `da, db` |
# | `y = a * b` | `mul_vjp(dout, a, b)` | `da, db` |
# | `y = exp(x)` | `exp_vjp(dout, x)` | `dx` |
# | `y = log(x)` | `log_vjp(dout, x)` | `dx` |

# %%
import numpy as np


def add_vjp(dout, a, b):
    # <solution>
    return dout.copy(), dout.copy()
    # </solution>


def mul_vjp(dout, a, b):
    # <solution>
    return dout * b, dout * a
    # </solution>


def exp_vjp(dout, x):
    # <solution>
    return dout * np.exp(x)
    # </solution>


def log_vjp(dout, x):
    # <solution>
    return dout / x
    # </solution>


# <checks>
from tinygrad_cnn.exercises import Vjp, bug, edit, hint


def pair(rng):
    for shape in [(3, 5), (7,), ()]:
        yield dict(a=rng.normal(size=shape), b=rng.normal(size=shape))


def one(rng):
    for shape in [(3, 5), (7,), ()]:
        yield dict(x=rng.uniform(0.3, 2.0, size=shape))


Vjp("add_vjp", of=lambda a, b: a + b, wrt=("a", "b"), cases=pair)
Vjp("mul_vjp", of=lambda a, b: a * b, wrt=("a", "b"), cases=pair)
Vjp("exp_vjp", of=lambda x: np.exp(x), wrt="x", cases=one)
Vjp("log_vjp", of=lambda x: np.log(x), wrt="x", cases=one)

for name in ("add_vjp", "mul_vjp", "exp_vjp", "log_vjp"):

    @bug(
        f"upstream gradient ignored in {name}",
        on=name,
        fix="The chain rule: multiply the derivative by dout.",
        hint="What does your rule return if dout is twice as large?",
    )
    def _(ref, dout, *args):
        return ref(np.ones_like(dout), *args)


edit("a and b exchanged", "dout * b, dout * a", "dout * a, dout * b", fix="d(ab)/da = b, so da = dout * b.")
edit(
    "exp differentiated like a power", "dout * np.exp(x)", "dout * x * np.exp(x - 1)", fix="exp is its own derivative."
)
edit("x for exp(x)", "dout * np.exp(x)", "dout * x", fix="The derivative of exp is exp(x), the output, not x.")
edit("log for its derivative", "dout / x", "dout / np.log(x)", fix="The derivative of log(x) is 1/x.")
edit("sign of 1/x", "dout / x", "-dout / x**2", fix="That is the derivative of 1/x; the derivative of log(x) is 1/x.")
hint("Take one number instead of an array: by how much does a*b grow if a grows by a small h?")
hint("dy/da = 1 for a sum, b for a product; exp' = exp; log' = 1/x. Each is multiplied by dout.")
hint("return dout, dout | return dout * b, dout * a | return dout * exp(x) | return dout / x")


# </checks>
# <hidden points=1>
def far(rng):
    yield dict(a=1e3 * rng.normal(size=(2, 3, 4)), b=1e-3 * rng.normal(size=(2, 3, 4)))
    yield dict(a=rng.normal(size=(1, 1)), b=rng.normal(size=(1, 1)))


Vjp("mul_vjp", of=lambda a, b: a * b, wrt=("a", "b"), cases=far)
Vjp("log_vjp", of=lambda x: np.log(x), wrt="x", cases=lambda rng: [dict(x=rng.uniform(1e-3, 1e3, size=(4, 3)))])
# </hidden>
