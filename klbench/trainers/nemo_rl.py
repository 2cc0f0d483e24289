"""NeMo-RL, whose weight on the penalty has changed.

None until 0.6, since then one that is differentiated.
"""

from klbench.trainers._combinations import own_token
from klbench.trainers._options import Option
from klbench.trainers._trainer import LENGTH, RETURNS, TOKENS, Row, Trainer

WHERE = "nemo_rl/algorithms/loss/loss_functions.py:ClippedPGLossFn.__call__"
IN_REWARD, ADVANTAGES = "nemo_rl/algorithms/advantage_estimator.py", "adv_estimator.name"
LIMITS = "log-ratio to +-20, value to +-10"
WEIGHTED = "log-ratio to +-20, weighted value to +-10"
TYPE, APPROXIMATION, PENALTY = (
    f"loss_fn.{each}"
    for each in (
        "reference_policy_kl_type",
        "use_on_policy_kl_approximation",
        "reference_policy_kl_penalty",
    )
)
CLAMPED = {"k1": "k1_openrlhf", "k2": "k2_openrlhf", "k3": "k3_verl"}
"""The estimators that have the same clamps.

A log-ratio's at 20 changes nothing of what is cut off at 10 for k1 and k2.
"""
RATIO = "loss/token/token_ratio"


def _row(
    kind: str, approximated: bool, combination: str, named: str, *, late: bool, note: str = ""
) -> Row:
    return Row(
        {TYPE: (kind,), APPROXIMATION: (approximated,)},
        combination,
        WHERE,
        named,
        PENALTY,
        WEIGHTED if late else LIMITS,
        note,
        since="0.7" if late else "",
        until="" if late else "0.6",
    )


def _rows(kind: str) -> tuple[Row, ...]:
    clamped, third = CLAMPED[kind], kind == "k3"
    own = (
        "the weight is exp(x - x.detach()): 1 whoever samples, so that the combination is this one"
        " on-policy"
    )
    return (
        _row(
            kind,
            False,
            f"{clamped}/{RATIO}:differentiated",
            "k3_plus" if third else "",
            late=True,
            note=own,
        ),
        _row(
            kind,
            True,
            f"{clamped}/{RATIO}:differentiated",
            "k3_ratio_loss" if third else "",
            late=True,
        ),
        _row(
            kind,
            False,
            "k3_verl_loss" if third else f"{clamped}/loss",
            "" if third else f"{kind}_loss",
            late=False,
        ),
        _row(
            kind, True, f"{clamped}/{RATIO}", "k3_detached_ratio_loss" if third else "", late=False
        ),
    )


NEMO_RL = Trainer(
    "nemo_rl",
    "NeMo-RL",
    "0.5",
    "0.7",
    "NVIDIA-NeMo/RL v0.5.0, v0.6.0, v0.7.0 and 7ea279a",
    (
        Option(TYPE, "k3", ("k1", "k2", "k3")),
        Option(PENALTY, 0.01),
        Option(APPROXIMATION, False, (True, False)),
        Option("loss_fn.use_kl_in_reward", False, (True, False), since="0.6"),
        Option(ADVANTAGES, "grpo", ("grpo", "reinforce_plus_plus", "gae"), since="0.6"),
        Option("loss_fn.token_level_loss", True, (True, False)),
    ),
    (
        *(
            Row(
                {
                    "loss_fn.use_kl_in_reward": (True,),
                    ADVANTAGES: ("reinforce_plus_plus",),
                    TYPE: (kind,),
                },
                own_token(CLAMPED[kind]),
                f"{IN_REWARD}:ReinforcePlusPlusAdvantageEstimator.compute_advantage",
                coefficient=PENALTY,
                clamp=LIMITS,
                normalisation=RETURNS,
                since="0.6",
                note=(
                    "each token's own value, detached, times its own score, before whitening over"
                    " the batch"
                ),
            )
            for kind in ("k1", "k2", "k3")
        ),
        *(
            Row(
                {"loss_fn.use_kl_in_reward": (True,), ADVANTAGES: ("gae",), TYPE: (kind,)},
                f"{CLAMPED[kind]}/reward_to_go",
                f"{IN_REWARD}:GeneralizedAdvantageEstimator",
                coefficient=PENALTY,
                clamp=LIMITS,
                normalisation=RETURNS,
                since="0.6",
                note="with a critic, before whitening",
            )
            for kind in ("k1", "k2", "k3")
        ),
        Row(
            {"loss_fn.use_kl_in_reward": (True,)},
            "",
            IN_REWARD,
            coefficient=PENALTY,
            since="0.6",
            note="of the advantages, those of REINFORCE++ and GAE alone take a penalty",
        ),
        *_rows("k3"),
        *_rows("k1"),
        *_rows("k2"),
    ),
    normaliser="loss_fn.token_level_loss",
    normalisations={"True": TOKENS, "False": LENGTH},
    aliases={
        "nemo_rl": "",
        "nemo_rl_on_policy_kl": "use_on_policy_kl_approximation=true",
        "nemo_rl_k3_of_2025": "@0.5",
        "nemo_rl_detached_ratio": "@0.6 use_on_policy_kl_approximation=true",
    },
)

TRAINERS = (NEMO_RL,)
