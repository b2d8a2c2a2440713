"""Training: the loop, early stopping, evaluation, and checkpoints from which a run resumes to the bit."""

from .checkpoint import load_checkpoint, load_state_dict_file, save_checkpoint, save_state_dict_file
from .evaluation import Evaluation, evaluate
from .fitting import DivergedError, Progress, fit
from .history import History
from .stopping import EarlyStopping

__all__ = [
    "DivergedError",
    "EarlyStopping",
    "Evaluation",
    "History",
    "Progress",
    "evaluate",
    "fit",
    "load_checkpoint",
    "load_state_dict_file",
    "save_checkpoint",
    "save_state_dict_file",
]
