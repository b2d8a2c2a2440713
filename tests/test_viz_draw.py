"""The static pictures: what is drawn, that it is always drawn, and that it is drawn the same twice."""

import json
import os
import re
import stat
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from graph_by_hand import Block, Chain, Stack, add, leaf, mul, relu
from tinygrad_cnn.viz import dot as dot_module
from tinygrad_cnn.viz.ir import GraphIR
from tinygrad_cnn.viz.layout import layout

from tinygrad_cnn import viz
from tinygrad_cnn.autodiff import backward, gradients
from tinygrad_cnn.errors import MissingExtraError, OptionError

GOLDEN = Path(__file__).parent / "golden"
SVG = "{http://www.w3.org/2000/svg}"


def recorded(model=None, x=None):
    model = model or Block()
    x = leaf([1.0, 2.0], name="x") if x is None else x
    with viz.record() as rec:
        y = model(x)
        backward(y, np.ones(2))
    return rec.graph


def texts(svg):
    return [e.text for e in ET.fromstring(svg).iter(SVG + "text")]


def titles(svg):
    return [e.text or "" for e in ET.fromstring(svg).iter(SVG + "title")]


@pytest.mark.parametrize("mode", ["forward", "backward", "both"])
def test_dot_text_is_the_golden_one(mode, request):
    text = viz.draw(recorded(), mode).dot
    golden = GOLDEN / f"block_{mode}.dot"
    assert text == golden.read_text(), f"if the change is meant, write the new text to {golden}"


@pytest.mark.parametrize("engine", ["dot", "builtin"])
@pytest.mark.parametrize("mode", ["forward", "backward", "both"])
def test_every_op_and_leaf_is_in_the_drawing(mode, engine):
    svg = viz.draw(recorded(), mode, engine=engine).svg
    assert {"mul", "relu", "add", "weight", "x"} <= set(texts(svg))
    root = ET.fromstring(svg)
    assert root.get("role") == "img"
    assert root.get("viewBox")
    assert "max-width" in root.get("style")
    assert root.get("width") is None
    assert root.find(SVG + "title").text
    assert "4 ops" in root.find(SVG + "desc").text


def test_before_backward_pictures_say_no_gradient_yet_and_never_zero():
    y = Block()(leaf([1.0, 2.0]))
    for mode in ("backward", "both"):
        svg = viz.draw(y, mode).svg
        assert "no gradient yet" in texts(svg)
        assert "|g|" not in svg
    assert "no gradient yet" in texts(viz.draw(y, color_by="gradient").svg)


def test_after_backward_boxes_name_gradient_norms():
    graph = recorded()
    norm = graph.value("Block/mul:1.y").grad.norm
    assert f"|g| {norm:.3g}" in texts(viz.draw(graph, "both").svg)
    assert "no gradient yet" not in viz.draw(graph, "both").svg


def test_a_fan_out_writes_each_share_on_its_line():
    x = leaf([3.0], name="x")
    with viz.record() as rec:
        y = mul(x, x)
        backward(add(y, y))
    shares = {t for t in texts(viz.draw(rec, "backward", engine="builtin").svg) if t and "of 2" in t}
    assert not shares, "both shares run along one line, so neither is written on it"
    with viz.record() as rec:
        y = mul(x, 2.0)
        backward(add(relu(y), y))
    shares = {t for t in texts(viz.draw(rec, "backward", engine="builtin").svg) if t and "of 2" in t}
    assert shares == {"|g| 1 (1 of 2)", "|g| 1 (2 of 2)"}


def test_forward_is_solid_backward_dashed_without_constraint_and_saved_arrays_dotted_with_bytes():
    text = viz.draw(recorded(), "both").dot
    assert re.search(r'"Block.first/mul:1" -> "Block.first/relu:1" \[weight=6, class=f', text)
    assert re.search(r'"Block.first/relu:1" -> "Block.first/mul:1" \[style=dashed, constraint=false', text)
    assert re.search(r'saved a, b\\n32 B", shape=note, style="dotted"', text)


def test_depth_and_collapse_turn_modules_into_boxes():
    graph = recorded()
    assert [b.id for b in viz.draw(graph, depth=0).diagram.boxes] == ["x", "Block"]
    inner = viz.draw(graph, depth=1).diagram
    assert "Block.first" in [b.id for b in inner.boxes]
    assert [c.id for c in inner.clusters] == ["Block"]
    for pattern in ("first", "Block.first", "Scale", "*.first"):
        assert viz.draw(graph, collapse=pattern).diagram.boxes == inner.boxes
    with pytest.raises(OptionError, match=r"no module is called 'nothing'.*Block, Scale"):
        viz.draw(graph, collapse=["nothing"])


def test_equal_blocks_in_a_row_fold_and_say_how_many():
    graph = recorded(Stack(8))
    folded = viz.draw(graph).diagram
    assert [c.label for c in folded.clusters] == ["Stack", "layers.0: Block × 8", "first: Scale"]
    assert len(viz.draw(graph, fold=False).diagram.clusters) == 1 + 8 + 8
    assert len(viz.draw(graph, depth=1).diagram.boxes) == 2
    assert "layers.0: Block × 8" in texts(viz.draw(graph, depth=1).svg)
    for mode in ("backward", "both"):
        assert viz.draw(graph, mode).diagram.clusters == folded.clusters


def test_blocks_that_differ_or_are_read_from_outside_do_not_fold():
    stack = Stack(3)
    stack.layers[1].forward = lambda x: mul(stack.layers[1].first(x), x)
    graph = recorded(stack)
    assert not any("×" in c.label for c in viz.draw(graph).diagram.clusters)

    class Dense(Stack):
        def forward(self, x):
            first = self.layers[0](x)
            return add(self.layers[1](first), first)

    assert not any("×" in c.label for c in viz.draw(recorded(Dense(2))).diagram.clusters)


def test_a_folded_block_has_no_arrow_back_into_itself():
    links = viz.draw(recorded(Stack(4)), "both").diagram.links
    order = {box.id: i for i, box in enumerate(viz.draw(recorded(Stack(4)), "both").diagram.boxes)}
    assert all(order[link.tail] < order[link.head] for link in links if link.kind == "forward")


def test_shared_weights_are_one_box_with_two_arrows():
    graph = recorded(Chain(Block(), times=2))
    diagram = viz.draw(graph, fold=False).diagram
    shared = [link for link in diagram.links if link.tail == "Chain.block.weight"]
    assert len(shared) == 2


def test_second_order_graphs_draw_in_every_mode_and_show_the_backward_pass_itself():
    x = leaf([2.0], name="x")
    with viz.record() as rec:
        y = mul(x, mul(x, x))
        g = gradients(y, x, create_graph=True)[0]
        gradients(g, x)
    ops = {
        mode: [b.id for b in viz.draw(rec, mode).diagram.boxes if b.kind == "op"]
        for mode in ("forward", "backward", "both")
    }
    assert ops["forward"] == ["mul:1", "mul:2"]
    assert "mul:1" not in ops["backward"]
    assert len(ops["backward"]) >= 4
    assert set(ops["both"]) == {*ops["forward"], *ops["backward"]}
    assert viz.draw(g).svg
    assert viz.draw(g, "backward", engine="builtin").svg


@pytest.mark.parametrize("color_by", ["op", "gradient", "dead", "bytes", "flops", None, "gradient norm"])
@pytest.mark.parametrize("engine", ["dot", "builtin"])
def test_every_coloring_draws(color_by, engine):
    picture = viz.draw(recorded(), "both", color_by=color_by, engine=engine)
    ET.fromstring(picture.svg)


def test_colours_by_number_have_a_legend_with_numbers():
    svg = viz.draw(recorded(), color_by="gradient").svg
    assert "gradient norm (log scale)" in texts(svg)
    assert any(t and re.match(r"[\d.e-]+ – [\d.e-]+$", t) for t in texts(svg))


def test_nan_and_infinity_are_hatched_and_named():
    x = leaf([np.nan, 1.0])
    with viz.record() as rec:
        backward(mul(x, 2.0), np.array([np.inf, 1.0]))
    for color_by in ("op", "gradient"):
        svg = viz.draw(rec, "both", color_by=color_by, engine="builtin").svg
        assert "url(#tgv-hatch)" in svg
        assert "NaN or infinite" in texts(svg)
        assert "striped" in viz.draw(rec, "both", color_by=color_by).dot


def test_marks_and_check_errors_colour_the_graph():
    graph = recorded()
    with pytest.raises(OptionError, match="gradient_check"):
        viz.draw(graph, color_by="check")
    graph.mark("gradient_check", {"Block/add:1": 0.5, "Block/mul:1": 1e-9})
    assert "error 0.5" in texts(viz.draw(graph, color_by="check").svg)
    graph.mark("temperature", {"Block/add:1": 3.0})
    assert "temperature" in texts(viz.draw(graph, color_by="temperature").svg)


def test_numbers_that_were_not_recorded_are_refused_with_the_remedy():
    graph = recorded()
    with pytest.raises(OptionError, match="timed=True"):
        viz.draw(graph, color_by="time")
    with pytest.raises(OptionError, match="updates=True"):
        viz.draw(graph, color_by="update")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "sideways"}, "mode must be one of"),
        ({"color_by": "mood"}, "color_by must be one of"),
        ({"theme": "pink"}, "theme must be one of"),
        ({"engine": "steam"}, "engine must be one of"),
        ({"depth": -1}, "depth must be"),
    ],
)
def test_unknown_options_are_refused(options, message):
    with pytest.raises(OptionError, match=message):
        viz.draw(recorded(), **options)


def test_auto_theme_follows_the_reader_and_the_others_do_not():
    graph = recorded()
    assert "prefers-color-scheme:dark" in viz.draw(graph).svg
    assert "prefers-color-scheme" not in viz.draw(graph, theme="dark").svg
    assert viz.draw(graph, theme="dark").svg != viz.draw(graph, theme="light").svg
    assert "#16181D" in viz.draw(graph, theme="dark").dot


HOSTILE = [
    "</script><img src=x onerror=alert(1)>",
    '"]; evil [label="x',
    "ends with backslash \\",
    "a\\nb\\N\\G",
    "<b>&amp;&lt;</b>",
    "]]>",
    "\x00\x07\x1b[31m",
    "new\nline",
    "ünïcode 漢字 🎉",
    "\ud800",
    "x" * 500,
    "",
]


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("engine", ["dot", "builtin"])
def test_hostile_names_stay_text(name, engine):
    x = leaf([1.0], name=name)
    kind = type(name.replace("\x00", "").replace("\ud800", "") or "Empty", (Block,), {})
    model = kind()
    model.weight = leaf([0.5], name=name)
    model.first.weight = leaf([2.0])
    with viz.record(title=name) as rec:
        backward(model(x))
    picture = viz.draw(rec, "both", engine=engine)
    root = ET.fromstring(picture.svg)
    assert {e.tag.removeprefix(SVG) for e in root.iter()} <= {
        *("svg", "title", "desc", "style", "defs", "pattern", "rect", "g", "text", "path", "polygon", "polyline"),
        *("a", "{http://www.w3.org/1999/xlink}a", "ellipse"),
    }
    assert not any(k[:2] == "on" for e in root.iter() for k in e.keys())  # noqa: SIM118 - an element is no dict
    json.loads(rec.graph.to_json())
    if dot_module.find_dot():
        plain = dot_module.run_dot(picture.dot, "plain", timeout=30)
        assert plain is not None
        assert plain.count(b"\nnode ") == len(picture.diagram.boxes)
    assert picture.text


def test_an_emptied_path_still_draws(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(dot_module.sysconfig, "get_path", lambda name: "")
    monkeypatch.setattr(dot_module.sys, "executable", "")
    assert dot_module.find_dot() is None
    assert {"mul", "relu"} <= set(texts(viz.draw(recorded()).svg))
    assert viz.draw(recorded(), engine="dot").dot.startswith("digraph")


@pytest.mark.parametrize("script", ["sleep 60", "exit 1", "echo nonsense", "kill -9 $$"])
def test_a_dot_that_hangs_or_fails_is_replaced(script, tmp_path, monkeypatch):
    program = tmp_path / "dot"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    graph = recorded()
    assert viz.draw(graph, timeout=0.3).svg == viz.draw(graph, engine="builtin").svg


PROGRAM = """
import sys
sys.path.insert(0, {tests!r})
import numpy as np
from graph_by_hand import Stack, leaf
from tinygrad_cnn import viz
from tinygrad_cnn.autodiff import backward
with viz.record(maps=True) as rec:
    y = Stack(3)(leaf([1.0, 2.0], name="x"))
    backward(y, np.ones(2))
for mode in ("forward", "backward", "both"):
    for engine in ("dot", "builtin"):
        picture = viz.draw(rec, mode, engine=engine, color_by="gradient", fold=False)
        sys.stdout.write(picture.svg + picture.dot + picture.text)
sys.stdout.write(rec.graph.to_json())
"""


def test_two_processes_with_other_hash_seeds_write_the_same_bytes():
    program = PROGRAM.format(tests=str(Path(__file__).parent))
    outputs = [
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert outputs[0] == outputs[1]
    assert len(outputs[0]) > 10_000
    assert b" at 0x" not in outputs[0]


def test_ten_thousand_ops_draw_without_recursion():
    y = leaf([1.0])
    for _ in range(10_000):
        y = relu(y)
    svg = viz.draw(GraphIR.of(y, statistics=False), "both").svg
    assert svg.count(">relu</text>") == 10_000


def test_modules_nested_a_thousand_deep_draw_without_recursion():
    from graph_by_hand import Hand

    class Nest(Hand):
        inner = None

        def named_modules(self, prefix=""):
            yield "", self

        def forward(self, x):
            return relu(x)

    from tinygrad_cnn.graph import entered

    x = leaf([1.0])
    modules = [Nest() for _ in range(1000)]
    from contextlib import ExitStack

    with ExitStack() as stack:
        for module in modules:
            stack.enter_context(entered(module))
        y = relu(x)
    picture = viz.draw(y, engine="builtin")
    ET.fromstring(picture.svg)
    assert picture.dot
    assert picture.text


def test_a_freed_graph_draws_with_a_note():
    y = mul(leaf([1.0]), leaf([2.0]))
    backward(y)
    assert "retain_graph=True" in viz.draw(y).svg


def test_a_single_leaf_draws():
    assert "w" in texts(viz.draw(leaf([1.0], name="w")).svg)


@pytest.mark.parametrize("suffix", [".svg", ".pdf", ".png", ".dot", ".json", ".txt"])
def test_a_picture_is_saved_in_the_form_its_suffix_names(suffix, tmp_path):
    path = viz.draw(recorded()).save(tmp_path / f"graph{suffix}")
    data = path.read_bytes()
    start = {".svg": b"<svg", ".pdf": b"%PDF", ".png": b"\x89PNG", ".dot": b"digraph", ".json": b"{", ".txt": b"Block"}
    assert data.startswith(start[suffix])
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("form", ["pdf", "png"])
def test_pdf_and_png_need_no_dot(form, tmp_path):
    pytest.importorskip("matplotlib")
    path = viz.draw(recorded(), "both", color_by="gradient", engine="builtin").save(tmp_path / f"graph.{form}")
    assert path.read_bytes()[:4] in (b"%PDF", b"\x89PNG")


def test_neither_dot_nor_matplotlib_is_an_error_that_names_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tinygrad_cnn.viz.paper", None)
    with pytest.raises(MissingExtraError, match=r"tinygrad-cnn\[plot\]"):
        viz.draw(recorded(), engine="builtin").save(tmp_path / "graph.pdf")
    assert list(tmp_path.iterdir()) == []


def test_bad_targets_are_refused(tmp_path):
    picture = viz.draw(recorded())
    with pytest.raises(OptionError, match=r"'\.gif'"):
        picture.save(tmp_path / "graph.gif")
    with pytest.raises(OptionError, match="no folder"):
        picture.save(tmp_path / "missing" / "graph.svg")


def test_a_png_of_very_many_boxes_warns(tmp_path):
    pytest.importorskip("matplotlib")
    y = leaf([1.0])
    for _ in range(510):
        y = relu(y)
    with pytest.warns(UserWarning, match="cannot be read"):
        viz.draw(y).save(tmp_path / "graph.png")


def test_saving_over_a_file_that_cannot_be_replaced_leaves_no_rest(tmp_path):
    (tmp_path / "graph.svg").mkdir()
    with pytest.raises(OSError, match=r"graph\.svg"):
        viz.draw(recorded()).save(tmp_path / "graph.svg")
    assert [p.name for p in tmp_path.iterdir()] == ["graph.svg"]


def test_notebooks_get_svg_and_text():
    bundle = viz.draw(recorded())._repr_mimebundle_()
    assert bundle["image/svg+xml"].startswith("<svg")
    assert "text/plain" in bundle


def test_graphviz_source_carries_the_same_text():
    pytest.importorskip("graphviz")
    picture = viz.draw(recorded())
    assert picture.graphviz().source == picture.dot


def test_text_lists_ops_under_their_modules_with_gradients():
    text = viz.draw(recorded()).text
    assert "  first: Scale, 2 parameters" in text
    assert re.search(r"^    mul:1\(x, weight\) -> 2, 16 B, \|g\| [\d.]+$", text, re.MULTILINE)


def test_layout_keeps_boxes_apart_and_frames_around_their_boxes():
    rng = np.random.default_rng(0)
    n = 60
    edges = [(int(rng.integers(0, i)), i) for i in range(1, n)] + [
        tuple(sorted(map(int, rng.choice(n, 2, replace=False)))) for _ in range(30)
    ]
    inside = [None if i % 10 == 9 else f"c{i // 10}" for i in range(n)]
    parents = {f"c{k}": None if k % 2 == 0 else f"c{k - 1}" for k in range(6)}
    sizes = [(40.0 + 5 * (i % 4), 30.0) for i in range(n)]
    placed = layout(sizes, inside, parents, edges)
    frames = placed.boxes
    for i in range(n):
        for j in range(i):
            a, b = frames[i], frames[j]
            assert a.x >= b.x + b.w or b.x >= a.x + a.w or a.y >= b.y + b.h or b.y >= a.y + a.h
    for i, cluster in enumerate(inside):
        while cluster is not None:
            f, c = frames[i], placed.clusters[cluster]
            assert c.x <= f.x
            assert c.y <= f.y
            assert f.x + f.w <= c.x + c.w
            assert f.y + f.h <= c.y + c.h
            cluster = parents[cluster]
    for (a, b), path in zip(edges, placed.paths, strict=True):
        assert frames[a].x <= path[0][0] <= frames[a].x + frames[a].w
        assert frames[b].x <= path[-1][0] <= frames[b].x + frames[b].w


def test_layout_survives_a_circle():
    placed = layout([(10.0, 10.0)] * 3, [None] * 3, {}, [(0, 1), (1, 2), (2, 0)])
    assert len({(f.x, f.y) for f in placed.boxes}) == 3
