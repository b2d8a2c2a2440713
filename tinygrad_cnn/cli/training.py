"""`tinygrad-cnn train`: from the digits to a trained network and a folder that tells of it."""

from __future__ import annotations

import argparse
import json
import signal
import time
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from ..backend import Device, as_dtype, current_device, manual_seed, use_device
from ..data.normalise import NORMALISATIONS
from ..errors import CheckpointError, MissingExtraError, OptionError
from ..files import write_text
from . import networks
from .main import Run

__all__ = ["Options", "command"]

N = TypeVar("N", int, float)

OPTIMIZERS = {"adam": 2e-3, "adamw": 2e-3, "sgd": 5e-2, "rmsprop": 1e-3, "adagrad": 2e-2, "adadelta": 1.0}
SCHEDULES = ("constant", "cosine", "onecycle")
PRECISIONS = ("float32", "float16", "bfloat16")  # those of train.fit, which is imported later


@dataclass
class Options:
    """What decides about the weights of a run. They are kept in its checkpoint."""

    model: str = "lenet5"
    recipe: str = "default"
    epochs: int = 12
    batch_size: int = 64
    optimizer: str = "adam"
    lr: float = 0.0  # 0 until the optimizer's own is filled in
    weight_decay: float = 0.0
    schedule: str = "cosine"
    augment: float = 0.0
    normalise: str = "unit"
    validation: int | None = None  # None: 5000, or a tenth of the images if that is less
    patience: int = 5
    precision: str = "float32"
    seed: int = 0
    data: str | None = None
    limit: int | None = None


# What a recipe changes of the above.
RECIPES: dict[str, dict[str, Any]] = {
    "default": {},
    "best": {"epochs": 20, "batch_size": 128, "lr": 4e-3, "schedule": "onecycle", "augment": 1.0, "patience": 20},
}


def command(parser: argparse.ArgumentParser) -> Run:
    """Add the options of `tinygrad-cnn train`, and return what runs it."""
    parser.description = (
        "Train a network on the 60 000 digits of MNIST, which come with the package, or on a folder of IDX files.\n"
        "Without options: LeNet-5 with Adam, at least 99.0 % right on the 10 000 test digits."
    )
    parser.epilog = (
        "Ctrl-C ends after the current step; `tinygrad-cnn train --resume FOLDER` goes on to the same weights,\n"
        "bit for bit. Its folder holds checkpoint.safetensors, model.safetensors, history.jsonl, history.csv,\n"
        "test.json, mistakes.csv, summary.txt, options.json and (extra `plot`) pictures of curves and mistakes."
    )
    defaults, best = Options(), RECIPES["best"]

    def number(name: str) -> str:
        other = f"; {best[name]:g} in recipe best" if name in best else ""
        return f"[default: {getattr(defaults, name):g}{other}]"

    what = parser.add_argument_group("what is trained")
    what.add_argument(
        "--model",
        choices=list(networks.NETWORKS),
        metavar="NAME",
        help="lenet5, lenet5-original (of 1998), mlp (300 and 100 hidden units) or logistic [default: lenet5]",
    )
    what.add_argument("--data", metavar="FOLDER", help="a folder of IDX files [default: MNIST from the package]")
    what.add_argument("--limit", type=_from_1, metavar="N", help="only the first N training images [default: all]")
    what.add_argument(
        "--normalise",
        choices=list(NORMALISATIONS),
        metavar="NAME",
        help="pixels as numbers: unit [0, 1], centred [-1, 1], standard (mean 0, variance 1) or lecun (-0.1 to 1.175, "
        "as in the paper of 1998) [default: unit]",
    )
    how = parser.add_argument_group("how it is trained")
    how.add_argument(
        "--recipe",
        choices=list(RECIPES),
        metavar="NAME",
        help="default, or best, which distorts the images and reaches at most 0.80 %% error [default: default]",
    )
    how.add_argument("--epochs", type=_from_1, metavar="N", help=f"passes over the images, at most {number('epochs')}")
    how.add_argument("--batch-size", type=_from_1, metavar="N", help=f"images per step {number('batch_size')}")
    how.add_argument(
        "--optimizer", choices=list(OPTIMIZERS), metavar="NAME", help=f"{', '.join(OPTIMIZERS)} [default: adam]"
    )
    rates = ", ".join(f"{name} {rate:g}" for name, rate in OPTIMIZERS.items())
    how.add_argument(
        "--lr",
        type=_positive,
        metavar="X",
        help=f"learning rate, the highest of a schedule [default: {rates}; {best['lr']:g} in recipe best]",
    )
    how.add_argument("--weight-decay", type=_not_negative, metavar="X", help=f"L2 penalty {number('weight_decay')}")
    how.add_argument(
        "--schedule",
        choices=SCHEDULES,
        metavar="NAME",
        help="learning rate over the steps: constant, cosine or onecycle [default: cosine; onecycle in recipe best]",
    )
    how.add_argument(
        "--augment",
        type=_not_negative,
        metavar="S",
        help=f"distort images at random; 1 is the usual strength {number('augment')}",
    )
    how.add_argument(
        "--validation",
        type=_from_0,
        metavar="N",
        help="training images set aside for early stopping; 0 for none [default: 5000, at most a tenth]",
    )
    how.add_argument(
        "--patience",
        type=_from_1,
        metavar="N",
        help=f"epochs without a better validation accuracy before the end {number('patience')}",
    )
    how.add_argument(
        "--precision",
        choices=PRECISIONS,
        metavar="NAME",
        help="float32, or mixed: products in float16 (with a scaled loss) or bfloat16 (extra amp), weights in float32; "
        "made for GPUs, slow on a CPU [default: float32]",
    )
    how.add_argument("--seed", type=_from_0, metavar="N", help="decides all that is random [default: 0]")
    where = parser.add_argument_group("where it runs and writes")
    where.add_argument("--device", metavar="NAME", default=str(current_device()), help="cpu, cuda or cuda:1")
    where.add_argument("--out", metavar="FOLDER", help="run folder, new or empty [default: runs/MODEL-DATE-TIME]")
    where.add_argument("--resume", metavar="FOLDER", help="go on with the run in this folder, with its own options")
    where.add_argument(
        "--checkpoint-every",
        type=_not_negative,
        metavar="SECONDS",
        default=20.0,
        help="time between checkpoints within an epoch",
    )
    where.add_argument("--no-pictures", action="store_true", help="draw no curves and mistakes")
    return run


def _from_1(text: str) -> int:
    return _number(text, int, lambda v: v >= 1, "a whole number from 1 on")


def _from_0(text: str) -> int:
    return _number(text, int, lambda v: v >= 0, "a whole number from 0 on")


def _positive(text: str) -> float:
    return _number(text, float, lambda v: 0 < v < float("inf"), "a number above 0")


def _not_negative(text: str) -> float:
    return _number(text, float, lambda v: 0 <= v < float("inf"), "a number from 0 on")


def _number(text: str, kind: Callable[[str], N], allowed: Callable[[N], bool], expected: str) -> N:
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not allowed(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not {expected}")
    return value


def run(arguments: argparse.Namespace) -> int:
    """Train, test, and write the run folder."""
    options, folder = _options_and_folder(arguments)
    with use_device(Device(arguments.device)):
        return _train(options, folder, arguments)


def _options_and_folder(arguments: argparse.Namespace) -> tuple[Options, Path]:
    given = {f.name: getattr(arguments, f.name) for f in fields(Options) if getattr(arguments, f.name) is not None}
    if "data" in given:
        given["data"] = str(Path(given["data"]).expanduser().absolute())
    if arguments.resume is not None:
        if arguments.out is not None:
            raise OptionError("--resume goes on in its own folder; leave out --out")
        folder = Path(arguments.resume)
        return _resumed(folder, given), folder
    recipe = RECIPES[given.get("recipe", "default")]
    options = Options(**{**recipe, **given})
    if "lr" not in given and ("lr" not in recipe or "optimizer" in given):
        options.lr = OPTIMIZERS[options.optimizer]
    if options.model == "lenet5-original" and options.normalise != "unit":
        raise OptionError("lenet5-original brings [0, 1] into the paper's own range; leave out --normalise")
    folder = Path(arguments.out or time.strftime(f"runs/{options.model}-%Y%m%d-%H%M%S"))
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OptionError(f"{folder} exists already; give another --out, or --resume {folder} to go on with that run")
    return options, folder


def _resumed(folder: Path, given: dict[str, Any]) -> Options:
    """Return the options of the run in a folder, after comparing them with those that were given."""
    options = _stored(folder)
    for name, value in given.items():
        if name == "epochs" and options.schedule == "constant":
            options.epochs = value
        elif getattr(options, name) != value:
            raise OptionError(
                f"the run in {folder} has {name.replace('_', '-')} {getattr(options, name)}, not {value}; "
                "a run is resumed with its own options (only --epochs can change, with a constant learning rate)"
            )
    return options


def _stored(folder: Path) -> Options:
    try:
        stored = json.loads((folder / "options.json").read_text())
        options = Options(**stored)
        for field in fields(Options):
            _check_stored(field.name, getattr(options, field.name))
    except OSError as error:
        raise CheckpointError(f"{folder} is no run folder: it holds no options.json ({error.strerror})") from error
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{folder / 'options.json'} is damaged ({error})") from error
    return options


def _check_stored(name: str, value: Any) -> None:
    default = getattr(Options(), name)
    kinds = (type(None), str if name == "data" else int) if default is None else (type(default),)
    if type(value) not in (*kinds, *((int,) if float in kinds else ())):
        raise ValueError(f"{name} is {value!r}")
    known: dict[str, Collection[str]] = {
        "model": networks.NETWORKS,
        "recipe": RECIPES,
        "optimizer": OPTIMIZERS,
        "schedule": SCHEDULES,
        "normalise": NORMALISATIONS,
        "precision": PRECISIONS,
    }
    if name in known and value not in known[name]:
        raise ValueError(f"{name} is {value!r}, expected one of {', '.join(known[name])}")


@dataclass
class _Setup:
    """What is trained, with what, on what."""

    options: Options
    model: Any
    classes: int
    normalise: Any
    fitted: Any
    held_out: Any
    test: Any
    loader: Any
    optimizer: Any
    schedule: Any

    @property
    def image(self) -> tuple[int, int, int]:
        """Shape (c, h, w) of the images."""
        c, h, w = self.test.images.shape[1:]
        return c, h, w

    @property
    def note(self) -> dict[str, Any]:
        """What the files of weights say of the network."""
        return networks.note(self.options.model, self.classes, self.image, self.normalise)


def _set_up(options: Options, device: str) -> _Setup:
    from .. import data

    as_dtype(options.precision)  # bfloat16 may lack a package: that is said before anything is written
    manual_seed(options.seed)
    splits = data.mnist(options.data, normalise=options.normalise)
    normalise = splits.train.normalise
    assert isinstance(normalise, data.Affine)  # every name in --normalise is one
    fitted, held_out = _split(splits.train, options)
    classes = splits.train.classes or 10
    with use_device("cpu"):  # the seed gives the same weights on every device
        model = networks.build(options.model, classes, splits.train.images.shape[1:])
    model.to(device)
    background = -normalise.zero / normalise.scale
    transform = data.transforms.digits(options.augment, fill=background) if options.augment else None
    loader = data.DataLoader(fitted, options.batch_size, shuffle=True, seed=options.seed, transform=transform)
    optimizer = _optimizer(model, options)
    schedule = _schedule(optimizer, options, len(loader))
    return _Setup(options, model, classes, normalise, fitted, held_out, splits.test, loader, optimizer, schedule)


def _train(options: Options, folder: Path, arguments: argparse.Namespace) -> int:
    from .. import data, nn, train
    from .console import output
    from .progress import TrainingDisplay, duration
    from .report import write_history

    started = time.perf_counter()
    console = output()
    setup = _set_up(options, arguments.device)
    validation = data.DataLoader(setup.held_out, 500) if setup.held_out is not None else None
    monitor = "val_accuracy" if validation is not None else None
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "options.json", json.dumps(asdict(options), indent=2) + "\n")
    write_text(folder / "summary.txt", f"{nn.summary(setup.model, (1, *setup.image))}\n")
    console.print(_introduction(setup))
    done = _done_before(folder) if arguments.resume is not None else []
    with _interruption(console) as stop, TrainingDisplay(console, monitor, done) as display, warnings.catch_warnings():
        # A loss that overflows ends the run with an error of its own, which says what to do.
        warnings.filterwarnings("ignore", "(overflow|invalid value|divide by zero) encountered", RuntimeWarning)
        history = train.fit(
            setup.model,
            setup.loader,
            optimizer=setup.optimizer,
            epochs=options.epochs,
            validation=validation,
            schedule=setup.schedule,
            schedule_every="step",
            stopping=train.EarlyStopping(options.patience, monitor) if monitor else None,
            checkpoint=folder / networks.CHECKPOINT,
            checkpoint_every=arguments.checkpoint_every,
            resume=arguments.resume is not None,
            note=setup.note,
            on_step=display.on_step,
            on_epoch=display.on_epoch,
            should_stop=stop,
            precision=options.precision,
        )
    write_history(folder, history)
    if history.stopped == "interrupted":
        console.print(f"\nstopped. Go on with: tinygrad-cnn train --resume {folder}")
        return 130
    console.print(_ending(history, duration(time.perf_counter() - started)))
    _finish(console, folder, setup, history, pictures=not arguments.no_pictures)
    return 0


def _finish(console: Any, folder: Path, setup: _Setup, history: Any, pictures: bool) -> None:
    """Test the trained network, and write what there is to say of it."""
    from .. import data, train
    from .report import print_evaluation, write_mistakes, write_result

    metadata = {"network": json.dumps(setup.note)}
    train.save_state_dict_file(folder / networks.WEIGHTS, setup.model.state_dict(), metadata)
    result = train.evaluate(setup.model, data.DataLoader(setup.test, 500))
    print_evaluation(console, result)
    write_result(folder, result)
    write_mistakes(folder, result)
    if pictures:
        _pictures(console, folder, history, setup.test.images, result)
    console.print(f"\nall of it is in {folder}/")
    console.print(f"look further: tinygrad-cnn show features {folder}", style="dim")


def _done_before(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of the epochs that a run to be resumed has behind it."""
    from ..train import load_checkpoint

    checkpoint = folder / networks.CHECKPOINT
    return list(load_checkpoint(checkpoint).get("history", [])) if checkpoint.exists() else []


def _split(whole: Any, options: Options) -> tuple[Any, Any]:
    """Return the training images to fit, and those held out for early stopping, or None."""
    from .. import data

    if options.limit is not None:
        whole = data.Subset(whole, range(min(options.limit, len(whole))))
    held_out = min(5000, len(whole) // 10) if options.validation is None else options.validation
    if held_out >= len(whole):
        raise OptionError(f"--validation {held_out} leaves nothing to train on: there are {len(whole)} images")
    if not held_out:
        return whole, None
    fitted, validation = data.random_split(whole, [len(whole) - held_out, held_out], seed=options.seed)
    return fitted, validation


def _optimizer(model: Any, options: Options) -> Any:
    from .. import optim

    kinds = {
        "adam": optim.Adam,
        "adamw": optim.AdamW,
        "sgd": optim.SGD,
        "rmsprop": optim.RMSprop,
        "adagrad": optim.Adagrad,
        "adadelta": optim.Adadelta,
    }
    more = {"momentum": 0.9, "nesterov": True} if options.optimizer == "sgd" else {}
    return kinds[options.optimizer](model.parameters(), lr=options.lr, weight_decay=options.weight_decay, **more)


def _schedule(optimizer: Any, options: Options, steps: int) -> Any:
    if options.schedule == "constant":
        return None
    from ..optim import lr_scheduler

    total = steps * options.epochs
    if options.schedule == "cosine":
        return lr_scheduler.CosineAnnealingLR(optimizer, total)
    momentum = "betas" in optimizer.defaults or bool(optimizer.defaults.get("momentum"))
    return lr_scheduler.OneCycleLR(optimizer, options.lr, total_steps=total, cycle_momentum=momentum)


def _introduction(setup: _Setup) -> Any:
    from rich.text import Text

    from .report import grouped

    options = setup.options
    parameters = sum(p.size for p in setup.model.parameters())
    held = grouped(len(setup.held_out)) if setup.held_out is not None else "0"
    text = Text()
    text.append(options.model, style="bold")
    text.append(
        f", {grouped(parameters)} parameters, on {options.data or 'MNIST'}: "
        f"{grouped(len(setup.fitted))} images to train on, {held} to validate\n"
        f"{options.optimizer}, learning rate {options.lr:g} ({options.schedule}), batches of {options.batch_size}, "
        f"at most {options.epochs} epochs, seed {options.seed}"
    )
    if options.augment:
        text.append(f", images distorted (strength {options.augment:g})")
    if options.precision != "float32":
        scaled = ", scaled loss" if options.precision == "float16" else ""
        text.append(f", mixed precision ({options.precision}{scaled})")
    text.append("\n")
    return text


def _ending(history: Any, time_taken: str) -> str:
    count = len(history)
    how = f"stopped early after epoch {count}" if history.stopped == "early stopping" else f"{count} epochs done"
    best = f", weights of the best one, {history.best_epoch}, restored" if history.best_epoch else ""
    return f"\n{how} in {time_taken}{best}\n"


def _pictures(console: Any, folder: Path, history: Any, images: Any, result: Any) -> None:
    from ..viz import at_work

    try:
        for form in ("png", "svg"):
            at_work.curves(history).save(folder / f"curves.{form}")
        at_work.confusion(result).save(folder / "confusion.png")
        at_work.mistakes(images, result).save(folder / "mistakes.png")
    except MissingExtraError as error:
        console.print(f"\nno pictures: {error}", style="dim")


@contextmanager
def _interruption(console: Any) -> Iterator[Any]:
    """Let a first Ctrl-C (or SIGTERM) ask for an end after the current step, and a second one end at once."""
    asked = False

    def ask(number: int, frame: Any) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        console.print("stopping after this step; once more to stop at once")

    signals = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, ask) for number in signals}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
