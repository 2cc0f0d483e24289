"""Terms of every registered estimator: NumPy and torch, forward, and backward by autograd."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from klbench import estimators, streams
from klbench.types import Draws

SAMPLES = 65_536

every = pytest.mark.parametrize("name", estimators.names())


@pytest.fixture(scope="module")
def logs() -> np.ndarray:
    """Log-ratios and log-weights, float32 as in a trainer."""
    return (0.3 * streams.generator(0, "benchmarks").standard_normal((2, SAMPLES))).astype(
        np.float32
    )


def draws(estimator: Any, log_ratio: Any, log_weight: Any) -> Draws:
    return Draws(log_ratio, log_weight if estimator.needs_weight else None)


@every
def bench_numpy(name: str, logs: np.ndarray, benchmark: Any) -> None:
    estimator = estimators.get(name)
    terms = benchmark(
        lambda: estimator.terms(draws(estimator, *logs))
    )  # fresh draws: calls share nothing
    assert terms.shape == (SAMPLES,)


@every
def bench_torch(name: str, logs: np.ndarray, benchmark: Any) -> None:
    import torch

    estimator, tensors = estimators.get(name), torch.from_numpy(logs)
    terms = benchmark(lambda: estimator.terms(draws(estimator, *tensors)))
    assert terms.shape == (SAMPLES,)


@every
def bench_torch_backward(name: str, logs: np.ndarray, benchmark: Any) -> None:
    import torch

    estimator, (log_ratio, log_weight) = estimators.get(name), torch.from_numpy(logs)
    leaf = log_ratio.clone().requires_grad_()

    def backward() -> Any:
        return torch.autograd.grad(estimator.terms(draws(estimator, leaf, log_weight)).sum(), leaf)

    (gradient,) = benchmark(backward)
    assert gradient.shape == (SAMPLES,)
