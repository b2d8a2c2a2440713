"""What every test starts from: fixed seeds, and one BLAS thread per test process where several run side by side."""

import os

import pytest
from hypothesis import settings

# The same examples in every run, so that a failure belongs to a change. HYPOTHESIS_PROFILE=search draws new ones.
settings.register_profile("suite", derandomize=True, deadline=None)
settings.register_profile("search", derandomize=False, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))

if "PYTEST_XDIST_WORKER" in os.environ:
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")


@pytest.fixture(autouse=True)
def _fixed_seed():
    import tinygrad_cnn

    tinygrad_cnn.manual_seed(0)
