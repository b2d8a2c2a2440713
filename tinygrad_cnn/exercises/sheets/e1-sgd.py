# /// exercise
# id = "e1-sgd"
# title = "SGD with momentum and weight decay"
# topics = ["optimisers"]
# requires = ["b1-local-vjps"]
# points = 2
# ///
# %% [markdown]
# One step of stochastic gradient descent, with the two usual additions:
#
# 1. **weight decay** `d`: the penalty `d/2 * sum(w^2)` is added to the loss. What does that add to the gradient g?
# 2. **momentum** `mu`: a velocity collects the gradients, `v <- mu * v + g`
# 3. the step: `w <- w - lr * v`
#
# Write `sgd_step(w, g, v, lr, mu, d)`. It returns the new `w` and the new `v`, and changes none of its arguments.

# %%
import numpy as np


def sgd_step(w, g, v, lr, mu, d):
    # <solution>
    g = g + d * w
    v = mu * v + g
    return w - lr * v, v
    # </solution>


# <checks>
from tinygrad_cnn.exercises import Same, edit, hint


def steps(sgd_step, w, gradients, lr, mu, d):
    v, path = np.zeros_like(w), []
    for g in gradients:
        w, v = sgd_step(w, g, v, lr, mu, d)
        path.append(w)
    return path


def paths(rng):
    for lr, mu, d in [(0.1, 0.9, 0.0), (0.05, 0.0, 0.3), (0.02, 0.7, 0.2)]:
        yield dict(w=rng.normal(size=(3, 2)), gradients=[rng.normal(size=(3, 2)) for _ in range(4)], lr=lr, mu=mu, d=d)


def one(rng):
    for lr, mu, d in [(0.1, 0.9, 0.0), (0.05, 0.0, 0.3), (0.02, 0.7, 0.2)]:
        yield dict(w=rng.normal(size=4), g=rng.normal(size=4), v=rng.normal(size=4), lr=lr, mu=mu, d=d)


Same("sgd_step", one, title="sgd_step(): one step")
Same("sgd_step", paths, drive=steps, title="sgd_step(): four steps")
edit("uphill", "w - lr * v, v", "w + lr * v, v", fix="Against the gradient: minus.")
edit("weight decay with the wrong sign", "g + d * w", "g - d * w", fix="The gradient of d/2 w^2 is + d w.")
edit("factor 2 in the decay", "g + d * w", "g + 2 * d * w", fix="The penalty is d/2 w^2, its gradient d w.")
edit("factor 1/2 in the decay", "g + d * w", "g + 0.5 * d * w", fix="The penalty is d/2 w^2, its gradient d w.")
edit("decay forgotten", "    g = g + d * w\n", "", fix="Add d * w to the gradient.")
edit("momentum forgotten", "mu * v + g", "g", fix="v <- mu * v + g.")
edit(
    "gradient damped by 1 - mu",
    "mu * v + g",
    "mu * v + (1 - mu) * g",
    fix="Here the whole gradient is added: mu * v + g.",
)
edit("step with the gradient, not with v", "w - lr * v, v", "w - lr * g, v", fix="The step goes along the velocity v.")
edit(
    "decay outside of the momentum",
    "    g = g + d * w\n    v = mu * v + g\n    return w - lr * v, v",
    "    v = mu * v + g\n    return w - lr * v - lr * d * w, v",
    fix="Here the decay is part of the gradient, and so of the velocity.",
)
edit(
    "old velocity used",
    "    v = mu * v + g\n    return w - lr * v, v",
    "    return w - lr * v, mu * v + g",
    fix="First the new velocity, then the step with it.",
)
hint("What is the derivative of d/2 * w^2?")
hint("g <- g + d w;  v <- mu v + g;  w <- w - lr v. In this order.")
hint("g = g + d * w; v = mu * v + g; return w - lr * v, v")
# </checks>
# <hidden points=1>
Same("sgd_step", paths, drive=steps, title="sgd_step(): other paths")
# </hidden>
