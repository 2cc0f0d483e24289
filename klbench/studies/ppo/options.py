"""Settings of the training study."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from klbench.rlhf.options import NONE, Names, TestbedOptions, Weight

__all__ = ["NONE", "TrainingOptions"]


class TrainingOptions(TestbedOptions):
    """Settings of the training study, beside those of the loop. Rewards are in (-1, 1).

    Parameters
    ----------
    frontier, betas, frontier_seeds
        Combinations that are trained with these other weights too, on so many of the seeds.
    noise_free_seeds
        Seeds on which the exact expected gradients are followed too.
    recovery, recovery_nats
        Combinations that start from a reference with one token pushed down by so many nats; empty:
        none.
    lag
        As in :class:`klbench.rlhf.ppo.Recipe`.
    pretraining
        Of which of the reference's sequences ``pretraining_weight`` weighs the log-probability:
        ``exact``: all of them, or ``sampled``: as many as in a batch.
    """

    most_sequences: ClassVar[int] = 200_000
    counted_for: ClassVar[str] = "are enumerated at every evaluation"
    frontier: Names
    betas: tuple[Weight, ...]
    frontier_seeds: int = Field(ge=0, le=4096)
    noise_free_seeds: int = Field(ge=0, le=4096)
    recovery: Names
    recovery_nats: tuple[Annotated[float, Field(ge=0.0, le=50.0)], ...]
    lag: int = Field(ge=0, le=1000)
    pretraining: Literal["sampled", "exact"]

    @model_validator(mode="after")
    def _check(self) -> TrainingOptions:
        if self.frontier and self.reference_combination not in self.frontier:
            raise ValueError(
                f"frontier must have {self.reference_combination}, with which the others are"
                " compared, or be empty"
            )
        missing = [name for name in self.frontier if name not in self.combinations]
        if missing:
            raise ValueError(f"frontier has {', '.join(missing)}, which combinations has not")
        return self

    @property
    def altered_by(self) -> str:
        """Settings by which training follows another gradient than that of ``E r - beta *
        penalty``, as ``key=value``.

        Fixed points are those of the objective as written; these change what the reward's gradient
        is, or its weight against a penalty in the loss.
        """
        changed = {
            "baseline": self.baseline == "batch_mean",
            "whitening": self.whitening != "none",
            "normalisation": self.normalisation == "sequence",
            "clamp": self.clamp is not None,
            "target_kl": self.target_kl is not None,
            "target_per": self.target_kl is not None and self.target_per != "sequence",
            "kl_horizon": self.target_kl is not None and self.kl_horizon is not None,
            "critic": self.critic,
            "lag": self.lag > 0,
            "pretraining_weight": self.pretraining_weight > 0,
        }
        return ", ".join(f"{key}={getattr(self, key)}" for key, is_so in changed.items() if is_so)
