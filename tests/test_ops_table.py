"""Every op of the table against its twin, against differences, and against the promises of its record."""

import numpy as np
import op_checks
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from on_devices import there
from op_checks import DIFFERENTIABLE, VIEWS, is_float_array, samples
from op_twins import TWINS

import tinygrad_cnn
from tinygrad_cnn import Tensor, grad, ops
from tinygrad_cnn.errors import DataError, ShapeError
from tinygrad_cnn.op import TABLE

NAMES = sorted(name for name, op in TABLE.items() if op.__module__.startswith(tinygrad_cnn.__name__))
BROADCASTING = sorted(name for name in NAMES if TABLE[name].broadcasts)
ELEMENTWISE = sorted(
    name for name in NAMES if TABLE[name].inputs == ("x",) and TABLE[name].family in ("elementwise", "activation")
)
# Ops with one input that need an option to be called at all, and ops that want positive numbers.
POSITIVE = {"log", "sqrt", "log1p"}


@pytest.mark.parametrize("name", NAMES)
def test_a_registered_op_has_samples_and_a_twin(name):
    assert TABLE[name].samples is not None, f"{name} has no samples"
    assert len(samples(TABLE[name])) >= 1
    assert name in TWINS, f"{name} has no twin in tests/op_twins.py"


def test_no_twin_is_left_over_from_an_op_that_is_gone():
    assert set(TWINS) <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_input_has_a_rule_or_is_declared_constant(name):
    op = TABLE[name]
    assert set(op.vjps) | set(op.constants) == set(op.inputs)
    assert not set(op.vjps) & set(op.constants)


@pytest.mark.parametrize("name", NAMES)
def test_an_op_is_documented_and_every_rule_has_a_formula(name):
    op = TABLE[name]
    assert op.__doc__
    assert op.family
    for rule in op.vjps:
        assert op.texts[rule], f"the rule of {name}.{rule} has no formula"


@pytest.mark.parametrize("name", NAMES)
def test_forward_equals_its_twin(name):
    op_checks.check_forward(TABLE[name])


@pytest.mark.parametrize("name", NAMES)
def test_the_shape_rule_tells_the_shape_of_the_result(name):
    op_checks.check_shape_rule(TABLE[name])


@pytest.mark.parametrize("name", NAMES)
def test_the_flop_rule_counts_whole_operations(name):
    op = TABLE[name]
    for arrays, options in samples(op):
        shapes = [None if x is None else np.shape(x) for x in arrays]
        y = op.shape(*shapes, **options)
        flops = op.flops(y, *shapes, **options)
        assert type(flops) is int
        assert flops >= 0
        if op.family in ("elementwise", "activation", "regularisation") and y:
            assert flops % max(1, np.prod(y)) == 0, f"{name}: {flops} is no multiple of the number of elements"


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_first_derivatives_equal_differences(name):
    op_checks.check_first_derivatives(TABLE[name])


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_second_derivatives_equal_differences_for_every_pair_of_inputs(name):
    op_checks.check_second_derivatives(TABLE[name])


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("name", NAMES)
def test_a_float_type_stays_what_it_is_forward_and_backward(name, dtype):
    op_checks.check_type_is_kept(TABLE[name], dtype)


@pytest.mark.parametrize("name", NAMES)
def test_inputs_are_neither_written_to_nor_handed_out(name):
    op_checks.check_inputs_stay_as_they_are(TABLE[name])


@pytest.mark.parametrize("name", sorted(VIEWS))
def test_the_list_of_ops_that_return_views_names_no_others(name):
    found = False
    for arrays, options in samples(TABLE[name]):
        y = TABLE[name](*arrays, **options)
        found |= any(isinstance(x, np.ndarray) and np.shares_memory(x, y) for x in arrays)
    assert found


@pytest.mark.parametrize("name", NAMES)
def test_any_memory_layout_gives_the_same_result(name):
    op_checks.check_layouts(TABLE[name])


@pytest.mark.parametrize("name", [n for n in NAMES if TABLE[n].error_samples is not None])
@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: Tensor(x) if isinstance(x, np.ndarray) else x])
def test_wrong_inputs_are_refused_in_the_callers_words(name, wrap):
    op = TABLE[name]
    for arrays, options, error, message in op.error_samples(np.random.default_rng(0)):
        arrays = [wrap(x) for x in arrays]
        if error is DataError and any(isinstance(x, Tensor) and x.device.kind != "cpu" for x in arrays):
            assert np.isnan(op(*arrays, **options).array).any()  # values on a device are not looked at
            continue
        with pytest.raises(error) as caught:
            op(*arrays, **options)
        assert message in str(caught.value)


@pytest.mark.parametrize("name", [n for n in NAMES if not TABLE[n].variadic])
def test_a_wrong_number_of_inputs_and_an_unknown_option_are_type_errors(name):
    op = TABLE[name]
    arrays, options = samples(op)[0]
    with pytest.raises(TypeError, match=f"{name}\\(\\) takes"):
        op(*arrays, *[np.ones(2)] * 5, **options)
    with pytest.raises(TypeError, match="no option colour"):
        op(*arrays, **options, colour="red")


# Shapes


def some_values(op, shape, rng):
    return rng.uniform(0.5, 2.0, size=shape) if op.name in POSITIVE | {"div", "power"} else rng.normal(size=shape)


OPTIONS = {
    "astype": {"dtype": "float32"},
    "inside": {"low": -0.5, "high": 0.5},
    "slope": {"below": 0.1, "at_zero": 0.5},
    "tie_share": {"equal_share": 0.5},
}


@pytest.mark.parametrize("shape", [(), (1,), (0,), (1, 1), (2, 0, 3), (3, 1, 2)], ids=str)
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_elementwise_ops_take_every_shape(name, shape):
    op = TABLE[name]
    x = Tensor.made(some_values(op, shape, np.random.default_rng(0))).requires_grad_()
    y = op(x, **OPTIONS.get(name, {}))
    assert y.shape == shape
    assert np.allclose(y.array, TWINS[name](x.array, **op.complete(OPTIONS.get(name, {}))))
    if y.requires_grad:
        (gx,) = grad(y, x, np.ones(shape), allow_unused=True)
        assert gx.shape == shape
        assert type(gx.array) is type(x.array)


@pytest.mark.parametrize("name", [n for n in BROADCASTING if n not in ("matmul", "where")])
@settings(max_examples=15, deadline=None)
@given(shapes=hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=3, min_side=0, max_side=3))
def test_pairs_of_shapes_broadcast_and_gradients_come_back_in_the_shapes_of_the_inputs(name, shapes):
    op = TABLE[name]
    rng = np.random.default_rng(0)
    a, b = (Tensor.made(some_values(op, s, rng)).requires_grad_() for s in shapes.input_shapes)
    y = op(a, b, **OPTIONS.get(name, {}))
    assert y.shape == shapes.result_shape == op.shape(a.shape, b.shape, **op.complete(OPTIONS.get(name, {})))
    if y.requires_grad:
        seed = rng.normal(size=y.shape)
        ga, gb = grad(y, [a, b], [seed])
        assert (ga.shape, gb.shape) == (a.shape, b.shape)
        # Stretched beforehand, the gradients are those of the stretched arrays, summed.
        wide = [Tensor.made(np.broadcast_to(x.array, y.shape).copy()).requires_grad_() for x in (a, b)]
        for narrow, full in zip((ga, gb), grad(op(*wide), wide, [seed]), strict=True):
            expected = TWINS["sum_to"](full.array, shape=narrow.shape)
            assert np.allclose(narrow.array, expected)


@settings(max_examples=30, deadline=None)
@given(shapes=hnp.mutually_broadcastable_shapes(num_shapes=3, max_dims=3, min_side=0, max_side=3))
def test_where_broadcasts_all_three_inputs(shapes):
    rng = np.random.default_rng(0)
    condition, a, b = (rng.normal(size=s) for s in shapes.input_shapes)
    y = ops.where(condition > 0, a, b)
    assert y.shape == shapes.result_shape
    assert np.array_equal(y, TWINS["where"](condition > 0, a, b))


@settings(max_examples=40, deadline=None)
@given(shapes=hnp.mutually_broadcastable_shapes(signature=np.matmul.signature, max_dims=2, min_side=0, max_side=3))
def test_matmul_takes_every_pair_of_shapes_that_numpy_takes(shapes):
    rng = np.random.default_rng(0)
    a, b = (Tensor.made(rng.normal(size=s)).requires_grad_() for s in shapes.input_shapes)
    y = ops.matmul(a, b)
    assert y.shape == shapes.result_shape == TABLE["matmul"].shape(a.shape, b.shape)
    assert np.allclose(y.array, TWINS["matmul"](a.array, b.array))
    seed = rng.normal(size=y.shape)
    ga, gb = grad(y, [a, b], [seed])
    for x, gx in ((a, ga), (b, gb)):
        if x.size:
            direction = rng.normal(size=x.shape)
            moved = [Tensor.made(v.array + direction) if v is x else v for v in (a, b)]
            change = ((ops.matmul(*moved).array - y.array) * seed).sum()
            assert np.isclose((gx.array * direction).sum(), change)  # exact: the product is linear in each


@settings(max_examples=60, deadline=None)
@given(data=st.data(), shape=hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
def test_basic_and_advanced_indices_give_what_numpy_gives(data, shape):
    x = Tensor.made(np.random.default_rng(0).normal(size=shape)).requires_grad_()
    kinds = [hnp.basic_indices(shape, allow_newaxis=True)]
    if shape and 0 not in shape:
        kinds.append(hnp.integer_array_indices(shape, result_shape=hnp.array_shapes(max_dims=2, max_side=3)))
        kinds.append(hnp.arrays(bool, shape))
    index = data.draw(st.one_of(kinds))
    y = x[index]
    assert np.array_equal(y.array, x.array[index])
    counts = np.zeros(shape)
    np.add.at(counts, index, 1.0)
    (gx,) = grad(y, x, np.ones(y.shape))
    assert np.array_equal(gx.array, counts)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), shape=hnp.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=4), keepdims=st.booleans())
@pytest.mark.parametrize("name", ["sum", "mean", "var", "amax", "amin", "prod", "logsumexp"])
def test_reductions_take_every_choice_of_axes(name, data, shape, keepdims):
    axis = data.draw(st.one_of(st.none(), st.integers(-len(shape), len(shape) - 1), hnp.valid_tuple_axes(len(shape))))
    x = np.random.default_rng(0).normal(size=shape)
    numpy_name = {"logsumexp": None}.get(name, name)
    expected = (
        np.log(np.exp(x).sum(axis=axis, keepdims=keepdims))
        if numpy_name is None
        else getattr(np, numpy_name)(x, axis=axis, keepdims=keepdims)
    )
    tensor = Tensor.made(x).requires_grad_()
    y = TABLE[name](tensor, axis=axis, keepdims=keepdims)
    assert y.shape == np.shape(expected)
    assert np.allclose(y.array, expected)
    (gx,) = grad(y, tensor, np.ones(y.shape))
    assert gx.shape == shape


# Types


@pytest.mark.parametrize("name", [n for n in BROADCASTING if n not in ("matmul", "where")])
@pytest.mark.parametrize(
    "number", [2, 1.5, True, np.float64(1.5), np.sqrt(2), np.int64(3), np.float16(0.5)], ids=lambda v: type(v).__name__
)
def test_a_number_never_changes_the_float_type_of_a_tensor(name, number):
    op = TABLE[name]
    options = OPTIONS.get(name, {})
    for dtype in ("float16", "float32", "float64"):
        x = Tensor(np.full((2, 2), 1.25), dtype=dtype, requires_grad=True)
        for y in (op(x, number, **options), op(number, x, **options)):
            assert y.dtype in (np.dtype(dtype), np.dtype(bool))
            if y.requires_grad:
                (gx,) = grad(y, x, np.ones((2, 2)), allow_unused=True)
                assert gx.dtype == np.dtype(dtype)


@pytest.mark.parametrize("name", [n for n in BROADCASTING if n not in ("matmul", "where") and TABLE[n].vjps])
@pytest.mark.parametrize("whole", ["int8", "int32", "int64", "uint8"])
def test_an_array_of_whole_numbers_takes_the_float_type_it_meets(name, whole):
    numbers = Tensor(np.array([1, 2, 3]), dtype=whole)
    x = Tensor([0.5, 1.5, 2.5], requires_grad=True)
    for y in (TABLE[name](x, numbers), TABLE[name](numbers, x)):
        assert y.dtype == np.float32
        (gx,) = grad(y, x, np.ones(3))
        assert gx.dtype == np.float32


def test_joining_whole_numbers_to_floats_keeps_the_float_type():
    x, numbers = Tensor([[1.0]]), Tensor([[2]])
    assert ops.concatenate(x, numbers).dtype == np.float32
    assert ops.stack(numbers, x).dtype == np.float32
    assert ops.matmul(x, numbers).dtype == np.float32


def test_tensors_of_whole_numbers_become_float32():
    x = Tensor([1, 2, 3])
    for y in (x / 2, x / x, x * 0.5, 0.5 + x, x**0.5, x.mean(), x.var(), x.exp(), x.sqrt(), x.sigmoid(), x.softmax(0)):
        assert y.dtype == np.float32
    assert (Tensor([True, False]) == Tensor([True, True])).mean().dtype == np.float32
    assert (Tensor(np.zeros((2, 2), np.uint8)) / 255).dtype == np.float32
    assert (x * 2).dtype == np.int64
    assert x.double().dtype == np.float64
    assert (x * there(np.ones(3))).dtype == np.float64
    assert ops.where(x > 1, there(np.ones(3)), 0.0).dtype == np.float64


def test_two_float_types_give_the_wider_one_and_gradients_return_in_their_own():
    narrow, wide = Tensor([1.0, 2.0], requires_grad=True), Tensor([3.0, 4.0], dtype="float64", requires_grad=True)
    y = narrow * wide
    assert y.dtype == np.float64
    y.sum().backward()
    assert narrow.grad.dtype == np.float32
    assert wide.grad.dtype == np.float64


def test_a_choice_between_two_python_floats_is_float32():
    assert ops.where(Tensor([True, False]), 1.0, 0.0).dtype == np.float32
    assert ops.where(Tensor([True, False]), 1, 0).dtype == np.int64


def test_a_list_in_place_of_a_tensor_promotes_nothing():
    y = Tensor([1.0, 2.0]) * [0.5, 0.25]
    assert y.dtype == np.float32
    assert y.tolist() == [0.5, 0.5]


def test_numbers_alone_make_an_array_without_axes():
    for y in (ops.exp(0.0), ops.relu(-1.5), ops.sum(2.0), ops.add(1, 2.5)):
        assert type(y) is np.ndarray
        assert y.shape == ()
        assert y.dtype == np.float32
    assert ops.exp(np.float64(1.0)).dtype == np.float64


@pytest.mark.parametrize(
    "value", [np.array([1j]), np.array(["a"]), 1j, "a", object(), np.array([None])], ids=lambda v: type(v).__name__
)
def test_what_is_no_number_is_refused_with_its_type(value):
    with pytest.raises(TypeError):
        Tensor([1.0]) * value


# Subgradients: what every op does at its kinks and ties is part of its contract


def derivative(function, *values):
    inputs = [Tensor(v, dtype="float64", requires_grad=True) for v in values]
    found = grad(function(*inputs).sum(), inputs, allow_unused=True)
    return [None if g is None else g.tolist() for g in found]


@pytest.mark.parametrize(
    ("at_zero", "slope"), [("left", 0), ("right", 1), ("average", 0.5), (0.25, 0.25), (0, 0), (1, 1)]
)
def test_relu_takes_the_derivative_at_zero_that_was_asked_for(at_zero, slope):
    assert derivative(lambda x: x.relu(at_zero=at_zero), [-1.0, 0.0, -0.0, 2.0]) == [[0, slope, slope, 1]]


def test_relu_has_derivative_zero_at_zero_unless_told_otherwise():
    assert derivative(lambda x: x.relu(), [0.0]) == [[0]]
    x = Tensor([0.0], requires_grad=True)
    assert x.relu(at_zero="average").node.options == {"at_zero": 0.5}


@pytest.mark.parametrize(("at_zero", "slope"), [("left", 0.25), ("right", 1), ("average", 0.625), (0.2, 0.4)])
def test_leaky_relu_mixes_its_two_slopes_at_zero(at_zero, slope):
    assert derivative(lambda x: x.leaky_relu(0.25, at_zero=at_zero), [-1.0, 0.0, 2.0]) == [[0.25, slope, 1]]


@pytest.mark.parametrize("name", ["maximum", "minimum"])
@pytest.mark.parametrize(("ties", "shares"), [("first", (1, 0)), ("split", (0.5, 0.5))])
def test_the_larger_and_smaller_of_two_equal_numbers_follow_the_rule_of_ties(name, ties, shares):
    a, b = derivative(lambda a, b: TABLE[name](a, b, ties=ties), [3.0], [3.0])
    assert (a[0], b[0]) == shares


@pytest.mark.parametrize("name", ["amax", "amin"])
def test_extremes_follow_the_rule_of_ties(name):
    tied = [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
    op = TABLE[name]
    assert derivative(lambda x: op(x), tied) == [[[1, 0, 0], [0, 0, 0]]]
    assert derivative(lambda x: op(x, axis=0), tied) == [[[1, 1, 1], [0, 0, 0]]]
    assert derivative(lambda x: op(x, axis=1, ties="split"), [[1.0, 1.0], [2.0, 2.0]]) == [[[0.5, 0.5], [0.5, 0.5]]]


@pytest.mark.parametrize(
    ("ties", "expected"),
    [("first", [[1.0, 0.0], [0.0, 0.0]]), ("split", [[0.25, 0.25], [0.25, 0.25]])],
)
def test_a_max_pool_over_equal_pixels_follows_the_rule_of_ties(ties, expected):
    x = np.ones((1, 1, 2, 2))
    (gx,) = derivative(lambda x: ops.max_pool2d(x, kernel=2, stride=2, ties=ties), x)
    assert gx == [[expected]]


def test_the_whole_gradient_arrives_once_whatever_the_ties():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 2, size=(2, 3, 6, 6)).astype(float)
    for ties in ("first", "split"):
        (gx,) = derivative(lambda x, ties=ties: ops.max_pool2d(x, kernel=3, stride=3, ties=ties), x)
        assert np.isclose(np.sum(gx), 2 * 3 * 4)
        (gx,) = derivative(lambda x, ties=ties: ops.amax(x, axis=(1, 3), ties=ties), x)
        assert np.isclose(np.sum(gx), 2 * 6)


def test_max_pooling_pads_with_minus_infinity():
    x = np.full((1, 1, 3, 3), -5.0)
    y = ops.max_pool2d(x, kernel=3, stride=1, padding=1)
    assert np.array_equal(y, x)


def test_kinks_without_a_choice_take_their_documented_derivative():
    assert derivative(lambda x: x.abs(), [0.0, -0.0, 2.0, -2.0]) == [[0, 0, 1, -1]]
    assert derivative(lambda x: x.clip(-1, 1), [-2.0, -1.0, 0.0, 1.0, 2.0]) == [[0, 1, 1, 1, 0]]
    assert derivative(lambda x: x.elu(0.5), [0.0]) == [[0.5]]


# Numbers at the edge of what floats can hold


def test_functions_with_exponentials_do_not_overflow():
    x = Tensor([-1e4, -100.0, 0.0, 100.0, 1e4, np.inf, -np.inf], dtype="float32", requires_grad=True)
    assert x.sigmoid().tolist() == [0, pytest.approx(3.8e-44, rel=0.1), 0.5, 1, 1, 1, 0]
    assert x.softplus().tolist()[3:6] == [100, 1e4, np.inf]
    assert x.elu().tolist()[:2] == [-1, -1]
    for function in (ops.sigmoid, ops.softplus, ops.tanh, ops.elu, ops.relu):
        (gx,) = grad(function(x), x, np.ones(7))
        assert np.isfinite(gx.array).all(), function
    logits = Tensor([[1000.0, 0.0], [-1000.0, -1000.0]], requires_grad=True)
    assert np.isfinite(logits.softmax(axis=1).array).all()
    assert logits.log_softmax(axis=1).tolist()[0] == [0, -1000]
    assert logits.logsumexp(axis=1).tolist() == pytest.approx([1000, -1000 + np.log(2)])


def test_a_masked_score_of_minus_infinity_gets_no_weight_and_no_gradient():
    x = Tensor([[1.0, -np.inf, 2.0]], requires_grad=True)
    y = x.softmax(axis=1)
    assert y.tolist()[0][1] == 0
    (gx,) = grad(y, x, np.array([[1.0, 1.0, 0.0]]))
    assert gx.tolist()[0][1] == 0
    everything = Tensor([-np.inf, -np.inf], requires_grad=True)
    total = everything.logsumexp()
    assert total.item() == -np.inf
    total.backward()
    assert everything.grad.tolist() == [0, 0]


def test_nan_is_the_maximum_and_gets_the_gradient():
    x = Tensor([1.0, np.nan, 2.0], requires_grad=True)
    y = x.max()
    assert np.isnan(y.item())
    y.backward()
    assert x.grad.tolist() == [0, 1, 0]


def test_power_has_finite_derivatives_where_they_exist():
    assert derivative(lambda a, b: a**b, [0.0, 0.0, 2.0], [2.0, 0.0, 0.0]) == [
        [0, 0, 0],
        [0, 0, pytest.approx(0.6931472)],
    ]
    assert derivative(lambda a: a**2, [-3.0, 0.0]) == [[-6, 0]]
    assert derivative(lambda a: a**0, [0.0]) == [[0]]
    assert derivative(lambda b: 0**b, [2.0]) == [[0]]


def test_a_product_with_zeros_has_the_product_of_the_others_as_derivative():
    assert derivative(lambda x: x.prod(), [2.0, 0.0, 3.0]) == [[0, 6, 0]]
    assert derivative(lambda x: x.prod(), [2.0, 0.0, 0.0]) == [[0, 0, 0]]


def test_erf_is_exact_over_its_whole_range():
    import math

    x = np.linspace(-7, 7, 1001)
    assert np.array_equal(ops.erf(x), [math.erf(v) for v in x])
    assert np.isnan(ops.erf(np.array([np.nan]))).all()
    assert ops.erf(np.array([np.inf, -np.inf])).tolist() == [1, -1]


def test_einsum_takes_a_diagonal_without_touching_the_rest():
    x = np.array([[1.0, np.inf], [np.nan, 2.0]])
    assert ops.einsum("ii->i", x).tolist() == [1, 2]
    assert ops.einsum("ii", x).item() == 3


def test_einsum_equals_numpys_for_large_arrays_too():
    rng = np.random.default_rng(0)
    a, b, c = rng.normal(size=(40, 50)), rng.normal(size=(50, 60)), rng.normal(size=(60, 3))
    for spec, arrays in (
        ("ij,jk->ik", (a, b)),
        ("ij,jk->ki", (a, b)),
        ("ij,jk,kl->il", (a, b, c)),
        ("ij,ij->j", (a, a)),
    ):
        assert np.allclose(ops.einsum(spec, *arrays), np.einsum(spec, *arrays))


def test_labels_are_checked_before_they_index():
    with pytest.raises(ShapeError, match="one label per row"):
        ops.pick(Tensor(np.ones((3, 4))), Tensor(np.zeros((3, 1), int)))


def test_every_float_input_of_a_sample_is_differentiable_or_constant():
    for name in NAMES:
        op = TABLE[name]
        for arrays, _ in samples(op):
            for i, x in enumerate(arrays):
                input_name = op.inputs[min(i, len(op.inputs) - 1)]
                assert not is_float_array(x) or op.rule(i) is not None or input_name in op.constants
