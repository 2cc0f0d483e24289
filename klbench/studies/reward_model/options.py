"""Settings of the reward-model study."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from klbench.policies.shapes import Name
from klbench.policies.tree import Tree
from klbench.rlhf.options import LoopOptions

MOST_LEAVES = 50_000
"""Sequences of all prompts that one seed may have: each model scores all of them in every step."""

DEFAULT: dict[str, Any] = {
    "combinations": ("k1_reward", "k3_loss", "none"),
    "sizes": (64, 512, 4096, 32768), "model_steps": 300, "seeds": 8, "updates": 120, "every": 8, "beta": 0.03,
    "learning_rate": 0.01,
}  # fmt: skip
PRESETS: dict[str, dict[str, Any]] = {
    "default": DEFAULT,
    "thorough": DEFAULT
    | {
        "combinations": ("k1_reward", "k2_loss", "full_loss", "k3_loss", "k3_sequence_loss", "none"),
        "sizes": (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768), "model_steps": 600, "seeds": 16,
        "updates": 300, "every": 15,
    },
}  # fmt: skip


class RewardModelOptions(LoopOptions):
    """Settings of the reward-model study, beside those of the loop. What a preset sets, a key of one's own overrides.

    Parameters
    ----------
    preset
        ``default``, or ``thorough``: more combinations, sizes, seeds and steps.
    model, vocabulary, horizon, prompts, width
        Of the policies, as in ``pair=sequence``.
    sizes
        How many ranked pairs a reward model has; one model for each number. A fifth of them is held out.
    scale
        Of two answers the first is labelled the better with probability ``sigma(scale * (r - r'))``; rewards are in (-1, 1).
    smoothing
        The share of wrong labels that the loss assumes.
    reward_model, model_width, model_rate, model_steps
        The reward models' shape, as of policies, and Adam's rate and steps over all their pairs.
    betas, best_of
        Weights whose exact optimum is taken for each proxy, and numbers of answers of which the best is taken.
    seeds
        How many; each draws its own reference, reward, pairs and samples.
    """

    preset: Literal["default", "thorough"] = "default"
    model: Name = "gru"
    vocabulary: int = Field(default=6, ge=2, le=64)
    horizon: int = Field(default=4, ge=1, le=10)
    prompts: int = Field(default=8, ge=1, le=256)
    width: int = Field(default=8, ge=1, le=64)
    sizes: tuple[Annotated[int, Field(ge=10, le=1_000_000)], ...] = Field(min_length=1)
    scale: float = Field(default=5.0, gt=0.0, le=1e3)
    smoothing: float = Field(default=0.0, ge=0.0, lt=0.5)
    reward_model: Name = "gru"
    model_width: int = Field(default=8, ge=1, le=64)
    model_rate: float = Field(default=0.01, gt=0.0, le=10.0)
    model_steps: int = Field(ge=1, le=100_000)
    betas: tuple[Annotated[float, Field(ge=1e-4, le=1e3)], ...] = (
        2.0, 1.0, 0.5, 0.35, 0.25, 0.18, 0.13, 0.09, 0.06, 0.04, 0.03, 0.02, 0.01, 0.005,
    )  # fmt: skip
    best_of: tuple[Annotated[int, Field(ge=1, le=10**9)], ...] = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
    seeds: int = Field(ge=1, le=4096)

    @classmethod
    def filled(cls, given: dict[str, Any]) -> dict[str, Any]:
        """What preset and algorithm set."""
        return PRESETS.get(str(given.get("preset", "default")), DEFAULT) | super().filled(given)

    @model_validator(mode="after")
    def _check(self) -> RewardModelOptions:
        if len(set(self.sizes)) < len(self.sizes):
            raise ValueError(f"sizes={list(self.sizes)}: each number once")
        if not self.betas or not self.best_of:
            raise ValueError("betas and best_of must name at least one each")
        leaves = Tree(self.vocabulary, self.horizon).leaves * self.prompts
        if leaves > MOST_LEAVES:
            raise ValueError(
                f"vocabulary={self.vocabulary}, horizon={self.horizon} and prompts={self.prompts} make {leaves:,} sequences, "
                f"at most {MOST_LEAVES:,} are scored in every step"
            )
        if self.minibatches > self.prompts * self.group:
            raise ValueError(f"minibatches={self.minibatches}: a batch has {self.prompts * self.group} sequences")
        return self
