"""Data sets, batches, and random changes to images. This layer knows arrays, not tensors."""

from . import transforms
from .arrays import ArrayDataset, Dataset, Subset, TensorDataset, random_split
from .digits import Splits, mnist
from .idx import read_idx
from .loader import DataLoader
from .normalise import Affine

__all__ = [
    "Affine",
    "ArrayDataset",
    "DataLoader",
    "Dataset",
    "Splits",
    "Subset",
    "TensorDataset",
    "mnist",
    "random_split",
    "read_idx",
    "transforms",
]
