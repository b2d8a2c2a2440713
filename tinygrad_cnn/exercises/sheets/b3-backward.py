# /// exercise
# id = "b3-backward"
# title = "Topological order and the backward walk"
# topics = ["reverse mode"]
# requires = ["b2-fan-out"]
# points = 4
# ///
# %% [markdown]
# A computation is a graph: `parents[node]` lists what a node was computed from (a leaf has an empty list).
# For `y = a * a + a`:
#
# `parents = {"a": [], "sq": ["a", "a"], "y": ["sq", "a"]}`
#
# 1. `topological_order(parents, output)` returns a list of all nodes that `output` depends on, itself included: every
#    node *after* all of its parents. Each node stands there once.
# 2. `backward(parents, slopes, output)` returns a dict node -> d output / d node. `slopes[node][i]` is the derivative
#    of the node with respect to its parent number i. Start with 1 at the output and walk the order backwards, so that a
#    node is visited only when **all** its consumers have sent their share.
#
# Graphs can be deep: a chain of 5000 nodes must not end in a RecursionError, so use a loop and a list as a stack.

# %%
def topological_order(parents, output):
    # <solution>
    order, done, stack = [], set(), [(output, False)]
    while stack:
        node, parents_done = stack.pop()
        if parents_done:
            order.append(node)
        elif node not in done:
            done.add(node)
            stack.append((node, True))
            stack.extend((p, False) for p in parents[node] if p not in done)
    return order
    # </solution>


def backward(parents, slopes, output):
    # <solution>
    grads = {output: 1.0}
    for node in reversed(topological_order(parents, output)):
        for parent, slope in zip(parents[node], slopes[node]):
            grads[parent] = grads.get(parent, 0.0) + grads[node] * slope
    return grads
    # </solution>


# <checks>
from tinygrad_cnn.exercises import Property, Same, bug, edit, hint

diamond = {"x": [], "l": ["x"], "r": ["x"], "m": ["l"], "y": ["r", "m"]}
square = {"a": [], "sq": ["a", "a"], "y": ["sq", "a"]}
late = {"x": [], "y1": ["x"], "y2": ["y1"], "y3": ["y2"], "z": ["x", "y3", "y1"]}


def random_graph(rng, count):
    parents = {"n0": [], "n1": []}
    for k in range(2, count):
        parents[f"n{k}"] = [f"n{int(i)}" for i in rng.integers(0, k, size=int(rng.integers(1, 4)))]
    return parents


def graphs(rng):
    yield from (diamond, square, late, {"x": []})
    for count in (6, 12, 25):
        yield random_graph(rng, count)


def with_slopes(rng):
    for parents in graphs(rng):
        slopes = {n: [float(v) for v in rng.integers(2, 9, size=len(p))] for n, p in parents.items()}
        yield dict(parents=parents, slopes=slopes, output=list(parents)[-1])


def needed(parents, output):
    found, stack = set(), [output]
    while stack:
        node = stack.pop()
        if node not in found:
            found.add(node)
            stack += parents[node]
    return found


def ordered(space, rng):
    for parents in graphs(rng):
        output = list(parents)[-1]
        order = space.function("topological_order")(parents, output)
        if not isinstance(order, (list, tuple)):
            return f"the order has to be a list, got {type(order).__name__}"
        if len(set(order)) < len(order):
            return f"a node stands in the order twice: {list(order)[:8]}"
        if set(order) != needed(parents, output):
            return f"the order has to hold the nodes that {output!r} depends on, and itself; got {list(order)[:8]}"
        place = {node: i for i, node in enumerate(order)}
        for node in order:
            for parent in parents[node]:
                if place[parent] > place[node]:
                    return f"{node!r} stands before its parent {parent!r} in the graph {parents if len(parents) < 7 else ''}"
    return None


def deep(space, rng):
    parents = {"n0": []} | {f"n{k}": [f"n{k - 1}"] for k in range(1, 5000)}
    order = space.function("topological_order")(parents, "n4999")
    return None if len(order) == 5000 else f"a chain of 5000 nodes gives an order of {len(order)}"


Property("topological_order(): parents first, each node once", ordered, function="topological_order")
Same("backward", with_slopes, title="backward(): gradients", contract=False)
Property("a chain of 5000 nodes", deep, function="topological_order", cause="recursion")


def walk_in(order_of):
    def backward(parents, slopes, output):
        grads = {output: 1.0}
        for node in order_of(parents, output):
            for parent, slope in zip(parents[node], slopes[node]):
                grads[parent] = grads.get(parent, 0.0) + grads.get(node, 0.0) * slope
        return grads

    return backward


def breadth_first(parents, output):
    seen, queue = [output], [output]
    while queue:
        for parent in parents[queue.pop(0)]:
            if parent not in seen:
                seen.append(parent)
                queue.append(parent)
    return seen


def every_path(parents, slopes, output):
    """Visit a node again with each contribution, passing on all it has collected so far."""
    grads, queue = {output: 1.0}, [output]
    while queue:
        node = queue.pop(0)
        for parent, slope in zip(parents[node], slopes[node]):
            grads[parent] = grads.get(parent, 0.0) + grads[node] * slope
            queue.append(parent)
            if len(queue) > 5000:
                return grads
    return grads


@bug(
    "visited before all consumers are done",
    on="backward",
    fix="Walk the topological order backwards: then every consumer comes first.",
    hint="In the diamond x -> l -> m -> y and x -> r -> y: who must have sent its share before x is finished?",
)
def _(ref, parents, slopes, output):
    return walk_in(breadth_first)(parents, slopes, output)


@bug(
    "visited once per path",
    on="backward",
    fix="Visit each node once, after all its consumers; passing on at each visit counts shares several times.",
)
def _(ref, parents, slopes, output):
    return every_path(parents, slopes, output)


edit(
    "gradients overwritten",
    "grads.get(parent, 0.0) + grads[node] * slope",
    "grads[node] * slope",
    fix="A node used several times collects several shares: add them.",
)
edit(
    "a parent used twice counted once",
    "for parent, slope in zip(parents[node], slopes[node]):",
    "for parent, slope in dict(zip(parents[node], slopes[node])).items():",
    fix="In a * a the parent a appears twice, with two slopes: both count.",
)
edit(
    "upstream gradient not passed on",
    "grads[node] * slope",
    "slope",
    fix="The chain rule: multiply the slope by the gradient of the node.",
)
edit("start at 0", "grads = {output: 1.0}", "grads = {output: 0.0}", fix="d output / d output = 1.")


@bug(
    "recursion",
    on="topological_order",
    fix="Python stops at about 1000 nested calls: use a loop and a list as a stack.",
)
def _(ref, parents, output):
    if len(parents) > 900:
        raise RecursionError("maximum recursion depth exceeded")
    return ref(parents, output)


hint("Depth first: a node may be appended to the order only when all of its parents are in it.")
hint("With a stack: push (node, False); when popped, push (node, True) and then its parents; append at (node, True).")
hint(
    "grads = {output: 1.0}; for node in reversed(order): for parent, slope in zip(...): grads[parent] = grads.get(parent, 0) + grads[node] * slope"
)
# </checks>
# <hidden points=1>
Same(
    "backward",
    lambda rng: (
        dict(
            parents=p, slopes={n: [float(v) for v in rng.normal(size=len(q))] for n, q in p.items()}, output=list(p)[-1]
        )
        for p in [random_graph(rng, 18) for _ in range(4)]
    ),
    title="more graphs",
    contract=False,
)
# </hidden>
