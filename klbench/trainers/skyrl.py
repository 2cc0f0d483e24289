"""SkyRL, as it was read: its penalty in the loss has an average of its own."""

from klbench.trainers._combinations import NONE, in_reward
from klbench.trainers._options import Option
from klbench.trainers._trainer import CONSTANT, LENGTH, PROMPTS, RETURNS, TOKENS, Row, Trainer

LIMITS = "log-ratio to +-20, value to +-10"
ON = (True, False)
SKYRL_AVERAGES = {
    "token_mean": TOKENS,
    "token_mean_legacy": TOKENS,
    "sequence_mean": LENGTH,
    "seq_mean_token_sum_norm": CONSTANT,
    "prompt_mean": PROMPTS,
}
SKYRL = Trainer(
    "skyrl",
    "SkyRL",
    "2026-08",
    "2026-08-21",
    "NovaSky-AI/SkyRL a956457",
    (
        Option("algorithm.use_kl_loss", True, ON),
        Option("algorithm.use_kl_in_reward", False, ON),
        Option("algorithm.kl_estimator_type", "k3", ("k1", "k2", "k3", "abs")),
        Option("algorithm.kl_loss_coef", 0.001),
        Option("algorithm.advantage_estimator", "grpo", ("grpo", "gae", "rloo", "reinforce++")),
        Option("algorithm.loss_reduction", "token_mean", tuple(SKYRL_AVERAGES)),
    ),
    (
        Row({"algorithm.use_kl_loss": (False,), "algorithm.use_kl_in_reward": (False,)}, NONE),
        Row(
            {"algorithm.use_kl_loss": (True,), "algorithm.use_kl_in_reward": (True,)},
            "",
            note="refused: set use_kl_loss=false for a penalty in the reward",
        ),
        *(
            Row(
                {"algorithm.use_kl_loss": (True,), "algorithm.kl_estimator_type": (kind,)},
                combination,
                "skyrl/backends/skyrl_train/utils/ppo_utils.py:compute_approx_kl",
                coefficient="algorithm.kl_loss_coef",
                clamp=LIMITS if kind == "k3" else "",
                normalisation=LENGTH,
                note="loss_reduction is the policy's alone",
            )
            for kind, combination in (
                ("k1", "k1_loss"),
                ("abs", "abs/loss"),
                ("k2", "k2_loss"),
                ("k3", "k3_verl_loss"),
            )
        ),
        *(
            Row(
                {
                    "algorithm.use_kl_loss": (False,),
                    "algorithm.use_kl_in_reward": (True,),
                    "algorithm.kl_estimator_type": (kind,),
                    "algorithm.advantage_estimator": advantages,
                },
                in_reward("k3_verl" if kind == "k3" else kind, baseline),
                "skyrl/train/trainer.py:RayPPOTrainer.apply_reward_kl_penalty",
                coefficient="algorithm.kl_loss_coef",
                clamp=LIMITS if kind == "k3" else "",
                normalisation=RETURNS,
            )
            for kind in ("k1", "abs", "k2", "k3")
            for advantages, baseline in (
                (("gae", "reinforce++"), "to go"),
                (("grpo",), "group"),
                (("rloo",), "others"),
            )
        ),
    ),
    normaliser="algorithm.loss_reduction",
    normalisations=SKYRL_AVERAGES,
)

TRAINERS = (SKYRL,)
