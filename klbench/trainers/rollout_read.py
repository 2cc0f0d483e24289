"""The weights for an engine's own probabilities of trainers that were read.

As in :mod:`klbench.trainers.rollout`, the rows are about k1 in the reward, whatever a trainer's own
penalty is; the notes say where that one stands, and whether it has the weight too. Those of SkyRL,
AReaL and ms-swift are the factors of the tests beside the installed functions.
"""

import math

from klbench.trainers._options import Option, Value
from klbench.trainers._trainer import LENGTH, TOKENS, Row, Trainer
from klbench.trainers.rollout import ON, joined, row

UNWEIGHTED = "a penalty in the loss has no such weight"


SKY = "algorithm.off_policy_correction."
SKY_WHERE = (
    "skyrl/backends/skyrl_train/utils/off_policy_correction_utils.py:compute_off_policy_correction"
)
SKY_WEIGHTS = {
    None: "",
    "token": "truncated_ratio:{token_tis_ratio_clip_high}",
    "sequence": "truncated_sequence_ratio:{sequence_tis_ratio_clip_high}",
}
SKY_MASKS = {
    None: "",
    "product": "seq_sum_k1:{product_mask_high_inverse}-{product_mask_low_inverse}",
    "geometric": "seq_mean_k1:{geo_mask_high_inverse}-{geo_mask_low_inverse}",
}
SKY_OUTLIERS = (
    "every_ratio:{outlier_token_is_threshold_low}-{outlier_token_is_threshold_high}",
    "token_k1:{token_mask_is_threshold_high_inverse}-{token_mask_is_threshold_low_inverse}",
)
SKYRL = Trainer(
    "skyrl_rollout",
    "SkyRL correction",
    "2026-08",
    "2026-08-21",
    "NovaSky-AI/SkyRL a956457",
    (
        Option(SKY + "tis_ratio_type", None, tuple(SKY_WEIGHTS)),
        Option(SKY + "token_tis_ratio_clip_high", 2.0),
        Option(SKY + "sequence_tis_ratio_clip_high", 5.0),
        Option(SKY + "sequence_mask_metric", None, tuple(SKY_MASKS)),
        Option(SKY + "product_mask_low", 0.5),
        Option(SKY + "product_mask_high", 2.0),
        Option(SKY + "geo_mask_low", 0.99),
        Option(SKY + "geo_mask_high", 1.01),
        *(
            Option(f"{SKY}{which}_is_threshold_{side}", default, unset={None: default})
            for which in ("outlier_token", "token_mask")
            for side, default in (("low", 0.0), ("high", math.inf))
        ),
        Option("algorithm.kl_loss_coef", 0.001),
    ),
    tuple(
        row(
            {SKY + "tis_ratio_type": (kind,), SKY + "sequence_mask_metric": (metric,)},
            joined(weight, mask, *SKY_OUTLIERS),
            SKY_WHERE,
            "algorithm.kl_loss_coef",
            UNWEIGHTED,
        )
        for kind, weight in SKY_WEIGHTS.items()
        for metric, mask in SKY_MASKS.items()
    ),
)

SWIFT = "rollout_importance_sampling_"
SWIFT_MODES = {
    None: "",
    "token_truncate": "truncated_ratio:{bound}@old:mu",
    "token_mask": "masked_ratio:0-{bound}@old:mu",
    "sequence_truncate": "clipped_geometric_ratio:0-{bound}@old:mu",
    "sequence_mask": "geometric_mask:0-{bound}@old:mu",
}
MS_SWIFT = Trainer(
    "ms_swift_rollout",
    "ms-swift correction",
    "2026-08",
    "2026-08-22",
    "modelscope/ms-swift 3602360",
    (
        Option(SWIFT + "mode", None, tuple(SWIFT_MODES)),
        Option(SWIFT + "threshold", 2.0),
        Option("beta", 0.04),
    ),
    tuple(
        Row(
            {SWIFT + "mode": (mode,)},
            "k3_verl/loss/token/" + (factor.replace("bound", SWIFT + "threshold") or "none"),
            "swift/rlhf_trainers/grpo_trainer.py:GRPOTrainer._apply_rollout_importance_sampling",
            coefficient="beta",
            clamp="log-ratio to +-20, value to +-10",
            normalisation=LENGTH,
            note=(
                "of GRPO's penalty in the loss, which has the policy's weight; a sequence's ratio"
                " is the geometric mean; off_policy_sequence_mask_delta masks both by opsm:delta"
            ),
        )
        for mode, factor in SWIFT_MODES.items()
    ),
)

BY_SEQUENCE, CORRECTED, BY_CHANGE = (
    "rho_mask_sequence_level",
    "use_rho_correction",
    "rho_mask_tv_divergence",
)
RHO = "open_instruct/grpo_utils.py:compute_rho_correction"
RHO_CLAMP = ":{rho_clamp_lower_bound}-{rho_clamp_upper_bound}"
RHO_BOUNDS = ":{rho_mask_upper_bound_inverse}-{rho_mask_lower_bound_inverse}"
OPEN_INSTRUCT = Trainer(
    "open_instruct_rollout",
    "open-instruct correction",
    "2026-08",
    "2026-08-20",
    "allenai/open-instruct e6c3044",
    (
        Option(CORRECTED, True, ON),
        Option(BY_SEQUENCE, False, ON),
        Option(BY_CHANGE, False, ON),
        Option("rho_clamp_lower_bound", 0.0),
        Option("rho_clamp_upper_bound", 2.0, unset={0.0: math.inf}),
        Option("rho_mask_lower_bound", 0.0),
        Option("rho_mask_upper_bound", math.inf, unset={0.0: math.inf}),
        Option("beta", 0.05),
    ),
    (
        row({CORRECTED: (False,)}, "", RHO, "beta", UNWEIGHTED),
        *(
            row(
                {CORRECTED: (True,), BY_SEQUENCE: (whole,), BY_CHANGE: (changes,)},
                joined(kind + RHO_CLAMP, bounded),
                RHO,
                "beta",
                f"{BY_CHANGE} looks at no lower bound here; {UNWEIGHTED}"
                if changes
                else UNWEIGHTED,
            )
            for whole, kind, mask in (
                (False, "clipped_ratio", "token_k1"),
                (True, "clipped_geometric_ratio", "seq_mean_k1"),
            )
            for changes, bounded in (
                (False, mask + RHO_BOUNDS),
                (True, "vaco:{rho_mask_upper_bound}"),
            )
        ),
    ),
)

NEMO = "loss_fn."
NEMO_ON, NEMO_WHOLE, NEMO_TYPE, NEMO_HIGH, NEMO_LOW = (
    NEMO + each
    for each in (
        "use_importance_sampling_correction",
        "sequence_level_importance_ratios",
        "truncated_importance_sampling_type",
        "truncated_importance_sampling_ratio",
        "truncated_importance_sampling_ratio_min",
    )
)
NEMO_BOUNDS = ":{truncated_importance_sampling_ratio_min}-{truncated_importance_sampling_ratio}"
NEMO_WEIGHTS = {
    (None, False): "token_ratio",
    (None, True): "sequence_ratio",
    ("tis", False): "clipped_ratio" + NEMO_BOUNDS,
    ("tis", True): "truncated_sequence_ratio:{truncated_importance_sampling_ratio}",
    ("icepop", False): "masked_ratio" + NEMO_BOUNDS,
    ("icepop", True): "masked_sequence_ratio" + NEMO_BOUNDS,
    ("seq-mask-tis", False): "geometric_mask" + NEMO_BOUNDS,
}
NEMO_WHERE = "nemo_rl/algorithms/loss/loss_functions.py:ClippedPGLossFn.__call__"
NEMO_RL = Trainer(
    "nemo_rl_rollout",
    "NeMo-RL correction",
    "2026-08",
    "2026-08-22",
    "NVIDIA-NeMo/RL 7ea279a",
    (
        Option(NEMO_ON, False, ON),
        Option(NEMO_WHOLE, False, ON),
        Option(NEMO_TYPE, None, (None, "tis", "icepop", "seq-mask-tis")),
        Option(NEMO_HIGH, 5.0),
        Option(NEMO_LOW, 0.0),
        Option(NEMO + "reference_policy_kl_penalty", 0.01),
    ),
    (
        row(
            {NEMO_ON: (False,)},
            "",
            NEMO_WHERE,
            NEMO + "reference_policy_kl_penalty",
            UNWEIGHTED,
        ),
        *(
            row(
                {NEMO_ON: (True,), NEMO_TYPE: (kind,), NEMO_WHOLE: (whole,)},
                factors + "@old:mu",
                NEMO_WHERE,
                NEMO + "reference_policy_kl_penalty",
                "the bounds have no default, 0 to 5 stands for one; " + UNWEIGHTED
                if kind
                else UNWEIGHTED,
            )
            for (kind, whole), factors in NEMO_WEIGHTS.items()
        ),
        Row(
            {NEMO_ON: (True,), NEMO_TYPE: ("seq-mask-tis",), NEMO_WHOLE: (True,)},
            "",
            NEMO_WHERE,
            note="refused: its weights are those of tokens",
        ),
    ),
)

SLIME_BOUNDS = ":{tis_clip_low}-{tis_clip}@old:mu"
SLIME_WEIGHTS: dict[tuple[bool, Value], str] = {
    (False, None): "",
    (True, None): "clipped_ratio" + SLIME_BOUNDS,
    (True, "icepop"): "masked_ratio" + SLIME_BOUNDS,
}
SLIME_MASKS = {False: "", True: "opsm:{opsm_delta}@q:old"}
SLIME = Trainer(
    "slime_rollout",
    "slime correction",
    "2026-08",
    "2026-08-21",
    "THUDM/slime 624b824",
    (
        Option("use_tis", False, ON),
        Option("custom_tis_function_path", None, (None, "icepop"), "use_tis"),
        Option("tis_clip", 2.0, switch="use_tis"),
        Option("tis_clip_low", 0.0, switch="use_tis"),
        Option("use_opsm", False, ON),
        Option("opsm_delta", 1e-4, switch="use_opsm"),
        Option("kl_coef", 0.0),
    ),
    tuple(
        row(
            {"use_tis": (on,), "use_opsm": (masked,)}
            | ({"custom_tis_function_path": (path,)} if on else {}),
            "*".join(filter(None, (factors, mask))),
            "slime/backends/megatron_utils/loss.py" + (":policy_loss_function" if on else ""),
            "kl_coef",
            f"icepop stands for the path of icepop_function; {UNWEIGHTED}" if on else UNWEIGHTED,
        )
        for (on, path), factors in SLIME_WEIGHTS.items()
        for masked, mask in SLIME_MASKS.items()
    ),
)

PRIME_LOSS = "src/prime_rl/trainer/rl/loss.py:"
PRIME_NOTE = "the engine's and the later steps' weight in one; its own penalty is to the sampler"
PRIME_RL = Trainer(
    "prime_rl_rollout",
    "prime-rl mask",
    "2026-08",
    "2026-08-21",
    "PrimeIntellect-ai/prime-rl 559b447",
    (
        Option("loss.type", "default", ("default", "ipo")),
        Option("dppo_mask_high", 0.2),
        Option("ipo_threshold", 0.1),
        Option("adv_tau", 1.0),
    ),
    (
        row(
            {"loss.type": ("default",)},
            "dppo_tv:{dppo_mask_high}",
            PRIME_LOSS + "default_loss_fn",
            "adv_tau",
            PRIME_NOTE + "; dppo_mask_low is 0.2, too",
        ),
        row(
            {"loss.type": ("ipo",)},
            "tv:{ipo_threshold}",
            PRIME_LOSS + "ipo_loss_fn",
            "adv_tau",
            PRIME_NOTE,
        ),
    ),
)
PRIME_DISTILLATION = Trainer(
    "prime_rl_distillation",
    "prime-rl distillation",
    "2026-08",
    "2026-08-21",
    "PrimeIntellect-ai/prime-rl 559b447",
    (Option("ref_kl_weights", 1.0),),
    (
        Row(
            {},
            "k1/own_token/token/fall:0.2",
            PRIME_LOSS + "ref_kl_loss_fn",
            coefficient="ref_kl_weights",
            normalisation=TOKENS,
            note=(
                "each token's own k1, detached, times its ratio and score; besides that"
                " 0.001 (log q/mu)² to the sampler; the reference is the teacher"
            ),
        ),
    ),
)

TRAINERS = (
    SKYRL,
    MS_SWIFT,
    OPEN_INSTRUCT,
    NEMO_RL,
    SLIME,
    PRIME_RL,
    PRIME_DISTILLATION,
)
