"""Settings of the DPO study."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from klbench import divergences
from klbench.policies import check_number
from klbench.rlhf.options import DpoArm, ShapeOptions

STANDARD = "dpo"
"""The arm that all others are compared with: KL of the policy from the reference, no smoothing."""
MOST_PAIRS = 400_000
"""Pairs of all prompts that one seed may have: the population's loss is their sum, at every evaluation."""


def _known(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        divergences.get(name)
        if name.startswith("alpha:") and float(name.partition(":")[2]) < 0:
            raise ValueError(
                f"{name} lets a policy lose a sequence for good at a finite price, and has no DPO: alpha must be > 0"
            )
    if len(set(names)) < len(names):
        raise ValueError("each divergence once")
    return names


def _ascending(sizes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(sorted(set(sizes)))


Divergences = Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(_known)]
Smoothing = Annotated[float, Field(gt=0.0, lt=0.5)]


def arms(names: Sequence[str], smoothings: Sequence[float], beta: float) -> tuple[DpoArm, ...]:
    """A loss for each divergence, the standard first, and for each smoothing of the standard."""
    others = [name for name in names if name != "kl_qp"]
    return (
        DpoArm(STANDARD, beta),
        *(DpoArm(f"f-dpo {name}", beta / divergences.get(name).curvature, name) for name in others),
        *(
            DpoArm(f"dpo smoothed {each:g}", beta, "kl_qp", each)
            for each in sorted(set(smoothings))
        ),
    )


class DpoOptions(ShapeOptions):
    """Settings of the DPO study. What a preset sets, a key of one's own overrides.

    Rewards are in (-1, 1); labels come from ``sigma(scale * (r - r'))``.

    Parameters
    ----------
    preset
        The file of ``conf/preset/`` that changes the experiment's settings.
    beta
        The penalty's weight against the reward; the loss has ``scale * beta``, and for other divergences than KL(q‖p) that over
        ``f''(1)``, so that all weigh alike near the reference.
    scale, flips
        Sharpness of the labels, and the share of them that is turned round.
    divergences, smoothings
        Penalties by name; label smoothings of KL(q‖p).
    comparisons
        Numbers of ranked pairs, over all prompts. All there are come on top.
    batch
        Pairs in a step (null: all of them).
    seeds, steps, every
        Seeds; steps of Adam; steps between evaluations.
    completions
        Sequences of each prompt, sampled at every evaluation, from which the estimators tell the KL.
    learning_rate, decay, gradient_clip
        Of Adam; whether it falls to 0 along a line; the largest norm of a gradient (null: any).
    """

    preset: str
    beta: float = Field(gt=0.0, le=1e3)
    scale: float = Field(gt=0.0, le=1e3)
    flips: float = Field(ge=0.0, lt=0.5)
    divergences: Divergences
    smoothings: tuple[Smoothing, ...]
    comparisons: Annotated[
        tuple[Annotated[int, Field(ge=1, le=10**6)], ...],
        Field(min_length=1),
        AfterValidator(_ascending),
    ]
    batch: int | None = Field(ge=1)
    seeds: int = Field(ge=1, le=4096)
    steps: int = Field(ge=1, le=100_000)
    every: int = Field(ge=1)
    completions: int = Field(ge=2, le=100_000)
    learning_rate: float = Field(gt=0.0, le=10.0)
    decay: bool
    gradient_clip: float | None = Field(gt=0.0)

    @model_validator(mode="after")
    def _check(self) -> DpoOptions:
        if "kl_qp" not in self.divergences:
            raise ValueError("divergences must have kl_qp, with which the others are compared")
        pairs = self.prompts * self.leaves * (self.leaves + 1) // 2
        check_number(self, pairs, "pairs", MOST_PAIRS, "are summed at every evaluation")
        return self

    @property
    def arms(self) -> tuple[DpoArm, ...]:
        """The arms to compare, the standard first."""
        return arms(self.divergences, self.smoothings, self.scale * self.beta)
