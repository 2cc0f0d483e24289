"""The settings of the study over length."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, model_validator

from klbench.choices import Listed
from klbench.studies.gradient.options import Combinations
from klbench.types import Options

Series = Literal["lognormal", "gru", "mixing", "absorbing", "mode", "lm"]
SAMPLED = 128
"""Sequences of language models come in 16 batches of a group of 8."""

DEFAULT = (
    "k1_reward k1_reward_leave_one_out k1_reward_to_go k2_loss k3_loss k3_verl_loss "
    "k3_ratio_loss openrlhf_unbiased_gradient "
    "k3/loss/token/geometric_ratio:differentiated k1_reward_token_ratio "
    "k1_reward_truncated_ratio k1/reward_to_go/token/masked_ratio:0.5-5 "
    "k1/reward/token/sequence_mask:3 k1/reward_to_go/token/sequence_ratio "
    "k1/reward_to_go/token/decision_ratio k1_prefix_ratio_loss k3_sequence_loss "
    "k3_sequence_ratio_loss full_loss full_with_score "
    "full_kl/full_with_score/token/decision_ratio full_with_score_sequence_ratio"
)
"""The combinations that are measured by default."""


class HorizonOptions(Options):
    """Settings of the study over length.

    Parameters
    ----------
    series
        What is measured: ``lognormal`` in closed form; ``mixing``, ``absorbing`` and ``mode``,
        Markov policies, by recursion; ``gru``, enumerated up to 8 tokens; ``lm``, the embedded
        language models, sampled from 8 to 256 tokens.
    kl_tokens, lag_tokens
        ``KL(q‖p)`` and ``KL(q‖mu)`` in nats a token; lag 0 is on-policy. Language models have the
        KL that they have.
    longest
        Tokens of the longest sequences; lengths are the powers of 2 up to it.
    combinations
        Names of combinations, or ``estimator/placement/level/correction/baseline``; ``all``: all
        that have a name.
    chains
        Random policies that crossings and known levels are the median of.
    batch
        Sequences in a batch, where bias and noise are weighed against each other.
    samples
        Sequences that are sampled from language models, without a lag and at the largest.
    """

    series: Listed[Series] = (
        "lognormal",
        "gru",
        "mixing",
        "absorbing",
        "mode",
        "lm",
    )
    kl_tokens: Listed[Annotated[PositiveFloat, Field(ge=1e-6, le=1.0)]] = (0.001, 0.01, 0.1)
    lag_tokens: Listed[Annotated[float, Field(ge=0.0, le=1.0)]] = (0.0, 0.0005, 0.005)
    longest: int = Field(default=4096, ge=8, le=2**20)
    combinations: Combinations = tuple(DEFAULT.split())
    chains: int = Field(default=48, ge=8, le=1024)
    batch: int = Field(default=256, ge=1, le=10**9)
    samples: int = Field(default=256, ge=SAMPLED, le=10**6)

    @model_validator(mode="after")
    def _check(self) -> HorizonOptions:
        for name in ("series", "kl_tokens", "lag_tokens"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"{name}={list(values)}: the same twice")
        if self.samples % SAMPLED:
            raise ValueError(f"samples={self.samples}: must be a multiple of {SAMPLED}")
        return self

    @property
    def lengths(self) -> list[int]:
        """The lengths in tokens: powers of 2."""
        return [2**k for k in range(1, self.longest.bit_length())]

    @property
    def middle_kl(self) -> float:
        """The KL a token of what is measured at one only."""
        return sorted(self.kl_tokens)[len(self.kl_tokens) // 2]
