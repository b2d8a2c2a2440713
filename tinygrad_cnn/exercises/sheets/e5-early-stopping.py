# /// exercise
# id = "e5-early-stopping"
# title = "Early stopping"
# topics = ["early stopping"]
# requires = ["e1-sgd"]
# points = 2
# ///
# %% [markdown]
# Training goes on while the loss on the *validation* set keeps falling. As it wobbles, one waits: training stops when
# the **best** loss so far has not been beaten in `patience` epochs in a row. Then the weights of the best epoch are put
# back.
#
# Write `early_stopping(losses, patience)`. `losses` is the validation loss after epoch 0, 1, 2, ... as it would come in.
# It returns `(last, best)`: the epoch after which training stops (the last one if it never stops early), and the epoch
# whose weights are restored. Beaten means strictly smaller; of equal losses the first is the best.
#
# With `losses = [5, 4, 4.5, 4.2, 4.1, 3]` and patience 3: best is epoch 1; epochs 2, 3, 4 do not beat it, so training
# stops after epoch 4 and never sees the 3.

# %%
def early_stopping(losses, patience):
    # <solution>
    best = 0
    for epoch, loss in enumerate(losses):
        if loss < losses[best]:
            best = epoch
        if epoch - best >= patience:
            return epoch, best
    return len(losses) - 1, best
    # </solution>


# <checks>
from tinygrad_cnn.exercises import Same, edit, hint


def cases(rng):
    yield dict(losses=[5.0, 4.0, 4.5, 4.2, 4.1, 3.0], patience=3)
    yield dict(losses=[3.0, 2.0, 1.0, 0.5], patience=2)
    yield dict(losses=[1.0, 1.0, 1.0, 0.5], patience=2)
    yield dict(losses=[5.0, 6.0, 5.5, 5.2, 5.1, 4.0], patience=1)
    yield dict(losses=[2.0, 3.0, 2.5, 1.9, 2.1, 2.0, 2.2, 1.0], patience=4)
    for patience in (1, 2, 3, 5):
        steps = rng.normal(size=25)
        yield dict(losses=[round(float(v), 3) for v in 5 + steps.cumsum() * 0.3], patience=patience)


Same("early_stopping", cases)
edit(
    "compared with the last loss, not with the best",
    "        if loss < losses[best]:\n            best = epoch\n        if epoch - best >= patience:\n            return epoch, best\n    return len(losses) - 1, best",
    "        if epoch and loss < losses[epoch - 1]:\n            best = epoch\n        if epoch - best >= patience:\n            return epoch, best\n    return len(losses) - 1, best",
    fix="A loss counts as better only if it beats the best one so far.",
)
edit(
    "stops one epoch late",
    "epoch - best >= patience",
    "epoch - best > patience",
    fix="After `patience` epochs without a new best, training stops.",
)
edit(
    "stops one epoch early",
    "epoch - best >= patience",
    "epoch - best >= patience - 1 and epoch > best",
    fix="`patience` epochs without a new best are allowed before training stops.",
)
edit(
    "best weights not restored",
    "return epoch, best",
    "return epoch, epoch",
    fix="The weights of the best epoch are restored, not those of the last.",
)
edit("equal loss taken for better", "loss < losses[best]", "loss <= losses[best]", fix="Beaten means strictly smaller.")
edit("largest loss taken for best", "loss < losses[best]", "loss > losses[best]", fix="A smaller loss is better.")
edit(
    "patience counted over all bad epochs",
    "    best = 0\n",
    "    best, bad = 0, 0\n",
    "        if epoch - best >= patience:\n",
    "        if epoch and best != epoch:\n            bad += 1\n        if bad >= patience:\n",
    fix="Start counting again after every new best.",
)
hint("Keep the number of the best epoch. How many epochs have passed since then?")
hint("Stop as soon as epoch - best >= patience.")
hint(
    "for epoch, loss in enumerate(losses): if loss < losses[best]: best = epoch; if epoch - best >= patience: return epoch, best"
)
# </checks>
# <hidden points=1>
Same(
    "early_stopping",
    lambda rng: [dict(losses=[round(float(v), 3) for v in rng.uniform(size=12)], patience=p) for p in (1, 2, 4)],
    title="early_stopping(): random losses",
)
# </hidden>
