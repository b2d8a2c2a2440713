"""`tinygrad-cnn draw`: the recorded graph of a network, as a picture or a page."""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import OptionError
from . import networks
from .main import Run

__all__ = ["command"]


def command(parser: argparse.ArgumentParser) -> Run:
    """Add the options of `tinygrad-cnn draw`, and return what runs it."""
    from ..models import NAMES

    names = ", ".join(dict.fromkeys((*networks.NETWORKS, *NAMES)))
    parser.usage = "%(prog)s [MODEL] --out FILE [options]"
    parser.description = (
        "Run a network on a batch, forward and backward, and draw the graph that was recorded. The suffix of FILE\n"
        "says how: .svg .pdf .png .dot .json .txt, or .html for a page that walks through the backward pass."
    )
    parser.add_argument("model", nargs="?", default="lenet5", metavar="MODEL",
                        help=f"{names}; a run folder or file of weights; or a graph saved as .json "
                             "[default: lenet5]")  # fmt: skip
    parser.add_argument("--out", required=True, metavar="FILE", help="where to")
    parser.add_argument("--mode", choices=["forward", "backward", "both"], default="both",
                        help="values flowing forward, gradients flowing back, or both")  # fmt: skip
    parser.add_argument("--depth", type=int, metavar="N", help="draw modules from this level on as single boxes")
    parser.add_argument("--collapse", action="append", metavar="NAME",
                        help="draw modules of this path or kind as single boxes; * stands for anything, "
                             "and the option may be repeated")  # fmt: skip
    parser.add_argument("--color-by", metavar="WHAT", default="op",
                        help="op, gradient, dead, time, bytes, flops or none")  # fmt: skip
    parser.add_argument("--theme", choices=["auto", "light", "dark"], default="auto", help="colours")
    parser.add_argument("--no-fold", action="store_true", help="draw equal blocks in a row one by one")
    parser.add_argument("--engine", choices=["auto", "dot", "builtin"], default="auto", help="what lays it out")
    parser.add_argument("--batch-size", type=int, metavar="N", default=8, help="images in the batch")
    parser.add_argument("--size", type=int, metavar="PIXELS",
                        help="height and width of the images [default: what the network was made for]")  # fmt: skip
    parser.add_argument("--seed", type=int, metavar="N", default=0, help="for weights and images that are drawn")
    return run


def run(arguments: argparse.Namespace) -> int:
    """Record, draw and save."""
    from .. import viz

    if arguments.batch_size < 1:
        raise OptionError(f"--batch-size must be at least 1, got {arguments.batch_size}")
    out = Path(arguments.out)
    if not out.parent.is_dir():
        raise OptionError(f"--out {out}: there is no folder {out.parent}")
    if arguments.model.endswith(".json"):
        try:
            graph = viz.GraphIR.from_json(Path(arguments.model).read_text(encoding="utf-8"))
        except UnicodeDecodeError as error:
            raise OptionError(f"{arguments.model} is no graph saved as .json") from error
    else:
        graph = record(arguments, maps=out.suffix.lower() == ".html")
    picture = viz.draw(
        graph,
        arguments.mode,
        depth=arguments.depth,
        collapse=arguments.collapse or (),
        color_by=arguments.color_by,
        theme=arguments.theme,
        fold=not arguments.no_fold,
        engine=arguments.engine,
    )
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        picture.save(out)
    for note in notes:
        print(f"note: {note.message}", file=sys.stderr)
    size = out.stat().st_size
    kept = f"{len(graph.nodes)} ops in {len(graph.modules)} module calls"
    drawn = "" if out.suffix in (".json", ".html", ".txt") else f" as {len(picture.diagram.boxes)} boxes"
    print(f"{out}: {graph.title}, {kept}{drawn}, {size / 1000:,.0f} kB".replace(",", " ", 0))
    return 0


def record(arguments: argparse.Namespace, *, maps: bool) -> Any:
    """Run the named network once and return its `GraphIR`."""
    from .. import manual_seed, viz
    from ..nn import functional as F  # noqa: N812 - the field's name for it

    manual_seed(arguments.seed)
    model, images, labels = prepared(arguments)
    with viz.record(maps=maps, timed=arguments.color_by == "time") as recorder:
        output = model(images)
        # Networks with side classifiers give several results; each has its loss.
        outputs = output if isinstance(output, (tuple, list)) else [output]
        losses = [F.cross_entropy(y, labels % y.shape[1]) for y in outputs if y is not None]
        loss = losses[0]
        for further in losses[1:]:
            loss = loss + further
        loss.backward()
    return recorder.graph


def prepared(arguments: argparse.Namespace) -> tuple[Any, Any, Any]:
    """Return the network, images and labels: digits for a network that reads digits, else noise."""
    from .. import data, models, randn
    from ..models.registry import entry
    from ..tensor import Tensor

    name = arguments.model
    if name in networks.NETWORKS:
        model, shape = networks.build(name), (1, 28, 28)
    elif name in models.NAMES:
        found = entry(name)
        model, shape = found.make(), found.input_shape
    elif Path(name).exists():
        trained = networks.load(name)
        model, shape = trained.model, trained.image
        model.train()
    else:
        known = ", ".join(dict.fromkeys((*networks.NETWORKS, *models.NAMES)))
        raise OptionError(f"there is no network and no file {name!r}; the names are {known}")
    if arguments.size is not None:
        shape = (shape[0], arguments.size, arguments.size)
    if shape == (1, 28, 28):
        images, labels = data.mnist().test.take(np.arange(arguments.batch_size))
        return model, Tensor(images), labels
    return model, randn(arguments.batch_size, *shape), np.arange(arguments.batch_size)
