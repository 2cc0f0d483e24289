"""The settings of the lm study."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from klbench import estimators, pairs
from klbench.choices import AnyPair, EstimatorNamesOrNone, PairOptions
from klbench.pairs import Pair
from klbench.types import Dtype, Estimator

CORE = ("k1", "k2", "k3", "k_lambda", "abs", "k3_clamped", "k3_verl", "bregman_kl_pq")


WEIGHTED = ("k1_weighted", "k2_weighted", "k3_weighted")


RESCORED, ONE_IN = 256, 8
"""The most completions that are scored again, and one in how many, unless the settings say."""
SAMPLES = 2_048
"""Completions of each pair that can make any number, unless the settings say how many."""


def _has_tokens(pair: Pair) -> Pair:
    if not pair.capabilities.completions:
        kinds = [name for name in pairs.names() if pairs.get(name).capabilities.completions]
        raise ValueError(f"{pair.kind} pairs have no tokens; pairs with tokens: {', '.join(kinds)}")
    return pair


class LmOptions(PairOptions):
    """Settings of the study of completions.

    Parameters
    ----------
    estimators
        Those that are means of terms; where none are named: the usual ones, and the weighted ones
        where a third distribution sampled.
    samples
        Completions of each pair; all there are, or 2,048 where there is no end of them.
    shard
        Completions that are made and measured at once.
    rescored, dtypes, truncations
        So many completions, at most all that are measured, are scored again in these formats, and
        with so many of the most probable tokens told apart from the rest, where the pair can. Where
        no number is named, one in eight and at most 256: they cost less than the measurement.
    path
        The file that ``pair=recorded`` reads.
    """

    pairs: tuple[Annotated[AnyPair, AfterValidator(_has_tokens)], ...] = Field(
        default=(), min_length=1
    )
    estimators: EstimatorNamesOrNone = None
    samples: int | None = Field(default=None, ge=2, le=10**12)
    shard: int = Field(default=256, ge=1, le=65_536)
    rescored: int | None = Field(default=None, ge=0, le=10**6)
    dtypes: tuple[Dtype, ...] = ("bfloat16",)
    truncations: tuple[Annotated[int, Field(ge=1)], ...] = (1, 8, 64)
    path: str | None = None

    def chosen(self, pair: Pair) -> tuple[Estimator, ...]:
        """Return the estimators to measure on a pair."""
        names = (
            self.estimators
            if self.estimators is not None
            else CORE + (WEIGHTED if pair.off_policy else ())
        )
        return tuple(estimators.get(name) for name in names)

    def completions(self, pair: Pair) -> int:
        """Return the number of a pair's completions to measure."""
        asked = self.samples or pair.available or SAMPLES
        return asked if pair.available is None else min(asked, pair.available)

    def drawn(self, pair: Pair) -> int:
        """Return the number of a pair's completions that are drawn at once."""
        return min(self.shard, self.completions(pair))  # lest more be made than are asked for

    def again(self, pair: Pair) -> int:
        """Return the number of a pair's completions to score again."""
        total = self.completions(pair)
        few = min(RESCORED, max(2, total // ONE_IN))
        return min(few if self.rescored is None else self.rescored, total)
