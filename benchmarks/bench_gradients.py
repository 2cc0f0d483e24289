"""Expected gradients by enumeration.

Every named combination on a small policy, all together on a larger one, and samples.
"""

from __future__ import annotations

from typing import Any

import pytest

from klbench import gradients, pairs
from klbench.gradients.exact import all_moments, moments


@pytest.fixture(scope="module")
def task() -> Any:
    return pairs.get("sequence")(
        vocabulary=3, horizon=3, prompts=1, width=4, kl=0.5
    ).gradient_task()


@pytest.mark.parametrize("name", gradients.names())
@pytest.mark.benchmark(max_time=0.1)
def bench_combination(name: str, task: Any, benchmark: Any) -> None:
    assert benchmark(moments, gradients.get(name), task).mean.shape == (task.parameters,)


def bench_all_combinations(benchmark: Any) -> None:
    chosen = [gradients.get(name) for name in gradients.names()]
    larger = pairs.get("sequence")(vocabulary=4, horizon=3, prompts=2, kl=0.5).gradient_task()
    assert len(benchmark(all_moments, chosen, larger)) == len(chosen)
