"""The same networks twice: here and in PyTorch, with the same parameters."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np

from .. import nn, optim
from ..captured import compile
from ..models import LeNet5
from ..tensor import Tensor

__all__ = ["Pair", "lenet", "lenet_pair", "resnet18", "resnet50_peer", "step_of", "torch_or_none", "torch_step"]


def torch_or_none() -> ModuleType | None:
    """Return PyTorch if it is installed."""
    try:
        return import_module("torch")
    except ImportError:
        return None


def torch_step(torch: ModuleType, model: Any, lr: float = 1e-3) -> Callable[[Any, Any], Any]:
    """Return a training step of PyTorch's, with Adam and cross-entropy."""
    optimizer, loss = torch.optim.Adam(model.parameters(), lr=lr), torch.nn.CrossEntropyLoss()

    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        value = loss(model(x), y)
        value.backward()
        optimizer.step()
        return value

    return step


class Pair:
    """Our model, captured and not, and PyTorch's with the same start, each with Adam and cross-entropy."""

    def __init__(
        self, make: Callable[[], Any], make_peer: Callable[[ModuleType], Any] | None, lr: float = 1e-3
    ) -> None:
        self.torch = torch_or_none() if make_peer is not None else None
        self.loss = nn.CrossEntropyLoss()
        self.model, self.replayed = make(), make()
        for p, q in zip(self.model.parameters(), self.replayed.parameters(), strict=True):
            q.array = p.array.copy()
        self.optimizer = optim.Adam(self.model.parameters(), lr=lr)
        self.captured = compile(self.replayed, self.loss, optim.Adam(self.replayed.parameters(), lr=lr))
        if self.torch is not None and make_peer is not None:
            self.peer = make_peer(self.torch)
            self.peer_step = torch_step(self.torch, self.peer, lr)
            with self.torch.no_grad():
                for p, q in zip(self.model.parameters(), self.peer.parameters(), strict=True):
                    q.copy_(self.torch.from_numpy(np.ascontiguousarray(p.array)))

    def eager(self, x: Any, y: Any) -> Any:
        self.optimizer.zero_grad()
        loss = self.loss(self.model(x), y)
        loss.backward()
        self.optimizer.step()
        return loss

    def steps(self, x: np.ndarray[Any, Any], y: np.ndarray[Any, Any]) -> dict[str, Callable[[], Any]]:
        """Return one step of each contestant on the same batch."""
        ours = Tensor(x)
        found: dict[str, Callable[[], Any]] = {
            "captured": lambda: self.captured(ours, y),
            "eager": lambda: self.eager(ours, y),
        }
        if self.torch is not None:
            theirs, labels = self.torch.from_numpy(x), self.torch.from_numpy(y)
            found["torch"] = lambda: self.peer_step(theirs, labels)
        return found

    def disagreement(self, batches: list[tuple[Any, Any]]) -> float:
        """Train all on the same batches, and return the largest difference of a loss from PyTorch's, or eager's."""
        worst = 0.0
        for x, y in batches:
            losses = {name: float(step().item()) for name, step in self.steps(x, y).items()}
            reference = losses.get("torch", losses["eager"])
            worst = max(worst, *(abs(loss - reference) for loss in losses.values()))
        return worst


def step_of(
    kind: str,
    make: Callable[[], Any],
    make_peer: Callable[[ModuleType], Any],
    x: np.ndarray[Any, Any],
    y: np.ndarray[Any, Any],
) -> Callable[[], Any]:
    """Return the step of one contestant alone: "captured", "eager" or "torch"."""
    if kind != "torch":
        return Pair(make, None).steps(x, y)[kind]
    torch = import_module("torch")
    step, theirs, labels = torch_step(torch, make_peer(torch)), torch.from_numpy(x), torch.from_numpy(y)
    return lambda: step(theirs, labels)


def lenet(torch: ModuleType) -> Any:
    """Return PyTorch's LeNet-5, with the layers of ours in their order."""
    t = torch.nn
    return t.Sequential(
        t.Conv2d(1, 6, 5, padding=2), t.ReLU(), t.MaxPool2d(2), t.Conv2d(6, 16, 5), t.ReLU(), t.MaxPool2d(2),
        t.Flatten(), t.Linear(400, 120), t.ReLU(), t.Linear(120, 84), t.ReLU(), t.Linear(84, 10),
    )  # fmt: skip


def lenet_pair() -> Pair:
    """Return LeNet-5 in both."""
    return Pair(LeNet5, lenet)


def resnet50_peer(torch: ModuleType, num_classes: int = 1000) -> Any:
    """Return ResNet-50 built from PyTorch's layers, its parameters named as in `models.resnet50`.

    Source: He, Zhang, Ren & Sun, CVPR 2016, with the stride in the 3 x 3 layers.
    """
    t: Any = torch.nn

    class Block(t.Module):  # type: ignore[misc]
        def __init__(self, into: int, width: int, stride: int) -> None:
            super().__init__()
            out = 4 * width
            self.conv1, self.bn1 = t.Conv2d(into, width, 1, bias=False), t.BatchNorm2d(width)
            self.conv2 = t.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
            self.bn2 = t.BatchNorm2d(width)
            self.conv3, self.bn3 = t.Conv2d(width, out, 1, bias=False), t.BatchNorm2d(out)
            self.downsample = None
            if stride > 1 or into != out:
                shortcut = t.Conv2d(into, out, 1, stride=stride, bias=False)
                self.downsample = t.Sequential(shortcut, t.BatchNorm2d(out))

        def forward(self, x: Any) -> Any:
            relu = torch.relu
            y = relu(self.bn1(self.conv1(x)))
            y = self.bn3(self.conv3(relu(self.bn2(self.conv2(y)))))
            return relu(y + (x if self.downsample is None else self.downsample(x)))

    class Network(t.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.bn1 = t.Conv2d(3, 64, 7, stride=2, padding=3, bias=False), t.BatchNorm2d(64)
            self.pool = t.MaxPool2d(3, 2, 1)
            into = 64
            for number, (width, count) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3)), 1):
                strides = [1 if number == 1 else 2, *[1] * (count - 1)]
                blocks = []
                for stride in strides:
                    blocks.append(Block(into, width, stride))
                    into = 4 * width
                setattr(self, f"layer{number}", t.Sequential(*blocks))
            self.fc = t.Linear(into, num_classes)

        def forward(self, x: Any) -> Any:
            x = self.pool(torch.relu(self.bn1(self.conv1(x))))
            x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
            return self.fc(x.mean((2, 3)))

    return Network()


def resnet18(lib: Any, base: Any) -> Any:
    """Return ResNet-18 for 32 x 32 images, built from the layers of `lib`: ours or torch.nn, with its class of modules.

    Source: He, Zhang, Ren & Sun, CVPR 2016, with the 3 x 3 stem without pool that is usual for CIFAR.
    """

    class Block(base):  # type: ignore[misc]
        def __init__(self, into: int, out: int, stride: int) -> None:
            super().__init__()
            self.conv1 = lib.Conv2d(into, out, 3, stride=stride, padding=1, bias=False)
            self.norm1 = lib.BatchNorm2d(out)
            self.conv2 = lib.Conv2d(out, out, 3, padding=1, bias=False)
            self.norm2 = lib.BatchNorm2d(out)
            self.relu1, self.relu2 = lib.ReLU(), lib.ReLU()
            self.same = stride == 1 and into == out
            if not self.same:
                self.conv3 = lib.Conv2d(into, out, 1, stride=stride, bias=False)
                self.norm3 = lib.BatchNorm2d(out)

        def forward(self, x: Any) -> Any:
            y = self.norm2(self.conv2(self.relu1(self.norm1(self.conv1(x)))))
            return self.relu2(y + (x if self.same else self.norm3(self.conv3(x))))

    stages = [(64, 64, 1), (64, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1), (256, 512, 2)]
    return lib.Sequential(
        lib.Conv2d(3, 64, 3, padding=1, bias=False), lib.BatchNorm2d(64), lib.ReLU(),
        *[Block(*stage) for stage in stages], Block(512, 512, 1),
        lib.AdaptiveAvgPool2d(1), lib.Flatten(), lib.Linear(512, 10),
    )  # fmt: skip
