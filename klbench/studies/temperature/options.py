"""The settings of the temperature study."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from klbench.choices import AnyPair, Listed, PairOptions, ascending
from klbench.pairs import Pair
from klbench.pairs._base import Temperature
from klbench.pairs.categorical import CategoricalPair
from klbench.pairs.lm import LmPair
from klbench.pairs.sequence import SequencePair

TEMPERATURES = (0.4, 0.6, 0.8, 1.0, 1.2, 1.5)


def _with_logits(pair: Pair) -> Pair:
    if not isinstance(pair, CategoricalPair | SequencePair | LmPair):
        raise ValueError(
            f"{pair.kind} pairs have no logits; pairs with logits: categorical, sequence, lm"
        )
    if pair.off_policy or pair.scored_temperature != 1.0:
        raise ValueError(
            "the samplers here are the policy at each of temperatures=[...]: leave out mu, lag,"
            " mismatch, top_p, top_k and the pair's own temperatures"
        )
    return pair


class TemperatureOptions(PairOptions):
    """Settings of the temperature study.

    Parameters
    ----------
    temperatures
        By which the logits are divided.
    samples
        Completions of each pair of language models at each temperature.
    """

    pairs: tuple[Annotated[AnyPair, AfterValidator(_with_logits)], ...] = Field(
        default=(), min_length=1
    )
    temperatures: Annotated[Listed[Temperature], AfterValidator(ascending)] = TEMPERATURES
    samples: int = Field(default=256, ge=2, le=10**6)
