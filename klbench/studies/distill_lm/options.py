"""The settings of distillation of language models."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from klbench.choices import AnyPair, PairOptions
from klbench.pairs import Pair
from klbench.pairs.lm import LmPair
from klbench.rlhf.options import Rate, Seeds, Updates
from klbench.studies.distill.options import Arms, distillable


def _of_language(pair: Pair) -> Pair:
    if not isinstance(pair, LmPair):
        raise ValueError(f"{pair.kind} pairs are no language models; use pair=lm, or +exp=distill")
    return distillable(pair)


TRAINING = (
    *("full", "full:kl_pq", "full@teacher", "topk_raw/teacher/8", "topk_raw/student/8"),
    *("topk_tail_bucket/teacher/8", "topk_sampled_tail/student/8", "topk_corrected_tail/student/8"),
    *("k1_reward:0", "k3_loss"),
)


class DistillLmOptions(PairOptions):
    """Settings of the study.

    Parameters
    ----------
    pairs
        One of language models: the policy is the student before training, the reference is the
        teacher.
    training
        As in the distillation study.
    updates, every
        Updates of the training, and those between evaluations.
    seeds
        How many; each draws its own prompts and samples, the same for all that is trained.
    completions
        Completions in a batch, each of a prompt of its own.
    evaluated
        Completions of the student in an evaluation, the same prompts and random numbers every time.
    learning_rate, gradient_clip, decay
        Of AdamW; the largest norm of a gradient (null: any); whether the rate falls to 0 along a
        line.
    """

    pairs: tuple[Annotated[AnyPair, AfterValidator(_of_language)], ...] = Field(
        default=(), min_length=1, max_length=1
    )
    training: Arms = TRAINING
    updates: Updates = 60
    every: int = Field(default=20, ge=1)
    seeds: Seeds = 2
    completions: int = Field(default=16, ge=1, le=65_536)
    evaluated: int = Field(default=64, ge=2, le=65_536)
    learning_rate: Rate = 1e-3
    gradient_clip: float | None = Field(default=1.0, gt=0.0)
    decay: bool = True
