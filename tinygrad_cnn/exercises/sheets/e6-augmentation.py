# /// exercise
# id = "e6-augmentation"
# title = "Data augmentation that keeps the label true"
# topics = ["augmentation"]
# requires = ["e5-early-stopping"]
# points = 2
# ///
# %% [markdown]
# A digit that is moved by two pixels is the same digit: moved copies are free training data. Three things to mind: what
# is moved in is background (0), not the other end of the image; the label stays; test images are left alone.
#
# 1. `shift(image, down, right)`: move a (H, W) image by whole pixels, filling with 0. Both numbers may be negative.
# 2. `augment(images, labels, moves, training)`: for a batch (N, H, W), image i is moved by `moves[i] = (down, right)`
#    in training and left alone otherwise. Returns new images and the labels.
# 3. `safe`: does the class of a handwritten digit survive this change? True or False.

# %%
import numpy as np


def shift(image, down, right):
    # <solution>
    h, w = image.shape
    moved = np.zeros_like(image)
    if abs(down) < h and abs(right) < w:
        rows, columns = slice(max(0, down), min(h, h + down)), slice(max(0, right), min(w, w + right))
        moved[rows, columns] = image[max(0, -down) : min(h, h - down), max(0, -right) : min(w, w - right)]
    return moved
    # </solution>


def augment(images, labels, moves, training):
    # <solution>
    if not training:
        return images.copy(), labels.copy()
    return np.stack([shift(image, *move) for image, move in zip(images, moves)]), labels.copy()
    # </solution>


# %%
safe = {
    # <solution>
    "move by 2 pixels": True,
    "rotate by 10 degrees": True,
    "rotate by 180 degrees": False,
    "mirror left and right": False,
    "a little noise": True,
    "less contrast": True,
    # <starter>
    # "move by 2 pixels": None,
    # "rotate by 10 degrees": None,
    # "rotate by 180 degrees": None,
    # "mirror left and right": None,
    # "a little noise": None,
    # "less contrast": None,
    # </solution>
}


# <checks>
from tinygrad_cnn.exercises import Answer, Same, edit, hint


def one(rng):
    for down, right in [(1, 2), (-2, 1), (0, -1), (3, 0), (-1, -2), (0, 0)]:
        yield dict(image=rng.uniform(0.1, 1, size=(5, 6)), down=down, right=right)


def batches(rng):
    for n, training in [(3, True), (4, True), (3, False), (2, False)]:
        moves = [(int(a), int(b)) for a, b in rng.integers(1, 3, size=(n, 2)) * rng.choice([-1, 1], size=(n, 2))]
        yield dict(
            images=rng.uniform(0.1, 1, size=(n, 6, 5)),
            labels=rng.integers(0, 10, size=n),
            moves=moves,
            training=training,
        )


Same("shift", one)
Same("augment", batches)
Answer(
    "safe", about={"rotate by 180 degrees": "Think of 6 and 9.", "mirror left and right": "Is a mirrored 2 a digit?"}
)
edit(
    "wraps around",
    "    moved = np.zeros_like(image)\n",
    "    return np.roll(image, (down, right), axis=(0, 1))\n    moved = np.zeros_like(image)\n",
    fix="What leaves at one end must not come in at the other: fill with 0.",
)
edit(
    "moved the other way",
    "return np.stack([shift(image, *move)",
    "return np.stack([shift(image, -move[0], -move[1])",
    fix="Positive numbers mean down and right.",
)
edit(
    "rows and columns exchanged",
    "shift(image, *move)",
    "shift(image, move[1], move[0])",
    fix="A move is (down, right).",
)
edit(
    "test images moved too",
    "    if not training:\n        return images.copy(), labels.copy()\n",
    "",
    fix="Test images are left alone.",
)
edit(
    "every image moved like the first",
    "shift(image, *move) for",
    "shift(image, *moves[0]) for",
    fix="Each image has its own move.",
)
edit("filled with ones", "np.zeros_like(image)", "np.ones_like(image)", fix="The background is 0.")
edit(
    "six and nine confused",
    '"rotate by 180 degrees": False',
    '"rotate by 180 degrees": True',
    fix="A 6 turned by 180 degrees is a 9.",
)
edit(
    "mirrored digits accepted",
    '"mirror left and right": False',
    '"mirror left and right": True',
    fix="A mirrored 2 or 7 is no digit.",
)
edit(
    "noise refused",
    '"a little noise": True',
    '"a little noise": False',
    fix="A digit with a little noise is still the same digit.",
)
hint("Which rows of the image survive a move down by 1? Where do they end up?")
hint(
    "moved[down:, right:] = image[:h - down, :w - right] for positive moves; use max(0, .) and min(h, .) for both signs."
)
hint("moved[max(0,d):min(h,h+d), max(0,r):min(w,w+r)] = image[max(0,-d):min(h,h-d), max(0,-r):min(w,w-r)]")
# </checks>
# <hidden points=1>
Same(
    "shift",
    lambda rng: [dict(image=rng.uniform(size=(4, 7)), down=d, right=r) for d, r in ((4, 0), (-5, 3), (2, -7))],
    title="shift(): out of the image",
)
# </hidden>
