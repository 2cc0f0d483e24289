"""The kernels that can run here; Triton's in its interpreter where there is no GPU."""

import importlib.util

import pytest
import torch

NO_TRITON = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed"
)
# Of numbers that are not taken: in the interpreter they are NumPy's, which says so.
QUIET = pytest.mark.filterwarnings(
    "ignore:(overflow|invalid value|divide by zero) encountered:RuntimeWarning"
)


@pytest.fixture(params=["reference", "cpu", pytest.param("triton", marks=[NO_TRITON, QUIET])])
def kernel(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def device(kernel: str) -> str:
    return "cuda" if kernel == "triton" and torch.cuda.is_available() else "cpu"
