"""`tinygrad-cnn gradcheck FILE.py[:function]`: check the gradient rules in a file of one's own."""

from __future__ import annotations

import argparse
import ast
import json
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import OptionError
from ..op import TABLE, Op
from .bank import for_op
from .check import check_pair
from .mistakes import Mistake
from .report import Report
from .tensors import gradcheck, gradgradcheck

__all__ = ["command"]

DESCRIPTION = """\
Compare the gradient rules in FILE.py with numerical derivatives, and say what is wrong with them, where, and why.

A pair of plain NumPy functions is recognised by its names:

    def scale(x, w): return x * w.sum()                       the function
    def scale_backward(dout, x, w): return ..., ...           its rule: one gradient per input
    def scale_args(rng): return rng.normal(size=(3, 4)), rng.normal(size=2)      inputs to try it on

"forward" and "backward" alone are a pair too. In place of scale_args, --shape gives random inputs of a shape.
An op (@op with @vjp and @sample) is tried on its samples, second derivatives included.
"""


@dataclass(frozen=True)
class Target:
    """Something to be checked: an op, or a pair of functions."""

    name: str
    op: Op | None = None
    forward: Callable[..., Any] | None = None
    backward: Callable[..., Any] | None = None
    args: Any = None


def command(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], int]:
    """Add the options of `tinygrad-cnn gradcheck` and return what runs it."""
    parser.description = DESCRIPTION
    parser.usage = "%(prog)s FILE.py[:NAME] [options]"
    parser.add_argument("file", metavar="FILE.py[:NAME]", help="the file, and which rule in it; all if not named")
    parser.add_argument(
        "--shape", action="append", metavar="x=3,4", help="shape of an input drawn at random; repeatable"
    )
    parser.add_argument("--option", action="append", metavar="stride=2", help="a keyword argument; repeatable")
    parser.add_argument("--wrt", metavar="x,w", help="inputs whose gradients are checked (default: all arrays)")
    parser.add_argument("--cases", type=int, default=3, help="at how many random points")
    parser.add_argument("--mode", choices=["auto", "screen", "full", "rows"], default="auto", help="how thoroughly")
    parser.add_argument(
        "--convention", metavar="NAME", help="demand left, right, average, first, last or split at kinks"
    )
    parser.add_argument(
        "--explain", choices=["symptom", "location", "cause"], default="cause", help="how much to tell about an error"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the random numbers; repeats a check")
    parser.add_argument("--json", action="store_true", help="print the reports as JSON")
    parser.add_argument("--html", metavar="FILE", help="write the reports with heat maps of the errors as a page")
    return run


def run(arguments: argparse.Namespace) -> int:
    """Check what was asked for; 0 if everything is right, 1 if something is wrong."""
    path, _, name = arguments.file.partition(":") if not Path(arguments.file).exists() else (arguments.file, "", "")
    targets = list(find(load(Path(path)), name))
    if not targets:
        what = f"nothing called {name!r}" if name else "no pair like f and f_backward, and no op"
        raise OptionError(f"{path}: there is {what} to check; see tinygrad-cnn gradcheck --help")
    reports = [report for target in targets for report in check(target, arguments, path)]
    if arguments.json:
        print(json.dumps([report.as_dict() for report in reports], indent=2))
    else:
        print("\n\n".join(report.text(arguments.explain) for report in reports))
    if arguments.html:
        _write_page(Path(arguments.html), reports, path)
        print(f"\npage: {arguments.html}", file=sys.stderr)
    return 0 if all(reports) else 1


def load(path: Path) -> types.ModuleType:
    """Run a file as a module of its own."""
    if not path.is_file():
        raise OptionError(f"there is no file {str(path)!r}")
    module = types.ModuleType(path.stem)
    module.__file__ = str(path)
    sys.modules[path.stem] = module
    before = set(TABLE)
    try:
        sys.path.insert(0, str(path.resolve().parent))
        exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), module.__dict__)
    except SyntaxError as error:
        raise OptionError(f"{path}, line {error.lineno}: {error.msg}") from error
    finally:
        sys.path.pop(0)
    module.__dict__["__ops__"] = [TABLE[n] for n in TABLE if n not in before]
    return module


def find(module: types.ModuleType, name: str = "") -> Iterator[Target]:
    """The ops and pairs of functions in a module, or the one of this name."""
    space = vars(module)
    for op in space["__ops__"]:
        if name in ("", op.name):
            yield Target(op.name, op=op)
    for key, backward in list(space.items()):
        if not callable(backward) or isinstance(backward, Op) or not isinstance(key, str):
            continue
        stem = _stem(key)
        if stem is None or name not in ("", key, stem, f"{stem}_forward"):
            continue
        forward = next((space[n] for n in _forwards(stem) if callable(space.get(n))), None)
        if forward is None:
            if name:
                raise OptionError(
                    f"{key} is a rule, but its function is missing: define {' or '.join(_forwards(stem))}"
                )
            continue
        candidates = (
            [f"{stem}_args", f"{stem}_sample", f"args_{stem}", "args", "sample"] if stem else ["args", "sample"]
        )
        args = next((space[n] for n in candidates if n in space), None)
        title = stem or "backward"
        yield Target(title, forward=getattr(forward, "forward", forward), backward=backward, args=args)


def _stem(key: str) -> str | None:
    """The name of the function whose rule `key` is, "" for a bare `backward`; None if it is no rule."""
    if key in ("backward", "vjp"):
        return ""
    for ending in ("_backward", "_vjp", "_grad"):
        if key.endswith(ending) and key != ending:
            return key[: -len(ending)]
    return key[len("backward_") :] if key.startswith("backward_") else None


def _forwards(stem: str) -> list[str]:
    return [stem, f"{stem}_forward", f"forward_{stem}"] if stem else ["forward", "f"]


def check(target: Target, arguments: argparse.Namespace, path: str) -> Iterator[Report]:
    """Check one target; an op gives one report for all of its samples and one for second derivatives."""
    replay = f"repeat: tinygrad-cnn gradcheck {path}:{target.name} --seed {arguments.seed}{_given(arguments)}"
    if target.op is not None:
        yield from _check_op(target.op, arguments, replay)
        return
    options = dict(_pair(text, "--option") for text in arguments.option or ())
    options = {key: _literal(value) for key, value in options.items()}
    names, args = _arguments(target, arguments, options)
    report = check_pair(
        _required(target.forward),
        _required(target.backward),
        args,
        options=options,
        wrt=arguments.wrt.split(",") if arguments.wrt else None,
        names=names,
        mistakes=_known_mistakes(target, args, options, arguments.seed),
        cases=arguments.cases,
        mode=arguments.mode,
        kinks="strict" if arguments.convention else "name",
        convention=arguments.convention,
        seed=arguments.seed,
        name=target.name,
    )
    report.replay = replay
    yield report


def _given(arguments: argparse.Namespace) -> str:
    """The options that decide what is checked, as they were written."""
    words = [f"--shape {text}" for text in arguments.shape or ()]
    words += [f"--option {text}" for text in arguments.option or ()]
    words += [f"--wrt {arguments.wrt}"] if arguments.wrt else []
    words += [f"--convention {arguments.convention}"] if arguments.convention else []
    return "".join(f" {word}" for word in words)


def _known_mistakes(target: Target, args: Any, options: dict[str, Any], seed: int) -> tuple[Mistake, ...]:
    """The mistakes known for the op of this name, if the function computes what the op computes."""
    mistakes = for_op(target.name)
    if not mistakes or target.name not in TABLE:
        return mistakes
    given = args(np.random.default_rng(seed)) if callable(args) else args
    try:
        theirs = np.asarray(_required(target.forward)(*given, **options))
        ours = np.asarray(TABLE[target.name].forward(np, *given, **options))
    except Exception:
        return ()  # called in another way, as x @ w where the op has x @ w.T
    return mistakes if theirs.shape == ours.shape and np.allclose(theirs, ours) else ()


def _required(function: Callable[..., Any] | None) -> Callable[..., Any]:
    assert function is not None
    return function


def _check_op(op: Op, arguments: argparse.Namespace, replay: str) -> Iterator[Report]:
    if op.samples is None:
        raise OptionError(f"op {op.name} has no samples to try it on: add @{op.name}.sample")
    for second in (False, True):
        together = Report(f"{op.name}{', second derivatives' if second else ''}", seed=arguments.seed, replay=replay)
        for number, (args, options) in enumerate(op.samples(np.random.default_rng(arguments.seed))):
            wrt = [
                i
                for i, a in enumerate(args)
                if isinstance(a, np.ndarray) and a.dtype.kind == "f" and a.size and op.rule(i) is not None
            ]
            if not wrt:
                continue
            if second:
                report = gradgradcheck(op, args, options=options, wrt=wrt, seed=arguments.seed)
            else:
                report = gradcheck(op, args, options=options, wrt=wrt, seed=arguments.seed, mode=arguments.mode)
            for part in report.parts:
                part.case = number
            together.parts += report.parts
            together.findings += report.findings
            if not report:
                break
        yield together
        if not together:
            return


_BY_PLACE = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)


def _arguments(target: Target, arguments: argparse.Namespace, options: dict[str, Any]) -> tuple[list[str] | None, Any]:
    if arguments.shape:
        shapes = dict(_pair(text, "--shape") for text in arguments.shape or ())
        sizes = {key: _shape(value) for key, value in shapes.items()}
        parameters = signature(_required(target.forward)).parameters.values()
        wanted = [p.name for p in parameters if p.name in sizes]
        sizes = {name: sizes[name] for name in wanted} or sizes
        missing = [p.name for p in parameters if p.default is p.empty and p.kind in _BY_PLACE and p.name not in sizes]
        missing = [name for name in missing if name not in options]
        if missing:
            raise OptionError(
                f"{target.name}: --shape says nothing about {' and '.join(missing)}; give one --shape for each input, "
                "or name the rule to check as FILE.py:NAME"
            )

        def draw(rng: np.random.Generator) -> tuple[Any, ...]:
            return tuple(rng.normal(size=size) for size in sizes.values())

        return list(sizes), draw
    if target.args is None:
        raise OptionError(
            f"{target.name}: nothing says what to call it with; give --shape x=3,4 for each input, or define "
            f"{target.name}_args(rng) in the file"
        )
    if not callable(target.args):
        return None, target.args

    def drawn(rng: np.random.Generator) -> Any:
        try:
            return target.args(rng)
        except TypeError:
            return target.args()

    return None, drawn


def _pair(text: str, option: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key.isidentifier():
        raise OptionError(f"{option} {text}: write name=value")
    return key, value


def _shape(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(n) for n in text.replace("x", ",").split(",") if n.strip())
    except ValueError as error:
        raise OptionError(f"--shape: {text!r} is no shape; write sizes like 3,4") from error


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _write_page(path: Path, reports: list[Report], title: str) -> None:
    from html import escape

    from ..files import write_text

    body = "\n".join(f"<section>{report._repr_html_()}</section>" for report in reports)
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>gradient check of {escape(title)}</title>'
        "<style>:root{color-scheme:light dark}body{font:15px/1.4 system-ui;margin:2rem;max-width:60rem}"
        f"pre{{overflow:auto}}</style>\n<h1>Gradient check of {escape(title)}</h1>\n{body}\n</html>\n"
    )
    write_text(path, page)
