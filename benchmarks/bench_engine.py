"""What the value study is made of.

Drawing from every registered pair, its exact values, panels of samples, moments, tails.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from klbench import estimators, pairs, streams
from klbench.metrics.batches import PanelMeter, Plan
from klbench.metrics.moments import Moments
from klbench.metrics.tails import pareto_khat
from klbench.types import Draws

SAMPLES = 65_536
NO_DRAWS = ("lm", "recorded")
"""Pairs of completions.

The language models of ``lm`` take their time to load, so that it is not timed here.
"""
DENSITIES = [name for name in pairs.names() if name not in NO_DRAWS]


def pair(name: str) -> Any:
    """The pair that ``pair=NAME`` stands for, with what that leaves open."""
    node = pairs.get(name).node()
    more = {"random": {"size": 1_000, "kl": 0.5}} if name == "categorical" else {}
    return pairs.get(name)(**{key: value for key, value in node.items() if key != "kind"} | more)


@pytest.mark.parametrize("name", DENSITIES)
def bench_draw(name: str, benchmark: Any) -> None:
    policy = pair(name)
    drawn = benchmark(lambda: policy.draw(streams.generator(0, "benchmarks"), SAMPLES))
    assert drawn.log_ratio.shape == (SAMPLES,)


@pytest.mark.parametrize("name", DENSITIES)
def bench_exact(name: str, benchmark: Any) -> None:
    chosen = [estimators.get("k1"), estimators.get("k3")]

    def solve() -> Any:
        policy = pair(name)  # a new one: what it has worked out it would keep
        return policy.truth("kl_qp"), policy.truth("kl_pq"), policy.exact(chosen)

    assert benchmark(solve)[0].value > 0.0


def bench_recorded(tmp_path: Path, benchmark: Any) -> None:
    log_q = -streams.generator(0, "benchmarks").exponential(1.0, (200, 40)).round(4)
    rows = [{"logprobs": list(row), "ref_logprobs": list(row - 0.1)} for row in log_q]
    (tmp_path / "rollouts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    cls = pairs.get("recorded")
    found = benchmark(
        lambda: cls(path=str(tmp_path / "rollouts.jsonl")).completions(0, 0, len(rows))
    )
    assert found.log_q.shape == log_q.shape


@pytest.mark.parametrize("diagnose", [False, True], ids=["means", "diagnostics"])
def bench_panel(diagnose: bool, benchmark: Any) -> None:
    chosen = [each for each in map(estimators.get, estimators.names()) if not each.needs_weight]
    policy = pair("gaussian")
    plan = Plan(
        tuple(chosen),
        tuple(policy.truth(each.target).value for each in chosen),
        (1, 16, 256, 4_096),
    )
    log_ratio = policy.draw(streams.generator(0, "benchmarks"), SAMPLES).log_ratio

    def measure() -> Any:
        meter = PanelMeter(plan, 0)
        meter.add(Draws(log_ratio), diagnose=diagnose)
        return meter.vectors()

    assert benchmark(measure)[0].shape[0] == 1


def bench_moments(benchmark: Any) -> None:
    vectors = streams.generator(0, "benchmarks").standard_normal((32, 200))
    weights = np.full(16, 1.0)

    def merged() -> Moments:
        return Moments.of(vectors[:16], weights).merge(Moments.of(vectors[16:], weights))

    assert benchmark(merged).covariance_of_mean.shape == (200, 200)


def bench_khat(benchmark: Any) -> None:
    log_ratio = streams.generator(0, "benchmarks").standard_normal(2**15)
    assert benchmark(pareto_khat, log_ratio)[0] < 0.7
