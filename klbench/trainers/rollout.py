"""The weights of trainers for an engine whose probabilities are not the trainer's own.

Each multiplies the policy's gradient alone, token by token; what a penalty in the reward adds to it
is weighted so too, what stands in the loss is not. The rows are about k1 in the reward, summed over
what follows. The factors are those of the tests beside the installed functions
(``tests/trainers/test_corrections_installed.py``). The trust regions of verl's policy losses are
weights of the steps since, to the policy before them.
"""

from collections.abc import Iterator

from klbench.trainers._trainer import RETURNS, Option, Row, Trainer, Value

TO_GO = "k1/reward_to_go/token/"
ALONE = (
    "the engine's weight alone, as long as the policy has not moved since and nothing is clipped"
)


def row(
    when: dict[str, tuple[Value, ...]], factors: str, where: str, coefficient: str, note: str = ""
) -> Row:
    """Return the row of an engine's weight on k1 in the reward, given as factors, or none."""
    return Row(
        when,
        TO_GO + (factors or "none"),
        where,
        coefficient=coefficient,
        note="; ".join(filter(None, (ALONE, note))),
        normalisation=RETURNS,
    )


VLLM = "vllm_importance_sampling_"
MODES = {
    "sequence_mask": "sequence_mask:{clip}",
    "sequence_truncate": "truncated_sequence_ratio:{clip}",
    "token_mask": "masked_ratio:0-{clip}",
    "token_truncate": "truncated_ratio:{clip}",
}
ON = f"{VLLM}correction"
TRL_WHERE = "trl/trainer/grpo_trainer.py:GRPOTrainer._generate_and_score_completions"
TRL_NOTE = (
    "GRPO's own penalty stands in the loss, where no such weight is: the two pull towards different"
    " policies; off_policy_mask_threshold multiplies the policy's term with opsm:threshold@q:mu"
)
TRL = Trainer(
    "trl_vllm",
    "TRL with vLLM",
    "1.16",
    "1.16",
    "trl 1.16.0",
    (
        Option(ON, True, (True, False)),
        Option(f"{VLLM}mode", "sequence_mask", tuple(MODES)),
        Option(f"{VLLM}clip_max", 3.0),
        Option("beta", 0.05),
    ),
    (
        row({ON: (False,)}, "", TRL_WHERE, "beta"),
        *(
            row(
                {f"{VLLM}mode": (mode,)},
                factor.replace("{clip}", f"{{{VLLM}clip_max}}") + "@old:mu",
                TRL_WHERE,
                "beta",
                f"{TRL_NOTE}; with clip_min the weight is 0, or moved to it, below that, too",
            )
            for mode, factor in MODES.items()
        ),
    ),
)

ROLLOUT = "algorithm.rollout_correction."
IS, CAP, RS, BOUND, BATCH = (
    ROLLOUT + each
    for each in (
        "rollout_is",
        "rollout_is_threshold",
        "rollout_rs",
        "rollout_rs_threshold",
        "rollout_is_batch_normalize",
    )
)
REJECTIONS = tuple(
    f"{where}_{what}"
    for where in ("token", "seq_sum", "seq_mean", "seq_max")
    for what in ("k1", "k2", "k3")
    if (where, what) != ("seq_max", "k1")
)
WEIGHTS = {
    None: "",
    "token": "truncated_ratio:{rollout_is_threshold}@old:mu",
    "sequence": "truncated_sequence_ratio:{rollout_is_threshold}@old:mu",
}


def _verl() -> Iterator[Row]:
    for level, weight in WEIGHTS.items():
        for rejection in (None, *REJECTIONS):
            bounds = "{rollout_rs_threshold}"
            if "k1" in str(rejection):
                bounds = "{rollout_rs_threshold_inverse}-" + bounds
            rejected = f"{rejection}:{bounds}@old:mu" if rejection else ""
            for normalised in (False, True) if level else (False,):
                yield _verls(level, rejection, weight, rejected, normalised=normalised)


def _verls(
    level: str | None, rejection: str | None, weight: str, rejected: str, *, normalised: bool
) -> Row:
    where = "verl/trainer/ppo/rollout_corr_helper.py:compute_rollout_correction_weights"
    when: dict[str, tuple[Value, ...]] = {IS: (level,), RS: (rejection,)}
    if level:
        when[BATCH] = (normalised,)
    factors = "*".join(filter(None, (weight, rejected))) + (":normalised" if normalised else "")
    notes = (
        "with a threshold low_high the weight is masked_ratio:low-high (IcePop)" if level else "",
        "the mean is that of all weights, whatever is rejected" if normalised and rejected else "",
    )
    return row(when, factors, where, COEFFICIENT, "; ".join(filter(None, notes)))


COEFFICIENT = "algorithm.kl_ctrl.kl_coef"
VERL = Trainer(
    "verl_rollout",
    "verl rollout correction",
    "0.9.1",
    "0.9.1",
    "verl 0.9.1",
    (
        Option(IS, None, tuple(WEIGHTS)),
        Option(CAP, 2.0),
        Option(RS, None, (None, *REJECTIONS)),
        Option(BOUND, 2.0),
        Option(BATCH, False, (True, False)),
        Option(COEFFICIENT, 0.001),
    ),
    tuple(_verl()),
)

MODE_OF_LOSS, CLIP = "actor.policy_loss.loss_mode", "actor.clip_ratio_"
TRUST = {
    "vanilla": ("token_ratio@q:old", ""),
    "gpg": ("", "without a ratio"),
    "dppo_tv": ("dppo_tv:{clip_ratio_high}@q:old", "the ratio is cut off at clip_ratio_c besides"),
    "dppo_kl": ("dppo_kl:{clip_ratio_high}@q:old", "the ratio is cut off at clip_ratio_c besides"),
    "gspo": ("geometric_ratio@q:old", "as long as nothing is clipped"),
    "cispo": ("clipped_ratio:{clip_ratio_low:below}-{clip_ratio_high:above}@q:old", ""),
    "sapo": ("faded_ratio:{tau_pos}-{tau_neg}@q:old", ""),
}
NO_WEIGHT = {
    "geo_mean": "the score of a sequence's mean clipped log-ratio: no weight of tokens",
    "clip_cov": "vanilla, with single tokens drawn and left out",
    "kl_cov": "vanilla, with |log q/old| on the tokens of largest covariance",
    "dro": "without a ratio, with k2 to the old policy",
}
"""The policy losses of verl that are no weight on each token's score."""
OF_POLICY = "verl/trainer/ppo/core_algos.py:compute_policy_loss_"
VERL_POLICY = Trainer(
    "verl_policy",
    "verl policy loss",
    "0.9.1",
    "0.9.1",
    "verl 0.9.1",
    (
        Option(MODE_OF_LOSS, "vanilla", (*TRUST, *NO_WEIGHT)),
        Option(CLIP + "low", 0.2),
        Option(CLIP + "high", 0.2),
        Option("actor.tau_pos", 1.0),
        Option("actor.tau_neg", 1.05),
        Option(COEFFICIENT, 0.001),
    ),
    (
        *(
            Row(
                {MODE_OF_LOSS: (mode,)},
                TO_GO + (factors or "none"),
                OF_POLICY + mode,
                coefficient=COEFFICIENT,
                note="; ".join(filter(None, ("of a penalty in the reward", note))),
                normalisation=RETURNS,
            )
            for mode, (factors, note) in TRUST.items()
        ),
        *(
            Row({MODE_OF_LOSS: (mode,)}, "", OF_POLICY + mode, note=note)
            for mode, note in NO_WEIGHT.items()
        ),
    ),
)

LEVEL, MODE, GATING, HIGH = (
    f"algo.advantage.is_correction_{each}" for each in ("level", "mode", "gating", "threshold")
)
GATES = {
    ("token", "mask", "ratio"): "masked_ratio:0.5-{is_correction_threshold}@old:mu",
    ("token", "clip", "ratio"): "clipped_ratio:0.5-{is_correction_threshold}@old:mu",
    ("seq", "mask", "ratio"): "geometric_mask:0.5-{is_correction_threshold}@old:mu",
    ("token", "mask", "binary_kl"): "binary_kl:{is_correction_threshold}@old:mu",
    ("token", "mask", "tv"): "tv:{is_correction_threshold}@old:mu",
    (
        "seq",
        "mask",
        "binary_kl",
    ): "token_ratio@old:mu*seq_mean_binary_kl:{is_correction_threshold}@old:mu",
    ("seq", "mask", "tv"): "token_ratio@old:mu*seq_mean_tv:{is_correction_threshold}@old:mu",
}
REFUSED = "refused: only a token's ratio is clipped"
OPENRLHF = Trainer(
    "openrlhf_rollout",
    "OpenRLHF correction",
    "0.11.2",
    "0.11.2",
    "openrlhf 0.11.2",
    (
        Option(LEVEL, "off", ("off", "token", "seq")),
        Option(MODE, "mask", ("mask", "clip")),
        Option(GATING, "ratio", ("ratio", "binary_kl", "tv")),
        Option(HIGH, 5.0),
        Option("algo.kl.init_coef", 0.01),
    ),
    (
        row(
            {LEVEL: ("off",)}, "", "openrlhf/models/loss.py:PolicyLoss.forward", "algo.kl.init_coef"
        ),
        *(
            row(
                {LEVEL: (level,), MODE: (mode,), GATING: (gating,)},
                factors,
                "openrlhf/models/loss.py:PolicyLoss.forward",
                "algo.kl.init_coef",
                "the lower bound is 0.5 by default" if gating == "ratio" else "",
            )
            for (level, mode, gating), factors in GATES.items()
        ),
        Row({LEVEL: ("seq",), MODE: ("clip",)}, "", note=REFUSED),
        Row({LEVEL: ("token",), MODE: ("clip",), GATING: ("binary_kl", "tv")}, "", note=REFUSED),
    ),
)

TRAINERS = (TRL, VERL, VERL_POLICY, OPENRLHF)
