"""The combinations that rows name, and their forms divided by each sequence's length."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping

FAR = 700.0
"""The largest exponent that is a float's."""
SHAPES: Mapping[str, Callable[[float], float]] = {
    "": float,
    "exp": lambda x: math.exp(min(x, FAR)),
    "exp_inverse": lambda x: math.exp(min(-x, FAR)),
    "below": lambda x: max(1.0 - x, 0.0),
    "above": lambda x: 1.0 + x,
}
"""The shapes in which a number of an option stands in a combination, as in ``{name:exp}``."""
IDLE = re.compile(r"(dual_clip|every_ratio|vaco|opsm|token_k1|seq_\w+):(0-)?inf(@\w+:\w+)?")
"""A factor whose bounds are not set, which is 1."""
NONE = "none"
"""Stands where a combination would, if there is no penalty."""
LENGTH_MEANS = {
    "k1_loss": "k1_loss_length_mean",
    "k2_loss": "k2/loss/token:mean",
    "k3_loss": "k3_loss_length_mean",
    "k3_verl_loss": "k3_verl/loss/token:mean",
    "k3_openrlhf_loss": "k3_openrlhf/loss/token:mean",
    "k1_plus": "k1@k2/straight_through/token:mean",
    "k3_plus": "k3@k2/straight_through/token:mean",
    "k3_ratio_loss": "k3_ratio_loss_length_mean",
    "k3_old_ratio_loss": "k3/loss/token:mean/token_ratio@q:old:differentiated",
    "k1_own_token_ratio": "k1/reward_to_go/token:mean/token_ratio/none/gamma=0",
    "k3_geometric_ratio_loss": "k3/loss/token:mean/geometric_ratio:differentiated",
    "openrlhf_unbiased_gradient": "k3@k2/straight_through/token:mean/truncated_ratio:10",
}
"""The same combinations divided by each sequence's length, of those that have a name."""
UNCLAMPED = {"k3_verl_loss": "k3_loss", "k3_openrlhf_loss": "k3_loss"}
"""Combinations that have no name once they are divided by each sequence's length, and what they
are but for the clamp.
"""
BASELINES = {
    "to go": "reward_to_go/token/none/none",
    "group": "reward/token/none/batch_mean",
    "others": "reward/token/none/leave_one_out",
}
"""The baselines of a penalty in the reward.

Of the return to go, less the group's mean, or less the mean of its others.
"""
RETURNED = {
    "to go": "k1_reward_to_go",
    "group": "k1_reward_batch_mean",
    "others": "k1_reward_leave_one_out",
}


class Number(float):
    """A number that is written in one of several shapes."""

    def __format__(self, shape: str) -> str:
        return format(SHAPES[shape](self), ".12g")


def set_factors(combination: str) -> str:
    """The combination without factors whose bounds are not set."""
    parts = combination.split("/")
    for k, correction in enumerate(parts[3:4], 3):
        kept = [each for each in correction.split("*") if not IDLE.fullmatch(each)]
        parts[k] = "*".join(kept) or NONE
    return "/".join(parts)


def length_mean(combination: str) -> str:
    """The combination that is divided by each sequence's length besides."""
    if "/" not in combination:
        return LENGTH_MEANS[combination]
    estimator, placement, *more = combination.split("/")
    level, *rest = more or ["token"]
    return "/".join((estimator, placement, f"{level}:mean", *rest))


def own_token(estimator: str, correction: str = "none") -> str:
    """The combination of a token's own value times its own score, with nothing of later ones."""
    return f"{estimator}/reward_to_go/token/{correction}/none/gamma=0"


def in_reward(estimator: str, baseline: str) -> str:
    """The combination of an estimator in the reward; ``baseline`` is a key of :data:`BASELINES`."""
    return RETURNED[baseline] if estimator == "k1" else f"{estimator}/{BASELINES[baseline]}"
