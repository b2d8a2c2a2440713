"""A layered layout for directed graphs with nested clusters, in plain Python.

Every cluster is laid out on its own and then placed in its parent as one large box, so frames never overlap. Within
a cluster: longest-path ranks, barycentre sweeps against crossings (Sugiyama, Tagawa & Toda, IEEE Trans. SMC 11(2),
1981), and x coordinates that minimise the weighted squared distance to the neighbours' by pool-adjacent-violators
(Barlow et al., Statistical Inference under Order Restrictions, 1972). Edges that cross a cluster's border pass
through ports on it. Everything is iterative and O((boxes + edges) × sweeps) in practice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

__all__ = ["Frame", "Layout", "layout"]

GAP_X = 16.0
GAP_Y = 30.0
GAP_PORT = 8.0  # between a cluster's contents and the ports on its border
PAD = 12.0
PAD_TOP = 26.0
_SWEEPS = 8
_X_SWEEPS = 10

Point = tuple[float, float]


@dataclass(slots=True)
class Frame:
    """A rectangle: left, top, width, height."""

    x: float
    y: float
    w: float
    h: float


@dataclass(slots=True)
class Layout:
    """Where everything lies; `paths` holds the corners of each edge, in the order of the edges given."""

    boxes: list[Frame]
    clusters: dict[str, Frame]
    paths: list[list[Point]]
    width: float
    height: float


@dataclass(slots=True)
class _Level:
    """One cluster's contents while it is laid out. Vertices are boxes, inner clusters and ports."""

    w: list[float] = field(default_factory=list)
    h: list[float] = field(default_factory=list)
    weight: list[float] = field(default_factory=list)
    of_box: dict[int, int] = field(default_factory=dict)
    of_cluster: dict[str, int] = field(default_factory=dict)
    anchor: dict[int, float] = field(default_factory=dict)  # box vertex -> where its edges touch
    entry: dict[int, int] = field(default_factory=dict)  # tail box -> port vertex
    exit: dict[int, int] = field(default_factory=dict)
    edges: dict[tuple[int, int, int], int] = field(default_factory=dict)  # (vertex, vertex, tail box) -> number
    x: list[float] = field(default_factory=list)  # centres, filled in by _arrange
    top: list[float] = field(default_factory=list)
    paths: list[list[Point]] = field(default_factory=list)
    width: float = 0.0
    height: float = 0.0

    def vertex(self, w: float, h: float, weight: float) -> int:
        self.w.append(w)
        self.h.append(h)
        self.weight.append(weight)
        return len(self.w) - 1

    def edge(self, a: int, b: int, tail: int) -> None:
        self.edges.setdefault((a, b, tail), len(self.edges))


def layout(
    sizes: Sequence[tuple[float, float]],
    inside: Sequence[str | None],
    parents: dict[str, str | None],
    edges: Sequence[tuple[int, int]],
    *,
    light: Sequence[bool] | None = None,
    anchors: Sequence[float] | None = None,
    labels: dict[str, float] | None = None,
) -> Layout:
    """Place boxes and route edges.

    Args:
        sizes: width and height of each box.
        inside: for each box the cluster it stands in, or None.
        parents: for each cluster the cluster around it, or None; parents before children.
        edges: pairs of box numbers.
        light: boxes that make room for others: they stand beside a straight line, not in it.
        anchors: how far right of a box's centre its edges start and end.
        labels: width of each cluster's heading.
    """
    level_of: dict[str | None, int] = {None: 0}
    for cluster, parent in parents.items():
        level_of[cluster] = level_of[parent] + 1
    levels: dict[str | None, _Level] = {None: _Level(), **{c: _Level() for c in parents}}
    light = light or [False] * len(sizes)
    anchors = anchors or [0.0] * len(sizes)
    for i, (w, h) in enumerate(sizes):
        level = levels[inside[i]]
        level.of_box[i] = level.vertex(w, h, 0.02 if light[i] else 4.0)
        level.anchor[level.of_box[i]] = anchors[i]
    # Inner clusters become vertices of their parents now and get their size when they are laid out.
    for cluster, parent in parents.items():
        levels[parent].of_cluster[cluster] = levels[parent].vertex(0.0, 0.0, 4.0)
    routes = [_enter_edge(levels, level_of, parents, inside, a, b) for a, b in edges]
    for cluster in sorted(parents, key=lambda c: -level_of[c]):
        level = levels[cluster]
        _arrange(level, levels)
        parent_level = levels[parents[cluster]]
        vertex = parent_level.of_cluster[cluster]
        slack = (labels or {}).get(cluster, 0.0) - level.width
        if slack > 0:  # the heading is wider than the contents: centre them
            level.width += slack
            level.x = [x + slack / 2 for x in level.x]
            level.paths = [[(x + slack / 2, y) for x, y in path] for path in level.paths]
        parent_level.w[vertex] = level.width + 2 * PAD
        parent_level.h[vertex] = level.height + PAD_TOP + PAD
    _arrange(levels[None], levels)
    return _assemble(sizes, inside, parents, levels, routes, edges, light, anchors)


def _enter_edge(
    levels: dict[str | None, _Level],
    level_of: dict[str | None, int],
    parents: dict[str, str | None],
    inside: Sequence[str | None],
    a: int,
    b: int,
) -> list[tuple[str | None, tuple[int, int, int]]]:
    """Cut an edge into its parts per cluster: out of the tail's clusters, across, into the head's."""
    from_cluster, to_cluster = inside[a], inside[b]
    u, v = levels[from_cluster].of_box[a], levels[to_cluster].of_box[b]
    out: list[tuple[str | None, tuple[int, int, int]]] = []
    into: list[tuple[str | None, tuple[int, int, int]]] = []
    while from_cluster != to_cluster:
        if level_of[from_cluster] >= level_of[to_cluster]:
            assert from_cluster is not None
            level = levels[from_cluster]
            port = level.exit.get(a)
            if port is None:
                port = level.exit[a] = level.vertex(2.0, 0.0, 1.0)
            level.edge(u, port, a)
            out.append((from_cluster, (u, port, a)))
            u = levels[parents[from_cluster]].of_cluster[from_cluster]
            from_cluster = parents[from_cluster]
        else:
            assert to_cluster is not None
            level = levels[to_cluster]
            port = level.entry.get(a)
            if port is None:
                port = level.entry[a] = level.vertex(2.0, 0.0, 1.0)
            level.edge(port, v, a)
            into.append((to_cluster, (port, v, a)))
            v = levels[parents[to_cluster]].of_cluster[to_cluster]
            to_cluster = parents[to_cluster]
    levels[from_cluster].edge(u, v, a)
    return [*out, (from_cluster, (u, v, a)), *reversed(into)]


def _arrange(level: _Level, levels: dict[str | None, _Level]) -> None:
    """Place the vertices of one cluster and route its edges, with the top left corner at (0, 0)."""
    n = len(level.w)
    if n == 0:
        return
    inner = {vertex: levels[cluster] for cluster, vertex in level.of_cluster.items()}
    edges = list(level.edges)
    rank = _ranks(n, edges, set(level.entry.values()), set(level.exit.values()))
    # Long edges become chains of dummies, one per rank they pass.
    W, H, weight = list(level.w), list(level.h), list(level.weight)
    up: list[list[tuple[int, float, float]]] = [[] for _ in range(n)]  # (neighbour, its port's offset, own offset)
    down: list[list[tuple[int, float, float]]] = [[] for _ in range(n)]
    chains: list[list[int]] = []
    for a, b, tail in edges:
        chain = [a]
        start, end = _touch(level, inner, a, tail, True), _touch(level, inner, b, tail, False)
        low, high, flipped = (a, b, False) if rank[a] <= rank[b] else (b, a, True)
        offsets = (end, start) if flipped else (start, end)
        if a in inner and b in inner:  # line up the frames, not their ports, or a chain of frames becomes a staircase
            offsets = (0.0, 0.0)
        previous, offset = low, offsets[0]
        middle = []
        for r in range(rank[low] + 1, rank[high]):
            dummy = len(W)
            W.append(4.0)
            H.append(0.0)
            weight.append(2.0)
            rank.append(r)
            up.append([(previous, offset, 0.0)])
            down.append([])
            down[previous].append((dummy, 0.0, offset))
            middle.append(dummy)
            previous, offset = dummy, 0.0
        up[high].append((previous, offset, offsets[1]))
        down[previous].append((high, offsets[1], offset))
        chain += reversed(middle) if flipped else middle
        chain.append(b)
        chains.append(chain)
    layers = _orders(rank, up, down)
    x = _columns(layers, W, weight, up, down)
    left = min(x[u] - W[u] / 2 for u in range(len(W)))
    level.x = [c - left for c in x]
    level.width = max(x[u] + W[u] / 2 for u in range(len(W))) - left
    tops: list[float] = []
    heights: list[float] = []
    y = 0.0
    for layer in layers:
        tall = max((H[u] for u in layer), default=0.0)
        if tops:
            y += GAP_Y if tall and heights[-1] else GAP_PORT
        tops.append(y)
        heights.append(tall)
        y += tall
    level.height = y
    level.top = [tops[rank[u]] + (heights[rank[u]] - H[u]) / 2 for u in range(n)]
    for chain, (a, b, tail) in zip(chains, edges, strict=True):
        points = [(level.x[a] + _touch(level, inner, a, tail, True), level.top[a] + level.h[a])]
        for dummy in chain[1:-1]:
            r = rank[dummy]
            points += [(level.x[dummy], tops[r]), (level.x[dummy], tops[r] + heights[r])]
        points.append((level.x[b] + _touch(level, inner, b, tail, False), level.top[b]))
        level.paths.append(points)


def _touch(level: _Level, inner: dict[int, _Level], vertex: int, tail: int, leaving: bool) -> float:
    """Return how far right of its centre an edge touches a vertex: a box at its anchor, a cluster at the port."""
    if vertex not in inner:
        return level.anchor.get(vertex, 0.0)
    cluster = inner[vertex]
    port = (cluster.exit if leaving else cluster.entry)[tail]
    return cluster.x[port] - cluster.width / 2


def _ranks(n: int, edges: list[tuple[int, int, int]], entries: set[int], exits: set[int]) -> list[int]:
    """Return the layer of each vertex: below everything that leads to it, sources just above their reader."""
    after: list[list[int]] = [[] for _ in range(n)]
    before: list[list[int]] = [[] for _ in range(n)]
    for a, b, _ in edges:
        after[a].append(b)
        before[b].append(a)
    waiting = [len(b) for b in before]
    ready = [u for u in range(n) if not waiting[u]]
    rank = [0] * n
    order: list[int] = []
    seen = bytearray(n)
    remaining = iter(range(n))
    while len(order) < n:
        if not ready:  # a circle, which only a graph made by hand has: cut it at its first vertex
            u = next(u for u in remaining if not seen[u])
            ready = [u]
        following = []
        for u in ready:
            if seen[u]:
                continue
            seen[u] = 1
            order.append(u)
            for v in after[u]:
                if not seen[v]:
                    rank[v] = max(rank[v], rank[u] + 1)
                    waiting[v] -= 1
                    if not waiting[v]:
                        following.append(v)
        ready = following
    for u in reversed(order):
        if not before[u] and after[u] and u not in entries:
            rank[u] = max(0, min(rank[v] for v in after[u]) - 1)
    body = [u for u in range(n) if u not in entries and u not in exits]
    lowest = min((rank[u] for u in body), default=0) - (1 if entries else 0)
    for u in body:
        rank[u] -= lowest
    last = max((rank[u] for u in body), default=0) + 1
    for u in entries:  # ports on the upper border stand above everything, those on the lower one below
        rank[u] = 0
    for u in exits:
        rank[u] = last
    return rank


def _orders(
    rank: list[int], up: list[list[tuple[int, float, float]]], down: list[list[tuple[int, float, float]]]
) -> list[list[int]]:
    """Return the vertices of each layer from left to right, with few crossings."""
    n = len(rank)
    layers: list[list[int]] = [[] for _ in range(max(rank) + 1)]
    seen = bytearray(n)
    # A first order by depth-first search from the sinks keeps branches together.
    for sink in sorted(range(n), key=lambda u: (-rank[u], u)):
        pending = [sink]
        while pending:
            u = pending.pop()
            if not seen[u]:
                seen[u] = 1
                layers[rank[u]].append(u)
                pending.extend(v for v, _, _ in reversed(up[u]))
    position = [0] * n
    for layer in layers:
        for i, u in enumerate(layer):
            position[u] = i
    best, fewest = [list(layer) for layer in layers], _crossings(layers, position, down)
    for sweep in range(_SWEEPS):
        if not fewest:
            break
        downwards = sweep % 2 == 0
        neighbours = up if downwards else down
        for layer in layers if downwards else reversed(layers):
            key = {
                u: sum(position[v] for v, _, _ in neighbours[u]) / len(neighbours[u]) if neighbours[u] else position[u]
                for u in layer
            }
            layer.sort(key=key.__getitem__)
            for i, u in enumerate(layer):
                position[u] = i
        crossings = _crossings(layers, position, down)
        if crossings < fewest:
            best, fewest = [list(layer) for layer in layers], crossings
    return best


def _crossings(layers: list[list[int]], position: list[int], down: list[list[tuple[int, float, float]]]) -> int:
    """Count the crossings between neighbouring layers by counting inversions in a Fenwick tree."""
    total = 0
    for layer in layers[:-1]:
        if len(layer) == 1:
            continue
        ends = [p for u in layer for p in sorted(position[v] for v, _, _ in down[u])]
        if len(ends) < 2:
            continue
        size = max(ends) + 1
        tree = [0] * (size + 1)
        for count, end in enumerate(ends):
            i, smaller = end + 1, 0
            while i:
                smaller += tree[i]
                i -= i & -i
            total += count - smaller
            i = end + 1
            while i <= size:
                tree[i] += 1
                i += i & -i
    return total


def _columns(
    layers: list[list[int]],
    W: list[float],
    weight: list[float],
    up: list[list[tuple[int, float, float]]],
    down: list[list[tuple[int, float, float]]],
) -> list[float]:
    """Return the x coordinate of each vertex's centre."""
    x = [0.0] * len(W)
    for layer in layers:
        at = 0.0
        for u in layer:
            x[u] = at + W[u] / 2
            at += W[u] + GAP_X
        for u in layer:
            x[u] -= (at - GAP_X) / 2
    for sweep in range(_X_SWEEPS):
        downwards = sweep % 2 == 0
        neighbours = up if downwards else down
        for layer in layers if downwards else reversed(layers):
            wanted = []
            for u in layer:
                # Light neighbours (parameters) stand beside the line; they do not bend it.
                pull = total = 0.0
                for v, theirs, own in neighbours[u]:
                    total += weight[v]
                    pull += weight[v] * (x[v] + theirs - own)
                wanted.append(pull / total if total else x[u])
            _separate(layer, wanted, W, weight, x)
    return x


def _separate(layer: list[int], wanted: list[float], W: list[float], weight: list[float], x: list[float]) -> None:
    """Move the vertices of a layer as near to `wanted` as their order and widths allow (pool adjacent violators)."""
    shift, previous = 0.0, None
    blocks: list[list[float]] = []  # weighted sum, weight, count
    shifts = []
    for u, target in zip(layer, wanted, strict=True):
        if previous is not None:
            shift += (W[previous] + W[u]) / 2 + GAP_X
        previous = u
        shifts.append(shift)
        blocks.append([(target - shift) * weight[u], weight[u], 1])
        while len(blocks) > 1 and blocks[-2][0] * blocks[-1][1] > blocks[-1][0] * blocks[-2][1]:
            last = blocks.pop()
            for k in range(3):
                blocks[-1][k] += last[k]
    i = 0
    for total, mass, count in blocks:
        for _ in range(int(count)):
            x[layer[i]] = total / mass + shifts[i]
            i += 1


def _assemble(
    sizes: Sequence[tuple[float, float]],
    inside: Sequence[str | None],
    parents: dict[str, str | None],
    levels: dict[str | None, _Level],
    routes: list[list[tuple[str | None, tuple[int, int, int]]]],
    edges: Sequence[tuple[int, int]],
    light: Sequence[bool],
    anchors: Sequence[float],
) -> Layout:
    """Bring the levels into common coordinates, outermost first."""
    origin: dict[str | None, Point] = {None: (0.0, 0.0)}
    clusters: dict[str, Frame] = {}
    for cluster, parent in parents.items():
        outer = levels[parent]
        vertex = outer.of_cluster[cluster]
        ox, oy = origin[parent]
        frame = Frame(
            ox + outer.x[vertex] - outer.w[vertex] / 2, oy + outer.top[vertex], outer.w[vertex], outer.h[vertex]
        )
        clusters[cluster] = frame
        origin[cluster] = (frame.x + PAD, frame.y + PAD_TOP)
    boxes = []
    for i, (w, h) in enumerate(sizes):
        level = levels[inside[i]]
        ox, oy = origin[inside[i]]
        vertex = level.of_box[i]
        boxes.append(Frame(ox + level.x[vertex] - w / 2, oy + level.top[vertex], w, h))
    paths = []
    for route in routes:
        points: list[Point] = []
        for where, key in route:
            level = levels[where]
            ox, oy = origin[where]
            points += [(ox + px, oy + py) for px, py in level.paths[level.edges[key]]]
        paths.append(points)
    _spread_heads(boxes, paths, edges, light, anchors)
    root = levels[None]
    return Layout(boxes, clusters, paths, root.width, root.height)


def _spread_heads(
    boxes: list[Frame],
    paths: list[list[Point]],
    edges: Sequence[tuple[int, int]],
    light: Sequence[bool],
    anchors: Sequence[float],
) -> None:
    """Let several arrows enter a box side by side instead of in one point; a single heavy one keeps the middle."""
    arriving: dict[int, list[int]] = {}
    for e, (_, b) in enumerate(edges):
        arriving.setdefault(b, []).append(e)
    for b, found in arriving.items():
        if len(found) < 2:
            continue
        frame = boxes[b]
        middle = frame.x + frame.w / 2 + anchors[b]
        found.sort(key=lambda e: paths[e][-2][0])
        heavy = [k for k, e in enumerate(found) if not light[edges[e][0]]]
        centre = heavy[0] if len(heavy) == 1 else (len(found) - 1) / 2
        reach = frame.w / 2 - abs(anchors[b]) - 6.0
        step = min(22.0, reach / max(centre, len(found) - 1 - centre, 1))
        for k, e in enumerate(found):
            paths[e][-1] = (middle + (k - centre) * step, paths[e][-1][1])
