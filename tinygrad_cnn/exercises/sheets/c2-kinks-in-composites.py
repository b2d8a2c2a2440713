# /// exercise
# id = "c2-kinks-in-composites"
# title = "What automatic differentiation answers at a kink"
# topics = ["subgradient"]
# requires = ["c1-relu"]
# points = 2
# ///
# %% [markdown]
# Automatic differentiation multiplies and adds local derivatives; at a kink it uses whatever convention the operation
# has. So its answer may depend on *how* a function is written, and it may even be no derivative at all.
#
# Predict what reverse mode answers at `x = 0`, with pencil and the chain rule. Each function is written with ReLU
# only, and every ReLU uses the same convention: `left` (0), `right` (1) or `average` (0.5).
#
# - `f(x) = relu(x) - relu(-x)`, which is nothing but x
# - `g(x) = relu(-x) + x`, which is nothing but relu(x)
#
# And `m(x) = max(x, x)`, a maximum of two equal arguments: `first` gives all of the gradient to the first of tied
# arguments, `split` half to each, `all` the whole to both.
#
# Finally the true derivative at 0; write the text `"none"` where there is none.

# %%
answers = {
    # <solution>
    "f, left": 0,
    "f, right": 2,
    "f, average": 1,
    "g, left": 1,
    "g, right": 0,
    "g, average": 0.5,
    "m, first": 1,
    "m, split": 1,
    "m, all": 2,
    "true f": 1,
    "true g": "none",
    "true m": 1,
    # <starter>
    # "f, left": None,
    # "f, right": None,
    # "f, average": None,
    # "g, left": None,
    # "g, right": None,
    # "g, average": None,
    # "m, first": None,
    # "m, split": None,
    # "m, all": None,
    # "true f": None,
    # "true g": None,
    # "true m": None,
    # </solution>
}


# <checks>
from tinygrad_cnn.exercises import Answer, edit, hint

chain = "Chain rule: the slope of relu(-x) is -relu'(-x), and relu' at 0 is what the convention says."
Answer(
    "answers",
    about={
        **dict.fromkeys(("f, left", "f, right", "f, average", "g, left", "g, right", "g, average"), chain),
        "m, first": "Both arguments are x: add what they get.",
        "m, split": "Both arguments are x: add what they get.",
        "m, all": "Both arguments are x: add what they get.",
        "true f": "f(x) = x.",
        "true g": "g(x) = relu(x). What are its slopes left and right of 0?",
        "true m": "m(x) = x.",
    },
)
edit(
    "true derivative for the answer of AD (left)",
    '"f, left": 0',
    '"f, left": 1',
    fix="With relu'(0) = 0 both terms vanish: AD answers 0, and the true derivative is 1.",
)
edit(
    "inner derivative forgotten",
    '"f, right": 2',
    '"f, right": 0',
    fix="relu(-x) has the slope -relu'(-x): 1 - (-1) = 2.",
)
edit(
    "inner derivative forgotten in g",
    '"g, right": 0',
    '"g, right": 2',
    fix="relu(-x) has the slope -1 under the right convention: -1 + 1 = 0.",
)
edit(
    "conventions of g exchanged",
    '"g, left": 1',
    '"g, left": 0',
    '"g, right": 0',
    '"g, right": 1',
    fix="Left: 0 + 1 = 1. The minus sign inside turns the convention round.",
)
edit(
    "the ReLU called differentiable",
    '"true g": "none"',
    '"true g": 0',
    fix="The slopes 0 and 1 differ, so there is no derivative.",
)
edit("ties counted once", '"m, all": 2', '"m, all": 1', fix="Both arguments get the whole gradient and both are x: 2.")
edit(
    "half of a split",
    '"m, split": 1',
    '"m, split": 0.5',
    fix="Each argument gets one half, and both are x: together 1.",
)
hint("Write r for relu'(0). f' = r - r * (-1). What is that for r = 0, 1, 1/2?")
hint("g' = -r + 1. For max(x, x) add the shares of the two arguments.")
hint("f: 2r. g: 1 - r. m: first 1 + 0, split 1/2 + 1/2, all 1 + 1. Only relu itself has no derivative at 0.")
# </checks>
