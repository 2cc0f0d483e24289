"""Settings of the reward-model study."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from klbench.policies import Name
from klbench.rlhf.options import TestbedOptions, Weight


class RewardModelOptions(TestbedOptions):
    """Settings of the reward-model study, beside those of the loop.

    Parameters
    ----------
    sizes
        How many ranked pairs a reward model has; one model for each number. A fifth of them is held
        out.
    scale
        Of two answers the first is labelled the better with probability ``sigma(scale * (r -
        r'))``; rewards are in (-1, 1).
    smoothing
        The share of wrong labels that the loss assumes.
    reward_model, model_width, model_rate, model_steps
        The reward models' shape, as of policies, and Adam's rate and steps over all their pairs.
    betas, best_of
        Weights whose exact optimum is taken for each proxy, and numbers of answers of which the
        best is taken.
    """

    most_sequences: ClassVar[int] = 50_000
    counted_for: ClassVar[str] = "are scored in every step"
    sizes: tuple[Annotated[int, Field(ge=10, le=1_000_000)], ...] = Field(min_length=1)
    scale: Weight
    smoothing: float = Field(ge=0.0, lt=0.5)
    reward_model: Name
    model_width: int = Field(ge=1, le=64)
    model_rate: float = Field(gt=0.0, le=10.0)
    model_steps: int = Field(ge=1, le=100_000)
    betas: tuple[Annotated[float, Field(ge=1e-4, le=1e3)], ...]
    best_of: tuple[Annotated[int, Field(ge=1, le=10**9)], ...]

    @model_validator(mode="after")
    def _check(self) -> RewardModelOptions:
        if len(set(self.sizes)) < len(self.sizes):
            raise ValueError(f"sizes={list(self.sizes)}: each number once")
        if not self.betas or not self.best_of:
            raise ValueError("betas and best_of must name at least one each")
        return self
