"""The settings of the value study."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from klbench.choices import AnyPair, EstimatorNames, PairOptions, ascending, every_estimator
from klbench.pairs import Pair


def _has_truth(pair: Pair) -> Pair:
    if pair.measured_with:
        raise ValueError(
            "the value study holds estimators against a divergence that is known exactly, and"
            f" {pair.kind} pairs have none; measure it with {pair.measured_with}"
        )
    return pair


class ValueOptions(PairOptions):
    """Settings of the value study.

    Parameters
    ----------
    samples
        Samples drawn from each pair.
    batches
        Batch sizes: what is estimated is the mean over a batch.
    diagnostic_samples
        Coverage, negative fractions and error distributions come from the first so many samples.
    """

    pairs: tuple[Annotated[AnyPair, AfterValidator(_has_truth)], ...] = Field(
        default=(), min_length=1
    )
    estimators: EstimatorNames = Field(default_factory=every_estimator)
    samples: int = Field(default=1_000_000, ge=2, le=10**15)
    batches: Annotated[
        tuple[Annotated[int, Field(ge=1, le=2**20)], ...],
        Field(min_length=1),
        AfterValidator(ascending),
    ] = (
        1,
        4,
        16,
        64,
        256,
        1_024,
        4_096,
    )
    diagnostic_samples: int = Field(default=2**20, ge=0)
