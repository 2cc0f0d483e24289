"""Settings of the training study."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from klbench.policies.shapes import Name
from klbench.policies.tree import Tree
from klbench.rlhf.options import NONE, REFERENCE, LoopOptions, Names, Weight

__all__ = ["NONE", "REFERENCE", "TrainingOptions"]

Preset = Literal["default", "thorough"]

MOST_LEAVES = 200_000
"""Sequences of all prompts that one seed may have: they are enumerated at every evaluation."""

DEFAULT: dict[str, Any] = {
    "combinations": (
        "k1_reward", "k1_reward_to_go", "k2_sequence_loss", "full_with_score", "k2_loss", "k3_ratio_loss",
        "full_loss", "k3_loss", "k3_sequence_loss", "k3_reward", "k1_loss", "none",
    ),
    "frontier": ("k1_reward", "full_loss", "k3_loss", "k3_sequence_loss"),
    "betas": (0.1, 0.4), "seeds": 8, "updates": 200, "frontier_seeds": 4, "noise_free_seeds": 4,
    "recovery": ("k1_reward", "k2_loss", "full_loss", "k3_loss", "k3_reward", "none"),
}  # fmt: skip
PRESETS: dict[str, dict[str, Any]] = {
    "default": DEFAULT,
    "thorough": {
        "combinations": (
            *DEFAULT["combinations"], "k3_plus", "k1_reward_leave_one_out", "k1_reward_batch_mean", "k3_loss_and_reward",
            "k3_sequence_ratio_loss", "k1_prefix_ratio_loss", "openrlhf_unbiased_gradient", "k3_verl_loss", "k2_reward",
            "abs_reward", "k3_sequence_reward",
        ),
        "frontier": (*DEFAULT["frontier"], "k1_reward_to_go", "full_with_score", "k2_loss", "k3_ratio_loss", "k3_reward"),
        "betas": (0.025, 0.05, 0.1, 0.4, 0.8), "seeds": 16, "updates": 400, "frontier_seeds": 8, "noise_free_seeds": 16,
        "recovery": (*DEFAULT["recovery"], "k1_reward_to_go", "k3_ratio_loss", "full_with_score", "k3_verl_loss"),
    },
}  # fmt: skip


class TrainingOptions(LoopOptions):
    """Settings of the training study, beside those of the loop. What a preset sets, a key of one's own overrides.

    Rewards are in (-1, 1).

    Parameters
    ----------
    preset
        ``default``, or ``thorough``: more combinations, seeds, updates and weights.
    model, vocabulary, horizon, prompts, width
        Of the policies, as in ``pair=sequence``.
    frontier, betas, frontier_seeds
        Combinations that are trained with these other weights too, on so many of the seeds.
    noise_free_seeds
        Seeds on which the exact expected gradients are followed too.
    recovery, recovery_nats
        Combinations that start from a reference with one token pushed down by so many nats; empty: none.
    seeds
        How many; each draws its own reference, reward and samples.
    lag
        As in :class:`klbench.rlhf.ppo.Recipe`.
    pretraining
        Of which of the reference's sequences ``pretraining_weight`` weighs the log-probability: ``exact``: all of them, or
        ``sampled``: as many as in a batch.
    """

    preset: Preset = "default"
    model: Name = "gru"
    vocabulary: int = Field(default=6, ge=2, le=64)
    horizon: int = Field(default=4, ge=1, le=10)
    prompts: int = Field(default=8, ge=1, le=256)
    width: int = Field(default=8, ge=1, le=64)
    frontier: Names
    betas: tuple[Weight, ...]
    frontier_seeds: int = Field(ge=0, le=4096)
    noise_free_seeds: int = Field(ge=0, le=4096)
    recovery: Names
    recovery_nats: tuple[Annotated[float, Field(ge=0.0, le=50.0)], ...] = (2.0, 4.0, 6.0, 8.0, 10.0)
    seeds: int = Field(ge=1, le=4096)
    lag: int = Field(default=0, ge=0, le=1000)
    pretraining: Literal["sampled", "exact"] = "sampled"

    @classmethod
    def filled(cls, given: dict[str, Any]) -> dict[str, Any]:
        """What preset and algorithm set."""
        return PRESETS.get(str(given.get("preset", "default")), DEFAULT) | super().filled(given)

    @model_validator(mode="after")
    def _check(self) -> TrainingOptions:
        if self.frontier and REFERENCE not in self.frontier:
            raise ValueError(f"frontier must have {REFERENCE}, with which the others are compared, or be empty")
        missing = [name for name in self.frontier if name not in self.combinations]
        if missing:
            raise ValueError(f"frontier has {', '.join(missing)}, which combinations has not")
        if self.minibatches > self.prompts * self.group:
            raise ValueError(f"minibatches={self.minibatches}: a batch has {self.prompts * self.group} sequences")
        leaves = Tree(self.vocabulary, self.horizon).leaves * self.prompts
        if leaves > MOST_LEAVES:
            raise ValueError(
                f"vocabulary={self.vocabulary}, horizon={self.horizon} and prompts={self.prompts} make {leaves:,} sequences, "
                f"at most {MOST_LEAVES:,} are enumerated at every evaluation"
            )
        return self

    @property
    def altered_by(self) -> str:
        """Settings by which training follows another gradient than that of ``E r - beta * penalty``, as ``key=value``.

        Fixed points are those of the objective as written; these change what the reward's gradient is, or its weight against
        a penalty in the loss.
        """
        changed = {
            "baseline": self.baseline == "batch_mean", "whitening": self.whitening != "none",
            "normalisation": self.normalisation == "sequence", "clamp": self.clamp is not None,
            "target_kl": self.target_kl is not None, "critic": self.critic, "lag": self.lag > 0,
            "pretraining_weight": self.pretraining_weight > 0,
        }  # fmt: skip
        return ", ".join(f"{key}={getattr(self, key)}" for key, is_so in changed.items() if is_so)
