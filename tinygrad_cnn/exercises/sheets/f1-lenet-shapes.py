# /// exercise
# id = "f1-lenet-shapes"
# title = "LeNet-5: shapes and parameters"
# topics = ["LeNet-5"]
# requires = ["d2-output-size"]
# points = 3
# ///
# %% [markdown]
# LeNet-5 (LeCun, Bottou, Bengio, Haffner 1998) reads a 32 x 32 image:
#
# | layer | what it does |
# |---|---|
# | C1 | 6 filters 5 x 5 |
# | S2 | subsampling 2 x 2, stride 2 |
# | C3 | 16 filters 5 x 5 |
# | S4 | subsampling 2 x 2, stride 2 |
# | C5 | 120 filters 5 x 5 |
# | F6 | fully connected, 84 units |
# | output | 10 units |
#
# 1. Write `conv_parameters(filters, channels, kernel)`: weights and biases of a convolution with square kernels where
#    every filter sees every channel.
# 2. Write `dense_parameters(inputs, outputs)`.
# 3. Fill in the side of each square feature map, and the numbers of parameters of the *modern* form, in which C3 sees
#    all six maps, subsampling has no parameters and the output is an ordinary layer.
#
# The paper has 60 000: there each S layer has a coefficient and a bias per map (S2: 12, S4: 32), the filters of C3 see
# only some of the maps (six see 3, nine see 4, one sees 6), and the 840 numbers of the output layer are fixed.

# %%
def conv_parameters(filters, channels, kernel):
    # <solution>
    return filters * (channels * kernel * kernel + 1)
    # </solution>


def dense_parameters(inputs, outputs):
    # <solution>
    return outputs * (inputs + 1)
    # </solution>


# %%
sides = {
    # <solution>
    "C1": 28,
    "S2": 14,
    "C3": 10,
    "S4": 5,
    "C5": 1,
    # <starter>
    # "C1": None,
    # "S2": None,
    # "C3": None,
    # "S4": None,
    # "C5": None,
    # </solution>
}

parameters = {
    # <solution>
    "C1": 156,
    "C3": 2416,
    "C5": 48120,
    "F6": 10164,
    "output": 850,
    "all, modern": 61706,
    "C3 of the paper": 1516,
    "all, paper": 60000,
    # <starter>
    # "C1": None,
    # "C3": None,
    # "C5": None,
    # "F6": None,
    # "output": None,
    # "all, modern": None,
    # "C3 of the paper": None,
    # "all, paper": None,
    # </solution>
}


# <checks>
from tinygrad_cnn.exercises import Answer, Same, edit, hint

Same(
    "conv_parameters",
    lambda rng: [
        dict(filters=int(rng.integers(2, 20)), channels=int(rng.integers(1, 9)), kernel=int(rng.integers(1, 8)))
        for _ in range(5)
    ],
)
Same(
    "dense_parameters",
    lambda rng: [dict(inputs=int(rng.integers(2, 200)), outputs=int(rng.integers(1, 99))) for _ in range(5)],
)
Answer(
    "sides",
    about=dict.fromkeys(("C1", "C3", "C5"), "Without padding a kernel of 5 shrinks the image by 4.")
    | dict.fromkeys(("S2", "S4"), "2 x 2 with stride 2 halves the side."),
)
Answer(
    "parameters",
    about={
        "C3 of the paper": "Six filters with 3 * 25 weights, nine with 4 * 25, one with 6 * 25, and a bias each.",
        "all, paper": "C1 + S2 + the C3 of the paper + S4 + C5 + F6.",
        "all, modern": "The sum of the five above it.",
        "output": "84 inputs, 10 outputs.",
    },
)
edit(
    "biases forgotten in a convolution",
    "filters * (channels * kernel * kernel + 1)",
    "filters * channels * kernel * kernel",
    fix="One bias per filter: + 1 in the bracket.",
)
edit(
    "one bias per channel",
    "filters * (channels * kernel * kernel + 1)",
    "filters * channels * (kernel * kernel + 1)",
    fix="A filter has one bias, not one per channel.",
)
edit(
    "channels forgotten",
    "(channels * kernel * kernel + 1)",
    "(kernel * kernel + 1)",
    fix="A filter has a kernel for each channel it sees.",
)
edit("biases forgotten in a dense layer", "outputs * (inputs + 1)", "outputs * inputs", fix="One bias per output.")
edit("size kept by C1", '"C1": 28', '"C1": 32', fix="LeNet-5 does not pad: 32 - 5 + 1 = 28.")
edit("size kept by C3", '"C3": 10', '"C3": 14', fix="14 - 5 + 1 = 10.")
edit(
    "C3 of the paper with full connections",
    '"C3 of the paper": 1516',
    '"C3 of the paper": 2416',
    fix="6 * (3 * 25 + 1) + 9 * (4 * 25 + 1) + (6 * 25 + 1) = 1516.",
)
edit(
    "fixed output counted",
    '"all, paper": 60000',
    '"all, paper": 60840',
    fix="The 840 numbers of the output are not trained.",
)
edit(
    "subsampling forgotten in the paper's count",
    '"all, paper": 60000',
    '"all, paper": 59956',
    fix="S2 and S4 have 12 and 32 trainable numbers.",
)
hint("A filter: one kernel of 5 x 5 per channel it sees, and one bias.")
hint("Sides: 32 - 4 = 28, halved, minus 4, halved, minus 4. C1: 6 * (1 * 25 + 1).")
hint("modern: 156 + 2416 + 48120 + 10164 + 850. Paper: 156 + 12 + 1516 + 32 + 48120 + 10164.")
# </checks>
