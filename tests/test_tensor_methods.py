"""Tensors: making them, what they say about themselves, every method against NumPy, the names PyTorch users know."""

import copy
import pickle

import numpy as np
import pytest
from on_devices import there

import tinygrad_cnn as tg
from tinygrad_cnn import Tensor, float16, float32, float64, no_grad
from tinygrad_cnn.errors import DeviceError, DTypeError, GraphError, OptionError, ShapeError

X = np.random.default_rng(0).normal(size=(2, 3, 4))
POSITIVE = np.abs(X) + 0.5


# Making


@pytest.mark.parametrize(
    ("data", "dtype"),
    [
        (1.5, float32),
        ([1.0, 2.0], float32),
        ([[1, 2], [3, 4]], np.int64),
        (True, np.bool_),
        ([True, False], np.bool_),
        ([1, 2.5], float32),
        (np.ones(2), float64),
        (np.ones(2, np.float16), float16),
        (np.ones(2, np.uint8), np.uint8),
        (np.float64(2.0), float64),
        ((1.0, 2.0), float32),
        (range(3), np.int64),
        ([], float32),
    ],
)
def test_python_floats_become_float32_and_arrays_keep_their_type(data, dtype):
    x = Tensor(data)
    assert x.dtype == dtype
    assert x.tolist() == np.asarray(data).tolist()
    assert type(x.array) is type(tg.zeros(1).array)


def test_data_is_copied():
    source = np.ones(2)
    for x in (Tensor(source), tg.tensor(source), Tensor(Tensor(source))):
        source[0] = 9
        assert x.tolist()[1] == 1
        assert not np.shares_memory(x.array, source)


def test_tensors_among_the_data_keep_their_type():
    a, b = Tensor(1.0, dtype="float64"), Tensor(1 / 3, dtype="float64")
    assert Tensor([a, b]).tolist() == [1.0, 1 / 3]
    assert Tensor([a, b]).dtype == float64
    assert Tensor([[a, b], [b, a]]).shape == (2, 2)
    assert Tensor([Tensor([1.0]), Tensor([2.0])]).shape == (2, 1)


def test_a_foreign_byte_order_is_brought_into_the_machines():
    x = Tensor(np.array([1, 2], ">i4"))
    assert x.dtype == np.int32
    assert x.dtype.isnative
    assert (x + 1).tolist() == [2, 3]
    assert Tensor(np.array([1.5], ">f8"), dtype=">f4").dtype.isnative


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", float16, np.float64, float, int, bool, "int8"])
def test_a_type_can_be_given_in_many_ways(dtype):
    assert Tensor([1, 0], dtype=dtype).dtype == np.dtype(dtype)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("text", "element type <U4"),
        ([1j], "element type complex128"),
        ([[1], [1, 2]], "cannot make a tensor of list"),
        (None, "cannot make a tensor of NoneType"),
        ({}, "cannot make a tensor of dict"),
        (2**70, "cannot make a tensor of int"),
    ],
)
def test_what_is_no_number_is_refused(data, message):
    with pytest.raises(DTypeError, match=message):
        Tensor(data)


def test_types_that_tensors_cannot_hold_are_refused():
    for dtype in ("complex64", "float128", "U3", object, "colour"):
        with pytest.raises(DTypeError, match=r"element types are|no element type|cannot hold"):
            Tensor([1.0], dtype=dtype)


def test_only_floats_can_require_a_gradient():
    with pytest.raises(DTypeError, match=r"only float tensors can require a gradient, this one holds int64"):
        Tensor([1, 2], requires_grad=True)
    assert Tensor([1.0]).requires_grad_().requires_grad
    assert not Tensor([1.0], requires_grad=True).requires_grad_(False).requires_grad
    with pytest.raises(GraphError, match="detach"):
        (Tensor([1.0], requires_grad=True) * 2).requires_grad_(False)


def test_unknown_devices_are_refused():
    with pytest.raises(DeviceError, match="no device kind 'tpu'"):
        Tensor([1.0], device="tpu")
    assert Tensor([1.0], device="cpu").device == tg.Device("cpu")


def test_filled_tensors():
    assert tg.zeros(2, 3).tolist() == np.zeros((2, 3)).tolist()
    assert tg.zeros((2, 3)).shape == (2, 3)
    assert tg.ones(()).item() == 1
    assert tg.zeros().shape == ()
    assert tg.ones(2, dtype="int32").dtype == np.int32
    assert tg.zeros(2, requires_grad=True).requires_grad
    assert [tg.full((2,), v).dtype for v in (1.5, 3, True)] == [float32, np.int64, np.bool_]
    assert tg.eye(2, 3).tolist() == np.eye(2, 3).tolist()
    assert (tg.zeros(1).dtype, tg.ones(1).dtype, tg.eye(1).dtype) == (float32,) * 3
    with pytest.raises(ShapeError, match="negative"):
        tg.zeros(2, -1)
    with pytest.raises(OptionError, match="a shape is"):
        tg.zeros(2.5)
    with pytest.raises(OptionError, match="one number"):
        tg.full((2,), [1, 2])


def test_arange_counts_like_numpy():
    for args in ((5,), (1, 4), (0, 10, 3), (5, 0, -2), (0,)):
        assert tg.arange(*args).tolist() == np.arange(*args).tolist()
        assert tg.arange(*args).dtype == np.int64
    assert tg.arange(0.0, 1.0, 0.25).dtype == float32
    assert tg.arange(3, dtype="float16").dtype == float16
    with pytest.raises(OptionError, match="step"):
        tg.arange(0, 1, 0)


def test_random_tensors_follow_the_seed():
    def draw():
        tg.manual_seed(7)
        return tg.rand(2, 3), tg.randn(4), tg.rand(5, dtype="float64"), tg.randn(2, dtype="float16")

    first, second = draw(), draw()
    for a, b in zip(first, second, strict=True):
        assert a.tolist() == b.tolist()
    assert [x.dtype for x in first] == [float32, float32, float64, float16]
    assert first[0].min().item() >= 0
    assert first[0].max().item() < 1
    sample = tg.randn(20_000)
    assert abs(sample.mean().item()) < 0.05
    assert abs(sample.std().item() - 1) < 0.05
    with pytest.raises(DTypeError, match="random numbers are floats"):
        tg.rand(2, dtype="int64")


# What it is


def test_attributes_tell_shape_size_and_type():
    x = Tensor(X)
    assert (x.shape, x.ndim, x.size, x.nbytes, x.dtype) == (X.shape, 3, 24, 192, float64)
    assert (x.numel(), x.dim(), len(x)) == (24, 3, 2)
    assert x.is_leaf
    assert not (x * Tensor(1.0, requires_grad=True)).is_leaf
    with pytest.raises(TypeError, match="no length"):
        len(Tensor(1.0))


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Tensor([1.0, 2.5]), "Tensor([1. , 2.5], dtype=float32)"),
        (lambda: Tensor(3), "Tensor(3, dtype=int64)"),
        (lambda: Tensor([1.0], requires_grad=True), "Tensor([1.], dtype=float32, requires_grad=True)"),
        (lambda: Tensor([1.0], requires_grad=True) * 2, "Tensor([2.], dtype=float32, made_by=mul)"),
        (lambda: Tensor([True], name="mask"), "Tensor([ True], dtype=bool, name='mask')"),
        (lambda: Tensor(np.zeros((0, 3))), "Tensor([], shape=(0, 3), dtype=float64)"),
        (lambda: Tensor([[1, 2], [3, 4]]), "Tensor([[1, 2],\n        [3, 4]], dtype=int64)"),
    ],
)
def test_repr_shows_values_type_and_origin(make, text):
    assert repr(make()) == text


def test_repr_of_a_large_tensor_is_short():
    assert len(repr(Tensor(np.zeros((100, 100, 100))))) < 2000


def test_format_takes_number_formats():
    assert f"{Tensor(1.23456):.2f}" == "1.23"
    assert f"{Tensor([1.0])}" == repr(Tensor([1.0]))


# Out of the tensor


def test_numbers_come_out_as_python_numbers():
    assert type(Tensor(1.5).item()) is float
    assert type(Tensor([[2]]).item()) is int
    assert (float(Tensor(1.5)), int(Tensor(2.0)), bool(Tensor(0.0)), bool(Tensor([3]))) == (1.5, 2, False, True)
    assert [10, 20, 30][Tensor(1)] == 20
    assert list(range(Tensor(2))) == [0, 1]
    with pytest.raises(ShapeError, match=r"one element, this one has shape \(2,\)"):
        Tensor([1.0, 2.0]).item()
    with pytest.raises(ShapeError, match=r"use \.any\(\), \.all\(\)"):
        bool(Tensor([1.0, 2.0]))
    with pytest.raises(TypeError, match="index"):
        [1, 2][Tensor(1.0)]


def test_iteration_gives_rows_that_are_recorded():
    x = Tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    first, second = x
    (first * 2 + second).sum().backward()
    assert x.grad.tolist() == [[2, 2], [1, 1]]
    with pytest.raises(TypeError, match="iterated"):
        iter(Tensor(1.0))


def test_tensors_are_hashed_by_identity():
    a, b = Tensor(1.0), Tensor(1.0)
    assert len({a, b, a}) == 2


# Every method against NumPy


METHODS = {
    "abs": (lambda t: t.abs(), np.abs),
    "exp": (lambda t: t.exp(), np.exp),
    "tanh": (lambda t: t.tanh(), np.tanh),
    "sigmoid": (lambda t: t.sigmoid(), lambda x: 1 / (1 + np.exp(-x))),
    "softplus": (lambda t: t.softplus(), lambda x: np.log(1 + np.exp(x))),
    "relu": (lambda t: t.relu(), lambda x: np.maximum(x, 0)),
    "leaky_relu": (lambda t: t.leaky_relu(0.1), lambda x: np.where(x > 0, x, 0.1 * x)),
    "elu": (lambda t: t.elu(), lambda x: np.where(x > 0, x, np.exp(x) - 1)),
    "clip": (lambda t: t.clip(-0.5, 0.5), lambda x: x.clip(-0.5, 0.5)),
    "clamp": (lambda t: t.clamp(min=0), lambda x: x.clip(0)),
    "maximum": (lambda t: t.maximum(0.3), lambda x: np.maximum(x, 0.3)),
    "minimum": (lambda t: t.minimum(there(X[0])), lambda x: np.minimum(x, X[0])),
    "pow": (lambda t: t.pow(3), lambda x: x**3),
    "where": (lambda t: t.where(there(X > 0), 0), lambda x: np.where(X > 0, x, 0)),
    "eq": (lambda t: t.eq(there(X)), lambda x: x == X),
    "neg": (lambda t: -t, lambda x: -x),
    "pos": (lambda t: +t, lambda x: x),
    "invert": (lambda t: ~(t > 0), lambda x: ~(x > 0)),
    "add": (lambda t: t + there(X[0]) + 1, lambda x: x + X[0] + 1),
    "radd": (lambda t: 1 + t, lambda x: 1 + x),
    "sub": (lambda t: t - there(X[:, :1]) - 1, lambda x: x - X[:, :1] - 1),
    "rsub": (lambda t: 1 - t, lambda x: 1 - x),
    "mul": (lambda t: t * there(X) * 2, lambda x: x * X * 2),
    "rmul": (lambda t: 2 * t, lambda x: 2 * x),
    "div": (lambda t: t / there(POSITIVE) / 2, lambda x: x / POSITIVE / 2),
    "rdiv": (lambda t: 1 / t, lambda x: 1 / x),
    "power operator": (lambda t: t**2, lambda x: x**2),
    "rpow": (lambda t: 2**t, lambda x: 2**x),
    "matmul": (lambda t: t @ there(X[0].T), lambda x: x @ X[0].T),
    "rmatmul": (lambda t: Tensor(X[:, 0]) @ t.reshape(4, 6), lambda x: X[:, 0] @ x.reshape(4, 6)),
    "matmul method": (lambda t: t.matmul(there(X[0].T)), lambda x: x @ X[0].T),
    "comparisons": (lambda t: (t < 0) | True if False else (t < 0), lambda x: x < 0),
    "less or equal": (lambda t: t <= there(X[0]), lambda x: x <= X[0]),
    "greater": (lambda t: t > 0, lambda x: x > 0),
    "greater or equal": (lambda t: t >= there(X[0]), lambda x: x >= X[0]),
    "equal": (lambda t: t == there(X[0]), lambda x: x == X[0]),
    "not equal": (lambda t: t != there(X[0]), lambda x: x != X[0]),
    "reshape": (lambda t: t.reshape(4, -1), lambda x: x.reshape(4, -1)),
    "reshape of a tuple": (lambda t: t.reshape((3, 8)), lambda x: x.reshape(3, 8)),
    "view": (lambda t: t.view(6, 4), lambda x: x.reshape(6, 4)),
    "view_as": (lambda t: t.view_as(Tensor(np.zeros((8, 3)))), lambda x: x.reshape(8, 3)),
    "transpose": (lambda t: t.transpose(), lambda x: x.transpose()),
    "transpose of axes": (lambda t: t.transpose(1, 0, 2), lambda x: x.transpose(1, 0, 2)),
    "permute": (lambda t: t.permute(2, 0, 1), lambda x: x.transpose(2, 0, 1)),
    "permute of a tuple": (lambda t: t.permute((2, 0, -2)), lambda x: x.transpose(2, 0, 1)),
    "T": (lambda t: t.T, lambda x: x.T),
    "mT": (lambda t: t.mT, lambda x: x.swapaxes(-1, -2)),
    "t": (lambda t: t[0].t(), lambda x: x[0].T),
    "swapaxes": (lambda t: t.swapaxes(0, -1), lambda x: x.swapaxes(0, -1)),
    "flatten": (lambda t: t.flatten(), lambda x: x.reshape(-1)),
    "flatten from 1": (lambda t: t.flatten(1), lambda x: x.reshape(2, 12)),
    "flatten a number": (lambda t: t.sum().flatten(), lambda x: x.sum().reshape(1)),
    "ravel": (lambda t: t.ravel(), lambda x: x.ravel()),
    "squeeze": (lambda t: t[:, :1].squeeze(), lambda x: x[:, 0]),
    "squeeze an axis": (lambda t: t[:1, :1].squeeze(1), lambda x: x[:1, 0]),
    "unsqueeze": (lambda t: t.unsqueeze(-1), lambda x: x[..., None]),
    "unsqueeze dim": (lambda t: t.unsqueeze(dim=0), lambda x: x[None]),
    "expand": (lambda t: t[:, :1].expand(-1, 5, -1), lambda x: np.broadcast_to(x[:, :1], (2, 5, 4))),
    "expand with new axes": (lambda t: t.expand(7, 2, 3, 4), lambda x: np.broadcast_to(x, (7, 2, 3, 4))),
    "broadcast_to": (lambda t: t.broadcast_to((2, 2, 3, 4)), lambda x: np.broadcast_to(x, (2, 2, 3, 4))),
    "flip": (lambda t: t.flip((0, 2)), lambda x: np.flip(x, (0, 2))),
    "flip all": (lambda t: t.flip(), np.flip),
    "split": (lambda t: t.split(2, axis=2)[1], lambda x: np.split(x, 2, 2)[1]),
    "split at": (lambda t: t.split([1, 3], 2)[1], lambda x: np.split(x, [1, 3], 2)[1]),
    "pad": (
        lambda t: t.pad([(1, 0), (0, 0), (2, 1)], 5),
        lambda x: np.pad(x, [(1, 0), (0, 0), (2, 1)], constant_values=5),
    ),
    "contiguous": (lambda t: t.contiguous(), lambda x: x),
    "index": (lambda t: t[1, ..., ::2], lambda x: x[1, ..., ::2]),
    "index by a list": (lambda t: t[[1, 0, 1]], lambda x: x[[1, 0, 1]]),
    "index by a tensor": (lambda t: t[:, Tensor([2, 0])], lambda x: x[:, [2, 0]]),
    "index by a mask": (lambda t: t[t > 0], lambda x: x[x > 0]),
    "index by a number tensor": (lambda t: t[Tensor(1)], lambda x: x[1]),
    "index by a NumPy number": (lambda t: t[np.int64(1), None], lambda x: x[1, None]),
    "sum": (lambda t: t.sum(), np.sum),
    "sum over axes": (lambda t: t.sum((0, 2), keepdims=True), lambda x: x.sum((0, 2), keepdims=True)),
    "mean": (lambda t: t.mean(axis=1), lambda x: x.mean(1)),
    "var": (lambda t: t.var(1, correction=1), lambda x: x.var(1, ddof=1)),
    "std": (lambda t: t.std((0, 1)), lambda x: x.std((0, 1))),
    "max": (lambda t: t.max(-1), lambda x: x.max(-1)),
    "min": (lambda t: t.min(axis=0, keepdims=True), lambda x: x.min(0, keepdims=True)),
    "argmax": (lambda t: t.argmax(), np.argmax),
    "argmax over an axis": (lambda t: t.argmax(1, keepdims=True), lambda x: x.argmax(1, keepdims=True)),
    "argmin": (lambda t: t.argmin(axis=2), lambda x: x.argmin(2)),
    "prod": (lambda t: t.prod(2), lambda x: x.prod(2)),
    "cumsum": (lambda t: t.cumsum(1), lambda x: x.cumsum(1)),
    "cumsum of all": (lambda t: t.cumsum(), lambda x: x.cumsum()),
    "logsumexp": (lambda t: t.logsumexp(1), lambda x: np.log(np.exp(x).sum(1))),
    "softmax": (lambda t: t.softmax(2), lambda x: np.exp(x) / np.exp(x).sum(2, keepdims=True)),
    "log_softmax": (lambda t: t.log_softmax(0), lambda x: x - np.log(np.exp(x).sum(0, keepdims=True))),
    "dim and keepdim": (lambda t: t.sum(dim=1, keepdim=True), lambda x: x.sum(1, keepdims=True)),
    "mean dim": (lambda t: t.mean(dim=(0, 1)), lambda x: x.mean((0, 1))),
    "max dim": (lambda t: t.max(dim=1), lambda x: x.max(1)),
    "argmax dim": (lambda t: t.argmax(dim=1), lambda x: x.argmax(1)),
    "softmax dim": (lambda t: t.softmax(dim=-1), lambda x: np.exp(x) / np.exp(x).sum(-1, keepdims=True)),
    "cumsum dim": (lambda t: t.cumsum(dim=0), lambda x: x.cumsum(0)),
    "squeeze dim": (lambda t: t[:1].squeeze(dim=0), lambda x: x[0]),
    "clone": (lambda t: t.clone(), lambda x: x),
    "detach": (lambda t: t.detach(), lambda x: x),
    "float": (lambda t: t.float(), lambda x: x.astype("f4")),
    "double": (lambda t: t.double(), lambda x: x),
    "long": (lambda t: (t * 10).long(), lambda x: (x * 10).astype("i8")),
    "bool": (lambda t: (t > 0).bool(), lambda x: x > 0),
    "astype": (lambda t: t.astype("float16"), lambda x: x.astype("f2")),
    "to": (lambda t: t.to(float32), lambda x: x.astype("f4")),
    "to like": (lambda t: t.to(Tensor([1.0])), lambda x: x.astype("f4")),
    "to device and type": (lambda t: t.to(t.device, float32), lambda x: x.astype("f4")),
    "cpu": (lambda t: t.cpu(), lambda x: x),
}


@pytest.mark.parametrize("name", METHODS)
def test_a_method_gives_what_numpy_gives(name):
    ours, theirs = METHODS[name]
    expected = np.asarray(theirs(X))
    actual = ours(Tensor(X))
    assert isinstance(actual, Tensor)
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    assert np.allclose(actual.array, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["log", "sqrt", "log1p"])
def test_a_method_for_positive_numbers_gives_what_numpy_gives(name):
    assert np.allclose(getattr(Tensor(POSITIVE), name)().array, getattr(np, name)(POSITIVE))


def test_gelu_is_x_times_the_normal_distribution():
    import math

    expected = [x * 0.5 * (1 + math.erf(x / math.sqrt(2))) for x in X[0, 0]]
    assert np.allclose(Tensor(X[0, 0]).gelu().array, expected)
    assert np.allclose(Tensor(X[0, 0]).gelu("tanh").array, expected, atol=1e-3)
    with pytest.raises(OptionError, match="approximate"):
        Tensor(X).gelu("erf")


def test_any_and_all():
    assert Tensor([0, 1]).any()
    assert not Tensor([0, 1]).all()
    assert not Tensor([False]).any()


def test_a_move_to_where_it_is_already_is_the_tensor_itself():
    x = Tensor(X)
    assert x.to(x.device) is x
    assert x.double() is x
    assert x.to(float64) is x


def test_names_that_mean_the_same_cannot_both_be_given():
    with pytest.raises(TypeError, match="axis or dim, not both"):
        Tensor(X).sum(axis=0, dim=1)
    with pytest.raises(TypeError, match="keepdims or keepdim"):
        Tensor(X).sum(0, keepdims=True, keepdim=True)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda t: t.reshape(5, 5), ShapeError, "24 elements"),
        (lambda t: t + there(np.ones((2, 5))), ShapeError, "do not broadcast"),
        (lambda t: t @ there(np.ones((3, 3))), ShapeError, "do not fit"),
        (lambda t: t.sum(3), ShapeError, "no axis 3"),
        (lambda t: t.sum("x"), OptionError, "axis must be"),
        (lambda t: t.squeeze(1), ShapeError, "size 3, not 1"),
        (lambda t: t.t(), ShapeError, "transposes matrices"),
        (lambda t: t.permute(0, 1), ShapeError, "must name each"),
        (lambda t: t.split(3), ShapeError, "does not divide into 3"),
        (lambda t: t.expand(2, 5, 4), ShapeError, "broadcast"),
        (lambda t: t[5], ShapeError, "does not fit shape"),
        (lambda t: t[0.5], ShapeError, "index"),
        (lambda t: t.clip(2, 1), OptionError, "low 2 is greater"),
        (lambda t: ~t, DTypeError, "inverts booleans"),
        (lambda t: t.max(ties="all"), OptionError, "ties must be"),
        (lambda t: t.relu(at_zero=2), OptionError, "no subgradient"),
        (lambda t: t.softmax(), OptionError, "axis"),
        (lambda t: t.to("tpu"), DTypeError, "no element type"),
        (lambda t: t + "a", DTypeError, "cannot compute with str"),
        (lambda t: t + None, TypeError, "None"),
        (lambda t: t.argmax((0, 1)), OptionError, "one whole number"),
        (lambda t: t.pad([(1, 1)]), ShapeError, "3 axes"),
    ],
)
def test_mistakes_are_named_in_the_callers_words(call, error, message):
    with pytest.raises(error, match=message):
        call(Tensor(X))


# Writing


def test_item_assignment_works_on_what_is_not_recorded():
    x = Tensor(np.zeros((2, 3)))
    x[0] = 1
    x[:, 2] = Tensor([5.0, 6.0])
    x[Tensor([1]), [0]] = 7
    x[x == 6] = 8
    assert x.tolist() == [[1, 1, 5], [7, 0, 8]]


def test_item_assignment_does_not_reach_values_computed_before():
    x = Tensor(np.zeros(3))
    y, view = x + 0, x[1:]
    x[1] = 5
    assert y.tolist() == [0, 0, 0]
    assert view.tolist() == [0, 0]


def test_an_element_can_be_edited_in_place():
    x = Tensor(np.zeros(3))
    x[0] += 2
    x[1:] -= 1
    assert x.tolist() == [2, -1, -1]


def test_a_slice_is_a_value_of_its_own_not_a_window():
    x = Tensor(np.zeros(3))
    part = x[1:]
    part.fill_(5)
    part += 1
    assert x.tolist() == [0, 0, 0]


def test_data_can_be_replaced_and_keeps_its_type_and_shape():
    x = Tensor([1.0, 2.0], requires_grad=True)
    x.data = np.array([3.0, 4.0])
    assert x.tolist() == [3, 4]
    assert x.dtype == float32
    assert x.requires_grad
    with pytest.raises(ShapeError, match="cannot be replaced by an array of shape"):
        x.data = np.ones(3)


def test_fill_copy_and_zero_write_without_recording():
    x = Tensor([1.0, 2.0], requires_grad=True)
    assert x.fill_(3) is x
    assert x.tolist() == [3, 3]
    assert x.copy_(Tensor([4.0, 5.0], dtype="float64")).tolist() == [4, 5]
    assert x.zero_().tolist() == [0, 0]
    assert x.dtype == float32
    assert x.is_leaf


def test_a_clone_passes_gradients_and_a_detached_value_does_not():
    x = Tensor([2.0], requires_grad=True)
    (x.clone() * 3).sum().backward()
    assert x.grad.tolist() == [3]
    assert not x.detach().requires_grad
    with no_grad():
        assert not x.clone().requires_grad


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_is_a_leaf_of_its_own(duplicate):
    x = Tensor([2.0], requires_grad=True, name="w")
    x.grad = Tensor([7.0])
    y = duplicate(x)
    assert (y.tolist(), y.requires_grad, y.name, y.grad.tolist(), y.dtype) == ([2], True, "w", [7], float32)
    x.grad = y.grad = None
    (x * 3 + y * 5).sum().backward()  # one index for both would mix their gradients
    assert (x.grad.tolist(), y.grad.tolist()) == ([3], [5])
    x.data = [9.0]
    assert y.tolist() == [2]
    with pytest.raises(GraphError, match=r"\.detach\(\)"):
        duplicate(x * 2)


def test_a_copied_module_has_parameters_of_its_own():
    first = tg.nn.Linear(2, 1)
    second = copy.deepcopy(first)
    x = Tensor([[1.0, 2.0]])
    (first(x) + second(x) * 10).sum().backward()
    assert first.weight.grad.tolist() == [[1, 2]]
    assert second.weight.grad.tolist() == [[10, 20]]
    assert type(second.weight) is type(first.weight)


def test_the_usual_update_by_hand_works():
    w = Tensor([1.0, 2.0], requires_grad=True)
    for _ in range(2):
        (w * w).sum().backward()
        w.data -= 0.25 * w.grad.data
        w.grad = None
    for _ in range(2):
        (w * w).sum().backward()
        with no_grad():
            w -= 0.25 * w.grad
        w.grad = None
    assert w.tolist() == [1 / 16, 2 / 16]


# NumPy


def test_numpys_functions_on_tensors_are_recorded():
    x = Tensor([0.5, 1.5], requires_grad=True, dtype="float64")
    for function in (np.exp, np.log, np.sqrt, np.tanh, np.sin, np.cos, np.log1p, np.expm1, np.abs, np.negative):
        y = function(x)
        assert isinstance(y, Tensor)
        assert y.requires_grad
        assert np.allclose(y.array, function(x.array))


def test_arrays_and_numpy_numbers_on_the_left_give_recorded_tensors():
    x, a = Tensor([0.5, 1.5], requires_grad=True, dtype="float64"), np.array([2.0, 3.0])
    for y, expected in (
        (a + x, a + x.array),
        (a - x, a - x.array),
        (a * x, a * x.array),
        (a / x, a / x.array),
        (a**x, a**x.array),
        (a @ x, a @ x.array),
        (np.float64(2) * x, 2 * x.array),
        (np.maximum(a, x), np.maximum(a, x.array)),
    ):
        assert isinstance(y, Tensor)
        assert y.requires_grad
        assert np.allclose(y.array, expected)
    assert isinstance(a < x, Tensor)
    assert isinstance(a == x, Tensor)
    assert (Tensor([1.0], requires_grad=True) * np.float64(2)).dtype == float32
    assert (np.float64(2) * Tensor([1.0])).dtype == float32


def test_numpys_reductions_on_tensors_are_recorded():
    x = Tensor(X, requires_grad=True)
    for function in (np.sum, np.mean, np.max, np.min, np.prod, np.var, np.std):
        y = function(x, axis=1)
        assert isinstance(y, Tensor)
        assert y.requires_grad
        assert np.allclose(y.array, function(X, axis=1))


def test_numpys_functions_on_shapes_are_recorded():
    x = Tensor(X, requires_grad=True)
    for function in (
        lambda x: np.reshape(x, (4, 6)),
        np.transpose,
        np.ravel,
        lambda x: np.concatenate([x, X], axis=1),
        lambda x: np.stack([x, x], axis=-1),
        lambda x: np.where(X > 0, x, 0),
        lambda x: np.clip(x, -0.5, 0.5),
        lambda x: np.flip(x, 1),
        lambda x: np.moveaxis(x, 0, -1),
        lambda x: np.swapaxes(x, 0, 1),
        lambda x: np.squeeze(x[:1], 0),
        lambda x: np.expand_dims(x, 1),
        lambda x: np.cumsum(x, 2),
        lambda x: np.einsum("abc,abc->c", x, x),
        lambda x: np.var(x, 1, ddof=1),
    ):
        y = function(x)
        assert isinstance(y, Tensor)
        assert y.requires_grad
        assert np.allclose(y.array, function(X))


def test_numpys_other_functions_see_the_values():
    x = Tensor(X)
    assert np.allclose(x, X)
    assert np.array_equal(x, X)
    assert np.histogram(x, bins=3)[0].sum() == X.size
    assert np.linalg.norm(x) == np.linalg.norm(X)
    assert [a.tolist() for a in np.where(x > 1)] == [a.tolist() for a in np.where(X > 1)]
    np.testing.assert_allclose(x, X)


def test_asarray_shares_memory_and_copies_on_request():
    x = Tensor([1.0, 2.0])
    assert np.shares_memory(np.asarray(x), x.array)
    assert np.shares_memory(x.numpy(), x.array)
    assert not np.shares_memory(np.array(x), x.array)
    assert np.asarray(x, dtype="float64").dtype == float64
    with pytest.raises(ValueError, match="without a copy"):
        np.asarray(x, dtype="float64", copy=False)


def test_what_numpy_functions_cannot_do_with_tensors_is_a_type_error():
    x = Tensor([1.0, 2.0])
    with pytest.raises(TypeError):
        np.add(x, 1, out=np.zeros(2))
    with pytest.raises(TypeError):
        np.arctan2(x, x)


# DLPack


def test_dlpack_shares_memory_with_numpy():
    x = Tensor([1.0, 2.0])
    array = np.from_dlpack(x)
    assert np.shares_memory(array, x.array)
    back = tg.from_dlpack(np.array([3.0, 4.0]))
    assert back.tolist() == [3, 4]
    assert back.dtype == float64


def test_dlpack_shares_memory_with_torch_both_ways():
    torch = pytest.importorskip("torch")
    x = Tensor(X, dtype="float32")
    there = torch.from_dlpack(x)
    assert there.shape == X.shape
    there[0, 0, 0] = 5
    assert x[0, 0, 0].item() == 5
    here = tg.from_dlpack(torch.arange(6).reshape(2, 3).T)
    assert here.tolist() == [[0, 3], [1, 4], [2, 5]]
    assert (here * 2).sum().item() == 30


def test_dlpack_of_a_tensor_that_requires_a_gradient_needs_detach():
    x = Tensor([1.0], requires_grad=True)
    with pytest.raises(GraphError, match="detach"):
        np.from_dlpack(x)
    assert np.from_dlpack(x.detach()).tolist() == [1]


def test_dlpack_of_elements_that_tensors_cannot_hold_is_refused():
    with pytest.raises(DTypeError, match="complex"):
        tg.from_dlpack(np.array([1j]))


def test_size_counts_as_in_numpy_and_gives_axes_as_in_pytorch():
    x = Tensor(np.zeros((2, 3, 4), np.float32))
    assert x.size == 24
    assert x.size() == (2, 3, 4)
    assert (x.size(0), x.size(-1)) == (2, 4)
    assert x.view(x.size(0), -1).shape == (2, 12)
    with pytest.raises(ShapeError, match="no axis 3"):
        x.size(3)


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("flatten", r"use x\.flatten\(\.\.\.\) or tinygrad_cnn\.ops\.flatten"),
        ("cat", "ops.concatenate"),
        ("save", "train.save_checkpoint"),
        ("int64", "x.long"),
    ],
)
def test_a_name_of_another_library_is_answered_with_the_one_here(name, remedy):
    import tinygrad_cnn

    assert not hasattr(tinygrad_cnn, name)
    with pytest.raises(AttributeError, match=remedy):
        getattr(tinygrad_cnn, name)


def test_a_transpose_of_two_of_three_axes_is_answered_with_swapaxes():
    with pytest.raises(ShapeError, match=r"to swap two axes, use swapaxes\(1, 2\)"):
        Tensor(np.zeros((2, 3, 4))).transpose(1, 2)


def test_every_remedy_names_something_that_exists():
    import re

    import tinygrad_cnn

    for name, remedy in tinygrad_cnn._INSTEAD.items():
        assert not hasattr(tinygrad_cnn, name)
        for path in re.findall(r"tinygrad_cnn\.([a-z0-9_A-Z.]+)", remedy):
            thing = tinygrad_cnn
            for part in path.split("."):
                thing = getattr(thing, part)


def test_a_method_of_another_library_is_answered_with_the_way_here():
    x = Tensor(np.ones((2, 3)))
    assert not hasattr(x, "values")
    with pytest.raises(AttributeError, match=r"no attribute 'values'; use x.max\(axis\)"):
        x.max(1).values  # noqa: B018
    with pytest.raises(AttributeError, match=r"no attribute 'nothing_like_it'$"):
        x.nothing_like_it  # noqa: B018


def test_clamp_takes_its_limits_by_name():
    assert Tensor([-1.0, 0.5, 2.0]).clamp(min=0, max=1).tolist() == [0.0, 0.5, 1.0]
    assert Tensor([-1.0, 2.0]).clamp(min=0).tolist() == [0.0, 2.0]
