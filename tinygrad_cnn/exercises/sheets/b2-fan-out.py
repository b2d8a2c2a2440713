# /// exercise
# id = "b2-fan-out"
# title = "A value that is used twice"
# topics = ["chain rule"]
# requires = ["b1-local-vjps"]
# points = 2
# ///
# %% [markdown]
# In `y = x * a + exp(x)` the value `x` is used twice. Each use sends a gradient back to `x`, and they **add up**.
# An engine keeps a table `grads`: name of a value -> gradient collected so far.
#
# Write `accumulate(grads, name, g)`. It adds the contribution `g` to the entry `name` of the table (which may not be
# there yet) and returns nothing.
#
# Two traps: writing `grads[name] = g` forgets what was there before. And `grads[name] += g` edits an array that
# somebody else may hold too: in `y = a + b` the *same* array `dout` is handed to `a` and to `b`.

# %%
import numpy as np


def accumulate(grads, name, g):
    # <solution>
    if name in grads:
        grads[name] = grads[name] + g
    else:
        grads[name] = g
    return grads
    # <starter>
    # raise NotImplementedError("write your code here")
    # return grads
    # </solution>


# <checks>
from tinygrad_cnn.exercises import Same, edit, hint


def run(accumulate, steps, arrays):
    """Hand out arrays as an engine does: one array may go to several names."""
    grads = {}
    for name, number in steps:
        grads = accumulate(grads, name, arrays[number])
        if not isinstance(grads, dict):
            return "accumulate() has to return grads"
    return {"grads": grads, "what was handed out": arrays}


def cases(rng):
    for steps in (
        [("x", 0), ("x", 1), ("x", 2)],
        [("a", 0), ("b", 0), ("a", 1), ("b", 2)],  # y = a + b, and both are used again
        [("x", 0), ("w", 1), ("x", 1), ("w", 2), ("x", 2), ("x", 0)],
    ):
        yield dict(steps=steps, arrays=[rng.normal(size=(2, 3)) for _ in range(3)])


def once(accumulate, g):
    return accumulate({"other": np.zeros(2)}, "x", g)


Same("accumulate", lambda rng: [dict(g=rng.normal(size=k)) for k in (2, 5)], drive=once, title="the first contribution")
Same("accumulate", cases, drive=run, title="several contributions")
edit(
    "overwritten instead of added",
    "grads[name] = grads[name] + g",
    "grads[name] = g",
    fix="Add to what is there: = grads[name] + g.",
)
edit(
    "only the first contribution counts", "grads[name] = grads[name] + g", "pass", fix="Later contributions are added."
)
edit(
    "averaged instead of added",
    "grads[name] + g",
    "(grads[name] + g) / 2",
    fix="Contributions add up, there is no mean.",
)
edit(
    "the first contribution is lost",
    "    else:\n        grads[name] = g",
    "    else:\n        grads[name] = np.zeros_like(g)",
    fix="Without an entry yet, the entry becomes g.",
)
edit("table not returned", "return grads", "return None", fix="End with: return grads")
hint("Two cases: the name is in the table already, or it is not.")
hint("grads[name] = grads[name] + g makes a new array; grads[name] += g edits the old one, which others may hold.")
hint("if name in grads: grads[name] = grads[name] + g   else: grads[name] = g   and then return grads")


from tinygrad_cnn.exercises import Property


def no_side_effect(space, rng):
    shared = rng.normal(size=3)
    before = shared.copy()
    accumulate = space.function("accumulate")
    grads = accumulate({"a": shared, "b": shared}, "a", np.ones(3))
    if not isinstance(grads, dict):
        return None  # the checks above say so
    if not np.array_equal(np.asarray(grads.get("b")), before):
        return "adding to a changed b as well: both were given the same array, and += edits it"
    return None


Property("adding to one leaves the other alone", no_side_effect, function="accumulate", cause="edited in place")
edit("edited in place", "grads[name] = grads[name] + g", "grads[name] += g", fix="Write grads[name] = grads[name] + g.")
# </checks>
# <hidden points=1>
Same(
    "accumulate",
    lambda rng: [dict(steps=[("x", i) for i in (0, 0, 1, 2, 2)], arrays=[rng.normal(size=k) for k in (1, 1, 1)])],
    drive=run,
    title="one array several times",
)
# </hidden>
