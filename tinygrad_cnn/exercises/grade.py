"""Grade a folder of submissions. Every submission runs in a child process; whatever it does, the batch goes on.

    submissions/
        alice/d4-conv-dx.py        one folder per student, scripts or notebooks,
        bob/d4-conv-dx.ipynb
        carol.py                   or one file per student

The reference solutions, the hidden checks and the scoring stay in this process. Results are written after each
student, so an interrupted batch goes on where it stopped.
"""

from __future__ import annotations

import ast
import hashlib
import hmac
import json
import secrets
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .checks import Loaded, load
from .files import write_atomic
from .format import Exercise, ExerciseError, header
from .report import csv_table, gradescope, junit
from .result import Result
from .runner import run
from .sandbox import ALLOWED, ChildSpace, Limits
from .space import StudentError

__all__ = ["Submission", "collect", "grade", "grade_one", "student_seed"]

MAX_BYTES = 2 * 2**20


@dataclass
class Submission:
    """What one student handed in: exercise id -> file."""

    student: str
    files: dict[str, Path] = field(default_factory=dict)
    strangers: list[Path] = field(default_factory=list)

    def digest(self) -> str:
        total = hashlib.sha256()
        for name, path in sorted(self.files.items()):
            total.update(name.encode() + b"\0" + path.read_bytes()[: MAX_BYTES + 1])
        return total.hexdigest()


def collect(folder: Path, exercises: Sequence[Exercise]) -> list[Submission]:
    """Find the submissions in a folder and which exercise each file belongs to."""
    if not folder.is_dir():
        raise ExerciseError(f"{folder} is not a folder of submissions")
    found = []
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith((".", "_")) or entry.is_symlink():
            continue
        if entry.is_dir():
            paths = sorted(p for p in entry.rglob("*") if p.suffix in (".py", ".ipynb") and _plain(p, entry))
        elif entry.suffix in (".py", ".ipynb"):
            paths = [entry]
        else:
            continue
        submission = Submission(entry.stem if entry.is_file() else entry.name)
        for path in paths:
            name = _belongs(path, exercises)
            if name is None:
                submission.strangers.append(path)
            elif name not in submission.files or path.suffix == ".py":
                submission.files[name] = path
        found.append(submission)
    return found


def _plain(path: Path, inside: Path) -> bool:
    """A regular file that is really inside the student's folder: links could point at the teacher's files."""
    try:
        return path.is_file() and not path.is_symlink() and path.resolve().is_relative_to(inside.resolve())
    except OSError:
        return False


def _belongs(path: Path, exercises: Sequence[Exercise]) -> str | None:
    try:
        text = path.read_bytes()[:MAX_BYTES].decode("utf-8", "replace")
        name = (
            json.loads(text)["metadata"]["tinygrad_ex"]["id"] if path.suffix == ".ipynb" else header(text)[0].get("id")
        )
    except (ExerciseError, OSError, ValueError, KeyError, TypeError):
        name = None
    for exercise in exercises:
        if name == exercise.id or path.stem.lower() in (exercise.id, exercise.key):
            return exercise.id
    return exercises[0].id if len(exercises) == 1 and name is None else None


def code_of(path: Path) -> str:
    """Return the code in a script or notebook; cells that only run the checks are left out."""
    if path.is_symlink() or path.stat().st_size > MAX_BYTES:
        raise StudentError("syntax", f"{path.name} is larger than {MAX_BYTES // 2**20} MB")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise StudentError("syntax", f"{path.name} is not UTF-8 text: {error}") from error
    if path.suffix != ".ipynb":
        return text
    try:
        cells = [c for c in json.loads(text)["cells"] if c["cell_type"] == "code"]
        sources = ["".join(c["source"]) for c in cells]
    except (ValueError, KeyError, TypeError) as error:
        raise StudentError("syntax", f"{path.name} is not a notebook: {error}") from error
    parts = []
    for source in sources:
        if "tinygrad_cnn.exercises" in source:
            continue
        lines = ["pass" if line.lstrip()[:1] in ("%", "!") else line for line in source.splitlines()]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def student_seed(secret: bytes, student: str, exercise: str) -> int:
    """Return a student's own seed: nobody without the course's secret can compute it."""
    digest = hmac.new(secret, f"{student}\0{exercise}".encode(), hashlib.sha256).digest()
    return int.from_bytes(digest[:4], "big")


def grade_one(
    loaded: Loaded, path: Path, *, seed: int, limits: Limits | None = None, explain: str | None = None
) -> Result:
    """Grade one file: public and hidden checks, in a child process. Never raises because of the submission."""
    exercise = loaded.exercise
    started = time.perf_counter()
    try:
        code = code_of(path)
        chosen = limits or _limits(exercise)
        with ChildSpace(code, path.name, chosen) as space:
            result = run(loaded, space, seed=seed, hidden=True, explain=explain)
    except StudentError as error:
        result = _failed(loaded, seed, "error", str(error), error.kind)
    except Exception as error:  # a mistake of the checks must not stop the batch either
        result = _failed(loaded, seed, "error", f"the checks failed: {type(error).__name__}: {error}"[:300], "kit")
    result.seconds = time.perf_counter() - started
    return result


def _limits(exercise: Exercise) -> Limits:
    wall, cpu, memory = (exercise.limits[k] for k in ("wall", "cpu", "mem_mb"))
    return Limits(wall, cpu, memory, allowed=ALLOWED, isolate=True, drop_user=True)


def _failed(loaded: Loaded, seed: int, status: str, text: str, kind: str) -> Result:
    exercise = loaded.exercise
    result = Result(exercise.id, exercise.title, status, 0.0, exercise.points, seed=seed, error=text, kind=kind)
    result.hidden_max = exercise.hidden_points if loaded.hidden else 0.0
    result.max += result.hidden_max
    result.layer = "load"
    return result


def grade(
    folder: Path,
    out: Path,
    exercises: Sequence[Exercise],
    *,
    jobs: int = 2,
    secret: bytes | None = None,
    again: bool = False,
    say: Callable[[str], None] = lambda words: None,
    only_present: bool = True,
) -> list[dict[str, Any]]:
    """Grade all submissions in `folder`; write results, tables and the class page to `out`.

    Args:
        jobs: how many submissions run at the same time.
        secret: of the course; by default one is made and kept in `out/secret.txt`.
        again: also grade what was graded before and has not changed.
        only_present: leave out exercises that nobody handed in.

    Returns:
        One record per student, as in `out/results/<student>.json`.
    """
    submissions = collect(folder, exercises)
    if not submissions:
        raise ExerciseError(f"{folder} holds no submissions: a folder or a .py or .ipynb file per student")
    if only_present:
        present = {name for s in submissions for name in s.files}
        exercises = [e for e in exercises if e.id in present]
        if not exercises:
            raise ExerciseError(
                f"no file in {folder} belongs to an exercise; the header's id or the file's name says which"
            )
    secret = secret or _secret(out / "secret.txt")
    loaded = [load(e, hidden=True) for e in exercises]
    records: dict[str, dict[str, Any]] = {}
    with ThreadPoolExecutor(max_workers=max(1, jobs)) as pool:
        waiting = {pool.submit(_student, s, loaded, secret, out, again): s for s in submissions}
        for number, future in enumerate(as_completed(waiting), 1):
            submission = waiting[future]
            try:
                record = future.result()
            except Exception as error:  # such as a full disk: note it and go on
                record = {"student": submission.student, "score": 0.0, "max": 0.0, "results": [], "error": str(error)}
            records[submission.student] = record
            say(f"{number}/{len(submissions)} {record['student']}: {record['score']:g} of {record['max']:g}")
            _tables(out, [records[s.student] for s in submissions if s.student in records])
    ordered = [records[s.student] for s in submissions]
    from .classpage import class_page

    write_atomic(out / "class.html", class_page(ordered, [x.exercise for x in loaded]))
    return ordered


def _student(submission: Submission, loaded: Sequence[Loaded], secret: bytes, out: Path, again: bool) -> dict[str, Any]:
    path = out / "results" / f"{_safe(submission.student)}.json"
    digest = submission.digest() + ":" + hashlib.sha256("".join(x.exercise.id for x in loaded).encode()).hexdigest()[:8]
    if path.exists() and not again:
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
            if before.get("digest") == digest:
                return dict(before)
        except ValueError:
            pass
    results, prints = [], {}
    for one in loaded:
        seed = student_seed(secret, submission.student, one.exercise.id)
        file = submission.files.get(one.exercise.id)
        if file is None:
            results.append(_failed(one, seed, "fail", "not handed in", "missing"))
            continue
        results.append(grade_one(one, file, seed=seed))
        prints[one.exercise.id] = fingerprint(file)
    record = {
        "schema": "tinygrad-ex/submission@1",
        "student": submission.student,
        "score": round(sum(r.score for r in results), 6),
        "max": sum(r.max for r in results),
        "digest": digest,
        "fingerprints": prints,
        "not_recognised": [p.name for p in submission.strangers],
        "results": [r.to_json() for r in results],
    }
    name = _safe(submission.student)
    write_atomic(out / "gradescope" / f"{name}.json", json.dumps(gradescope(results), indent=1) + "\n")
    write_atomic(out / "junit" / f"{name}.xml", junit(results, submission.student))
    write_atomic(path, json.dumps(record, indent=1) + "\n")
    return record


def _safe(student: str) -> str:
    return "".join(c if c.isalnum() or c in "-_. @" else "_" for c in student)[:120] or "_"


def _secret(path: Path) -> bytes:
    if path.exists():
        return path.read_text(encoding="utf-8").strip().encode()
    text = secrets.token_hex(16)
    write_atomic(path, text + "\n")
    path.chmod(0o600)
    return text.encode()


def _tables(out: Path, records: Sequence[dict[str, Any]]) -> None:
    rows = []
    for record in records:
        row: dict[str, Any] = {"student": record["student"], "score": record["score"], "max": record["max"]}
        for result in record["results"]:
            row[result["exercise"]] = result["score"]
            row[f"{result['exercise']} status"] = result["status"]
            row[f"{result['exercise']} mistakes"] = " ".join(mistakes(result))
        rows.append(row)
    widest = max(rows, key=len, default={})
    write_atomic(out / "summary.csv", csv_table({k: row.get(k, "") for k in widest} for row in rows))


def mistakes(result: dict[str, Any]) -> list[str]:
    """Return the ids of the named mistakes in a result, each once."""
    return list(dict.fromkeys(c["id"] for check in result["checks"] for c in check["cause"]))


def fingerprint(path: Path) -> str:
    """Return a hash of the code without names of comments and layout: equal for copies, for information only."""
    try:
        tree = ast.parse(code_of(path))
    except (StudentError, SyntaxError, ValueError, RecursionError, MemoryError):
        return ""
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:16]


def histogram(records: Iterable[dict[str, Any]]) -> dict[str, Counter[str]]:
    """Count the named mistakes of a class, per exercise."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for record in records:
        for result in record["results"]:
            if result["status"] == "pass" or result["message"] == "not handed in":
                continue
            for name in mistakes(result) or [_unnamed(result)]:
                counts[result["exercise"]][name] += 1
    return counts


def _unnamed(result: dict[str, Any]) -> str:
    return f"({result['status']})" if result["status"] != "fail" else "(not named)"
