"""TRL: GRPO and RLOO."""

from klbench.trainers._options import Option
from klbench.trainers._trainer import CONSTANT, LENGTH, RETURNS, SEQUENCES, TOKENS, Row, Trainer

GRPO_LOSS = "trl/trainer/grpo_trainer.py:GRPOTrainer._compute_loss"
# `grpo` and `sapo` divide by each sequence's length, `luspo` by nothing but the number of
# sequences.
LOSS_TYPES = {
    "dapo": TOKENS,
    "cispo": TOKENS,
    "vespo": TOKENS,
    "bnpo": TOKENS,
    "dr_grpo": CONSTANT,
    "grpo": LENGTH,
    "sapo": LENGTH,
    "luspo": SEQUENCES,
}

GRPO = Trainer(
    "trl_grpo",
    "TRL GRPO",
    "1.9",
    "1.16",
    "trl 1.9.2 to 1.16.0",
    package="trl",
    checked="1.16.0",
    also=("trl",),
    options=(
        Option("beta", 0.0),
        Option("use_bias_correction_kl", True, (True, False), before=(("1.10", False),)),
        Option("loss_type", "dapo", tuple(LOSS_TYPES)),
        Option("importance_sampling_level", "token", ("token", "sequence")),
        Option("use_vllm", False, (True, False)),
    ),
    normaliser="loss_type",
    normalisations=LOSS_TYPES,
    rows=(
        Row(
            {"loss_type": ("luspo",)},
            "",
            GRPO_LOSS,
            coefficient="beta",
            until="1.9",
            note=(
                "every position's term times its sequence's length, over the padded length: padding"
                " counts as well"
            ),
        ),
        Row({"use_bias_correction_kl": (False,)}, "k3_loss", GRPO_LOSS, coefficient="beta"),
        Row(
            {"importance_sampling_level": ("token",), "use_vllm": (False,)},
            "k3_ratio_loss",
            GRPO_LOSS,
            coefficient="beta",
            note="the ratio to the policy before the step, differentiated",
        ),
        Row(
            {"importance_sampling_level": ("token",), "use_vllm": (True,)},
            "k3_old_ratio_loss",
            GRPO_LOSS,
            coefficient="beta",
            note=(
                "the ratio to the policy before the step, differentiated; vLLM's weights multiply"
                " the policy's term alone"
            ),
        ),
        Row(
            {"importance_sampling_level": ("sequence",), "use_vllm": (False,)},
            "k3_geometric_ratio_loss",
            GRPO_LOSS,
            coefficient="beta",
            note=(
                "every token's k3 times the exponential of its sequence's mean log-ratio to the"
                " policy before the step"
            ),
        ),
        Row(
            {"importance_sampling_level": ("sequence",), "use_vllm": (True,)},
            "k3/loss/token/geometric_ratio@q:old:differentiated",
            GRPO_LOSS,
            coefficient="beta",
            note="the same; vLLM's weights multiply the policy's term alone",
        ),
    ),
    aliases={
        "trl_grpo": "",
        "trl_grpo@1.16": "@1.16",
        "trl_grpo@1.15": "@1.15",
        "trl_grpo@1.10": "@1.10",
        "deepseek_v3_2": "use_bias_correction_kl=true",
        "trl_grpo_bias_correction": "use_bias_correction_kl=true",
        "trl_grpo@1.9": "@1.9",
        "trl_grpo_sequence_mean": "loss_type=grpo",
        "trl_grpo_sequence_mean@1.9": "@1.9 loss_type=grpo",
    },
)

RLOO = Trainer(
    "trl_rloo",
    "TRL RLOO",
    "1.9",
    "1.16",
    "trl 1.9.2 to 1.16.0",
    package="trl",
    checked="1.16.0",
    options=(Option("beta", 0.05),),
    normalisations={"": SEQUENCES},
    rows=(
        Row(
            {},
            "k1_reward_leave_one_out",
            "trl/trainer/rloo_trainer.py:RLOOTrainer._generate_and_score_completions",
            coefficient="beta",
            normalisation=RETURNS,
            note=(
                "of the policy that sampled, summed over tokens; later steps weigh it with"
                " ppo_ratio@q:old of the whole sequence"
            ),
        ),
    ),
    aliases={"trl_rloo": ""},
)

TRAINERS = (GRPO, RLOO)
