"""GraphIR and the recorder, on a handful of ops made by hand: nothing above the engine is needed."""

import gc
import json
import math
import weakref

import numpy as np
import pytest
from graph_by_hand import Block, Chain, Hand, add, leaf, mul, relu
from tinygrad_cnn.viz.ir import GraphIR, Stats, stats

from tinygrad_cnn import viz
from tinygrad_cnn.autodiff import backward, gradients
from tinygrad_cnn.errors import DataError, GraphError
from tinygrad_cnn.graph import entered


def test_ids_are_module_path_op_and_counter_in_order_of_creation():
    model = Block()
    loss = model(leaf([1.0, 2.0], name="x"))
    ir = GraphIR.of(loss)
    assert [node.id for node in ir.nodes] == ["Block.first/mul:1", "Block.first/relu:1", "Block/mul:1", "Block/add:1"]
    assert ir.outputs == ["Block/add:1.y"]
    assert [m.id for m in ir.modules] == ["Block", "Block.first"]
    assert {v.id for v in ir.values if v.role == "parameter"} == {"x", "Block.first.weight", "Block.weight"}


def test_a_module_called_twice_is_two_module_calls_with_shared_parameters():
    chain = Chain(Block(), times=2)
    ir = GraphIR.of(chain(leaf([1.0, 2.0])))
    assert [m.id for m in ir.modules if m.path == "Chain.block"] == ["Chain.block", "Chain.block@2"]
    assert len(ir.value("Chain.block.weight").readers) == 2
    assert [n.id for n in ir.nodes if n.kind == "relu"] == ["Chain.block.first/relu:1", "Chain.block.first/relu:2"]


def test_walk_and_recorder_give_the_same_graph():
    model, x = Block(), leaf([1.0, -2.0])
    with viz.record() as rec:
        y = model(x)
    walked = json.loads(GraphIR.of(y).to_json())
    recorded = json.loads(rec.graph.to_json())
    for node in recorded["nodes"]:
        assert node.pop("source")["code"] == "y = model(x)" or node["id"]
    assert recorded == walked


def test_before_backward_no_gradient_is_known():
    ir = GraphIR.of(mul(leaf([1.0]), leaf([2.0])))
    assert not ir.has_gradients
    assert all(v.grad is None for v in ir.values)
    assert '"grad"' not in ir.to_json()


def test_recorder_keeps_upstream_contributions_and_sums_at_a_fan_out():
    x = leaf([3.0], name="x")
    with viz.record() as rec:
        a = mul(x, 2.0)
        y = add(mul(a, a), a)
        backward(y)
    walk = rec.graph.walks[0]
    assert [step.node for step in walk.steps] == ["add:1", "mul:2", "mul:1"]
    parts = [c for step in walk.steps for c in step.contributions if c.value == "mul:1.y"]
    assert [c.gradient.values for c in parts] == [[1.0], [6.0], [6.0]]
    assert [c.total.values for c in parts] == [[1.0], [7.0], [13.0]]
    assert [(c.arrived, c.of) for c in parts] == [(1, 3), (2, 3), (3, 3)]
    assert walk.steps[-1].upstream.values == [13.0]
    assert rec.graph.value("x").grad.values == [26.0] == x.grad.array.tolist()


def test_live_bytes_fall_as_the_walk_frees_nodes_and_end_with_the_leaf_gradients():
    x = leaf(np.ones(100))
    with viz.record() as rec:
        y = relu(relu(relu(x)))
        backward(y, np.ones(100))
    alive = [step.bytes_before for step in rec.graph.walks[0].steps] + [rec.graph.walks[0].steps[-1].bytes_after]
    assert alive == sorted(alive, reverse=True)
    assert alive == [3200, 2400, 1600, 800]
    assert all(step.freed for step in rec.graph.walks[0].steps)


def test_a_freed_graph_says_so_instead_of_failing():
    y = mul(leaf([1.0]), leaf([2.0]))
    backward(y)
    ir = GraphIR.of(y)
    assert ir.nodes[0].freed
    assert "retain_graph=True" in ir.notes[0]


def test_rules_that_ran_during_a_recorded_walk_name_the_node_they_belong_to():
    x = leaf([2.0])
    with viz.record() as rec:
        y = mul(x, mul(x, x))
        g = gradients(y, x, create_graph=True)[0]
        gradients(g, x)
    inner = [node for node in rec.graph.nodes if node.rule_of]
    assert inner
    assert {node.walk for node in inner} == {0}
    assert {node.rule_of for node in inner} == {"mul:1", "mul:2"}
    assert len(rec.graph.walks) == 2


def test_saved_arrays_name_the_rules_that_read_them():
    a, b = leaf([1.0], name="a"), leaf([2.0], name="b")
    node = GraphIR.of(mul(a, b)).nodes[0]
    assert {s.value: s.read_by for s in node.saved} == {"a": ["b"], "b": ["a"], "mul:1.y": []}
    node = GraphIR.of(add(a, b)).nodes[0]
    assert all(s.read_by == [] for s in node.saved)


def test_source_is_the_users_line():
    with viz.record() as rec:
        mul(leaf([1.0]), 2.0)  # the line in question
    assert rec.graph.nodes[0].source.code == "mul(leaf([1.0]), 2.0)  # the line in question"
    assert rec.graph.nodes[0].source.file == "test_viz_ir.py"


def test_updates_tell_how_far_a_parameter_moved():
    w = leaf([3.0, 4.0], name="w")
    with viz.record(updates=True) as rec:
        backward(mul(w, 2.0), np.ones(2))
        w.array[:] = [3.0, 4.5]
        w.edited()
    assert rec.graph.value("w").update == pytest.approx(0.1)
    assert rec.graph.value("w").after.values == [3.0, 4.5]


def test_times_are_recorded_only_on_request():
    with viz.record() as rec:
        mul(leaf([1.0]), 2.0)
    assert rec.graph.nodes[0].forward_seconds is None
    with viz.record(timed=True) as rec:
        backward(mul(leaf([1.0]), 2.0))
    assert rec.graph.nodes[0].forward_seconds > 0
    assert rec.graph.nodes[0].backward_seconds > 0


def test_stats_agree_with_numpy_and_set_nan_and_infinity_aside():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, 300)).astype(np.float32)
    x[0, :30] = 0
    s = stats(x)
    assert s.mean == pytest.approx(x.mean(dtype=np.float64), rel=1e-4)
    assert s.std == pytest.approx(x.std(dtype=np.float64), rel=1e-4)
    assert s.norm == pytest.approx(np.linalg.norm(x), rel=1e-4)
    assert s.zeros == pytest.approx(30 / 1200)
    assert s.histogram == np.histogram(x.astype(np.float64), 16)[0].tolist()
    x[1, 0], x[1, 1], x[1, 2] = np.nan, np.inf, -np.inf
    t = stats(x)
    assert (t.nan, t.inf) == (1, 2)
    assert math.isfinite(t.mean)
    assert math.isfinite(t.max)


@pytest.mark.parametrize("shift", [0.0, 3.0, 1e4])
@pytest.mark.parametrize("scale", [1.0, 1e-20, 1e25])
def test_stats_of_large_float32_arrays_keep_five_digits(shift, scale):
    x = ((np.random.default_rng(0).normal(size=(3, 9000)) + shift) * scale).astype(np.float32)
    s, wide = stats(x), x.astype(np.float64)
    expected = (wide.min(), wide.max(), wide.mean(), wide.std(), np.linalg.norm(wide))
    np.testing.assert_allclose((s.min, s.max, s.std, s.norm), np.delete(expected, 2), rtol=2e-5)
    assert s.mean == pytest.approx(expected[2], rel=2e-5, abs=1e-5 * scale)
    assert sum(s.histogram) == x.size
    x[1, 5] = np.inf
    assert (stats(x).inf, stats(x).nan) == (1, 0)
    assert stats(x).max == pytest.approx(np.delete(wide.ravel(), 9005).max(), rel=1e-5)


@pytest.mark.parametrize("x", [np.zeros((0, 3)), np.array(3.0), np.full(5, np.nan), np.arange(7), np.ones(9, bool)])
def test_stats_of_odd_arrays(x):
    s = stats(x)
    assert s.histogram is None or sum(s.histogram) == x.size
    assert len(s.values) == x.size


def test_norm_of_huge_and_tiny_numbers_neither_overflows_nor_vanishes():
    assert stats(np.full(4, 1e30, np.float32)).norm == pytest.approx(2e30, rel=1e-5)
    assert stats(np.full(4, 1e-30, np.float32)).norm == pytest.approx(2e-30, rel=1e-5)


def test_small_arrays_are_kept_in_full_and_read_like_the_original():
    x = np.array([0.1, 1 / 3], np.float32)
    assert stats(x).values[0] == 0.1
    assert np.array_equal(np.array(stats(x).values, np.float32), x)


def test_maps_are_at_most_32_by_32_and_average():
    x = np.zeros((1, 20, 64, 40))
    x[0, 3, :32] = 1.0
    maps = stats(x, maps=True).maps
    assert (maps.height, maps.width, len(maps.pixels), maps.of) == (32, 32, 16, 20)


def test_json_round_trip_with_nan_and_infinity():
    x = leaf([np.nan, np.inf, -np.inf, 1.0], name="x")
    with viz.record() as rec:
        backward(mul(x, x), np.ones(4))
    text = rec.graph.to_json()
    json.loads(text, parse_constant=pytest.fail)
    again = GraphIR.from_json(text)
    assert again.to_json() == text
    assert math.isnan(again.value("x").data.values[0])


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": "other/1"}', '{"schema":"tinygrad_cnn.graph/1","x":1}'])
def test_json_that_is_no_graph_is_refused(text):
    with pytest.raises(DataError, match="recorded graph"):
        GraphIR.from_json(text)


def broken_graphs():
    """JSON of a recorded graph with one thing wrong in it, in many ways."""
    x = leaf([1.0, 2.0], name="x")
    with viz.record() as rec:
        backward(Block()(x), np.ones(2))
    text = rec.graph.to_json()
    places = []

    def walk(item, path):
        places.append(path)
        if isinstance(item, dict):
            for key in item:
                walk(item[key], (*path, key))
        elif isinstance(item, list):
            for i in range(min(len(item), 2)):
                walk(item[i], (*path, i))

    walk(json.loads(text), ())
    for path in places[1:]:
        for wrong in (None, 7, "nobody", [[]], {"a": 1}):
            data = json.loads(text)
            inner = data
            for key in path[:-1]:
                inner = inner[key]
            if inner[path[-1]] != wrong:
                inner[path[-1]] = wrong
                yield path, json.dumps(data)


def test_damaged_json_is_refused_or_draws():
    refused = 0
    for path, text in broken_graphs():
        try:
            graph = GraphIR.from_json(text)
        except DataError:
            refused += 1
            continue
        try:
            assert viz.draw(graph, "both", engine="builtin").svg
            assert viz.draw(graph).text
        except Exception as error:
            raise AssertionError(f"{path}: {text}") from error
    assert refused > 300


def test_a_recording_lets_go_of_arrays_and_survives_an_error():
    recorder, inputs = [], []

    def fail():
        x = leaf([1.0, 2.0])
        inputs.append(weakref.ref(x))
        with viz.record() as rec:
            recorder.append(rec)
            mul(x, 2.0)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    gc.collect()
    assert inputs[0]() is None
    assert [node.id for node in recorder[0].graph.nodes] == ["mul:1"]


def test_reading_the_graph_twice_gives_the_same():
    with viz.record() as rec:
        y = mul(leaf([1.0]), 2.0)
        backward(y)
        assert rec.graph.to_json() == rec.graph.to_json()
    assert GraphIR.of(y).to_json() == GraphIR.of(y).to_json()


def test_marks_go_to_known_nodes_only():
    ir = GraphIR.of(mul(leaf([1.0]), 2.0))
    ir.mark("gradient_check", {"mul:1": 0.5})
    assert ir.node("mul:1").marks == {"gradient_check": 0.5}
    with pytest.raises(GraphError, match="no node 'relu:1'"):
        ir.mark("gradient_check", {"relu:1": 0.5})


def test_what_is_not_a_tensor_is_refused():
    with pytest.raises(GraphError, match="tensors; got float"):
        GraphIR.of(1.0)


def test_two_values_with_one_name_get_two_ids():
    ir = GraphIR.of(mul(leaf([1.0], name="w"), leaf([2.0], name="w")))
    assert [v.id for v in ir.values] == ["w", "w#2", "mul:1.y"]


def test_dead_share_counts_units_silent_for_the_whole_batch():
    x = leaf([[1.0, -1.0, -1.0, -2.0], [-1.0, 1.0, -3.0, -1.0]])
    assert GraphIR.of(relu(x)).nodes[0].dead == 0.5


def test_ten_thousand_ops_need_no_recursion():
    x = leaf([1.0])
    y = x
    for _ in range(10_000):
        y = relu(y)
    assert len(GraphIR.of(y, statistics=False).nodes) == 10_000


def test_ops_without_gradients_are_recorded_in_their_module():
    model = Hand()
    x = leaf([1.0])
    x.requires_grad = False
    with viz.record() as rec, entered(model):
        relu(x)
    assert rec.graph.nodes[0].id == "Hand/relu:1"
    assert rec.graph.value("input:1").role == "input"


def test_stats_default_says_nothing_was_seen():
    assert Stats().min is None
