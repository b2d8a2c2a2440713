# /// exercise
# id = "a5-relative-error"
# title = "What does this relative error mean?"
# topics = ["tolerances"]
# requires = ["a1-differences"]
# points = 2
# ///
# %% [markdown]
# Write `relative_error(a, b) = |a - b| / max(|a|, |b|)`, entry by entry. Where both are 0 the error is 0, not NaN.
#
# Then play detective. Eight gradient checks gave these results. Classify each as
#
# - `"right"`: nothing to worry about,
# - `"float32"`: the gradient was computed in single precision,
# - `"kink"`: the point lies on a kink of the function, where no single derivative exists,
# - `"cancellation"`: the *difference quotient* has no digits left, the comparison says nothing,
# - `"bug"`: the backward rule is wrong.
#
# | check | what was seen |
# |---|---|
# | r1 | float64, every entry off by about 1e-10, differences with h = 1e-5 |
# | r2 | every entry off by 1e-8 to 1e-7, the gradient has dtype float32 |
# | r3 | one entry of 600 wrong: 0 instead of 0.5; there the input of the ReLU is exactly 0.0 |
# | r4 | every entry is exactly 32 times too small; the batch has 32 samples |
# | r5 | relative error 0.8, but both numbers are about 1e-17; all other entries agree |
# | r6 | relative errors around 1e-2, at random, differences with h = 1e-13 |
# | r7 | only entries of tied maxima of a max pool differ, by a factor 2 |
# | r8 | float64, h = 1e-5, all weights agree to 1e-10, the first bias is off by 3 % |

# %%
import numpy as np


def relative_error(a, b):
    # <solution>
    largest = np.maximum(np.abs(a), np.abs(b))
    return np.abs(a - b) / np.where(largest == 0, 1, largest)
    # </solution>


# %%
verdict = {
    # <solution>
    "r1": "right",
    "r2": "float32",
    "r3": "kink",
    "r4": "bug",
    "r5": "cancellation",
    "r6": "cancellation",
    "r7": "kink",
    "r8": "bug",
    # <starter>
    # "r1": None,
    # "r2": None,
    # "r3": None,
    # "r4": None,
    # "r5": None,
    # "r6": None,
    # "r7": None,
    # "r8": None,
    # </solution>
}


# <checks>
from tinygrad_cnn.exercises import Answer, Same, edit, hint


def cases(rng):
    a = rng.normal(size=(3, 4))
    yield dict(a=a, b=a * (1 + 1e-3 * rng.normal(size=(3, 4))))
    yield dict(a=np.array([0.0, 0.0, 1.0, -2.0]), b=np.array([0.0, 1e-3, 0.0, 2.0]))
    yield dict(a=rng.normal(size=5) * 1e-9, b=rng.normal(size=5))


Same("relative_error", cases)
Answer(
    "verdict",
    about={
        "r5": "Two numbers that should both be 0: what does their ratio say?",
        "r6": "f(x + h) and f(x - h) agree in almost all of their 16 digits.",
        "r7": "What is the derivative of max(a, b) where a = b?",
        "r8": "Weights fine, one bias wrong: is there a reason in the arithmetic?",
    },
)
edit("0/0 gives NaN", "np.where(largest == 0, 1, largest)", "largest", fix="Where both are 0, divide by 1 instead.")
edit(
    "divided by the mean size",
    "np.maximum(np.abs(a), np.abs(b))",
    "(np.abs(a) + np.abs(b)) / 2",
    fix="Divide by the larger one.",
)
edit(
    "divided by the second only",
    "np.maximum(np.abs(a), np.abs(b))",
    "np.abs(b)",
    fix="Divide by the larger of |a| and |b|.",
)
edit("sign kept", "np.abs(a - b) /", "(a - b) /", fix="An error has no sign: abs(a - b).")
edit(
    "tied maxima called a bug",
    '"r7": "kink"',
    '"r7": "bug"',
    fix="At a tie every share of the gradient is legal, if the shares sum to 1.",
)
edit(
    "too small h not recognised",
    '"r6": "cancellation"',
    '"r6": "bug"',
    fix="With h = 1e-13 the difference keeps about 3 digits.",
)
edit(
    "zeros compared",
    '"r5": "cancellation"',
    '"r5": "bug"',
    fix="Both are 0 up to round-off; their ratio means nothing.",
)
edit("wrong bias excused", '"r8": "bug"', '"r8": "right"', fix="3 % is far above what differences with h = 1e-5 lose.")
hint("Think of three sources of a difference: the rule, the arithmetic (float32, cancellation), the function (kinks).")
hint("float32 carries 7 digits: 1e-7. A difference with step h loses about log10(1/h) of 16 digits.")
hint("r3 and r7 are kinks; r5 and r6 cancellation; two of the others are bugs, one float32, one fine.")
# </checks>
