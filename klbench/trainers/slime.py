"""slime, and miles, which came from it."""

from collections.abc import Iterator

from klbench.trainers._combinations import NONE, in_reward, own_token
from klbench.trainers._options import Option, Value
from klbench.trainers._trainer import LENGTH, RETURNS, TOKENS, Row, Trainer

KINDS = ("k1", "k2", "k3", "low_var_kl")


def _options(*advantages: str) -> tuple[Option, ...]:
    return (
        Option("use_kl_loss", False, (True, False)),
        Option("kl_loss_type", "k1", KINDS),
        Option("kl_loss_coef", 0.0, switch="use_kl_loss"),
        Option("use_unbiased_kl", False, (True, False), "use_kl_loss"),
        Option("kl_coef", 0.0),
        Option("advantage_estimator", "grpo", advantages),
        Option("calculate_per_token_loss", False, (True, False)),
    )


def _loss(
    kind: str, unbiased: bool, combination: str, where: str, clamp: str = "", note: str = ""
) -> Row:
    when: dict[str, tuple[Value, ...]] = {
        "use_kl_loss": (True,),
        "use_unbiased_kl": (unbiased,),
        "kl_loss_type": (kind,),
    }
    return Row(when, combination, where, coefficient="kl_loss_coef", clamp=clamp, note=note)


def _rows(where: str, clamped: str, clamp: str, outcome: tuple[str, ...]) -> Iterator[Row]:
    """All rows; ``clamped`` is the estimator that ``low_var_kl`` stands for, ``outcome`` the
    advantages without a penalty.
    """
    for kind in ("k1", "k2", "k3"):
        yield _loss(kind, False, f"{kind}_loss", where)
    yield _loss("low_var_kl", False, f"{clamped}_loss", where, clamp)
    ratio = "token/token_ratio:differentiated"
    yield _loss("k1", True, f"k1/loss/{ratio}", where)
    yield _loss("k2", True, f"k2/loss/{ratio}", where, note="the gradient of no KL")
    yield _loss("k3", True, "k3_ratio_loss", where)
    yield _loss(
        "low_var_kl",
        True,
        "k3_ratio_loss",
        where,
        clamp,
        "what is clamped is the product of ratio and k3",
    )
    off: dict[str, tuple[Value, ...]] = {"use_kl_loss": (False,)}
    yield Row(
        off | {"advantage_estimator": outcome},
        NONE,
        where,
        note="kl_coef counts with other advantages alone",
    )
    baseline = off | {"advantage_estimator": ("reinforce_plus_plus_baseline",)}
    yield Row(
        baseline | {"kl_loss_type": ("k1",)},
        "k2_loss",
        where,
        coefficient="kl_coef",
        normalisation=RETURNS,
        note=(
            "the gradient: each token's own k1, detached, times its own score, which is that of k2"
        ),
    )
    for kind in KINDS[1:]:
        estimator = clamped if kind == "low_var_kl" else kind
        yield Row(
            baseline | {"kl_loss_type": (kind,)},
            own_token(estimator),
            where,
            coefficient="kl_coef",
            clamp=clamp if kind == "low_var_kl" else "",
            normalisation=RETURNS,
            note="each token's own value, detached, times its own score",
        )
    for kind in KINDS:
        yield Row(
            off | {"kl_loss_type": (kind,), "advantage_estimator": ("reinforce_plus_plus", "ppo")},
            in_reward(clamped if kind == "low_var_kl" else kind, "to go"),
            where,
            coefficient="kl_coef",
            clamp=clamp if kind == "low_var_kl" else "",
            normalisation=RETURNS,
        )


def _trainer(
    name: str, read: str, where: str, clamped: str, clamp: str, outcome: tuple[str, ...]
) -> Trainer:
    return Trainer(
        name,
        name,
        "2026-08",
        "2026-08-21",
        read,
        _options(*outcome, "reinforce_plus_plus", "reinforce_plus_plus_baseline", "ppo"),
        tuple(_rows(where, clamped, clamp, outcome)),
        normaliser="calculate_per_token_loss",
        normalisations={"False": LENGTH, "True": TOKENS},
    )


SLIME = _trainer(
    "slime",
    "THUDM/slime 624b824",
    "slime/utils/ppo_utils.py:compute_approx_kl",
    "k3_openrlhf",
    "value to +-10",
    ("grpo", "gspo", "cispo"),
)
MILES = _trainer(
    "miles",
    "radixark/miles 31f1ca9",
    "miles/backends/training_utils/loss_hub/math_utils.py:compute_approx_kl",
    "k3_verl",
    "log-ratio to +-20, value to +-10",
    ("grpo", "gspo"),
)

TRAINERS = (SLIME, MILES)
