"""What every test starts from: a fixed seed, and one BLAS thread per test process where several run side by side."""

import os

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")


@pytest.fixture(autouse=True)
def _fixed_seed():
    import tinygrad_cnn

    tinygrad_cnn.manual_seed(0)
