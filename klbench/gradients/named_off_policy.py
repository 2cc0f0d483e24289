"""The off-policy corrections that trainers use, around k1 in the reward, and the placements of
distillation.
"""

from __future__ import annotations

from dataclasses import replace

from klbench.gradients import register
from klbench.gradients._combination import Gradient
from klbench.gradients._spec import parse

QP: Gradient = "grad KL(q‖p)"
PQ: Gradient = "grad KL(p‖q)"


def _register(
    name: str,
    spec: str,
    claim: Gradient,
    used_by: str = "",
    source: str = "",
    *,
    aliases: tuple[str, ...] = (),
    one_token: Gradient | None = None,
    off_policy: bool = False,
) -> None:
    """Register what ``spec`` spells under a name."""
    register(
        replace(
            parse(spec),
            name=name,
            claim=claim,
            used_by=used_by,
            source=source,
            aliases=aliases,
            one_token=one_token,
            off_policy=off_policy,
        )
    )


# A token's weight is its own; what earlier tokens did to where it stands is not corrected.
_register(
    "k1_reward_masked_ratio",
    "k1/reward_to_go/token/masked_ratio:0.5-5",
    QP,
    "IcePop, as verl's rollout_is_threshold=0.5_5, OpenRLHF's is_correction_level=token, NeMo-RL's"
    " icepop",
    "Ant Ling team 2025, Small leak can sink a great ship",
    aliases=("icepop",),
)
_register(
    "k1_reward_clipped_ratio",
    "k1/reward_to_go/token/clipped_ratio:0-5",
    QP,
    "CISPO, as TRL's loss_type=cispo, OpenRLHF's is_correction_mode=clip",
    "MiniMax 2025, MiniMax-M1, eq. 4: the ratio is cut off and detached",
    aliases=("cispo",),
)
_register(
    "k1_reward_binary_kl",
    "k1/reward_to_go/token/binary_kl:0.05",
    QP,
    "OpenRLHF's is_correction_gating=binary_kl",
    "Qi et al. 2026, DPPO, arXiv:2602.04879, without the advantage's sign",
)
_register(
    "k1_reward_tv",
    "k1/reward_to_go/token/tv:0.2",
    QP,
    "OpenRLHF's is_correction_gating=tv",
    "the same with the change of the token's probability",
)
_register(
    "k1_reward_dppo_tv",
    "k1/reward_to_go/token/dppo_tv:0.2",
    QP,
    "DPPO, as verl's loss_mode=dppo_tv, prime-rl's mask",
    "Qi et al. 2026, DPPO, arXiv:2602.04879",
    aliases=("dppo",),
)
_register(
    "k1_reward_normalised_token_ratio",
    "k1/reward_to_go/token/truncated_ratio:normalised",
    QP,
    "verl's rollout_is=token rollout_is_batch_normalize=true",
    "weights over their mean in the group",
)

# A sequence's weight.
_register(
    "k1_reward_sequence_mask",
    "k1/reward/token/sequence_mask:3",
    QP,
    "TRL's vllm_importance_sampling_mode=sequence_mask, its default, on the policy term alone",
    "sequences beyond the cap count as 0",
    aliases=("mis",),
)
_register(
    "k1_reward_sequence_truncated_ratio",
    "k1/reward/sequence/truncated_ratio",
    QP,
    "verl's rollout_is=sequence, TRL's vllm_importance_sampling_mode=sequence_truncate",
)
_register(
    "k1_reward_geometric_ratio",
    "k1/reward/token/geometric_ratio",
    QP,
    "GSPO's ratio, detached",
    "Zheng et al. 2025, GSPO, eq. 7",
    aliases=("gspo",),
)
_register(
    "k1_reward_geometric_mask",
    "k1/reward_to_go/token/geometric_mask:0.5-5",
    QP,
    "OpenRLHF's is_correction_level=seq, NeMo-RL's seq-mask-tis",
    "a token's ratio, where the geometric mean of its sequence's is inside the bounds",
)
_register(
    "k1_reward_rejected",
    "k1/reward_to_go/token/truncated_ratio*seq_mean_k1:0.5-2",
    QP,
    "verl's rollout_is=token rollout_rs=seq_mean_k1 rollout_rs_threshold=0.5_2",
)
_register(
    "k1_reward_opsm",
    "k1/reward_to_go/token/token_ratio*opsm:0.1",
    QP,
    "OPSM, as TRL's off_policy_mask_threshold",
    "DeepSeek-AI 2025, DeepSeek-V3.2, eq. 9",
    aliases=("opsm",),
)
_register(
    "k1_reward_normalised_sequence_ratio",
    "k1/reward/token/sequence_ratio:normalised",
    QP,
    "verl's rollout_is=sequence rollout_is_batch_normalize=true",
    "the self-normalised estimate of a group",
)
_register(
    "k3_geometric_ratio_loss",
    "k3/loss/token/geometric_ratio:differentiated",
    "biased",
    "TRL GRPO importance_sampling_level=sequence; Liger importance_sampling_level=sequence",
    "each token's k3 times the differentiated ratio of GSPO",
    one_token=QP,
)

# The ratio of another pair of policies than the one that sampled.
_register(
    "k3_old_ratio_loss",
    "k3/loss/token/token_ratio@q:old:differentiated",
    "biased",
    "TRL GRPO use_vllm (the ratio is to the policy before the step, whoever sampled)",
    "k3_ratio_loss where the engine computes what the trainer does",
    one_token=QP,
)
_register(
    "k1_reward_old_sequence_ratio",
    "k1/reward/token/sequence_ratio@q:old",
    QP,
    "a weight to the trainer's own earlier policy, as if it had sampled",
)
_register(
    "k1_reward_engine_sequence_ratio",
    "k1/reward/token/sequence_ratio@old:mu",
    QP,
    "a weight that corrects the engine alone, and not the steps since",
)
_register(
    "k1_reward_decoupled_sequence_ratio",
    "k1/reward/token/sequence_ratio@q:old*sequence_ratio@old:mu",
    QP,
    "decoupled weights, as AReaL's, neither of them cut off",
    off_policy=True,
)

# Unbiased whoever samples, and quieter: each term has the ratio of the tokens that led to it, no
# more.
PER_DECISION = "per-decision weights: Precup, Sutton and Singh 2000"
_register(
    "k3_prefix_ratio_loss",
    "k3/loss/token/prefix_ratio:differentiated",
    QP,
    "",
    "k1_prefix_ratio_loss with k3, whose mean is the same and whose noise is less",
    off_policy=True,
)
_register(
    "k1_reward_decision_ratio",
    "k1/reward_to_go/token/decision_ratio",
    QP,
    "",
    PER_DECISION,
    off_policy=True,
)
_register(
    "k1_reward_decision_ratio_token_kl",
    "k1/reward_to_go/token/decision_ratio/token_kl",
    QP,
    "",
    f"{PER_DECISION}; doubly robust with the exact KL of each next token: Jiang and Li 2016",
    off_policy=True,
)
_register(
    "full_with_score_decision_ratio",
    "full_kl/full_with_score/token/decision_ratio",
    QP,
    "",
    f"the exact KL of each next token, {PER_DECISION}",
    off_policy=True,
)
_register(
    "full_with_score_decision_ratio_token_kl",
    "full_kl/full_with_score/token/decision_ratio/token_kl",
    QP,
    "",
    "the same, doubly robust with the exact KL of each next token: Jiang and Li 2016",
    off_policy=True,
)
_register(
    "full_with_score_decision_ratio_leave_one_out",
    "full_kl/full_with_score/token/decision_ratio/leave_one_out",
    QP,
    "",
    "the same with the mean of the others of the group in place of that KL",
    off_policy=True,
)

# Each token's own k1 times its own score: distillation's usual, which leaves out what a token does
# to later ones.
_register(
    "k1_own_token",
    "k1/reward_to_go/token/none/none/gamma=0",
    "biased",
    "tinker-cookbook kl_discount_factor=0; verl distillation use_policy_gradient=true on-policy",
    "k2_loss, sample by sample",
    aliases=("opd",),
    one_token=QP,
)
_register(
    "k1_own_token_ratio",
    "k1/reward_to_go/token/token_ratio/none/gamma=0",
    "biased",
    "the same with the token's ratio",
    one_token=QP,
)
_register(
    "k1_own_token_token_kl",
    "k1/reward_to_go/token/none/token_kl/gamma=0",
    "biased",
    "vOPD: the exact KL of the next token, detached, as baseline",
    "vOPD 2026, arXiv:2605.07865; the mean of full_loss, with a score's noise",
    aliases=("vopd",),
    one_token=QP,
)

# The penalty to whoever sampled.
_register(
    "k2_sampler_loss",
    "k2/loss/token/none/none/reference=sampler",
    "0",
    "prime-rl: tau (log q/mu)^2, which is twice this",
    "0 on-policy; no gradient of KL(q‖p), whatever p is",
)

# The unnormalised KL of RPG, and the normalised one, of whole sequences.
RPG = "Zhang et al. 2025, RPG, arXiv:2505.17508, table 1"
_register(
    "kl_qp_ratio_loss",
    "k1/loss/sequence/sequence_ratio:differentiated",
    QP,
    "RPG-RKL, where the sampler is the reference",
    RPG,
    off_policy=True,
)
_register(
    "ukl_pq_ratio_loss",
    "bregman_kl_pq/loss/sequence/sequence_ratio:differentiated",
    PQ,
    "RPG-UFKL, where the sampler is the reference",
    RPG,
    off_policy=True,
)
