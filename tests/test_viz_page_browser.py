"""The interactive page in a real browser: stepping, predicting, searching, folding, and being read without a mouse."""

import re

import numpy as np
import pytest
from op_checks import differentiable, samples, tensors
from page_browser import Visit, launch

import tinygrad_cnn as tg
from tinygrad_cnn import Tensor, models, nn, viz
from tinygrad_cnn.op import TABLE

HOSTILE = "</script><img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def browser():
    playwright, browser = launch()
    yield browser
    browser.close()
    playwright.stop()


@pytest.fixture
def visit(browser, tmp_path):
    """Make the page of a subject and open it; at the end nothing may have gone wrong in the browser."""
    visits = []

    def open_page(subject, *, browser_options=None, **options):
        path = tmp_path / f"page{len(visits)}.html"
        viz.html(subject, path, **options)
        visits.append(Visit(browser, path, **(browser_options or {})))
        return visits[-1]

    yield open_page
    for each in visits:
        assert each.problems == []
        assert len(each.requests) == 1
        each.context.close()


def diamond():
    x = tg.tensor(2.0, requires_grad=True)
    y = tg.tensor(3.0, requires_grad=True)
    x.name, y.name = "x", "y"
    return x * y + x


def digits(n=2):
    """Two strokes that look a little like a 7 and a 1."""
    x = np.zeros((n, 1, 28, 28), dtype=np.float32)
    x[0, 0, 5:7, 8:20] = 1
    for k in range(16):
        x[0, 0, 7 + k, 18 - k // 2] = 1
    x[1:, 0, 4:24, 13:15] = 0.8
    return tg.tensor(x), np.array([7, 1])[:n]


@pytest.fixture(scope="module")
def lenet():
    """Three recorded iterations of LeNet-5."""
    tg.manual_seed(0)
    model, (x, t) = models.LeNet5(), digits()
    tape = []
    for k in range(3):
        with viz.record(maps=k == 2, elements=20_000 if k == 2 else 64) as rec:
            nn.functional.cross_entropy(model(x), t).backward()
        tape.append(rec)
        for p in model.parameters():
            p.array -= 0.1 * p.grad.array
            p.edited()
            p.grad = None
    return tape


# ------------------------------------------------------------------------------------------------ the step player


def test_stepping_tells_how_a_gradient_is_made(visit):
    page = visit(diamond())
    assert page.says.startswith("Start. 2 ops, 2 leaves.")
    page.press("ArrowRight")
    assert page.says == "Forward: mul reads x and y and gives scalar, y 6."
    page.press("ArrowRight", "ArrowRight")
    assert "the gradient of the loss with respect to itself is 1" in page.says
    page.press("ArrowRight")
    assert "(1 of 2 arrived)" in page.says
    assert "1 of 2 arrived; sum so far 1" in page.text(".arrived")
    assert page.box("x").locator(".g").inner_text() == "1 of 2: grad 1"
    page.press("ArrowRight")
    assert page.text("#upstream") == "g = ∂L/∂y: scalar, 1"
    assert "2 of 2 arrived; sum so far 4" in page.text(".arrived")
    assert page.box("x").locator(".g").inner_text() == "grad 4"
    assert page.box("y").locator(".g").inner_text() == "grad 2"
    page.press("ArrowRight")
    assert page.says == "Done. 2 leaves received a gradient."


def test_before_its_step_a_gradient_is_not_yet_there_and_not_zero(visit):
    page = visit(diamond())
    assert page.texts(".node .g") == ["no gradient yet"] * 4


def test_saved_arrays_are_shown_and_freed_and_the_bytes_alive_fall(visit):
    page = visit(diamond())
    page.press("End")
    page.press("ArrowLeft")
    assert page.box("mul").get_attribute("class").split().count("freed") == 1
    assert page.texts(".saved li") == [
        "a = x, 4 B: read for ∂/∂b",
        "b = y, 4 B: read for ∂/∂a",
        "y, its output, 4 B: kept, its elements are not read",
    ]
    assert "saved" in page.box("x").get_attribute("class")
    assert page.text("#alive") == "8 B"
    page.press("ArrowLeft")
    assert page.text("#alive") == "12 B"


def test_keys_and_slider_reach_every_step(visit):
    page = visit(diamond())
    page.press("End")
    assert page.step == 6
    page.press("Home")
    assert page.step == 0
    page.page.locator("#slider").fill("4")
    assert page.says.startswith("Backward: add")
    page.press("ArrowLeft")
    assert page.step == 3


def test_space_plays_to_the_end_and_pauses(visit):
    page = visit(diamond())
    page.page.select_option("select[aria-label=Speed]", "60")
    page.page.evaluate("document.activeElement.blur()")
    page.press("Space")
    for _ in range(60):
        if page.step == 6:
            break
        page.page.wait_for_timeout(50)
    assert page.step == 6
    assert page.text("#play") == "▶ Play"


def test_every_gradient_in_the_page_equals_that_of_the_tensor_for_every_op(visit):
    """All ops of the table on their samples in one graph; the numbers are read off the page."""
    terms, expected, missing = [], {}, []
    for name, op in sorted(TABLE.items()):
        shown = False
        for arrays, options in samples(op):
            wanted = differentiable(op, arrays)
            if not wanted or any(not 0 < arrays[i].size <= 64 for i in wanted):
                continue
            inputs = tensors(
                [np.asarray(a, dtype=np.float64) if i in wanted else a for i, a in enumerate(arrays)], wanted
            )
            for i in wanted:
                inputs[i].name = f"{name}{len(terms)}.{i}"
                expected[inputs[i].name] = inputs[i]
            terms.append((op(*inputs, **options) * 1.5).sum())
            shown = True
        if op.vjps and not shown:
            missing.append(name)
    assert missing == []
    loss = terms[0]
    for term in terms[1:]:
        loss = loss + term
    page = visit(loss, title="all ops")
    loss.backward()
    page.press("End", "t")
    found = page.page.evaluate(
        """() => {
          const out = {};
          for (const button of document.querySelectorAll("#table th[scope=row] button")) {
            if (!/^(leaf|parameter) /.test(button.textContent)) continue;
            button.click();
            const card = document.querySelector('#inspector [data-summary="grad"]');
            out[button.textContent.replace(/^\\w+ /, "")] = [...card.querySelectorAll("td")].map((e) => e.textContent);
          }
          return out;
        }"""
    )
    assert found.keys() == expected.keys()
    for name, x in expected.items():
        assert x.grad is not None, name
        assert np.array_equal([float(text) for text in found[name]], x.grad.numpy().ravel(), equal_nan=True), name


# ------------------------------------------------------------------------------------------------ predict and break


def test_predicting_asks_for_the_shape_and_then_for_the_value(visit):
    x = tg.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    x.name = "x"
    page = visit((x * x).sum())
    page.press("p", "ArrowRight")
    assert "What is the shape of the gradient that sum hands to" in page.text("#quiz")
    assert "gradient: ?" in page.texts(".node .g")
    page.page.keyboard.type("2, 2")
    page.press("Enter")
    assert "Yes: (2, 2)." in page.text("#verdict")
    page.page.keyboard.type("7")
    page.press("Enter")
    assert page.text("#verdict").startswith("Not 7. Multiply the upstream gradient")
    assert page.step == 3
    page.page.keyboard.type("1")
    page.press("Enter")
    assert page.step == 4
    assert "1 of 2 right at the first try" in page.says


def test_predict_mode_gives_nothing_away_before_the_answer(visit):
    page = visit(diamond())
    page.press("p", "ArrowRight")
    assert "1 of 2" not in page.text("#canvas")
    assert page.step == 3
    page.press("Tab", "Tab")
    page.page.get_by_role("button", name="Show the answer").click()
    assert "It is scalar." in page.text("#verdict")


def test_the_gradient_check_names_the_first_wrong_op_on_the_way_back(visit, lenet):
    rec = lenet[-1]
    order = [step.node for step in rec.graph.walks[-1].steps]
    errors = dict.fromkeys(order, 1e-09)
    first = order[7]
    errors.update(dict.fromkeys(order[7:10], 0.3))
    page = visit(rec, errors=errors)
    page.press("c")
    assert page.text("#checkcard p").startswith(f"First wrong on the way back: {first.removeprefix('LeNet5.')}")
    assert page.page.locator("#world .node.first-wrong").count() == 1
    assert page.page.locator("#world .node.wrong").count() == 3
    assert "3 ops wrong in all" in page.says


def test_without_a_gradient_check_the_button_says_what_is_missing(visit):
    page = visit(diamond())
    button = page.page.locator("#break")
    assert button.is_disabled()
    assert "errors={node: error}" in button.get_attribute("title")


# ------------------------------------------------------------------------------------------------ folding and finding


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.first = nn.Linear(width, width)
        self.second = nn.Linear(width, width)

    def forward(self, x):
        return (self.second(self.first(x).relu()) + x).relu()


def tower(depth):
    tg.manual_seed(0)
    model = nn.Sequential(*[Block(4) for _ in range(depth)])
    return (model(tg.ones(2, 4)) ** 2).sum()


def test_modules_fold_and_open_in_place(visit):
    page = visit(tower(3))
    before = page.nodes.count()
    page.page.get_by_role("button", name="Collapse module Sequential.1", exact=True).click()
    assert page.settled().page.locator(".node.group:visible").count() == 1
    assert page.nodes.count() == before - 8  # five ops and four parameters became one box
    assert "Sequential.1 collapsed" in page.says
    page.press("Enter")
    assert page.nodes.count() == before
    assert "Sequential.1 expanded" in page.says


def test_large_graphs_open_folded_to_what_can_be_read(visit):
    page = visit(tower(40))
    assert page.settled().page.locator(".node.group:visible").count() == 40
    page.page.select_option("#depth", "all")
    assert page.nodes.count() == 40 * 9 + 3


def test_boxes_do_not_overlap(visit):
    page = visit(tower(6))
    overlaps = page.page.evaluate(
        """() => {
          const boxes = [...document.querySelectorAll(".node")].map((e) => e.getBoundingClientRect());
          let n = 0;
          boxes.forEach((a, i) => boxes.slice(i + 1).forEach((b) => {
            if (a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom) n++;
          }));
          return n;
        }"""
    )
    assert overlaps == 0


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ("conv2d", {"LeNet5.conv1/conv2d:1", "LeNet5.conv2/conv2d:1"}),
        ("6×1×5×5", {"parameter LeNet5.conv1.weight"}),
        ("shape:(6,1,5,5)", {"parameter LeNet5.conv1.weight"}),
        ("role:parameter conv1", {"parameter LeNet5.conv1.weight", "parameter LeNet5.conv1.bias"}),
        ("params>40000 role:parameter", {"parameter LeNet5.fc1.weight"}),
        ("kind:relu zeros>2", set()),
    ],
)
def test_search_finds_names_kinds_shapes_and_conditions(visit, lenet, query, ids):
    page = visit(lenet[-1])
    page.press("/")
    page.page.keyboard.type(query)
    page.page.click("#tab-table")
    assert set(page.texts("#table th[scope=row]")) == ids


def test_search_by_gradient_norm_agrees_with_the_recording(visit, lenet):
    page = visit(lenet[-1])
    expected = sum(v.grad is not None and v.grad.norm > 0.5 for v in lenet[-1].graph.values)
    page.page.fill("#query", "grad>0.5")
    assert page.text("#found").startswith(f"{expected} match")


def test_ancestors_and_descendants_are_told_apart(visit):
    page = visit(diamond())
    page.open("mul")
    page.page.get_by_role("button", name="Ancestors").click()
    assert page.says == "2 ancestors of mul."
    assert page.page.locator(".node.dim").count() == 1
    page.page.get_by_role("button", name="Descendants").click()
    assert page.says == "1 descendants of mul."
    assert page.page.locator(".node.dim").count() == 2


def test_the_gain_path_multiplies_local_gains(visit):
    x = tg.tensor(0.5, requires_grad=True)
    x.name = "x"
    y = x
    for _ in range(4):
        y = y.sigmoid()
    page = visit(y)
    page.press("End")
    page.open("x")
    page.page.get_by_role("button", name="Gain path from the loss").click()
    value, product = 0.5, 1.0
    for _ in range(4):
        value = 1 / (1 + np.exp(-value))
        product *= value * (1 - value)
    assert float(page.text("#product")) == pytest.approx(product, rel=2e-3)
    assert page.page.locator("#pathcard tbody tr").count() == 5
    assert page.page.locator(".node.path").count() == 5


# ------------------------------------------------------------------------------------------------ pictures


@pytest.mark.parametrize(
    ("stride", "padding", "dilation", "groups"),
    [(1, 0, 1, 1), (2, 1, 1, 1), ((2, 1), ((1, 2), (0, 1)), (1, 2), 2)],
)
def test_the_microscope_adds_up_to_what_was_recorded(visit, stride, padding, dilation, groups):
    rng = np.random.default_rng(0)
    x = Tensor.made(rng.normal(size=(2, 4, 7, 6)).astype(np.float32)).requires_grad_()
    w = Tensor.made(rng.normal(size=(4, 4 // groups, 3, 2)).astype(np.float32)).requires_grad_()
    b = Tensor.made(rng.normal(size=4).astype(np.float32)).requires_grad_()
    y = TABLE["conv2d"](x, w, b, stride=stride, padding=padding, dilation=dilation, groups=groups)
    page = visit((y * y).sum())
    page.press("End")
    page.open("conv2d")
    for mode in ("Output pixel", "Weight", "Input pixel"):
        page.page.get_by_role("button", name=re.compile(f"^{mode} →")).click()
        for label, value in (("sample", "1"), ("output channel", "3"), ("input channel", "2"), ("row", "1")):
            field = page.page.get_by_label(re.compile(f"^{label}"))
            if field.count():
                field.fill(value)
                field.press("Tab")
        assert "✓" in page.text("#microresult"), (mode, page.text("#microresult"))


def test_filters_are_shown_with_their_gradient_and_after_the_step(visit, lenet):
    page = visit(lenet[-1], learning_rate=0.5)
    page.press("End")
    page.open("conv1.weight")
    cells = page.page.eval_on_selector_all("#filters canvas", "list => list.map((c) => c.title.split(' ').map(Number))")
    assert len(cells) == 18
    filters, gradients, after = np.array(cells[:6]), np.array(cells[6:12]), np.array(cells[12:])
    value = lenet[-1].graph.value("LeNet5.conv1.weight")
    assert np.allclose(filters.ravel(), value.data.values, rtol=1e-3, atol=1e-6)
    assert np.allclose(gradients.ravel(), value.grad.values, rtol=1e-2, atol=1e-5)
    assert np.allclose(after, filters - 0.5 * gradients, rtol=1e-2, atol=1e-3)


def test_feature_maps_and_gradient_maps_are_drawn_in_their_boxes(visit, lenet):
    page = visit(lenet[-1])
    page.press("End")
    painted = """(box) => [...box.querySelectorAll("canvas")].map((c) => new Set(
        c.getContext("2d").getImageData(0, 0, c.width, c.height).data.filter((v, i) => i % 4 !== 3)).size)"""
    colours = page.box("relu").evaluate(painted)
    assert len(colours) == 2
    assert min(colours) > 3


def test_not_a_number_is_hatched_and_counted(visit):
    x = tg.tensor([0.0, 1.0], requires_grad=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        page = visit((x / 0.0).sum())
    page.press("End")
    assert page.page.locator(".node.hatched").count() == 2
    page.open("div")
    assert "NaN or ±inf" in page.text("#inspector")


def test_the_tape_shows_every_iteration(visit, lenet):
    page = visit(lenet[-1], tape=lenet, labels=["a", "b", "c"])
    page.page.click("#tab-tape")
    norms = [[rec.graph.value("LeNet5.conv1.weight").grad.norm for rec in lenet]]
    row = page.page.locator("#view-tape tr", has_text="LeNet5.conv1.weight").locator("td").all_inner_texts()
    assert np.allclose([float(text) for text in row], norms, rtol=2e-3)
    page.page.locator("#frame").fill("0")
    assert page.says.startswith("Iteration a of c, loss ")
    page.page.click("#tab-graph")
    page.open("conv1.weight")
    shown = page.text('#inspector [data-summary="grad"]')
    assert float(re.search(r"norm\s+([-\d.e]+)", shown)[1]) == pytest.approx(norms[0][0], rel=2e-3)


def test_the_difference_of_two_graphs_is_named(visit):
    def graph(extra):
        x = tg.tensor([1.0, -2.0], requires_grad=True)
        x.name = "x"
        y = x.relu()
        return (y.tanh() if extra else y).sum()

    page = visit(graph(False), other=graph(True))
    page.page.click("#tab-diff")
    rows = [" ".join(text.split()) for text in page.page.locator("#view-diff tbody tr").all_inner_texts()]
    assert rows[0] == "tanh:1 + only in the second not in the first graph"
    assert rows[1].startswith("sum:1 ≠ structure reads other inputs")
    page.page.get_by_role("button", name="Show on the graph").click()
    assert "added" in page.box("tanh").get_attribute("class")
    page.press("End")


# ------------------------------------------------------------------------------------------------ without a mouse


def test_the_whole_page_can_be_used_from_the_keyboard(visit):
    page = visit(tower(3))
    active = (
        "document.activeElement.className + '|' + document.activeElement.id + '|' + document.activeElement.textContent"
    )
    for _ in range(30):  # into the graph
        page.press("Tab")
        if "node" in page.page.evaluate(active).split("|")[0]:
            break
    before = page.page.evaluate(active)
    page.press("ArrowDown", "ArrowDown", "ArrowDown")
    assert page.page.evaluate(active) != before
    page.press("Enter")
    assert page.text("#subject") != ""
    page.press("ArrowRight")
    assert page.step == 1
    page.press("/")
    page.page.keyboard.type("second")
    page.press("Enter")
    assert "second" in page.text("#subject")
    page.press("Escape")
    page.page.evaluate("document.activeElement.blur()")
    page.press("t")
    assert page.page.locator("#table tbody tr").count() > 20
    page.press("g")
    assert page.page.locator("#canvas").is_visible()


def test_every_node_can_take_the_focus_and_has_a_name(visit):
    page = visit(tower(3))
    result = page.page.evaluate(
        """() => [...document.querySelectorAll(".node")].map((e) => {
          e.focus();
          return [document.activeElement === e, (e.getAttribute("aria-label") || "").length];
        })"""
    )
    assert len(result) > 20
    assert all(focused and length > 5 for focused, length in result)


def test_the_table_holds_the_same_gradients_as_the_graph(visit, lenet):
    page = visit(lenet[-1])
    page.press("End", "t")
    heads = page.texts("#table thead th")
    place = heads.index("gradient norm") - 1
    for value in lenet[-1].graph.values:
        if value.role != "parameter":
            continue
        row = page.page.locator(
            "#table tr", has=page.page.get_by_role("button", name=f"parameter {value.id}", exact=True)
        )
        assert float(row.locator("td").nth(place).inner_text()) == pytest.approx(value.grad.norm, rel=2e-3)


CONTRAST = """() => {
  const parse = (text) => {
    const m = text.match(/[\\d.]+/g).map(Number);
    return m.length < 4 ? [...m, 1] : m;
  };
  const light = (rgb) => {
    const [r, g, b] = rgb.map((v) => (v / 255 <= 0.03928 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (e) => {
    const layers = [];
    for (let at = e; at; at = at.parentElement) {
      const c = parse(getComputedStyle(at).backgroundColor);
      if (c[3]) layers.push(c);
      if (c[3] === 1) break;
    }
    let rgb = [255, 255, 255];
    for (const c of layers.reverse()) rgb = rgb.map((v, k) => c[3] * c[k] + (1 - c[3]) * v);
    return rgb;
  };
  const bad = [];
  for (const e of document.querySelectorAll("body *")) {
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || e.disabled || !e.checkVisibility({ visibilityProperty: true })) continue;
    if (["SCRIPT", "STYLE", "NOSCRIPT", "OPTION"].includes(e.tagName) || e.closest(".skip")) continue;
    const c = parse(getComputedStyle(e).color), back = ground(e);
    const a = light([0, 1, 2].map((k) => c[3] * c[k] + (1 - c[3]) * back[k])), b = light(back);
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) bad.push(`${e.tagName}.${e.className} ${e.textContent.slice(0, 30)} ${ratio.toFixed(2)}`);
  }
  return bad;
}"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_has_a_contrast_of_four_and_a_half(visit, lenet, theme):
    rec = lenet[-1]
    ids = [node.id for node in rec.graph.nodes]
    page = visit(
        rec,
        tape=lenet,
        errors={**dict.fromkeys(ids, 1e-9), ids[3]: 0.1, ids[4]: 0.1},
        browser_options={"color_scheme": theme},
    )
    assert page.page.evaluate("document.documentElement.dataset.theme") == theme
    assert page.page.evaluate(CONTRAST) == []
    page.page.locator("#slider").fill("20")
    assert page.page.evaluate(CONTRAST) == []
    page.press("c")
    assert page.page.evaluate(CONTRAST) == []
    page.press("c", "End")
    for paint in page.page.eval_on_selector_all("#paint option", "list => list.map((o) => o.value)"):
        page.page.select_option("#paint", paint)
        assert page.page.evaluate(CONTRAST) == [], paint
        page.press("Home")
        assert page.page.evaluate(CONTRAST) == [], f"{paint}, before the first step"
        page.press("End")
    page.page.click("#tab-tape")
    assert page.page.evaluate(CONTRAST) == []
    page.page.click("#tab-table")
    assert page.page.evaluate(CONTRAST) == []


def test_reduced_motion_is_respected(visit):
    page = visit(diamond(), browser_options={"reduced_motion": "reduce"})
    page.press("End", "ArrowLeft")
    assert page.page.locator(".flash").evaluate("e => getComputedStyle(e).animationName") == "none"


@pytest.mark.parametrize("width", [1280, 400])
def test_nothing_sticks_out_sideways(visit, lenet, width):
    page = visit(lenet[-1], tape=lenet, browser_options={"viewport": {"width": width, "height": 800}})
    for keys in (["End"], ["ArrowLeft"], ["t"], ["g"]):
        page.press(*keys)
        assert page.page.evaluate("document.documentElement.scrollWidth") <= width


# ------------------------------------------------------------------------------------------------ hostile and huge


def test_hostile_names_stay_text(visit):
    x = tg.tensor(2.0, requires_grad=True)
    x.name = HOSTILE

    Evil = type(HOSTILE, (nn.Module,), {"forward": lambda self, x: x * x + 1})
    page = visit(Evil()(x), title=HOSTILE)
    page.press("ArrowRight", "End", "t", "g")
    assert page.page.locator("img").count() == 0
    assert page.page.title() == HOSTILE
    assert page.text("#title") == HOSTILE
    assert HOSTILE in page.texts("#table th[scope=row]")[0]


def test_the_policy_stops_a_script_that_gets_in_all_the_same(visit):
    page = visit(diamond())
    page.page.evaluate(
        """() => {
          const script = document.createElement("script");
          script.textContent = "window.pwned = 1";
          document.body.append(script);
        }"""
    )
    assert page.page.evaluate("window.pwned") is None
    assert len(page.problems) == 1
    assert "Content Security Policy" in page.problems[0]
    page.problems.clear()


def test_a_chain_of_ten_thousand_ops_is_drawn(visit):
    x = tg.tensor([0.5, -0.5], requires_grad=True)
    x.name = "x"
    y = x
    for _ in range(10_000):
        y = y + 1e-4
    page = visit(y.sum(), images=False)
    assert page.nodes.count() == 10_002
    page.press("End")
    page.page.fill("#query", "role:parameter")
    page.press("Enter")
    assert page.gradient() == ["1", "1"]


def test_a_graph_without_a_backward_pass_says_no_gradient_yet(visit):
    x = tg.tensor([1.0, 2.0], requires_grad=True)
    page = visit(x * 2)  # not a scalar: nothing to start from
    assert "no gradient yet" in page.text("#inspector")
    page.press("End")
    assert page.step == 1
    assert page.page.locator("#predict").is_disabled()
