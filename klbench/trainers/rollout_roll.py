"""ROLL's weights and filters for an engine whose probabilities are not the trainer's own."""

from collections.abc import Iterator

from klbench.trainers._options import Option, Value
from klbench.trainers._trainer import Row, Trainer
from klbench.trainers.rollout import ON, joined, row

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
    change = "the change of the probability, with its sign, over a sequence: no factor has it"
    yield Row({FILTER + "diff_enabled": (True,)}, "", where, note=change)
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
                joined(weight, mask),
                where,
                "init_kl_coef",
                "a penalty in the loss has no weight, but the filters; filters multiply",
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
        Option(FILTER + "diff_enabled", False, ON, FILTER + "enabled"),
        Option(FILTER + "ratio_low", 0.8, switch=FILTER + "enabled"),
        Option(FILTER + "ratio_high", 1.2, switch=FILTER + "enabled"),
        Option("init_kl_coef", 0.2),
    ),
    tuple(_roll()),
)

TRAINERS = (ROLL,)
