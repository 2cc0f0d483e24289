"""How long estimating takes beside drawing, in one run.

``pytest benchmarks/test_value_speed.py -m heavy -s``.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np
import pytest

from klbench import pairs, streams, studies
from klbench.context import Context
from klbench.studies.value.run import PANEL, SHARD
from klbench.threads import one_thread

CORE = (
    "k1",
    "k2",
    "k3",
    "k_lambda",
    "k_fitted",
    "bregman_kl_qp",
    "bregman_kl_pq",
    "k3_clamped",
    "abs",
)
SAMPLES = 100_000_000
WORKERS = 2

pytestmark = pytest.mark.heavy


def draw(shard: int) -> float:
    """Draw one shard of normals and do nothing with them."""
    stream, buffer = streams.generator(0, "draw", shard), np.empty(PANEL)
    with one_thread(torch=False):
        for _ in range(SHARD // PANEL):
            stream.standard_normal(out=buffer)
    return float(buffer[0])


def seconds_to_draw(context: Context) -> float:
    """Time to draw the same number of normals with the same workers."""
    start = time.perf_counter()
    for _ in context.map(draw, ((k,) for k in range(-(-SAMPLES // SHARD)))):
        pass
    return time.perf_counter() - start


def seconds_to_measure(context: Context, **settings: Any) -> float:
    """Time of the whole study on one pair."""
    study = studies.get("value")
    options = study.options(estimators=CORE, samples=SAMPLES, **settings)
    start = time.perf_counter()
    study.run(options, context)
    return time.perf_counter() - start


@pytest.mark.parametrize("shift", [0.1, 1.0])
@pytest.mark.parametrize(
    "settings",
    [{"batches": (1024,), "diagnostic_samples": 0}, {"batches": (1024,)}, {}],
    ids=["one batch size, means only", "one batch size", "all defaults"],
)
def test_ratio_to_drawing(
    shift: float, settings: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """Prints the ratio; nothing is asserted of it here, since the machine may be shared."""
    context = Context(seed=0, workers=WORKERS)
    pair = pairs.get("gaussian")(q={"mean": 0.0}, p={"mean": shift})
    seconds_to_draw(context)  # starts the workers
    rounds = [
        (seconds_to_draw(context), seconds_to_measure(context, pairs=(pair,), **settings))
        for _ in range(3)
    ]
    ratios = [measured / drawn for drawn, measured in rounds]
    with capsys.disabled():
        times = f"draw {min(d for d, _ in rounds):.2f} s, measure {min(m for _, m in rounds):.2f} s"
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        print(
            f"\nshift {shift}, {settings or 'defaults'}: ratio {statistics.median(ratios):.2f}"
            f" ({spread}), {times}"
        )
