"""`tinygrad-cnn evaluate`: what a trained network gets right."""

from __future__ import annotations

import argparse
import json

from ..backend import Device, current_device, use_device
from ..errors import DataError
from . import networks
from .main import Run

__all__ = ["command"]


def command(parser: argparse.ArgumentParser) -> Run:
    """Add the options of `tinygrad-cnn evaluate`, and return what runs it."""
    parser.usage = "%(prog)s [RUN] [options]"
    parser.description = "Print the accuracy and the confusion matrix of a trained network."
    parser.add_argument("network", nargs="?", metavar="RUN", help="run folder, checkpoint or file of weights "
                        "(the run trained last below runs/, if it is left out)")  # fmt: skip
    parser.add_argument("--data", metavar="FOLDER", help="a folder of IDX files [default: what it was trained on]")
    parser.add_argument("--split", choices=["test", "train"], default="test", help="which part of the data")
    parser.add_argument("--batch-size", type=int, metavar="N", default=500, help="images at a time")
    parser.add_argument("--device", metavar="NAME", default=str(current_device()), help="cpu, cuda or cuda:1")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    return run


def run(arguments: argparse.Namespace) -> int:
    """Evaluate and print."""
    from .. import data, train
    from .console import output
    from .progress import duration
    from .report import as_json, grouped, print_evaluation

    with use_device(Device(arguments.device)):
        trained = networks.load(arguments.network or networks.latest_run())
    folder = arguments.data or trained.data
    splits = data.mnist(folder, normalise=trained.normalise)
    dataset = getattr(splits, arguments.split)
    if dataset.images.shape[1:] != trained.image:
        had, got = (" x ".join(map(str, s)) for s in (trained.image, dataset.images.shape[1:]))
        raise DataError(f"{trained.path} was trained on images of {had}, these are {got}")
    if dataset.labels.max() >= trained.classes:
        raise DataError(f"{trained.path} tells {trained.classes} classes apart, the data have more")
    with use_device(Device(arguments.device)):
        result = train.evaluate(trained.model, data.DataLoader(dataset, arguments.batch_size))
    if arguments.json:
        print(
            json.dumps(
                {
                    "network": str(trained.path),
                    "model": trained.name,
                    "data": folder or "MNIST",
                    "split": arguments.split,
                    **as_json(result),
                }
            )
        )
        return 0
    console = output()
    console.print(f"{trained.name} from {trained.path}")
    print_evaluation(console, result, arguments.split)
    console.print(f"\n{grouped(round(result.count / result.seconds))} images/s, {duration(result.seconds)}")
    return 0
