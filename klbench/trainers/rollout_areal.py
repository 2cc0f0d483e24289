"""AReaL's masks and clamps for an engine whose probabilities are not the trainer's own."""

from collections.abc import Iterator

from klbench.trainers._options import Option, Value
from klbench.trainers._trainer import Row, Trainer
from klbench.trainers.rollout import row

REJECTION = "rejection_sampling."
DECOUPLED, ACTION, LEVEL, METRIC, AGG, UPPER = (
    "use_decoupled_loss",
    *(REJECTION + each for each in ("action", "level", "metric", "agg", "upper")),
)
METRICS, AGGREGATES = ("ratio", "kl_k1", "kl_k2", "kl_k3"), ("mean", "sum", "max")
OF_TOKENS = {
    "ratio": "masked_ratio:{lower}-{upper}",
    "kl_k1": "masked_ratio:0-{upper:exp}",
    "kl_k2": "token_ratio@old:mu*token_k2:{upper}",
    "kl_k3": "token_ratio@old:mu*token_k3:{upper}",
}
OF_SEQUENCES = {
    ("ratio", "mean"): "masked_geometric_ratio:{lower}-{upper}",
    ("ratio", "sum"): "geometric_ratio@old:mu*seq_sum_k1:{upper_inverse}-inf",
    ("ratio", "max"): "geometric_ratio@old:mu*every_ratio:0-{upper}",
    ("kl_k1", "mean"): "token_ratio@old:mu*seq_mean_k1:{upper:exp_inverse}-inf",
    ("kl_k1", "sum"): "token_ratio@old:mu*seq_sum_k1:{upper:exp_inverse}-inf",
    ("kl_k1", "max"): "token_ratio@old:mu*every_ratio:0-{upper:exp}",
    **{
        (f"kl_{kind}", over): f"token_ratio@old:mu*seq_{over}_{kind}:{{upper}}"
        for kind in ("k2", "k3")
        for over in AGGREGATES
    },
}
"""The masks of AReaL, by metric and aggregate; its k3 is that of the sampler's ratio, upside down.
"""
NO_LOWER = "without a lower bound"


def _areal() -> Iterator[Row]:
    where = "areal/utils/functional/functional.py:apply_rejection_sampling"

    def known(when: dict[str, tuple[Value, ...]], factors: str, note: str = "") -> Row:
        sides = "@mu:old" if "_k3:" in factors else "@old:mu"
        weight = factors + sides if factors else ""
        return row({DECOUPLED: (True,)} | when, weight, where, "kl_ctl", note)

    yield row({DECOUPLED: (False,)}, "", where, "kl_ctl", "rejection_sampling is not looked at")
    yield known({ACTION: (None,)}, "", "the engine's ratio is left out, too")
    mask: dict[str, tuple[Value, ...]] = {ACTION: ("mask",)}
    clamp: dict[str, tuple[Value, ...]] = {ACTION: ("clamp",)}
    token: dict[str, tuple[Value, ...]] = {LEVEL: ("token",)}
    whole: dict[str, tuple[Value, ...]] = {LEVEL: ("sequence",)}
    for metric, factors in OF_TOKENS.items():
        note = "" if metric == "ratio" else NO_LOWER
        yield known(token | mask | {METRIC: (metric,)}, factors, note)
    yield known(token | clamp, "clipped_ratio:{lower}-{upper}", "whatever the metric is")
    for (metric, over), factors in OF_SEQUENCES.items():
        note = "" if (metric, over) == ("ratio", "mean") else NO_LOWER
        yield known(whole | mask | {METRIC: (metric,), AGG: (over,)}, factors, note)
    ratio: dict[str, tuple[Value, ...]] = {METRIC: ("ratio",), AGG: ("mean",)}
    yield known(whole | clamp | ratio, "clipped_geometric_ratio:{lower}-{upper}")
    note = "no correction: weights are cut off at bounds that are those of another number"
    for other in ({METRIC: METRICS[1:]}, {METRIC: ("ratio",), AGG: AGGREGATES[1:]}):
        yield Row({DECOUPLED: (True,)} | whole | clamp | other, "", where, note=note)


AREAL = Trainer(
    "areal_rollout",
    "AReaL rejection",
    "2026-05",
    "2026-05-21",
    "inclusionAI/AReaL 4aef98d",
    (
        Option(DECOUPLED, False, (True, False)),
        Option(ACTION, None, (None, "mask", "clamp")),
        Option(LEVEL, "token", ("token", "sequence")),
        Option(METRIC, "ratio", METRICS),
        Option(AGG, "mean", AGGREGATES),
        Option(UPPER, 5.0),
        Option(REJECTION + "lower", 0.0),
        Option("kl_ctl", 0.1),
    ),
    tuple(_areal()),
)


TRAINERS = (AREAL,)
