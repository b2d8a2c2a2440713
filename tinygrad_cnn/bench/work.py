"""What is measured: one function per line, or group of lines, of the report."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np

from .. import nn, no_grad, optim
from ..backend import numpy_kernels as kernels
from ..captured import compile
from ..data import DataLoader, mnist
from ..models import LeNet5
from ..tensor import Tensor
from .apart import apart
from .measure import Contestant, Result, compare, medians
from .peers import lenet, lenet_pair, resnet18, step_of, torch_or_none, torch_step

__all__ = ["WORK", "Settings", "first_of", "images"]

LENET_FLOPS = 2.26e6  # of a training step, per image: without the input gradient of the first layer
AGREEMENT = 1e-4  # between losses, over 20 steps


class Settings:
    """How long to measure, how much, and by which clock.

    Args:
        seconds: per line of the report.
        quick: smaller and shorter.
        one_thread: the time of the processor, with one thread for everybody.
    """

    def __init__(self, seconds: float = 5.0, quick: bool = False, one_thread: bool = False) -> None:
        self.seconds = min(seconds, 1.0) if quick else seconds
        self.quick = quick
        self.one_thread = one_thread
        self.clock = process_time if one_thread else perf_counter

    @property
    def kinds(self) -> list[str]:
        """The contestants of a training step."""
        return ["captured", "eager", *(["torch"] if torch_or_none() else [])]

    def medians(
        self, contestants: Mapping[str, Callable[[], Any] | Contestant], share: float = 1.0, **options: Any
    ) -> dict[str, float]:
        """Return the median of each contestant in milliseconds, measured for this share of the seconds."""
        return medians(compare(contestants, self.seconds * share, clock=self.clock, **options))

    def medians_apart(
        self, make: Callable[..., Callable[[], Any]], kinds: Sequence[str], *arguments: Any, **options: Any
    ) -> dict[str, float]:
        """Return the medians of `make(kind, *arguments)` for these kinds, each in a process of its own."""
        with apart(make, kinds, *arguments, clock=self.clock.__name__) as contestants:
            return self.medians(contestants, **options)

    def sgemm_rate(self) -> float:
        """Return how many floating point operations per second NumPy's matrix product reaches here, in float32."""
        a, b = np.ones((1024, 1024), np.float32), np.ones((1024, 1024), np.float32)
        return 2 * 1024**3 / (self.medians({"sgemm": lambda: a @ b}, 0.1)["sgemm"] / 1e3)


def images(n: int, seed: int = 0) -> tuple[Any, Any]:
    """Return n digits and their labels, the first of MNIST in a random order."""
    train, _ = mnist()
    x, y = train.take(np.random.default_rng(seed).permutation(4096)[:n])
    return np.ascontiguousarray(x), np.ascontiguousarray(y)


def equal_work(settings: Settings) -> Iterator[Result]:
    """Losses of LeNet-5 over 20 steps: what is timed below computes the same."""
    pair = lenet_pair()
    worst = pair.disagreement([images(64, seed) for seed in range(20)])
    reference = "torch" if pair.torch else "eager"
    yield Result(
        "LeNet-5, 20 steps: largest difference of a loss", worst, unit="", limit=AGREEMENT, note=f"to {reference}"
    )


def lenet_step(kind: str, batch: int) -> Callable[[], Any]:
    """Return one contestant of the next function."""
    return step_of(kind, LeNet5, lenet, *images(batch))


def lenet_steps(settings: Settings) -> Iterator[Result]:
    """A training step of LeNet-5: forward, cross-entropy, backward, Adam; each contestant in a process of its own."""
    targets = {64: 3.0, 256: 2.0}
    rate = settings.sgemm_rate()
    for batch in (64, 256) if settings.quick else (32, 64, 128, 256, 1024):
        times = settings.medians_apart(lenet_step, settings.kinds, batch)
        share = LENET_FLOPS * batch / (times["captured"] / 1e3) / rate
        detail = {"times": times, "sgemm_gflops": rate / 1e9, "share_of_sgemm": share}
        yield Result(
            f"LeNet-5 step, batch {batch}, captured", times["captured"], peer=times.get("torch"), peer_name="torch",
            target=targets.get(batch), note=f"{share:.0%} of SGEMM ({rate / 1e9:.0f} GFLOP/s)", detail=detail,
        )  # fmt: skip
        yield Result(
            f"LeNet-5 step, batch {batch}, eager",
            times["eager"],
            peer=times.get("torch"),
            peer_name="torch",
            target=1.0,
        )


_MEMORY = """
import os, sys
import numpy as np
from tinygrad_cnn.bench.peers import lenet_pair

def status(name):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(name))

def helpers():
    # what the processes started by this one have for themselves alone
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        processes = file.read().split()
    total = 0
    for process in processes:
        with open(f"/proc/{process}/smaps_rollup") as lines:
            total += sum(int(line.split()[1]) for line in lines if line.startswith("Private"))
    return total

kind, batch = sys.argv[1], int(sys.argv[2])
pair = lenet_pair()
x, y = np.zeros((batch, 1, 28, 28), np.float32), np.zeros(batch, np.int64)
for _ in range(2):
    pair.steps(x[:1], y[:1])[kind]()
def reset():
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # resets the high-water mark

before, most = status("VmRSS"), 0
step = pair.steps(x, y)[kind]
for _ in range(5):
    reset()
    step()
    # Helpers appear after the memory of the steps without them was given back, and work in fixed buffers.
    most = max(most, status("VmHWM"), status("VmRSS") + helpers())
print(most - before)
"""


def peak_memory(settings: Settings) -> Iterator[Result]:
    """What five steps of LeNet-5 at batch 256 add to the peak of a process that has done two at batch 1 (Linux).

    Helper processes are counted with what they do not share.
    """
    if sys.platform != "linux":
        return
    used = {kind: float(_child(_MEMORY, kind, "256")) / 1024 for kind in settings.kinds}
    for kind in settings.kinds[:2]:
        yield Result(
            f"peak memory of a LeNet-5 step, batch 256, {kind}",
            used[kind],
            unit="MiB",
            peer=used.get("torch"),
            peer_name="torch",
            target=1.0,
        )


def epoch(kind: str, count: int) -> Callable[[], Any]:
    """Return one contestant of the next function, or our loader alone (kind "loading")."""
    train, _ = mnist()
    if kind == "torch":
        torch = import_module("torch")
        pixels, labels = train.take(np.arange(count))
        step = torch_step(torch, lenet(torch))
        data = torch.utils.data.TensorDataset(torch.from_numpy(pixels), torch.from_numpy(np.asarray(labels, np.int64)))
        loader = torch.utils.data.DataLoader(data, batch_size=128, shuffle=True)
    else:
        model = LeNet5()
        step = compile(model, nn.CrossEntropyLoss(), optim.Adam(model.parameters()))
        subset = train if count == len(train) else first_of(train, count)
        loader = DataLoader(subset, batch_size=128, shuffle=True)

    def run() -> None:
        for x, y in loader:
            if kind != "loading":
                step(x, y)

    return run


def mnist_epoch(settings: Settings) -> Iterator[Result]:
    """An epoch of MNIST at batch 128 with shuffling loader and Adam; quick: a tenth of it."""
    count = 6400 if settings.quick else 60_000
    kinds = ["captured", "loading", *settings.kinds[2:]]
    times = settings.medians_apart(epoch, kinds, count, share=0, warm_up=0, turns=2 if settings.quick else 3)
    times = {name: time / 1e3 for name, time in times.items()}
    loading = times["loading"] / times["captured"]
    yield Result(
        f"epoch of MNIST, {count} images, batch 128", times["captured"], unit="s", peer=times.get("torch"),
        peer_name="torch + DataLoader", target=2.5, note=f"loading is {loading:.1%}", detail={"loading_share": loading},
    )  # fmt: skip


def first_of(dataset: Any, count: int) -> Any:
    """Return the first samples of a data set."""
    from ..data import Subset

    return Subset(dataset, np.arange(count))


def forward(kind: str, batch: int) -> Callable[[], Any]:
    """Return one contestant of the next function."""
    x, _ = images(batch)
    if kind == "torch":
        torch = import_module("torch")
        peer, theirs = lenet(torch), torch.from_numpy(x)

        def run_peer() -> None:
            with torch.inference_mode():
                peer(theirs)

        return run_peer
    model, ours = LeNet5(), Tensor(x)

    def run() -> None:
        with no_grad():
            model(ours)

    return run


def inference(settings: Settings) -> Iterator[Result]:
    """Images per second of LeNet-5 without recording."""
    for batch in (1, 256):
        times = settings.medians_apart(forward, settings.kinds[1:], batch, share=0.5)
        speed = {name: batch / time * 1e3 for name, time in times.items()}
        yield Result(
            f"LeNet-5 inference, batch {batch}",
            speed["eager"],
            unit="images/s",
            peer=speed.get("torch"),
            peer_name="torch",
            more_is_better=True,
        )


def resnet(kind: str, batch: int) -> Callable[[], Any]:
    """Return one contestant of the next function."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(batch, 3, 32, 32)).astype(np.float32), rng.integers(0, 10, batch)
    return step_of(kind, lambda: resnet18(nn, nn.Module), lambda torch: resnet18(torch.nn, torch.nn.Module), x, y)


def resnet_step(settings: Settings) -> Iterator[Result]:
    """A training step of ResNet-18 on 32 x 32 images."""
    batch = 4 if settings.quick else 32
    times = settings.medians_apart(resnet, settings.kinds[1:], batch, share=0, warm_up=1, turns=3)
    yield Result(
        f"ResNet-18 step, 32 x 32, batch {batch}, eager", times["eager"], peer=times.get("torch"), peer_name="torch",
        target=1.0,
    )  # fmt: skip


_LAYERS = (
    ("ResNet 64 x 64, 3x3, 32 x 32", 64, 64, 32, 3, 1),
    ("ResNet 128 x 128, 3x3, 16 x 16", 128, 128, 16, 3, 1),
    ("ResNet 256 x 256, 3x3, 8 x 8", 256, 256, 8, 3, 1),
    ("ResNet 64 x 128, 3x3, stride 2", 64, 128, 32, 3, 2),
    ("VGG 3 x 64, 3x3, 64 x 64", 3, 64, 64, 3, 1),
    ("ResNet 256 x 64, 1x1, 16 x 16", 256, 64, 16, 1, 1),
)


def conv_layers(settings: Settings) -> Iterator[Result]:
    """Single convolutions of ResNet and VGG, forward and both gradients, batch 32."""
    torch = torch_or_none()
    batch = 8 if settings.quick else 32
    for name, into, out, size, k, stride in _LAYERS[:2] if settings.quick else _LAYERS:
        rng = np.random.default_rng(0)
        pad = k // 2
        x = rng.normal(size=(batch, into, size, size)).astype(np.float32)
        weight = rng.normal(size=(out, into, k, k)).astype(np.float32)
        options: dict[str, Any] = {
            "stride": (stride,) * 2,
            "padding": ((pad,) * 2,) * 2,
            "dilation": (1, 1),
            "groups": 1,
        }
        inside = kernels.conv2d(x, weight, **options)  # in the memory layout that results have inside a network
        x = kernels.conv2d(x, np.eye(into, dtype=np.float32)[:, :, None, None], stride=(1, 1), padding=((0, 0), (0, 0)),
                           dilation=(1, 1), groups=1)  # fmt: skip
        g = inside.copy(order="K")
        ours = _our_convolution(x, weight, g, options)
        theirs = _torch_convolution(torch, x, weight, g, stride, pad) if torch is not None else {}
        for part, call in ours.items():
            contestants = {"ours": call, **({"torch": theirs[part]} if theirs else {})}
            times = settings.medians(contestants, 0.2)
            yield Result(f"{name}: {part}", times["ours"], peer=times.get("torch"), peer_name="torch", target=1.0)


def _our_convolution(x: Any, weight: Any, g: Any, options: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    size, kernel = x.shape[2:], weight.shape[2:]
    return {
        "forward": lambda: kernels.conv2d(x, weight, **options),
        "input gradient": lambda: kernels.conv2d_input_gradient(g, weight, size=size, **options),
        "weight gradient": lambda: kernels.conv2d_weight_gradient(x, g, kernel=kernel, **options),
    }


def _torch_convolution(torch: Any, x: Any, weight: Any, g: Any, stride: int, pad: int) -> dict[str, Callable[[], Any]]:
    tx, tw, tg = (torch.from_numpy(np.ascontiguousarray(a)) for a in (x, weight, g))

    def gradient(mask: list[bool]) -> Any:
        return torch.ops.aten.convolution_backward(
            tg, tx, tw, None, [stride] * 2, [pad] * 2, [1, 1], False, [0, 0], 1, mask
        )

    def forward() -> Any:
        with torch.inference_mode():
            return torch.nn.functional.conv2d(tx, tw, stride=stride, padding=pad)

    return {
        "forward": forward,
        "input gradient": lambda: gradient([True, False, False]),
        "weight gradient": lambda: gradient([False, True, False]),
    }


class _Closures:
    """The least that differentiates: a product that remembers, in a closure, how to send a gradient back.

    Source: Karpathy, micrograd, 2020.
    """

    def __init__(self, array: Any, parents: tuple[Any, ...] = ()) -> None:
        self.array = array
        self.gradient: Any = 0.0
        self.parents = parents
        self.send: Callable[[], None] | None = None

    def __mul__(self, other: _Closures) -> _Closures:
        result = _Closures(self.array * other.array, (self, other))

        def send() -> None:
            self.gradient += other.array * result.gradient
            other.gradient += self.array * result.gradient

        result.send = send
        return result


def _chain(count: int, y: Any, one: Any) -> Any:
    for _ in range(count):
        y = y * one
    return y


def engine(settings: Settings) -> Iterator[Result]:
    """What the engine itself costs: a chain of multiplications of one element, per op, beside what cannot be less."""
    count = 1000
    torch = torch_or_none()

    def ours() -> tuple[Any, Any]:
        return Tensor(1.0, requires_grad=True), Tensor(1.0)

    def theirs() -> tuple[Any, Any]:
        return torch.ones((), requires_grad=True), torch.ones(())  # type: ignore[union-attr]

    def closures() -> tuple[Any, Any]:
        return _Closures(np.ones((), np.float32)), _Closures(np.ones((), np.float32))

    def backward_closures(y: Any, one: Any) -> None:
        y.gradient = 1.0
        while y.send is not None:
            y.send()
            y = y.parents[0]

    def backward(y: Any, one: Any) -> None:
        y.backward()

    one = np.ones((), np.float32)
    times: dict[str, list[float]] = {}

    def note(name: str, started: float) -> None:
        times.setdefault(name, []).append((settings.clock() - started) / count)

    end = perf_counter() + settings.seconds
    while perf_counter() < end or len(times["call"]) < 5:
        for name, start, back in (
            ("ours", ours, backward), ("closures", closures, backward_closures),
            *((("torch", theirs, backward),) if torch else ()),
        ):  # fmt: skip
            y, other = start()
            started = settings.clock()
            y = _chain(count, y, other)
            note(f"{name} forward", started)
            started = settings.clock()
            back(y, other)
            note(f"{name} backward", started)
            del y
        started = settings.clock()
        for _ in range(count):
            np.multiply(one, one)
        note("product", started)
        started = settings.clock()
        for _ in range(count):
            _nothing(one, one)
        note("call", started)
    found = medians(times, 1e6)
    for part, name, limit in (("forward", "recorded", 2.0), ("backward", "backward", 1.5)):
        least = f"closures {found[f'closures {part}']:.2f}, NumPy's product {found['product']:.2f}"
        yield Result(
            f"one-element op, {name}", found[f"ours {part}"], unit="µs", limit=limit, peer=found.get(f"torch {part}"),
            peer_name="torch", note=f"{least}, a Python call {found['call']:.2f} µs", detail=found,
        )  # fmt: skip


def _nothing(a: Any, b: Any) -> None:
    """Cost what a call costs."""


def deep_graphs(settings: Settings) -> Iterator[Result]:
    """A chain of 20 000 ops and 60 stacked diamonds: linear time, no recursion."""

    def chain(count: int) -> None:
        y = Tensor(1.0, requires_grad=True)
        for _ in range(count):
            y = y + 1.0
        y.backward()

    def diamonds(count: int) -> None:
        y = Tensor(1.0, requires_grad=True)
        for _ in range(count):
            y = y * 0.5 + y * 0.5
        y.backward()

    times = medians(
        compare(
            {
                "5k": lambda: chain(5_000), "20k": lambda: chain(20_000),
                "15": lambda: diamonds(15), "60": lambda: diamonds(60),
            },
            settings.seconds / 2, warm_up=1,
        )
    )  # fmt: skip
    yield Result(
        "chain of 20 000 ops, forward and backward", times["20k"], note=f"{times['20k'] / times['5k']:.1f} x 5 000"
    )
    yield Result("60 stacked diamonds, forward and backward", times["60"], note=f"{times['60'] / times['15']:.1f} x 15")


def import_time(settings: Settings) -> Iterator[Result]:
    """`import tinygrad_cnn` over `import numpy`, in fresh processes, compiled before."""
    folders = [str(Path(__file__).parents[2]), *sys.path]
    code = (
        f"import sys; sys.path[:] = {folders!r}; import time, numpy; t = time.perf_counter(); import tinygrad_cnn; "
        "print(time.perf_counter() - t)"
    )
    with tempfile.TemporaryDirectory() as folder:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        environment["PYTHONPYCACHEPREFIX"] = folder
        # Without `site`, since what that has imported (for an editable installation, say) would be left out.
        times = [
            float(_child(code, python=("-S",), environment=environment)) for _ in range(6 if settings.quick else 12)
        ]
    times = sorted(times[1:])  # the first run has compiled
    yield Result("import tinygrad_cnn after numpy", times[len(times) // 2] * 1e3, limit=60.0)


def _child(code: str, *arguments: str, python: tuple[str, ...] = (), environment: dict[str, str] | None = None) -> str:
    """Run Python code in a process of its own and return the last line it printed."""
    command = [sys.executable, *python, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return done.stdout.strip().splitlines()[-1]


WORK: dict[str, Callable[[Settings], Iterator[Result]]] = {
    "agree": equal_work,
    "lenet": lenet_steps,
    "memory": peak_memory,
    "epoch": mnist_epoch,
    "inference": inference,
    "resnet": resnet_step,
    "conv": conv_layers,
    "engine": engine,
    "deep": deep_graphs,
    "import": import_time,
}
