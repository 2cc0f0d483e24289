"""Trainers that were only read, each in one revision."""

from klbench.trainers._combinations import NONE, in_reward
from klbench.trainers._options import Option, Value
from klbench.trainers._trainer import CONSTANT, LENGTH, RETURNS, TOKENS, Row, Trainer

LIMITS = "log-ratio to +-20, value to +-10"
ON = (True, False)

SWIFT_LOSSES = {
    "grpo": LENGTH,
    "sapo": LENGTH,
    "bnpo": TOKENS,
    "dapo": TOKENS,
    "cispo": TOKENS,
    "fipo": TOKENS,
    "real": TOKENS,
    "dr_grpo": CONSTANT,
}
IN_REWARD = "swift/rl_core/advantage.py"
MS_SWIFT = Trainer(
    "ms_swift",
    "ms-swift",
    "2026-08",
    "2026-08-22",
    "modelscope/ms-swift 3602360",
    (
        Option("beta", 0.04),
        Option("kl_in_reward", None, (None, True, False)),
        Option("advantage_estimator", "grpo", ("grpo", "rloo", "reinforce_plus_plus")),
        Option("loss_type", "grpo", tuple(SWIFT_LOSSES)),
    ),
    (
        Row(
            {"kl_in_reward": (None, True), "advantage_estimator": ("rloo",)},
            "k1_reward_leave_one_out",
            IN_REWARD,
            coefficient="beta",
            normalisation=RETURNS,
        ),
        Row(
            {"kl_in_reward": (None, True), "advantage_estimator": ("reinforce_plus_plus",)},
            "k1_reward_batch_mean",
            IN_REWARD,
            coefficient="beta",
            note="before the division by the spread",
            normalisation=RETURNS,
        ),
        Row(
            {"kl_in_reward": (True,)},
            "k1_reward_batch_mean",
            IN_REWARD,
            coefficient="beta",
            note="before the division by the group's spread",
            normalisation=RETURNS,
        ),
        Row(
            {},
            "k3_verl_loss",
            "swift/rlhf_trainers/grpo_trainer.py:GRPOTrainer._compute_loss_and_metrics",
            coefficient="beta",
            clamp=LIMITS,
            note="rollout importance weights multiply the penalty too",
        ),
    ),
    normaliser="loss_type",
    normalisations=SWIFT_LOSSES,
    also=("swift",),
)

ROLL_AVERAGES = {
    "token-mean": TOKENS,
    "seq-mean-token-sum": "mean over sequences of sums over tokens",
    "seq-mean-token-mean": LENGTH,
    "seq-mean-token-sum-norm": CONSTANT,
}
ROLL_KL = "roll/utils/functionals.py:compute_approx_kl"
IN_REWARD_OF_ROLL: dict[str, tuple[Value, ...]] = {"add_token_level_kl": (True,)}
ROLL = Trainer(
    "roll",
    "ROLL",
    "2026-08",
    "2026-08-19",
    "alibaba/ROLL 8eb27cc",
    (
        Option("use_kl_loss", False, ON),
        Option("kl_loss_coef", 0.0, switch="use_kl_loss"),
        Option("loss_agg_mode", "seq-mean-token-mean", tuple(ROLL_AVERAGES)),
        Option("add_token_level_kl", False, ON),
        Option("kl_penalty", "kl", ("kl", "abs", "mse", "full"), "add_token_level_kl"),
        Option("init_kl_coef", 0.2, switch="add_token_level_kl"),
    ),
    (
        Row({"use_kl_loss": (False,), "add_token_level_kl": (False,)}, NONE),
        Row(
            {"use_kl_loss": (True,), "add_token_level_kl": (True,)},
            "",
            note="two penalties: ask for each",
        ),
        Row(
            {"use_kl_loss": (True,)},
            "k3_openrlhf_loss",
            ROLL_KL,
            coefficient="kl_loss_coef",
            clamp="value to +-10",
        ),
        *(
            Row(
                IN_REWARD_OF_ROLL | {"kl_penalty": (kind,)},
                in_reward(estimator, "to go"),
                ROLL_KL,
                coefficient="init_kl_coef",
                normalisation=RETURNS,
            )
            for kind, estimator in (("kl", "k1"), ("abs", "abs"), ("mse", "k2"))
        ),
        Row(
            IN_REWARD_OF_ROLL | {"kl_penalty": ("full",)},
            "",
            ROLL_KL,
            coefficient="init_kl_coef",
            note=(
                "F.kl_div of the sampled tokens' log-probabilities, summed over the tokens: no KL"
                " of the policies"
            ),
        ),
    ),
    normaliser="loss_agg_mode",
    normalisations=ROLL_AVERAGES,
)

AREAL = Trainer(
    "areal",
    "AReaL",
    "2026-05",
    "2026-05-21",
    "inclusionAI/AReaL 4aef98d",
    (Option("kl_ctl", 0.1), Option("kl_estimator", "k1", ("k1", "k2", "k3"))),
    tuple(
        Row(
            {"kl_estimator": (kind,)},
            f"{kind}_openrlhf/reward_to_go",
            "areal/utils/data.py:KLEstimator._compute_approx_kl",
            "k1_reward_to_go" if kind == "k1" else "",
            "kl_ctl",
            "value to +-10",
            normalisation=RETURNS,
        )
        for kind in ("k1", "k2", "k3")
    ),
    normalisations={"": TOKENS},
)

OPEN_INSTRUCT = Trainer(
    "open_instruct",
    "open-instruct",
    "2026-08",
    "2026-08-20",
    "allenai/open-instruct e6c3044",
    (Option("beta", 0.05), Option("kl_estimator", 2.0, (0.0, 1.0, 2.0, 3.0))),
    tuple(
        Row(
            {"kl_estimator": (number,)},
            combination,
            "open_instruct/model_utils.py:estimate_kl",
            coefficient="beta",
            clamp="log-ratio to +-40",
            note="the clamp is no part of the combination",
        )
        for number, combination in (
            (0.0, "k1_loss"),
            (1.0, "k2_loss"),
            (2.0, "k3_loss"),
            (3.0, "k1/loss/token/token_ratio:differentiated"),
        )
    ),
    normalisations={"": TOKENS},
)

PRIME_RL = Trainer(
    "prime_rl",
    "prime-rl",
    "2026-08",
    "2026-08-21",
    "PrimeIntellect-ai/prime-rl 559b447",
    (Option("kl_tau", 0.001),),
    (
        Row(
            {},
            "k2_sampler_loss",
            "src/prime_rl/trainer/rl/loss.py:default_loss_fn",
            coefficient="kl_tau",
            note=(
                "the square of each token's log-ratio to whoever sampled it, twice this; there is"
                " no reference"
            ),
        ),
    ),
    normalisations={"": TOKENS},
)

UNSLOTH_LOSSES = {
    "bnpo": TOKENS,
    "dapo": TOKENS,
    "cispo": TOKENS,
    "vespo": TOKENS,
    "grpo": LENGTH,
    "sapo": LENGTH,
    "dr_grpo": CONSTANT,
}
UNSLOTH = Trainer(
    "unsloth",
    "Unsloth",
    "2026-08",
    "2026-08-22",
    "unslothai/unsloth 015bdef and unsloth-zoo ce232d6",
    (Option("beta", 0.001), Option("loss_type", "bnpo", tuple(UNSLOTH_LOSSES))),
    (
        Row(
            {},
            "k3_loss",
            "unsloth_zoo/rl_replacements.py:grpo_compute_loss",
            coefficient="beta",
            note="use_bias_correction_kl, TRL's default, is not looked at",
        ),
    ),
    normaliser="loss_type",
    normalisations=UNSLOTH_LOSSES,
)

TORCHFORGE = Trainer(
    "torchforge",
    "torchforge",
    "2025-11",
    "2025-11-15",
    "meta-pytorch/torchforge 6e77f0b",
    (Option("beta", 0.1),),
    (
        Row(
            {},
            "k3_loss",
            "src/forge/losses/grpo_loss.py:SimpleGRPOLoss.forward",
            coefficient="beta",
            normalisation=LENGTH,
        ),
    ),
)

DEEPSPEED_CHAT = Trainer(
    "deepspeed_chat",
    "DeepSpeed-Chat",
    "2026-03",
    "2026-03-29",
    "deepspeedai/DeepSpeedExamples 45b4b71",
    (Option("kl_ctl", 0.1),),
    (
        Row(
            {},
            "k1_reward_to_go",
            "applications/DeepSpeed-Chat/dschat/rlhf/ppo_trainer.py"
            ":DeepSpeedPPOTrainer.compute_rewards",
            coefficient="kl_ctl",
            normalisation=RETURNS,
            note="kl_ctl is written into the code; GAE with a trace of .95",
        ),
    ),
    normalisations={"": TOKENS},
)

TRAINERS = (
    MS_SWIFT,
    ROLL,
    AREAL,
    OPEN_INSTRUCT,
    PRIME_RL,
    UNSLOTH,
    TORCHFORGE,
    DEEPSPEED_CHAT,
)
