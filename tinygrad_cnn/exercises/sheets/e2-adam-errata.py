# /// exercise
# id = "e2-adam-errata"
# title = "Two misprints in the lecture's Adam"
# topics = ["Adam"]
# requires = ["e1-sgd"]
# points = 5
# limits = { wall = 10 }
# ///
# %% [markdown]
# A slide of the lecture prints Adam like this, with `m` and `v` starting at 0 and t = 1, 2, 3, ...
#
#     (1)  m_t   = beta1 * m_{t-1} + (1 - beta1) * g
#     (2)  v_t   = beta2 * m_{t-1} + (1 - beta2) * g^2
#     (3)  m_hat = m_t / (1 - beta1^t)
#     (4)  v_hat = v_t / (1 - beta2^t)
#     (5)  w_t   = w_{t-1} - lr * m_hat / (v_hat + eps)
#
# **Two of these lines hold a misprint.** You will find them by experiment.
#
# **Stage 1.** Implement the five lines exactly *as printed*, misprints included, and run this file.

# %%
import numpy as np


def adam_as_printed(w, g, m, v, t, lr, beta1, beta2, eps):
    """One step by the slide; returns the new w, m, v."""
    # <solution>
    v = beta2 * m + (1 - beta2) * g**2
    m = beta1 * m + (1 - beta1) * g
    m_hat = m / (1 - beta1**t)
    v_hat = v / (1 - beta2**t)
    return w - lr * m_hat / (v_hat + eps), m, v
    # </solution>


# %% [markdown]
# Adam promises three things. (Its first step is about `lr` long, whatever the loss; `v`, a mean of squares, is never
# negative; a loss in other units, multiplied by 1000, gives the same path.) The experiment minimises
# `c/2 * (w1^2 + w2^2)`, whose gradient is `c w`, with lr = 0.01.


# %%
def descend(step, c, count):
    """Return all positions and all v of `count` steps from (1.5, -2)."""
    w, m, v = np.array([1.5, -2.0]), np.zeros(2), np.zeros(2)
    path, vs = [w], []
    for t in range(1, count + 1):
        w, m, v = step(w, c * w, m, v, t, 0.01, 0.9, 0.999, 1e-8)
        path.append(w)
        vs.append(v)
    return path, vs


def experiment(step):
    for c in (1e-3, 1.0, 1e3):
        with np.errstate(all="ignore"):
            path, vs = descend(step, c, 200)
        print(
            f"loss times {c:g}:  first step {abs(path[1] - path[0])},  v < 0 in {sum((v < 0).any() for v in vs)} of 200 steps,"
        )
        print(f"                  after 200 steps at {path[-1]}")


if __name__ == "__main__":
    experiment(adam_as_printed)

# %% [markdown]
# Which promises does the slide keep? True or False. And how long is the first step of `w1` for the loss times 1e-3?

# %%
kept = {
    # <solution>
    "the first step is about lr long": False,
    "v is never negative": False,
    "the same path for a loss times 1000": False,
    "first step of w1 for the loss times 1e-3": 6.637,
    # <starter>
    # "the first step is about lr long": None,
    # "v is never negative": None,
    # "the same path for a loss times 1000": None,
    # "first step of w1 for the loss times 1e-3": None,
    # </solution>
}

# %% [markdown]
# **Stage 2.** Name the misprints: the number of the line, what is printed there, what it should be. Write names as on
# the slide (`m_{t-1}`, `v_{t-1}`, `m_hat`, `v_hat`, ...) and a square root as `sqrt(...)`.
#
# A warning: the two misprints hide each other. Try to repair only one of them and run the experiment.

# %%
errata = {
    # <solution>
    "first misprint, line": 2,
    "first misprint, printed": "m_{t-1}",
    "first misprint, should be": "v_{t-1}",
    "second misprint, line": 5,
    "second misprint, printed": "v_hat",
    "second misprint, should be": "sqrt(v_hat)",
    # <starter>
    # "first misprint, line": None,
    # "first misprint, printed": None,
    # "first misprint, should be": None,
    # "second misprint, line": None,
    # "second misprint, printed": None,
    # "second misprint, should be": None,
    # </solution>
}

# %% [markdown]
# **Stage 3.** Write Adam as it should be (Kingma & Ba 2014, Algorithm 1), and run the experiment with it.


# %%
def adam(w, g, m, v, t, lr, beta1, beta2, eps):
    # <solution>
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g**2
    m_hat = m / (1 - beta1**t)
    v_hat = v / (1 - beta2**t)
    return w - lr * m_hat / (np.sqrt(v_hat) + eps), m, v
    # </solution>


# <checks>
from tinygrad_cnn.exercises import Answer, Property, Same, edit, hint

settings = dict(lr=0.01, beta1=0.9, beta2=0.999, eps=1e-8)


def steps(step, w, gradients, lr, beta1, beta2, eps):
    m, v, path = np.zeros_like(w), np.zeros_like(w), []
    for t, g in enumerate(gradients, 1):
        w, m, v = step(w, g, m, v, t, lr, beta1, beta2, eps)
        path.append([w, m, v])
    return path


def paths(rng):
    for size, count in [(3, 4), (5, 6)]:
        yield dict(w=rng.normal(size=size), gradients=[rng.normal(size=size) for _ in range(count)], **settings)
    yield dict(
        w=rng.normal(size=2), gradients=[rng.normal(size=2) for _ in range(4)], lr=0.1, beta1=0.8, beta2=0.95, eps=1e-3
    )


def promises(space, rng):
    adam = space.function("adam")
    ends = []
    for c in (1e-3, 1.0, 1e3):
        w, m, v = np.array([1.5, -2.0]), np.zeros(2), np.zeros(2)
        for t in range(1, 41):
            new, m, v = adam(w, c * w, m, v, t, 0.01, 0.9, 0.999, 1e-8)
            if not (np.isfinite(new).all() and np.isfinite(v).all()):
                return f"NaN at step {t}: a root of something negative? The misprints hide each other, both have to go"
            if t == 1 and not np.allclose(np.abs(new - w), 0.01, rtol=0.02):
                return f"the first step for the loss times {c:g} is {np.abs(new - w)}, and should be 0.01"
            if (v < 0).any():
                return f"v is negative at step {t}"
            w = new
        ends.append(w)
    if not (np.allclose(ends[0], ends[1], rtol=1e-3) and np.allclose(ends[1], ends[2], rtol=1e-3)):
        return f"a loss times 1000 changes the path: {ends[1]} becomes {ends[2]}"
    return None


Same("adam_as_printed", paths, drive=steps, title="stage 1: as printed")
Answer(
    "kept",
    atol=0.01,
    about={
        "first step of w1 for the loss times 1e-3": "The experiment prints it: the first of the two numbers.",
        "the same path for a loss times 1000": "Compare where the three experiments are after 200 steps.",
    },
    title="stage 1: which promises are kept",
)
Answer(
    "errata",
    about={
        "first misprint, line": "Which line makes v negative? A mean of squares cannot be.",
        "second misprint, line": "Which line lets the length of the step depend on the units of the loss?",
        "first misprint, should be": "A running mean continues from its own last value.",
        "second misprint, should be": "g has the unit 1/w, and v the unit of g^2. What cancels the unit of m_hat?",
    },
    accept={
        "first misprint, printed": ["m", "m_(t-1)", "m_t-1", "m{t-1}", "beta2 * m_{t-1}"],
        "first misprint, should be": ["v", "v_(t-1)", "v_t-1", "v{t-1}", "beta2 * v_{t-1}"],
        "second misprint, printed": ["v_hat + eps", "(v_hat + eps)"],
        "second misprint, should be": ["sqrt(v_hat) + eps", "(sqrt(v_hat) + eps)", "np.sqrt(v_hat)", "sqrt v_hat"],
    },
    title="stage 2: errata",
)
Same("adam", paths, drive=steps, title="stage 3: Adam")
Property("stage 3: the three promises", promises, function="adam")
edit(
    "the slide silently corrected",
    "v = beta2 * m + (1 - beta2) * g**2\n    m =",
    "v = beta2 * v + (1 - beta2) * g**2\n    m =",
    fix="Stage 1 asks for the slide as printed: line (2) continues from m_{t-1}.",
)
edit(
    "root already restored in stage 1",
    "m_hat / (v_hat + eps)",
    "m_hat / (np.sqrt(v_hat) + eps)",
    fix="Stage 1 asks for the slide as printed: line (5) has no root.",
)
edit(
    "new m used in line 2",
    "    v = beta2 * m + (1 - beta2) * g**2\n    m = beta1 * m + (1 - beta1) * g\n",
    "    m = beta1 * m + (1 - beta1) * g\n    v = beta2 * m + (1 - beta2) * g**2\n",
    fix="Line (2) says m_{t-1}: compute v before m is replaced.",
)
edit(
    "only the root restored",
    "v = beta2 * v + (1 - beta2)",
    "v = beta2 * (m - (1 - beta1) * g) / beta1 + (1 - beta2)",
    fix="Then v still averages m and turns negative, and its root is NaN at the second step.",
)
edit(
    "only the average restored",
    "(np.sqrt(v_hat) + eps), m, v",
    "(v_hat + eps), m, v",
    fix="Then nothing is negative any more, but the step still depends on the units of the loss.",
)
edit(
    "eps inside the root",
    "(np.sqrt(v_hat) + eps)",
    "np.sqrt(v_hat + eps)",
    fix="The paper adds eps outside of the root.",
)
edit(
    "wrong line blamed for the missing root",
    '"second misprint, line": 5',
    '"second misprint, line": 4',
    fix="Line (4) is right; line (5) divides by v_hat instead of its root.",
)
edit(
    "g^2 taken for the misprint",
    '"first misprint, printed": "m_{t-1}",\n    "first misprint, should be": "v_{t-1}"',
    '"first misprint, printed": "g^2",\n    "first misprint, should be": "g"',
    fix="g^2 is right: v averages squares. It must continue from v_{t-1}.",
)
edit(
    "negative v overlooked",
    '"v is never negative": False',
    '"v is never negative": True',
    fix="The experiment counts the steps with a negative v: 199 of 200.",
)
hint(
    "Stage 1: compute v before you overwrite m, as line (2) reads the old one. Then read the answers off the experiment."
)
hint(
    "v should be a running mean of g^2, so it has to continue from its own last value; and m_hat / sqrt(v_hat) has no unit."
)
hint("Line 2: m_{t-1} -> v_{t-1}. Line 5: v_hat -> sqrt(v_hat). Then adam() is the slide with both repaired.")
# </checks>
# <hidden points=1>
Same("adam", paths, drive=steps, title="stage 3: other paths")
# </hidden>
