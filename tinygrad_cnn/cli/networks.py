"""The networks that the command line knows by name, and how a trained one is found and loaded."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import models
from ..data import Affine
from ..errors import CheckpointError, OptionError
from ..train import load_checkpoint, load_state_dict_file

__all__ = ["CHECKPOINT", "NETWORKS", "WEIGHTS", "Trained", "build", "latest_run", "load"]

CHECKPOINT = "checkpoint.safetensors"
WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Trained:
    """A network with its weights.

    Attributes:
        model: the module, in evaluation mode.
        name: one of `NETWORKS`.
        classes: how many classes it tells apart.
        image: shape (c, h, w) of the images it was trained on.
        normalise: how bytes were turned into numbers.
        path: the file the weights came from.
    """

    model: Any
    name: str
    classes: int
    image: tuple[int, int, int]
    normalise: Affine
    path: Path

    @property
    def data(self) -> str | None:
        """The folder of data it was trained on, as options.json beside the file tells it; None for MNIST."""
        try:
            stored = json.loads((self.path.parent / "options.json").read_text())
        except (OSError, ValueError):
            return None
        folder = stored.get("data") if isinstance(stored, dict) else None
        return folder if isinstance(folder, str) else None


# Names of `models` that can be trained on small grey images, with what they need to know of them.
NETWORKS: dict[str, Callable[[int, tuple[int, int, int]], dict[str, Any]]] = {
    "lenet5": lambda classes, image: {"num_classes": classes},
    "lenet5-original": lambda classes, image: {},
    "mlp": lambda classes, image: {"num_classes": classes, "in_features": math.prod(image)},
    "logistic": lambda classes, image: {"num_classes": classes, "in_features": math.prod(image)},
}


def build(name: str, classes: int = 10, image: tuple[int, int, int] = (1, 28, 28)) -> Any:
    """Make an untrained network.

    Raises:
        OptionError: there is none of that name, or it cannot work on such images.
    """
    if name not in NETWORKS:
        raise OptionError(f"{name!r} cannot be trained here; the names are {', '.join(NETWORKS)}")
    if name.startswith("lenet5") and image != (1, 28, 28):
        raise OptionError(f"{name} takes images of 1 x 28 x 28, these are {' x '.join(map(str, image))}; try mlp")
    if name == "lenet5-original" and classes != 10:
        raise OptionError(f"{name} has bitmaps of the 10 digits as its output, these are {classes} classes; try lenet5")
    return models.build(name, **NETWORKS[name](classes, image))


def latest_run(folder: Path = Path("runs")) -> Path:
    """Return the run that was trained last below `folder`.

    Raises:
        CheckpointError: there is none.
    """
    runs = sorted(folder.glob(f"*/{CHECKPOINT}"), key=lambda path: path.stat().st_mtime)
    if not runs:
        raise CheckpointError(
            f"there is no trained network in {folder}/; train one with tinygrad-cnn train, "
            "or name its run folder or file"
        )
    return runs[-1].parent


def load(path: str | Path) -> Trained:
    """Load a trained network from a run folder, its checkpoint, or a file of weights (`model.safetensors`).

    Raises:
        CheckpointError: the file is missing or damaged, or does not say what network it is of.
    """
    path = Path(path)
    if path.is_dir():
        if not (path / CHECKPOINT).exists() and not (path / WEIGHTS).exists():
            raise CheckpointError(f"the folder {path} holds no {CHECKPOINT}")
        path = path / (CHECKPOINT if (path / CHECKPOINT).exists() else WEIGHTS)
    weights, metadata = load_state_dict_file(path)
    if metadata.get("format", "").startswith("tinygrad_cnn checkpoint"):
        state = load_checkpoint(path)
        note: Any = state.get("note")
        best = (state.get("stopping") or {}).get("best_weights")
        weights = state.get("model", {}) if best is None else best
    else:
        note = metadata.get("network", "")
    try:
        note = json.loads(note) if isinstance(note, str) else note
        name, classes = str(note["model"]), int(note["classes"])
        image = tuple(int(n) for n in note["image"])
        normalise = Affine(float(note["zero"]), float(note["scale"]))
        # Sizes that the file could not fill are refused before a network of that size takes memory.
        values = sum(array.size for array in weights.values())
        if len(image) != 3 or min(*image, classes) < 1 or max(math.prod(image), classes) > min(values, 100_000):
            raise ValueError(f"image {image}, {classes} classes, {values} weights")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{path} does not say what network its weights are of; expected is a file that tinygrad-cnn train wrote"
        ) from error
    model = build(name, classes, image)
    model.load_state_dict(weights)
    model.eval()
    return Trained(model, name, classes, image, normalise, path)


def note(name: str, classes: int, image: tuple[int, ...], normalise: Affine) -> dict[str, Any]:
    """Return what a file of weights says of its network."""
    return {
        "model": name,
        "classes": classes,
        "image": list(image),
        "zero": normalise.zero,
        "scale": normalise.scale,
    }
