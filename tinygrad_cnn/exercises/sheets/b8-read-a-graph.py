# /// exercise
# id = "b8-read-a-graph"
# title = "Read a graph: the gradient of each edge by hand"
# topics = ["graph"]
# requires = ["b2-fan-out"]
# points = 2
# ///
# %% [markdown]
# The loss is `L = (x * y + z) * x` at `x = 2, y = -3, z = 4`. The graph, with values:
#
#        x = 2 ----+----------------------+
#                  v                      |
#        y = -3 -> (*) -> a = -6          |
#                          |              v
#        z = 4 ---------> (+) -> b = -2 -> (*) -> L = -4
#
# The same in Graphviz' language (paste it into a viewer if you like):
#
#     digraph { x -> a; y -> a; a -> b; z -> b; b -> L; x -> L }
#
# Walk backwards from `dL/dL = 1` and write down the gradient that flows along each edge, and then the total at each
# leaf. Numbers only, no code.

# %%
edges = {
    # <solution>
    "b -> L": 2,
    "x -> L": -2,
    "a -> b": 2,
    "z -> b": 2,
    "x -> a": -6,
    "y -> a": 4,
    # <starter>
    # "b -> L": None,
    # "x -> L": None,
    # "a -> b": None,
    # "z -> b": None,
    # "x -> a": None,
    # "y -> a": None,
    # </solution>
}

leaves = {
    # <solution>
    "dL/dx": -8,
    "dL/dy": 4,
    "dL/dz": 2,
    # <starter>
    # "dL/dx": None,
    # "dL/dy": None,
    # "dL/dz": None,
    # </solution>
}


# <checks>
from tinygrad_cnn.exercises import Answer, edit, hint

Answer(
    "edges",
    about={
        "b -> L": "L = b * x. How much does L change per unit of b?",
        "x -> L": "L = b * x. This edge is only the direct use of x.",
        "a -> b": "A sum hands its gradient on to both of its inputs.",
        "z -> b": "A sum hands its gradient on to both of its inputs.",
        "x -> a": "a = x * y: the gradient at a, times the other factor.",
        "y -> a": "a = x * y: the gradient at a, times the other factor.",
    },
    title="gradient of each edge",
)
Answer("leaves", about={"dL/dx": "x has two edges: what happens to their gradients?"}, title="gradient of each leaf")
edit(
    "only the path through a counted",
    '"dL/dx": -8',
    '"dL/dx": -6',
    fix="x is used twice; the gradients of both edges add up.",
)
edit(
    "only the direct path counted",
    '"dL/dx": -8',
    '"dL/dx": -2',
    fix="x is used twice; the gradients of both edges add up.",
)
edit("paths multiplied", '"dL/dx": -8', '"dL/dx": 12', fix="Along a path slopes multiply; different paths add up.")
edit(
    "upstream gradient forgotten at x",
    '"x -> a": -6',
    '"x -> a": -3',
    fix="da/dx = y = -3, times the gradient 2 that arrives at a.",
)
edit(
    "upstream gradient forgotten at y",
    '"y -> a": 4',
    '"y -> a": 2',
    fix="da/dy = x = 2, times the gradient 2 that arrives at a.",
)
edit("own value for the other factor", '"b -> L": 2', '"b -> L": -2', fix="dL/db is the other factor, x = 2.")
hint("Start at the right: L = b * x, so dL/db = x and the direct edge of x carries dL/dx = b.")
hint("Along an edge: (gradient that arrives) times (local slope). At a leaf: the sum over its edges.")
hint("The gradient at b is 2. The sum hands 2 to a and to z. At a: times y for x, times x for y.")
# </checks>
