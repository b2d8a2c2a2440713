"""Does the checker keep its promises? `python -m tinygrad_cnn.gradcheck.selftest` measures and prints them.

wrong        wrong rules that were accepted, over several seeds
right        right rules that were refused: random points, zeros and ties, both derivatives
conventions  legal subgradients accepted, illegal ones rejected
causes       mistakes told by name, with the bank and without it, and false accusations
accuracy     error of the numerical derivatives, and whether the estimate covers it
network      LeNet-5 at batch 32
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import ops
from ..op import TABLE
from .bank import BANK
from .check import check_pair
from .derivative import directional
from .mistakes import Mistake
from .report import Report
from .rules import forward_of, rule_of
from .subjects import SUBJECTS, Subject, general_mistakes
from .tensors import gradcheck, gradgradcheck

__all__ = ["Mutant", "conventions", "main", "mutants", "right_checks", "wrong_checks"]

Rule = Callable[..., Any]


@dataclass(frozen=True)
class Mutant:
    """A wrong rule: what it is wrong about, and where it came from."""

    subject: Subject
    wrt: int
    id: str
    mistake: Mistake | None
    rule: Rule

    def check(self, seed: int, *, mistakes: tuple[Mistake, ...] = (), explain: bool = False) -> Report:
        """Check this wrong rule at a random point."""
        s = self.subject
        return check_pair(
            forward_of(s.function),
            self.rule,
            s.draw,
            wrt=[self.wrt],
            reference=rule_of(s.function, self.wrt),
            mistakes=mistakes,
            seed=seed,
            explain=explain,
            name=f"{s.name}: {self.id}",
        )


def mutants(general: bool = True) -> Iterator[Mutant]:
    """All wrong rules: those of the bank, and general mistakes made in every function."""
    for name, s in SUBJECTS.items():
        for m in BANK.get(name, []):
            yield Mutant(s, m.wrt or 0, m.id, m, _wrong(s, m.wrt or 0, m.rule))
        if general:
            for id, rule in general_mistakes():
                wrt = s.wrt[len(id) % len(s.wrt)]
                yield Mutant(s, wrt, id, None, _wrong(s, wrt, rule))


def _wrong(s: Subject, wrt: int, mistake: Rule) -> Rule:
    ref = rule_of(s.function, wrt)

    def rule(dout: Any, *args: Any, **options: Any) -> Any:
        with np.errstate(all="ignore"):
            return mistake(ref, dout, *args, **options)

    return rule


def wrong_checks(seeds: int, only: Callable[[int], bool] = lambda n: True) -> tuple[int, int, int, list[str]]:
    """Return the number of wrong rules, of functions, of checks, and the rules that were accepted in some seed."""
    missed, count, checks, names = [], 0, 0, set()
    for number, mutant in enumerate(mutants()):
        if not only(number):
            continue
        count += 1
        names.add(mutant.subject.name)
        for seed in range(seeds):
            checks += 1
            if mutant.check(seed):
                missed.append(f"{mutant.subject.name}: {mutant.id} (seed {seed})")
    return count, len(names), checks, missed


# --- right rules


def right_points(seed: int) -> Iterator[tuple[str, Any, tuple[Any, ...], dict[str, Any]]]:
    """Ops with arguments: as the op samples them, and rounded to halves so that zeros and ties abound."""
    for name, op in TABLE.items():
        if op.samples is None or not any(op.vjps):
            continue
        for number, (args, options) in enumerate(op.samples(np.random.default_rng(seed))):
            if sum(a.size for a in args if isinstance(a, np.ndarray)) > 160:
                continue
            yield name, op, args, options
            if op.switches is not None and number < 6:
                rounded = tuple(np.round(2 * a) / 2 if isinstance(a, np.ndarray) else a for a in args)
                yield name, op, rounded, options


def composites(seed: int) -> Iterator[tuple[str, Any, tuple[Any, ...], dict[str, Any]]]:
    """Functions of several ops at points where many of their inner kinks are met exactly."""
    rng = np.random.default_rng(seed)
    at_zero = ("left", "right", "average")[seed % 3]
    ties = ("first", "split")[seed % 2]

    def halves(*shape: int) -> Any:
        return np.round(2 * rng.normal(size=shape)) / 2

    def relu(x: Any) -> Any:
        return ops.relu(x, at_zero=at_zero)

    def pool(x: Any) -> Any:
        return ops.max_pool2d(x, kernel=2, stride=2, ties=ties)

    x, w = halves(3, 4), halves(4, 2)
    image, kernel, bias = halves(2, 1, 5, 6), halves(2, 1, 2, 3), np.zeros(2)
    yield "relu(x) - relu(-x)", lambda x: relu(x) - relu(-x), (x,), {}
    yield "relu(-x) + x", lambda x: relu(-x) + x, (x,), {}
    yield "max(x, x)", lambda x: ops.maximum(x, x, ties=ties), (x,), {}
    yield "max(relu(x), 0.5)", lambda x: ops.maximum(relu(x), 0.5, ties=ties), (x,), {}
    yield "|x| relu(x)", lambda x: ops.absolute(x) * relu(x), (x,), {}
    yield "relu of a product", lambda x, w: relu(ops.matmul(x, w)), (x, w), {}
    yield "max of relu", lambda x: ops.amax(relu(x), axis=1, ties=ties), (x,), {}
    yield "clip of a sum", lambda a, b: ops.clip(a + b, low=-0.5, high=1.0), (x, halves(4)), {}
    yield "pool of relu", lambda x: pool(relu(x)), (halves(1, 2, 4, 4),), {}
    yield "relu of pool", lambda x: relu(pool(x)), (halves(1, 2, 4, 4),), {}
    yield "conv, relu, pool", lambda x, w, b: pool(relu(ops.conv2d(x, w, b))), (image, kernel, bias), {}
    yield "loss", lambda x, w: ops.mean(relu(ops.matmul(relu(x), w)) ** 2), (x, w), {}


def composite_checks(seeds: int, start: int = 0) -> tuple[int, int, list[str]]:
    """Check right rules of composite functions at kinks; return the checks, those at kinks, and the failures."""
    made, kinky, failed = 0, 0, []
    for seed in range(start, start + seeds):
        for name, f, args, options in composites(seed):
            report = gradcheck(f, args, options=options, seed=seed, explain=False)
            made += 1
            notes = any(g.check == "composite kink" for p in report.parts for g in p.findings)
            kinky += notes or any(p.kinks is not None and p.kinks.count for p in report.parts)
            if not report:
                failed.append(f"{name} seed {seed}\n{report}")
    return made, kinky, failed


def right_checks(wanted: int, second: int = 7, start: int = 0) -> tuple[int, int, int, list[str]]:
    """Check right rules; return how many checks were made, how many at kinks, over how many ops, and the failures.

    Every `second`-th check is one of second derivatives.
    """
    made = kinky = 0
    names: set[str] = set()
    failed: list[str] = []
    seed = start
    while made < wanted:
        for name, op, args, options in right_points(seed):
            wrt = [
                i
                for i, a in enumerate(args)
                if isinstance(a, np.ndarray) and a.dtype.kind == "f" and a.size and op.rule(i) is not None
            ]
            if not wrt or made >= wanted:
                continue
            both = made % second == 0
            check: Callable[..., Report] = gradgradcheck if both else gradcheck
            report = check(op, args, options=options, wrt=wrt, seed=seed, explain=False)
            made += 1
            names.add(name)
            kinky += any(p.kinks is not None and p.kinks.count for p in report.parts)
            if not report:
                failed.append(f"{name} seed {seed}{' (second)' if both else ''}\n{report}")
        seed += 1
    return made, kinky, len(names), failed


# --- conventions


def _relu_rule(value: float) -> Rule:
    return lambda g, x: g * np.where(x > 0, 1.0, np.where(x == 0, value, 0.0))


def _pool_rule(share: str) -> Rule:
    def rule(g: Any, x: Any) -> Any:
        n, c, h, w = x.shape
        windows = x.reshape(n, c, h // 2, 2, w // 2, 2).transpose(0, 1, 2, 4, 3, 5).reshape(n, c, h // 2, w // 2, 4)
        ties = windows == windows.max(-1, keepdims=True)
        order = np.cumsum(ties, -1)
        count = ties.sum(-1, keepdims=True)
        weights = {
            "first": ties & (order == 1),
            "last": ties & (order == count),
            "split": ties / count,
            "all": ties * 1.0,
            "minus": np.where(count > 1, -1.0 * ties, ties),
            "double": np.where(count > 1, 2 * (ties & (order == 1)), ties),
        }[share]
        spread = (weights * g[..., None]).reshape(n, c, h // 2, w // 2, 2, 2)
        return spread.transpose(0, 1, 2, 4, 3, 5).reshape(x.shape)

    return rule


def _pool(x: Any) -> Any:
    n, c, h, w = x.shape
    return x.reshape(n, c, h // 2, 2, w // 2, 2).max((3, 5))


def conventions(trials: int = 30) -> list[tuple[str, bool, int, int]]:
    """Return, per convention: its name, whether it is legal, how often it was judged so, and of how many."""
    rows = []
    for value, legal in ((0.0, True), (0.5, True), (1.0, True), (2.0, False), (-1.0, False)):
        right = 0
        for seed in range(trials):
            x = np.round(np.random.default_rng(seed).normal(size=(3, 4)) * 2) / 2
            x.flat[seed % 12] = 0.0
            report = check_pair(lambda x: np.maximum(x, 0), _relu_rule(value), (x,), seed=seed, explain=False)
            right += bool(report) == legal
        rows.append((f"relu'(0) = {value:g}", legal, right, trials))
    for share, legal in (
        ("first", True),
        ("last", True),
        ("split", True),
        ("all", False),
        ("minus", False),
        ("double", False),
    ):
        right = 0
        for seed in range(trials):
            x = np.round(np.random.default_rng(seed).normal(size=(2, 1, 4, 6)))
            x[0, 0, :2, :2] = 3.0
            report = check_pair(_pool, _pool_rule(share), (x,), seed=seed, explain=False)
            right += bool(report) == legal and (not legal or report.convention == share)
        rows.append((f"tied maxima: {share}", legal, right, trials))
    return rows


# --- causes


@dataclass
class Causes:
    """How many of the bank's mistakes were told by name."""

    total: int = 0
    named: int = 0
    without: int = 0
    false: int = 0
    wrong: list[str] | None = None


def causes(seed: int = 0, only: Callable[[int], bool] = lambda n: True) -> Causes:
    """Name every mistake of the bank, with the bank, and with its own entry taken out of it.

    Without its entry, a cause that is named counts as false unless the same one is named for other sizes and numbers
    too: then it describes the same function in other words.
    """
    result = Causes(wrong=[])
    assert result.wrong is not None
    for number, mutant in enumerate(mutants(general=False)):
        if not only(number):
            continue
        bank = tuple(BANK[mutant.subject.name])
        result.total += 1
        report = mutant.check(seed, mistakes=bank, explain=True)
        named = {c.id for c in report.causes if c.kind != "pattern"}
        if report.cause is not None and report.cause.id == mutant.id:
            result.named += 1
        else:
            result.wrong.append(f"{mutant.subject.name}: {mutant.id} was called {named or 'unknown'}")
        rest = tuple(m for m in bank if m is not mutant.mistake)
        report = mutant.check(seed, mistakes=rest, explain=True)
        if report.cause is None:
            continue
        result.without += 1
        first = {c.id for c in report.causes if c.kind != "pattern"}
        for other in (seed + 1000, seed + 2000):
            again = mutant.check(other, mistakes=rest, explain=True)
            first &= {c.id for c in again.causes if c.kind != "pattern"}
        if not first:
            result.false += 1
            result.wrong.append(f"{mutant.subject.name}: {mutant.id} was falsely called {report.cause.id}")
    return result


# --- accuracy


def accuracy(seeds: int = 20) -> tuple[float, float, int]:
    """Return the largest relative error of directional derivatives, the share of covered estimates, and the count."""
    smooth = [s for name, s in SUBJECTS.items() if TABLE.get(name) is None or TABLE[name].switches is None]
    worst, covered, count = 0.0, 0, 0
    for s in smooth:
        forward, rule = forward_of(s.function), rule_of(s.function, s.wrt[0])
        for seed in range(seeds):
            rng = np.random.default_rng(seed)
            args, options = s.draw(rng)
            x = args[s.wrt[0]]
            v = rng.normal(size=x.shape)
            y = np.asarray(forward(*args, **options))
            g = np.asarray(rng.normal(size=y.shape))

            def f(z: Any, s: Subject = s, args: Any = args, options: Any = options, x: Any = x) -> Any:
                there = (*args[: s.wrt[0]], z.reshape(x.shape), *args[s.wrt[0] + 1 :])
                return np.asarray(forward_of(s.function)(*there, **options)).reshape(-1)

            value, error = directional(f, x.reshape(-1), v.reshape(-1))
            terms = rule(g, *args, **options) * v
            true, scale = float(terms.sum()), float(np.abs(terms).sum())
            off = abs(float(g.reshape(-1) @ value) - true)
            worst = max(worst, off / scale)
            covered += off <= float(np.abs(g.reshape(-1)) @ error) + 1e-15 * scale
            count += 1
    return worst, covered / count, count


def network(batch: int = 32, sample: int = 300, seed: int = 0) -> tuple[Report, float]:
    """Check LeNet-5 with random images, `sample` weights; return the report and the processor seconds it took."""
    from ..models import LeNet5
    from ..nn import functional

    model = LeNet5()
    rng = np.random.default_rng(seed)
    x, labels = rng.normal(size=(batch, 1, 28, 28)), rng.integers(0, 10, size=batch)

    def loss(x: Any) -> Any:
        return functional.cross_entropy(model(x), labels)

    from ..tensor import Tensor

    started = time.process_time()
    report = gradcheck(loss, (Tensor(x),), parameters=model, wrt=list(range(1, 11)), seed=seed, sample=sample)
    return report, time.process_time() - started


# --- command


def main(argv: list[str] | None = None) -> int:
    """Measure what is asked for and print it; return 1 if a promise is not kept."""
    parser = argparse.ArgumentParser(prog="python -m tinygrad_cnn.gradcheck.selftest", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parts = ["wrong", "right", "conventions", "causes", "accuracy", "network"]
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"some of {', '.join(parts)} (default: all)")
    parser.add_argument("--seeds", type=int, default=5, help="seeds per wrong rule (default 5)")
    parser.add_argument("--checks", type=int, default=20_000, help="checks of right rules (default 20000)")
    parser.add_argument("--start", type=int, default=0, help="first seed of the right rules (default 0)")
    arguments = parser.parse_args(argv)
    chosen = arguments.parts or parts
    unknown = set(chosen) - set(parts)
    if unknown:
        parser.error(f"unknown part {', '.join(sorted(unknown))}; choose from {', '.join(parts)}")
    good = True
    for part in chosen:
        started = time.perf_counter()
        ok, text = _measure(part, arguments)
        good &= ok
        print(f"{'ok  ' if ok else 'FAIL'} {part}: {text} [{time.perf_counter() - started:.0f} s]", flush=True)
    return 0 if good else 1


def _measure(part: str, arguments: argparse.Namespace) -> tuple[bool, str]:
    if part == "wrong":
        count, names, checks, missed = wrong_checks(arguments.seeds)
        text = f"{count} wrong rules of {names} functions, {checks} checks, {len(missed)} accepted"
        return not missed, "\n  ".join([text, *missed[:20]])
    if part == "right":
        made, kinky, names, failed = right_checks(arguments.checks, start=arguments.start)
        more, at_kinks, refused = composite_checks(max(1, arguments.checks // 120), arguments.start)
        made, kinky, failed = made + more, kinky + at_kinks, failed + refused
        text = (
            f"{made} checks of right rules of {names} ops and of 12 functions of several, {kinky} of them at kinks, "
            f"{len(failed)} refused"
        )
        return not failed, "\n  ".join([text, *failed[:10]])
    if part == "conventions":
        rows = conventions()
        lines = [f"{name}: {'legal' if legal else 'illegal'}, judged so {n} of {of}" for name, legal, n, of in rows]
        return all(n == of for _, _, n, of in rows), "\n  ".join([f"{len(rows)} conventions", *lines])
    if part == "causes":
        c = causes()
        text = (
            f"{c.total} mistakes: {c.named} called by their name ({100 * c.named / c.total:.1f} %); with the right "
            f"entry taken out of the bank, {c.without} are still described ({100 * c.without / c.total:.1f} %) "
            f"and {c.false} falsely accused ({100 * c.false / c.total:.1f} %)"
        )
        return c.named >= 0.95 * c.total and c.false <= 0.005 * c.total, "\n  ".join([text, *(c.wrong or [])])
    if part == "accuracy":
        worst, covered, count = accuracy()
        text = f"{count} derivatives, largest error {worst:.1e}, covered by the estimate {100 * covered:.1f} %"
        return worst <= 1e-11 and covered >= 0.99, text
    report, seconds = network()
    checked = sum(p.checked for p in report.parts)
    return bool(
        report
    ) and seconds <= 20, f"LeNet-5, batch 32, {checked} weights in {seconds:.1f} s of one processor\n{report}"


if __name__ == "__main__":
    sys.exit(main())
