"""What is compared with PyTorch: each case is written once for this package and once for torch.

tests/fixtures/make_torch_fixtures.py computes values, first and second derivatives with torch; the tests compare.
"""

import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Case:
    """One comparison: `ours(F, ops, *inputs)` against `theirs(torch, F, *inputs)`."""

    id: str
    shapes: tuple[Any, ...]
    ours: Any
    theirs: Any
    positive: bool = False
    constants: tuple[Any, ...] = field(default=())

    def inputs(self):
        """Return the float inputs, drawn from a generator that is seeded by the name."""
        rng = np.random.default_rng(zlib.crc32(self.id.encode()))
        draw = (lambda s: rng.uniform(0.4, 2.0, s)) if self.positive else (lambda s: rng.normal(size=s))
        return [np.asarray(draw(s)) for s in self.shapes]


def weights(shape, phase=0.0):
    """Return numbers without pattern, to weigh the elements of a result with."""
    return np.cos(1.7 * np.arange(int(np.prod(shape))) + phase).reshape(shape)


CASES: list[Case] = []


def case(name, *shapes, ours, theirs=None, **options):
    CASES.append(Case(name, shapes, ours, theirs or (lambda torch, F, *xs: ours(F, torch, *xs)), **options))


# Elementwise: the same expression works on both

for name in ("exp", "tanh", "sigmoid", "expm1", "sin", "cos", "erf"):
    case(
        name,
        (3, 4),
        ours=lambda F, ops, x, name=name: getattr(ops, name)(x),
        theirs=lambda torch, F, x, name=name: getattr(torch, name)(x),
    )
for name in ("log", "log1p", "sqrt"):
    case(
        name,
        (3, 4),
        positive=True,
        ours=lambda F, ops, x, name=name: getattr(ops, name)(x),
        theirs=lambda torch, F, x, name=name: getattr(torch, name)(x),
    )
case("abs", (3, 4), ours=lambda F, ops, x: abs(x))
case(
    "arithmetic", (2, 1, 3), (4, 1), ours=lambda F, ops, a, b: a * b - a / (b * b + 1) + 2 * a - (-b) + 1 / (a * a + 1)
)
case("power", (3, 4), (4,), positive=True, ours=lambda F, ops, a, b: a**b)
case("power of a number", (3, 4), ours=lambda F, ops, x: x**3 + x**2 + x**1)
case("number to a power", (3,), ours=lambda F, ops, x: 2.5**x)
case("maximum", (3, 4), (4,), ours=lambda F, ops, a, b: ops.maximum(a, b) * ops.minimum(a, b) ** 2)
case("clip", (3, 4), ours=lambda F, ops, x: x.clip(-0.5, 0.5) * x)
case(
    "where",
    (3, 4),
    (4,),
    ours=lambda F, ops, a, b: ops.where(a > 0, a * b, b),
)
for name, options in {
    "relu": {},
    "leaky_relu": {"negative_slope": 0.2},
    "elu": {"alpha": 0.7},
    "gelu": {},
    "silu": {},
    "softplus": {},
    "logsigmoid": {},
    "hardtanh": {},
}.items():
    case(name, (4, 5), ours=lambda F, ops, x, n=name, o=options: getattr(F, n)(x, **o))
case("gelu by tanh", (4, 5), ours=lambda F, ops, x: F.gelu(x, approximate="tanh"))

# Shapes

case("reshape", (2, 3, 4), ours=lambda F, ops, x: x.reshape(4, 6) ** 2)
case("permute", (2, 3, 4), ours=lambda F, ops, x: x.permute(2, 0, 1) ** 2)
case("index", (4, 5), ours=lambda F, ops, x: x[1:, ::2] ** 2)
case(
    "index by arrays",
    (4, 5),
    ours=lambda F, ops, x: x[np.array([0, 2, 2, 0]), np.array([1, 1, 3, 1])] ** 2,
    theirs=lambda torch, F, x: x[[0, 2, 2, 0], [1, 1, 3, 1]] ** 2,
)
case("index by a mask", (4, 5), ours=lambda F, ops, x: x[x > 0] ** 2)
case("expand", (3, 1), ours=lambda F, ops, x: x.expand(2, -1, 4) ** 2)
case("flip", (3, 4), ours=lambda F, ops, x: ops.flip(x, (0, 1)) ** 2)
case("squeeze", (3, 1, 4), ours=lambda F, ops, x: x.squeeze(1).unsqueeze(0) ** 2)
case("pad", (2, 3), ours=lambda F, ops, x: F.pad(x, (1, 2, 0, 1), value=0.5) ** 2)
case(
    "concatenate",
    (2, 3),
    (2, 2),
    ours=lambda F, ops, a, b: ops.concatenate(a, b, a, axis=1) ** 2,
    theirs=lambda torch, F, a, b: torch.cat([a, b, a], dim=1) ** 2,
)
case(
    "stack",
    (2, 3),
    (2, 3),
    ours=lambda F, ops, a, b: ops.stack(a, b, axis=1) ** 2,
    theirs=lambda torch, F, a, b: torch.stack([a, b], dim=1) ** 2,
)
case(
    "split",
    (2, 6),
    ours=lambda F, ops, x: ops.split(x, 3, 1)[0] * ops.split(x, 3, 1)[2],
    theirs=lambda torch, F, x: x.split(2, 1)[0] * x.split(2, 1)[2],
)
case("flatten", (2, 3, 4), ours=lambda F, ops, x: x.flatten(1) ** 2)

# Reductions

for axis in (None, 1, (0, 2)):
    for keep in (False, True):
        for name in ("sum", "mean"):
            case(
                f"{name} over {axis} keep {keep}",
                (2, 3, 4),
                ours=lambda F, ops, x, n=name, a=axis, k=keep: getattr(x * x, n)(a, k),
                theirs=lambda torch, F, x, n=name, a=axis, k=keep: getattr(x * x, n)(
                    tuple(range(3)) if a is None else a, keepdim=k
                ),
            )
        for correction in (0, 1):
            for name in ("var", "std"):
                case(
                    f"{name} over {axis} keep {keep} correction {correction}",
                    (2, 3, 4),
                    ours=lambda F, ops, x, n=name, a=axis, k=keep, c=correction: getattr(x, n)(a, k, correction=c),
                    theirs=lambda torch, F, x, n=name, a=axis, k=keep, c=correction: getattr(x, n)(
                        a, correction=c, keepdim=k
                    ),
                )
    case(
        f"logsumexp over {axis}",
        (2, 3, 4),
        ours=lambda F, ops, x, a=axis: x.logsumexp(a),
        theirs=lambda torch, F, x, a=axis: x.logsumexp((0, 1, 2) if a is None else a),
    )
case("max", (3, 4), ours=lambda F, ops, x: x.max(1) ** 2, theirs=lambda torch, F, x: x.max(1).values ** 2)
case("min of all", (3, 4), ours=lambda F, ops, x: x.min() ** 2)
case("prod", (3, 4), ours=lambda F, ops, x: x.prod(1))
case("prod of all", (2, 3), ours=lambda F, ops, x: x.prod())
case("cumsum", (3, 4), ours=lambda F, ops, x: x.cumsum(1) ** 2)
case("softmax", (3, 4), ours=lambda F, ops, x: F.softmax(x, 1))
case("softmax over the first axis", (3, 4), ours=lambda F, ops, x: F.softmax(x, dim=0))
case("log_softmax", (3, 4, 2), ours=lambda F, ops, x: F.log_softmax(x, 1))

# Products

case("matmul", (3, 4), (4, 2), ours=lambda F, ops, a, b: a @ b)
case("matmul of batches", (2, 1, 3, 4), (5, 4, 2), ours=lambda F, ops, a, b: a @ b)
case("matmul by a vector", (2, 3, 4), (4,), ours=lambda F, ops, a, b: (a @ b) * (b @ b))
case("vector by matmul", (4,), (2, 4, 3), ours=lambda F, ops, a, b: a @ b)
case("linear", (2, 3, 4), (5, 4), (5,), ours=lambda F, ops, x, w, b: F.linear(x, w, b))
for spec, shapes in {
    "ij,jk->ik": ((2, 3), (3, 4)),
    "bij,bkj->bik": ((2, 3, 4), (2, 5, 4)),
    "ii->i": ((3, 3),),
    "ij,ij->": ((2, 3), (2, 3)),
    "...ij,jk": ((2, 2, 3), (3, 4)),
    "i,j,k->kij": ((2,), (3,), (4,)),
}.items():
    case(
        f"einsum {spec}",
        *shapes,
        ours=lambda F, ops, *xs, s=spec: ops.einsum(s, *xs),
        theirs=lambda torch, F, *xs, s=spec: torch.einsum(s, *xs),
    )

# Convolution and pooling

for number, options in enumerate(
    [
        {},
        {"stride": 2},
        {"padding": 1},
        {"stride": (2, 1), "padding": (1, 0)},
        {"dilation": (2, 1), "padding": 2},
        {"groups": 2, "padding": 1},
        {"padding": "same", "dilation": (1, 2)},
        {"padding": "valid", "stride": 3},
    ]
):
    case(
        f"conv2d {number} {options}",
        (2, 4, 7, 6),
        (4, 4 // options.get("groups", 1), 3, 2),
        (4,),
        ours=lambda F, ops, x, w, b, o=options: F.conv2d(x, w, b, **o),
    )
case("conv2d without bias", (1, 2, 5, 5), (3, 2, 1, 1), ours=lambda F, ops, x, w: F.conv2d(x, w))
case("conv2d depthwise", (2, 3, 5, 5), (3, 1, 3, 3), ours=lambda F, ops, x, w: F.conv2d(x, w, groups=3, padding=1))
for number, options in enumerate(
    [
        {},
        {"stride": 2},
        {"stride": 2, "padding": 1, "output_padding": 1},
        {"dilation": 2, "padding": (1, 2)},
        {"stride": (3, 2), "output_padding": (2, 1), "groups": 2},
        {"dilation": 3, "output_padding": 2},
    ]
):
    case(
        f"conv_transpose2d {number} {options}",
        (2, 4, 3, 4),
        (4, 2, 3, 2),
        (2 * options.get("groups", 1),),
        ours=lambda F, ops, x, w, b, o=options: F.conv_transpose2d(x, w, b, **o),
    )
for number, (size, options) in enumerate(
    [
        (2, {}),
        (3, {"stride": 2}),
        (3, {"stride": 2, "padding": 1}),
        ((3, 2), {"stride": (1, 2), "padding": (1, 0)}),
        (3, {"stride": 2, "ceil_mode": True}),
        (2, {"stride": 3, "ceil_mode": True, "padding": 1}),
    ]
):
    for shape in ((2, 2, 7, 6), (1, 1, 8, 5)):
        case(
            f"max_pool2d {number} {shape}",
            shape,
            ours=lambda F, ops, x, s=size, o=options: F.max_pool2d(x, s, **o) ** 2,
        )
        for included in (True, False):
            case(
                f"avg_pool2d {number} {shape} {included}",
                shape,
                ours=lambda F, ops, x, s=size, o=options, i=included: F.avg_pool2d(x, s, **o, count_include_pad=i) ** 2,
            )
case("max_pool2d dilated", (1, 2, 8, 7), ours=lambda F, ops, x: F.max_pool2d(x, 3, 2, 1, 2) ** 2)
case("avg_pool2d divisor", (1, 2, 6, 6), ours=lambda F, ops, x: F.avg_pool2d(x, 2, divisor_override=3) ** 2)
case("lp_pool2d", (2, 2, 6, 6), ours=lambda F, ops, x: F.lp_pool2d(x, 2, 2))
case("lp_pool2d of order 3", (1, 2, 7, 6), positive=True, ours=lambda F, ops, x: F.lp_pool2d(x, 3, 3, 2))
for target in (1, 2, (3, 2), (4, 4), (None, 3), 5):
    case(
        f"adaptive_avg_pool2d {target}", (2, 2, 7, 6), ours=lambda F, ops, x, t=target: F.adaptive_avg_pool2d(x, t) ** 2
    )
    case(
        f"adaptive_max_pool2d {target}", (2, 2, 7, 6), ours=lambda F, ops, x, t=target: F.adaptive_max_pool2d(x, t) ** 2
    )

# Normalisation

case(
    "batch_norm training",
    (4, 3, 2, 2),
    (3,),
    (3,),
    ours=lambda F, ops, x, w, b: F.batch_norm(x, None, None, w, b, True),
)
case(
    "batch_norm evaluation",
    (4, 3),
    (3,),
    (3,),
    ours=lambda F, ops, x, w, b: F.batch_norm(x, ops.ones(3) * 0.3, ops.ones(3) * 1.5, w, b, False, 0.1, 1e-3),
)
case("layer_norm", (2, 3, 4), (3, 4), (3, 4), ours=lambda F, ops, x, w, b: F.layer_norm(x, (3, 4), w, b))
case("local_response_norm", (2, 7, 3, 3), ours=lambda F, ops, x: F.local_response_norm(x, 5, 0.02, 0.75, 2.0))
case("local_response_norm, even size", (1, 5, 2, 2), ours=lambda F, ops, x: F.local_response_norm(x, 4, 0.1))

# Losses with every option

LABELS = np.array([1, 0, 3, 2, 1])
MASKED = np.array([1, -100, 3, 2, -100])
CLASS_WEIGHTS = np.array([0.5, 2.0, 1.0, 1.5])
for reduction in ("mean", "sum", "none"):
    for smoothing in (0.0, 0.1):
        for weighted in (False, True):
            for labels, kind in ((LABELS, "labels"), (MASKED, "ignoring")):
                case(
                    f"cross_entropy {reduction} {smoothing} {weighted} {kind}",
                    (5, 4),
                    constants=(labels, CLASS_WEIGHTS if weighted else None),
                    ours=lambda F, ops, x, t, w, r=reduction, s=smoothing: F.cross_entropy(
                        x, t, w, reduction=r, label_smoothing=s
                    ),
                )
            case(
                f"cross_entropy {reduction} {smoothing} {weighted} soft",
                (5, 4),
                constants=(np.abs(weights((5, 4))), CLASS_WEIGHTS if weighted else None),
                ours=lambda F, ops, x, t, w, r=reduction, s=smoothing: F.cross_entropy(
                    x, t, w, reduction=r, label_smoothing=s
                ),
            )
    case(
        f"cross_entropy of images {reduction}",
        (2, 4, 3, 2),
        constants=(np.arange(12).reshape(2, 3, 2) % 4, CLASS_WEIGHTS),
        ours=lambda F, ops, x, t, w, r=reduction: F.cross_entropy(x, t, w, reduction=r, ignore_index=2),
    )
    case(
        f"nll_loss {reduction}",
        (5, 4),
        constants=(LABELS, CLASS_WEIGHTS),
        ours=lambda F, ops, x, t, w, r=reduction: F.nll_loss(x, t, w, reduction=r, ignore_index=0),
    )
    case(
        f"bce_with_logits {reduction}",
        (3, 4),
        constants=(np.abs(weights((3, 4))), np.abs(weights((4,), 1.0)), np.abs(weights((4,), 2.0))),
        ours=lambda F, ops, x, t, w, p, r=reduction: F.binary_cross_entropy_with_logits(
            x, t, w, pos_weight=p, reduction=r
        ),
    )
    case(
        f"bce_with_logits plain {reduction}",
        (3, 4),
        constants=(np.abs(weights((3, 4))),),
        ours=lambda F, ops, x, t, r=reduction: F.binary_cross_entropy_with_logits(x * 30, t, reduction=r),
    )
    case(
        f"binary_cross_entropy {reduction}",
        (3, 4),
        constants=(np.abs(weights((3, 4))), np.abs(weights((4,), 1.0))),
        ours=lambda F, ops, x, t, w, r=reduction: F.binary_cross_entropy(ops.sigmoid(x), t, w, reduction=r),
    )
    for name, options in {
        "mse_loss": {},
        "l1_loss": {},
        "huber_loss": {"delta": 0.7},
        "smooth_l1_loss": {"beta": 0.7},
    }.items():
        case(
            f"{name} {reduction}",
            (3, 4),
            (3, 4),
            ours=lambda F, ops, x, t, n=name, o=options, r=reduction: getattr(F, n)(x, t, **o, reduction=r),
        )
case("cross_entropy of one sample", (4,), constants=(np.array(2),), ours=lambda F, ops, x, t: F.cross_entropy(x, t))

assert len({c.id for c in CASES}) == len(CASES)
