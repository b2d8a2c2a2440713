# /// exercise
# id = "a3-complex-step"
# title = "The complex step, and where it lies"
# topics = ["gradient checking"]
# requires = ["a1-differences"]
# points = 2
# ///
# %% [markdown]
# Differences subtract two nearly equal numbers and lose digits. The complex step does not subtract: for a function
# that is computed with analytic operations,
#
# `f(x + ih) = f(x) + i h f'(x) - ...`, so `f'(x) = Im f(x + ih) / h`,
#
# exact to the last digit even with `h = 1e-30`. Write `complex_step(f, x)`.
#
# But some functions quietly do something to complex numbers that is not analytic: `abs` takes the length, `np.var`
# averages squared *lengths*. Try each function of the list below at x = 1.5 against a difference, and answer whether
# the complex step is right (True or False).

# %%
import numpy as np


def complex_step(f, x):
    # <solution>
    h = 1e-30
    return f(x + 1j * h).imag / h
    # </solution>


functions = {
    "exp": np.exp,
    "power": lambda x: x**2.5,
    "abs": lambda x: abs(x) * 3.0,
    "var": lambda x: np.var(np.array([1.0, 2.0, 4.0]) * x),
    "own variance": lambda x: np.mean((np.array([1.0, 2.0, 4.0]) * x - np.mean(np.array([1.0, 2.0, 4.0]) * x)) ** 2),
    "norm": lambda x: np.linalg.norm(np.array([3.0, 4.0]) * x),
}

# %%
right = {
    # <solution>
    "exp": True,
    "power": True,
    "abs": False,
    "var": False,
    "own variance": True,
    "norm": False,
    # <starter>
    # "exp": None,
    # "power": None,
    # "abs": None,
    # "var": None,
    # "own variance": None,
    # "norm": None,
    # </solution>
}


# <checks>
from tinygrad_cnn.exercises import Answer, Same, edit, hint


def cases(rng):
    for f in (np.exp, np.sin, lambda z: z**3 / (1 + z), lambda z: np.sqrt(z) * z):
        yield dict(f=f, x=float(rng.uniform(0.5, 2.0)))


Same("complex_step", cases, rtol=1e-13)
Answer(
    "right", about=dict.fromkeys(functions, "Compare complex_step(f, 1.5) with (f(1.5 + 1e-6) - f(1.5 - 1e-6)) / 2e-6.")
)
edit(
    "real part taken", ".imag / h", ".real / h", fix="f(x) is in the real part; the derivative is in the imaginary one."
)
edit("not divided by h", ".imag / h", ".imag", fix="The imaginary part is h f'(x): divide by h.")
edit(
    "h too large",
    "h = 1e-30",
    "h = 1e-3",
    fix="There is no cancellation here: take h = 1e-30, and the h^2 error is gone.",
)
edit(
    "step along the real axis",
    "f(x + 1j * h).imag / h",
    "((f(x + 1e-8) - f(x)) / 1e-8).real",
    fix="That is a difference; step along 1j.",
)
edit("abs trusted", '"abs": False', '"abs": True', fix="abs of a complex number is its length, which is not analytic.")
edit("var trusted", '"var": False', '"var": True', fix="np.var averages |x - mean|^2, the squared lengths.")
edit("norm trusted", '"norm": False', '"norm": True', fix="A norm adds up squared lengths.")
hint("1j is the imaginary unit. What is the imaginary part of (x + ih)^2?")
hint("f'(x) = Im f(x + ih) / h with a very small h such as 1e-30.")
hint("return f(x + 1e-30j).imag / 1e-30. For the answers: which functions look at the length of a complex number?")
# </checks>
# <hidden points=1>
Same("complex_step", lambda rng: [dict(f=np.tanh, x=float(rng.normal()))] * 3, rtol=1e-13, title="more points")
# </hidden>
