"""tinker-cookbook, as it was read: reinforcement and distillation."""

from klbench.trainers._options import Option
from klbench.trainers._trainer import RETURNS, Row, Trainer

OWN = "the gradient: each token's own k1, detached, times its own score, which is that of k2"
DISCOUNTED = "k1/reward_to_go/token/token_ratio/none/gamma={kl_discount_factor}"
CENTRED = DISCOUNTED.replace("/none/gamma", "/token_mean/gamma")
OVER_BATCH = (
    "mean over the batch's tokens, of all prompts; k1 is that of the sampler's own log-probs"
)
TINKER = Trainer(
    "tinker_cookbook",
    "tinker-cookbook",
    "2026-08",
    "2026-08-19",
    "thinking-machines-lab/tinker-cookbook 9dfcc3a",
    (Option("kl_penalty_coef", 0.0), Option("kl_discount_factor", 0.0)),
    (
        Row(
            {"kl_discount_factor": (0.0,)},
            CENTRED,
            "tinker_cookbook/rl/metrics.py:incorporate_kl_penalty",
            coefficient="kl_penalty_coef",
            normalisation=RETURNS,
            note=f"{OWN}, less the {OVER_BATCH}",
        ),
        Row(
            {},
            CENTRED,
            "tinker_cookbook/rl/metrics.py:incorporate_kl_penalty",
            coefficient="kl_penalty_coef",
            normalisation=RETURNS,
            note="the discounted sum of the k1 of a token and of those after it, each less the"
            f" {OVER_BATCH}, times its score",
        ),
    ),
    also=("tinker",),
)

TINKER_DISTILLATION = Trainer(
    "tinker_distillation",
    "tinker-cookbook distillation",
    "2026-08",
    "2026-08-19",
    "thinking-machines-lab/tinker-cookbook 9dfcc3a",
    (Option("kl_penalty_coef", 1.0), Option("kl_discount_factor", 0.0)),
    (
        Row(
            {"kl_discount_factor": (0.0,)},
            "k1_own_token_ratio",
            "tinker_cookbook/distillation/train_on_policy.py:incorporate_kl_penalty",
            coefficient="kl_penalty_coef",
            normalisation=RETURNS,
            note=f"{OWN}; the reference is the teacher",
        ),
        Row(
            {},
            DISCOUNTED,
            "tinker_cookbook/distillation/train_on_policy.py:incorporate_kl_penalty",
            coefficient="kl_penalty_coef",
            normalisation=RETURNS,
            note="the discounted sum of the k1 of a token and of those after it, times its score",
        ),
    ),
)

TRAINERS = (TINKER, TINKER_DISTILLATION)
