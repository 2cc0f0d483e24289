"""The trust regions of policy losses: weights of the policy now to the policy before the steps.

They multiply each token's score as they stand, what a penalty in the reward adds to it included;
the rows are about k1 in the reward, summed over what follows. They are the slopes of the losses,
clips and all, as the tests beside the installed functions have them
(``tests/trainers/test_policy_losses.py``).
"""

import math
from collections.abc import Iterator, Mapping

from klbench.trainers._options import Option, Value
from klbench.trainers._trainer import RETURNS, Row, Trainer

TO_GO = "k1/reward_to_go/token/"
UNBOUNDED: Mapping[Value, Value] = {None: math.inf}
OF_REWARD = "of a penalty in the reward"


def row(
    when: Mapping[str, tuple[Value, ...]],
    weights: str,
    where: str,
    coefficient: str,
    note: str = "",
    of: str = OF_REWARD,
) -> Row:
    """Return the row of weights on scores, which may have a placement of their own before them.

    ``of`` says what they are the weights of.
    """
    return Row(
        when,
        weights if "/" in weights else TO_GO + (weights or "none"),
        where,
        coefficient=coefficient,
        note="; ".join(filter(None, (of, note))),
        normalisation=RETURNS,
    )


MODE, CLIP, BETA = "actor.policy_loss.loss_mode", "actor.clip_ratio_", "algorithm.kl_ctrl.kl_coef"
CLIPPED = "ppo_ratio:{clip_ratio_low:below}-{clip_ratio_high:above}"
DUAL = "dual_clip:{clip_ratio_c}"
DPPO = "the ratio is cut off at clip_ratio_c besides, and clip_ratio_low bounds the other side"
VERL_MODES = {
    "vanilla": (f"{CLIPPED}@q:old*{DUAL}@q:old", ""),
    "gpg": ("", "without a ratio"),
    "dppo_tv": ("dppo_tv:{clip_ratio_high}@q:old", DPPO),
    "dppo_kl": ("dppo_kl:{clip_ratio_high}@q:old", DPPO),
    "gspo": (CLIPPED.replace("ppo_ratio", "ppo_geometric_ratio") + "@q:old", ""),
    "cispo": ("clipped_ratio:{clip_ratio_low:below}-{clip_ratio_high:above}@q:old", ""),
    "sapo": ("faded_ratio:{tau_pos}-{tau_neg}@q:old", ""),
    "geo_mean": (
        "k1/reward/token/gmpo:{clip_ratio_low:exp_inverse}-{clip_ratio_high:exp}@q:old",
        (
            "with advantages that all tokens of a sequence share (grpo, rloo): of others the mean"
            " is taken; scores are divided by its length, whatever loss_agg_mode is"
        ),
    ),
    "clip_cov": (
        f"{CLIPPED}@q:old",
        (
            "clip_cov_ratio of a batch's tokens are left out besides, drawn from those whose"
            " advantage and log-probability are both far from the batch's mean: no weight of a"
            " sequence's own says which"
        ),
    ),
    "kl_cov": (
        "token_ratio@q:old",
        (
            "nothing is clipped; kl_cov_ratio of a batch's tokens, those of largest covariance,"
            " have ppo_kl_coef |log q/old| in the loss besides"
        ),
    ),
    "dro": (
        "",
        (
            "without a ratio; dro_beta k2 to the old policy is in the loss besides, which on-policy"
            " is k2/loss/token/none/none/reference=sampler"
        ),
    ),
    "bypass_mode": (
        f"{CLIPPED}*{DUAL}",
        (
            "what rollout_correction.bypass_mode sets: the engine stands in the old policy's place;"
            " masks and weights besides are those of verl_rollout"
        ),
    ),
}
"""The weights of tokens in verl's policy losses, by loss_mode."""
VERL = Trainer(
    "verl_policy",
    "verl policy loss",
    "0.9.1",
    "0.9.1",
    "verl 0.9.1",
    (
        Option(MODE, "vanilla", tuple(VERL_MODES)),
        Option(CLIP + "low", 0.2),
        Option(CLIP + "high", 0.2),
        Option(CLIP + "c", 3.0),
        Option("actor.tau_pos", 1.0),
        Option("actor.tau_neg", 1.05),
        Option(BETA, 0.001),
    ),
    tuple(
        row(
            {MODE: (mode,)},
            weights,
            f"verl/trainer/ppo/core_algos.py:compute_policy_loss_{mode}",
            BETA,
            note,
        )
        for mode, (weights, note) in VERL_MODES.items()
    ),
)

LOSS, LEVEL = "loss_type", "importance_sampling_level"
PPO_LOSSES = ("dapo", "bnpo", "dr_grpo", "grpo", "luspo")
BOUNDS = ":{epsilon:below}-{epsilon_high:above}@q:old"
BESIDES = "*dual_clip:{delta}@q:old"
MASKED = "*opsm:{off_policy_mask_threshold}@q:mu"


def _trl() -> Iterator[Row]:
    where = "trl/trainer/grpo_trainer.py:GRPOTrainer._compute_loss"

    def known(losses: tuple[str, ...], level: str, weights: str, note: str = "") -> Row:
        weights = f"k1/reward/token/{weights}{MASKED}"
        return row({LOSS: losses, LEVEL: (level,)}, weights, where, "beta", note)

    yield known(PPO_LOSSES, "token", "ppo_ratio" + BOUNDS + BESIDES)
    yield known(
        PPO_LOSSES,
        "sequence",
        "ppo_geometric_ratio" + BOUNDS,
        "delta cuts off sequences of negative advantage besides",
    )
    cap = "epsilon_high is the cap itself: without one it is epsilon, 0.2, which cuts off every"
    cap += " weight near the old policy to the same"
    yield known(("cispo",), "token", "clipped_ratio:0-{epsilon_high}@q:old", cap)
    yield known(("cispo",), "sequence", "clipped_geometric_ratio:0-{epsilon_high}@q:old", cap)
    yield known(
        ("sapo",), "token", "faded_ratio:{sapo_temperature_pos}-{sapo_temperature_neg}@q:old"
    )
    yield Row(
        {LOSS: ("sapo",), LEVEL: ("sequence",)},
        "",
        where,
        note="SAPO's gate of the geometric mean of a sequence's ratios, which no factor has",
    )
    yield Row(
        {LOSS: ("vespo",)},
        "",
        where,
        note=(
            "w^k exp(lambda (1 - w)) of the sequence's ratio w to the engine, with two numbers for"
            " each sign of the advantage: no factor has so many"
        ),
    )


TRL = Trainer(
    "trl_policy",
    "TRL policy loss",
    "1.16",
    "1.16",
    "trl 1.16.0",
    (
        Option(LOSS, "dapo", (*PPO_LOSSES, "cispo", "sapo", "vespo")),
        Option(LEVEL, "token", ("token", "sequence")),
        Option("epsilon", 0.2),
        Option("epsilon_high", None, unset={None: None}, like="epsilon"),
        Option("delta", math.inf, unset=UNBOUNDED),
        Option("off_policy_mask_threshold", math.inf, unset=UNBOUNDED),
        Option("sapo_temperature_pos", 1.0),
        Option("sapo_temperature_neg", 1.05),
        Option("beta", 0.05),
    ),
    tuple(_trl()),
)

KIND, DUAL_CLIP = "actor.policy_loss_type", "actor.dual_clip"
OPENRLHF_WHERE = "openrlhf/models/loss.py:PolicyLoss.forward"
OPENRLHF = Trainer(
    "openrlhf_policy",
    "OpenRLHF policy loss",
    "0.11.2",
    "0.11.2",
    "openrlhf 0.11.2",
    (
        Option(KIND, "ppo", ("ppo", "gspo")),
        Option("actor.eps_clip", 0.2),
        Option(DUAL_CLIP, math.inf, unset=UNBOUNDED),
        Option("algo.kl.init_coef", 0.01),
    ),
    (
        row(
            {KIND: ("ppo",)},
            "ppo_ratio:{eps_clip:below}-{eps_clip:above}@q:old*dual_clip:{dual_clip}@q:old",
            OPENRLHF_WHERE,
            "algo.kl.init_coef",
            "is_correction_level multiplies it with the weights of openrlhf_rollout",
        ),
        Row(
            {KIND: ("gspo",)},
            "",
            OPENRLHF_WHERE,
            note=(
                "ppo_geometric_ratio of each sequence times the mean of its tokens' returns to go,"
                " which no placement has; with a correction on, the ratio is to the engine, and the"
                " correction's masks and bounds are not looked at"
            ),
        ),
    ),
)

TRAINERS = (VERL, TRL, OPENRLHF)
