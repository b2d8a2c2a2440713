"""Training steps on a GPU beside PyTorch's: eager, compiled, and as one CUDA graph.

All contestants do the same work in float32, with TF32 off, from the same weights on the same batches; their losses are
compared before anything is timed. A time is that of many steps between two waits for the whole device, so that nothing
is left in its queue, and contestants take turns. Another device than "cuda" makes a dry run: the same program, to see
that it works, with figures that mean nothing.
"""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable, Iterator
from time import perf_counter
from types import ModuleType
from typing import Any

import numpy as np

from .. import nn, optim, use_device
from ..backend import Device
from ..backend.convolution_engines import load_cudnn, tf32_allowed
from ..captured import compile
from ..data import DataLoader, mnist
from ..errors import DeviceError
from ..models import LeNet5, resnet50
from ..tensor import Tensor
from .measure import Result
from .peers import lenet, resnet50_peer, torch_or_none
from .work import AGREEMENT, LENET_FLOPS, first_of, images

__all__ = ["SAID", "WORK", "GpuSettings", "describe"]

RESNET50_FLOPS = 3 * 2 * 4.09e9  # of a training step, per image of 224 x 224: forward and both gradients
Step = Callable[[Any, Any], Any]


class GpuSettings:
    """Where and how long to measure.

    Args:
        device: a name of a device.
        seconds: per line of the report.
        quick: smaller and shorter.

    Raises:
        DeviceError: there is no such device, or float32 would be rounded to TF32.
    """

    def __init__(self, device: str, seconds: float = 5.0, quick: bool = False) -> None:
        self.device = Device(device)
        self.seconds = min(seconds, 0.2) if quick else seconds
        self.quick = quick
        if tf32_allowed():
            raise DeviceError("CUPY_TF32 allows products in TF32: unset it, exact float32 is measured")
        self.torch, self.no_torch = _torch_beside(self.device)

    def synchronize(self) -> None:
        """Wait until the device has done everything that anybody gave it."""
        self.device.synchronize()
        if self.torch is not None and self.device.kind == "cuda":
            self.torch.cuda.synchronize(self.device.index)

    def times(self, contestants: dict[str, Callable[[], Any]]) -> dict[str, float]:
        """Return the median milliseconds of one call of each, contestants in turn, until the seconds are used up."""
        counts = {}
        for name, call in contestants.items():
            for _ in range(1 if self.quick else 5):
                call()
            counts[name] = max(1, min(500, int(0.05 / max(1e-6, self._one(call, 1 if self.quick else 3)))))
        found: dict[str, list[float]] = {name: [] for name in contestants}
        end, collecting = perf_counter() + self.seconds, gc.isenabled()
        gc.disable()
        try:
            while perf_counter() < end or len(next(iter(found.values()))) < (1 if self.quick else 5):
                for name, call in contestants.items():
                    found[name].append(self._one(call, counts[name]) * 1e3)
        finally:
            if collecting:
                gc.enable()
        return {name: statistics.median(values) for name, values in found.items()}

    def _one(self, call: Callable[[], Any], count: int) -> float:
        self.synchronize()
        started = perf_counter()
        for _ in range(count):
            call()
        self.synchronize()
        return (perf_counter() - started) / count

    def sgemm_rate(self) -> float:
        """Return how many floating point operations per second a large float32 matrix product reaches here."""
        n = 256 if self.quick else 8192
        a = self.device.asarray(np.random.default_rng(0).normal(size=(n, n)).astype(np.float32))
        xp = self.device.xp
        return 2 * n**3 / (self.times({"sgemm": lambda: xp.matmul(a, a)})["sgemm"] / 1e3)


def _torch_beside(device: Device) -> tuple[Any, str]:
    """Return (PyTorch, "") if it can work on the same device, else (None, the reason)."""
    torch = torch_or_none()
    if torch is None:
        return None, "PyTorch is not installed"
    if device.kind == "cuda":
        if not torch.cuda.is_available():
            return None, f"PyTorch {torch.__version__} finds no GPU"
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.benchmark = True  # PyTorch tries its algorithms and takes the fastest
        if torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32:
            return None, "TF32 of PyTorch cannot be switched off"
    return torch, ""


class Contest:
    """One network in all its forms, from the same weights: a step of each is `steps[name](x, labels)`.

    Attributes:
        steps: by name; ours are "eager" and "captured", PyTorch's begin with "torch".
        left_out: why others are not there, by name.
        batches: brings arrays to the device, as (ours, PyTorch's).
    """

    def __init__(
        self,
        settings: GpuSettings,
        make: Callable[[], Any],
        make_peer: Callable[[ModuleType], Any],
        names: tuple[str, ...] = ("eager", "captured", "torch", "torch.compile", "torch, CUDA graph"),
    ) -> None:
        self.settings, self.device, self.torch = settings, settings.device, settings.torch
        self.left_out: dict[str, str] = {}
        self.loss = nn.CrossEntropyLoss()
        with use_device("cpu"):
            start = make()
        weights = {name: np.array(t.array) for name, t in start.state_dict().items()}
        self.steps: dict[str, Step] = {}
        self.compiled: Any = None
        for name in names:
            if not name.startswith("torch"):
                with use_device("cpu"):
                    model = make()
                model.load_state_dict(weights)
                model.to(self.device)
                self.steps[name] = self._captured(model) if name == "captured" else self._eager(model)
        if self.torch is None:
            self.left_out["torch"] = settings.no_torch
            return
        self.where = self.torch.device("cuda", self.device.index) if self.device.kind == "cuda" else "cpu"

        def peer() -> Any:
            model = make_peer(self.torch).to(self.where)
            state = {name: self.torch.from_numpy(array) for name, array in weights.items()}
            own = model.state_dict()
            if own.keys() != state.keys():  # a Sequential names its layers by numbers, in the same order
                state = dict(zip(own, state.values(), strict=True))
            model.load_state_dict(state)
            return model

        made = {
            "torch": self._torch_eager, "torch.compile": self._torch_compiled, "torch, CUDA graph": self._torch_graph
        }  # fmt: skip
        for name in (n for n in names if n in made):
            try:
                if name != "torch" and self.device.kind != "cuda":
                    raise DeviceError("in a dry run")
                self.steps[name] = made[name](peer())
            except Exception as error:  # a peer that does not run here must not end the measurement
                self.left_out[name] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"

    def _eager(self, model: Any) -> Step:
        optimizer = optim.Adam(model.parameters(), lr=1e-3)

        def step(x: Any, y: Any) -> Any:
            optimizer.zero_grad()
            loss = self.loss(model(x), y)
            loss.backward()
            optimizer.step()
            return loss

        return step

    def _captured(self, model: Any) -> Any:
        self.compiled = compile(model, self.loss, optim.Adam(model.parameters(), lr=1e-3))
        return self.compiled

    def _adam(self, model: Any, **options: Any) -> Any:
        fused = {"fused": True} if self.device.kind == "cuda" else {}
        return self.torch.optim.Adam(model.parameters(), lr=1e-3, **fused, **options)

    def _torch_eager(self, model: Any, forward: Any = None) -> Step:
        optimizer, criterion = self._adam(model), self.torch.nn.CrossEntropyLoss()
        loss_of = forward or (lambda x, y: criterion(model(x), y))

        def step(x: Any, y: Any) -> Any:
            optimizer.zero_grad()
            loss = loss_of(x, y)
            loss.backward()
            optimizer.step()
            return loss

        return step

    def _torch_compiled(self, model: Any) -> Step:
        criterion = self.torch.nn.CrossEntropyLoss()
        return self._torch_eager(model, self.torch.compile(lambda x, y: criterion(model(x), y)))

    def _torch_graph(self, model: Any) -> Step:
        """Capture forward, backward and Adam in one CUDA graph when the first batch is known."""
        torch, criterion = self.torch, self.torch.nn.CrossEntropyLoss()
        optimizer = self._adam(model, capturable=True)
        held: dict[str, Any] = {}

        def capture(x: Any, y: Any) -> None:
            held["x"], held["y"] = x.clone(), y.clone()
            before = {name: t.clone() for name, t in model.state_dict().items()}
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):  # what is made lazily is made before the capture
                for _ in range(3):
                    optimizer.zero_grad(set_to_none=True)
                    criterion(model(held["x"]), held["y"]).backward()
                    optimizer.step()
            torch.cuda.current_stream().wait_stream(side)
            with torch.no_grad():  # these steps are undone, in place: the graph keeps addresses
                for name, t in model.state_dict().items():
                    t.copy_(before[name])
                for state in optimizer.state.values():
                    for value in state.values():
                        value.zero_()
            optimizer.zero_grad(set_to_none=True)
            held["graph"] = torch.cuda.CUDAGraph()
            with torch.cuda.graph(held["graph"]):
                held["loss"] = criterion(model(held["x"]), held["y"])
                held["loss"].backward()
                optimizer.step()

        def step(x: Any, y: Any) -> Any:
            if held.get("x") is None or held["x"].shape != x.shape:
                capture(x, y)
            held["x"].copy_(x)
            held["y"].copy_(y)
            held["graph"].replay()
            return held["loss"]

        return step

    def batch(self, x: Any, y: Any) -> dict[str, tuple[Any, Any]]:
        """Return a batch on the device, for each contestant."""
        ours = Tensor(x, device=self.device), Tensor(y, device=self.device)
        theirs: tuple[Any, Any] = (None, None)
        if self.torch is not None:
            theirs = self.torch.from_numpy(x).to(self.where), self.torch.from_numpy(y).to(self.where)
        return {name: theirs if name.startswith("torch") else ours for name in self.steps}

    def disagreement(self, batches: list[tuple[Any, Any]]) -> tuple[float, str]:
        """Train all on the same batches; return the largest difference of a loss from the reference, and its name."""
        reference = "torch" if "torch" in self.steps else "eager"
        worst = 0.0
        for x, y in batches:
            given = self.batch(x, y)
            losses = {name: float(step(*given[name]).item()) for name, step in list(self.steps.items())}
            differences = [abs(loss - losses[reference]) for loss in losses.values()]
            worst = max(worst, *(d if d == d else float("inf") for d in differences))
        return worst, reference

    def times(self, x: Any, y: Any) -> dict[str, float]:
        """Return milliseconds per step of each contestant."""
        given = self.batch(x, y)
        return self.settings.times(
            {name: lambda s=step, g=given[name]: s(*g) for name, step in self.steps.items()}  # type: ignore[misc]
        )

    def note(self) -> str:
        """Return what there is to say of contestants that are not what their name says."""
        said = [f"without {name} ({reason})" for name, reason in self.left_out.items()]
        if self.compiled is not None and self.compiled.reason is not None:
            said.append(f"captured ran eager: {self.compiled.reason}")
        return "; ".join(said)


def _lenets(settings: GpuSettings) -> Contest:
    return Contest(settings, LeNet5, lenet)


def equal_work(settings: GpuSettings) -> Iterator[Result]:
    """Losses of LeNet-5 over 20 steps: what is timed below computes the same."""
    contest = _lenets(settings)
    worst, reference = contest.disagreement([images(64, seed) for seed in range(3 if settings.quick else 20)])
    yield Result(
        "LeNet-5, 20 steps: largest difference of a loss", worst, unit="", limit=AGREEMENT, note=f"to {reference}",
        detail={"contestants": list(contest.steps), "left_out": contest.left_out},
    )  # fmt: skip


def _rows(
    work: str, times: dict[str, float], share: float, rate: float, note: str, targets: dict[str, float]
) -> Iterator[Result]:
    best = min((name for name in times if name.startswith("torch")), key=times.__getitem__, default="")
    detail = {"times": times, "sgemm_tflops": rate / 1e12, "share_of_sgemm": share}
    for ours, peer in (("captured", best), ("eager", "torch")):
        yield Result(
            f"{work}, {ours}", times[ours], peer=times.get(peer), peer_name=peer, target=targets.get(ours),
            note=f"{share:.0%} of SGEMM ({rate / 1e12:.3g} TFLOP/s)" + (f"; {note}" if note else "")
            if ours == "captured" else f"beside {peer}" if peer in times else "",
            detail=detail,
        )  # fmt: skip


def lenet_steps(settings: GpuSettings) -> Iterator[Result]:
    """A training step of LeNet-5, the batch on the device: forward, cross-entropy, backward, Adam."""
    rate = settings.sgemm_rate()
    for batch in (64,) if settings.quick else (64, 256, 4096):
        contest = _lenets(settings)
        times = contest.times(*images(batch))
        share = LENET_FLOPS * batch / (times["captured"] / 1e3) / rate
        yield from _rows(f"LeNet-5 step, batch {batch}", times, share, rate, contest.note(), {"captured": 1.0})


def resnet_step(settings: GpuSettings) -> Iterator[Result]:
    """A training step of ResNet-50 on images of 224 x 224, batch 32, after comparing the losses of two steps."""
    batch, side, classes = (2, 64, 10) if settings.quick else (32, 224, 1000)
    contest = Contest(
        settings,
        lambda: resnet50(num_classes=classes),
        lambda torch: resnet50_peer(torch, num_classes=classes),
        ("eager", "torch"),
    )
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(batch, 3, side, side)).astype(np.float32), rng.integers(0, classes, batch)
    worst, reference = contest.disagreement([(x, y)] * (1 if settings.quick else 2))
    yield Result(
        "ResNet-50: largest difference of a loss", worst, unit="", limit=1e-3, note=f"to {reference}, over 2 steps"
    )
    rate = settings.sgemm_rate()
    times = contest.times(x, y)
    share = RESNET50_FLOPS * batch * (side / 224) ** 2 / (times["eager"] / 1e3) / rate
    yield Result(
        f"ResNet-50 step, {side} x {side}, batch {batch}, eager", times["eager"], peer=times.get("torch"),
        peer_name="torch", note=f"{share:.0%} of SGEMM ({rate / 1e12:.3g} TFLOP/s)",
        detail={"times": times, "sgemm_tflops": rate / 1e12, "share_of_sgemm": share},
    )  # fmt: skip


def mnist_epoch(settings: GpuSettings) -> Iterator[Result]:
    """An epoch of MNIST at batch 128 with the shuffling loader, from main memory to the device."""
    train, _ = mnist()
    count = 640 if settings.quick else 60_000
    with use_device(settings.device):
        model = LeNet5()
        step = compile(model, nn.CrossEntropyLoss(), optim.Adam(model.parameters()))
        loader = DataLoader(first_of(train, count), batch_size=128, shuffle=True, seed=0)

        def epoch() -> None:
            for x, y in loader:
                step(x, y)

        epoch()
        seconds = settings.times({"epoch": epoch})["epoch"] / 1e3
    yield Result(
        f"epoch of MNIST, {count} images, batch 128", seconds, unit="s", note=f"{count / seconds:,.0f} images/s"
    )


def describe(settings: GpuSettings) -> dict[str, Any]:
    """Return what the figures depend on: card, driver, CUDA, libraries, precision."""
    found: dict[str, Any] = {"device": str(settings.device), "tf32": False}
    found["torch"] = settings.no_torch or settings.torch.__version__
    module, reason = load_cudnn()
    found["cudnn"] = reason or f"{module.backend_version()} (frontend {module.__version__})"
    if settings.device.kind == "cuda":
        import cupy

        runtime = cupy.cuda.runtime
        about = runtime.getDeviceProperties(settings.device.index)
        found |= {
            "card": about["name"].decode() if isinstance(about["name"], bytes) else str(about["name"]),
            "multiprocessors": int(about["multiProcessorCount"]),
            "memory_gib": round(about["totalGlobalMem"] / 2**30, 1),
            "driver": int(runtime.driverGetVersion()),
            "cuda": int(runtime.runtimeGetVersion()),
            "cupy": cupy.__version__,
        }
    else:
        found["dry_run"] = "no GPU: the figures mean nothing"
    return found


# What of the description is printed above the table.
SAID = ("card", "driver", "cuda", "cupy", "torch", "cudnn", "dry_run")

WORK: dict[str, Callable[[GpuSettings], Iterator[Result]]] = {
    "agree": equal_work,
    "lenet": lenet_steps,
    "resnet": resnet_step,
    "epoch": mnist_epoch,
}
