"""Columns and tables that several studies have, and the reader of a study's own
``columns.yaml``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

from klbench.schema import Column, Schema, band, flag, integer, interval, text, with_error

COMBINATION = (
    text("combination", "name in klbench", "Combination"),
    text("estimator", "the estimator whose value or gradient is taken", "Estimator"),
    text(
        "placement", "where it stands: in the loss, in the reward, in both, or the full KL", "Where"
    ),
    text("level", "per token, or once for the whole sequence", "Level"),
    text("correction", "the ratio of policy to sampler that it is weighted with", "Correction"),
    text("baseline", "what is subtracted from the number that multiplies the score", "Baseline"),
)
"""A combination: an estimator, and where and how it is differentiated."""
PARTS = COMBINATION[1:]

COMBINATIONS = Schema(
    "combinations",
    "One row for each combination of the run: what it is, and what it is called elsewhere.",
    (
        *COMBINATION[:4],
        flag(
            "length_mean",
            "whether its tokens are averaged over the length of the sequence instead of summed",
        ),
        COMBINATION[4],
        flag("ratio_gradient", "whether the ratio of the correction is differentiated too"),
        COMBINATION[5],
        text("gradient_of", "the estimator whose gradient a straight-through one takes"),
        text("aliases", "names in other code", "Also called"),
        text("used_by", "trainers that have it", "Used by"),
        text("called_unbiased_by", "trainers that call it unbiased", since=1),
        text("claim", "what its mean gradient is claimed to be", "Claimed"),
        flag("off_policy", "whether the claim holds for samples of another policy too"),
        text("one_token", "what its mean gradient is claimed to be where a sequence has one token"),
        text("source", "where it is described", "Source"),
    ),
)

DESCRIBED = COMBINATIONS.columns[: 1 + COMBINATIONS.columns.index(COMBINATIONS["gradient_of"])]
"""A combination with all its parts."""

TASK = (
    text("pair", "policy and reference", "Pair"),
    text("series", "pairs that belong together", "Series"),
    integer("tokens", "most tokens of a sequence"),
    Column(
        "staleness",
        "KL(q‖μ) of the policy from the sampler μ; 0: the policy itself samples",
        "nats",
        heading="Lag",
    ),
    Column("kl_qp", "KL(q‖p), exact", "nats", heading="KL(q‖p)"),
    Column("kl_pq", "KL(p‖q), exact", "nats", heading="KL(p‖q)"),
)
"""A pair whose gradients are measured."""

OF_EXACT = "in lengths of the exact gradient of KL(q‖p)"

MEASURED = (
    text(
        "claim",
        "what its mean gradient is claimed to be on this pair",
        "Claims to be the gradient of",
    ),
    flag("unbiased_claim", "whether that is the gradient of KL(q‖p)"),
    text("status", "ok, claim broken, infinite mean, infinite variance, or beyond float64"),
    *with_error(
        Column(
            "rel_bias",
            f"distance of its mean gradient from that of KL(q‖p), {OF_EXACT}",
            heading="Off by",
        )
    ),
    Column("rel_bias_pq", f"distance of its mean gradient from that of KL(p‖q), {OF_EXACT}"),
    Column(
        "cosine",
        "cosine between its mean gradient and that of KL(q‖p); below 0 it points the other way",
    ),
    Column("norm_ratio", f"length of its mean gradient, {OF_EXACT}"),
    *with_error(
        Column("variance", "variance of one sample's gradient, summed over the parameters")
    ),
    Column("rel_std", f"root of that variance, {OF_EXACT}", heading="Noise"),
    Column("snr", "length of the mean gradient over the root of that variance"),
    Column("balance_batch", "batch whose noise is as long as the bias", heading="Bias = noise at"),
    text(
        "matches",
        "divergences whose gradient the mean is, joined by =; none where it is that of none of"
        " them",
    ),
    text("method", "enumeration, closed-form, or sampling"),
    integer("samples", "samples that were drawn; 0 where none was needed"),
)
"""A combination's gradient on a pair."""

ESTIMATORS = Schema(
    "estimators",
    "One row for each estimator of the run: its formula, and what it claims.",
    (
        text("estimator", "name in klbench", "Estimator"),
        text("target", "the divergence that it aims at", "Estimates"),
        text("tex", "the formula that is averaged over the batch, in TeX", "Terms"),
        text("summary", "one line on it"),
        flag("unbiased_claim", "claimed: its mean is exactly that divergence", "Unbiased?"),
        flag("nonnegative_claim", "claimed: no estimate is below zero", "Never negative?"),
        text(
            "gradient_claim",
            "claimed: what its mean gradient as a loss is the gradient of",
            "Gradient as a loss",
        ),
        flag("needs_weight", "whether it is for samples of a third distribution"),
        text("aliases", "names in other code", "Also called"),
        text("source", "where it is described", "Source"),
    ),
)

SPREADS: dict[str, Callable[[Column], tuple[Column, ...]]] = {
    "error": with_error,
    "interval": interval,
    "seeds": partial(interval, seeds=True),
    "band": band,
}


def declared(file: str, **migrate: Callable[[Any, int], Any]) -> tuple[Schema, ...]:
    """Return the tables that the ``columns.yaml`` beside a file declares, in its order.

    A column is a mapping of the fields of :class:`klbench.schema.Column`. With ``with`` it comes
    with others: its standard error, the ends of an interval, those and a number of seeds, or a
    band. A word in capitals stands for columns of this module. Lists within lists are one list.

    Parameters
    ----------
    file
        The ``__file__`` of the study's ``columns.py``.
    migrate
        By table, what makes it of one of an earlier version.
    """
    found = yaml.load(
        Path(file).with_suffix(".yaml").read_text(encoding="utf-8"),
        getattr(yaml, "CSafeLoader", yaml.SafeLoader),
    )
    return tuple(
        Schema(
            name,
            table["rows"],
            tuple(_columns(table["columns"])),
            table.get("optional", False),
            migrate.get(name),
        )
        for name, table in found.items()
    )


def _columns(entry: Any) -> Iterator[Column]:
    """Yield the columns that an entry of a list stands for."""
    if isinstance(entry, str):
        yield from {"COMBINATION": COMBINATION, "PARTS": PARTS, "ESTIMATORS": ESTIMATORS.columns}[
            entry
        ]
    elif isinstance(entry, list):
        yield from chain.from_iterable(map(_columns, entry))
    else:
        column = Column(**{key: value for key, value in entry.items() if key != "with"})
        yield from SPREADS[entry["with"]](column) if "with" in entry else (column,)
