"""The throughput study: rates, in a table of their own."""

import numpy as np
import pytest
import torch

from klbench import estimators
from klbench.context import Context
from klbench.studies.throughput import run as throughput_run
from klbench.studies.throughput.options import ThroughputOptions

LOG_RATIO = np.linspace(-1.0, 1.0, 8)


def test_rates_are_positive_and_in_order_for_all_there_is() -> None:
    names = estimators.names()
    options = ThroughputOptions(estimators=tuple(names), samples=64, repeats=3, seconds=1e-5)
    threads = torch.get_num_threads()
    tables = throughput_run.run(options, Context(0))
    assert torch.get_num_threads() == threads
    assert list(tables) == ["throughput"]
    table = tables["throughput"]
    assert len(table) == len(names) * (2 * 3 + 1 * 2)
    assert not table.duplicated(["estimator", "backend", "pass", "dtype"]).any()
    assert set(table["estimator"]) == set(names)
    assert set(table["backend"]) == {"numpy", "torch"}
    assert (table["terms_per_second_q25"] > 0).all()
    assert (table["terms_per_second_q25"] <= table["terms_per_second"]).all()
    assert (table["terms_per_second"] <= table["terms_per_second_q75"]).all()
    assert (table["samples"] == 64).all()
    assert set(table["device"]) == {"cpu"}


def test_a_rate_is_terms_over_seconds(monkeypatch) -> None:
    """With a clock that runs a second a call: two of its ticks enclose each block of calls."""
    ticks = iter(range(10_000))
    monkeypatch.setattr(throughput_run.time, "perf_counter", lambda: float(next(ticks)))
    options = ThroughputOptions(
        estimators=("k1",), samples=1000, repeats=3, seconds=1.0, dtypes=("float64",)
    )
    table = throughput_run.run(options, Context(0))["throughput"]
    assert table["terms_per_second"].tolist() == [1000.0] * 3


def test_numpy_terms_are_made_anew_in_every_call() -> None:
    """Draws keep what estimators derive from them; what is timed must not find it there."""
    timed = throughput_run._calls(estimators.get("k3"), LOG_RATIO, np.zeros(8), "cpu", "float64")[
        "numpy", "forward"
    ]
    assert timed() is not timed()
    assert (timed() == estimators.get("k3").terms(LOG_RATIO)).all()


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_what_is_timed_has_the_dtype_it_is_listed_under(dtype: str) -> None:
    calls = throughput_run._calls(estimators.get("k3"), LOG_RATIO, np.zeros(8), "cpu", dtype)
    assert str(calls["torch", "forward"]().dtype) == f"torch.{dtype}"
    assert (("numpy", "forward") in calls) == (dtype != "bfloat16")  # which NumPy has not
    if dtype != "bfloat16":
        assert str(calls["numpy", "forward"]().dtype) == dtype
