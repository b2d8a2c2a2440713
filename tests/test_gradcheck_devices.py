"""Tensors on another device: compared on the CPU in float64, and what the device gives is judged too."""

import numpy as np
import standin

from tinygrad_cnn import Tensor, nn, ops
from tinygrad_cnn.backend import to_host
from tinygrad_cnn.gradcheck import gradcheck

standin.install()
X = np.random.default_rng(0).normal(size=(3, 4))


def there(values, dtype):
    return Tensor.made(standin.asarray(values.astype(dtype)))


def test_tensors_of_a_device_are_checked_and_stay_where_they_are():
    x, w = there(X, np.float32), there(X.T @ X, np.float32)
    report = gradcheck(lambda x, w: ops.tanh(x @ w), (x, w), seed=0)
    assert report
    assert "rounding only" in report.parts[0].precision
    assert type(x.array) is type(standin.asarray(X))


def test_a_device_that_gives_another_gradient_fails(monkeypatch):
    def rule(g, y, x):
        right = g * (1 - y * y)
        return right if isinstance(right, np.ndarray) else right * 1.1

    monkeypatch.setattr(ops.tanh, "rules", (rule,))
    report = gradcheck(ops.tanh, (there(X, np.float64),), seed=0)
    assert not report
    assert "another one than in float64" in str(report)


def test_a_module_on_a_device_is_checked_on_the_cpu_and_put_back():
    model = nn.Linear(4, 2)
    for p in model.parameters():
        p.array = standin.asarray(to_host(p.array))
    assert gradcheck(model, (there(X, np.float32),), seed=0)
    assert all(type(p.array) is type(standin.asarray(X)) for p in model.parameters())
