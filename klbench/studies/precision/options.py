"""The settings of the precision study."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from klbench.choices import chosen_estimators
from klbench.types import Options

Name = Literal["k3", "bregman_kl_pq", "bregman_js", "bregman_hellinger", "bregman_chi2"]


Dtype = Literal["float64", "float32", "bfloat16", "float16"]


class PrecisionOptions(Options):
    """Settings of the precision study.

    Parameters
    ----------
    estimators
        Which to look at, of k3 and the Bregman family.
    points
        Log-ratios drawn in each decade and of each sign.
    smallest, largest
        Decades of ``|log r|``: from ``10^smallest`` to ``10^largest``.
    """

    estimators: Annotated[tuple[Name, ...], BeforeValidator(chosen_estimators)] = (
        "k3",
        "bregman_kl_pq",
        "bregman_js",
        "bregman_hellinger",
        "bregman_chi2",
    )
    dtypes: tuple[Dtype, ...] = ("float64", "float32", "bfloat16")
    points: int = Field(default=16, ge=2, le=10_000)
    smallest: int = Field(default=-12, ge=-30, le=0)
    largest: int = Field(default=2, ge=1, le=2)
