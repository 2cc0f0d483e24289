"""The tables of the study of completions, as rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from markupsafe import Markup

from klbench.metrics.tails import CANNOT_TELL, FAILS, HOLDS, STRANGE
from klbench.report.blocks import Tables
from klbench.report.numbers import number, short, with_interval

Record = dict[str, Any]
COLUMNS = frozenset(("pair", "position", "n", "kl_qp", "kl_qp_se", "k1", "k1_se", "k3", "k3_se", "share", "share_of"))
MAIN_TARGET = "KL(q‖p)"
EXACT = ("rao_blackwell", "rao_blackwell_weighted")
LEVELS = {"token": "each token", "sequence": "whole sequence"}
MAX_PANELS = 8
_VISIBLE = str.maketrans({" ": "␣", "\n": "⏎", "\t": "⇥", "\r": "␍"})


def code(name: str) -> Markup:
    """A name as the page writes it."""
    return Markup("<code>{}</code>").format(name)


def finite(*values: Any) -> bool:
    """Whether all of them are numbers that say something."""
    return all(isinstance(x, int | float) and math.isfinite(x) for x in values)


def visible(text: Any) -> str:
    """A token's text with its spaces and line ends shown, and what has no glyph as its number."""
    if not isinstance(text, str) or not text:
        return ""
    return "".join(each if each.isprintable() else f"‹{ord(each):x}›" for each in text.translate(_VISIBLE))


def _rows(tables: Tables, name: str, needed: Sequence[str] = ()) -> list[Record]:
    if name not in tables or not set(needed) <= set(tables[name].columns):
        return []
    return [{str(key): value for key, value in row.items()} for row in tables[name].to_dict("records")]


@dataclass(frozen=True, eq=False)
class Data:
    """Rows of each table; those that a run lacks are empty."""

    values: list[Record]
    tokens: list[Record]
    top: list[Record]
    dtype: list[Record]
    truncation: list[Record]
    sampling: list[Record]
    about: Mapping[str, Record]
    throughput: list[Record]
    cost: list[Record]
    prompts: list[Record]
    ratios: list[Record]
    checks: list[Record] = field(default_factory=list)

    @cached_property
    def pairs(self) -> list[str]:
        """In the table's order."""
        return list(dict.fromkeys(str(row["pair"]) for row in self.tokens))

    @cached_property
    def labels(self) -> dict[str, str]:
        """Pairs as a figure names them: without what all of them share."""
        if len(self.pairs) == 1:
            return {self.pairs[0]: self.pairs[0]}
        parts = [pair.split(", ") for pair in self.pairs]
        shared = set(parts[0]).intersection(*parts[1:])
        kept = [", ".join(part for part in each if part not in shared) for each in parts]
        references = {each.partition(" ‖ ")[2].partition(", ")[0] for each in kept}
        if len(references) == 1:  # of models: the policy alone
            kept = [each.replace(f" ‖ {next(iter(references))}", "").removeprefix("LM ") for each in kept]
        distinct = len(set(kept)) == len(kept) and all(kept)
        return dict(zip(self.pairs, kept if distinct else self.pairs, strict=True))

    def measured(self, pair: str, per: str = "sequence") -> list[Record]:
        """A pair's rows of values that aim at KL(q‖p) and hold a number."""
        return [
            row
            for row in self.values
            if row["pair"] == pair and row["per"] == per and row["target"] == MAIN_TARGET and finite(row["mean"])
        ]

    def at(self, pair: str, estimator: str, level: str, per: str = "sequence") -> Record | None:
        """One of them."""
        found = (row for row in self.measured(pair, per) if row["estimator"] == estimator and row["level"] == level)
        return next(found, None)

    def truth(self, pair: str) -> tuple[float, float]:
        """The exact KL(q‖p) of a completion and its standard error; NaN where nobody knows it."""
        row = next((row for row in self.measured(pair) if finite(row["truth"])), None)
        return (math.nan, math.nan) if row is None else (float(row["truth"]), float(row["truth_error"]))

    def places(self, pair: str) -> list[Record]:
        """A pair's rows by position."""
        return [row for row in self.tokens if row["pair"] == pair]

    def off_policy(self, pair: str) -> bool:
        """Whether the completions are not the policy's own."""
        return bool(self.about.get(pair, {}).get("off_policy", False))

    def verdict(self, pair: str) -> str:
        """Whether ratios of a pair have the mean 1 that they must have: the worst that was found, ``holds`` where none was."""
        found = {row["verdict"] for row in self.checks if row["pair"] == pair}
        return FAILS if FAILS in found else CANNOT_TELL if CANNOT_TELL in found else HOLDS

    def stranger(self, pair: str) -> Record | None:
        """The row of k1 where it has a bias, which it never has on samples of the policy itself."""
        row = self.at(pair, "k1", "token")
        if row is None or self.off_policy(pair) or row["bias_method"] != "paired" or not row["bias_se"] > 0.0:
            return None
        return row if abs(row["bias"]) > STRANGE * row["bias_se"] else None

    def sound(self, pair: str) -> bool:
        """Whether nothing speaks against a pair's completions: only then is anything recommended on them."""
        return self.verdict(pair) != FAILS and self.stranger(pair) is None


def load(tables: Tables) -> Data:
    """The study's tables."""
    values = [
        row
        for row in _rows(tables, "values", ("level", "per", "truth_error", "rmse_100", "bias_method"))
        if row["level"] in LEVELS
    ]
    about = {str(row["pair"]): row for row in _rows(tables, "pairs", ("completions", "off_policy"))}
    return Data(
        values, _rows(tables, "tokens"), _rows(tables, "top_tokens"), _rows(tables, "dtype"), _rows(tables, "truncation"),
        _rows(tables, "sampling"), about, _rows(tables, "throughput", ("stage",)), _rows(tables, "cost"),
        _rows(tables, "prompts", ("what", "se_new")), _rows(tables, "largest_ratios", ("text", "largest")),
        _rows(tables, "checks", ("ratio", "verdict", "mean_se", "z")),
    )  # fmt: skip


def known(value: float, se: float) -> str:
    """An exact value; with its interval where it has one that shows."""
    return with_interval(value, se) if finite(value, se) and abs(se) > 1e-6 * abs(value) else number(value)


def percent_of(x: float) -> str:
    """A signed share in per cent."""
    if not finite(x):
        return "–"
    return ("+" if x > 0 else "") + (f"{short(100 * x, 2)} %" if abs(x) >= 5e-5 else "0 %")
