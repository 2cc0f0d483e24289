"""The settings of the distillation study."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated

from pydantic import AfterValidator, Field

from klbench.choices import AnyPair, Listed, PairOptions
from klbench.pairs import Pair
from klbench.pairs.categorical import CategoricalPair
from klbench.pairs.lm import LmPair
from klbench.pairs.sequence import SequencePair
from klbench.policies import check_number
from klbench.rlhf import objectives
from klbench.rlhf.objectives import MOST_TOKENS, Arm, Objective
from klbench.rlhf.options import Rate, Seeds, ShapeOptions

MOST_SEQUENCES = 200_000
"""The most sequences after all prompts of one seed."""


def distillable(pair: Pair) -> Pair:
    """Return a pair with logits whose student samples by itself.

    Raises
    ------
    ValueError
        It has none, or another distribution samples.
    """
    if not isinstance(pair, CategoricalPair | SequencePair | LmPair):
        raise ValueError(
            f"{pair.kind} pairs have no logits of a student; pairs with logits: categorical,"
            " sequence, lm"
        )
    if pair.off_policy:
        raise ValueError(
            "the student samples by itself here: leave out mu and lag, and sample from the"
            " distribution that is scored"
        )
    return pair


def _different(names: tuple[str, ...], read: Callable[[str], Objective | Arm]) -> tuple[str, ...]:
    """Return names of different objectives, or arms, as ``read`` understands them.

    Raises
    ------
    ValueError
        There is none of a name, or two names are of the same.
    """
    found = [read(name) for name in names]
    same = [name for name, each in zip(names, found, strict=True) if found.count(each) > 1]
    if same:
        raise ValueError(f"{' and '.join(same[:2])} are the same")
    return names


def _known(names: tuple[str, ...]) -> tuple[str, ...]:
    return _different(names, _unnamed)


def _unnamed(name: str) -> Objective:
    return replace(objectives.get(name), name="")


Objectives = Annotated[Listed[str], AfterValidator(_known)]


TRAINING = (
    *("full", "full_with_score", "full:kl_pq", "full@teacher", "full:kl_pq@teacher", "jsd:0.5"),
    *("topk_raw/teacher/2", "topk_raw/student/2", "topk_raw:kl_pq/teacher/2"),
    *("topk_clamped/teacher/2", "topk_renormalized/teacher/2", "topk_tail_bucket/teacher/2"),
    *("topk_sampled_tail/student/2", "topk_corrected_tail/student/2"),
    *("k1_reward:0", "k1_reward:0:token_kl", "k1_reward:0.9", "k1_reward:1", "k3_loss"),
)


def arms(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return names of arms, each of which there is, once."""
    return _different(names, _unnamed_arm)


def _unnamed_arm(name: str) -> Arm:
    arm = objectives.arm(name)
    return replace(arm, name="", objective=replace(arm.objective, name=""))


Arms = Annotated[Listed[str], AfterValidator(arms)]


def _enumerable(shape: ShapeOptions) -> ShapeOptions:
    sequences = shape.leaves * shape.prompts
    check_number(shape, sequences, "sequences", MOST_SEQUENCES, "are enumerated at every step")
    return shape


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
    training
        What is trained: ``OBJECTIVE``, or ``OBJECTIVE/student/K`` with a support; ``@teacher``
        after it: at the states of the teacher's sequences. The others are compared with the first.
    updates
        Updates of the training; 0: nothing is trained.
    every
        Updates between evaluations.
    seeds
        How many; each draws its own teacher, student and samples.
    rest_seeds, rest_steps
        Seeds of which free students follow exact gradients to where they rest, and their steps; 0:
        none.
    group
        Sequences of each prompt in a batch.
    learning_rate, gradient_clip, decay
        Of Adam; the largest norm of a gradient (null: any); whether the rate falls to 0 along a
        line.
    testbed
        The shape of teacher and student in training.
    """

    pairs: tuple[Annotated[AnyPair, AfterValidator(distillable)], ...] = Field(
        default=(), min_length=1
    )
    objectives: Objectives = tuple(objectives.names())
    ks: Listed[Annotated[int, Field(ge=1, le=MOST_TOKENS)]] = (1, 8, 64)
    samples: int = Field(default=256, ge=2, le=10**6)
    training: Arms = TRAINING
    updates: int = Field(default=0, ge=0, le=100_000)
    every: int = Field(default=20, ge=1)
    seeds: Seeds = 8
    rest_seeds: int = Field(default=4, ge=0, le=4096)
    rest_steps: int = Field(default=200, ge=4, le=100_000)
    group: int = Field(default=8, ge=1, le=4096)
    learning_rate: Rate = 0.02
    gradient_clip: float | None = Field(default=1.0, gt=0.0)
    decay: bool = True
    testbed: Annotated[ShapeOptions, AfterValidator(_enumerable)] = ShapeOptions(
        model="gru", vocabulary=6, horizon=4, prompts=8, width=8
    )
