"""`tinygrad-cnn predict`: what digit is in an image file."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from ..backend import Device, current_device, use_device
from ..errors import DataError, MissingExtraError
from . import networks
from .main import Run

__all__ = ["as_digit", "command", "read_grey"]

_MOST_PIXELS = 100_000_000


def command(parser: argparse.ArgumentParser) -> Run:
    """Add the options of `tinygrad-cnn predict`, and return what runs it."""
    parser.usage = "%(prog)s FILE.png ... [options]"
    parser.description = (
        "Read the digit in each image file. Images of any size, dark on light or light on dark, are prepared as\n"
        "MNIST was: the digit fitted into 20 x 20 pixels, its centre of mass in the middle of 28 x 28."
    )
    parser.add_argument("files", nargs="+", metavar="FILE.png", help="images, one digit each")
    parser.add_argument("--model", metavar="RUN", help="run folder, checkpoint or file of weights "
                        "[default: the run trained last below runs/]")  # fmt: skip
    parser.add_argument("--as-is", action="store_true", help="only bring images to the size of the network: no "
                        "inversion, no centring")  # fmt: skip
    parser.add_argument("--show", action="store_true", help="print what the network sees")
    parser.add_argument("--device", metavar="NAME", default=str(current_device()), help="cpu, cuda or cuda:1")
    parser.add_argument("--json", action="store_true", help="print one JSON object per file and nothing else")
    return run


def run(arguments: argparse.Namespace) -> int:
    """Read the files, ask the network, and print a row per file."""
    from rich.text import Text

    from ..graph import no_grad
    from ..tensor import Tensor
    from .console import output

    with use_device(Device(arguments.device)):
        trained = networks.load(arguments.model or networks.latest_run())
    if trained.image[0] != 1:
        raise DataError(f"{trained.path} was trained on images of {trained.image[0]} channels, predict reads grey ones")
    h, w = trained.image[1:]
    prepare = _fitted if arguments.as_is else as_digit
    pixels = np.stack([prepare(read_grey(path), (h, w), path) for path in arguments.files])[:, None]
    with no_grad(), use_device(Device(arguments.device)):
        scores = trained.model(Tensor(trained.normalise(pixels))).numpy()
    certainty = np.exp(scores - scores.max(1, keepdims=True))
    certainty /= certainty.sum(1, keepdims=True)
    order = np.argsort(-scores, axis=1, kind="stable")
    if arguments.json:
        for path, row, ranks in zip(arguments.files, certainty, order, strict=True):
            shares = {str(k): round(float(row[k]), 6) for k in ranks}
            print(json.dumps({"file": str(path), "digit": int(ranks[0]), "probabilities": shares}))
        return 0
    console = output()
    width = max(4, *(len(str(path)) for path in arguments.files))
    console.print(f"{'file':<{width}}  digit  certainty   next best", style="bold")
    for path, row, ranks, image in zip(arguments.files, certainty, order, pixels[:, 0], strict=True):
        first, second = ranks[:2]
        line = Text(f"{path!s:<{width}}  ")
        line.append(f"{first:^5}", style="bold green")
        line.append(f"  {100 * row[first]:7.2f} %   {second} ({100 * row[second]:.2f} %)")
        console.print(line)
        if arguments.show:
            console.print(_half_blocks(image))
    return 0


def read_grey(path: str | Path) -> Any:
    """Read an image file as grey levels (h, w), 0 to 255 in float32; what is transparent counts as white.

    Raises:
        DataError: the file is missing, no image, or too large.
        MissingExtraError: Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtraError("reading images needs Pillow: pip install 'tinygrad-cnn[plot]'") from error
    try:
        with Image.open(path) as image:
            if image.width * image.height > _MOST_PIXELS:
                raise DataError(f"{path} has {image.width} x {image.height} pixels, too many for a digit")
            if image.mode.startswith("I;16") or image.mode in ("I", "F"):
                levels = np.asarray(image, np.float32)
                return levels * (255 / (65535 if levels.max(initial=0) > 255 else 255))
            colours = image.convert("RGBA")
            white = Image.new("RGBA", image.size, "white")
            return np.asarray(Image.alpha_composite(white, colours).convert("L"), np.float32)
    except FileNotFoundError as error:
        raise DataError(f"there is no file {path}") from error
    except DataError:
        raise
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be read as an image ({error})") from error


def as_digit(grey: Any, size: tuple[int, int], path: str | Path) -> Any:
    """Prepare a digit as MNIST's were (LeCun et al. 1998, section III.A): bytes (h, w), light on dark, centred.

    An image that is light on dark and has the network's size already is taken as it is.

    Raises:
        DataError: there is nothing in the image.
    """
    edge = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    background = float(np.median(edge))
    inverted = background > (float(grey.min()) + float(grey.max())) / 2
    if not inverted and grey.shape == size:
        ink = grey
    else:
        ink = np.maximum(background - grey if inverted else grey - background, 0)
        if ink.max() < 8:
            raise DataError(f"{path}: there is nothing to read, all pixels are nearly the same")
        ink = _cut_noise(ink * (255 / ink.max()))
        ink = _centred(ink, size)
    if ink.max(initial=0) < 8:
        raise DataError(f"{path}: there is nothing to read, all pixels are nearly the same")
    return np.round(ink).clip(0, 255).astype(np.uint8)


def _cut_noise(ink: Any) -> Any:
    """Bring the background, paper and JPEG noise included, to 0: what is below a quarter of the darkest."""
    return np.where(ink < 64, 0, ink)


def _centred(ink: Any, size: tuple[int, int]) -> Any:
    rows, columns = np.flatnonzero(ink.max(1)), np.flatnonzero(ink.max(0))
    ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    h, w = size
    scale = min(20 / 28 * h / ink.shape[0], 20 / 28 * w / ink.shape[1])
    shape = tuple(max(1, round(n * scale)) for n in ink.shape)
    ink = _resized(ink, shape)
    ink = ink * (255 / max(1.0, float(ink.max())))
    total = ink.sum()
    row = float((ink.sum(1) * np.arange(shape[0])).sum() / total)
    column = float((ink.sum(0) * np.arange(shape[1])).sum() / total)
    top = int(np.clip(round((h - 1) / 2 - row), 0, h - shape[0]))
    left = int(np.clip(round((w - 1) / 2 - column), 0, w - shape[1]))
    canvas = np.zeros(size, np.float32)
    canvas[top : top + shape[0], left : left + shape[1]] = ink
    return canvas


def _fitted(grey: Any, size: tuple[int, int], path: str | Path) -> Any:
    return np.round(_resized(grey, size)).clip(0, 255).astype(np.uint8)


def _resized(image: Any, size: tuple[int, ...]) -> Any:
    """Resize by averaging over the area that each new pixel covers, so that no thin line drops out."""

    def weights(new: int, old: int) -> Any:
        edges = np.linspace(0, old, new + 1)
        low = np.maximum(edges[:-1, None], np.arange(old)[None])
        high = np.minimum(edges[1:, None], np.arange(old)[None] + 1)
        return np.maximum(high - low, 0) * (new / old)

    h, w = image.shape
    return (weights(size[0], h) @ image @ weights(size[1], w).T).astype(np.float32)


def _half_blocks(image: Any) -> str:
    """Return bytes (h, w) as text, two rows of pixels per line."""
    shades = " ░▒▓█"
    rows = [image[i : i + 2].mean(0) for i in range(0, len(image), 2)]
    return "\n".join("  " + "".join(shades[min(4, int(v * 5 / 256))] for v in row) for row in rows)
