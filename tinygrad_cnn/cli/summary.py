"""`tinygrad-cnn summary`: what a network is made of and what it costs."""

from __future__ import annotations

import argparse
from pathlib import Path

from .. import models
from . import networks
from .main import Run

__all__ = ["command"]


def command(parser: argparse.ArgumentParser) -> Run:
    """Add the options of `tinygrad-cnn summary`, and return what runs it."""
    parser.usage = "%(prog)s [MODEL] [options]"
    parser.description = "Print layers, output shapes, parameters, FLOPs and bytes of a network."
    parser.add_argument("model", nargs="?", default="lenet5", metavar="MODEL",
                        help=f"{', '.join(models.NAMES)}, or a run folder or file of a trained one "
                             "[default: lenet5]")  # fmt: skip
    parser.add_argument("--batch-size", type=int, metavar="N", default=1, help="images at a time")
    return run


def run(arguments: argparse.Namespace) -> int:
    """Print the summary."""
    from .. import nn

    if arguments.model in models.NAMES or not Path(arguments.model).exists():
        model, image = models.build(arguments.model), models.registry.entry(arguments.model).input_shape
    else:
        trained = networks.load(arguments.model)
        model, image = trained.model, trained.image
    print(nn.summary(model, (arguments.batch_size, *image)))
    return 0
