"""MNIST, which ships with the package, and its relatives from a folder: Fashion-MNIST, KMNIST, EMNIST."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import DataError, OptionError
from .arrays import ArrayDataset
from .idx import read_idx
from .normalise import normalisation

__all__ = ["Splits", "mnist"]

_FILES = Path(__file__).parent / "files"
_SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
# The parts of EMNIST and their numbers of classes; the labels of "letters" begin at 1.
_EMNIST = {"byclass": 62, "bymerge": 47, "balanced": 47, "letters": 27, "digits": 10, "mnist": 10}
_PATTERN = re.compile(
    r"(?:(?P<name>[\w.-]+?)-)?(?P<split>train|t10k|test)-(?P<what>images|labels)[.-]idx[13]-ubyte(?:\.gz|\.xz)?"
)


class Splits(NamedTuple):
    """The two parts of a data set: `train, test = mnist()`."""

    train: ArrayDataset
    test: ArrayDataset


def mnist(
    root: str | Path | None = None,
    *,
    name: str | None = None,
    normalise: Any = "unit",
    classes: int | None = None,
    max_bytes: int = 1 << 32,
) -> Splits:
    """Return the training and the test set of MNIST, or of a folder of IDX files.

    Without `root` these are the 60 000 + 10 000 digits that ship with the package (LeCun, Cortes, Burges), decoded
    once per process. With `root`, the four files of the folder are read, plain or as `.gz`: the names are those of
    MNIST, Fashion-MNIST and KMNIST (`train-images-idx3-ubyte`, `t10k-labels-idx1-ubyte.gz`) or of EMNIST
    (`emnist-letters-train-images-idx3-ubyte.gz`), whose images are turned upright.

    >>> train, test = mnist()
    >>> train.images.shape, train.labels[:5].tolist()
    ((60000, 1, 28, 28), [5, 0, 4, 1, 9])
    >>> x, y = test.take([0, 1])
    >>> x.dtype, float(x.max()), y.tolist()
    (dtype('float32'), 1.0, [7, 2])

    Args:
        root: a folder of IDX files; None for the digits of the package.
        name: which data set, if the folder holds several: "emnist-letters", say.
        normalise: how `take()` turns bytes into numbers: "unit" for [0, 1], "centred" for [-1, 1], "standard" for
            mean 0 and variance 1 over the training set, "lecun" for -0.1 to 1.175 as in the paper of 1998,
            None for the bytes themselves, or a function of a batch of images.
        classes: the number of classes, where the name of the files does not tell it; labels lie below it.
        max_bytes: refuse files that hold more than this.

    Raises:
        DataError: a file is missing, truncated or damaged; images and labels differ in number; a label is out of range.
    """
    if root is None:
        if name is not None:
            raise OptionError(f"name={name!r} chooses among the files of a folder; give the folder as root")
        arrays = _packaged()
        classes = classes or 10
    else:
        arrays, known = _folder(Path(root).expanduser(), name, max_bytes)
        classes = classes or known
    parts = [_checked(*arrays[split], split=split, classes=classes) for split in ("train", "test")]
    if parts[0][0].shape[1:] != parts[1][0].shape[1:]:
        raise DataError(
            f"training images are {_size(parts[0][0])} pixels, test images {_size(parts[1][0])}; "
            "these are not two parts of one data set"
        )
    function = normalisation(normalise, parts[0][0])
    return Splits(*(ArrayDataset(x, y, normalise=function, classes=classes) for x, y in parts))


def _size(images: Any) -> str:
    return " x ".join(str(n) for n in images.shape[2:])


@cache
def _packaged() -> dict[str, tuple[Any, Any]]:
    def read(stem: str) -> Any:
        path = _FILES / f"{stem}.xz"
        if not path.is_file():
            raise DataError(f"{path} is missing: the package was installed without its data; install it again")
        try:
            values = read_idx(path, sha256=_SHA256[stem])
        except DataError as error:
            raise DataError(f"{error}. This file belongs to the package: install tinygrad-cnn again") from error
        return values

    found = {
        split: (read(f"{prefix}-images-idx3-ubyte")[:, None], read(f"{prefix}-labels-idx1-ubyte").astype(np.int64))
        for split, prefix in (("train", "train"), ("test", "t10k"))
    }
    for arrays in found.values():
        for array in arrays:
            array.flags.writeable = False  # one copy serves the whole process
    return found


def _folder(root: Path, name: str | None, max_bytes: int) -> tuple[dict[str, tuple[Any, Any]], int | None]:
    if not root.is_dir():
        raise DataError(f"{root} is not a folder" if root.exists() else f"there is no folder {root}")
    found: dict[str, dict[tuple[str, str], Path]] = {}
    for path in sorted(root.iterdir()):
        match = _PATTERN.fullmatch(path.name)
        if match and path.is_file():
            split = "train" if match["split"] == "train" else "test"
            # Sorted, so of a plain and a compressed copy the plain one is read.
            found.setdefault(match["name"] or "mnist", {}).setdefault((split, match["what"]), path)
    if not found:
        raise DataError(
            f"{root} holds no IDX files; expected are train-images-idx3-ubyte, train-labels-idx1-ubyte, "
            "t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte, plain or with .gz"
        )
    if name is None and len(found) > 1:
        raise DataError(f"{root} holds several data sets: {', '.join(found)}; choose one with name=")
    name = name or next(iter(found))
    if name not in found:
        raise DataError(f"{root} holds no data set {name!r}, but {', '.join(found)}")
    files = found[name]
    for split, what in ((s, w) for s in ("train", "test") for w in ("images", "labels")):
        if (split, what) not in files:
            raise DataError(f"{root} holds no file with the {what} of the {split} set of {name}")
    arrays = {
        split: (
            _images(files[split, "images"], max_bytes, upright=name.startswith("emnist")),
            _labels(files[split, "labels"], max_bytes),
        )
        for split in ("train", "test")
    }
    for split, (images, labels) in arrays.items():
        if len(images) != len(labels):
            raise DataError(
                f"{files[split, 'images']} holds {len(images)} images, but {files[split, 'labels']} "
                f"{len(labels)} labels; the files do not belong together"
            )
    kind = name.removeprefix("emnist-")
    known = _EMNIST.get(kind) if name.startswith("emnist") else (10 if name == "mnist" else None)
    if known is None:
        known = int(max(labels.max(initial=0) for _, labels in arrays.values())) + 1
    return arrays, known


def _images(path: Path, max_bytes: int, upright: bool) -> Any:
    images = read_idx(path, max_bytes=max_bytes)
    if images.ndim != 3 or images.dtype != np.uint8:
        raise DataError(
            f"{path} holds an array of {images.ndim} axes of {images.dtype}; "
            "images have 3 axes (count, height, width) of bytes, magic number 0x00000803"
        )
    if 0 in images.shape:
        raise DataError(f"{path} holds no images: its sizes are {images.shape}")
    if upright:
        images = np.ascontiguousarray(images.swapaxes(1, 2))  # EMNIST stores its images transposed
    return images[:, None]


def _labels(path: Path, max_bytes: int) -> Any:
    labels = read_idx(path, max_bytes=max_bytes)
    if labels.ndim != 1 or labels.dtype != np.uint8:
        raise DataError(
            f"{path} holds an array of {labels.ndim} axes of {labels.dtype}; "
            "labels have one axis of bytes, magic number 0x00000801"
        )
    return labels.astype(np.int64)


def _checked(images: Any, labels: Any, *, split: str, classes: int | None) -> tuple[Any, Any]:
    if classes is not None and labels.size and labels.max() >= classes:
        at = int(np.argmax(labels >= classes))
        raise DataError(
            f"label {labels[at]} of {split} image {at} is out of range: {classes} classes are 0 to {classes - 1}"
        )
    return images, labels
