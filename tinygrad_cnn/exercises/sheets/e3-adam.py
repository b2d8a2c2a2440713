# /// exercise
# id = "e3-adam"
# title = "Adam from the paper"
# topics = ["Adam"]
# requires = ["e2-adam-errata"]
# points = 3
# ///
# %% [markdown]
# Kingma & Ba 2014, Algorithm 1, now for a *list* of parameters and with an optimiser state:
#
# `state = {"t": 0, "m": [...], "v": [...]}` with zeros like each parameter; `adam_start(parameters)` makes it.
# `adam_step(parameters, gradients, state, lr, beta1, beta2, eps)` returns the new list of parameters and the new state;
# it changes none of its arguments.
#
# - t counts steps and starts at 1 in the first step; it is one number for all parameters.
# - The bias correction divides by `1 - beta^t`, with the power t.
# - eps is added outside of the root.

# %%
import numpy as np


def adam_start(parameters):
    # <solution>
    return {"t": 0, "m": [np.zeros_like(p) for p in parameters], "v": [np.zeros_like(p) for p in parameters]}
    # </solution>


def adam_step(parameters, gradients, state, lr, beta1, beta2, eps):
    # <solution>
    t = state["t"] + 1
    ms, vs, new = [], [], []
    for p, g, m, v in zip(parameters, gradients, state["m"], state["v"]):
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        m_hat = m / (1 - beta1**t)
        v_hat = v / (1 - beta2**t)
        ms.append(m)
        vs.append(v)
        new.append(p - lr * m_hat / (np.sqrt(v_hat) + eps))
    return new, {"t": t, "m": ms, "v": vs}
    # </solution>


# <checks>
from tinygrad_cnn.exercises import Same, edit, hint


def starts(rng):
    yield dict(parameters=[rng.normal(size=(2, 3)), rng.normal(size=4)])
    yield dict(parameters=[rng.normal(size=(1, 2, 3, 4))])


def paths(rng):
    for shapes, (lr, b1, b2, eps) in [
        ([(2, 3), (4,)], (0.01, 0.9, 0.999, 1e-8)),
        ([(5,), (3, 1), (2,)], (0.1, 0.8, 0.95, 1e-3)),
        ([(2,)], (0.02, 0.6, 0.9, 1e-2)),
    ]:
        parameters = [rng.normal(size=s) for s in shapes]
        gradients = [[rng.normal(size=s) for s in shapes] for _ in range(4)]
        yield dict(parameters=parameters, gradients=gradients, lr=lr, beta1=b1, beta2=b2, eps=eps)


def steps(adam_step, parameters, gradients, lr, beta1, beta2, eps):
    state = {"t": 0, "m": [np.zeros_like(p) for p in parameters], "v": [np.zeros_like(p) for p in parameters]}
    path = []
    for g in gradients:
        parameters, state = adam_step(parameters, g, state, lr, beta1, beta2, eps)
        path.append([state["t"], *parameters])
    return path


Same("adam_start", starts, contract=False)
Same("adam_step", paths, drive=steps, title="adam_step(): four steps")
edit(
    "no bias correction",
    "m_hat = m / (1 - beta1**t)\n        v_hat = v / (1 - beta2**t)",
    "m_hat, v_hat = m, v",
    fix="m and v start at 0 and are too small at first: divide by 1 - beta^t.",
)
edit("bias correction of m only", "v / (1 - beta2**t)", "v", fix="v is biased towards 0 as well.")
edit("bias correction of v only", "m / (1 - beta1**t)", "m", fix="m is biased towards 0 as well.")
edit(
    "beta not raised to the power t",
    "(1 - beta1**t)",
    "(1 - beta1)",
    "(1 - beta2**t)",
    "(1 - beta2)",
    fix="The correction is 1 - beta^t.",
)
edit(
    "multiplied by the correction",
    "m / (1 - beta1**t)",
    "m * (1 - beta1**t)",
    "v / (1 - beta2**t)",
    "v * (1 - beta2**t)",
    fix="Divide by the correction.",
)
edit(
    "betas exchanged",
    "m = beta1 * m + (1 - beta1) * g",
    "m = beta2 * m + (1 - beta2) * g",
    "v = beta2 * v + (1 - beta2) * g**2",
    "v = beta1 * v + (1 - beta1) * g**2",
    "(1 - beta1**t)",
    "(1 - beta2 ** t)",
    "v / (1 - beta2**t)",
    "v / (1 - beta1 ** t)",
    fix="beta1 belongs to m, beta2 to v.",
)
edit("t starts at 2", 't = state["t"] + 1', 't = state["t"] + 2', fix="t = 1 in the first step.")
edit("gradient not squared in v", "(1 - beta2) * g**2", "(1 - beta2) * np.abs(g)", fix="v averages g^2.")
edit("no root", "np.sqrt(v_hat) + eps", "v_hat + eps", fix="Divide by the root of v_hat.")
edit("eps inside the root", "(np.sqrt(v_hat) + eps)", "np.sqrt(v_hat + eps)", fix="eps is added outside of the root.")
edit(
    "v averages m",
    "v = beta2 * v + (1 - beta2) * g**2",
    "v = beta2 * v + (1 - beta2) * m**2",
    fix="v averages the squared gradient, not the squared momentum.",
)
edit("uphill", "p - lr", "p + lr", fix="Against the gradient: minus.")
edit("t not counted", '{"t": t, "m"', '{"t": state["t"], "m"', fix="The new state holds the new t.")
edit(
    "state of the moments lost",
    '"m": ms, "v": vs}',
    '"m": state["m"], "v": state["v"]}',
    fix="The new state holds the new m and v.",
)
edit(
    "one moment shared by all parameters",
    "        ms.append(m)\n        vs.append(v)\n",
    "        ms.append(m * 0)\n        vs.append(v)\n",
    fix="Each parameter keeps its own m.",
)
hint("Write the five lines for one parameter first, then loop over zip(parameters, gradients, m, v).")
hint(
    "m = b1 m + (1-b1) g; v = b2 v + (1-b2) g^2; m_hat = m/(1-b1^t); v_hat = v/(1-b2^t); p - lr m_hat/(sqrt(v_hat)+eps)"
)
hint("t = state['t'] + 1 once per step, outside of the loop; return new, {'t': t, 'm': ms, 'v': vs}")
# </checks>
# <hidden points=1>
Same("adam_step", paths, drive=steps, title="adam_step(): other paths")
# </hidden>
