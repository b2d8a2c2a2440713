"""Pictures of a network at work, from a trained model: what its filters look for, what it sees, where it errs.

Each function returns a `Sheet`, which notebooks show and which saves itself as .png, .svg or .pdf. They need
Matplotlib, the extra `plot`. The numbers behind them come from `at_work_maps`.
"""

from __future__ import annotations

import math
import os
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from ..backend import to_host
from ..errors import MissingExtraError, OptionError
from ..files import write_bytes
from . import at_work_maps as maps
from .colors import BLUE, GREEN, ORANGE, SKY, VERMILLION, number_text
from .diagram import clip

__all__ = [
    "Sheet",
    "confusion",
    "curves",
    "explanations",
    "feature_maps",
    "filters",
    "mistakes",
    "shift",
    "vanishing",
]

_THEMES = {
    "light": {"paper": "#FFFFFF", "ink": "#1A1A1A", "soft": "#595959", "grid": "#D9DCE1", "digits": "gray_r"},
    "dark": {"paper": "#16181D", "ink": "#ECECEC", "soft": "#B4B8C0", "grid": "#3A404A", "digits": "gray"},
}
_SUFFIXES = (".png", ".svg", ".pdf")


class Sheet:
    """A finished picture.

    Attributes:
        figure: the Matplotlib figure.
        text: what it shows, in a sentence.
    """

    def __init__(self, figure: Any, text: str) -> None:
        self.figure = figure
        self.text = text

    def __repr__(self) -> str:
        return f"<picture: {self.text}>"

    def _bytes(self, form: str, dpi: float = 150) -> bytes:
        import matplotlib

        buffer = BytesIO()
        # No date and fixed ids: the same numbers give the same file.
        metadata: dict[str, Any] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(form, {})
        with matplotlib.rc_context({"svg.hashsalt": "tinygrad_cnn", "svg.fonttype": "path"}):
            self.figure.savefig(buffer, format=form, dpi=dpi, metadata=metadata, facecolor=self.figure.get_facecolor())
        return buffer.getvalue()

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the picture to .png, .svg or .pdf and return the path.

        Raises:
            OptionError: another suffix, or there is no such folder.
        """
        target = Path(path)
        if target.suffix.lower() not in _SUFFIXES:
            raise OptionError(
                f"cannot save as {target.suffix or 'a file without suffix'!r}; use {', '.join(_SUFFIXES)}"
            )
        if not target.parent.is_dir():
            raise OptionError(f"cannot save {target}: there is no folder {target.parent}")
        write_bytes(target, self._bytes(target.suffix.lower()[1:]))
        return target

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        return {"image/png": self._bytes("png", 100), "text/plain": repr(self)}


class _Page:
    """A figure in one of the themes, with a heading."""

    def __init__(self, width: float, height: float, heading: str, theme: str) -> None:
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise MissingExtraError(
                "pictures of a network at work need Matplotlib; pip install 'tinygrad-cnn[plot]'"
            ) from error
        if theme not in _THEMES:
            raise OptionError(f"theme must be one of {', '.join(_THEMES)}, got {theme!r}")
        self.colors = _THEMES[theme]
        self.figure: Any = Figure(figsize=(width, height), layout="constrained", facecolor=self.colors["paper"])
        self.heading = heading
        top = 1 - 0.42 / height  # the heading has a strip of its own
        engine: Any = self.figure.get_layout_engine()
        engine.set(rect=(0.01, 0.01, 0.98, top - 0.01))
        place: dict[str, Any] = {"fontsize": 12, "fontweight": "bold", "ha": "center", "va": "center"}
        self.figure.text(0.5, 1 - 0.2 / height, heading, color=self.colors["ink"], **place)

    def image(self, axes: Any, values: Any, title: str = "", *, cmap: str | None = None, **limits: Any) -> Any:
        """Show (h, w) values without axes, under a small title."""
        shown = axes.imshow(values, cmap=cmap or self.colors["digits"], interpolation="nearest", **limits)
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set_color(self.colors["grid"])
        if title:
            axes.set_title(title, fontsize=9, color=self.colors["ink"], pad=4)
        return shown

    def plot(self, axes: Any, title: str, x: str, y: str) -> None:
        """Dress axes for lines or bars."""
        axes.set_facecolor(self.colors["paper"])
        axes.set_title(title, fontsize=10, color=self.colors["ink"], loc="left")
        axes.set_xlabel(x, fontsize=9, color=self.colors["soft"])
        axes.set_ylabel(y, fontsize=9, color=self.colors["soft"])
        axes.tick_params(colors=self.colors["soft"], labelsize=8)
        axes.grid(True, color=self.colors["grid"], linewidth=0.6)
        axes.set_axisbelow(True)
        for side, spine in axes.spines.items():
            spine.set_visible(side in ("left", "bottom"))
            spine.set_color(self.colors["grid"])

    def legend(self, axes: Any, **options: Any) -> None:
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=8, labelcolor=self.colors["ink"], **options)

    def bar(self, shown: Any, axes: Any, label: str) -> None:
        """Add a colour bar."""
        bar = self.figure.colorbar(shown, ax=axes, shrink=0.8, pad=0.02)
        bar.set_label(label, fontsize=8, color=self.colors["soft"])
        bar.ax.tick_params(colors=self.colors["soft"], labelsize=7)
        bar.outline.set_edgecolor(self.colors["grid"])

    def done(self, text: str) -> Sheet:
        return Sheet(self.figure, text)


def _mosaic(planes: Any, columns: int, gap: float = math.nan) -> Any:
    """Put (k, h, w) planes side by side into one image, one pixel apart."""
    k, h, w = planes.shape
    rows = math.ceil(k / columns)
    image = np.full((rows * (h + 1) - 1, columns * (w + 1) - 1), gap)
    for n, plane in enumerate(planes):
        i, j = divmod(n, columns)
        image[i * (h + 1) : i * (h + 1) + h, j * (w + 1) : j * (w + 1) + w] = plane
    return image


def filters(model: Any, *, layer: str | None = None, most: int = 64, theme: str = "light") -> Sheet:
    """Show the kernels of the convolutions: each row a filter's input channels, or a grid where there is only one.

    Args:
        model: a module with convolutions.
        layer: path of one convolution's weight or module; by default all, the first four of them.
        most: filters and channels shown per layer at most.
        theme: "light" or "dark".

    Raises:
        OptionError: no convolution, or none of that name.
    """
    found = [
        (name.removesuffix(".weight") or "weight", to_host(p.array))
        for name, p in model.named_parameters()
        if p.array.ndim == 4
    ]
    if not found:
        raise OptionError("the model has no convolution")
    if layer is not None:
        known = ", ".join(name for name, _ in found)
        found = [(name, w) for name, w in found if name in (layer, layer.removesuffix(".weight"))]
        if not found:
            raise OptionError(f"the model has no convolution {layer!r}; it has {known}")
    found = found[:4]
    side = round(math.sqrt(most))
    pictures = []
    for name, w in found:
        o, i = w.shape[:2]
        if i == 1:
            columns = min(o, 8)
            image, shown = (
                _mosaic(w[:most, 0], columns),
                f"{min(o, most)} of {o} filters" if o > most else f"{o} filters",
            )
        else:
            part = w[: 2 * side, : 2 * side]
            across, down = "channels", "filters"
            if len(part) > part.shape[1]:  # the longer side lies across
                part, across, down = part.swapaxes(0, 1), down, across
            image = _mosaic(part.reshape(-1, *w.shape[2:]), part.shape[1])
            shown = f"{o} filters over {i} channels ({down} in rows, {across} in columns)"
            if part.shape[0] * part.shape[1] != o * i:
                shown += f", {part.shape[0]} × {part.shape[1]} of them"
        pictures.append((f"{name}: {shown}, {w.shape[2]}×{w.shape[3]}", image, float(np.abs(w).max()) or 1.0))
    heights = [max(1.2, min(5.0, 6.4 * image.shape[0] / image.shape[1])) for _, image, _ in pictures]
    page = _Page(7.2, 0.6 + sum(h + 0.4 for h in heights), f"The filters of {type(model).__name__}", theme)
    axes = page.figure.subplots(len(pictures), 1, height_ratios=heights, squeeze=False)[:, 0]
    for ax, (title, image, bound) in zip(axes, pictures, strict=True):
        shown = page.image(ax, image, title, cmap="PuOr_r", vmin=-bound, vmax=bound)
        ax.set_facecolor(page.colors["paper"])
        for spine in ax.spines.values():
            spine.set_visible(False)
        page.bar(shown, ax, "weight")
    return page.done(f"filters of {', '.join(name for name, _ in found)}")


def feature_maps(model: Any, image: Any, *, most: int = 16, most_layers: int = 24, theme: str = "light") -> Sheet:
    """Show an image on its way through the network: the maps of every layer, then the vectors, then the answer.

    Args:
        model: maps images (n, c, h, w) to scores (n, classes), or to maps, where there is no answer to show.
        image: one image.
        most: maps shown per layer at most.
        most_layers: layers shown at most, evenly spread over a deeper network.
        theme: "light" or "dark".
    """
    x = maps.batch(image)
    layers = [layer for layer in maps.activations(model, x) if layer.family not in ("shape", "loss")]
    rows: list[tuple[str, str, Any]] = [("image", "", x[0])]
    for layer in layers:
        v = layer.values[0]
        if v.shape[1:] == (1, 1):  # maps of one pixel are a vector
            v = v[:, 0, 0]
        if v.ndim in (1, 3):
            rows.append((clip(layer.name, 24), f"{layer.kind}, ", v))
    seen = len(rows) - 1
    if seen > most_layers:
        kept = np.unique(np.linspace(1, seen, most_layers).round().astype(int))
        rows = [rows[0], *(rows[k] for k in kept)]
    columns, left, tile = 8, 1.7, 0.9  # in inches
    lines = [math.ceil(min(len(v), most) / columns) if v.ndim == 3 else 0 for *_, v in rows]
    answer = maps.answer(model, x)
    heights = [n * tile + 0.12 if n else 0.42 for n in lines] + [0.2 if answer is None else 1.25]
    width, total = left + columns * tile + 0.2, sum(heights) + 0.55
    shown_of = "layer by layer" if seen <= most_layers else f"{len(rows) - 1} of {seen} layers"
    page = _Page(width, total, f"What {type(model).__name__} sees, {shown_of}", theme)
    page.figure.set_layout_engine("none")
    top = total - 0.45
    for (name, kind, v), height in zip(rows, heights, strict=False):
        label = f"{name}\n{kind}{'×'.join(map(str, v.shape))}"
        if v.ndim == 3 and len(v) > most:
            label += f"\n{most} shown"
        ink = page.colors["ink"]
        page.figure.text(0.1 / width, (top - height / 2) / total, label, fontsize=8, color=ink, va="center")
        if v.ndim == 3:
            low, high = float(v.min()), float(v.max())
            for k, plane in enumerate(v[:most]):
                i, j = divmod(k, columns)
                x0, y0, side = left + j * tile, top - (i + 1) * tile, tile - 0.06
                ax = page.figure.add_axes((x0 / width, y0 / total, side / width, side / total))
                page.image(ax, plane, vmin=low, vmax=high)
        else:
            strip = (left / width, (top - height + 0.12) / total, columns * tile / width, 0.22 / total)
            ax = page.figure.add_axes(strip)
            low, high = float(v.min()), float(v.max())
            if low < 0 < high:  # two colours for two signs, else grey as in the maps
                bound = max(-low, high)
                page.image(ax, v[None], cmap="PuOr_r", vmin=-bound, vmax=bound, aspect="auto")
            else:
                page.image(ax, v[None], vmin=low, vmax=high, aspect="auto")
        top -= height
    if answer is None:
        return page.done(f"maps of {len(rows) - 1} layers")
    page.figure.text(0.1 / width, 0.75 / total, "probabilities", fontsize=8, color=page.colors["ink"], va="center")
    ax = page.figure.add_axes((left / width, 0.3 / total, columns * tile / width, 0.85 / total))
    page.plot(ax, "", "", "")
    shown = np.arange(len(answer)) if len(answer) <= 20 else np.sort(np.argsort(-answer)[:20])
    colors = [VERMILLION if k == answer.argmax() else SKY for k in shown]
    ax.bar(range(len(shown)), answer[shown], color=colors)
    ax.set_xticks(range(len(shown)), [str(k) for k in shown])
    ax.set_ylim(0, 1.18)
    best = int(answer.argmax())
    place = int(np.flatnonzero(shown == best)[0])
    sure = f"{100 * answer[best]:.1f} %"
    ax.text(place, answer[best] + 0.02, sure, ha="center", fontsize=8, color=page.colors["ink"])
    return page.done(f"maps of {len(rows) - 1} layers; the answer is {best} with {sure}")


def curves(history: Any, *, theme: str = "light") -> Sheet:
    """Show loss and error over the epochs, training and validation, with the best epoch marked.

    Args:
        history: rows with epoch, train_loss, train_accuracy, val_loss, val_accuracy: a `train.History` or a list.
        theme: "light" or "dark".
    """
    rows = list(history)
    if not rows:
        raise OptionError("the history is empty: no epoch was finished")
    page = _Page(8.4, 3.6, "Training", theme)
    epochs = [row.get("epoch", k + 1) for k, row in enumerate(rows)]
    for axes, (title, of) in zip(page.figure.subplots(1, 2), (("loss", "loss"), ("error", "accuracy")), strict=True):
        page.plot(axes, title, "epoch", "mean loss" if of == "loss" else "wrong answers in %")
        for column, color, marker in (("train", ORANGE, "o"), ("val", BLUE if theme == "light" else SKY, "s")):
            points = [(e, row.get(f"{column}_{of}")) for e, row in zip(epochs, rows, strict=True)]
            known = [(e, v if of == "loss" else 100 * (1 - v)) for e, v in points if v is not None]
            if known:
                name = "training" if column == "train" else "validation"
                axes.plot(*zip(*known, strict=True), color=color, marker=marker, markersize=4, label=name)
                e, v = known[-1]
                axes.annotate(f"{v:.3g}", (e, v), (4, 4), textcoords="offset points", fontsize=8, color=color)
        best = getattr(history, "best_epoch", None)
        if best is not None:
            axes.axvline(best, color=page.colors["soft"], linewidth=1, linestyle=":", label=f"best epoch, {best}")
        _scale(axes)
        axes.locator_params(axis="x", integer=True)
        page.legend(axes)
    return page.done(f"training curves over {len(rows)} epochs")


def _scale(axes: Any) -> None:
    """Begin at 0, or on a log scale where values over more than one order of magnitude would hide the last ones."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    values = [float(v) for line in axes.lines for v in line.get_ydata() if line.get_linestyle() == "-"]
    if not values or min(values) <= 0 or max(values) < 10 * min(values):
        axes.set_ylim(bottom=0)
        return
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def confusion(result: Any, *, classes: Any = None, theme: str = "light") -> Sheet:
    """Show how often each class (row) was taken for each other (column); the diagonal is what is right.

    Args:
        result: a `train.Evaluation`, or a matrix (k, k) of counts.
        classes: names of the classes; by default their numbers.
        theme: "light" or "dark".
    """
    counts = np.asarray(result.confusion if hasattr(result, "confusion") else result)
    k = len(counts)
    if counts.shape != (k, k) or k == 0:
        raise OptionError(f"a confusion matrix is square, got {counts.shape}")
    names = [str(c) for c in (range(k) if classes is None else classes)]
    wrong = counts.sum() - np.trace(counts)
    total = max(int(counts.sum()), 1)
    page = _Page(6.6, 6.0, f"Confusion: {wrong} of {counts.sum()} wrong ({100 * wrong / total:.2f} %)", theme)
    axes = page.figure.subplots()
    off = counts.astype(float)
    np.fill_diagonal(off, np.nan)
    bound = max(float(np.nan_to_num(off).max()), 1.0)
    shown = axes.imshow(off, cmap="Oranges", vmin=0, vmax=bound)
    axes.set_facecolor("#CFE6F5")
    size = 8 if k <= 12 else 5
    for i in range(k if k <= 30 else 0):
        for j in range(k):
            if counts[i, j]:
                dark = i != j and counts[i, j] > 0.6 * bound
                weight, color = ("bold" if i == j else "normal"), ("white" if dark else "black")
                text = str(counts[i, j])
                axes.text(j, i, text, ha="center", va="center", fontsize=size, color=color, fontweight=weight)
    step = 1 if k <= 30 else math.ceil(k / 20)
    axes.set_xticks(range(0, k, step), names[::step], fontsize=size, color=page.colors["ink"])
    axes.set_yticks(range(0, k, step), names[::step], fontsize=size, color=page.colors["ink"])
    axes.tick_params(color=page.colors["soft"])
    for spine in axes.spines.values():
        spine.set_color(page.colors["grid"])
    axes.set_xlabel("the network's answer", color=page.colors["soft"])
    axes.set_ylabel("the class", color=page.colors["soft"])
    page.bar(shown, axes, "mistakes")
    return page.done(f"confusion matrix, {wrong} mistakes in {counts.sum()}")


def mistakes(images: Any, result: Any, *, most: int = 100, theme: str = "light") -> Sheet:
    """Show the misclassified images, the surest mistakes first: the class, the network's answer, how sure it was.

    Args:
        images: those that were evaluated, (n, c, h, w), bytes or numbers.
        result: their `train.Evaluation`.
        most: images shown at most.
        theme: "light" or "dark".
    """
    wrong = result.mistakes
    order = wrong[np.argsort(-result.confidence[wrong], kind="stable")][:most]
    columns = min(10, max(4, len(order)))
    rows = max(1, math.ceil(len(order) / columns))
    shown = f", the surest {len(order)}" if len(order) < len(wrong) else ""
    page = _Page(0.95 * columns + 0.2, 1.26 * rows + 0.7, f"{len(wrong)} of {result.count} wrong{shown}", theme)
    if not len(order):
        page.figure.text(0.5, 0.4, "no mistakes", ha="center", color=page.colors["ink"])
        return page.done("no mistakes")
    grid = page.figure.subplots(rows, columns, squeeze=False)
    for axes in grid.ravel():
        axes.set_axis_off()
    for axes, i in zip(grid.ravel(), order, strict=False):
        axes.set_axis_on()
        sure = 100 * float(result.confidence[i])
        page.image(axes, np.asarray(images[i])[0], f"{result.labels[i]} → {result.predictions[i]}")
        axes.set_xlabel(f"{sure:.0f} %, #{i}", fontsize=7, color=page.colors["soft"], labelpad=2)
    page.figure.supxlabel(
        "the class → the network's answer; how sure it was, number of the image", fontsize=8, color=page.colors["soft"]
    )
    return page.done(f"{len(order)} of {len(wrong)} misclassified images")


def explanations(
    model: Any, image: Any, label: int | None = None, *, layer: str | None = None, size: int = 5, theme: str = "light"
) -> Sheet:
    """Show which pixels an answer rests on, in three ways: saliency, occlusion and Grad-CAM.

    Args:
        model: maps images (n, c, h, w) to scores (n, classes).
        image: one image.
        label: whose score; by default that of the network's answer.
        layer: path of the module for Grad-CAM; by default the last convolution.
        size: side of the covering square in pixels.
        theme: "light" or "dark".
    """
    x = maps.batch(image)
    answer = maps.probabilities(model, x)[0]
    best = int(answer.argmax())
    asked = best if label is None else label
    parts: list[tuple[str, Any, str, float | None]] = [
        ("saliency: |d score / d pixel|", maps.saliency(model, x, label), "magma", None)
    ]
    drop = maps.occlusion(model, x, label, size=size)
    bound = max(float(np.abs(drop).max()), 1e-9)
    parts.append((f"occlusion: fall of p({asked})\nunder a {size}×{size} square", drop, "PuOr_r", bound))
    try:
        parts.append(
            ("Grad-CAM: where the maps\nspeak for it", maps.grad_cam(model, x, label, layer=layer), "magma", None)
        )
    except OptionError:
        if layer is not None:
            raise
    page = _Page(
        2.6 * (len(parts) + 1), 3.4, f"Why {asked}? The network says {best}, {100 * answer[best]:.1f} %", theme
    )
    axes = page.figure.subplots(1, len(parts) + 1)
    picture = x[0].mean(axis=0)
    page.image(axes[0], picture, "the image")
    for ax, (title, values, cmap, limit) in zip(axes[1:], parts, strict=True):
        limits: dict[str, float] = {} if limit is None else {"vmin": -limit, "vmax": limit}
        shown = page.image(ax, values, title, cmap=cmap, **limits)
        if picture.min() < picture.max():
            ax.contour(picture, levels=[(picture.min() + picture.max()) / 2], colors=[SKY], linewidths=1.0)
        page.figure.colorbar(shown, ax=ax, location="bottom", shrink=0.8, pad=0.03).ax.tick_params(
            colors=page.colors["soft"], labelsize=7
        )
    return page.done(f"saliency, occlusion and Grad-CAM for class {asked}")


def vanishing(images: Any, labels: Any, *, depth: int = 8, steps: int = 200, theme: str = "light") -> Sheet:
    """Show how the gradient shrinks on its way back, with sigmoids and with ReLUs, while a deep network trains.

    Args:
        images, labels: training data, as for `at_work_maps.gradient_norms`.
        depth: number of layers.
        steps: mini-batches of 64.
        theme: "light" or "dark".
    """
    from matplotlib.colors import LogNorm

    norms = {name: maps.gradient_norms(name, images, labels, depth=depth, steps=steps) for name in ("sigmoid", "relu")}
    low = max(min(float(n[n > 0].min()) for n in norms.values()), 1e-12)
    high = max(float(n.max()) for n in norms.values())
    page = _Page(9.6, 3.8, f"The gradient on its way back through {depth} layers", theme)
    axes = page.figure.subplots(1, 3, width_ratios=[1.15, 1, 1])
    page.plot(axes[0], "at the first step", "layer (1 is next to the input)", "norm of the weights' gradient")
    layers = np.arange(1, depth + 1)
    for (name, n), color, marker in zip(norms.items(), (VERMILLION, GREEN), ("o", "s"), strict=True):
        axes[0].semilogy(layers, n[0], color=color, marker=marker, label=name)
    axes[0].locator_params(axis="x", integer=True)
    page.legend(axes[0])
    for ax, (name, n) in zip(axes[1:], norms.items(), strict=True):
        norm = LogNorm(low, high)
        image = np.clip(n.T, low, high)
        shown = ax.imshow(image, aspect="auto", cmap="viridis", norm=norm, interpolation="nearest", origin="lower",
                          extent=(0, steps, 0.5, depth + 0.5))  # fmt: skip
        page.plot(ax, name, "step", "layer")
        ax.grid(False)
    page.bar(shown, axes[1:], "gradient norm")
    ratio = {name: float(n[0, -1] / max(n[0, 0], 1e-30)) for name, n in norms.items()}
    return page.done(
        f"at the first step the gradient of layer {depth} is {number_text(ratio['sigmoid'])} times as large as that of "
        f"layer 1 with sigmoids, {number_text(ratio['relu'])} times with ReLUs"
    )


def shift(model: Any, image: Any, *, width: int = 3, theme: str = "light") -> Sheet:
    """Show what happens when the image moves by one pixel: a convolution's maps move along, maxima mostly stay.

    Args:
        model: a network that begins with a convolution.
        image: one image.
        width: of the pooling windows, at stride 1.
        theme: "light" or "dark".
    """
    s = maps.equivariance(model, image, width=width)
    best = int(s.detector[0].var(axis=(1, 2)).argmax())
    row = int(s.detector[0, best].var(axis=1).argmax())
    page = _Page(9.2, 6.6, "The image moves one pixel to the right", theme)
    upper, lower = page.figure.subfigures(2, 1, height_ratios=[1.15, 1])
    for part in (upper, lower):
        part.set_facecolor(page.colors["paper"])
    grid = upper.subplots(2, 4, width_ratios=[1, 1, 1, 1])
    high, pooled_high = float(s.detector[:, best].max()), float(s.pooled[:, best].max())
    low = float(s.detector[:, best].min())
    for i, when in enumerate(("before", "after")):
        page.image(grid[i, 0], s.images[i] if s.images[i].ndim == 2 else s.images[i][0], f"image, {when}")
        page.image(grid[i, 1], s.detector[i, best], f"convolution, map {best + 1}", vmin=low, vmax=high)
        page.image(grid[i, 2], s.pooled[i, best], f"maximum of {width}×{width}", vmin=low, vmax=pooled_high)
    moved = maps.shifted(s.detector[0, best]) - s.detector[1, best]
    bound = max(abs(high), abs(low), 1e-9)
    page.image(grid[0, 3], moved, f"map moved − map after: {s.error:.0e}", cmap="PuOr_r", vmin=-bound, vmax=bound)
    change = s.pooled[1, best] - s.pooled[0, best]
    page.image(grid[1, 3], change, "maxima after − before", cmap="PuOr_r", vmin=-bound, vmax=bound)
    for axes, name, pair in zip(
        lower.subplots(1, 2),
        (f"row {row} of map {best + 1}: {100 * s.detector_stays:.0f} % of all detectors stay",
         f"its maxima over {width} columns: {100 * s.pooled_stays:.0f} % of all maxima stay"),
        (s.detector[:, best, row], s.pooled[:, best, min(max(row - width // 2, 0), s.pooled.shape[-2] - 1)]),
        strict=True,
    ):  # fmt: skip
        page.plot(axes, name, "column", "value")
        columns = np.arange(pair.shape[1])
        near = 1e-5 * max(float(np.abs(s.detector).max()), 1e-30)
        same = np.abs(pair[0] - pair[1]) <= near
        axes.bar(columns - 0.2, pair[0], 0.4, color=SKY, label="before")
        axes.bar(columns + 0.2, pair[1], 0.4, color=ORANGE, label="after")
        alive = same & (np.abs(pair[0]) > near)
        axes.plot(columns[alive], pair[0][alive] + 0.03 * bound, "v", color=GREEN, markersize=4, label="the same")
        page.legend(axes)
    return page.done(
        f"equivariance error {s.error:.1e}; {100 * s.detector_stays:.0f} % of the detectors and "
        f"{100 * s.pooled_stays:.0f} % of the maxima stay"
    )
