"""ONNX operators written with this package's ops: `OPERATORS[name](attributes, *inputs)` -> list of outputs.

fixtures/onnx_skipped.json names every case that does not apply, and every operator without a counterpart, by reason.
"""

import numpy as np

from tinygrad_cnn import ops
from tinygrad_cnn.nn import functional as F  # noqa: N812 - the usual name
from tinygrad_cnn.tensor import Tensor

OPERATORS = {}


class DoesNotApplyError(Exception):
    """This case asks for something the package does not have; the message says what."""


def operator(name):
    def register(function):
        OPERATORS[name] = function
        return function

    return register


def _simple(name, function):
    OPERATORS[name] = lambda a, *xs: [function(*xs)]


for _name, _function in {
    "Abs": ops.absolute,
    "Add": ops.add,
    "Cos": ops.cos,
    "Div": ops.div,
    "Equal": ops.equal,
    "Erf": ops.erf,
    "Exp": ops.exp,
    "Greater": ops.greater,
    "GreaterOrEqual": ops.greater_equal,
    "Less": ops.less,
    "LessOrEqual": ops.less_equal,
    "Log": ops.log,
    "MatMul": ops.matmul,
    "Mul": ops.mul,
    "Neg": ops.neg,
    "Not": lambda x: ~x,
    "Pow": lambda a, b: ops.power(a, b),
    "Reciprocal": lambda x: 1 / x,
    "Relu": ops.relu,
    "Sigmoid": ops.sigmoid,
    "Sign": ops.sign,
    "Sin": ops.sin,
    "Softplus": ops.softplus,
    "Sqrt": ops.sqrt,
    "Sub": ops.sub,
    "Tanh": ops.tanh,
    "Where": ops.where,
    "GlobalAveragePool": F.global_avg_pool2d,
    "GlobalMaxPool": F.global_max_pool2d,
    "Identity": lambda x: x.clone(),
}.items():
    _simple(_name, _function)


def _ints(x):
    """Return the numbers in a tensor of shapes, axes or positions."""
    return [int(v) for v in np.asarray(x.array).reshape(-1)]


def _four_axes(x):
    if len(x.shape) != 4:
        raise DoesNotApplyError("convolution and pooling are for images, (n, c, h, w)")


@operator("Div")
def _(a, x, y):
    if x.dtype.kind in "iu":
        raise DoesNotApplyError("division of whole numbers gives floats here, as in NumPy and PyTorch")
    return [x / y]


@operator("Pow")
def _(a, x, y):
    result = ops.power(x, y)
    return [result if result.dtype == x.dtype else result.astype(x.dtype)]


@operator("Max")
def _(a, first, *rest):
    for x in rest:
        first = ops.maximum(first, x)
    return [first]


@operator("Min")
def _(a, first, *rest):
    for x in rest:
        first = ops.minimum(first, x)
    return [first]


@operator("Sum")
def _(a, first, *rest):
    for x in rest:
        first = first + x
    return [first]


@operator("Mean")
def _(a, *xs):
    return [OPERATORS["Sum"](a, *xs)[0] / len(xs)]


@operator("Elu")
def _(a, x):
    return [ops.elu(x, alpha=a.get("alpha", 1.0))]


@operator("LeakyRelu")
def _(a, x):
    return [ops.leaky_relu(x, negative_slope=a.get("alpha", 0.01))]


@operator("Gelu")
def _(a, x):
    return [F.gelu(x, a.get("approximate", b"none").decode())]


@operator("Swish")
def _(a, x):
    return [x * ops.sigmoid(x * a.get("alpha", 1.0))]


@operator("Clip")
def _(a, x, low=None, high=None):
    if low is not None and high is not None and low.item() > high.item():
        raise DoesNotApplyError("limits the wrong way round are an error here")
    return [ops.clip(x, low=None if low is None else low.item(), high=None if high is None else high.item())]


@operator("Cast")
def _(a, x):
    import onnx

    return [x.astype(onnx.helper.tensor_dtype_to_np_dtype(a["to"]))]


@operator("Concat")
def _(a, *xs):
    return [ops.concatenate(*xs, axis=a["axis"])]


@operator("Split")
def _(a, x, sizes=None):
    axis = a.get("axis", 0)
    n = x.shape[axis]
    if sizes is not None:
        parts = _ints(sizes)
    else:
        count = a["number of outputs"]
        each = -(-n // count)
        parts = [min(each, n - i * each) for i in range(count)]
    return ops.split(x, np.cumsum(parts)[:-1].tolist(), axis)


@operator("Reshape")
def _(a, x, shape):
    target = _ints(shape)
    if not a.get("allowzero", 0):
        target = [x.shape[i] if n == 0 else n for i, n in enumerate(target)]
    return [x.reshape(target)]


@operator("Transpose")
def _(a, x):
    return [x.transpose(a["perm"]) if "perm" in a else x.transpose()]


@operator("Flatten")
def _(a, x):
    axis = a.get("axis", 1)
    axis += len(x.shape) if axis < 0 else 0
    return [x.reshape(int(np.prod(x.shape[:axis])), -1)]


@operator("Squeeze")
def _(a, x, axes=None):
    return [x.squeeze(None if axes is None else tuple(_ints(axes)))]


@operator("Unsqueeze")
def _(a, x, axes):
    return [x.unsqueeze(tuple(_ints(axes)))]


@operator("Expand")
def _(a, x, shape):
    return [x.broadcast_to(np.broadcast_shapes(x.shape, tuple(_ints(shape))))]


@operator("Slice")
def _(a, x, starts, ends, axes=None, steps=None):
    starts, ends = _ints(starts), _ints(ends)
    axes = range(len(starts)) if axes is None else _ints(axes)
    steps = [1] * len(starts) if steps is None else _ints(steps)
    index = [slice(None)] * len(x.shape)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        n = x.shape[axis]
        if step < 0:
            end = None if end < -n else end
        index[axis] = slice(start, end, step)
    return [x[tuple(index)]]


@operator("Gather")
def _(a, x, indices):
    axis = a.get("axis", 0) % len(x.shape)
    return [x[(slice(None),) * axis + (indices,)]]


@operator("Pad")
def _(a, x, pads, value=None, axes=None):
    if a.get("mode", b"constant") != b"constant":
        raise DoesNotApplyError("pad frames with a constant; it does not reflect, wrap or repeat edges")
    sizes = _ints(pads)
    axes = list(range(len(x.shape))) if axes is None else [i % len(x.shape) for i in _ints(axes)]
    widths = [(0, 0)] * len(x.shape)
    for i, axis in enumerate(axes):
        widths[axis] = (sizes[i], sizes[i + len(axes)])
    return [x.pad(widths, 0.0 if value is None else value.item())]


@operator("CumSum")
def _(a, x, axis):
    axis = axis.item()
    if a.get("reverse"):
        x = ops.flip(x, axis)
    y = x.cumsum(axis)
    if a.get("exclusive"):
        y = y - x
    y = y.astype(x.dtype)  # NumPy sums small integers in int64
    return [ops.flip(y, axis) if a.get("reverse") else y]


def _reduction(name, function):
    def reduce(a, x, axes=None):
        keep = bool(a.get("keepdims", 1))
        axis = tuple(a["axes"]) if "axes" in a else None if axes is None or not axes.size else tuple(_ints(axes))
        if axis is None and a.get("noop_with_empty_axes", 0):
            axis = ()
        if not x.size and name in ("ReduceMax", "ReduceMin", "ReduceLogSumExp"):
            raise DoesNotApplyError("the maximum and the logarithm of nothing are errors here, not infinities")
        return [function(x, axis, keep)]

    OPERATORS[name] = reduce


for _name, _function in {
    "ReduceSum": lambda x, a, k: x.sum(a, k),
    "ReduceMean": lambda x, a, k: x.mean(a, k),
    "ReduceMax": lambda x, a, k: x.max(a, k),
    "ReduceMin": lambda x, a, k: x.min(a, k),
    "ReduceProd": lambda x, a, k: x.prod(a, k),
    "ReduceL1": lambda x, a, k: x.abs().sum(a, k),
    "ReduceL2": lambda x, a, k: (x * x).sum(a, k).sqrt(),
    "ReduceSumSquare": lambda x, a, k: (x * x).sum(a, k),
    "ReduceLogSum": lambda x, a, k: x.sum(a, k).log(),
    "ReduceLogSumExp": lambda x, a, k: x.logsumexp(a, k),
}.items():
    _reduction(_name, _function)


def _position(name, function):
    def position(a, x):
        if a.get("select_last_index"):
            raise DoesNotApplyError("argmax and argmin give the first of several equal places")
        return [function(x, axis=a.get("axis", 0), keepdims=bool(a.get("keepdims", 1)))]

    OPERATORS[name] = position


_position("ArgMax", ops.argmax)
_position("ArgMin", ops.argmin)


@operator("Softmax")
def _(a, x):
    return [ops.softmax(x, axis=a.get("axis", -1))]


@operator("LogSoftmax")
def _(a, x):
    return [ops.log_softmax(x, axis=a.get("axis", -1))]


@operator("Einsum")
def _(a, *xs):
    return [ops.einsum(a["equation"].decode(), *xs)]


@operator("Gemm")
def _(a, x, y, c=None):
    x = x.T if a.get("transA") else x
    y = y.T if a.get("transB") else y
    result = (x @ y) * a.get("alpha", 1.0)
    return [result if c is None else result + c * a.get("beta", 1.0)]


def _padding(a, x, kernel, stride, dilation):
    """Turn ONNX's four ways to give a padding into ((top, bottom), (left, right))."""
    mode = a.get("auto_pad", b"NOTSET")
    if mode in (b"NOTSET", b"VALID"):
        top, left, bottom, right = a.get("pads", (0, 0, 0, 0)) if mode == b"NOTSET" else (0, 0, 0, 0)
        return (top, bottom), (left, right)
    result = []
    for n, k, s, d in zip(x.shape[2:], kernel, stride, dilation, strict=True):
        total = max((-(-n // s) - 1) * s + d * (k - 1) + 1 - n, 0)
        small, large = total // 2, total - total // 2
        result.append((small, large) if mode == b"SAME_UPPER" else (large, small))
    return tuple(result)


def _geometry(a, x, kernel):
    _four_axes(x)
    if "kernel_shape" in a and any(p > k // 2 for p, k in zip(a.get("pads", ()), kernel * 2, strict=False)):
        raise DoesNotApplyError("padding beyond half of the window is refused, as in PyTorch")
    stride, dilation = tuple(a.get("strides", (1, 1))), tuple(a.get("dilations", (1, 1)))
    return stride, _padding(a, x, kernel, stride, dilation), dilation


@operator("Conv")
def _(a, x, w, b=None):
    stride, padding, dilation = _geometry(a, x, tuple(w.shape[2:]) if len(w.shape) == 4 else None)
    return [F.conv2d(x, w, b, stride, padding, dilation, a.get("group", 1))]


@operator("ConvTranspose")
def _(a, x, w, b=None):
    _four_axes(x)
    stride, dilation = tuple(a.get("strides", (1, 1))), tuple(a.get("dilations", (1, 1)))
    extra = tuple(a.get("output_padding", (0, 0)))
    kernel = tuple(w.shape[2:])
    if "output_shape" in a or a.get("auto_pad", b"NOTSET") in (b"SAME_UPPER", b"SAME_LOWER"):
        target = a.get("output_shape") or [n * s for n, s in zip(x.shape[2:], stride, strict=True)]
        padding = []
        for n, s, e, k, d, t in zip(x.shape[2:], stride, extra, kernel, dilation, target, strict=True):
            total = s * (n - 1) + e + (k - 1) * d + 1 - t
            if total < 0:
                raise DoesNotApplyError("an output longer than stride and kernel make it needs output_padding here")
            half = total // 2
            upper = a.get("auto_pad", b"NOTSET") == b"SAME_UPPER"
            padding.append((half, total - half) if upper else (total - half, half))
        padding = tuple(padding)
    else:
        padding = _padding(a, x, kernel, stride, dilation)
    return [F.conv_transpose2d(x, w, b, stride, padding, extra, a.get("group", 1), dilation)]


@operator("MaxPool")
def _(a, x):
    kernel = tuple(a["kernel_shape"])
    stride, padding, dilation = _geometry(a, x, kernel)
    if a["number of outputs"] > 1:
        raise DoesNotApplyError("positions of maxima are not a second result here")
    if x.dtype.kind in "iu":
        x = x.astype("float32")
        return [F.max_pool2d(x, kernel, stride, padding, dilation, bool(a.get("ceil_mode"))).astype("uint8")]
    return [F.max_pool2d(x, kernel, stride, padding, dilation, bool(a.get("ceil_mode")))]


@operator("AveragePool")
def _(a, x):
    kernel = tuple(a["kernel_shape"])
    stride, padding, dilation = _geometry(a, x, kernel)
    if dilation != (1, 1):
        raise DoesNotApplyError("average pooling has no dilation, as in PyTorch")
    counted = bool(a.get("count_include_pad", 0))
    return [F.avg_pool2d(x, kernel, stride, padding, bool(a.get("ceil_mode")), counted)]


@operator("LpPool")
def _(a, x):
    kernel = tuple(a["kernel_shape"])
    stride, padding, dilation = _geometry(a, x, kernel)
    if dilation != (1, 1):
        raise DoesNotApplyError("lp pooling has no dilation, as in PyTorch")
    framed = F.pad(x, (*padding[1], *padding[0]))
    return [F.lp_pool2d(framed, a.get("p", 2), kernel, stride)]


@operator("LRN")
def _(a, x):
    return [F.local_response_norm(x, a["size"], a.get("alpha", 1e-4), a.get("beta", 0.75), a.get("bias", 1.0))]


@operator("BatchNormalization")
def _(a, x, scale, bias, mean, var):
    momentum, eps = 1 - a.get("momentum", 0.9), a.get("epsilon", 1e-5)
    if a.get("training_mode"):
        raise DoesNotApplyError("the running variance is divided by n - 1 here, as in PyTorch; ONNX divides by n")
    return [F.batch_norm(x, mean, var, scale, bias, False, momentum, eps)]


@operator("LayerNormalization")
def _(a, x, scale, bias=None):
    axis = a.get("axis", -1) % len(x.shape)
    shape = x.shape[axis:]
    y = F.layer_norm(x, shape, scale, bias, a.get("epsilon", 1e-5))
    axes = tuple(range(axis, len(x.shape)))
    mean = x.mean(axes, keepdims=True)
    return [y, mean, 1 / (x.var(axes, keepdims=True) + a.get("epsilon", 1e-5)).sqrt()]


@operator("Dropout")
def _(a, x, ratio=None, training=None):
    if training is not None and training.item() and (ratio is None or ratio.item()):
        raise DoesNotApplyError("the mask of dropout is drawn at random")
    return [F.dropout(x, 0.5 if ratio is None else ratio.item(), training=False), Tensor(np.ones(x.shape, bool))]


@operator("OneHot")
def _(a, indices, depth, values):
    depth = int(depth.item())
    off, on = values[0], values[1]
    labels = ops.where(indices < 0, indices + depth, indices) if indices.dtype.kind in "if" else indices
    axis = a.get("axis", -1)
    classes = Tensor(np.arange(depth))
    hit = ops.equal(labels.unsqueeze(-1), classes)
    return [ops.moveaxis(ops.where(hit, on, off), -1, axis)]


def _class_loss(function):
    def loss(a, x, labels, weight=None):
        options = {"reduction": a.get("reduction", b"mean").decode(), "ignore_index": a.get("ignore_index", -100)}
        return [function(x, labels, weight, **options), F.log_softmax(x, 1)]

    return loss


OPERATORS["NegativeLogLikelihoodLoss"] = _class_loss(F.nll_loss)
OPERATORS["SoftmaxCrossEntropyLoss"] = _class_loss(F.cross_entropy)
