"""What a model gets right on a data set, and what it takes for what."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np

from ..backend import namespace, to_host
from ..errors import DataError
from ..graph import no_grad

__all__ = ["Evaluation", "evaluate"]


@dataclass(frozen=True)
class Evaluation:
    """The outcome of `evaluate()` over n samples.

    Attributes:
        loss: mean loss per sample.
        accuracy: share of samples whose highest output is that of their class, or None if outputs are no classes.
        labels: the true classes (n,), or None.
        predictions: the model's answers (n,), or None.
        confidence: the softmax probability of each answer (n,), or None.
        count: n.
        seconds: how long it took.
    """

    loss: float
    accuracy: float | None
    labels: Any
    predictions: Any
    confidence: Any
    count: int
    seconds: float

    @property
    def confusion(self) -> Any:
        """The confusion matrix (k, k): how many samples of the class of the row were taken for that of the column.

        Raises:
            DataError: the model's outputs are no classes.
        """
        if self.labels is None:
            raise DataError("there is no confusion matrix: the model's outputs are not scores of classes")
        k = int(max(self.labels.max(initial=0), self.predictions.max(initial=0))) + 1
        return np.bincount(self.labels * k + self.predictions, minlength=k * k).reshape(k, k)

    @property
    def mistakes(self) -> Any:
        """The positions of the misclassified samples, in the order of the data set."""
        return np.flatnonzero(self.labels != self.predictions)


def evaluate(model: Any, loader: Any, loss: Callable[[Any, Any], Any] | None = None) -> Evaluation:
    """Return the mean loss of a model over the batches of a loader, its accuracy, and each of its answers.

    The model is put into evaluation mode and back; nothing is recorded and no random number is drawn.

    Args:
        model: called with the inputs of a batch; returns scores (n, k) of k classes for an accuracy to be counted.
        loader: yields (inputs, targets); do not shuffle it if the answers are to be matched with the samples.
        loss: `loss(outputs, targets)`, the mean over a batch; cross-entropy if None.

    Raises:
        DataError: the loader yields nothing.
    """
    if loss is None:
        from ..nn import functional

        loss = functional.cross_entropy
    was_training = getattr(model, "training", False)
    model.eval()
    started = perf_counter()
    total, count = 0.0, 0
    labels, predictions, confidence = [], [], []
    try:
        with no_grad():
            for x, y in loader:
                outputs = model(x)
                n = len(y)
                total += float(loss(outputs, y)) * n
                count += n
                if are_classes(outputs, y):
                    answers, share = _answers(array_of(outputs))
                    labels.append(to_host(array_of(y)))
                    predictions.append(answers)
                    confidence.append(share)
    finally:
        model.train(was_training)
    if not count:
        raise DataError("there is nothing to evaluate: the loader has no batches")
    seconds = perf_counter() - started
    if not labels:
        return Evaluation(total / count, None, None, None, None, count, seconds)
    true, given, sure = (np.concatenate(parts) for parts in (labels, predictions, confidence))
    return Evaluation(total / count, float(np.mean(true == given)), true, given, sure, count, seconds)


def array_of(value: Any) -> Any:
    """Return the array of a tensor, or the array itself."""
    return getattr(value, "array", value)


def are_classes(outputs: Any, targets: Any) -> bool:
    """Return whether outputs (n, k) and targets (n,) are scores of k classes and labels."""
    scores, labels = array_of(outputs), array_of(targets)
    if not hasattr(scores, "dtype") or not hasattr(labels, "dtype"):
        return False
    return bool(scores.ndim == 2 and labels.ndim == 1 and labels.dtype.kind in "iu")


def _answers(scores: Any) -> tuple[Any, Any]:
    """Return the class with the highest score and its softmax probability, 1 / sum exp(score - highest)."""
    xp = namespace(scores)
    highest = scores.max(axis=1, keepdims=True)
    share = 1 / xp.exp(scores - highest).sum(axis=1)
    return to_host(scores.argmax(axis=1)), to_host(share)
