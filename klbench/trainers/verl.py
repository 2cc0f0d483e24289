"""verl: its actor's loss, and the penalty in its rewards."""

from collections.abc import Iterator

from klbench.trainers._combinations import NONE, in_reward, own_token
from klbench.trainers._options import Option
from klbench.trainers._trainer import CONSTANT, LENGTH, RETURNS, SEQUENCES, TOKENS, Row, Trainer

CORE = "verl/trainer/ppo/core_algos.py:"
PENALTY = f"{CORE}kl_penalty"
LIMITS = "log-ratio to +-20, value to +-10"
AVERAGES = {
    "token-mean": TOKENS,
    "token-sum": CONSTANT,
    "seq-mean-token-sum": SEQUENCES,
    "seq-mean-token-sum-norm": CONSTANT,
    "seq-mean-token-mean": LENGTH,
}
KINDS = {
    "kl": "k1",
    "k1": "k1",
    "abs": "abs",
    "mse": "k2",
    "k2": "k2",
    "low_var_kl": "k3_verl",
    "k3": "k3_verl",
}
TYPES = tuple(kind + plus for plus in ("", "+") for kind in KINDS)

ACTOR = "actor_rollout_ref.actor."
IN_LOSS, IN_REWARD = ACTOR + "use_kl_loss", "algorithm.use_kl_in_reward"
TYPE, PENALTY_TYPE, ESTIMATOR = (
    ACTOR + "kl_loss_type",
    "algorithm.kl_penalty",
    "algorithm.adv_estimator",
)

NO_TOKEN_SUM = Row(
    {ACTOR + "loss_agg_mode": ("token-sum",)},
    "",
    until="0.8",
    note="there is no token-sum before 0.9",
)


def _loss(
    types: tuple[str, ...], combination: str, *, named: str = "", clamp: str = "", note: str = ""
) -> Row:
    return Row(
        {IN_LOSS: (True,), TYPE: types},
        combination,
        PENALTY,
        named,
        ACTOR + "kl_loss_coef",
        clamp,
        note,
    )


def _in_reward() -> Iterator[Row]:
    """The effect of the advantages on each kind of penalty.

    A plus changes nothing here, where the value alone counts.
    """
    for advantages, baseline, note in (
        (("gae", "reinforce_plus_plus"), "to go", "before whitening"),
        (("remax",), "to go", "less the reward of the greedy completion"),
        (("grpo", "grpo_vectorized"), "group", "before the division by the group's spread"),
        (("reinforce_plus_plus_baseline",), "group", "before whitening"),
        (("gpg",), "group", "times the batch over the number of its rewards that are not 0"),
        (("rloo", "rloo_vectorized"), "others", ""),
    ):
        for estimator in ("k1", "abs", "k2", "k3_verl"):
            types = tuple(
                kind + plus
                for kind, each in KINDS.items()
                if each == estimator
                for plus in ("", "+")
            )
            yield Row(
                {IN_REWARD: (True,), PENALTY_TYPE: types, ESTIMATOR: advantages},
                in_reward(estimator, baseline),
                PENALTY,
                coefficient="algorithm.kl_ctrl.kl_coef",
                clamp=LIMITS if estimator == "k3_verl" else "",
                note=note,
                normalisation=RETURNS,
            )


OPTIMAL = "less the group's mean at the same {}, weighted by squared scores so far: no baseline is"
OTHERS = {
    "opo": "less the group's mean, weighted by lengths: no baseline is",
    "grpo_passk": "the best of a group alone has an advantage, that over the second best",
    "gdpo": "made of the rewards by component: a penalty in the reward is left out",
    "optimal_token_baseline": OPTIMAL.format("token"),
    "tir_optimal_token_baseline": OPTIMAL.format("turn"),
}
"""The advantages that have no combination."""
OTHERS_AT = {
    name: f"compute_{name}_outcome_advantage" for name in ("opo", "grpo_passk", "gdpo")
} | {
    "optimal_token_baseline": "compute_optimal_token_baseline_advantage",
    "tir_optimal_token_baseline": "compute_multi_turn_optimal_token_baseline_advantage",
}
LATE = ("remax", "grpo_vectorized", "reinforce_plus_plus_baseline", "gpg", "rloo_vectorized")
ADVANTAGES = ("gae", "reinforce_plus_plus", "grpo", "rloo", *LATE, *OTHERS)


def _missing() -> tuple[Row, ...]:
    """The kinds that earlier versions have no code for."""
    plus = tuple(each for each in TYPES if each.endswith("+"))
    refused = "raises NotImplementedError before 0.8, whatever its documentation says"
    return (
        Row({IN_LOSS: (True,), TYPE: plus}, "", PENALTY, until="0.7", note=refused),
        Row({IN_REWARD: (True,), PENALTY_TYPE: plus}, "", PENALTY, until="0.7", note=refused),
        NO_TOKEN_SUM,
        Row(
            {IN_REWARD: (True,), ESTIMATOR: (*LATE, *OTHERS)},
            "",
            until="0.8",
            note="these advantages were read in 0.9.1 alone",
        ),
    )


VERL = Trainer(
    "verl",
    "verl",
    "0.6",
    "0.9.1",
    "verl 0.6.0 to 0.9.1",
    package="verl",
    checked="0.9.1",
    options=(
        Option(IN_LOSS, False, (True, False)),
        Option(TYPE, "low_var_kl", TYPES, IN_LOSS),
        Option(ACTOR + "kl_loss_coef", 0.001, switch=IN_LOSS),
        Option(ACTOR + "loss_agg_mode", "token-mean", tuple(AVERAGES)),
        Option(IN_REWARD, False, (True, False)),
        Option(PENALTY_TYPE, "kl", TYPES, IN_REWARD),
        Option("algorithm.kl_ctrl.kl_coef", 0.001, switch=IN_REWARD),
        Option(ESTIMATOR, "gae", ADVANTAGES),
    ),
    normaliser=ACTOR + "loss_agg_mode",
    normalisations=AVERAGES,
    rows=(
        *_missing(),
        Row(
            {IN_LOSS: (False,), IN_REWARD: (False,)},
            NONE,
            note="use_kl_loss or use_kl_in_reward turns a penalty on",
        ),
        Row({IN_LOSS: (True,), IN_REWARD: (True,)}, "", note="two penalties: ask for each"),
        _loss(("kl", "k1"), "k1_loss"),
        _loss(("abs",), "abs/loss"),
        _loss(("mse", "k2", "mse+", "k2+"), "k2_loss"),
        _loss(("low_var_kl", "k3"), "k3_verl_loss", clamp=LIMITS),
        _loss(("kl+", "k1+"), "k1_plus"),
        _loss(("abs+",), "abs@k2/straight_through"),
        _loss(
            ("low_var_kl+", "k3+"),
            "k3_verl@k2/straight_through",
            named="k3_plus",
            clamp=LIMITS,
            note="the clamps are on the value; the gradient is k2's, without any",
        ),
        *_in_reward(),
        *(
            Row({IN_REWARD: (True,), ESTIMATOR: (name,)}, "", CORE + OTHERS_AT[name], note=note)
            for name, note in OTHERS.items()
        ),
    ),
    aliases={
        "verl_kl_loss_k1": "kl_loss_type=k1",
        "verl_kl_loss_mse": "kl_loss_type=mse",
        "verl_kl_loss_low_var_kl": "kl_loss_type=low_var_kl",
        "k1+": "kl_loss_type=k1+",
        "k3+": "kl_loss_type=k3+",
        "verl_low_var_kl_plus": "kl_loss_type=low_var_kl+",
        "verl_kl_in_reward": "use_kl_in_reward=true",
        "verl_grpo_kl_in_reward": "use_kl_in_reward=true adv_estimator=grpo",
    },
)

LOSS = "distillation.distillation_loss."
MODE, PPO = LOSS + "loss_mode", LOSS + "use_policy_gradient"


def _distilled(
    modes: tuple[str, ...], in_policy: bool, combination: str, *, clamp: str = "", note: str = ""
) -> Row:
    return Row(
        {MODE: modes, PPO: (in_policy,)},
        combination,
        "verl/trainer/distillation/losses.py:distillation_loss",
        coefficient=LOSS + "distillation_loss_coef",
        clamp=clamp,
        note=note,
    )


DISTILLATION = Trainer(
    "verl_distillation",
    "verl distillation",
    "0.8",
    "0.9.1",
    "verl 0.8.0 to 0.9.1",
    package="verl",
    checked="0.9.1",
    options=(
        Option(MODE, "k3", (*KINDS, "forward_kl_topk")),
        Option(PPO, False, (True, False)),
        Option(LOSS + "distillation_loss_coef", 1.0),
        Option(ACTOR + "loss_agg_mode", "token-mean", tuple(AVERAGES)),
    ),
    normaliser=ACTOR + "loss_agg_mode",
    normalisations=AVERAGES,
    rows=(
        NO_TOKEN_SUM,
        _distilled(
            ("forward_kl_topk",),
            False,
            "",
            note="KL(teacher‖student) over the teacher's top k, where it is positive",
        ),
        _distilled(
            ("forward_kl_topk",),
            True,
            "",
            note="the same, detached, times the score of the sampled token",
        ),
        _distilled(("k1",), False, "", note="refused: its gradient does not depend on the teacher"),
        _distilled(
            ("kl",),
            False,
            "k1_loss",
            note="what k1 is refused for: its gradient does not depend on the teacher",
        ),
        _distilled(("abs",), False, "abs/loss"),
        _distilled(("mse", "k2"), False, "k2_loss"),
        _distilled(
            ("low_var_kl", "k3"),
            False,
            "k3_verl_loss",
            clamp=LIMITS,
            note="the reference is the teacher",
        ),
        _distilled(
            ("kl", "k1"),
            True,
            "k1_own_token_ratio",
            note=(
                "the gradient, as long as nothing is clipped: each token's own k1, detached, times"
                " its own score"
            ),
        ),
        *(
            _distilled(
                tuple(kind for kind in KINDS if KINDS[kind] == estimator),
                True,
                own_token(estimator, "token_ratio"),
                clamp=LIMITS if estimator == "k3_verl" else "",
                note=(
                    "the gradient, as long as nothing is clipped: each token's own value, detached,"
                    " times its own score"
                ),
            )
            for estimator in ("abs", "k2", "k3_verl")
        ),
    ),
)

TRAINERS = (VERL, DISTILLATION)
