"""A few ops and modules made by hand, on the engine alone, for the tests of the pictures."""

import numpy as np

from tinygrad_cnn.graph import Traced, entered
from tinygrad_cnn.op import Op


def _op(forward, vjps, **kwargs):
    """An op that is not in the table, so that it cannot clash with the package's own."""
    made = Op(
        forward,
        shape=lambda *shapes, **options: shapes[0],
        flops=lambda out, *shapes, **options: int(np.prod(out)),
        family="by hand",
        source="",
        convert={},
        constants=(),
        broadcasts=False,
        **kwargs,
    )
    for name, (rule, text) in vjps.items():
        made.vjp(name, text)(rule)
    return made


def _mul(xp, a, b):
    return a * b


def _add(xp, a, b):
    return a + b


def _relu(xp, x):
    return xp.maximum(x, 0)


def _matmul(xp, a, b):
    return a @ b


for _forward in (_mul, _add, _relu, _matmul):
    _forward.__name__ = _forward.__name__[1:]

mul = _op(_mul, {"a": (lambda g, y, a, b: mul(g, b), "ga = g b"), "b": (lambda g, y, a, b: mul(g, a), "gb = g a")})
add = _op(_add, {"a": (lambda g, y, a, b: g, "ga = g"), "b": (lambda g, y, a, b: g, "gb = g")})
relu = _op(_relu, {"x": (lambda g, y, x: mul(g, (y.array if isinstance(y, Traced) else y) > 0), "gx = g [x > 0]")})
Traced.__add__ = lambda self, other: add(self, other)  # what the engine needs to sum gradients


def leaf(values, name=None):
    """A leaf that needs a gradient."""
    x = Traced.made(np.array(values, dtype=np.float64))
    x.requires_grad = True
    x.name = name
    return x


class Hand:
    """As much of a module as the pictures ask for."""

    def named_parameters(self):
        for name, module in self.named_modules():
            for key, v in vars(module).items():
                if isinstance(v, Traced):
                    yield f"{name}.{key}" if name else key, v

    def named_modules(self, prefix=""):
        yield prefix, self
        for key, v in vars(self).items():
            for i, inner in enumerate(v if isinstance(v, list) else [v]):
                if isinstance(inner, Hand):
                    path = f"{key}.{i}" if isinstance(v, list) else key
                    yield from inner.named_modules(f"{prefix}.{path}" if prefix else path)

    def __call__(self, x):
        with entered(self):
            return self.forward(x)


class Scale(Hand):
    def __init__(self, weight=2.0):
        self.weight = leaf(weight)

    def forward(self, x):
        return relu(mul(x, self.weight))


class Block(Hand):
    """y = first(x) * weight + x: a diamond."""

    def __init__(self):
        self.first = Scale([2.0, 2.0])
        self.weight = leaf([0.5, 0.5])

    def forward(self, x):
        return add(mul(self.first(x), self.weight), x)


class Chain(Hand):
    """One block called several times."""

    def __init__(self, block, times):
        self.block = block
        self.times = times

    def forward(self, x):
        for _ in range(self.times):
            x = self.block(x)
        return x


class Stack(Hand):
    """Many equal blocks in a row."""

    def __init__(self, depth):
        self.layers = [Block() for _ in range(depth)]

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x
