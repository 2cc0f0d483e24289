"""OpenRLHF: PPO and its relatives."""

from klbench.trainers._options import Option
from klbench.trainers._trainer import LENGTH, RETURNS, TOKENS, Row, Trainer

PENALTY = "openrlhf/models/utils.py:compute_approx_kl"
LIMIT = "value to +-10"
USE_LOSS, ESTIMATOR, UNBIASED = "algo.kl.use_loss", "algo.kl.estimator", "algo.kl.unbiased_gradient"
COEFFICIENT, ADVANTAGES = "algo.kl.init_coef", "algo.advantage.estimator"
AVERAGES = {"token-mean": TOKENS, "seq-mean-token-mean": LENGTH}


def _loss(estimator: str, combination: str, named: str = "") -> Row:
    return Row(
        {USE_LOSS: (True,), ESTIMATOR: (estimator,)},
        combination,
        PENALTY,
        named,
        COEFFICIENT,
        LIMIT,
    )


def _unbiased(estimator: str) -> Row:
    """The gradient is one and the same; the value is each estimator's own, without a weight."""
    return Row(
        {USE_LOSS: (True,), UNBIASED: (True,), ESTIMATOR: (estimator,)},
        f"{estimator}_openrlhf@k2/straight_through/token/truncated_ratio:10",
        PENALTY,
        "openrlhf_unbiased_gradient" if estimator == "k3" else "",
        COEFFICIENT,
        f"{LIMIT}, ratio to 10",
        "the gradient is k2's times the detached ratio; the value has no ratio",
        since="0.11.1",
    )


def _reward(estimator: str, named: str = "") -> Row:
    return Row(
        {USE_LOSS: (False,), ESTIMATOR: (estimator,)},
        f"{estimator}_openrlhf/reward_to_go",
        PENALTY,
        named,
        COEFFICIENT,
        LIMIT,
        "no baseline of a group touches it: those are subtracted from the reward before",
        RETURNS,
    )


OPENRLHF = Trainer(
    "openrlhf",
    "OpenRLHF",
    "0.8",
    "0.11.2",
    "openrlhf 0.8.11, 0.9.1, 0.10.4, 0.11.0 and 0.11.1",
    package="openrlhf",
    checked="0.11.2",
    options=(
        Option(USE_LOSS, False, (True, False), formerly=("use_kl_loss",)),
        Option(ESTIMATOR, "k1", ("k1", "k2", "k3"), formerly=("kl_estimator",)),
        Option(
            ADVANTAGES,
            "gae",
            (
                "gae",
                "reinforce",
                "rloo",
                "reinforce_baseline",
                "group_norm",
                "dr_grpo",
                "flash_reinforce",
            ),
        ),
        Option(COEFFICIENT, 0.01, formerly=("init_kl_coef",)),
        Option(UNBIASED, False, (True, False), USE_LOSS, since="0.11.1"),
        Option("actor.loss_agg_mode", "token-mean", tuple(AVERAGES), since="0.11.2"),
    ),
    normaliser="actor.loss_agg_mode",
    normalisations=AVERAGES,
    rows=(
        *(_unbiased(each) for each in ("k1", "k2", "k3")),
        _loss("k1", "k1_openrlhf/loss", "k1_loss"),
        _loss("k2", "k2_openrlhf/loss", "k2_loss"),
        _loss("k3", "k3_openrlhf_loss"),
        _reward("k1", "k1_reward_to_go"),
        _reward("k2"),
        _reward("k3"),
    ),
    aliases={
        "openrlhf_k1_loss": "use_loss=true kl.estimator=k1",
        "openrlhf_k2_loss": "use_loss=true kl.estimator=k2",
        "openrlhf_k3_loss": "use_loss=true kl.estimator=k3",
        "openrlhf_ppo_k1": "kl.estimator=k1",
    },
)

TRAINERS = (OPENRLHF,)
