"""Settings of the DPO study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

import numpy as np
from pydantic import AfterValidator, Field, model_validator

from klbench import divergences, registry
from klbench.choices import ascending
from klbench.policies import check_number
from klbench.rlhf.options import CHIPO, DpoArm, Rate, Seeds, ShapeOptions, Weight

STANDARD = "dpo"
"""The arm that all others are compared with: KL of the policy from the reference, no smoothing."""
MOST_PAIRS = 400_000
"""Pairs of all prompts that one seed may have.

The population's loss is their sum, at every evaluation.
"""


def _known(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        with np.errstate(over="ignore"):
            near, far = divergences.get(name).slope(np.array([1e4, 2e4]))
        if far > 1.5 * near:  # it has a bound
            raise ValueError(
                f"{name} lets a policy lose a sequence for good at a finite price, and has no DPO:"
                " alpha must be > 0, or in a sum with a divergence that forbids it, as in"
                " kl_qp+alpha:-1"
            )
    if len(set(names)) < len(names):
        raise ValueError("each divergence once")
    return names


LOSSES: Mapping[str, str] = {
    "ipo": "square of the log-ratios' difference less 1/(2 beta)",
    "hinge": "max(0, 1 - the difference of rewards)",
    "chipo": "DPO with KL(q‖p) + χ²(q‖p)/2 for its penalty",
    "kto": "each answer against a reference point",
    "dpo_norm": "DPO with means over tokens",
    "simpo": "the same without a reference; simpo:MARGIN",
}
"""Losses beside DPO, and what each is."""


def _losses(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        base, _, number = name.partition(":")
        if base not in LOSSES:
            raise ValueError(registry.unknown("loss", base, LOSSES))
        if number and (base != "simpo" or not _is_margin(number)):
            raise ValueError(
                f"{name}: only simpo takes a number, its margin, at least 0 and at most 100"
            )
    if len(set(names)) < len(names):
        raise ValueError("each loss once")
    return names


def _is_margin(number: str) -> bool:
    try:
        return 0.0 <= float(number) <= 100.0
    except ValueError:
        return False


Divergences = Annotated[tuple[str, ...], AfterValidator(_known)]
Losses = Annotated[tuple[str, ...], AfterValidator(_losses)]
Smoothing = Annotated[float, Field(gt=0.0, lt=0.5)]


def arms(
    names: Sequence[str],
    smoothings: Sequence[float],
    losses: Sequence[str],
    beta: float,
    tokens: int,
) -> tuple[DpoArm, ...]:
    """A loss for each divergence, the standard first, for each smoothing of the standard, and for
    each loss of other kinds.

    All have the weight that is ``beta`` for small differences of rewards where they have one: of
    IPO, whose labels' probability is ``1/2 + r/4``, a quarter. Means over tokens weigh like a sum
    for answers of ``tokens``, the longest.
    """
    others = [name for name in names if name != "kl_qp"]
    return (
        *([DpoArm(STANDARD, beta)] if "kl_qp" in names else []),
        *(DpoArm(f"f-dpo {name}", beta / divergences.get(name).curvature, name) for name in others),
        *(
            DpoArm(f"dpo smoothed {each:g}", beta, "kl_qp", each)
            for each in sorted(set(smoothings))
        ),
        *(_other(name, beta, tokens) for name in losses),
    )


def _other(name: str, beta: float, tokens: int) -> DpoArm:
    base, _, margin = name.partition(":")
    if base == "ipo":
        return DpoArm(name, beta / 4.0, loss="ipo")
    if base == "hinge":
        return DpoArm(name, beta, loss="hinge")
    if base == "kto":
        return DpoArm(name, beta, loss="kto")
    if base == "chipo":
        return DpoArm(name, beta / divergences.get(CHIPO).curvature, CHIPO)
    if base == "dpo_norm":
        return DpoArm(name, beta * tokens, score="ratio_per_token")
    return DpoArm(name, beta * tokens, score="log_prob_per_token", margin=float(margin or 0.0))


class DpoOptions(ShapeOptions):
    """Settings of the DPO study. What a preset sets, a key of one's own overrides.

    Rewards are in (-1, 1); labels come from ``sigma(scale * (r - r'))``.

    Parameters
    ----------
    preset
        The file of ``conf/preset/`` that changes the experiment's settings.
    beta
        The penalty's weight against the reward; the loss has ``scale * beta``, and for other
        divergences than KL(q‖p) that over ``f''(1)``, so that all weigh alike near the reference.
    scale, flips
        Sharpness of the labels, and the share of them that is turned round.
    divergences, smoothings
        Penalties by name; label smoothings of KL(q‖p).
    losses
        Losses of other kinds: ``ipo``, ``hinge``, ``chipo``, ``kto``, ``dpo_norm``, ``simpo`` or
        ``simpo:MARGIN``.
    comparisons
        Numbers of ranked pairs, over all prompts. All there are come on top.
    batch
        Pairs in a step (null: all of them).
    seeds, steps, every
        Seeds; steps of Adam; steps between evaluations.
    completions
        Sequences of each prompt, sampled at every evaluation, from which the estimators tell the
        KL.
    learning_rate, decay, gradient_clip
        Of Adam; whether it falls to 0 along a line; the largest norm of a gradient (null: any).
    """

    preset: str
    beta: Weight
    scale: Weight
    flips: float = Field(ge=0.0, lt=0.5)
    divergences: Divergences
    smoothings: tuple[Smoothing, ...]
    losses: Losses
    comparisons: Annotated[
        tuple[Annotated[int, Field(ge=1, le=10**6)], ...],
        Field(min_length=1),
        AfterValidator(ascending),
    ]
    batch: int | None = Field(ge=1)
    seeds: Seeds
    steps: int = Field(ge=1, le=100_000)
    every: int = Field(ge=1)
    completions: int = Field(ge=2, le=100_000)
    learning_rate: Rate
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
        return arms(
            self.divergences, self.smoothings, self.losses, self.scale * self.beta, self.horizon
        )
