# /// exercise
# id = "f2-check-a-network"
# title = "Gradient-check a whole network"
# topics = ["LeNet-5", "gradient checking"]
# requires = ["a5-relative-error", "d9-overlapping-pool"]
# points = 4
# limits = { wall = 20, cpu = 20 }
# ///
# %% [markdown]
# A network has too many weights to check all of them. One checks a **sample from every parameter tensor** (a wrong bias
# would be lost among the weights), and one must beware of **kinks**: if moving a weight by h flips a ReLU or moves the
# maximum of a pool, the difference quotient straddles a kink and means nothing. On LeNet-5 that happens to a third of
# all probes with h = 1e-4.
#
# Write `check_network(loss, switches, parameters, gradients, picks, h)`:
#
# - `loss(parameters)` is a number; `switches(parameters)` an array of integers that says on which smooth piece the
#   network is (signs of the ReLUs, positions of the maxima);
# - `parameters` and `gradients` are dicts name -> array; `picks[name]` lists the flat indices to be checked;
# - for each pick: central difference with step h; if the switches at +h or at -h differ from those in the middle, count
#   it as a kink and do not compare; else the relative error is `|a - b| / max(|a|, |b|, 1e-4)`.
#
# Return two dicts: name -> largest relative error (0.0 if nothing was compared), and name -> number of kinks. Leave the
# parameters as you found them.

# %%
import numpy as np


def check_network(loss, switches, parameters, gradients, picks, h):
    # <solution>
    errors, kinks = {}, {}
    middle = switches(parameters)
    for name, indices in picks.items():
        errors[name], kinks[name] = 0.0, 0
        for i in indices:
            values, flipped = [], False
            for step in (h, -h):
                moved = {k: v.copy() for k, v in parameters.items()}
                moved[name].reshape(-1)[i] += step
                values.append(loss(moved))
                flipped = flipped or not np.array_equal(switches(moved), middle)
            if flipped:
                kinks[name] += 1
                continue
            a, b = (values[0] - values[1]) / (2 * h), gradients[name].reshape(-1)[i]
            errors[name] = max(errors[name], abs(a - b) / max(abs(a), abs(b), 1e-4))
    return errors, kinks
    # </solution>


# %% [markdown]
# A network to try it on: convolution, ReLU, max pool, linear layer, cross-entropy. Its backward function is right.


# %%
def windows(x, k):
    return np.lib.stride_tricks.sliding_window_view(x, (k, k), axis=(2, 3))


def network(parameters, x, labels):
    """Return loss, gradients and switches."""
    p, n = parameters, len(x)
    k = p["conv.weight"].shape[2]
    z = np.einsum("ncijab,fcab->nfij", windows(x, k), p["conv.weight"]) + p["conv.bias"][:, None, None]
    a = np.maximum(z, 0)
    f, oh, ow = a.shape[1:]
    cells = a.reshape(n, f, oh // 2, 2, ow // 2, 2).transpose(0, 1, 2, 4, 3, 5).reshape(n, f, oh // 2, ow // 2, 4)
    best = cells.argmax(axis=4)
    flat = cells.max(axis=4).reshape(n, -1)
    logits = flat @ p["linear.weight"] + p["linear.bias"]
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    loss = -log_p[np.arange(n), labels].mean()
    d = np.exp(log_p)
    d[np.arange(n), labels] -= 1
    d /= n
    grads = {"linear.weight": flat.T @ d, "linear.bias": d.sum(axis=0)}
    share = np.zeros(cells.shape)
    np.put_along_axis(share, best[..., None], (d @ p["linear.weight"].T).reshape(best.shape)[..., None], axis=4)
    dz = share.reshape(n, f, oh // 2, ow // 2, 2, 2).transpose(0, 1, 2, 4, 3, 5).reshape(z.shape) * (z > 0)
    grads["conv.bias"] = dz.sum(axis=(0, 2, 3))
    grads["conv.weight"] = np.einsum("ncijab,nfij->fcab", windows(x, k), dz)
    return loss, grads, np.concatenate([(z > 0).reshape(-1), best.reshape(-1)])


def start(rng, size=10, filters=3, classes=5):
    side = (size - 3 + 1) // 2
    return {
        "conv.weight": rng.normal(size=(filters, 1, 3, 3)),
        "conv.bias": rng.normal(size=filters),
        "linear.weight": rng.normal(size=(filters * side * side, classes)) / 5,
        "linear.bias": np.zeros(classes),
    }


if __name__ == "__main__":
    rng = np.random.default_rng(0)
    net, x, labels = start(rng), rng.uniform(size=(4, 1, 10, 10)), rng.integers(0, 5, size=4)
    picks = {name: rng.choice(v.size, size=min(5, v.size), replace=False) for name, v in net.items()}
    gradients = network(net, x, labels)[1]
    print(
        check_network(
            lambda p: network(p, x, labels)[0], lambda p: network(p, x, labels)[2], net, gradients, picks, 1e-4
        )
    )


# <checks>
from tinygrad_cnn.exercises import Property, Same, edit, hint


def flips(net, x, labels, i, step):
    moved = {k: v.copy() for k, v in net.items()}
    moved["conv.weight"].reshape(-1)[i] += step
    return not np.array_equal(network(moved, x, labels)[2], network(net, x, labels)[2])


def prepared(rng, h, wrong="", seek=False):
    net, x, labels = (
        start(rng, size=6, filters=3, classes=4),
        rng.uniform(size=(2, 1, 6, 6)),
        rng.integers(0, 4, size=2),
    )
    gradients = network(net, x, labels)[1]
    if wrong:
        gradients[wrong] = gradients[wrong] * 1.03
    picks = {name: [int(i) for i in rng.choice(v.size, size=3, replace=False)] for name, v in net.items()}
    if seek:  # weights that flip a switch on one side only
        for h in (h, 2 * h, 4 * h, 8 * h):
            found = [i for i in range(27) if flips(net, x, labels, i, h) and not flips(net, x, labels, i, -h)]
            if found:
                break
        picks["conv.weight"] = found[:3] + picks["conv.weight"][:2]
    return dict(net=net, gradients=gradients, x=x, labels=labels, picks=picks, h=h)


def networks(rng):
    yield prepared(rng, 1e-3, "conv.bias")
    yield prepared(rng, 0.1, "linear.weight", seek=True)  # so large a step flips switches
    yield prepared(rng, 0.05, "linear.bias", seek=True)


def drive(check_network, net, gradients, x, labels, picks, h):
    memory = {}

    def run(p):
        key = b"".join(np.asarray(p[name]).tobytes() for name in sorted(p))
        if key not in memory:
            memory[key] = network(p, x, labels)
        return memory[key]

    errors, kinks = check_network(lambda p: run(p)[0], lambda p: run(p)[2], net, gradients, picks, h)
    return {"errors": errors, "kinks": kinks, "parameters afterwards": net}


def real(space, rng):
    net, x, labels = start(rng), rng.uniform(size=(4, 1, 10, 10)), rng.integers(0, 5, size=4)
    gradients = network(net, x, labels)[1]
    picks = {name: [int(i) for i in rng.choice(v.size, size=min(4, v.size), replace=False)] for name, v in net.items()}
    errors, _ = space.function("check_network")(
        lambda p: network(p, x, labels)[0], lambda p: network(p, x, labels)[2], net, gradients, picks, 1e-5
    )
    worst = max(errors.values())
    return (
        None
        if worst < 1e-5
        else f"the backward function of the network is right, and you report a relative error of {worst:.1e}"
    )


Same("check_network", networks, drive=drive, rtol=1e-6)
Property("a right network passes", real, function="check_network")
edit(
    "kinks compared all the same",
    "                kinks[name] += 1\n                continue\n",
    "                kinks[name] += 1\n",
    fix="Where a switch flipped the difference means nothing: count it and go on.",
)
edit(
    "kinks looked for on one side only",
    "flipped = flipped or not np.array_equal(switches(moved), middle)",
    "flipped = not np.array_equal(switches(moved), middle)",
    fix="Both probes must be on the smooth piece of the middle.",
)
edit(
    "kinks not counted",
    "kinks[name] += 1",
    "pass",
    fix="Count what was skipped: a check that skips everything has shown nothing.",
)
edit(
    "parameters left changed",
    "{k: v.copy() for k, v in parameters.items()}",
    "parameters",
    fix="Move a copy, or put the weight back.",
)
edit("divided by h", "/ (2 * h)", "/ h", fix="The probes are 2h apart.")
edit(
    "only the first pick of each tensor",
    "for i in indices:",
    "for i in indices[:1]:",
    fix="Check all picks of the tensor.",
)
edit(
    "last error for the largest",
    "max(errors[name], abs(a - b) / max(abs(a), abs(b), 1e-4))",
    "abs(a - b) / max(abs(a), abs(b), 1e-4)",
    fix="Keep the largest error of the tensor.",
)
edit("absolute error", " / max(abs(a), abs(b), 1e-4))", ")", fix="Divide by the larger of the two numbers.")
hint("For one weight: copy the parameters, add h, ask loss and switches; the same with -h.")
hint("a = (loss(+h) - loss(-h)) / (2h); compare with gradients[name].reshape(-1)[i], unless the switches changed.")
hint(
    "moved = {k: v.copy() ...}; moved[name].reshape(-1)[i] += step; np.array_equal(switches(moved), switches(parameters))"
)
# </checks>
