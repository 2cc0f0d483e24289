"""The weights of trainers for an engine whose probabilities are not the trainer's own.

Each multiplies the policy's gradient alone, token by token; what a penalty in the reward adds to it
is weighted so too, what stands in the loss is not. The rows are about k1 in the reward, summed over
what follows. The factors are those of the tests beside the installed functions
(``tests/trainers/test_corrections_installed.py``). Weights of the steps since, to the policy before
them, are in :mod:`klbench.trainers.policy`.
"""

import math
from collections.abc import Iterator

from klbench.trainers import policy
from klbench.trainers._options import Option, Value
from klbench.trainers._trainer import Row, Trainer

ALONE = (
    "the engine's weight alone, as long as the policy has not moved since and nothing is clipped"
)


def row(
    when: dict[str, tuple[Value, ...]], factors: str, where: str, coefficient: str, note: str = ""
) -> Row:
    """Return the row of an engine's weight on k1 in the reward, given as factors, or none."""
    return policy.row(when, factors, where, coefficient, note, of=ALONE)


def joined(*factors: str) -> str:
    """Return the product of factors, those of the engine's ratio."""
    return "*".join(f"{each}@old:mu" for each in factors if each)


ON = (True, False)
VLLM = "vllm_importance_sampling_"
MODES = {
    "sequence_mask": "masked_sequence_ratio",
    "sequence_truncate": "clipped_sequence_ratio",
    "token_mask": "masked_ratio",
    "token_truncate": "clipped_ratio",
}
BOUNDS = f":{{{VLLM}clip_min}}-{{{VLLM}clip_max}}"
CORRECTED = f"{VLLM}correction"
TRL_WHERE = "trl/trainer/grpo_trainer.py:GRPOTrainer._generate_and_score_completions"
TRL_NOTE = (
    "GRPO's own penalty stands in the loss, where no such weight is: the two pull towards different"
    " policies; the weights of the policy's term besides are those of trl_policy"
)
TRL = Trainer(
    "trl_vllm",
    "TRL with vLLM",
    "1.16",
    "1.16",
    "trl 1.16.0",
    (
        Option(CORRECTED, True, ON),
        Option(f"{VLLM}mode", "sequence_mask", tuple(MODES)),
        Option(f"{VLLM}clip_min", 0.0, unset={None: 0.0}),
        Option(f"{VLLM}clip_max", 3.0, unset={None: math.inf}),
        Option("beta", 0.05),
    ),
    (
        row({CORRECTED: (False,)}, "", TRL_WHERE, "beta"),
        *(
            row({f"{VLLM}mode": (mode,)}, joined(factor + BOUNDS), TRL_WHERE, "beta", TRL_NOTE)
            for mode, factor in MODES.items()
        ),
    ),
)

ROLLOUT = "algorithm.rollout_correction."
IS, CAP, RS, BOUND, BATCH, BYPASS, TYPE = (
    ROLLOUT + each
    for each in (
        "rollout_is",
        "rollout_is_threshold",
        "rollout_rs",
        "rollout_rs_threshold",
        "rollout_is_batch_normalize",
        "bypass_mode",
        "loss_type",
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
    "token": "truncated_ratio:{rollout_is_threshold}",
    "sequence": "truncated_sequence_ratio:{rollout_is_threshold}",
}


WHERE = "verl/trainer/ppo/"
BYPASSED = "the engine stands in the old policy's place"


def _verl() -> Iterator[Row]:
    for rejection in (None, *REJECTIONS):
        bounds = "{rollout_rs_threshold}"
        if "k1" in str(rejection):
            bounds = "{rollout_rs_threshold_inverse}-" + bounds
        rejected = f"{rejection}:{bounds}" if rejection else ""
        clipped: dict[str, tuple[Value, ...]] = {
            BYPASS: (True,),
            TYPE: ("ppo_clip",),
            RS: (rejection,),
        }
        weights = "*".join(filter(None, (policy.CLIPPED, policy.DUAL, rejected)))
        where = f"{WHERE}core_algos.py:compute_policy_loss_bypass_mode"
        note = f"{BYPASSED}, whatever rollout_is is"
        yield policy.row(clipped, weights, where, policy.BETA, note)
        for level, weight in WEIGHTS.items():
            for normalised in (False, True) if level else (False,):
                for bypassed in (False, True):
                    yield _verls(
                        (level, rejection),
                        (weight, rejected),
                        normalised=normalised,
                        bypassed=bypassed,
                    )


def _verls(
    kinds: tuple[str | None, str | None],
    factors: tuple[str, str],
    *,
    normalised: bool,
    bypassed: bool,
) -> Row:
    level, rejection = kinds
    when: dict[str, tuple[Value, ...]] = {BYPASS: (bypassed,), IS: (level,), RS: (rejection,)}
    if level:
        when[BATCH] = (normalised,)
    notes = (
        "with a threshold low_high the weight is masked_ratio:low-high (IcePop)" if level else "",
        "the mean is that of all weights, whatever is rejected" if normalised and rejection else "",
    )
    last = ":normalised" if normalised else ""
    if bypassed:
        weights = "*".join(filter(None, factors)) + last
        when[TYPE] = ("reinforce",)
        where = f"{WHERE}core_algos.py:compute_policy_loss_reinforce"
        note = "; ".join(filter(None, (f"{BYPASSED}, and no ratio is in the loss", *notes)))
        return policy.row(when, weights, where, policy.BETA, note)
    weights = joined(*factors) + last
    where = f"{WHERE}rollout_corr_helper.py:compute_rollout_correction_weights"
    return row(when, weights, where, policy.BETA, "; ".join(filter(None, notes)))


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
        Option(BATCH, False, ON),
        Option(BYPASS, False, ON),
        Option(TYPE, "ppo_clip", ("ppo_clip", "reinforce"), BYPASS),
        Option(policy.CLIP + "low", 0.2),
        Option(policy.CLIP + "high", 0.2),
        Option(policy.CLIP + "c", 3.0),
        Option(policy.BETA, 0.001),
    ),
    tuple(_verl()),
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
OF_BOUNDS = "is_correction_threshold is 0.5 5 by default; one number alone has no lower bound"
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
                OF_BOUNDS if gating == "ratio" else "",
            )
            for (level, mode, gating), factors in GATES.items()
        ),
        Row({LEVEL: ("seq",), MODE: ("clip",)}, "", note=REFUSED),
        Row({LEVEL: ("token",), MODE: ("clip",), GATING: ("binary_kl", "tv")}, "", note=REFUSED),
    ),
)

TRAINERS = (TRL, VERL, OPENRLHF)
