# /// exercise
# id = "a2-richardson"
# title = "Richardson: a better difference, and how good it is"
# topics = ["gradient checking"]
# requires = ["a1-differences"]
# points = 2
# ///
# %% [markdown]
# The error of the central difference `C(h)` is almost exactly `c h^2` with an unknown `c`. Two steps are enough to get
# rid of `c`: combine `C(h)` and `C(h/2)` so that the `h^2` terms cancel,
#
# `D(h) = (4 C(h/2) - C(h)) / 3`.
#
# The error of D falls with `h^4`. And as D is much better than `C(h/2)`, the distance `|D(h) - C(h/2)|` tells how far
# off `C(h/2)` was: a measured error bar, with no need to know the true derivative.
#
# Write `richardson(f, x, h)`. It returns `D(h)` and the distance.

# %%
def central_difference(f, x, h):
    return (f(x + h) - f(x - h)) / (2 * h)


def richardson(f, x, h):
    # <solution>
    coarse = central_difference(f, x, h)
    fine = central_difference(f, x, h / 2)
    better = (4 * fine - coarse) / 3
    return better, abs(better - fine)
    # </solution>


# <checks>
import math

from tinygrad_cnn.exercises import Property, Same, edit, hint


def cases(rng):
    for f in (math.sin, math.exp, lambda x: x**5, lambda x: 1 / x):
        yield dict(f=f, x=float(rng.uniform(0.5, 2.0)), h=float(rng.uniform(0.05, 0.2)))


def accuracy(space, rng):
    value, bar = space.function("richardson")(math.sin, 1.0, 1e-2)
    error = abs(value - math.cos(1.0))
    if error > 1e-9:
        return f"for sin at 1 with h = 0.01 the error is {error:.0e}; Richardson's is below 1e-9"
    if not error <= bar:
        return f"for sin at 1 the error bar {bar:.0e} does not cover the error {error:.0e}"
    return None


Same("richardson", cases)
Property("accurate, and the error bar holds", accuracy, function="richardson")
edit(
    "weights exchanged",
    "(4 * fine - coarse) / 3",
    "(4 * coarse - fine) / 3",
    fix="The finer difference gets the weight 4.",
)
edit(
    "weights of a first-order method",
    "(4 * fine - coarse) / 3",
    "2 * fine - coarse",
    fix="The error is of order h^2: weights 4 and -1.",
)
edit(
    "division by 3 forgotten",
    "(4 * fine - coarse) / 3",
    "4 * fine - coarse",
    fix="The weights must add up to 1: (4 - 1) / 3.",
)
edit("2h for h/2", "x, h / 2)", "x, 2 * h)", fix="The second step is half as long, not twice.")
edit("error bar with a sign", "abs(better - fine)", "better - fine", fix="An error bar is a distance: take abs().")
edit(
    "error bar against the coarse one",
    "abs(better - fine)",
    "abs(better - coarse)",
    fix="Compare with C(h/2), the better of the two.",
)
hint("C(h) = f' + c h^2 and C(h/2) = f' + c h^2 / 4. Which combination lets c vanish?")
hint("4 C(h/2) - C(h) = 3 f'. So D = (4 C(h/2) - C(h)) / 3.")
hint("fine = central(h/2); coarse = central(h); D = (4*fine - coarse)/3; return D, abs(D - fine)")
# </checks>
# <hidden points=1>
Same("richardson", lambda rng: [dict(f=math.atan, x=float(rng.normal()), h=0.1) for _ in range(3)], title="more points")
# </hidden>
