"""From the words on the command line to the module that does the work, and from errors to messages."""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import NamedTuple, NoReturn

from ..errors import TinygradError

__all__ = ["COMMANDS", "Command", "Formatter", "Run", "main"]

# Does the work, and returns the exit code; None is 0.
Run = Callable[[argparse.Namespace], int | None]


class Command(NamedTuple):
    """One subcommand.

    Attributes:
        name: the word on the command line.
        target: "module:function", relative to this package. `function(parser)` adds the options to an
            `ArgumentParser` and returns what runs: `run(arguments) -> exit code`. The module is imported only when
            the command is used, so `tinygrad-cnn --help` starts at once.
        help: one line.
        group: the heading it stands under in the help.
    """

    name: str
    target: str
    help: str
    group: str


# To add a command, add its row here.
COMMANDS = [
    Command("train", ".training:command", "train a network on MNIST or a folder of IDX files", "Train"),
    Command("evaluate", ".evaluation:command", "test accuracy and confusion matrix of a trained network", "Train"),
    Command("predict", ".prediction:command", "read the digits in image files", "Train"),
    Command("summary", ".summary:command", "layers, shapes, parameters and cost of a network", "Look"),
    Command("draw", ".drawing:command", "the graph of a network, forward and backward, as a picture or page", "Look"),
    Command("show", ".showing:command", "a trained network at work: filters, feature maps, mistakes", "Look"),
    Command("info", ".info:command", "versions, devices and libraries on this machine", "Look"),
    Command(
        "gradcheck", "..gradcheck.commands:command", "check the gradient rules in a file and name the mistake", "Learn"
    ),
    Command("ex", "..exercises.commands:command", "exercises: write a gradient, learn what is wrong with it", "Learn"),
]

DESCRIPTION = "Understand, see and check how a convolutional network learns."


class Formatter(argparse.RawDescriptionHelpFormatter):
    """Help in 100 columns, every option on a line with its default."""

    def __init__(self, prog: str) -> None:
        columns = int(os.environ.get("COLUMNS") or 0) or _columns()
        super().__init__(prog, max_help_position=30, width=max(60, min(columns, 100)) - 2)

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        silent = action.default in (None, False, argparse.SUPPRESS) or "%(default)" in text or not action.option_strings
        return text if silent else f"{text} [default: %(default)s]"


def _columns() -> int:
    try:
        return os.get_terminal_size().columns
    except OSError:
        return 80


def main(argv: Sequence[str] | None = None) -> int:
    """Run `tinygrad-cnn` with these words (default: the command line's) and return the exit code.

    0 is success, 1 an error that was explained, 2 a wrong command line, 130 an interruption.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(words) or 0
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else (0 if stop.code is None else 1)
    except KeyboardInterrupt:
        return _say("interrupted", 130)
    except BrokenPipeError:  # the reader, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (TinygradError, OSError) as error:
        if os.environ.get("TINYGRAD_CNN_DEBUG"):
            raise
        return _say(f"error: {_message(error)}", 1)


def _run(words: list[str]) -> int | None:
    by_name = {command.name: command for command in COMMANDS}
    if not words or words[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0
    if words[0] in ("-V", "--version"):
        from .. import __version__

        print(f"tinygrad-cnn {__version__}")
        return 0
    command = by_name.get(words[0])
    if command is None:
        _unknown(words[0], list(by_name))
    module, _, function = command.target.partition(":")
    parser = argparse.ArgumentParser(
        prog=f"tinygrad-cnn {command.name}", usage="%(prog)s [options]", formatter_class=Formatter, allow_abbrev=False
    )
    run: Run = getattr(import_module(module, __package__), function)(parser)
    if parser.description is None:
        parser.description = command.help[0].upper() + command.help[1:] + "."
    return run(parser.parse_args(words[1:]))


def _overview() -> str:
    lines = [DESCRIPTION, "", "usage: tinygrad-cnn COMMAND [options]", ""]
    width = max(len(command.name) for command in COMMANDS) + 2
    for group in dict.fromkeys(command.group for command in COMMANDS):
        lines += [f"{group}:", *(f"  {c.name:<{width}}{c.help}" for c in COMMANDS if c.group == group), ""]
    lines += [
        "tinygrad-cnn COMMAND --help explains the options of a command with their defaults;",
        "tinygrad-cnn train needs none: it trains LeNet-5 on the digits that come with the package.",
    ]
    return "\n".join(lines)


def _unknown(word: str, known: list[str]) -> NoReturn:
    near = difflib.get_close_matches(word, known, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"the commands are {', '.join(known)}"
    _say(f"error: there is no command {word!r}; {hint}", 2)
    raise SystemExit(2)


def _message(error: BaseException) -> str:
    if isinstance(error, OSError) and not isinstance(error, TinygradError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


def _say(text: str, code: int) -> int:
    print(text, file=sys.stderr)
    return code
