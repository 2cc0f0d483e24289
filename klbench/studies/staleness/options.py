"""The settings of the staleness study."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, ValidationError, model_validator

from klbench.choices import Listed, PairOptions
from klbench.pairs import Pair
from klbench.pairs.sequence import SequencePair
from klbench.studies.gradient.options import Combinations, Differentiable


def _can_lag(pair: Pair) -> Pair:
    if not isinstance(pair, SequencePair):
        raise ValueError(f"{pair.kind} pairs have no lag; staleness is measured on pair=sequence")
    if pair.lag:
        raise ValueError("its lag is set by lags=[...], which has several")
    return pair


def _behind(pair: Pair, lag: float) -> Pair:
    """The same pair with a sampler that lags.

    A new one, since a copy would keep what was cached.
    """
    fields = {name: getattr(pair, name) for name in type(pair).model_fields}
    return type(pair)(**fields | {"lag": lag, "label": pair.title})


LAGS = (0.0, 0.01, 0.03, 0.1, 0.3)
"""The default lags, in nats."""

DEFAULT = (
    "k1_reward k1_reward_token_ratio k1_reward_truncated_ratio "
    "k1/reward_to_go/token/prefix_ratio k1_reward_sequence_ratio "
    "k1/reward/sequence/truncated_ratio k1_prefix_ratio_loss k2_sequence_loss k3_loss "
    "k3_plus k3_ratio_loss openrlhf_unbiased_gradient k3_sequence_ratio_loss full_loss "
    "full_with_score full_with_score_sequence_ratio full_with_score_decision_ratio "
    "full_with_score_decision_ratio_token_kl "
    "full_with_score_decision_ratio_leave_one_out k3_prefix_ratio_loss "
    "k1_reward_decision_ratio k1_reward_truncated_decision_ratio "
    "k1_reward_decision_ratio_token_kl k1_reward_masked_ratio k1_reward_clipped_ratio "
    "k1_reward_binary_kl k1_reward_tv k1_reward_dppo_tv k1_reward_dppo_kl k1_reward_fall "
    "k1_reward_faded_ratio k1_reward_token_rejected k1_reward_normalised_token_ratio "
    "k1_reward_sequence_mask k1_reward_geometric_ratio k1_reward_geometric_mask "
    "k1_reward_masked_geometric_ratio k1_reward_clipped_geometric_ratio "
    "k1_reward_masked_sequence_ratio k1_reward_every_ratio k1_reward_rejected "
    "k1_reward_vaco k1_reward_opsm k1_reward_normalised_sequence_ratio "
    "k3_geometric_ratio_loss k1_own_token_ratio k1_own_token_token_kl k2_sampler_loss"
)
"""The combinations that are measured by default."""


class StalenessOptions(PairOptions):
    """Settings of the staleness study.

    Parameters
    ----------
    lags
        ``KL(q‖mu)`` in nats of the policy from the sampler; each pair is measured at each of them.
    group
        Samples of one prompt that share a baseline.
    """

    pairs: tuple[Annotated[Differentiable, AfterValidator(_can_lag)], ...] = Field(
        default=(), min_length=1
    )
    lags: Listed[Annotated[float, Field(ge=0.0)]] = LAGS
    combinations: Combinations = tuple(DEFAULT.split())
    group: int = Field(default=8, ge=2, le=4096)

    @model_validator(mode="after")
    def _within_reach(self) -> StalenessOptions:
        for pair in self.pairs:
            for lag in self.lags:
                try:
                    _behind(pair, lag)
                except ValidationError as error:
                    raise ValueError(
                        error.errors()[0]["msg"].removeprefix("Value error, ")
                    ) from None
        return self
