"""Networks, by name: `models.build("lenet5")`."""

from .dense import MLP, LogisticRegression
from .lenet import LeNet5
from .registry import NAMES, build

__all__ = ["MLP", "NAMES", "LeNet5", "LogisticRegression", "build"]
