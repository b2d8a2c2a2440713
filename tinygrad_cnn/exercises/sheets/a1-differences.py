# /// exercise
# id = "a1-differences"
# title = "Forward and central differences"
# topics = ["gradient checking"]
# points = 1
# ///
# %% [markdown]
# A derivative is the slope of a function. It can be *measured*: move `x` a little and see how `f` changes.
#
# - forward difference: `(f(x + h) - f(x)) / h`
# - central difference: `(f(x + h) - f(x - h)) / (2 h)`
#
# Write both (one line each). Then run this file: it prints how far both are from the true slope of `sin` at 1 for
# smaller and smaller `h`. Read the three answers off that table.

# %%
import math


def forward_difference(f, x, h):
    # <solution>
    return (f(x + h) - f(x)) / h
    # </solution>


def central_difference(f, x, h):
    # <solution>
    return (f(x + h) - f(x - h)) / (2 * h)
    # </solution>


# %%
def table():
    """Print the errors of both differences for f = sin at x = 1."""
    print("    h      forward    central")
    for k in range(1, 13):
        h = 10.0**-k
        errors = [abs(d(math.sin, 1.0, h) - math.cos(1.0)) for d in (forward_difference, central_difference)]
        print(f"  1e-{k:02d}   {errors[0]:.1e}    {errors[1]:.1e}")


if __name__ == "__main__":
    table()

# %% [markdown]
# Fill in numbers. For the last one, `1e-1`, `1e-5` or `1e-11`.

# %%
answers = {
    # <solution>
    "ten times smaller h divides the forward error by": 10,
    "ten times smaller h divides the central error by": 100,
    "best h of the central difference": 1e-5,
    # <starter>
    # "ten times smaller h divides the forward error by": None,
    # "ten times smaller h divides the central error by": None,
    # "best h of the central difference": None,
    # </solution>
}


# <checks>
from tinygrad_cnn.exercises import Answer, Same, edit, hint


def cases(rng):
    for f in (math.sin, math.exp, lambda x: x**3):
        yield dict(f=f, x=float(rng.uniform(0.5, 2.0)), h=float(rng.uniform(0.01, 0.1)))


Same("forward_difference", cases)
Same("central_difference", cases)
Answer(
    "answers",
    about={
        "ten times smaller h divides the forward error by": "Compare two lines of the table, such as 1e-02 and 1e-03.",
        "ten times smaller h divides the central error by": "Compare two lines of the table, such as 1e-02 and 1e-03.",
        "best h of the central difference": "Smaller is not always better: look where the error is least.",
    },
)
edit("divided by h only", "/ (2 * h)", "/ h", fix="x + h and x - h are 2h apart.")
edit("divided by 2h", "(f(x + h) - f(x)) / h", "(f(x + h) - f(x)) / (2 * h)", fix="x + h and x are only h apart.")
edit(
    "forward for central",
    "(f(x + h) - f(x - h)) / (2 * h)",
    "(f(x + h) - f(x)) / h",
    fix="Use f(x - h) on the other side.",
)
edit(
    "sign turned",
    "(f(x + h) - f(x - h)) / (2 * h)",
    "(f(x - h) - f(x + h)) / (2 * h)",
    fix="First f(x + h), then f(x - h).",
)
edit("backward difference", "(f(x + h) - f(x)) / h", "(f(x) - f(x - h)) / h", fix="Go forward: f(x + h) - f(x).")
edit(
    "the smallest h taken for the best",
    '"best h of the central difference": 1e-5',
    '"best h of the central difference": 1e-11',
    fix="Below 1e-5 the subtraction of two nearly equal numbers costs more digits than the small h gains.",
)
edit(
    "order of the central difference", 'error by": 100', 'error by": 10', fix="The central error falls with h squared."
)
hint("Slope = how much f changes, divided by how much x changes.")
hint("The central difference goes one step to the right and one to the left: the points are 2h apart.")
hint("return (f(x + h) - f(x)) / h     and     return (f(x + h) - f(x - h)) / (2 * h)")
# </checks>
# <hidden points=1>
Same(
    "central_difference",
    lambda rng: [dict(f=math.atan, x=float(rng.normal()), h=0.05) for _ in range(3)],
    title="more points",
)
# </hidden>
