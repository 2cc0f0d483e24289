"""The settings of the distillation study."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

from klbench.choices import AnyPair, PairOptions
from klbench.pairs import Pair
from klbench.pairs.categorical import CategoricalPair
from klbench.pairs.lm import LmPair
from klbench.pairs.sequence import SequencePair
from klbench.rlhf import objectives
from klbench.studies.gradient.options import listed


def _distillable(pair: Pair) -> Pair:
    if not isinstance(pair, CategoricalPair | SequencePair | LmPair):
        raise ValueError(
            f"{pair.kind} pairs have no logits of a student; pairs with logits: categorical, sequence, lm"
        )
    if pair.off_policy:
        raise ValueError(
            "the student samples by itself here: leave out mu and lag, and sample from the distribution that is scored"
        )
    return pair


def _known(names: tuple[str, ...]) -> tuple[str, ...]:
    found = [objectives.get(name).name for name in names]
    twice = [name for name in found if found.count(name) > 1]
    if twice:
        raise ValueError(f"{twice[0]} is named twice")
    return names


Objectives = Annotated[
    tuple[str, ...], BeforeValidator(listed), Field(min_length=1), AfterValidator(_known)
]


class DistillOptions(PairOptions):
    """Settings of the distillation study.

    Parameters
    ----------
    objectives
        Their names: see :mod:`klbench.rlhf.objectives`.
    ks
        Sizes of the supports, of the student's most probable tokens and of the teacher's.
    samples
        Completions of each pair of language models.
    updates
        Updates of the training; 0: nothing is trained.
    """

    pairs: tuple[Annotated[AnyPair, AfterValidator(_distillable)], ...] = Field(
        default=(), min_length=1
    )
    objectives: Objectives = tuple(objectives.names())
    ks: Annotated[
        tuple[Annotated[int, Field(ge=1)], ...], BeforeValidator(listed), Field(min_length=1)
    ] = (1, 8, 64)
    samples: int = Field(default=256, ge=2, le=10**6)
    updates: int = Field(default=0, ge=0, le=100_000)
