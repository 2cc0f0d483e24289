"""Reward and penalty together, where their weights need not be the same.

At the optimum of the objective the reward is ``log q/p`` and a constant, in units of the penalty's
coefficient, and the exact gradients of both cancel. What the expected gradients leave of each other
is the bias of the whole objective: it moves a policy that is already the best one.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from klbench import gradients
from klbench.gradients import exact
from klbench.types import GradientTask


@dataclass(frozen=True)
class Objective:
    """The terms that a trainer makes of reward and penalty.

    Parameters
    ----------
    policy
        The combination that the policy's term is, with ``k1`` in the place of the reward's
        negative.
    penalty
        The combination that the penalty is.
    used_by
        Who has it.
    """

    policy: str
    penalty: str
    used_by: str


MASK = "token_ratio@q:old*sequence_mask:3@old:mu"
REWARD = "k1/reward/token/{}/leave_one_out"
OBJECTIVES = {
    "mask_on_policy_alone": Objective(
        REWARD.format(MASK),
        "k3_old_ratio_loss",
        "TRL GRPO with vLLM (read: 1.16.0), by default",
    ),
    "mask_on_both": Objective(
        REWARD.format(MASK),
        f"k3/loss/token/{MASK}:differentiated",
        "the same mask on the penalty, too, as ms-swift weights both",
    ),
    "no_mask": Objective(
        REWARD.format("token_ratio@q:old"),
        "k3_old_ratio_loss",
        "TRL GRPO with vllm_importance_sampling_correction=False",
    ),
}
"""The weights for vLLM's own probabilities: on the policy's term alone, on both, or none."""


def bias_at_optimum(objective: Objective, task: GradientTask, group: int = 8) -> Tensor:
    """Return the expected gradient of an objective whose exact gradient is 0, by enumeration.

    ``(parameters,)``, in units of the penalty's coefficient; ``group`` samples share a baseline,
    the mean of the others.
    """
    chosen = [gradients.get(name) for name in (objective.policy, objective.penalty)]
    policy, penalty = exact.all_moments(chosen, task, group)
    return penalty.mean - policy.mean
