# /// exercise
# id = "e7-batch-norm"
# title = "Batch normalisation, backwards"
# topics = ["batch normalisation"]
# requires = ["b5-sum-mean"]
# points = 4
# ///
# %% [markdown]
# For a batch x of shape (N, D), column by column:
#
#     mu   = mean(x)                       over the batch, axis 0
#     var  = mean((x - mu)^2)              divided by N, not N - 1
#     xhat = (x - mu) / sqrt(var + eps)
#     y    = gamma * xhat + beta
#
# Write `batch_norm_vjp(dout, x, gamma, beta, eps)`; it returns dx, dgamma, dbeta. x has three ways to y: directly,
# through mu, and through var. Multiplied out it becomes short:
#
# `dx = gamma / sqrt(var + eps) * (dout - mean(dout) - xhat * mean(dout * xhat))`.

# %%
import numpy as np


def batch_norm(x, gamma, beta, eps):
    mu = x.mean(axis=0)
    var = ((x - mu) ** 2).mean(axis=0)
    return gamma * (x - mu) / np.sqrt(var + eps) + beta


def batch_norm_vjp(dout, x, gamma, beta, eps):
    # <solution>
    mu = x.mean(axis=0)
    var = np.mean((x - mu) ** 2, axis=0)
    xhat = (x - mu) / np.sqrt(var + eps)
    dgamma = (dout * xhat).sum(axis=0)
    dbeta = dout.sum(axis=0)
    through_mu = dout.mean(axis=0)
    through_var = xhat * (dout * xhat).mean(axis=0)
    dx = gamma / np.sqrt(var + eps) * (dout - through_mu - through_var)
    return dx, dgamma, dbeta
    # </solution>


# <checks>
from tinygrad_cnn.exercises import Vjp, edit, hint


def cases(rng):
    for n, d, eps in [(7, 3, 1e-2), (4, 5, 1e-5), (5, 2, 0.3)]:
        yield dict(x=2 + 3 * rng.normal(size=(n, d)), gamma=rng.normal(size=d), beta=rng.normal(size=d), eps=eps)


Vjp("batch_norm_vjp", of="batch_norm", wrt=("x", "gamma", "beta"), cases=cases)
edit(
    "mean and variance taken for constants",
    "(dout - through_mu - through_var)",
    "dout",
    fix="mu and var depend on x; two more terms come from them.",
)
edit(
    "variance taken for a constant",
    "(dout - through_mu - through_var)",
    "(dout - through_mu)",
    fix="var depends on x: subtract xhat * mean(dout * xhat).",
)
edit(
    "mean taken for a constant",
    "(dout - through_mu - through_var)",
    "(dout - through_var)",
    fix="mu depends on x: subtract mean(dout).",
)
edit("gamma forgotten", "dx = gamma / np.sqrt", "dx = 1 / np.sqrt", fix="y = gamma * xhat + beta: gamma multiplies dx.")
edit(
    "eps outside of the root",
    "dx = gamma / np.sqrt(var + eps)",
    "dx = gamma / (np.sqrt(var) + eps)",
    fix="The forward pass adds eps inside of the root.",
)
edit(
    "divided by N - 1",
    "var = np.mean((x - mu) ** 2, axis=0)",
    "var = np.sum((x - mu) ** 2, axis=0) / (len(x) - 1)",
    fix="The forward pass divides by N.",
)
edit(
    "x for xhat in dgamma",
    "dgamma = (dout * xhat).sum(axis=0)",
    "dgamma = (dout * x).sum(axis=0)",
    fix="gamma multiplies xhat, not x.",
)
edit(
    "mean for the sum in dgamma",
    "(dout * xhat).sum(axis=0)",
    "(dout * xhat).mean(axis=0)",
    fix="gamma is used in every row: sum.",
)
edit("mean for the sum in dbeta", "dout.sum(axis=0)", "dout.mean(axis=0)", fix="beta is used in every row: sum.")
edit(
    "sums for means in dx",
    "through_mu = dout.mean(axis=0)",
    "through_mu = dout.sum(axis=0)",
    fix="mu is a mean: its share is divided by N.",
)
edit(
    "dbeta and dgamma exchanged",
    "return dx, dgamma, dbeta",
    "return dx, dbeta, dgamma",
    fix="The order is dx, dgamma, dbeta.",
)
hint("Start with dbeta and dgamma: both are sums over the batch. Then dxhat = dout * gamma.")
hint("dx = gamma / sqrt(var + eps) * (dout - mean(dout) - xhat * mean(dout * xhat)), means over axis 0.")
hint(
    "xhat = (x - mu) / s; dgamma = (dout * xhat).sum(0); dbeta = dout.sum(0); dx = gamma / s * (dout - dout.mean(0) - xhat * (dout * xhat).mean(0))"
)
# </checks>
# <hidden points=1>
Vjp(
    "batch_norm_vjp",
    of="batch_norm",
    wrt=("x", "gamma", "beta"),
    cases=lambda rng: [dict(x=rng.normal(size=(9, 4)), gamma=rng.normal(size=4), beta=rng.normal(size=4), eps=1e-3)],
)
# </hidden>
