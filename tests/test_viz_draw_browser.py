"""The static pictures as Chromium draws them: nothing sticks out of its box or of the picture, in any theme."""

import numpy as np
import pytest
from page_browser import launch

from tinygrad_cnn import models, nn, randn, tensor, viz

# Every text of a box lies inside the box, and everything lies inside the picture; ids of offenders.
MEASURE = """() => {
  const svg = document.querySelector("svg"), page = svg.getBoundingClientRect(), wrong = [];
  const inside = (a, b, slack) => a.left >= b.left - slack && a.right <= b.right + slack &&
                                  a.top >= b.top - slack && a.bottom <= b.bottom + slack;
  const scale = page.width / svg.viewBox.baseVal.width;
  for (const box of svg.querySelectorAll("g.n, g.node")) {
    const frame = box.querySelector("rect, path, polygon").getBoundingClientRect();
    for (const text of box.querySelectorAll("text"))
      if (!inside(text.getBoundingClientRect(), frame, 3 * scale)) wrong.push(text.textContent);
  }
  for (const part of svg.querySelectorAll("text, path, polygon, rect:not(.paper)"))
    if (!part.closest("defs") && !inside(part.getBoundingClientRect(), page, 2 * scale)) wrong.push(part.outerHTML);
  return {wrong, width: page.width};
}"""
# Contrast of each text with what lies under it, by the formula of WCAG 2.1; the smallest and its text.
CONTRAST = """() => {
  const luminance = (c) => {
    const [r, g, b] = c.match(/[\\d.]+/g).slice(0, 3).map((v) => v / 255)
      .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  let least = [99, ""];
  for (const text of document.querySelectorAll("svg text")) {
    const box = text.closest("g.n, g.node");
    const under = box ? box.querySelector("rect, path, polygon") : document.querySelector("rect.paper");
    const fill = getComputedStyle(under).fill;
    if (!fill.startsWith("rgb")) continue;
    const [a, b] = [luminance(getComputedStyle(text).fill), luminance(fill)].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < least[0]) least = [ratio, text.textContent];
  }
  return least;
}"""


@pytest.fixture(scope="module")
def browser():
    playwright, browser = launch()
    yield browser
    browser.close()
    playwright.stop()


def lenet():
    with viz.record() as rec:
        nn.functional.cross_entropy(models.LeNet5()(randn(2, 1, 28, 28)), np.array([1, 2])).backward()
    return rec


def small():
    x = tensor([1.0, 2.0], requires_grad=True)
    x.name = "a name that is rather long for what it is, and then some"
    with viz.record(title="A title that goes on and on, far beyond what so small a graph has room for") as rec:
        (x * x + x).sum().backward()
    return rec


def resnet():
    with viz.record(statistics=False) as rec:
        models.build("resnet18", num_classes=10)(randn(2, 3, 32, 32)).sum().backward()
    return rec


@pytest.mark.parametrize("engine", ["dot", "builtin"])
@pytest.mark.parametrize("subject", [small, lenet, resnet])
def test_nothing_sticks_out_and_every_text_can_be_read(browser, subject, engine):
    rec = subject()
    for scheme in ("light", "dark"):
        page = browser.new_page(viewport={"width": 900, "height": 700}, color_scheme=scheme)
        options = {"depth": 2} if subject is resnet else {}
        for mode, color_by in (("forward", "op"), ("backward", "op"), ("both", "gradient"), ("both", "bytes")):
            page.set_content(f"<body>{viz.draw(rec, mode, color_by=color_by, engine=engine, **options).svg}")
            found = page.evaluate(MEASURE)
            assert found["wrong"] == [], (mode, color_by)
            assert found["width"] <= 900
            least, text = page.evaluate(CONTRAST)
            assert least >= 4.5, (text, least, mode, color_by, scheme)
        page.close()


def test_a_wide_picture_shrinks_to_the_page(browser):
    page = browser.new_page(viewport={"width": 300, "height": 400})
    page.set_content(f"<body>{viz.draw(lenet(), 'both').svg}")
    assert page.evaluate("document.querySelector('svg').getBoundingClientRect().width") <= 300
    assert page.evaluate("document.documentElement.scrollWidth") <= 300
    page.close()


def test_two_themes_on_one_page_keep_their_colours(browser):
    page = browser.new_page(color_scheme="light")
    rec = small()
    dark, light = (viz.draw(rec, theme=theme).svg for theme in ("dark", "light"))
    page.set_content(f"<body>{dark}{light}")
    fills = "[...document.querySelectorAll('rect.paper')].map((r) => getComputedStyle(r).fill)"
    assert page.evaluate(fills) == ["rgb(22, 24, 29)", "rgb(255, 255, 255)"]
    page.close()
