"""The settings of the throughput study."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from klbench.choices import EstimatorNames, every_estimator
from klbench.types import Options


class ThroughputOptions(Options):
    """Settings of the throughput study.

    Parameters
    ----------
    samples
        Terms in one call.
    repeats, seconds
        Timed calls of each kind: so many blocks, each of calls that together take about so long.
    """

    estimators: EstimatorNames = Field(default_factory=every_estimator)
    samples: int = Field(default=65_536, ge=2, le=2**28)
    repeats: int = Field(default=9, ge=3, le=1000)
    seconds: float = Field(default=0.01, gt=0.0, le=60.0)
    dtypes: tuple[Literal["float64", "float32", "bfloat16"], ...] = (
        "float64",
        "float32",
        "bfloat16",
    )
