"""`tinygrad-cnn show`: pictures of a trained network at work."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..backend import Device, current_device, use_device
from ..errors import CheckpointError, OptionError
from . import networks
from .main import Run

__all__ = ["KINDS", "command"]


def command(parser: argparse.ArgumentParser) -> Run:
    """Add the options of `tinygrad-cnn show`, and return what runs it."""
    width = max(map(len, KINDS)) + 2
    parser.usage = "%(prog)s WHAT [RUN] [--out FILE] [options]"
    parser.description = "Draw a trained network at work:\n" + "\n".join(
        f"  {name:<{width}}{text}" for name, (_, text) in KINDS.items()
    )
    parser.add_argument("what", choices=list(KINDS), metavar="WHAT", help=", ".join(KINDS))
    parser.add_argument("network", nargs="?", metavar="RUN", help="run folder, checkpoint or file of weights "
                        "(the run trained last below runs/, if it is left out)")  # fmt: skip
    parser.add_argument("--out", metavar="FILE", help=".png, .svg or .pdf [default: WHAT.png]")
    parser.add_argument("--digit", type=int, metavar="N", default=0, help="which test image, counted from 0")
    parser.add_argument("--file", metavar="FILE.png", help="an image of your own in place of a test image")
    parser.add_argument("--label", type=int, metavar="K", help="the class to explain [default: the network's answer]")
    parser.add_argument("--layer", metavar="PATH", help="which layer, for filters and Grad-CAM")
    parser.add_argument("--data", metavar="FOLDER", help="a folder of IDX files [default: what it was trained on]")
    parser.add_argument("--theme", choices=["light", "dark"], default="light", help="colours")
    parser.add_argument("--device", metavar="NAME", default=str(current_device()), help="cpu, cuda or cuda:1")
    return run


def run(arguments: argparse.Namespace) -> int:
    """Draw, save, and say in a sentence what there is to see."""
    out = Path(arguments.out or f"{arguments.what}.png")
    make, _ = KINDS[arguments.what]
    with use_device(Device(arguments.device)):
        sheet = make(arguments)
    sheet.save(out)
    print(f"{out}: {sheet.text}")
    return 0


def _trained(arguments: argparse.Namespace) -> networks.Trained:
    return networks.load(arguments.network or networks.latest_run())


def _splits(arguments: argparse.Namespace, trained: networks.Trained | None = None) -> Any:
    from .. import data

    if trained is None:
        return data.mnist(arguments.data)
    return data.mnist(arguments.data or trained.data, normalise=trained.normalise)


def _image(arguments: argparse.Namespace, trained: networks.Trained) -> Any:
    """Return the image the picture is about, as the network wants it."""
    if arguments.file is not None:
        from .prediction import as_digit, read_grey

        size = (trained.image[1], trained.image[2])
        return trained.normalise(as_digit(read_grey(arguments.file), size, arguments.file)[None, None])
    test = _splits(arguments, trained).test
    if not 0 <= arguments.digit < len(test):
        raise OptionError(f"--digit must lie in 0 .. {len(test) - 1}, got {arguments.digit}")
    return test.take([arguments.digit])[0]


def _filters(arguments: argparse.Namespace) -> Any:
    from ..viz import at_work

    return at_work.filters(_trained(arguments).model, layer=arguments.layer, theme=arguments.theme)


def _features(arguments: argparse.Namespace) -> Any:
    from ..viz import at_work

    trained = _trained(arguments)
    return at_work.feature_maps(trained.model, _image(arguments, trained), theme=arguments.theme)


def _explanations(arguments: argparse.Namespace) -> Any:
    from ..viz import at_work

    trained = _trained(arguments)
    image = _image(arguments, trained)
    return at_work.explanations(trained.model, image, arguments.label, layer=arguments.layer, theme=arguments.theme)


def _shift(arguments: argparse.Namespace) -> Any:
    from ..viz import at_work

    trained = _trained(arguments)
    return at_work.shift(trained.model, _image(arguments, trained), theme=arguments.theme)


def _curves(arguments: argparse.Namespace) -> Any:
    from ..train import History, load_checkpoint
    from ..viz import at_work

    path = Path(arguments.network or networks.latest_run())
    state = load_checkpoint(path / networks.CHECKPOINT if path.is_dir() else path)
    rows = state.get("history")
    if not isinstance(rows, list):
        raise CheckpointError(f"{path} holds no history of training")
    history = History(rows)
    history.best_epoch = (state.get("stopping") or {}).get("best_epoch")
    return at_work.curves(history, theme=arguments.theme)


def _evaluated(arguments: argparse.Namespace) -> tuple[Any, Any]:
    from .. import data, train

    trained = _trained(arguments)
    test = _splits(arguments, trained).test
    return test, train.evaluate(trained.model, data.DataLoader(test, 500))


def _confusion(arguments: argparse.Namespace) -> Any:
    from ..viz import at_work

    return at_work.confusion(_evaluated(arguments)[1], theme=arguments.theme)


def _mistakes(arguments: argparse.Namespace) -> Any:
    from ..viz import at_work

    test, result = _evaluated(arguments)
    return at_work.mistakes(test.images, result, theme=arguments.theme)


def _vanishing(arguments: argparse.Namespace) -> Any:
    import numpy as np

    from ..viz import at_work

    return at_work.vanishing(*_splits(arguments).train.take(np.arange(2000)), theme=arguments.theme)


# What can be shown -> the function that draws it, and a line for the help.
KINDS: dict[str, tuple[Callable[[argparse.Namespace], Any], str]] = {
    "filters": (_filters, "the kernels of the convolutions"),
    "features": (_features, "what every layer makes of a digit"),
    "why": (_explanations, "saliency, occlusion and Grad-CAM of a digit"),
    "shift": (_shift, "a convolution and maxima before and after the digit moves by one pixel"),
    "curves": (_curves, "loss and error over the epochs"),
    "confusion": (_confusion, "which class was taken for which"),
    "mistakes": (_mistakes, "the misclassified test digits with the network's answers"),
    "vanishing": (_vanishing, "gradient norms per layer, sigmoid against ReLU (trains two small networks)"),
}
