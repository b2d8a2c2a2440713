"""backward() and grad(): accumulation, seeds, graphs that are kept or freed, hooks, long chains."""

import gc
import itertools
import sys
import threading
import weakref

import numpy as np
import pytest

from tinygrad_cnn import Tensor, grad, no_grad, ops
from tinygrad_cnn.errors import GraphError, ShapeError
from tinygrad_cnn.graph import Observer, enable_grad, is_recording, observing


def leaf(*values, name=None):
    return Tensor(np.array(values, dtype=float), requires_grad=True, name=name)


# Accumulation and seeds


def test_gradients_of_several_walks_add_up():
    x = leaf(1.0, 2.0)
    (x * 3).sum().backward()
    (x * x).sum().backward()
    assert x.grad.tolist() == [5, 7]


@pytest.mark.parametrize("walks", [1, 2, 3])
def test_a_leaf_without_axes_collects_arrays_not_scalars(walks):
    x = Tensor(2.0, requires_grad=True)
    for _ in range(walks):
        (x * x).backward()
    assert x.grad.item() == 4 * walks
    assert type(x.grad.array) is type(x.array)
    assert "Tensor" in repr(x.grad)


def test_a_value_used_several_times_collects_all_its_gradients():
    x = leaf(2.0)
    y = x * x
    z = y + y * x + x
    z.backward()
    assert x.grad.tolist() == [2 * 2 + 3 * 4 + 1]


def test_one_op_may_read_the_same_value_twice():
    x = leaf(1.0, -2.0)
    ops.mul(x, x).sum().backward()
    ops.concatenate(x, x).sum().backward()
    ops.maximum(x, x).sum().backward()
    assert x.grad.tolist() == [2 + 2 + 1, -4 + 2 + 1]


def test_the_leaf_itself_can_be_the_output():
    x = leaf(3.0)
    x.backward()
    assert x.grad.tolist() == [1]
    assert grad(x, x)[0].tolist() == [1]


@pytest.mark.parametrize("wrap", [lambda a: a, Tensor, lambda a: a.tolist(), lambda a: Tensor(a, dtype="float32")])
def test_a_seed_weighs_the_elements_of_the_output(wrap):
    x = leaf(1.0, 2.0, 3.0)
    (x * x).backward(wrap(np.array([1.0, 0.0, -1.0])))
    assert x.grad.tolist() == [2, 0, -6]
    assert x.grad.dtype == np.float64


def test_a_seed_is_needed_for_more_than_one_element_and_must_have_the_shape_of_the_output():
    x = leaf(1.0, 2.0)
    y = x * x
    with pytest.raises(GraphError, match=r"backward\(\) needs a gradient to start with.*\.sum\(\)"):
        y.backward()
    with pytest.raises(ShapeError, match=r"the gradient has shape \(3,\)"):
        y.backward(np.ones(3))
    with pytest.raises(GraphError, match="as many seeds"):
        grad([y, y], x, [np.ones(2)])


def test_several_outputs_give_the_sum_of_their_gradients():
    x = leaf(1.0, 2.0)
    outputs = [x * 2, (x * x).sum(), x]
    (gx,) = grad(outputs, x, [np.ones(2), None, np.array([10.0, 0.0])])
    assert gx.tolist() == [2 + 2 + 10, 2 + 4]


def test_the_same_output_twice_counts_twice():
    x = leaf(3.0)
    y = x * x
    assert grad([y, y], x)[0].tolist() == [12]


def test_gradients_have_the_type_and_shape_of_their_tensor():
    x = Tensor(np.ones((2, 1)), dtype="float16", requires_grad=True)
    w = Tensor(np.ones(3), dtype="float64", requires_grad=True)
    (x * w).sum().backward()
    assert (x.grad.dtype, x.grad.shape) == (np.float16, (2, 1))
    assert (w.grad.dtype, w.grad.shape) == (np.float64, (3,))


# Whose memory a gradient is


def test_every_gradient_has_memory_of_its_own():
    a, b = leaf(1.0, 2.0), leaf(3.0, 4.0)
    (a + b).sum().backward()
    assert not np.shares_memory(a.grad.array, b.grad.array)
    a.grad.array[...] = 7  # what an optimizer or a clipping function may do
    assert b.grad.tolist() == [1, 1]


def test_a_gradient_does_not_share_the_memory_of_its_seed():
    x, seed = leaf(1.0, 2.0), np.ones(2)
    (x + 0.0).backward(seed)
    (gx,) = grad(x.reshape(2, 1), x, [seed.reshape(2, 1)])
    seed[:] = 9
    assert x.grad.tolist() == gx.tolist() == [1, 1]


def test_gradients_returned_by_grad_can_be_written_to():
    a, b = leaf(1.0, 2.0), leaf(3.0, 4.0)
    for g in grad((a + b).sum(), [a, b]):
        g.numpy()[0] += 1
        assert g.tolist() == [2, 1]


# What is not part of the graph


def test_a_tensor_that_needs_no_gradient_gets_none():
    x, c = leaf(2.0), Tensor(3.0)
    (x * c).sum().backward()
    assert c.grad is None


def test_nothing_recorded_is_an_error_that_names_the_remedy():
    with pytest.raises(GraphError, match=r"does not depend on anything with requires_grad=True"):
        Tensor(1.0).backward()
    with no_grad():
        y = leaf(1.0) * 2
    with pytest.raises(GraphError, match=r"no_grad\(\)"):
        y.backward()


def test_an_input_that_needs_no_gradient_cannot_be_differentiated_by():
    x = leaf(1.0)
    with pytest.raises(GraphError, match=r"'c' of shape .*requires_grad=True"):
        grad(x * 2, Tensor(1.0, name="c"))
    with pytest.raises(GraphError, match="not a tensor"):
        grad(x * 2, [np.ones(1)])


def test_an_unused_input_is_an_error_or_none_as_asked():
    x, unused = leaf(1.0), leaf(1.0, name="u")
    with pytest.raises(GraphError, match=r"do not depend on input number 1 .'u'.*allow_unused"):
        grad(x * 2, [x, unused])
    assert grad(x * 2, [x, unused], allow_unused=True)[1] is None


def test_a_detached_value_ends_the_path():
    x = leaf(2.0)
    (x * (x * x).detach()).backward()
    assert x.grad.tolist() == [4]


def test_ops_without_a_gradient_end_the_path():
    x = leaf(1.0, -2.0)
    for y in (ops.sign(x), x > 0, x.argmax(), ops.threshold_unit(x)):
        assert not y.requires_grad
    (x * ops.sign(x)).sum().backward()
    assert x.grad.tolist() == [1, -1]


def test_grad_leaves_every_grad_attribute_alone():
    x, w = leaf(2.0), leaf(3.0)
    grad(x * w, x)
    assert x.grad is None
    assert w.grad is None


def test_no_rule_is_called_for_a_gradient_nobody_asked_for():
    class Rules(Observer):
        def __init__(self):
            self.count = 0

        def contributed(self, node, position, x, gx, total):
            self.count += 1

    x, w = leaf(2.0), leaf(3.0)
    y = (x * w) * (w * w)
    rules = Rules()
    with observing(rules):
        grad(y, x)
    assert rules.count == 2


# Values in the middle


def test_grad_by_a_value_in_the_middle():
    x = leaf(2.0)
    middle = x * x
    y = middle * middle
    assert grad(y, [middle, x], retain_graph=True)[0].tolist() == [8]
    assert grad(y, [x, middle])[0].tolist() == [32]


def test_grad_by_a_value_in_the_middle_leaves_the_graph_behind_it_alone():
    x = leaf(2.0)
    middle = x * x
    grad(middle * 3, middle)
    middle.backward()
    assert x.grad.tolist() == [4]


def test_a_value_in_the_middle_keeps_its_gradient_on_request():
    x = leaf(2.0)
    middle = x * x
    middle.retain_grad()
    middle.retain_grad()
    (middle * 3 + middle).backward()
    assert middle.grad.tolist() == [4]
    assert x.grad.tolist() == [16]
    (x * 1).backward()
    assert (x * x).grad is None


def test_retain_grad_does_not_keep_the_value_alive():
    middle = leaf(2.0) * 3
    middle.retain_grad()
    gc.collect()
    gc.disable()
    try:
        gone = weakref.ref(middle)
        del middle
        assert gone() is None
    finally:
        gc.enable()


# Kept and freed graphs


def test_a_freed_graph_is_an_error_that_names_the_op_and_the_remedy():
    x = leaf(2.0)
    y = (x * x).exp()
    y.backward()
    with pytest.raises(GraphError, match=r"exp: .*freed.*retain_graph=True"):
        y.backward()
    with pytest.raises(GraphError, match="freed"):
        grad(y, x, allow_unused=True)
    assert x.grad.tolist() == [pytest.approx(4 * np.exp(4))]


def test_a_part_that_two_outputs_share_is_freed_by_the_first_walk():
    x = leaf(2.0)
    shared = x * x
    a, b = shared * 2, shared * 3
    a.backward()
    with pytest.raises(GraphError, match=r"mul: .*freed"):
        b.backward()


def test_retain_graph_lets_the_same_graph_be_walked_again():
    x = leaf(2.0)
    y = x * x
    y.backward(retain_graph=True)
    y.backward(retain_graph=True)
    y.backward()
    assert x.grad.tolist() == [12]


def test_values_survive_the_walk():
    x = leaf(2.0)
    middle = x * x
    y = middle + 1
    y.backward()
    assert (middle.item(), y.item()) == (4, 5)


def test_intermediate_arrays_are_freed_while_the_walk_goes_on():
    x = leaf(*np.ones(8))
    y = x
    for _ in range(20):
        y = (y * 1.5).tanh()
    alive = []

    class Count(Observer):
        def node_finished(self, node, freed):
            alive.append(sum(ref() is not None for ref in refs))

    refs = []
    node = y.node
    while node is not None:
        refs.append(weakref.ref(node.output))
        node = node.inputs[0].node
    total = y.sum()
    del node, y
    with observing(Count()):
        total.backward()
    assert alive[0] >= 39
    assert all(later <= earlier for earlier, later in itertools.pairwise(alive))
    assert alive[20] <= 21
    assert alive[-1] <= 1


def test_a_graph_without_hooks_is_freed_without_the_garbage_collector():
    x = leaf(2.0)
    gc.collect()
    gc.disable()
    try:
        y = (x * x).exp()
        arrays = [weakref.ref(y.array), weakref.ref(y.node), weakref.ref(y.node.inputs[0].node)]
        del y
        assert [ref() for ref in arrays] == [None] * 3
    finally:
        gc.enable()


# Derivatives of derivatives


def test_create_graph_makes_gradients_differentiable():
    x = leaf(3.0)
    (first,) = grad(x**4, x, create_graph=True)
    (second,) = grad(first, x, create_graph=True)
    (third,) = grad(second, x)
    assert (first.item(), second.item(), third.item()) == (108, 108, 72)
    assert first.requires_grad
    assert not third.requires_grad


def test_backward_with_create_graph_records_the_gradient():
    x = leaf(3.0)
    (x**3).backward(create_graph=True)
    penalty = (x.grad * x.grad).sum()
    first = x.grad
    x.grad = None
    penalty.backward()
    assert first.item() == 27
    assert x.grad.item() == 2 * 27 * 18


def test_without_create_graph_gradients_are_not_recorded():
    x = leaf(3.0)
    (x**3).backward()
    assert not x.grad.requires_grad
    assert x.grad.node is None


def test_the_order_of_two_derivatives_does_not_matter():
    a, b = leaf(0.7), leaf(1.3)
    y = ops.sin(a * b) * b.exp() / a
    (ga,) = grad(y, a, create_graph=True)
    (gb,) = grad(y, b, create_graph=True)
    gab, gba = grad(ga, b, retain_graph=True)[0], grad(gb, a)[0]
    assert gab.item() == pytest.approx(gba.item())


# Hooks


def test_a_hook_on_a_leaf_sees_the_complete_gradient_and_can_replace_it():
    x, seen = leaf(1.0, 2.0), []
    x.register_hook(lambda g: seen.append(g.tolist()))
    x.register_hook(lambda g: g * 10)
    (x * 2 + x).sum().backward()
    assert seen == [[3, 3]]
    assert x.grad.tolist() == [30, 30]


def test_a_hook_on_a_value_in_the_middle_changes_what_flows_on():
    x = leaf(1.0)
    middle = x * 2
    middle.register_hook(lambda g: g * 100)
    (middle * 3 + middle).backward()
    assert x.grad.tolist() == [800]
    assert grad_through_hook() == [600]


def grad_through_hook():
    x = leaf(1.0)
    middle = x * 2
    middle.register_hook(lambda g: g * 100)
    gm, gx = grad(middle * 3, [middle, x])
    assert gm.tolist() == [300]
    return gx.tolist()


def test_a_hook_sees_the_gradient_of_the_input_asked_for():
    x = leaf(1.0)
    middle = x * 2
    middle.register_hook(lambda g: g + 1)
    assert grad(middle * 3, middle)[0].tolist() == [4]


def test_a_hook_on_a_leaf_that_is_itself_the_output_runs():
    x = leaf(1.0)
    x.register_hook(lambda g: g * 5)
    x.backward()
    assert x.grad.tolist() == [5]


def test_a_hook_can_be_removed_and_a_wrong_result_is_an_error():
    x = leaf(1.0)
    remove = x.register_hook(lambda g: g * 5)
    remove()
    remove()
    (x * 2).backward()
    assert x.grad.tolist() == [2]
    remove = x.register_hook(lambda g: 3.0)
    with pytest.raises(GraphError, match="must return a tensor or None, got float"):
        (x * 2).backward()
    remove()
    x.register_hook(lambda g: Tensor(np.ones(2)))
    with pytest.raises(ShapeError, match="hook returned shape"):
        (x * 2).backward()
    with pytest.raises(GraphError, match="requires a gradient"):
        Tensor(1.0).register_hook(print)


def test_the_gradient_a_hook_of_a_scalar_sees_is_a_proper_tensor():
    x, seen = Tensor(2.0, requires_grad=True), []
    y = x * x
    y.register_hook(lambda g: seen.append(repr(g)))
    x.register_hook(lambda g: seen.append(repr(g * 2)))
    (y * y + y).backward()
    assert seen == ["Tensor(9., dtype=float32)", "Tensor(72., dtype=float32)"]


def test_a_hook_that_raises_leaves_recording_as_it_was():
    x = leaf(1.0)
    x.register_hook(lambda g: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        (x * 2).backward()
    assert is_recording()


# Recording on and off


def test_no_grad_records_nothing_and_restores_what_was():
    x = leaf(1.0)
    with no_grad():
        assert not is_recording()
        y = x * 2
        with enable_grad():
            z = x * 3
        assert not is_recording()
    assert is_recording()
    assert not y.requires_grad
    assert z.requires_grad


def test_no_grad_is_restored_after_an_error_and_works_as_a_decorator():
    @no_grad()
    def fails(x):
        assert not is_recording()
        raise ValueError("on purpose")

    for _ in range(2):
        with pytest.raises(ValueError, match="on purpose"):
            fails(1)
        assert is_recording()


def test_no_grad_in_one_thread_does_not_stop_recording_in_another():
    x = leaf(2.0)
    inside, done, results = threading.Event(), threading.Event(), {}

    def silent():
        with no_grad():
            inside.set()
            done.wait(10)
            results["silent"] = (x * 2).requires_grad

    thread = threading.Thread(target=silent)
    thread.start()
    inside.wait(10)
    results["loud"] = (x * 2).requires_grad
    done.set()
    thread.join()
    assert results == {"silent": False, "loud": True}


def test_threads_differentiate_side_by_side():
    results, errors = {}, []

    def work(k):
        try:
            x = leaf(float(k))
            for _ in range(50):
                x.grad = None
                (x * x * x).backward()
            results[k] = x.grad.item()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(1, 6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not errors
    assert results == {k: 3 * k * k for k in range(1, 6)}


# Size


class Work(Observer):
    def __init__(self):
        self.nodes = self.rules = 0

    def node_started(self, node, g):
        self.nodes += 1

    def contributed(self, node, position, x, gx, total):
        self.rules += 1


def test_a_chain_of_20_000_ops_differentiates_in_linear_work_without_recursion():
    x = leaf(1.0)
    y = x
    for _ in range(20_000):
        y = -y
    work = Work()
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(300)
    try:
        with observing(work):
            y.backward()
    finally:
        sys.setrecursionlimit(limit)
    assert x.grad.tolist() == [1]
    assert (work.nodes, work.rules) == (20_000, 20_000)


def test_sixty_stacked_diamonds_take_two_rules_each():
    x = leaf(1.0)
    y = x
    for _ in range(60):
        y = y + y  # 2^60 paths
    work = Work()
    with observing(work):
        y.backward()
    assert x.grad.tolist() == [2.0**60]
    assert (work.nodes, work.rules) == (60, 120)


def test_diamonds_of_second_order_take_linear_work_too():
    x = leaf(1.0)
    y = x
    for _ in range(30):
        y = y * 0.5 + y * 0.5
    (first,) = grad(y * y, x, create_graph=True)
    work = Work()
    with observing(work):
        (second,) = grad(first, x)
    assert second.item() == pytest.approx(2)
    assert work.nodes < 1000


def test_a_chain_of_100_000_ops_is_deleted_without_a_crash():
    x = leaf(1.0)
    y = x
    for _ in range(100_000):
        y = -y
    last = weakref.ref(y.node)
    del y
    assert last() is None
    y = x
    for _ in range(100_000):
        y = -y
    y.backward(retain_graph=True)
    del y, x
    gc.collect()


def test_a_wrong_shape_of_a_rule_is_an_error_that_names_op_and_input():
    from tinygrad_cnn.op import Op

    def half(xp, x):
        return x * 0.5

    op = Op(
        half, shape=lambda x: x, flops=lambda y, x: 0, family="", source="", convert={}, constants=(), broadcasts=False
    )
    op.vjp("x")(lambda g, y, x: g[:1])
    with pytest.raises(ShapeError, match=r"half: the gradient rule of input 'x' returned shape \(1,\)"):
        op(leaf(1.0, 2.0)).sum().backward()


def test_a_rule_that_returns_none_contributes_nothing():
    x = leaf(1.0)
    whole = ops.astype(x, dtype="int64")
    assert not whole.requires_grad


def test_what_lies_behind_a_freed_part_is_never_left_out_in_silence():
    x = leaf(2.0)
    freed = (x * x).exp()
    freed.backward(retain_graph=False)
    with pytest.raises(GraphError, match="freed"):
        grad(freed + x * 2, x)
