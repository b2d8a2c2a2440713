"""Operators take a shorter way than ops: they have to record, compute, refuse and show the same. And the order of the
backward walk, which finds its nodes as it goes."""

import itertools
import random

import numpy as np
import pytest

from tinygrad_cnn import Tensor, grad, nn, no_grad, ops
from tinygrad_cnn.amp import autocast
from tinygrad_cnn.errors import GraphError, OptionError, ShapeError
from tinygrad_cnn.graph import Observer, casting, nodes_from, observing

OPERATORS = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "power": lambda a, b: a**b,
}


def operands():
    """Yield what can stand beside a tensor: tensors of every kind and shape, parameters, numbers, arrays, lists."""
    for dtype in ("float32", "float64", "float16", "int64", "bool"):
        for shape in ((), (3,), (2, 1)):
            values = np.linspace(1, 2, int(np.prod(shape))).reshape(shape).astype(dtype)
            yield Tensor(values)
            yield values
            if dtype.startswith("float"):
                yield Tensor(values, requires_grad=True)
    yield nn.Parameter(np.full((2, 3), 1.5, np.float32))
    yield from (2, 2.5, True, np.float32(1.5), np.float64(1.5), np.int64(3), 300, [1.0, 2.0, 3.0])
    yield Tensor(np.ones((2, 6), np.float32)[:, ::-2], requires_grad=True)


def described(call):
    """Return everything there is to say about a result: type, values, node, or the error."""
    try:
        y = call()
    except Exception as error:
        return type(error), str(error)
    node = y.node and (y.node.op.name, y.node.options, [type(x) for x in y.node.inputs], y.node.index == y.index)
    return type(y), y.dtype, y.shape, y.array.tobytes(), y.requires_grad, node, y.hooks, y.grad, y.name


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", OPERATORS)
def test_operators_are_the_ops(name):
    operator, op = OPERATORS[name], ops.__dict__[name]
    for a, b in itertools.product(list(operands()), repeat=2):
        if not isinstance(a, Tensor) and not isinstance(b, Tensor):
            continue
        expected = described(lambda a=a, b=b: op(a, b))
        assert described(lambda a=a, b=b: operator(a, b)) == expected, (a, b)
        with no_grad():
            assert described(lambda a=a, b=b: operator(a, b)) == described(lambda a=a, b=b: op(a, b)), (a, b)


@pytest.mark.parametrize("name", OPERATORS)
def test_gradients_through_operators_are_those_through_ops(name):
    operator, op = OPERATORS[name], ops.__dict__[name]
    found = []
    for function in (operator, op):
        for left, right in (((2, 3), (2, 3)), ((3,), (2, 1)), ((), (2, 3)), ((), ())):
            a = Tensor(np.linspace(1, 2, int(np.prod(left))).reshape(left), requires_grad=True)
            b = Tensor(np.linspace(2, 3, int(np.prod(right))).reshape(right), requires_grad=True)
            y = function(function(a, b), a) if function is op else operator(operator(a, b), a)
            ga, gb = grad((y * y).sum(), [a, b], create_graph=True)
            (second,) = grad((ga * ga).sum() + gb.sum(), a, retain_graph=True)
            y.sum().backward()
            found.append([v.array.tobytes() for v in (ga, gb, second, a.grad, b.grad)])
    assert found[:4] == found[4:]


def test_the_reflected_operators_have_the_number_first():
    x = Tensor([2.0], requires_grad=True)
    for y, value, slope in ((1 - x, -1, -1), (1 / x, 0.5, -0.25), (3.0**x, 9, 9 * np.log(3)), (1 + x, 3, 1)):
        assert y.node.inputs[1] is x
        x.grad = None
        y.backward()
        assert y.item() == pytest.approx(value)
        assert x.grad.item() == pytest.approx(slope)


def test_observers_and_scopes_see_operators():
    class Names(Observer):
        def __init__(self):
            self.seen = []

        def op_finished(self, op, inputs, options, output, result):
            self.seen.append(op.name)

    class Double(nn.Module):
        def forward(self, x):
            return x + x

    x, names = Tensor([1.0], requires_grad=True), Names()
    with observing(names):
        (x * 2 + x) / (x - 3) ** 2
    assert names.seen == ["mul", "add", "sub", "power", "div"]
    model = Double()
    assert model(x).node.scope.module is model
    assert (x + x).node.scope is None


def test_autocast_reaches_operators():
    a, b = Tensor(np.ones((2, 2), np.float32), requires_grad=True), Tensor(np.ones((2, 2), np.float32))
    called = []

    def cast(name, inputs):
        called.append(name)
        return inputs

    with autocast("float16"):
        half = a @ b
        assert half.dtype == np.float16
        assert (half**2).dtype == ops.power(half, 2).dtype
        assert (half * b).dtype == ops.mul(half, b).dtype
    token = casting.set(cast)
    try:
        (a + b) * 2
    finally:
        casting.reset(token)
    assert called == ["add", "mul"]


def test_a_forward_function_that_is_replaced_is_called(monkeypatch):
    monkeypatch.setattr(ops.mul, "forward", lambda xp, a, b: xp.add(a, b))
    assert (Tensor(3.0) * Tensor(4.0)).item() == 7


def test_writes_to_arrays_that_were_handed_out_are_noticed_by_operators():
    x, w = Tensor([1.0, 2.0], requires_grad=True), Tensor([3.0, 4.0])
    handed = w.numpy()
    y = x * w
    handed[0] = 5
    with pytest.raises(GraphError, match="was written to"):
        y.sum().backward()
    y = x * w
    late = w.numpy()
    y.sum().backward()
    assert x.grad.tolist() == [5, 4]
    y = x * w
    late[1] = 0
    with pytest.raises(GraphError, match="was written to"):
        y.sum().backward()


def test_operands_that_do_not_fit_are_explained():
    with pytest.raises(ShapeError, match="do not broadcast"):
        Tensor([1.0, 2.0]) + Tensor([1.0, 2.0, 3.0])


def test_operators_without_options_share_them_and_nobody_writes_to_them():
    x = Tensor([1.0], requires_grad=True)
    y = x * x + x
    assert y.node.options == {}
    y.backward()
    assert y.node.options == {}
    assert (x - x).node.options == {}


# The order of the walk


class _Order(Observer):
    def __init__(self):
        self.visited = []

    def node_started(self, node, g):
        self.visited.append(node.index)


def random_graph(seed):
    """Return a leaf and a scalar that depends on it by many paths of different lengths."""
    choose = random.Random(seed)
    x = Tensor([0.5], requires_grad=True)
    values = [x, x * 0.5, x + 0.25]
    for _ in range(60):
        a, b = choose.choice(values[-8:]), choose.choice(values)
        values.append(
            choose.choice([lambda a, b: a * 0.5 + b * 0.5, lambda a, b: a * b, lambda a, b: ops.sin(a)])(a, b)
        )
    return x, ops.sum(sum(values[-5:]))


@pytest.mark.parametrize("seed", range(20))
def test_nodes_are_visited_once_from_newest_to_oldest_and_gradients_are_complete(seed):
    x, y = random_graph(seed)
    hooked = []  # hooks run when a node is visited, without observers, which list the nodes beforehand
    for node in nodes_from([y]):
        node.hooks = [lambda g, node=node: hooked.append((node.index, g.item()))]
    y.backward(retain_graph=True)
    indices = [index for index, _ in hooked]
    assert indices == sorted(set(indices), reverse=True)
    order = _Order()
    with observing(order):
        (observed,) = grad(y, x, retain_graph=True)
    assert order.visited == indices
    assert observed.item() == x.grad.item()
    for node in nodes_from([y]):
        node.hooks = None
    (exact,) = grad(y, x, create_graph=True)
    assert exact.item() == pytest.approx(x.grad.item(), rel=1e-6)


def test_several_outputs_are_one_walk():
    x = Tensor([2.0, 3.0], requires_grad=True)
    inner = x * x
    outer = inner * inner
    seen = []
    inner.register_hook(lambda g: seen.append(g.tolist()))
    gx = grad([outer, inner, outer], x, [np.ones(2, np.float32)] * 3)[0]
    assert gx.tolist() == [4 * 8 * 2 + 4, 4 * 27 * 2 + 6]
    assert seen == [[2 * 2 * 4 + 1, 2 * 2 * 9 + 1]]


def test_missing_names_of_other_libraries_say_what_to_write_and_are_not_there():
    x = Tensor([1.0])
    assert not hasattr(x, "add_")
    assert getattr(x, "norm", None) is None
    assert "add_" not in dir(x)
    assert "numpy" in dir(x)
    with pytest.raises(AttributeError, match=r"'Tensor' object has no attribute 'mm'; use x @ y"):
        _ = x.mm
    with pytest.raises(AttributeError, match=r"'Parameter' object has no attribute 'mm'"):
        _ = nn.Parameter([1.0]).mm


# Options are brought into their normal form once


def test_options_that_are_equal_but_not_legal_are_still_refused():
    x = Tensor(np.ones((1, 1, 4, 4)))
    w = Tensor(np.ones((1, 1, 2, 2)))
    for _ in range(2):
        assert ops.conv2d(x, w, stride=2, groups=1).shape == (1, 1, 2, 2)
        assert ops.conv2d(x, w, stride=(2, 2), padding=((0, 0), (0, 0))).shape == (1, 1, 2, 2)
        for wrong in ({"stride": 2.0}, {"groups": True}, {"stride": (2.0, 2)}, {"padding": ((0, 0.0), (0, 0))}):
            with pytest.raises(OptionError):
                ops.conv2d(x, w, **wrong)


def test_options_that_change_are_read_again():
    x, w = Tensor(np.ones((1, 1, 8, 8))), Tensor(np.ones((1, 1, 2, 2)))
    stride = [2, 2]
    assert ops.conv2d(x, w, stride=stride).shape[2:] == (4, 4)
    stride[:] = [3, 3]
    assert ops.conv2d(x, w, stride=stride).shape[2:] == (3, 3)
    index = Tensor([0])
    padding = ([0, 0], [0, 0])
    assert ops.conv2d(x, w, padding=padding).shape[2:] == (7, 7)
    padding[0][0] = 2
    assert ops.conv2d(x, w, padding=padding).shape[2:] == (9, 7)
    assert ops.getitem(Tensor([1.0, 2.0]), index=index).tolist() == [1]


def test_writing_to_the_options_of_a_node_changes_no_later_call():
    x = Tensor(np.ones((2, 3)), requires_grad=True)
    axis = (0, 1)
    first = ops.sum(x, axis=axis)
    first.node.options["axis"] = (0,)
    assert ops.sum(x, axis=axis).shape == ()
    assert ops.sum(x, axis=axis).node.options == ops.sum.complete({"axis": (0, 1)})


def test_normal_forms_of_many_options_take_no_memory_without_end():
    x = Tensor(np.ones(3))
    for n in range(1000):
        ops.clip(x, low=-1.0 - n)
    assert len(ops.clip._completed) <= 256
    assert ops.clip(x, low=2.0).tolist() == [2, 2, 2]
