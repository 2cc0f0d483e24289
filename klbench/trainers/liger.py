"""Liger: GRPO's loss in chunks."""

from klbench.trainers._options import Option
from klbench.trainers._trainer import CONSTANT, LENGTH, TOKENS, Row, Trainer

LOSS = "liger_kernel/chunked_loss/grpo_loss.py:LigerFusedLinearGRPOFunction.ppo_loss_fn"
LOSS_TYPES = {
    "dapo": TOKENS,
    "cispo": TOKENS,
    "vespo": TOKENS,
    "bnpo": TOKENS,
    "dr_grpo": CONSTANT,
    "grpo": LENGTH,
    "sapo": LENGTH,
    "luspo": "",
}
ENGINE = "vllm_is_ratio, which TRL hands over, multiplies the policy's term alone"

LIGER = Trainer(
    "liger",
    "Liger",
    "0.8.4",
    "0.8.5",
    "liger-kernel 0.8.4 and 0.8.5",
    package="liger-kernel",
    checked="0.8.5",
    also=("liger-kernel",),
    options=(
        Option("beta", 0.04),
        Option("use_bias_correction_kl", False, (True, False)),
        Option("loss_type", "dapo", tuple(LOSS_TYPES)),
        Option("importance_sampling_level", "token", ("token", "sequence")),
    ),
    normaliser="loss_type",
    normalisations=LOSS_TYPES,
    rows=(
        Row(
            {"loss_type": ("luspo",)},
            "",
            LOSS,
            coefficient="beta",
            note=(
                "every position's term times its sequence's length, over the padded length: padding"
                " counts as well"
            ),
        ),
        Row(
            {"use_bias_correction_kl": (False,)},
            "k3_loss",
            LOSS,
            coefficient="beta",
            note=ENGINE,
        ),
        Row(
            {"use_bias_correction_kl": (True,), "importance_sampling_level": ("token",)},
            "k3_ratio_loss",
            LOSS,
            coefficient="beta",
            note=f"the ratio to the policy before the step, differentiated; {ENGINE}",
        ),
        Row(
            {
                "use_bias_correction_kl": (True,),
                "importance_sampling_level": ("sequence",),
                "loss_type": ("cispo", "sapo", "vespo"),
            },
            "",
            LOSS,
            coefficient="beta",
            note="refused: these are of level token",
        ),
        Row(
            {"use_bias_correction_kl": (True,), "importance_sampling_level": ("sequence",)},
            "k3_geometric_ratio_loss",
            LOSS,
            coefficient="beta",
            note=(
                "every token's k3 times the exponential of its sequence's mean log-ratio to the"
                " policy before the step"
            ),
        ),
    ),
)

TRAINERS = (LIGER,)
