"""Writes after the fact: each would make a gradient wrong in silence, so each has to be an error. Writes before the
value is used are nobody's business and must not be one."""

import numpy as np
import pytest

from tinygrad_cnn import Tensor, grad, no_grad, ops
from tinygrad_cnn.errors import DTypeError, GraphError, ShapeError
from tinygrad_cnn.tensor import from_dlpack


def leaf(*values, name=None):
    return Tensor(np.array(values, dtype=float), requires_grad=True, name=name)


def write_numpy(t):
    t.numpy()[...] = 7


def write_data(t):
    t.data[...] = 7


def write_asarray(t):
    np.asarray(t)[...] = 7


def write_view(t):
    t.numpy()[::-1][:1][...] = 7


def write_reshaped_view(t):
    t.numpy().reshape(-1, 1)[0] += 1


def write_memoryview(t):
    memoryview(t.numpy())[0] = 7.0


def write_dlpack(t):
    np.from_dlpack(t.detach())[0] = 7


def write_through_view_tensor(t):
    t.detach().reshape(-1, 1).numpy()[0] = 7


RAW_WRITES = [write_numpy, write_data, write_asarray, write_view, write_reshaped_view, write_memoryview]


@pytest.mark.parametrize("write", RAW_WRITES)
def test_a_raw_write_to_an_input_after_its_use_is_an_error(write):
    x = leaf(1.0, 2.0, name="weights")
    y = (x * x).sum()
    write(x)
    with pytest.raises(GraphError, match=r"mul: its input 'a' \('weights' of shape \(2,\).*written to"):
        y.backward()


@pytest.mark.parametrize("write", [*RAW_WRITES, write_through_view_tensor, write_dlpack])
def test_a_raw_write_to_a_result_that_a_rule_reads_is_an_error(write):
    x = leaf(1.0, 2.0)
    y = x.exp()
    z = (y * 3).sum()
    write(y)
    with pytest.raises(GraphError, match="written to"):
        z.backward()


@pytest.mark.parametrize("write", RAW_WRITES)
def test_memory_handed_out_before_the_use_is_watched_as_well(write):
    x = leaf(1.0, 2.0)
    held = x.numpy()
    y = (x * x).sum()
    held[0] = 5
    with pytest.raises(GraphError, match="written to"):
        y.backward()
    z = (x * x).sum()
    write(x)
    with pytest.raises(GraphError, match="written to"):
        z.backward()


@pytest.mark.parametrize("write", RAW_WRITES)
def test_a_write_before_the_use_is_no_error(write):
    x = leaf(1.0, 2.0)
    (x * x).sum().backward()
    x.grad = None
    write(x)
    values = x.tolist()
    y = (x * x).sum()
    y.backward()
    assert x.grad.tolist() == [2 * v for v in values]


def test_looking_without_writing_is_no_error():
    x = leaf(1.0, 2.0)
    y = x.exp()
    z = (y * x).sum()
    np.asarray(x), x.numpy().sum(), y.data.copy(), repr(y), y.detach().numpy().mean()
    z.backward()
    assert x.grad.tolist() == pytest.approx([2 * np.e, 3 * np.exp(2)])


def test_a_write_that_puts_the_same_values_back_is_no_error():
    x = leaf(1.0, 2.0)
    y = (x * x).sum()
    array = x.numpy()
    array[0] = 9
    array[0] = 1
    y.backward()
    assert x.grad.tolist() == [2, 4]


def test_a_write_to_a_view_tensor_is_seen_by_who_read_the_whole():
    x = leaf(1.0, 2.0, 3.0)
    whole = x * 2
    part = whole[1:]
    y = (whole * whole).sum()
    part.numpy()[0] = 100
    with pytest.raises(GraphError, match="written to"):
        y.backward()


def test_a_write_to_the_whole_is_seen_by_who_read_a_view():
    c = Tensor([1.0, 2.0, 3.0])
    x = leaf(1.0)
    y = (x * c[1:]).sum()
    c.numpy()[2] = 50
    with pytest.raises(GraphError, match="written to"):
        y.backward()


VIEWS = {
    "expand": lambda c: c.expand(4, 2, 3),
    "T": lambda c: c.T,
    "index": lambda c: c[::-1, 1:],
    "reshape": lambda c: c.reshape(6),
    "einsum": lambda c: ops.einsum("ij->ji", c),
    "view of a view": lambda c: c.expand(4, 2, 3)[1].reshape(3, 2),
    "detach": lambda c: c.detach(),
}


@pytest.mark.parametrize("kind", VIEWS)
def test_every_kind_of_view_is_known_to_be_one(kind):
    c = Tensor(np.arange(6.0).reshape(2, 3))
    view = VIEWS[kind](c)
    y = (Tensor(np.ones(view.shape), requires_grad=True) * view).sum()
    c.numpy()[...] = 9
    with pytest.raises(GraphError, match="written to"):
        y.backward()


def test_a_write_to_an_array_given_to_an_op_is_an_error():
    x, c = leaf(1.0, 2.0), np.array([3.0, 4.0])
    y = (x * c).sum()
    c[0] = 9
    with pytest.raises(GraphError, match="an array given as it is"):
        y.backward()
    (x * c).sum().backward()
    assert x.grad.tolist() == [9, 4]


def test_a_write_to_labels_after_their_use_is_an_error():
    x, labels = leaf(1.0, 2.0).reshape(1, 2), np.array([0])
    y = ops.pick(x, labels).sum()
    labels[0] = 1
    with pytest.raises(GraphError, match="written to"):
        y.backward()


def test_memory_shared_by_dlpack_is_watched():
    torch = pytest.importorskip("torch")
    source = torch.tensor([1.0, 2.0])
    c, x = from_dlpack(source), Tensor([3.0, 4.0], requires_grad=True)
    y = (x * c).sum()
    source[0] = 9
    with pytest.raises(GraphError, match="written to"):
        y.backward()
    shared = torch.from_dlpack(c)
    z = (x * c).sum()
    shared[1] = 5
    with pytest.raises(GraphError, match="written to"):
        z.backward()


def test_the_second_derivative_notices_a_write_too():
    x = leaf(1.0, 2.0)
    (first,) = grad((x**3).sum(), x, create_graph=True)
    write_numpy(x)
    with pytest.raises(GraphError, match="written to"):
        grad(first.sum(), x)


# Edits by the operators of tensors


def add_one(x):
    x += 1


def set_item(x):
    x[0] = 5


def set_data(x):
    x.data = np.array([5.0, 6.0])


EDITS = [add_one, set_item, set_data, lambda x: x.fill_(3), lambda x: x.zero_(), lambda x: x.copy_(Tensor([1.0, 9.0]))]


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_of_a_leaf_after_its_use_is_an_error(edit):
    x = leaf(1.0, 2.0, name="w")
    y = (x * x).sum()
    with no_grad():
        edit(x)
    with pytest.raises(GraphError, match=r"mul: its input 'a' \('w'.*edited in place.*call backward\(\) before"):
        y.backward()


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_of_a_constant_after_its_use_is_an_error(edit):
    x, c = leaf(1.0, 2.0), Tensor(np.array([3.0, 4.0]))
    y = (x * c).sum()
    edit(c)
    with pytest.raises(GraphError, match="edited in place"):
        y.backward()


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_before_the_use_is_no_error(edit):
    x = leaf(1.0, 2.0)
    with no_grad():
        edit(x)
    (x * x).sum().backward()
    assert x.grad.tolist() == [2 * v for v in x.tolist()]
    assert x.is_leaf


@pytest.mark.parametrize("edit", EDITS)
def test_a_value_edited_after_it_was_computed_cannot_pass_on_gradients(edit):
    x = leaf(1.0, 2.0)
    y = x * 2
    with no_grad():
        edit(y)
    with pytest.raises(GraphError, match=r"got new values in place.*\.detach\(\)"):
        (y * 3).sum().backward()
    with pytest.raises(GraphError, match="got new values in place"):
        y.backward(np.ones(2))
    assert x.grad is None


def test_a_leaf_cannot_be_edited_while_recording():
    x = leaf(1.0, 2.0, name="w")
    for edit in (add_one, set_item):
        with pytest.raises(GraphError, match=r"no_grad\(\)"):
            edit(x)
    assert x.tolist() == [1, 2]


def test_plus_equals_on_a_recorded_value_goes_on_with_the_sum():
    x = leaf(1.0, 2.0)
    y = x * 2
    y += x
    y *= y
    y.sum().backward()
    assert x.grad.tolist() == [18, 36]


@pytest.mark.parametrize(
    ("write", "expected"),
    [
        (lambda t, v: t.__iadd__(v), [3.0, 4.0]),
        (lambda t, v: t.__isub__(v), [-1.0, 0.0]),
        (lambda t, v: t.__imul__(v), [2.0, 4.0]),
        (lambda t, v: t.__itruediv__(v), [0.5, 1.0]),
        (lambda t, v: t.__ipow__(v), [1.0, 4.0]),
    ],
)
def test_in_place_operators_keep_the_object_and_its_type(write, expected):
    x = Tensor([1.0, 2.0], requires_grad=True)
    with no_grad():
        same = write(x, np.float64(2.0))
    assert same is x
    assert x.dtype == np.float32
    assert x.tolist() == expected


def test_in_place_operators_change_neither_shape_nor_kind():
    x, whole = Tensor([1.0]), Tensor([3, 4])
    with pytest.raises(ShapeError, match="cannot change the shape"):
        x += Tensor([[1.0, 2.0]])
    with pytest.raises(DTypeError, match="does not fit"):
        whole /= 2
    whole += 1
    assert whole.tolist() == [4, 5]


def test_a_constant_that_meets_a_recorded_value_becomes_part_of_the_graph():
    x, total = leaf(2.0), Tensor(np.zeros(1))
    total += x * 3
    total.sum().backward()
    assert x.grad.tolist() == [3]


# Raw writes by code that says so, as optimizers do


def test_an_optimizer_step_between_forward_and_backward_is_an_error():
    w = leaf(1.0, 2.0)
    y = (w * w).sum()
    w.array -= 0.1
    w.edited()
    with pytest.raises(GraphError, match="edited in place"):
        y.backward()


def test_optimizer_steps_between_walks_are_no_error_even_if_the_memory_was_handed_out():
    w = leaf(1.0, 2.0)
    w.numpy()
    for _ in range(3):
        w.grad = None
        (w * w).sum().backward()
        w.array -= 0.25 * w.grad.array
        w.edited()
    assert w.tolist() == [0.125, 0.25]


def test_an_edit_reaches_views_that_were_taken_before():
    w = leaf(1.0, 2.0, 3.0)
    y = (w[1:] * w[1:]).sum()
    w.array *= 2
    w.edited()
    with pytest.raises(GraphError, match="edited in place"):
        y.backward()


def test_a_copy_of_a_leaf_does_not_follow_its_edits():
    w = leaf(1.0, 2.0)
    copy = w.detach()
    w.array *= 2
    w.edited()
    assert copy.tolist() == [1, 2]


def test_tensors_copy_what_they_are_made_of():
    source = np.array([1.0, 2.0])
    x = Tensor(source, requires_grad=True)
    y = (x * x).sum()
    source[:] = 9
    y.backward()
    assert x.grad.tolist() == [2, 4]


def test_watching_ends_with_the_memory():
    from tinygrad_cnn.backend import exposure

    before = len(exposure.exposed)
    x = Tensor([1.0])
    x.numpy()
    assert len(exposure.exposed) == before + 1
    del x
    assert len(exposure.exposed) == before


def test_an_index_array_changed_after_its_use_does_not_move_the_gradient():
    x = Tensor([1.0, 2.0, 3.0], requires_grad=True)
    index = np.array([0, 1])
    y = (x[index] * Tensor([1.0, 10.0])).sum()
    index[0] = 2
    y.backward()
    assert x.grad.tolist() == [1.0, 10.0, 0.0]
