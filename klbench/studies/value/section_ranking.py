"""Which estimator has the least root-mean-square error, pair by pair and range by range."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from klbench.report.blocks import Cell, Column, Table
from klbench.report.cells import code
from klbench.report.numbers import Z95, listing, number, short, with_interval
from klbench.studies.value.section_data import Data, plainness

SAME = 1e-9
"""Errors that differ by a smaller fraction are the same numbers by another name."""
LEVEL = 0.005
"""Errors that differ by a smaller fraction make no difference to anyone, however certain the difference is."""


@dataclass(frozen=True)
class Best:
    """Of one pair and batch size: the rmse of each contender, who is level with the least, and whom of those to name."""

    pair: str
    rmse: dict[str, float]
    first: str
    level: frozenset[str]

    def same(self, a: str, b: str) -> bool:
        """Whether two contenders have the same error, to the last digits."""
        return abs(self.rmse[a] - self.rmse[b]) <= SAME * max(self.rmse[a], self.rmse[b])


@dataclass(frozen=True)
class Span:
    """Neighbouring pairs of a series over which one estimator has the least rmse, or is level with it."""

    winner: str
    bests: Sequence[Best]

    @property
    def pairs(self) -> list[str]:
        return [each.pair for each in self.bests]

    @property
    def middle(self) -> Best:
        return self.bests[(len(self.bests) - 1) // 2]


def best(data: Data, pair: str, batch: int, *, unbiased: bool = False) -> Best | None:
    """Return the least rmse among the rows of the main target that have one to rank by.

    ``unbiased``: among those that claim to be, on such samples.
    """
    rows = [row for row in data.at(pair, batch).values() if row["target"] == data.target]
    if unbiased:
        own = data.unbiased & data.weighted if pair in data.off_policy else data.unbiased - data.weighted
        rows = [row for row in rows if row["estimator"] in own]
    rmse = {row["estimator"]: row["error"] for row in rows if math.isfinite(row["error"])}
    if not rmse:
        return None
    least = min(rmse.values())
    level = {name for name in rmse if rmse[name] <= least * (1 + LEVEL)}
    first = min(level, key=lambda name: (name not in data.unbiased, plainness(name)))
    for name in rmse:
        found = data.error_difference(pair, batch, name, first)
        if found is not None and abs(found[0]) <= Z95 * found[1]:
            level.add(name)
    return Best(pair, rmse, first, frozenset(level))


def _winner(bests: Sequence[Best]) -> str:
    shared = frozenset.intersection(*(each.level for each in bests))
    leads = {name: sum(each.same(name, each.first) for each in bests) for name in shared}
    return min(shared, key=lambda name: (-leads[name], plainness(name)))


def spans(data: Data, series: str, batch: int, *, unbiased: bool = False) -> list[Span]:
    """A series cut into as few ranges of KL as have one winner throughout."""
    groups: list[list[Best]] = []
    for pair in data.series[series]:
        each = best(data, pair, batch, unbiased=unbiased)
        if each is not None and groups and _winner(groups[-1]) in each.level:
            groups[-1].append(each)
        elif each is not None:
            groups.append([each])
    return [Span(_winner(group), group) for group in groups]


def unranked(data: Data, bests: Sequence[Best], batch: int) -> dict[str, int]:
    """Return who measured less than the least, on how many pairs, and is not ranked since its tail is heavy."""
    found: dict[str, int] = {}
    for each in bests:
        for name, row in data.at(each.pair, batch).items():
            rivals = row["target"] == data.target and math.isnan(row["error"]) and row["status"] == "heavy tail"
            if rivals and row["rmse"] < each.rmse[each.first]:
                found[name] = found.get(name, 0) + 1
    return found


def runner_up(at: Best, winner: str) -> str | None:
    """The next best: of those not level with the best, if there are any."""
    others = [name for name in at.rmse if not at.same(name, winner)]
    clear = [name for name in others if name not in at.level] or others
    return min(clear, key=lambda name: (at.rmse[name], plainness(name)), default=None)


def where(data: Data, series: str, pairs: Sequence[str]) -> str:
    """A stretch of a series in words: ``up to KL 0.5``; by names where its pairs do not differ in KL."""
    everywhere = [data.kl[pair] for pair in data.series[series]]
    kls = [data.kl[pair] for pair in pairs]
    if len(everywhere) == 1:
        return ""
    if not all(map(math.isfinite, everywhere)) or len(set(everywhere)) < len(everywhere):
        if len(pairs) == len(everywhere):
            return "on both pairs" if len(pairs) == 2 else f"on all {len(pairs)} pairs"
        return f"on {listing(list(pairs))}" if len(pairs) <= 3 else f"on {len(pairs)} of {len(everywhere)} pairs"
    low, high = short(min(kls)), short(max(kls))
    if len(pairs) == len(everywhere):
        return "at every KL"
    if len(kls) == 1:
        return f"at KL {low}"
    if min(kls) == min(everywhere):
        return f"up to KL {high}"
    return f"from KL {low} on" if max(kls) == max(everywhere) else f"from KL {low} to {high}"


def table(data: Data) -> Table:
    """Every range of KL with its winner, the next best, and the difference."""
    columns = [
        Column("Series", "what the pairs have in common"),
        Column("Batch", "samples averaged into one estimate", numeric=True),
        Column("KL from", "least exact KL(q‖p) of the range, nats", numeric=True),
        Column("KL to", "greatest exact KL(q‖p) of the range, nats", numeric=True),
        Column(
            "Least rmse",
            f"the estimator with the least root-mean-square error there, or within {100 * LEVEL:g} % of it, or not to "
            f"be told from it",
        ),
        Column("Rmse", "its root-mean-square error on the middle pair of the range, nats", numeric=True),
        Column("Next", "the next best on that pair, of those that are behind beyond doubt if there are any"),
        Column(
            "Behind by",
            "rmse of the next minus rmse of the first, nats; where one of them is measured, with its 95 % interval",
            numeric=True,
        ),
        Column("Least unbiased", "the one with the least rmse on that pair among those that claim to be unbiased"),
    ]
    rows = []
    for series in data.series:
        for batch in data.ends:
            for span in spans(data, series, batch):
                kls, at = [data.kl[pair] for pair in span.pairs], span.middle
                rival = runner_up(at, span.winner)
                found = data.error_difference(at.pair, batch, rival, span.winner) if rival else None
                honest = best(data, at.pair, batch, unbiased=True)
                rows.append(
                    [
                        Cell(series),
                        Cell(f"{batch:,}", batch),
                        Cell(short(min(kls)), min(kls)),
                        Cell(short(max(kls)), max(kls)),
                        Cell(code(span.winner)),
                        Cell(number(at.rmse[span.winner]), at.rmse[span.winner]),
                        Cell(code(rival) if rival else "–"),
                        Cell(with_interval(*found), found[0]) if found else Cell("–", math.nan),
                        Cell(code(honest.first) if honest else "–"),
                    ]
                )
    return Table("Least root-mean-square error, range by range", columns, rows)
