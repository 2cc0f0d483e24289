"""The combinations that trainers use, with what each is called where, and what its expected gradient is claimed to be."""

from __future__ import annotations

from klbench.gradients import register
from klbench.gradients._combination import EXACT, Combination, Gradient

QP: Gradient = "grad KL(q‖p)"
PQ: Gradient = "grad KL(p‖q)"
DIFFERENCE: Gradient = "grad KL(q‖p) - grad KL(p‖q)"

# In the loss: differentiated as it stands, without the score of what the tokens lead to.
register(Combination(
    "k1_loss", "k1", "loss", claim="0",
    used_by="verl kl_loss_type=kl; OpenRLHF --use_kl_loss --kl_estimator k1 (clamped to +-10)",
    source="E_q[grad log q] = 0",
))  # fmt: skip
register(Combination(
    "k2_loss", "k2", "loss", claim="biased", one_token=QP,
    used_by="verl kl_loss_type=mse; OpenRLHF --use_kl_loss --kl_estimator k2", called_unbiased_by="verl 0.9.1",
    source="per token, without the score of the tokens before",
))  # fmt: skip
register(Combination(
    "k3_loss", "k3", "loss", claim="biased", one_token=PQ,
    aliases=("grpo",),
    used_by="TRL GRPO up to 1.9 (loss_type=dapo and others that sum over tokens); later with use_bias_correction_kl=False",
    source="Shao et al. 2024, DeepSeekMath, eq. 4",
))  # fmt: skip
register(Combination(
    "k3_verl_loss", "k3_verl", "loss", claim="biased",
    used_by="verl kl_loss_type=low_var_kl; NeMo-RL k3 (2025)", source="log-ratio clamped to +-20, value to +-10",
))  # fmt: skip
register(Combination(
    "k3_openrlhf_loss", "k3_openrlhf", "loss", claim="biased",
    used_by="OpenRLHF --use_kl_loss --kl_estimator k3", source="value clamped to +-10",
))  # fmt: skip
register(Combination(
    "k1_loss_length_mean", "k1", "loss", length_mean=True, claim="biased", one_token="0",
    used_by="k1 in a loss that is averaged over each sequence's own tokens",
    source="short sequences weigh more: the scores no longer average to 0",
))  # fmt: skip
register(Combination(
    "k3_loss_length_mean", "k3", "loss", length_mean=True, claim="biased", one_token=PQ,
    used_by="TRL GRPO up to 1.9 with loss_type=grpo; OpenRLHF with a mean over each sequence's tokens",
))  # fmt: skip
register(
    Combination(
        "k1_sequence_loss", "k1", "loss", "sequence", claim="0", source="E_q[grad log q] = 0"
    )
)
register(Combination(
    "k2_sequence_loss", "k2", "loss", "sequence", claim=QP, used_by="squared log-ratio of the whole sequence",
    source="grad k2 = (log q/p) grad log q: k1 in the reward, sample by sample",
))  # fmt: skip
register(
    Combination(
        "k3_sequence_loss",
        "k3",
        "loss",
        "sequence",
        claim=PQ,
        source="E_q[(1 - r) grad log q] = grad KL(p‖q)",
    )
)

# In the reward: detached, times the score.
register(Combination(
    "k1_reward", "k1", "reward", claim=QP, aliases=("reinforce_k1",),
    used_by="REINFORCE with the penalty in the return", source="Williams 1992; Ziegler et al. 2019",
))  # fmt: skip
register(Combination(
    "k1_reward_to_go", "k1", "reward_to_go", claim=QP,
    aliases=("instructgpt",),
    used_by="verl use_kl_in_reward; OpenRLHF PPO; InstructGPT (before clipping and the critic)",
    source="Ouyang et al. 2022, eq. 2",
))  # fmt: skip
register(Combination(
    "k1_reward_token_kl", "k1", "reward_to_go", baseline="token_kl", claim=QP,
    source="the exact KL of each next token as baseline",
))  # fmt: skip
register(Combination(
    "k1_reward_leave_one_out", "k1", "reward", baseline="leave_one_out", claim=QP, aliases=("rloo",),
    used_by="TRL RLOO", source="Kool et al. 2019; Ahmadian et al. 2024, eq. 7",
))  # fmt: skip
register(Combination(
    "k1_reward_batch_mean", "k1", "reward", baseline="batch_mean", claim="biased",
    used_by="group mean with the sample itself, as GRPO's baseline has it (without division by the spread)",
    source="shrinks the gradient by 1 - 1/n",
))  # fmt: skip
register(
    Combination(
        "k2_reward", "k2", "reward", claim="biased", used_by="verl kl_penalty=mse in the reward"
    )
)
register(Combination(
    "k3_reward", "k3", "reward", claim="biased", one_token=DIFFERENCE,
))  # fmt: skip
register(Combination(
    "k3_verl_reward", "k3_verl", "reward", claim="biased", used_by="verl kl_penalty=low_var_kl in the reward",
))  # fmt: skip
register(Combination("k2_sequence_reward", "k2", "reward", "sequence", claim="biased"))
register(Combination(
    "k3_sequence_reward", "k3", "reward", "sequence", claim=DIFFERENCE, source="E_q[(r - 1) grad log q] = -grad KL(p‖q)",
))  # fmt: skip
register(Combination("abs_reward", "abs", "reward", claim="biased", used_by="verl kl_penalty=abs"))
register(Combination(
    "k3_loss_and_reward", "k3", "loss_and_reward", claim=QP,
    source="the gradient of E_q[k3], which is KL(q‖p): its score term and its path",
))  # fmt: skip
register(Combination(
    "k3_sequence_loss_and_reward", "k3", "loss_and_reward", "sequence", claim=QP, source="grad (q k3) = q (log q/p) grad log q",
))  # fmt: skip

# Straight-through: the value of one, the gradient of another.
register(Combination(
    "k3_plus", "k3", "straight_through", gradient_of="k2", claim="biased", one_token=QP,
    called_unbiased_by="verl 0.9.1",
    used_by="verl kl_loss_type=k3+ (low_var_kl+); NeMo-RL since it multiplies k3 by exp(x - stop_gradient(x))",
))  # fmt: skip
register(Combination(
    "k1_plus", "k1", "straight_through", gradient_of="k2", claim="biased", one_token=QP,
    used_by="verl kl_loss_type=k1+", called_unbiased_by="verl 0.9.1",
))  # fmt: skip
register(
    Combination(
        "k3_plus_sequence", "k3", "straight_through", "sequence", gradient_of="k2", claim=QP
    )
)
register(Combination(
    "openrlhf_unbiased_gradient", "k3", "straight_through", "token", "truncated_ratio", gradient_of="k2", cap=10.0,
    claim="biased", one_token=QP,
    used_by="OpenRLHF unbiased_gradient=True: k2's gradient times the detached ratio, cut off at 10",
    called_unbiased_by="OpenRLHF 0.11.2",
))  # fmt: skip

# With the ratio of policy to sampler.
register(Combination(
    "k3_ratio_loss", "k3", "loss", "token", "token_ratio", ratio_gradient=True, claim="biased", one_token=QP,
    used_by="TRL GRPO (read: 1.16.0; use_bias_correction_kl, on by default since 1.10; loss_type=dapo and others that sum over "
    "tokens); DeepSeek-V3.2; NeMo-RL use_on_policy_kl_approximation",
    called_unbiased_by="TRL 1.16.0", source="DeepSeek-AI 2025, DeepSeek-V3.2; k2's gradient per token, sample by sample",
))  # fmt: skip
register(Combination(
    "k3_ratio_loss_length_mean", "k3", "loss", "token", "token_ratio", ratio_gradient=True, length_mean=True, claim="biased",
    one_token=QP, used_by="TRL GRPO with loss_type=grpo (read: 1.16.0)",
    source="short sequences weigh more, and long ones less than a sum over tokens gives them",
))  # fmt: skip
register(Combination(
    "k3_detached_ratio_loss", "k3", "loss", "token", "token_ratio", claim="biased", one_token=PQ,
    used_by="earlier NeMo-RL: the ratio detached",
))  # fmt: skip
register(Combination(
    "k3_sequence_ratio_loss", "k3", "loss", "sequence", "sequence_ratio", ratio_gradient=True, claim=QP, off_policy=True,
    aliases=("ukl_qp_ratio_loss",), used_by="RPG-URKL, where the sampler is the reference",
    source="Zhang et al. 2025, RPG, arXiv:2505.17508, table 1: the unnormalised KL",
))  # fmt: skip
register(Combination(
    "k2_sequence_detached_ratio_loss", "k2", "loss", "sequence", "sequence_ratio", claim=QP, off_policy=True,
))  # fmt: skip
register(Combination(
    "k2_sequence_ratio_loss", "k2", "loss", "sequence", "sequence_ratio", ratio_gradient=True, claim="biased",
    source="the gradient of E_q[k2], which is no KL",
))  # fmt: skip
register(Combination(
    "k1_prefix_ratio_loss", "k1", "loss", "token", "prefix_ratio", ratio_gradient=True, claim=QP, off_policy=True,
    source="each token's term times the ratio of all tokens up to it, differentiated",
))  # fmt: skip
register(
    Combination(
        "k1_reward_sequence_ratio",
        "k1",
        "reward",
        "token",
        "sequence_ratio",
        claim=QP,
        off_policy=True,
    )
)
register(Combination(
    "k1_reward_token_ratio", "k1", "reward_to_go", "token", "token_ratio", claim=QP, aliases=("ppo_unclipped",),
    used_by="PPO's ratio without its clip, in its first steps",
))  # fmt: skip
register(Combination(
    "k1_reward_truncated_ratio", "k1", "reward_to_go", "token", "truncated_ratio", claim=QP, aliases=("tis",),
    used_by="truncated importance sampling per token, cut off at 2, as in verl's rollout correction",
))  # fmt: skip

# The exact KL over each next token.
register(Combination(
    "full_loss", EXACT, "full", claim="biased", one_token=QP,
    used_by="full-vocabulary KL in the loss",
))  # fmt: skip
register(Combination(
    "full_with_score", EXACT, "full_with_score", claim=QP, aliases=("rao_blackwell",), source="Amini et al. 2025",
))  # fmt: skip
register(Combination(
    "full_with_score_sequence_ratio", EXACT, "full_with_score", "token", "sequence_ratio", claim=QP, off_policy=True,
))  # fmt: skip
