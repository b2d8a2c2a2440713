"""A second, obvious implementation of every op: NumPy's own function or plain loops, written without the package."""

import itertools
import math

import numpy as np


def _loops(function):
    """Make a twin out of a function of Python numbers."""

    def twin(*arrays, **options):
        arrays = np.broadcast_arrays(*[np.asarray(a) for a in arrays])
        result = np.zeros(arrays[0].shape)
        for place in np.ndindex(*result.shape):
            result[place] = function(*[a[place].item() for a in arrays], **options)
        return result

    return twin


def _power(a, b):
    return float(a) ** b


def _tie_share(a, b, *, equal_share):
    return 1.0 if a > b else equal_share if a == b else 0.0


def _clip(x, *, low, high):
    if low is not None and x < low:
        return low
    return high if high is not None and x > high else x


def _inside(x, *, low, high):
    return float((low is None or x >= low) and (high is None or x <= high))


def _relu_gradient(g, x, *, at_zero):
    return g * (1 if x > 0 else at_zero if x == 0 else 0)


def _slope(x, *, below, at_zero):
    return 1 if x > 0 else below if x < 0 else below + at_zero * (1 - below)


def _getitem(x, *, index):
    flat = np.arange(x.size).reshape(x.shape)[index]
    return np.array([x.reshape(-1)[i] for i in flat.reshape(-1)]).reshape(flat.shape)


def _scatter(g, *, shape, index):
    flat = np.arange(math.prod(shape)).reshape(shape)[index]
    y = np.zeros(math.prod(shape))
    for i, value in zip(flat.reshape(-1), np.broadcast_to(g, flat.shape).reshape(-1), strict=True):
        y[i] += value
    return y.reshape(shape)


def _sum_to(x, *, shape):
    y = np.zeros(shape)
    aligned = (1,) * (x.ndim - len(shape)) + tuple(shape)
    flat = y.reshape(aligned)
    for place in np.ndindex(*x.shape):
        flat[tuple(0 if n == 1 else i for i, n in zip(place, aligned, strict=True))] += x[place]
    return y


def _axes(axis, ndim):
    if axis is None:
        return tuple(range(ndim))
    return tuple(a % ndim for a in (axis if isinstance(axis, tuple) else (axis,)))


def _reduction(function):
    """Make a twin that calls `function` on the list of elements that are combined."""

    def twin(x, *, axis=None, keepdims=False, **options):
        axes = _axes(axis, x.ndim)
        groups = {}
        for place in np.ndindex(*[n for i, n in enumerate(x.shape) if i not in axes]):
            groups[place] = []
        for place in np.ndindex(*x.shape):
            groups[tuple(i for a, i in enumerate(place) if a not in axes)].append(x[place].item())
        y = np.array([function(members, **options) for members in groups.values()])
        return y.reshape([1 if a in axes else n for a, n in enumerate(x.shape) if keepdims or a not in axes])

    return twin


def _var(values, *, correction):
    mean = sum(values) / len(values)
    return sum((v - mean) ** 2 for v in values) / (len(values) - correction)


def _extreme_share(x, y, *, axis, keepdims, ties):
    axes = _axes(axis, x.ndim)
    top = y if keepdims else np.expand_dims(y, axes)
    share = np.zeros(x.shape)
    seen = {}
    for place in np.ndindex(*x.shape):
        group = tuple(0 if a in axes else i for a, i in enumerate(place))
        if x[place] == top[group]:
            seen.setdefault(group, []).append(place)
    for places in seen.values():
        chosen = places[:1] if ties == "first" else places
        for place in chosen:
            share[place] = 1 / len(chosen)
    return share


def _softmax(x, *, axis):
    y = np.zeros(x.shape)
    for place in np.ndindex(*x.shape):
        row = x[tuple(slice(None) if a == axis % x.ndim else i for a, i in enumerate(place))]
        y[place] = 1 / sum(math.exp(v - x[place]) for v in row)
    return y


def _standardise(x, *, axis, eps, scaled=True):
    axes = tuple(a % x.ndim for a in (axis if isinstance(axis, tuple) else (axis,)))
    kept = [range(n) if i not in axes else [slice(None)] for i, n in enumerate(x.shape)]
    y = np.empty(x.shape if scaled else [1 if i in axes else n for i, n in enumerate(x.shape)])
    for index in itertools.product(*kept):
        values = x[index]
        deviation = math.sqrt(sum((v - values.mean()) ** 2 for v in values.reshape(-1)) / values.size + eps)
        y[index] = (values - values.mean()) / deviation if scaled else 1 / deviation
    return y


def _scale_shift(x, weight, bias=None):
    y = np.empty(x.shape)
    for c in range(x.shape[1]):
        y[:, c] = x[:, c] * weight[c] + (0 if bias is None else bias[c])
    return y


def _batch_norm(x, weight=None, bias=None, *, eps):
    y = _standardise(x, axis=(0, *range(2, x.ndim)), eps=eps)
    return _scale_shift(y, np.ones(x.shape[1]) if weight is None else weight, bias)


def _cumsum(x, *, axis):
    y = np.zeros(x.shape)
    for place in np.ndindex(*x.shape):
        row = x[tuple(slice(None) if a == axis % x.ndim else i for a, i in enumerate(place))]
        y[place] = sum(row[: place[axis % x.ndim] + 1])
    return y


def conv_terms(n, o, image, kernel, output, stride, padding, dilation, channels, filters, groups):
    """Yield (index of y, index of x, index of weight) of every product that a convolution adds up."""
    per_in, per_out = channels // groups, filters // groups
    for b, f, i, j in itertools.product(range(n), range(o), range(output[0]), range(output[1])):
        for c, p, q in itertools.product(range(per_in), range(kernel[0]), range(kernel[1])):
            row = i * stride[0] + p * dilation[0] - padding[0][0]
            column = j * stride[1] + q * dilation[1] - padding[1][0]
            if 0 <= row < image[0] and 0 <= column < image[1]:
                yield (b, f, i, j), (b, (f // per_out) * per_in + c, row, column), (f, c, p, q)


def _output(image, kernel, stride, padding, dilation):
    """Count the positions of a kernel by moving it."""
    sizes = []
    for a in (0, 1):
        positions = 0
        while positions * stride[a] + dilation[a] * (kernel[a] - 1) < image[a] + sum(padding[a]):
            positions += 1
        sizes.append(positions)
    return tuple(sizes)


def _conv2d(x, weight, bias=None, *, stride, padding, dilation, groups):
    output = _output(x.shape[2:], weight.shape[2:], stride, padding, dilation)
    y = np.zeros((x.shape[0], weight.shape[0], *output))
    for iy, ix, iw in conv_terms(
        *y.shape[:2], x.shape[2:], weight.shape[2:], output, stride, padding, dilation, x.shape[1], y.shape[1], groups
    ):
        y[iy] += x[ix] * weight[iw]
    return y if bias is None else y + bias.reshape(1, -1, 1, 1)


def _conv2d_input_gradient(g, weight, *, size, stride, padding, dilation, groups):
    x = np.zeros((g.shape[0], weight.shape[1] * groups, *size))
    for iy, ix, iw in conv_terms(
        *g.shape[:2], size, weight.shape[2:], g.shape[2:], stride, padding, dilation, x.shape[1], g.shape[1], groups
    ):
        x[ix] += g[iy] * weight[iw]
    return x


def _conv2d_weight_gradient(x, g, *, kernel, stride, padding, dilation, groups):
    weight = np.zeros((g.shape[1], x.shape[1] // groups, *kernel))
    for iy, ix, iw in conv_terms(
        *g.shape[:2], x.shape[2:], kernel, g.shape[2:], stride, padding, dilation, x.shape[1], g.shape[1], groups
    ):
        weight[iw] += g[iy] * x[ix]
    return weight


def _pool_output(image, kernel, stride, padding, dilation, ceil_mode):
    """Count windows by moving one: it must end inside; in ceil mode the last may reach less than a stride beyond."""
    sizes = []
    for a in (0, 1):
        before, after = padding[a]
        positions = 0
        while True:
            start = positions * stride[a] - before
            beyond = start + dilation[a] * (kernel[a] - 1) - (image[a] + after - 1)
            if beyond > 0:
                positions += ceil_mode and beyond < stride[a] and start < image[a]
                break
            positions += 1
        sizes.append(positions)
    return tuple(sizes)


def _window(i, j, image, kernel, stride, padding, dilation):
    """Yield the places inside the image that a window covers, in row-major order."""
    for p, q in itertools.product(range(kernel[0]), range(kernel[1])):
        row = i * stride[0] + p * dilation[0] - padding[0][0]
        column = j * stride[1] + q * dilation[1] - padding[1][0]
        if 0 <= row < image[0] and 0 <= column < image[1]:
            yield row, column


def _max_pool2d(x, *, kernel, stride, padding, dilation, ceil_mode, ties):
    output = _pool_output(x.shape[2:], kernel, stride, padding, dilation, ceil_mode)
    y = np.zeros((*x.shape[:2], *output))
    for n, c, i, j in np.ndindex(*y.shape):
        window = _window(i, j, x.shape[2:], kernel, stride, padding, dilation)
        y[n, c, i, j] = max([x[n, c, r, k] for r, k in window], default=-math.inf)  # nothing but padding: -inf
    return y


def _maxima(x, n, c, i, j, kernel, stride, padding, dilation, ties):
    window = list(_window(i, j, x.shape[2:], kernel, stride, padding, dilation))
    best = max([x[n, c, r, k] for r, k in window], default=-math.inf)
    places = [(n, c, r, k) for r, k in window if x[n, c, r, k] == best]
    return places[:1] if ties == "first" else places


def _max_pool2d_input_gradient(g, x, y, *, kernel, stride, padding, dilation, ceil_mode, ties):
    gx = np.zeros(x.shape)
    for n, c, i, j in np.ndindex(*g.shape):
        places = _maxima(x, n, c, i, j, kernel, stride, padding, dilation, ties)
        for place in places:
            gx[place] += g[n, c, i, j] / len(places)
    return gx


def _max_pool2d_select(u, x, y, *, kernel, stride, padding, dilation, ceil_mode, ties):
    result = np.zeros(y.shape)
    for n, c, i, j in np.ndindex(*y.shape):
        places = _maxima(x, n, c, i, j, kernel, stride, padding, dilation, ties)
        result[n, c, i, j] = sum(u[place] for place in places) / max(1, len(places))
    return result


def _divisor(i, j, image, kernel, stride, padding, count_include_pad, divisor_override):
    if divisor_override is not None:
        return divisor_override
    inside = 0
    for p, q in itertools.product(range(kernel[0]), range(kernel[1])):
        row, column = i * stride[0] + p - padding[0][0], j * stride[1] + q - padding[1][0]
        if count_include_pad:
            inside += row < image[0] + padding[0][1] and column < image[1] + padding[1][1]
        else:
            inside += 0 <= row < image[0] and 0 <= column < image[1]
    return inside


def _avg_pool2d(x, *, kernel, stride, padding, ceil_mode, count_include_pad, divisor_override):
    output = _pool_output(x.shape[2:], kernel, stride, padding, (1, 1), ceil_mode)
    y = np.zeros((*x.shape[:2], *output))
    for n, c, i, j in np.ndindex(*y.shape):
        total = sum(x[n, c, r, k] for r, k in _window(i, j, x.shape[2:], kernel, stride, padding, (1, 1)))
        y[n, c, i, j] = total / _divisor(
            i, j, x.shape[2:], kernel, stride, padding, count_include_pad, divisor_override
        )
    return y


def _avg_pool2d_input_gradient(g, *, size, kernel, stride, padding, ceil_mode, count_include_pad, divisor_override):
    gx = np.zeros((*g.shape[:2], *size))
    for n, c, i, j in np.ndindex(*g.shape):
        share = g[n, c, i, j] / _divisor(i, j, size, kernel, stride, padding, count_include_pad, divisor_override)
        for row, column in _window(i, j, size, kernel, stride, padding, (1, 1)):
            gx[n, c, row, column] += share
    return gx


def _einsum(*xs, spec):
    inputs, output = spec.split("->")
    terms = inputs.split(",")
    sizes = {c: n for t, x in zip(terms, xs, strict=True) for c, n in zip(t, x.shape, strict=True)}
    y = np.zeros([sizes[c] for c in output])
    for values in itertools.product(*[range(n) for n in sizes.values()]):
        place = dict(zip(sizes, values, strict=True))
        product = 1.0
        for t, x in zip(terms, xs, strict=True):
            product *= x[tuple(place[c] for c in t)]
        y[tuple(place[c] for c in output)] += product
    return y


def _matmul(a, b):
    rows = a[None, :] if a.ndim == 1 else a
    columns = b[:, None] if b.ndim == 1 else b
    lead = np.broadcast_shapes(rows.shape[:-2], columns.shape[:-2])
    rows = np.broadcast_to(rows, lead + rows.shape[-2:])
    columns = np.broadcast_to(columns, lead + columns.shape[-2:])
    y = np.zeros((*lead, rows.shape[-2], columns.shape[-1]))
    for *place, i, j in np.ndindex(*y.shape):
        y[(*place, i, j)] = sum(rows[(*place, i, k)] * columns[(*place, k, j)] for k in range(rows.shape[-1]))
    y = y[..., 0, :] if a.ndim == 1 else y
    return y[..., 0] if b.ndim == 1 else y


def _linear(x, weight, bias=None):
    y = np.zeros((*x.shape[:-1], weight.shape[0]))
    for *place, o in np.ndindex(*y.shape):
        y[(*place, o)] = sum(x[(*place, i)] * weight[o, i] for i in range(weight.shape[1]))
        if bias is not None:
            y[(*place, o)] += bias[o]
    return y


def _pick(x, labels):
    y = np.zeros(labels.shape)
    for n, *rest in np.ndindex(*labels.shape):
        y[(n, *rest)] = x[(n, labels[(n, *rest)], *rest)]
    return y


def _place(g, labels, *, classes):
    y = np.zeros((g.shape[0], classes, *g.shape[1:]))
    for n, *rest in np.ndindex(*labels.shape):
        y[(n, labels[(n, *rest)], *rest)] = g[(n, *rest)]
    return y


def _concatenate(*xs, axis):
    return np.moveaxis(np.array([row for x in xs for row in np.moveaxis(x, axis, 0)]), 0, axis)


TWINS = {
    "absolute": _loops(lambda x: -x if x < 0 else x),
    "add": _loops(lambda a, b: a + b),
    "amax": _reduction(lambda values, ties: max(values)),
    "amin": _reduction(lambda values, ties: min(values)),
    "argmax": _reduction(lambda values: values.index(max(values))),
    "argmin": _reduction(lambda values: values.index(min(values))),
    "astype": lambda x, *, dtype: x.astype(dtype),
    "avg_pool2d": _avg_pool2d,
    "avg_pool2d_input_gradient": _avg_pool2d_input_gradient,
    "broadcast_to": lambda x, *, shape: x + np.zeros(shape),
    "clip": _loops(_clip),
    "concatenate": _concatenate,
    "conv2d": _conv2d,
    "conv2d_input_gradient": _conv2d_input_gradient,
    "conv2d_weight_gradient": _conv2d_weight_gradient,
    "cos": _loops(math.cos),
    "cumsum": _cumsum,
    "div": _loops(lambda a, b: a / b),
    "dropout": _loops(lambda x, mask, *, scale: x * scale if mask else 0.0),
    "einsum_explicit": _einsum,
    "elu": _loops(lambda x, *, alpha: x if x > 0 else alpha * (math.exp(x) - 1)),
    "equal": _loops(lambda a, b: a == b),
    "erf": _loops(math.erf),
    "exp": _loops(math.exp),
    "expm1": _loops(math.expm1),
    "extreme_share": _extreme_share,
    "getitem": _getitem,
    "greater": _loops(lambda a, b: a > b),
    "greater_equal": _loops(lambda a, b: a >= b),
    "inside": _loops(_inside),
    "leaky_relu": _loops(lambda x, *, negative_slope, at_zero: x if x > 0 else negative_slope * x),
    "less": _loops(lambda a, b: a < b),
    "less_equal": _loops(lambda a, b: a <= b),
    "linear": _linear,
    "log": _loops(math.log),
    "log1p": _loops(math.log1p),
    "log_softmax": lambda x, *, axis: np.log(_softmax(x, axis=axis)),
    "logsumexp": _reduction(lambda values: math.log(sum(math.exp(v) for v in values))),
    "matmul": _matmul,
    "max_pool2d": _max_pool2d,
    "max_pool2d_input_gradient": _max_pool2d_input_gradient,
    "max_pool2d_select": _max_pool2d_select,
    "maximum": _loops(lambda a, b, *, ties: a if a > b else b),
    "mean": _reduction(lambda values: sum(values) / len(values)),
    "minimum": _loops(lambda a, b, *, ties: a if a < b else b),
    "mul": _loops(lambda a, b: a * b),
    "neg": _loops(lambda x: -x),
    "not_equal": _loops(lambda a, b: a != b),
    "pad": lambda x, *, widths, value: np.pad(x, widths, constant_values=value),
    "pick": _pick,
    "place": _place,
    "power": _loops(_power),
    "prod": _reduction(math.prod),
    "relu": _loops(lambda x, *, at_zero: x if x > 0 else 0.0),
    "relu_gradient": _loops(_relu_gradient),
    "reshape": lambda x, *, shape: np.array(list(x.flat)).reshape(shape),
    "scatter": _scatter,
    "sigmoid": _loops(lambda x: 1 / (1 + math.exp(-x))),
    "sign": _loops(lambda x: (x > 0) - (x < 0)),
    "sin": _loops(math.sin),
    "slope": _loops(_slope),
    "softmax": _softmax,
    "batch_norm": _batch_norm,
    "standardise": _standardise,
    "inverse_deviation": lambda x, *, axis, eps: _standardise(x, axis=axis, eps=eps, scaled=False),
    "scale_shift": _scale_shift,
    "softplus": _loops(lambda x: math.log(1 + math.exp(x))),
    "sqrt": _loops(math.sqrt),
    "stack": lambda *xs, axis: np.stack(xs, axis=axis),
    "sub": _loops(lambda a, b: a - b),
    "sum": _reduction(math.fsum),
    "sum_to": _sum_to,
    "tanh": _loops(math.tanh),
    "threshold_unit": _loops(lambda x: float(x > 0)),
    "tie_share": _loops(_tie_share),
    "to_device": lambda x, *, device: x,
    "transpose": lambda x, *, axes: np.transpose(x, axes),
    "var": _reduction(_var),
    "where": _loops(lambda condition, a, b: a if condition else b),
}
