"""What the pages on gradients share: rows of combinations, groups with equal numbers, and cells of bias and noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from markupsafe import Markup

from klbench.report.blocks import Block, Cell, Paragraph, Tables
from klbench.report.cells import code, codes
from klbench.report.numbers import MISSING, listing, number, percent_or_times, short
from klbench.report.runs import RunTables
from klbench.schema import Schema

QP, PQ, DIFFERENCE, NOTHING = "KL(q‖p)", "KL(p‖q)", "KL(q‖p) - KL(p‖q)", "0"
PLACEMENTS = ("loss", "straight_through", "loss_and_reward", "reward", "reward_to_go", "full", "full_with_score")
ROUNDING = 1e-8
"""Relative bias below which an enumerated gradient is the exact one."""
SAME = 1e-6
"""Relative difference below which two combinations have the same numbers."""


@dataclass(frozen=True)
class Row:
    """One combination on one pair; ``bias`` and the noises are in units of the exact gradient's length."""

    pair: str
    series: str
    combination: str
    estimator: str
    placement: str
    level: str
    correction: str
    ratio_gradient: bool
    baseline: str
    gradient_of: str
    lag: float
    kl: float
    bias: float
    cosine: float
    noise: float
    total: float
    matches: frozenset[str]
    claim: str
    sampled: bool
    status: str
    balance: float
    ess: float
    ess_token: float

    @property
    def exact(self) -> bool:
        """Whether its mean is the gradient of KL(q‖p): up to rounding, or within five standard errors of a sampled one."""
        return QP in self.matches

    @property
    def off(self) -> str:
        """The bias in a cell."""
        if self.exact:
            return "≈ 0" if self.sampled else "0"
        return MISSING if math.isnan(self.bias) else "0" if self.bias < ROUNDING else percent_or_times(self.bias)


def amount(x: float) -> str:
    """A noise in a cell: two digits, 0 for rounding."""
    return "0" if 0 <= x < ROUNDING else number(x, 2)


@dataclass(frozen=True)
class Group:
    """Combinations with the same numbers on every pair."""

    names: tuple[str, ...]

    @property
    def leader(self) -> str:
        """The name that stands for all."""
        return self.names[0]

    @property
    def text(self) -> Markup:
        """All names."""
        return codes(self.names, " = ")


@dataclass(frozen=True, eq=False)
class Data:
    """The rows of one gradient table, and what is known of the combinations."""

    rows: Sequence[Row]
    known: Mapping[str, Mapping[str, str]]
    arrows: Sequence[Mapping[str, Any]]

    @cached_property
    def _cells(self) -> dict[tuple[str, str], Row]:
        return {(row.combination, row.pair): row for row in self.rows}

    def at(self, combination: str, pair: str) -> Row | None:
        """The row of a combination on a pair."""
        return self._cells.get((combination, pair))

    def of(self, combination: str) -> list[Row]:
        """All rows of a combination."""
        return [row for row in self.rows if row.combination == combination]

    @cached_property
    def names(self) -> list[str]:
        """Combinations by where they stand, then as the table has them."""
        first = {row.combination: row for row in reversed(self.rows)}
        order = list(dict.fromkeys(row.combination for row in self.rows))
        return sorted(order, key=lambda name: _place(PLACEMENTS, first[name].placement))

    @cached_property
    def pairs(self) -> list[str]:
        """Pairs, those of a series together, each series by rising KL."""
        first = {row.pair: row for row in reversed(self.rows)}
        order = list(dict.fromkeys(row.series for row in self.rows))
        return sorted(first, key=lambda pair: (order.index(first[pair].series), _finite_first(first[pair].kl)))

    @cached_property
    def kl(self) -> dict[str, float]:
        """Exact KL(q‖p) by pair."""
        return {row.pair: row.kl for row in self.rows}

    @cached_property
    def series(self) -> dict[str, str]:
        """Series by pair."""
        return {row.pair: row.series for row in self.rows}

    def label(self, pair: str) -> str:
        """A short name: the series and the KL, or the pair's title where these do not tell it apart."""
        same = [each for each in self.pairs if self._short(each) == self._short(pair)]
        return self._short(pair) if len(same) == 1 else pair

    def _short(self, pair: str) -> str:
        parts = [self.series[pair], f"KL {short(self.kl[pair], 2)}" if math.isfinite(self.kl[pair]) else ""]
        return ", ".join(filter(None, parts)) or pair

    @cached_property
    def main(self) -> list[str]:
        """The series with most pairs, by rising KL: its ends are near the reference and far from it."""
        by_series: dict[str, list[str]] = {}
        for pair in self.pairs:
            if math.isfinite(self.kl[pair]):
                by_series.setdefault(self.series[pair], []).append(pair)
        return max(by_series.values(), key=len) if by_series else self.pairs[:1]

    @property
    def ends(self) -> list[str]:
        """The nearest and the furthest pair of the main series, or the only one."""
        return list(dict.fromkeys([self.main[0], self.main[-1]]))

    def everywhere(self, combination: str, target: str) -> bool:
        """Whether its mean is this gradient on every pair."""
        rows = self.of(combination)
        return bool(rows) and all(target in row.matches for row in rows)

    @cached_property
    def verdicts(self) -> dict[str, str]:
        """What each combination's mean is on every pair; empty: no one thing."""
        targets = (QP, PQ, NOTHING, DIFFERENCE)
        return {name: next((t for t in targets if self.everywhere(name, t)), "") for name in self.names}

    def groups(self, names: Iterable[str]) -> list[Group]:
        """The same, those with equal numbers together, those that stand first in the table first."""
        found: list[list[str]] = []
        for name in names:
            home = next((group for group in found if self._alike(group[0], name)), None)
            if home is None:
                found.append([name])
            else:
                home.append(name)
        order = list(dict.fromkeys(row.combination for row in self.rows))
        return [Group(tuple(sorted(group, key=order.index))) for group in found]

    def _alike(self, first: str, second: str) -> bool:
        one, other = ({(row.pair, row.lag): row for row in self.of(name)} for name in (first, second))
        return one.keys() == other.keys() and all(
            _close(a, b)
            for at in one
            for a, b in zip(_numbers(one[at]), _numbers(other[at]), strict=True)
        )  # fmt: skip

    @property
    def several(self) -> bool:
        """Whether there is more than one pair."""
        return len(self.pairs) > 1


def _place(order: Sequence[str], word: str) -> int:
    return order.index(word) if word in order else len(order)


def _finite_first(x: float) -> tuple[bool, float]:
    return (not math.isfinite(x), x if math.isfinite(x) else 0.0)


def _numbers(row: Row) -> tuple[float, float, float]:
    return row.bias, row.noise, row.total


def _close(a: float, b: float) -> bool:
    return (math.isnan(a) and math.isnan(b)) or math.isclose(a, b, rel_tol=SAME, abs_tol=ROUNDING)


def _row(row: Mapping[str, Any]) -> Row:
    return Row(
        row["pair"], row["series"], row["combination"], row["estimator"], row["placement"], row["level"], row["correction"],
        bool(row["ratio_gradient"]), row["baseline"], row["gradient_of"],
        lag=row["staleness"], kl=row["kl_qp"], bias=row["rel_bias"], cosine=row["cosine"], noise=row["rel_std"],
        total=row.get("total_rel_std", math.nan), matches=frozenset(row["matches"].split(" = ")) - {"none", ""},
        claim=row["claim"], sampled=row["method"] == "sampling", status=row["status"], balance=row["balance_batch"],
        ess=row.get("ess", math.nan), ess_token=row.get("ess_token", math.nan),
    )  # fmt: skip


def load(main: Schema, combinations: Schema, arrows: Schema | None = None) -> Callable[[Tables], Data]:
    """Return a reader of the main table, with the tables beside it."""

    def read(tables: Tables) -> Data:
        run = RunTables("", tables)
        known = {row["combination"]: row for row in reversed(run.rows(combinations))}
        return Data([*map(_row, run.rows(main))], known, run.rows(arrows) if arrows else [])

    return read


BIAS_STEPS = (0.02, 0.05, 0.1, 0.2, 0.5, 0.995, 2.0)
NOISE_STEPS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)


def _depth(x: float, steps: Sequence[float]) -> int:
    return 1 + sum(x >= step for step in steps)


def bias_cell(row: Row | None) -> Cell:
    """A bias, tinted."""
    if row is None:
        return Cell(MISSING, math.nan)
    value = 0.0 if row.exact or row.bias < ROUNDING else row.bias
    return Cell(row.off, value, "tint-exact" if value == 0 else f"tint-bias-{_depth(value, BIAS_STEPS)}" if value > 0 else "")


def noise_cell(noise: float) -> Cell:
    """A noise, tinted."""
    return Cell(amount(noise), noise, "" if math.isnan(noise) else f"tint-noise-{_depth(noise, NOISE_STEPS)}")


def span_of(values: Sequence[str]) -> str:
    """``2.0 → 2.6``, near the reference and far from it, or one number."""
    return values[0] if len(set(values)) == 1 else f"{values[0]} → {values[-1]}"


def lines(groups: Iterable[Group], said: Sequence[str]) -> Markup:
    """Groups, a line each, with a number each."""
    lines = [Markup("{}: {}").format(group.text, each) for group, each in zip(groups, said, strict=True)]
    return Markup("<p>{}</p>").format(Markup("<br>").join(lines))


def warnings(data: Data) -> list[Block]:
    """What must not be overlooked: broken claims, and variances that do not exist."""
    blocks: list[Block] = []
    for status, said in (
        ("claim broken", "does not have the gradient that it claims"),
        ("infinite variance", "has no finite variance: averages over batches settle only slowly"),
        ("beyond float64", "has a bias or a noise too large, or an exact gradient too small, for a float"),
    ):
        rows = [row for row in data.rows if row.status == status]
        if rows:
            names = list(dict.fromkeys(row.combination for row in rows))
            parts = [
                Markup("{} {} ({})").format(
                    code(name), said, listing([data.label(r.pair) for r in rows if r.combination == name])
                )
                for name in names
            ]
            blocks.append(Paragraph(Markup("; ").join(parts) + ".", "warning"))
    return blocks


BASELINES = {
    "batch_mean": "minus the group's mean",
    "leave_one_out": "minus the mean of the others of its group",
    "token_kl": "minus the exact KL of each next token",
}
RATIOS = {
    "token_ratio": "the token's q/μ",
    "prefix_ratio": "q/μ of the tokens up to it",
    "sequence_ratio": "q/μ of the whole sequence",
}
PLACES = {
    "loss": "loss",
    "straight_through": "straight-through",
    "loss_and_reward": "loss and reward",
    "reward": "reward",
    "reward_to_go": "reward to go",
    "full": "full KL",
    "full_with_score": "full KL and score",
}


def in_words(row: Row) -> str:
    """What is done: which number of what, what becomes of it, and what it is weighted with."""
    of = "of the whole sequence" if row.level == "sequence" else "of each token"
    said = {
        "loss": f"{row.estimator} {of}, differentiated",
        "straight_through": f"value of {row.estimator}, gradient of {row.gradient_of}, {of}",
        "loss_and_reward": f"{row.estimator} {of}, differentiated, and also held fixed times the score",
        "reward": f"{row.estimator} {of}, held fixed, times the score of the whole sequence",
        "reward_to_go": f"{row.estimator} {of}, held fixed, times the score of the tokens up to it",
        "full": "KL over the whole vocabulary at each token, differentiated",
        "full_with_score": "KL over the whole vocabulary at each token, differentiated, and times the score of the tokens "
        "before it",
    }.get(row.placement, f"{row.estimator} {of}, {row.placement}")
    if row.baseline not in ("none", ""):
        said += f", {BASELINES.get(row.baseline, row.baseline)}"
    if row.correction not in ("none", ""):
        cut = "the " + ("sequence" if row.level == "sequence" else "token") + "'s q/μ, cut off"
        ratio = cut if row.correction == "truncated_ratio" else RATIOS.get(row.correction, row.correction)
        said += f"; weighted with {ratio}" + (", which is differentiated too" if row.ratio_gradient else "")
    return said
