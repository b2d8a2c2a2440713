"""Measure the interactive page in headless Chromium and compare it with its budgets: python tests/page_budgets.py

Not part of the test suite: times depend on the machine. Prints a table of medians, and the quickest of each.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from playwright.sync_api import sync_playwright

import tinygrad_cnn as tg
from tinygrad_cnn import nn, viz

CHROMIUM = "/usr/bin/chromium"


class Affine(nn.Module):
    """One multiplication and one addition per channel, where a ResNet has its normalisation."""

    def __init__(self, channels):
        super().__init__()
        self.weight = nn.Parameter(np.ones((channels, 1, 1), dtype=np.float32))
        self.bias = nn.Parameter(np.zeros((channels, 1, 1), dtype=np.float32))

    def forward(self, x):
        return x * self.weight + self.bias


class Bottleneck(nn.Module):
    def __init__(self, inner, outer, change):
        super().__init__()
        self.conv1 = nn.Conv2d(inner, outer, 1, bias=False)
        self.bn1 = Affine(outer)
        self.conv2 = nn.Conv2d(outer, outer, 3, padding=1, bias=False)
        self.bn2 = Affine(outer)
        self.conv3 = nn.Conv2d(outer, 4 * outer, 1, bias=False)
        self.relu = nn.ReLU()
        self.downsample = nn.Conv2d(inner, 4 * outer, 1, bias=False) if change else None

    def forward(self, x):
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        return self.relu(self.conv3(y) + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """The plan of ResNet-152 (3, 8, 36, 3 blocks) with few channels."""

    def __init__(self, width, blocks):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
        layers, inner = [], width
        for n in blocks:
            layers.append(nn.Sequential(*[Bottleneck(inner if k == 0 else 4 * width, width, k == 0) for k in range(n)]))
            inner = 4 * width
        self.layers = nn.Sequential(*layers)
        self.fc = nn.Linear(inner, 10)

    def forward(self, x):
        return self.fc(self.layers(self.conv1(x)).mean(axis=(2, 3)))


def resnet(blocks, width=17, size=12):
    tg.manual_seed(0)
    x = np.random.default_rng(0).random((1, 3, size, size), dtype=np.float32)
    return nn.functional.cross_entropy(ResNet(width, blocks)(tg.tensor(x)), np.array([3]))


def chain(n):
    x = tg.ones(8, requires_grad=True)
    y = x
    for k in range(n):
        y = y.tanh() if k % 3 else y + 0.5
    return y.sum()


STEPS = """async (key) => {
  const out = [];
  for (let k = 0; k < 40; k++) {
    const start = performance.now();
    document.body.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
    void document.body.offsetHeight;
    out.push(performance.now() - start);
    await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
  }
  return out;
}"""
CHANGE = """async ([id, values]) => {
  const out = [], select = document.getElementById(id);
  for (const value of values) {
    const start = performance.now();
    select.value = value;
    select.dispatchEvent(new Event("change"));
    void document.body.offsetHeight;
    out.push(performance.now() - start);
    await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
  }
  return out;
}"""
TOGGLE = """async () => {
  const out = [];
  for (let k = 0; k < 10; k++) {
    const buttons = document.querySelectorAll("[data-module]"), button = buttons[Math.min(3, buttons.length - 1)];
    if (!button) break;
    const start = performance.now();
    button.click();
    void document.body.offsetHeight;
    out.push(performance.now() - start);
    await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
    const open = document.getElementById("toggle-module"), again = performance.now();
    open.click();
    void document.body.offsetHeight;
    out.push(performance.now() - again);
    await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
  }
  return out;
}"""
PAINT = "performance.getEntriesByName('first-contentful-paint').map((entry) => entry.startTime)[0]"


def measure(browser, name, loss, images, first_budget, size_budget):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "page.html"
        start = time.perf_counter()
        viz.html(loss, path, images=images)
        written = time.perf_counter() - start
        size = path.stat().st_size
        first, requests, problems = [], [], []
        for _ in range(3):
            page = browser.new_page(viewport={"width": 1280, "height": 800})
            page.on("request", lambda r: requests.append(r.url))
            page.on("console", lambda m: problems.append(m.text) if m.type in ("error", "warning") else None)
            page.on("pageerror", lambda e: problems.append(str(e)))
            page.goto(path.as_uri())
            while (paint := page.evaluate(PAINT)) is None:  # wait_for_function would need eval, which the page forbids
                page.wait_for_timeout(20)
            first.append(paint)
            nodes = page.evaluate("JSON.parse(document.getElementById('data').textContent).nodes.n")
            if len(first) < 3:
                page.close()
        folded = page.evaluate(STEPS, "ArrowRight")
        toggles = page.evaluate(TOGGLE)
        opened = []
        if page.query_selector("#depth"):
            opened = page.evaluate(CHANGE, ["depth", ["all"]])
        page.evaluate("document.getElementById('toback').click()")
        spread = page.evaluate(STEPS, "ArrowRight")
        all_toggles = page.evaluate(TOGGLE)
        page.close()

    def row(what, values, budget, unit):
        values = values if isinstance(values, list) else [values]
        middle, best = statistics.median(values), min(values)
        quickest = f"quickest {best:.1f}" if len(values) > 1 else ""
        over = "" if middle <= budget else "OVER"
        print(f"  {what:<44}{middle:>9.1f} {unit:<3} budget {budget:>6g} {unit:<3} {over:<5}{quickest}")

    print(f"{name}: {nodes} nodes, written in {written:.2f} s")
    row("file", size / 1000, size_budget, "kB")
    row("first frame", first, first_budget, "ms")
    row("step, as opened", folded, 33, "ms")
    row("step, every op visible", spread, 33, "ms")
    if toggles:
        row("collapse or expand a module, as opened", toggles, 100, "ms")
    if all_toggles:
        row("collapse or expand, every op visible", all_toggles, 100, "ms")
    if opened:
        row("open everything", opened, 1000, "ms")
    row("requests", len(requests) / 3, 1, "")
    row("console errors", len(problems), 0, "")


def main():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        cases = {
            "thousand": ("ResNet plan", lambda: resnet((3, 8, 36, 3)), False, 1000, 400),
            "maps": ("the same with feature maps", lambda: resnet((3, 8, 36, 3), 32, 32), True, 1000, 3000),
            "five": ("ResNet plan, 5 000 nodes", lambda: resnet((10, 40, 200, 40), 4, 8), False, 3000, 2400),
            "chain": ("chain of 5 000 ops", lambda: chain(5000), False, 3000, 2400),
        }
        for key in sys.argv[1:] or cases:
            name, make, images, first, size = cases[key]
            measure(browser, name, make(), images, first, size)
        browser.close()


if __name__ == "__main__":
    main()
