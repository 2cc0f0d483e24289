"""The settings of the lambda study."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from klbench.choices import PairOptions
from klbench.pairs import Pair
from klbench.studies.gradient.options import Differentiable
from klbench.types import Skip


def _enumerable(pair: Pair) -> Pair:
    task = pair.gradient_task()
    if isinstance(task, Skip) or task.atoms() is None:
        raise ValueError(
            f"{pair.kind} pairs have no end of samples; this needs categorical or sequence"
        )
    if task.staleness:
        raise ValueError(
            "its samples come from another distribution; the best lambda is measured on-policy"
        )
    return pair


class LambdaOptions(PairOptions):
    """Settings of the lambda study.

    Pairs that can be enumerated and are sampled by their own policy.
    """

    pairs: tuple[Annotated[Differentiable, AfterValidator(_enumerable)], ...] = Field(
        default=(), min_length=1
    )
