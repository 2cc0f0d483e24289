"""The tables of the gradient studies, with what the parts of their sections ask of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from markupsafe import Markup

from klbench.report.blocks import Tables
from klbench.report.cells import codes
from klbench.report.numbers import MISSING, number, short

QP, PQ, DIFFERENCE, NOTHING = "KL(q‖p)", "KL(p‖q)", "KL(q‖p) - KL(p‖q)", "0"
PLACEMENTS = ("loss", "straight_through", "loss_and_reward", "reward", "reward_to_go", "full", "full_with_score")
ROUNDING = 1e-8
"""Relative bias below which an enumerated gradient is the exact one."""
SAME = 1e-6
"""Relative difference below which two combinations have the same numbers."""

_NEEDED = """
pair series combination estimator placement level correction baseline staleness kl_qp rel_bias cosine rel_std matches claim
method status
"""
COLUMNS = frozenset(_NEEDED.split())


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


def percent_or_times(x: float) -> str:
    """A share of the exact gradient, in two digits: ``21 %``, ``14 ×``."""
    if math.isinf(x):
        return "∞"
    if 0 < x < 1e-3:
        return "< 0.1 %"
    x *= 1 + 1e-9  # so that an eighth is 13 % on whatever side rounding left it
    return f"{number(x, 2)} ×" if x >= 10 else f"{number(100 * x, 2)} %"


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


def _float(record: Mapping[str, Any], key: str) -> float:
    value = record.get(key)
    return math.nan if value is None else float(value)


def _text(record: Mapping[str, Any], key: str) -> str:
    value = record.get(key)
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else str(value)


def _row(record: Mapping[str, Any]) -> Row:
    def text(key: str) -> str:
        return _text(record, key)

    return Row(
        text("pair"), text("series"), text("combination"), text("estimator"), text("placement"), text("level"),
        text("correction"), text("ratio_gradient") == "True", text("baseline"), text("gradient_of"),
        lag=_float(record, "staleness"), kl=_float(record, "kl_qp"), bias=_float(record, "rel_bias"),
        cosine=_float(record, "cosine"), noise=_float(record, "rel_std"), total=_float(record, "total_rel_std"),
        matches=frozenset(text("matches").split(" = ")) - {"none", ""}, claim=text("claim"),
        sampled=text("method") == "sampling", status=text("status") or "ok", balance=_float(record, "balance_batch"),
        ess=_float(record, "ess"), ess_token=_float(record, "ess_token"),
    )  # fmt: skip


def _records(tables: Tables, name: str, needed: Iterable[str]) -> list[dict[str, Any]]:
    """A table's rows; none where it or one of the needed columns is missing."""
    table = tables.get(name)
    if table is None or not set(needed) <= set(table):
        return []
    return [{str(key): value for key, value in record.items()} for record in table.to_dict("records")]


def load(name: str) -> Callable[[Tables], Data]:
    """A reader of the table of that name, with the tables beside it."""

    def read(tables: Tables) -> Data:
        rows = [_row(record) for record in _records(tables, name, COLUMNS)]
        known = {
            _text(record, "combination"): {key: _text(record, key) for key in record}
            for record in reversed(_records(tables, "combinations", {"combination"}))
        }
        return Data(rows, known, _records(tables, "arrows", {"pair", "combination", "first", "second"}))

    return read
