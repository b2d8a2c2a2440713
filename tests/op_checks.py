"""The checks that every op has to pass, as functions, so that tests can also show which wrong rules they catch."""

import numpy as np
from on_devices import there
from op_twins import TWINS

import tinygrad_cnn  # noqa: F401 - importing the package fills the table
from tinygrad_cnn import Tensor, grad
from tinygrad_cnn.backend.device import namespaces
from tinygrad_cnn.graph import Observer, Traced, observing
from tinygrad_cnn.op import TABLE

# Ops whose result may be a view of an input. Values are never written to by the package, so a view costs nothing.
VIEWS = {"broadcast_to", "einsum_explicit", "getitem", "reshape", "sum_to", "to_device", "transpose"}


def samples(op, seed=0):
    """Return the samples of an op, with complete options."""
    return [(arrays, op.complete(options)) for arrays, options in op.samples(np.random.default_rng(seed))]


def is_float_array(x):
    return isinstance(x, np.ndarray) and x.dtype.kind == "f"


def is_array(x):
    return x.__class__ in namespaces


def differentiable(op, arrays):
    """Return the positions of the inputs that have a rule and hold floats."""
    return [i for i, x in enumerate(arrays) if is_float_array(x) and op.rule(i) is not None]


def tensors(arrays, wanted):
    """Wrap arrays that are to be differentiated; the others stay as they are."""
    copies = [np.array(x) if i in wanted else x for i, x in enumerate(arrays)]
    return [Tensor.made(there(x)).requires_grad_() if i in wanted else there(x) for i, x in enumerate(copies)]


def numeric(function, x, h=2e-4):
    """Return df/dx of a scalar function by Richardson's extrapolation of central differences, error O(h⁴)."""
    result = np.zeros(x.shape)
    for place in np.ndindex(*x.shape):
        values = {}
        for step in (-2, -1, 1, 2):
            moved = x.copy()
            moved[place] += step * h
            values[step] = function(moved)
        result[place] = (8 * (values[1] - values[-1]) - (values[2] - values[-2])) / (12 * h)
    return result


def along(function, x, direction, h=2e-4):
    """Return the derivative of a scalar function along a direction, as `numeric` does."""
    values = [function(x + step * h * direction) for step in (-2, -1, 1, 2)]
    return (8 * (values[2] - values[1]) - (values[3] - values[0])) / (12 * h)


def assert_near(actual, expected, what, tolerance=2e-7):
    scale = max(1.0, float(np.abs(expected).max(initial=0.0)))
    assert np.allclose(actual, expected, rtol=0, atol=tolerance * scale), (
        f"{what}: {actual} instead of {expected}, off by {np.abs(np.asarray(actual) - expected).max()}"
    )


def check_forward(op, seed=0):
    for arrays, options in samples(op, seed):
        with np.errstate(all="ignore"):
            expected = np.asarray(TWINS[op.name](*arrays, **options))
        actual = op(*there(arrays), **there(options))
        assert actual.shape == expected.shape, f"{op.name}: shape {actual.shape} instead of {expected.shape}"
        assert_near(actual, expected, op.name, 1e-12)


def check_first_derivatives(op, seed=0):
    """Compare every rule with differences of the forward function, element by element."""
    rng = np.random.default_rng(seed + 1)
    for arrays, options in samples(op, seed):
        if differentiable(op, arrays):
            _compare_first(op, arrays, options, rng)


def _compare_first(op, arrays, options, rng):
    wanted = differentiable(op, arrays)
    inputs = tensors(arrays, wanted)
    y = op(*inputs, **there(options))
    assert y.requires_grad, f"{op.name} did not record"
    seeds = rng.normal(size=y.shape)
    exact = grad(y, [inputs[i] for i in wanted], [there(seeds)], allow_unused=True)
    for i, gx in zip(wanted, exact, strict=True):

        def loss(x, i=i):
            moved = there((*arrays[:i], x, *arrays[i + 1 :]))
            return float((op(*moved, **there(options)) * there(seeds)).sum())

        actual = np.zeros(arrays[i].shape) if gx is None else gx.array
        assert_near(actual, numeric(loss, arrays[i]), f"{op.name}: gradient of input {i}")


def check_second_derivatives(op, seed=0):
    """Compare the derivative of every rule by every input, and by the gradient that flows in, with differences.

    For each pair (i, j) the function is x_j -> <u, rule_i(g, y, ..., x_j, ...)>, differentiated along a direction.
    """
    rng = np.random.default_rng(seed + 2)
    for arrays, options in samples(op, seed):
        if differentiable(op, arrays):
            _compare_second(op, arrays, options, rng)


def _compare_second(op, arrays, options, rng):
    wanted = differentiable(op, arrays)
    seeds = rng.normal(size=op(*there(arrays), **there(options)).shape)
    weights = {i: there(rng.normal(size=arrays[i].shape)) for i in wanted}

    def first(values, g, create_graph=False):
        inputs = tensors(values, wanted)
        y = op(*inputs, **there(options))
        g = Tensor.made(there(np.asarray(g))).requires_grad_()
        variables = [inputs[i] for i in wanted]
        rows = grad(y, variables, [g], create_graph=create_graph, allow_unused=True)
        return [*variables, g], dict(zip(wanted, rows, strict=True))

    variables, rows = first(arrays, seeds, create_graph=True)
    for i in wanted:
        exact = [None] * len(variables)
        if rows[i] is not None and rows[i].requires_grad:
            exact = grad(rows[i], variables, [weights[i]], retain_graph=True, allow_unused=True)
        for j, gj in zip([*wanted, None], exact, strict=True):

            def product(x, i=i, j=j):
                values = arrays if j is None else (*arrays[:j], x, *arrays[j + 1 :])
                found = first(values, x if j is None else seeds)[1][i]
                return 0.0 if found is None else float((found.array * weights[i]).sum())

            at = seeds if j is None else arrays[j]
            direction = rng.normal(size=at.shape)
            actual = 0.0 if gj is None else float((gj.array * there(direction)).sum())
            assert_near(
                actual, along(product, at, direction), f"{op.name}: second derivative by ({i}, {j})", tolerance=1e-6
            )


def check_shape_rule(op, seed=0):
    for arrays, options in samples(op, seed):
        shapes = [None if x is None else np.shape(x) for x in arrays]
        promised = op.shape(*shapes, **options)
        assert isinstance(promised, tuple)
        assert promised == op(*there(arrays), **there(options)).shape, f"{op.name}: the shape rule says {promised}"


class TypesSeen(Observer):
    """Collects the element types of everything that ops return."""

    def __init__(self):
        self.seen = {}

    def op_finished(self, op, inputs, options, output, result):
        self.seen.setdefault(output.dtype.name, op.name)


def check_type_is_kept(op, dtype, seed=0):
    """Run forward and backward in `dtype` and look at every array that was made on the way."""
    dtype = np.dtype(dtype)
    others = {"float16", "float32", "float64"} - {dtype.name}
    for arrays, options in samples(op, seed):
        options = {k: (dtype if k == "dtype" else v) for k, v in options.items()}
        arrays = tuple(x.astype(dtype) if is_float_array(x) else x for x in arrays)
        wanted = differentiable(op, arrays)
        types = TypesSeen()
        with observing(types):
            inputs = tensors(arrays, wanted)
            y = op(*inputs, **there(options))
            found = [y]
            if wanted:
                variables = [inputs[i] for i in wanted]
                g = Tensor.made(there(np.ones(y.shape, dtype))).requires_grad_()
                rows = grad(y, variables, [g], create_graph=True, allow_unused=True)
                for row in rows:
                    found.append(row)
                    if row is not None and row.requires_grad:
                        found += grad(
                            row,
                            [*variables, g],
                            [there(np.ones(row.shape, dtype))],
                            retain_graph=True,
                            allow_unused=True,
                        )
        wide = {name: by for name, by in types.seen.items() if name in others}
        assert not wide, f"{op.name}: {dtype} became {wide}"
        for value in found:
            array = value.array if isinstance(value, Traced) else value
            assert array is None or array.dtype.kind != "f" or array.dtype == dtype


def frozen(arrays):
    """Return copies that cannot be written to."""
    copies = there([x.copy() if isinstance(x, np.ndarray) else x for x in arrays])
    for x in copies:
        if is_array(x):
            x.flags.writeable = False
    return copies


def check_inputs_stay_as_they_are(op, seed=0):
    """Forward and every rule must work on arrays that cannot be written to, and must not hand them out."""
    rng = np.random.default_rng(seed)
    for arrays, options in samples(op, seed):
        inputs, options = frozen(arrays), there(options)
        y = op(*inputs, **options)
        for i, x in enumerate(inputs):
            if is_array(x) and op.name not in VIEWS:
                assert not np.shares_memory(x, y), f"{op.name}: the result shares memory with input {i}"
        if y.dtype.kind != "f":
            continue
        (y, g) = frozen([y, rng.normal(size=y.shape)])
        for i in differentiable(op, arrays):
            op.rule(i)(g, y, *inputs, **options)


def layouts(x):
    """Yield the same values in other memory layouts."""
    if not isinstance(x, np.ndarray) or not x.ndim:
        yield from [x] * 4
        return
    yield np.asfortranarray(x)
    wide = np.zeros((*x.shape, 2), x.dtype)
    wide[..., 1] = x
    yield wide[..., 1]  # not contiguous
    yield x[tuple([slice(None, None, -1)] * x.ndim)].copy()[tuple([slice(None, None, -1)] * x.ndim)]  # strides < 0
    yield np.moveaxis(np.moveaxis(x, 0, -1).copy(), -1, 0)  # the batch innermost


def check_layouts(op, seed=0):
    rng = np.random.default_rng(seed)
    for arrays, options in samples(op, seed):
        y = op(*there(arrays), **there(options))
        g = rng.normal(size=y.shape)
        rules = differentiable(op, arrays) if y.dtype.kind == "f" else []
        expected = [op.rule(i)(there(g), y, *there(arrays), **there(options)) for i in rules]
        for variant in zip(*[list(layouts(x)) for x in arrays], strict=True):
            variant = there(variant)
            assert_near(op(*variant, **there(options)), y, f"{op.name}: other strides", 1e-12)
            for g_variant in map(there, layouts(g)):
                for i, e in zip(rules, expected, strict=True):
                    actual = op.rule(i)(g_variant, y, *variant, **there(options))
                    assert_near(actual, e, f"{op.name}: other strides, gradient of input {i}", 1e-12)


ALL_CHECKS = (
    check_forward,
    check_first_derivatives,
    check_second_derivatives,
    check_shape_rule,
    check_inputs_stay_as_they_are,
    check_layouts,
)

DIFFERENTIABLE = sorted(name for name, op in TABLE.items() if op.vjps)
