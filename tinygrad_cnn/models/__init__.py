"""Networks, by name: `models.build("lenet5")`."""

from .dense import MLP, LogisticRegression
from .lenet import LeNet5, LeNet5Original, map_loss
from .registry import NAMES, build

__all__ = ["MLP", "NAMES", "LeNet5", "LeNet5Original", "LogisticRegression", "build", "map_loss"]
