"""Every error a user can meet. Each subclasses the built-in it is nearest to, so `except ValueError` works too."""

__all__ = [
    "AnomalyError",
    "CheckpointError",
    "DTypeError",
    "DataError",
    "DeviceError",
    "GraphError",
    "MissingExtraError",
    "OptionError",
    "ProcessError",
    "ShapeError",
    "TinygradError",
]


class TinygradError(Exception):
    """Base of all errors raised on purpose by this package."""


class ShapeError(TinygradError, ValueError):
    """Arrays whose shapes do not fit each other or the operation."""


class DTypeError(TinygradError, TypeError):
    """An element type that the operation cannot work with."""


class OptionError(TinygradError, ValueError):
    """An option outside of its range, or options that contradict each other."""


class GraphError(TinygradError, RuntimeError):
    """The recorded graph cannot be differentiated as asked: freed, edited, not recorded, or without a seed."""


class AnomalyError(GraphError):
    """Under `detect_anomaly()`, an op or a gradient rule made a NaN or an infinity."""


class DeviceError(TinygradError, RuntimeError):
    """A device that is not there, or operands that live on different devices."""


class DataError(TinygradError, ValueError):
    """A data file or data set that is damaged or not of the expected form."""


class CheckpointError(TinygradError, ValueError):
    """A checkpoint or state dict that is damaged or does not fit the model."""


class MissingExtraError(TinygradError, ImportError):
    """A feature whose optional packages are not installed; the message names the command that installs them."""


class ProcessError(TinygradError, RuntimeError):
    """A helper process ended in the middle of something that cannot be done again."""
