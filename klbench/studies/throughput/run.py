"""Terms a second of each estimator, on NumPy and torch, per dtype and device.

Timings only, in a table of their own.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import torch

from klbench import estimators, streams
from klbench.context import Context
from klbench.schema import Tables
from klbench.studies.throughput.columns import ranked
from klbench.studies.throughput.options import ThroughputOptions
from klbench.threads import one_thread
from klbench.types import Draws, Estimator


def _synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _time(call: Callable[[], Any], device: str, options: ThroughputOptions) -> np.ndarray:
    """Seconds a call, one entry a repeat, after a warm-up that also finds how many calls fill a
    repeat.
    """
    call()
    _synchronize(device)
    calls, taken = 1, 0.0
    while taken < options.seconds:
        start = time.perf_counter()
        for _ in range(calls):
            call()
        _synchronize(device)
        taken = time.perf_counter() - start
        if taken < options.seconds:
            calls *= 2
    seconds = np.empty(options.repeats)
    for k in range(options.repeats):
        start = time.perf_counter()
        for _ in range(calls):
            call()
        _synchronize(device)
        seconds[k] = (time.perf_counter() - start) / calls
    return seconds


def _calls(
    estimator: Estimator, log_ratio: np.ndarray, log_weight: np.ndarray, device: str, dtype: str
) -> dict[tuple[str, str], Any]:
    """Return the calls to time: ``(backend, pass)`` to a call without arguments."""
    weight = log_weight if estimator.needs_weight else None
    calls: dict[tuple[str, str], Any] = {}
    if device == "cpu" and dtype != "bfloat16":
        x = log_ratio.astype(dtype)
        w = None if weight is None else weight.astype(dtype)
        calls["numpy", "forward"] = lambda: estimator.terms(
            Draws(x, w)
        )  # fresh draws: nothing is shared between calls
    kind = getattr(torch, dtype)
    t = torch.tensor(log_ratio, dtype=kind, device=device)
    v = None if weight is None else torch.tensor(weight, dtype=kind, device=device)
    leaf = t.clone().requires_grad_()

    def backward() -> None:
        torch.autograd.grad(estimator.terms(Draws(leaf, v)).sum(), leaf)

    calls["torch", "forward"] = lambda: estimator.terms(Draws(t, v))
    calls["torch", "forward and backward"] = backward
    return calls


def run(options: ThroughputOptions, context: Context) -> Tables:
    """Table ``throughput``: one row an estimator, backend, pass and dtype."""
    stream = streams.generator(context.seed, "throughput")
    log_ratio, log_weight = 0.3 * stream.standard_normal((2, options.samples))
    name = torch.cuda.get_device_name() if context.device == "cuda" else "cpu"
    rows = []
    with one_thread():  # as many as NumPy uses: what is compared is the arithmetic
        for done, estimator in enumerate(map(estimators.get, options.estimators)):
            context.progress(done, len(options.estimators), estimator.name)
            for dtype in options.dtypes:
                for (backend, direction), call in _calls(
                    estimator, log_ratio, log_weight, context.device, dtype
                ).items():
                    rate = options.samples / _time(call, context.device, options)
                    low, median, high = np.quantile(rate, (0.25, 0.5, 0.75))
                    rows.append(
                        {
                            "estimator": estimator.name,
                            "backend": backend,
                            "pass": direction,
                            "dtype": dtype,
                            "device": name,
                            "samples": options.samples,
                            "terms_per_second": median,
                            "terms_per_second_q25": low,
                            "terms_per_second_q75": high,
                            "repeats": options.repeats,
                        }
                    )
    return {"throughput": ranked(pd.DataFrame(rows))}
