"""`tinygrad-cnn ex ...`: the exercises in a terminal.

Exit codes: 0 passed, 1 failed, 2 wrong usage, 3 the student's code crashed or timed out, 4 an error of the kit.
"""

from __future__ import annotations

import argparse
import difflib
import io
import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from . import kit
from .format import EXPLAIN, Exercise, ExerciseError, read
from .result import Result

__all__ = ["command", "main"]

OK, FAILED, USAGE, CRASHED, KIT_ERROR = 0, 1, 2, 3, 4
CONFIRMATIONS = 5


class UsageError(Exception):
    """The command cannot do what was asked; the text says what to do instead."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand and return the exit code."""
    parser = argparse.ArgumentParser(prog="tinygrad-cnn ex")
    run = command(parser)
    try:
        return run(parser.parse_args(argv))
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else USAGE


def _guarded(options: argparse.Namespace) -> int:
    """Run what was asked for, and turn errors into messages and exit codes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that lacks a letter must not end in a traceback
    try:
        run: Callable[[argparse.Namespace], int] = options.run
        return run(options)
    except (UsageError, ExerciseError) as error:
        print(error, file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader went away
        return OK
    except Exception:
        traceback.print_exc()
        print("This is an error of the exercise kit, not of your code.", file=sys.stderr)
        return KIT_ERROR


def command(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], int]:
    """Add all subcommands to `parser` and return what runs them."""
    parser.description = "Exercises: write a gradient, and learn what is wrong with it."
    parser.epilog = "Start with: tinygrad-cnn ex init"
    parser.set_defaults(run=_welcome, dir=None)
    commands = parser.add_subparsers(title="subcommands", metavar="COMMAND", prog=parser.prog)

    def subcommand(name: str, run: Callable[[argparse.Namespace], int], help: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help, description=help)
        sub.set_defaults(run=run)
        sub.add_argument("--dir", type=Path, default=None, help="the folder with your exercises (default: found)")
        return sub

    one = subcommand("init", _init, "write all exercises into a folder")
    one.add_argument("folder", nargs="?", type=Path, default=None)
    one = subcommand("list", _list, "list the exercises and where you stand")
    one.add_argument("--topic", help="only those about this")
    one.add_argument("--json", action="store_true")
    one = subcommand("check", _check, "check your solution of the current exercise, or of those named")
    one.add_argument("exercises", nargs="*", metavar="ID")
    one.add_argument("--all", action="store_true", help="every exercise in the folder")
    one.add_argument("--full", action="store_true", help="more random cases")
    one.add_argument("--seed", type=int, help="repeat the cases of a report")
    one.add_argument("--json", action="store_true")
    one.add_argument("--explain", choices=EXPLAIN, help="how much to tell (default: cause)")
    one = subcommand("watch", _watch, "check again after each save; keys h e l n x q")
    one.add_argument("exercises", nargs="?", metavar="ID")
    one.add_argument("--interval", type=float, default=0.3, help="seconds between two looks at the files")
    one = subcommand("hint", _hint, "show the hints so far; --next shows one more")
    one.add_argument("exercises", nargs="?", metavar="ID")
    one.add_argument("--next", action="store_true", dest="more")
    subcommand("progress", _progress, "show what is done")
    one = subcommand("solution", _solution, "show the reference solution, once you passed or tried five times")
    one.add_argument("exercises", metavar="ID")
    one.add_argument("--yes", action="store_true", help="do not ask")
    one = subcommand("reset", _reset, "start an exercise afresh; your file is kept as .bak")
    one.add_argument("exercises", metavar="ID")
    one.add_argument("--yes", action="store_true", help="do not ask")
    one = subcommand("diff", _diff, "compare your file with the starting point, or after passing with the solution")
    one.add_argument("exercises", metavar="ID")
    one = subcommand("export", _export, "check everything and write a report, or write notebooks")
    one.add_argument("exercises", nargs="*", metavar="ID")
    one.add_argument("--format", choices=("json", "junit", "gradescope", "csv", "ipynb", "html"), default="json")
    one.add_argument("--out", type=Path, default=None, help="file or, for notebooks, folder (default: print)")
    one.add_argument(
        "--anonymous", action="store_true", help="only wrong code and its causes, for whoever makes exercises"
    )
    one = subcommand("new", _new, "teachers: write the skeleton of an exercise")
    one.add_argument("id", metavar="ID")
    one = subcommand("build", _build, "teachers: verify an exercise file and write student, solution and hidden part")
    one.add_argument("file", type=Path)
    one.add_argument("--out", type=Path, default=Path("."))
    one.add_argument("--nbgrader", action="store_true", help="also write a notebook for nbgrader")
    one.add_argument("--otter", action="store_true", help="also write a test file for otter-grader")
    one = subcommand("verify", _verify, "teachers: do starters fail, solutions pass, mistakes get named?")
    one.add_argument("folder", nargs="?", type=Path, help="default: the exercises of the package")
    one.add_argument("--seeds", type=int, default=1, help="number of seeds")
    one.add_argument("--quick", action="store_true", help="without numerical derivatives of the solutions")
    one = subcommand("grade", _grade, "teachers: grade a folder of submissions")
    one.add_argument("folder", type=Path)
    one.add_argument("--out", type=Path, default=Path("results"))
    one.add_argument("--jobs", type=int, default=2)
    one.add_argument("--kit", type=Path, help="a folder with your own exercise files")
    one.add_argument("--exercise", action="append", metavar="ID", help="only this one (may be repeated)")
    one.add_argument("--secret", type=Path, help="a file with the secret of the course, for per-student seeds")
    one.add_argument("--again", action="store_true", help="also grade what has not changed since the last time")
    one.add_argument(
        "--gradescope", type=Path, metavar="FILE", help="the folder is one student's; write results.json here"
    )
    one = subcommand("gradescope", _gradescope, "teachers: make an autograder for Gradescope")
    one.add_argument("exercises", nargs="+", metavar="ID")
    one.add_argument("--out", type=Path, default=Path("autograder.zip"))
    one.add_argument("--kit", type=Path, help="a folder with your own exercise files")
    one.add_argument("--wheel", type=Path, help="install this wheel instead of downloading the package")
    return _guarded


# ------------------------------------------------------------------------------------------------- shared


def _colour() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _folder(options: argparse.Namespace) -> Path:
    from .workbook import find_folder

    if options.dir is not None:
        if not options.dir.is_dir():
            raise UsageError(f"{options.dir} is not a folder")
        return Path(options.dir)
    folder = find_folder()
    if folder is None:
        raise UsageError("there are no exercises here yet; write them with\n\n    tinygrad-cnn ex init\n")
    return folder


def _chosen(options: argparse.Namespace, folder: Path) -> Exercise:
    """The exercise that was named, or the current one."""
    from .state import State
    from .workbook import next_open

    if options.exercises:
        return _named(options.exercises)
    state = State.load(folder)
    if state.current and not state.passed(state.current):
        try:
            return kit.find(state.current)
        except ExerciseError:
            pass  # a state file from another version
    found = next_open(state, state.current)
    if found is None:
        raise UsageError("all exercises are done; name one to look at it again")
    return found


def _named(name: str) -> Exercise:
    from .workbook import exercise_id

    path = Path(name)
    if path.suffix == ".py" and path.is_file():
        name = exercise_id(path) or name
    return kit.find(name)


def _ask(question: str, yes: bool) -> bool:
    if yes:
        return True
    if not sys.stdin.isatty():
        raise UsageError(f"{question}\nNobody can answer here; repeat the command with --yes")
    return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")


def _code(results: Sequence[Result]) -> int:
    statuses = {r.status for r in results}
    return CRASHED if statuses & {"error", "timeout"} else FAILED if "fail" in statuses else OK


# ------------------------------------------------------------------------------------------------- students


def _welcome(options: argparse.Namespace) -> int:
    from .state import State
    from .workbook import find_folder

    folder = find_folder()
    if folder is None:
        print("Exercises: write a gradient, and learn what is wrong with it.\n")
        print("    tinygrad-cnn ex init      writes the exercises into ./tinygrad-exercises")
        print("    tinygrad-cnn ex list      shows which there are")
        print("    tinygrad-cnn ex --help    shows all commands")
        return OK
    options.exercises = ""
    state = State.load(folder)
    done = sum(state.passed(e.id) for e in kit.catalogue())
    current = _chosen(options, folder)
    print(f"{done} of {len(kit.catalogue())} done. Now: {current.id}, {current.title}\n")
    print(f"    edit  {_shown(folder / current.filename)}")
    print("    then  tinygrad-cnn ex check     (or keep tinygrad-cnn ex watch open)")
    return OK


def _shown(path: Path) -> str:
    try:
        return os.path.relpath(path)
    except ValueError:  # another drive
        return str(path)


def _init(options: argparse.Namespace) -> int:
    from .workbook import DEFAULT_FOLDER, init

    folder = options.folder or options.dir or Path(DEFAULT_FOLDER)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; name another folder")
    every = kit.catalogue()
    written, kept = init(folder, every)
    print(
        f"{len(written)} exercises written to {_shown(folder)}" + (f", {len(kept)} left as they were" if kept else "")
    )
    print(f"\n    1.  open {_shown(folder / every[0].filename)} in your editor and follow its text")
    print("    2.  tinygrad-cnn ex check")
    print("\nStuck? tinygrad-cnn ex hint")
    return OK


def _list(options: argparse.Namespace) -> int:
    from .state import State
    from .workbook import find_folder

    folder = options.dir or find_folder()
    state = State.load(folder) if folder else None
    every = [
        e for e in kit.catalogue() if not options.topic or any(options.topic.lower() in t.lower() for t in e.topics)
    ]
    if not every:
        topics = sorted({t for e in kit.catalogue() for t in e.topics})
        raise UsageError(f"no exercise is about {options.topic!r}; topics are {', '.join(topics)}")
    if options.json:
        rows = [{"id": e.id, "title": e.title, "topics": e.topics, "points": e.points, "requires": e.requires,
                 "done": bool(state and state.passed(e.id))} for e in every]  # fmt: skip
        print(json.dumps(rows, indent=1))
        return OK
    group = ""
    for exercise in every:
        if exercise.group != group:
            group = exercise.group
            print(f"{group}  {kit.GROUPS.get(group, '')}")
        mark = "x" if state and state.passed(exercise.id) else " "
        now = "  <- now" if state and state.current == exercise.id and mark == " " else ""
        print(f"  [{mark}] {exercise.key:<4} {exercise.title[:58]}{now}")
    return OK


def _check(options: argparse.Namespace) -> int:
    from .workbook import attempt, check_path, next_open, student_file

    folder = _folder(options) if options.all or not _only_files(options.exercises) else Path.cwd()
    if options.all:
        chosen = [(e, folder / e.filename) for e in kit.catalogue() if (folder / e.filename).exists()]
    elif options.exercises:
        chosen = []
        for name in options.exercises:
            exercise = _named(name)
            is_file = name.endswith(".py") and Path(name).is_file()
            chosen.append((exercise, Path(name) if is_file else student_file(folder, exercise)))
    else:
        exercise = _chosen(argparse.Namespace(exercises=""), folder)
        chosen = [(exercise, student_file(folder, exercise))]
    results = []
    for number, (exercise, path) in enumerate(chosen):
        result = check_path(exercise, path, seed=options.seed, full=options.full, explain=options.explain)
        results.append(result)
        home = path.parent if path.parent.joinpath(".tinygrad-ex.json").exists() else None
        state = None
        if home is not None:
            state = attempt(home, exercise, path, result)
            if state.current != exercise.id and not options.all:
                state.current = exercise.id
                state.save()
        if options.json:
            continue
        if number and len(chosen) > 1:
            print()
        print(_report(result, options))
        if result and state is not None and len(chosen) == 1:
            following = next_open(state, exercise.id)
            print(f"  next: {following.id}, {following.title}" if following else "  That was the last one. All done!")
            if following:
                state.current = following.id
                state.save()
    if options.json:
        data = [r.to_json() for r in results]
        print(json.dumps(data[0] if len(data) == 1 else data, indent=1))
    elif len(results) > 1:
        print(f"\n{sum(map(bool, results))} of {len(results)} passed")
    return _code(results)


def _only_files(names: Sequence[str]) -> bool:
    return bool(names) and all(n.endswith(".py") and Path(n).is_file() for n in names)


def _report(result: Result, options: argparse.Namespace) -> str:
    from .report import text

    return text(result, _colour())


def _watch(options: argparse.Namespace) -> int:
    from .watch import watch

    folder = _folder(options)
    return watch(folder, _chosen(options, folder), options.interval, _colour())


def _hint(options: argparse.Namespace) -> int:
    from .hints import next_hint, shown_hints
    from .state import State

    folder = _folder(options)
    exercise = _chosen(options, folder)
    state = State.load(folder)
    if options.more or not state.entry(exercise.id).hints:
        refusal = next_hint(state, exercise)
        state.save()
    else:
        refusal = ""
    for line in shown_hints(state, exercise):
        print(line)
    if refusal:
        print(refusal)
    return OK


def _progress(options: argparse.Namespace) -> int:
    from .state import State

    state = State.load(_folder(options))
    if state.damaged:
        print(state.damaged, file=sys.stderr)
    every = kit.catalogue()
    for group, title in kit.GROUPS.items():
        inside = [e for e in every if e.group == group]
        if inside:
            done = sum(state.passed(e.id) for e in inside)
            print(f"{group}  {title:<26} [{'#' * done}{'.' * (len(inside) - done)}] {done} of {len(inside)}")
    done_points = sum(e.points for e in every if state.passed(e.id))
    print(f"\n{sum(state.passed(e.id) for e in every)} of {len(every)} exercises, "
          f"{done_points:g} of {sum(e.points for e in every):g} points")  # fmt: skip
    return OK


def _solution(options: argparse.Namespace) -> int:
    from .build import solution_text
    from .state import State

    folder = _folder(options)
    exercise = _named(options.exercises)
    state = State.load(folder)
    entry = state.entry(exercise.id)
    if not state.passed(exercise.id) and not entry.solution_shown:
        if entry.attempts < CONFIRMATIONS:
            left = CONFIRMATIONS - entry.attempts
            print(f"Not yet: the solution opens once you pass, or after {left} more different attempts.")
            print(f"tinygrad-cnn ex hint {exercise.key} --next helps on the way.")
            return FAILED
        if not _ask(f"Show the solution of {exercise.id}? This is recorded in your progress.", options.yes):
            return FAILED
    entry.solution_shown = entry.solution_shown or not state.passed(exercise.id)
    state.save()
    print(solution_text(exercise))
    return OK


def _reset(options: argparse.Namespace) -> int:
    from .build import student_text
    from .files import write_atomic

    folder = _folder(options)
    exercise = _named(options.exercises)
    path = folder / exercise.filename
    if path.exists():
        if not _ask(f"Replace {path.name} by the starting point? Your text is kept as {path.name}.bak", options.yes):
            return FAILED
        write_atomic(path.with_name(path.name + ".bak"), path.read_text(encoding="utf-8", errors="replace"))
    write_atomic(path, student_text(exercise))
    print(f"{_shown(path)} is as it was at the start")
    return OK


def _diff(options: argparse.Namespace) -> int:
    from .build import solution_text, student_text
    from .state import State
    from .workbook import student_file

    folder = _folder(options)
    exercise = _named(options.exercises)
    path = student_file(folder, exercise)
    passed = State.load(folder).passed(exercise.id)
    other, label = (solution_text(exercise), "solution") if passed else (student_text(exercise), "starting point")
    mine = path.read_text(encoding="utf-8", errors="replace")
    lines = list(difflib.unified_diff(other.splitlines(), mine.splitlines(), label, "yours", lineterm="", n=2))
    print("\n".join(lines) if lines else f"no difference from the {label}")
    return OK


def _export(options: argparse.Namespace) -> int:
    from .export import export

    folder = _folder(options)
    chosen = [_named(n) for n in options.exercises] or [e for e in kit.catalogue() if (folder / e.filename).exists()]
    return export(folder, chosen, options.format, options.out, options.anonymous)


# ------------------------------------------------------------------------------------------------- teachers


def _new(options: argparse.Namespace) -> int:
    from .files import write_atomic
    from .format import parse

    path = Path(f"{options.id}.py")
    if path.exists():
        raise UsageError(f"{path} is already there")
    template = (Path(__file__).parent / "docs" / "template.py.txt").read_text(encoding="utf-8")
    text = template.replace("ID", options.id, 1)
    parse(text, path)
    write_atomic(path, text)
    print(f"{path} written: it is a complete exercise on the cube root. Change it, then: tinygrad-cnn ex build {path}")
    return OK


def _build(options: argparse.Namespace) -> int:
    from .build import build

    exercise = read(options.file)
    try:
        written = build(exercise, options.out, options.nbgrader, options.otter)
    except ExerciseError as error:
        print(error, file=sys.stderr)
        return FAILED
    for path in written:
        print(_shown(path))
    return OK


def _verify(options: argparse.Namespace) -> int:
    from .build import verify

    if options.folder is not None and not options.folder.is_dir():
        raise UsageError(f"{options.folder} is not a folder")
    paths = kit.paths(options.folder)
    if not paths:
        raise UsageError(f"{options.folder} holds no exercise files (such as d4-conv-dx.py)")
    bad = 0
    totals = [0, 0]
    for path in paths:
        verdict = verify(read(path), tuple(range(1, options.seeds + 1)), derivatives=not options.quick)
        totals[0] += verdict.named
        totals[1] += verdict.bugs
        bad += not verdict
        print(f"{'ok  ' if verdict else 'FAIL'} {verdict.exercise:<28} {verdict.checks} checks, "
              f"{verdict.named} of {verdict.bugs} mistakes named, {verdict.hints} hints")  # fmt: skip
        for problem in verdict.problems:
            print(f"       {problem}")
    print(f"\n{len(paths) - bad} of {len(paths)} exercises are sound; {totals[0]} of {totals[1]} mistakes named")
    return FAILED if bad else OK


def _grade(options: argparse.Namespace) -> int:
    from .grade import grade

    exercises = kit.catalogue(options.kit)
    if options.exercise:
        exercises = [kit.find(name, options.kit) for name in options.exercise]
    if not exercises:
        raise UsageError(f"{options.kit} holds no exercise files (such as d4-conv-dx.py)")
    if options.gradescope is not None:
        from .gradescope import autograde

        autograde(options.folder, options.gradescope, exercises)
        return OK
    secret = options.secret.read_bytes().strip() if options.secret else None
    records = grade(
        options.folder,
        options.out,
        exercises,
        jobs=options.jobs,
        secret=secret,
        again=options.again,
        say=lambda words: print(words, flush=True),
        only_present=not options.exercise,
    )
    full = sum(r["score"] >= r["max"] > 0 for r in records)
    print(f"{len(records)} submissions, {full} with full score; see {_shown(options.out / 'class.html')}")
    return OK


def _gradescope(options: argparse.Namespace) -> int:
    from .gradescope import autograder_zip

    if options.wheel is not None and not options.wheel.is_file():
        raise UsageError(f"{options.wheel} is not there")
    chosen = [kit.find(name, options.kit) for name in options.exercises]
    autograder_zip(options.out, chosen, options.wheel)
    print(f"{_shown(options.out)}: upload it as the autograder of a programming assignment")
    return OK
