"""The settings of the gradient study."""

from __future__ import annotations

from typing import Annotated, get_args

from pydantic import AfterValidator, Field, model_validator

from klbench import gradients, pairs
from klbench.choices import AnyPair, EstimatorNamesOrNone, Listed, PairOptions
from klbench.gradients import Baseline, Combination, Level, Placement, grid
from klbench.gradients.corrections import factors
from klbench.pairs import Pair
from klbench.types import Skip

BATCHES = 256
"""Independent batches that a sampled gradient comes from: their spread is its standard error."""


def _differentiable(pair: Pair) -> Pair:
    task = pair.gradient_task()
    if isinstance(task, Skip):
        raise ValueError(f"{task.reason}; pairs with a policy gradient: {', '.join(_kinds())}")
    truth = pair.truth("kl_qp")
    if truth is not None and truth.value == 0.0:
        raise ValueError("policy and reference are the same: there is no gradient to compare with")
    return pair


def _kinds() -> list[str]:
    return [
        name for name in pairs.names() if pairs.get(name).gradient_task is not Pair.gradient_task
    ]


def _known(names: tuple[str, ...]) -> tuple[str, ...]:
    if names == ("all",):
        return tuple(gradients.names())
    seen: dict[str, str] = {}
    for name in names:
        spec = gradients.get(name).spec
        if spec in seen:
            raise ValueError(f"{seen[spec]} and {name} are the same combination")
        seen[spec] = name
    return names


Differentiable = Annotated[AnyPair, AfterValidator(_differentiable)]


Combinations = Annotated[Listed[str], AfterValidator(_known)]


def _correction(text: str) -> str:
    factors(text)
    return text


Correction = Annotated[str, AfterValidator(_correction)]


class GradientOptions(PairOptions):
    """Settings of the gradient study.

    Parameters
    ----------
    combinations
        Names of combinations, or ``estimator/placement/level/correction/baseline``; all that have a
        name where neither these nor the next are given.
    estimators, placements, levels, corrections, baselines
        Instead: every combination of these that goes together.
    group
        Samples of one prompt that share a baseline.
    samples
        Samples of each pair whose gradients are known neither by enumeration nor in closed form.
    """

    pairs: tuple[Differentiable, ...] = Field(default=(), min_length=1)
    combinations: Combinations | None = None
    estimators: EstimatorNamesOrNone = None
    placements: Listed[Placement] | None = None
    levels: Listed[Level] | None = None
    corrections: Listed[Correction] | None = None
    baselines: Listed[Baseline] | None = None
    group: int = Field(default=8, ge=2, le=4096)
    samples: int = Field(default=65_536, le=10**9)

    @model_validator(mode="after")
    def _check(self) -> GradientOptions:
        if self.combinations is not None and self._axes != (None,) * 5:
            raise ValueError(
                "give combinations, or estimators, placements, levels, corrections and baselines,"
                " not both"
            )
        if self.samples < BATCHES * self.group:
            raise ValueError(
                f"samples={self.samples} must be at least {BATCHES} times group={self.group}:"
                f" {BATCHES * self.group}"
            )
        if not self.chosen():
            raise ValueError(
                "no combination of these estimators, placements, levels, corrections and baselines"
                " goes together"
            )
        return self

    @property
    def _axes(self) -> tuple[object, ...]:
        return (self.estimators, self.placements, self.levels, self.corrections, self.baselines)

    def chosen(self) -> list[Combination]:
        """The combinations to measure."""
        if self._axes == (None,) * 5:
            return [gradients.get(name) for name in self.combinations or gradients.names()]
        return list(
            grid(
                self.estimators or ("k1", "k2", "k3"),
                self.placements or get_args(Placement),
                self.levels or get_args(Level),
                self.corrections or ("none",),
                self.baselines or ("none",),
            )
        )
