"""The tables of the value study's section."""

from __future__ import annotations

import math
import re
from collections import Counter

from klbench.report import cells
from klbench.report.blocks import Block, Cell, Column, Details, Paragraph, Table
from klbench.report.formulas import formula
from klbench.report.numbers import MISSING, number, percent, short
from klbench.report.tables import Row, folded, head, select, table
from klbench.rows import column_of, finite, grouped, keyed, where
from klbench.studies.value.columns import ALL, ESTIMATORS, PAIRS, RANGES, VALUES
from klbench.studies.value.section_curves import SAY, size
from klbench.studies.value.section_data import Data

MOST_ROWS = 600
LARGE_Z = 5.0


def _yes(row: Row, name: str) -> Cell:
    return Cell("yes" if row[name] else "no", float(row[name]))


def _verdict(row: Row, name: str) -> Cell:
    tones = {"broken": "bad", "kept": "good"}
    return Cell(row[name], tone=tones.get(re.split("[:;]", row[name])[0], "words"))


RANGE = select(
    "series batch kl_low:short kl_high:short estimator error next behind",
    next=lambda row, name: cells.name(row, name) if row[name] else Cell(MISSING),
)
EVERY = select(
    "pair:words estimator target truth bias std:number rmse:number "
    "frac_negative:percent coverage:percent khat status",
    status=lambda row, name: Cell(row[name], tone="" if row[name] == "ok" else "bad"),
)
PAIR = select("pair series kl_qp:short kl_pq:short chi2:short tail_index:short khat")
CLAIM = select(
    "estimator verdict target unbiased_claim worst_z:number2 nonnegative_claim "
    "negative:percent gradient_claim",
    verdict=_verdict,
    unbiased_claim=_yes,
    nonnegative_claim=_yes,
)
FORMULA = select(
    "estimator tex aliases:words source:words", tex=lambda row, name: Cell(formula(row[name]))
)


def ranges(data: Data) -> list[Block]:
    """Return the ranges of KL with their winners.

    Of all estimators, and folded of the other groups.
    """
    rows = [
        row | {"series": data.series_of(row)}
        for row in data.all_ranges
        if row["batch"] in data.shown_batches
    ]
    shown = (
        *RANGE,
        *(select("unranked:words") if any(column_of(rows, "unranked")) else []),
    )
    all_of_them = table("Least error, range by range", RANGES, where(rows, among=ALL), shown)
    others = [row for row in rows if row["among"] != ALL]
    shown = (*select("among:text"), *shown)
    return [
        all_of_them,
        Details(SAY.other_groups(), [table("Least error of other groups", RANGES, others, shown)]),
    ]


def at_a_glance(data: Data, batch: int, *, off_policy: bool = False) -> list[Block]:
    """Return a row for each pair: the rmse of the drawn estimators, the least in bold."""
    entries = data.off_policy_entries if off_policy else data.entries
    columns = [
        head(VALUES, "pair"),
        head(VALUES, "series"),
        head(PAIRS, "kl_qp"),
        *(Column(name, SAY.rmse_of(name), numeric=True) for name in entries),
    ]
    body = []
    for series, pairs in data.series.items():
        for pair in (pair for pair in pairs if (pair in data.off_policy) == off_policy):
            rows = where(data.at(pair, batch).values(), target=data.target)
            found = {name: row for name, row in keyed(rows, "estimator").items() if name in entries}
            least = min(column_of(finite(found.values(), "error"), "error"), default=math.nan)
            kl = Cell(short(data.kl(pair)), data.kl(pair))
            body.append(
                [Cell(pair), Cell(series), kl, *(_rmse(found.get(name), least) for name in entries)]
            )
    return [Table(SAY.glance(size(batch), off_policy), columns, body)] if body else []


def _rmse(row: Row | None, least: float) -> Cell:
    if row is None:
        return Cell(MISSING, math.nan)
    if math.isnan(row["error"]):
        return Cell(f"{number(row['rmse'])}*", float(row["rmse"]), "doubtful")
    return Cell(
        number(row["error"]),
        float(row["error"]),
        "best" if number(row["error"]) == number(least) else "",
    )


def coverage(data: Data) -> list[Block]:
    """Return the shares of intervals that hold the truth, on the pairs that are drawn."""
    batches = [batch for batch in data.batches if batch > 1]
    rows = [
        [
            Cell(pair),
            cells.name({"estimator": name}, "estimator"),
            *(_coverage(data.at(pair, batch).get(name)) for batch in batches),
        ]
        for pair in data.typical.values()
        for name in dict.fromkeys(row["estimator"] for row in data.measured if row["pair"] == pair)
    ]
    columns = [
        head(VALUES, "pair"),
        head(VALUES, "estimator"),
        *(Column(f"{batch:,}", VALUES["coverage"].meaning, numeric=True) for batch in batches),
    ]
    title = SAY.coverage_title()
    return [Details(title, [Table(title, columns, rows)])] if batches else []


def _coverage(row: Row | None) -> Cell:
    return Cell(percent(row["coverage"]), row["coverage"]) if row else Cell(MISSING, math.nan)


def every_row(data: Data, batch: int) -> list[Block]:
    """Return the measured rows of a batch size, up to the most that a page shows."""
    order = {
        pair: i for i, pair in enumerate(pair for pairs in data.series.values() for pair in pairs)
    }
    rows = sorted(where(data.measured, batch=batch), key=lambda row: order[row["pair"]])
    title = SAY.every(size(batch), len(rows))
    blocks: list[Block] = [table(title, VALUES, rows[:MOST_ROWS], EVERY)]
    if len(rows) > MOST_ROWS:
        blocks.append(Paragraph(SAY.more_rows(len(rows) - MOST_ROWS), "note"))
    return [Details(title, blocks)]


def skipped(data: Data) -> list[Block]:
    """Return what was not measured or is not to be trusted, and why."""
    counts = Counter(
        (row["estimator"], row["status"]) for row in data.values if row["status"] != "ok"
    )
    columns = [
        head(VALUES, "estimator"),
        head(VALUES, "status"),
        Column("Rows", SAY.rows_meaning(), numeric=True),
    ]
    rows = [
        [cells.name({"estimator": name}, "estimator"), Cell(status), Cell(f"{n:,}", n)]
        for (name, status), n in counts.items()
    ]
    title = SAY.skipped(counts.total())
    return [Details(title, [Table(title, columns, rows)])] if rows else []


def all_tables(data: Data) -> list[Block]:
    """Return the tables in the page's order."""
    blocks = ranges(data)
    for batch in data.shown_batches:
        blocks += [*at_a_glance(data, batch), *at_a_glance(data, batch, off_policy=True)]
    blocks += coverage(data)
    for batch in data.shown_batches:
        blocks += every_row(data, batch)
    pairs = folded(SAY.pairs_title(), PAIRS, list(data.pairs.values()), PAIR)
    return [*blocks, *pairs, *skipped(data)]


def claims(data: Data) -> list[Block]:
    """Return the table of claims, one for each run, and how to read it."""
    runs = grouped((row | {"run": row.get("run", "")} for row in data.estimators), "run")
    described = list(keyed(data.estimators, "estimator").values())
    judged = sum(int(row["judged"]) for row in data.estimators if row["verdict"])
    largest = sorted(column_of(finite(data.estimators, "exact_z"), "exact_z"))[-1:]
    return [
        Paragraph(SAY.claims_note(judged, LARGE_Z)),
        *(table(SAY.claims_title(run), ESTIMATORS, rows, CLAIM) for run, rows in runs.items()),
        *folded(SAY.formulas(), ESTIMATORS, described, FORMULA),
        *(Paragraph(SAY.exact(z), "warning" if z > LARGE_Z else "note") for z in largest),
    ]
