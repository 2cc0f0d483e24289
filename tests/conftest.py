"""What all tests share.

How hypothesis draws, the end of worker processes, and the unit that accuracy is measured in.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import hypothesis
import mpmath
import numpy as np
import pytest

if not Path(
    "/dev/nvidiactl"
).exists():  # no GPU, and torch is not to be loaded before coverage is measured
    os.environ.setdefault(
        "TRITON_INTERPRET", "1"
    )  # read when Triton is first imported, which torch does for optimisers too

hypothesis.settings.register_profile("klbench", derandomize=True, deadline=None, max_examples=60)
hypothesis.settings.load_profile("klbench")


@pytest.fixture(scope="session", autouse=True)
def _workers_end_with_the_session() -> Iterator[None]:
    """Workers left to the interpreter's exit are killed before they have written what they
    covered.
    """
    yield
    from joblib.externals.loky import get_reusable_executor

    get_reusable_executor().shutdown(wait=True)


@pytest.fixture
def workers_at_once(monkeypatch) -> None:
    """Workers get all tasks, however short the work is: for tests of what they do."""
    monkeypatch.setattr("klbench.context.START_SECONDS", 0.0)


def _worst_ulps(got: Any, exact: Sequence[mpmath.mpf], dtype: type) -> float:
    info = np.finfo(dtype)
    errors = np.full(len(exact), np.nan)
    for i, (value, truth) in enumerate(
        zip(np.asarray(got, dtype=np.float64).ravel(), exact, strict=True)
    ):
        if abs(truth) > float(info.max):
            errors[i] = 0.0 if value == np.copysign(np.inf, float(truth)) else np.inf
        elif np.isfinite(value):
            unit = np.spacing(dtype(max(abs(float(truth)), float(info.tiny))))
            errors[i] = float(abs(mpmath.mpf(value) - truth) / mpmath.mpf(float(unit)))
        else:
            errors[i] = np.inf
    return float(errors.max())


@pytest.fixture(scope="session")
def worst_ulps() -> Callable[[Any, Sequence[mpmath.mpf], type], float]:
    """The largest error in units in the last place of ``dtype``.

    An infinity where the exact value overflows is no error.
    """
    return _worst_ulps
