"""What every test starts from: fixed seeds, and one BLAS thread per test process where several run side by side."""

import os

import pytest
from hypothesis import settings
from on_devices import runs_on_the_standin

# The same examples in every run, so that a failure belongs to a change. HYPOTHESIS_PROFILE=search draws new ones.
settings.register_profile("suite", derandomize=True, deadline=None)
settings.register_profile("search", derandomize=False, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))

if "PYTEST_XDIST_WORKER" in os.environ:
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")


def pytest_generate_tests(metafunc):
    """Run a test twice: with the CPU, and with the strict stand-in for a GPU, as the device of new tensors."""
    if runs_on_the_standin(metafunc.module.__name__, metafunc.function.__name__):
        metafunc.parametrize("_device", ["cpu", "standin"], indirect=True)


@pytest.fixture(autouse=True)
def _device(request, monkeypatch):
    """The device on which a test makes its tensors."""
    import tinygrad_cnn

    name = getattr(request, "param", "cpu")
    if name != "cpu":
        import standin

        standin.install()
        standin.use_own_kernels(False)
        monkeypatch.setattr(tinygrad_cnn.Tensor, "made", standin.made_there(tinygrad_cnn.Tensor.made))
    tinygrad_cnn.manual_seed(0)
    with tinygrad_cnn.use_device(name):
        yield name
    if name != "cpu":
        standin.use_own_kernels(True)
