"""The weights for an engine's own probabilities of trainers that were read.

As in :mod:`klbench.trainers.rollout`, the rows are about k1 in the reward, whatever a trainer's own
penalty is; the notes say where that one stands, and whether it has the weight too. Those of SkyRL,
AReaL and ms-swift are the factors of the tests beside the installed functions.
"""

from collections.abc import Iterator

from klbench.trainers._trainer import LENGTH, TOKENS, Option, Row, Trainer, Value
from klbench.trainers.rollout import row

ON = (True, False)
UNWEIGHTED = "a penalty in the loss has no such weight"


def _joined(*factors: str) -> str:
    return "*".join(f"{each}@old:mu" for each in factors if each)


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
        Option("algorithm.kl_loss_coef", 0.001),
    ),
    tuple(
        row(
            {SKY + "tis_ratio_type": (kind,), SKY + "sequence_mask_metric": (metric,)},
            _joined(weight, mask),
            SKY_WHERE,
            "algorithm.kl_loss_coef",
            "outlier_token_is_threshold_low and _high multiply it with every_ratio:low-high,"
            " token_mask_is_threshold_low and _high with token_k1:1/high-1/low; " + UNWEIGHTED,
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

BY_SEQUENCE, CORRECTED = "rho_mask_sequence_level", "use_rho_correction"
RHO = "open_instruct/grpo_utils.py:compute_rho_correction"
OPEN_INSTRUCT = Trainer(
    "open_instruct_rollout",
    "open-instruct correction",
    "2026-08",
    "2026-08-20",
    "allenai/open-instruct e6c3044",
    (
        Option(CORRECTED, True, ON),
        Option(BY_SEQUENCE, False, ON),
        Option("rho_clamp_upper_bound", 2.0),
        Option("beta", 0.05),
    ),
    (
        row({CORRECTED: (False,)}, "", RHO, "beta", UNWEIGHTED),
        *(
            row(
                {CORRECTED: (True,), BY_SEQUENCE: (whole,)},
                f"{kind}{{rho_clamp_upper_bound}}@old:mu",
                RHO,
                "beta",
                f"rho_mask_lower_bound and _upper_bound multiply it with {mask}:1/upper-1/lower,"
                f" or, with rho_mask_tv_divergence, with vaco:upper; {UNWEIGHTED}",
            )
            for whole, kind, mask in (
                (False, "truncated_ratio:", "token_k1"),
                (True, "clipped_geometric_ratio:0-", "seq_mean_k1"),
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
SLIME_WEIGHTS = {None: "clipped_ratio" + SLIME_BOUNDS, "icepop": "masked_ratio" + SLIME_BOUNDS}
SLIME = Trainer(
    "slime_rollout",
    "slime correction",
    "2026-08",
    "2026-08-21",
    "THUDM/slime 624b824",
    (
        Option("use_tis", False, ON),
        Option("custom_tis_function_path", None, tuple(SLIME_WEIGHTS), "use_tis"),
        Option("tis_clip", 2.0, switch="use_tis"),
        Option("tis_clip_low", 0.0, switch="use_tis"),
        Option("kl_coef", 0.0),
    ),
    (
        row({"use_tis": (False,)}, "", "slime/backends/megatron_utils/loss.py", "kl_coef"),
        *(
            row(
                {"use_tis": (True,), "custom_tis_function_path": (path,)},
                factors,
                "slime/backends/megatron_utils/loss.py:policy_loss_function",
                "kl_coef",
                "use_opsm multiplies it with opsm:opsm_delta@q:old; icepop stands for the path of"
                f" icepop_function; {UNWEIGHTED}",
            )
            for path, factors in SLIME_WEIGHTS.items()
        ),
    ),
)

IS, FILTER = "train_infer_correction.is_weight.", "train_infer_correction.filters."
ROLL_WEIGHTS = {
    "token": "truncated_ratio:{upper_bound}",
    "geometric": "clipped_geometric_ratio:0-{upper_bound}",
    "sequence": "truncated_sequence_ratio:{upper_bound}",
    "segment": "",
}
ROLL_BOUNDS = ":{ratio_high_inverse}-{ratio_low_inverse}"
ROLL_FILTERS = {
    "token": "token_k1" + ROLL_BOUNDS,
    "geometric": "seq_mean_k1" + ROLL_BOUNDS,
    "sequence": "seq_sum_k1" + ROLL_BOUNDS,
}


def _roll() -> Iterator[Row]:
    where = "roll/utils/train_infer_corrections.py:compute_train_infer_correction"
    segments = "segments are turns of an agent, which no sequence has here"
    yield Row({IS + "enabled": (True,), IS + "weight_type": ("segment",)}, "", where, note=segments)
    for kind, weight in ((None, ""), *ROLL_WEIGHTS.items()):
        if kind == "segment":
            continue
        when: dict[str, tuple[Value, ...]] = {IS + "enabled": (bool(kind),)}
        if kind:
            when[IS + "weight_type"] = (kind,)
        for agg, mask in ((None, ""), *ROLL_FILTERS.items()):
            filtered: dict[str, tuple[Value, ...]] = {FILTER + "enabled": (bool(agg),)}
            if agg:
                filtered[FILTER + "agg_type"] = (agg,)
            yield row(
                when | filtered,
                _joined(weight, mask),
                where,
                "init_kl_coef",
                "a penalty in the loss has no weight, but the filters; filters multiply, and"
                " diff_enabled adds one by the change of the probability",
            )


ROLL = Trainer(
    "roll_rollout",
    "ROLL correction",
    "2026-08",
    "2026-08-19",
    "alibaba/ROLL 8eb27cc",
    (
        Option(IS + "enabled", False, ON),
        Option(IS + "weight_type", "token", tuple(ROLL_WEIGHTS), IS + "enabled"),
        Option(IS + "upper_bound", 1.2, switch=IS + "enabled"),
        Option(FILTER + "enabled", False, ON),
        Option(FILTER + "agg_type", "token", tuple(ROLL_FILTERS), FILTER + "enabled"),
        Option(FILTER + "ratio_low", 0.8, switch=FILTER + "enabled"),
        Option(FILTER + "ratio_high", 1.2, switch=FILTER + "enabled"),
        Option("init_kl_coef", 0.2),
    ),
    tuple(_roll()),
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
    ROLL,
    PRIME_RL,
    PRIME_DISTILLATION,
)
