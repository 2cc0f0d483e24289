"""Tables of the value study: rmse at a glance, and every row of the smallest batch size folded away."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from markupsafe import Markup

from klbench.report import cells
from klbench.report.blocks import Block, Cell, Column, Details, Paragraph, Table
from klbench.report.cells import code
from klbench.report.numbers import number, short
from klbench.report.tables import Shown, table
from klbench.studies.value import section_ranking
from klbench.studies.value.columns import VALUES
from klbench.studies.value.section_data import Data

MAX_ROWS = 600


def at_a_glance(data: Data, batch: int, *, off_policy: bool = False) -> list[Block]:
    """One row a pair: the rmse of the headline estimators, the least in bold. Pairs with a third sampler stand apart."""
    rows = data.measured[(data.measured["batch"] == batch) & (data.measured["target"] == data.target)]
    rows = rows[rows["pair"].isin(data.off_policy) == off_policy]
    if rows.empty:
        return []
    names = data.headlines(off_policy=off_policy, present=rows["estimator"])
    indexed = {(row["pair"], row["estimator"]): row for row in rows.to_dict("records")}
    columns = [
        Column("Pair", "q ‖ p: the sampling distribution, then the one it is compared with"),
        Column("Series", "what the pairs have in common"),
        Column("KL(q‖p)", "exact, nats", numeric=True),
        *(
            Column(
                name, f"rmse of {name}, nats, the exact one if known; bold: the least of the row; *: not to be trusted", True
            )
            for name in names
        ),
    ]
    body = []
    for series, pairs in data.series.items():
        for pair in (pair for pair in pairs if (pair in data.off_policy) == off_policy):
            found = {name: indexed.get((pair, name)) for name in names}
            trusted = [row["error"] for row in found.values() if row and math.isfinite(row["error"])]
            least = min(trusted, default=math.nan)
            body.append(
                [
                    Cell(pair),
                    Cell(series),
                    Cell(short(data.kl[pair]), data.kl[pair]),
                    *(_rmse(found[name], least) for name in names),
                ]
            )
    where = ", samples of a third distribution" if off_policy else ""
    return [Table(f"Root-mean-square error, {_size(batch)}{where}, nats", columns, body)]


def _size(batch: int) -> str:
    return "one sample" if batch == 1 else f"batches of {batch:,}"


def _rmse(row: Any, least: float) -> Cell:
    if row is None:
        return Cell("–", math.nan)
    if math.isnan(row["error"]):
        return Cell(f"{number(row['rmse'])}*", float(row["rmse"]), "doubtful")
    value = float(row["error"])
    return Cell(number(value), value, "best" if value <= least * (1 + 1e-9) else "")


def every_row(data: Data, batch: int) -> tuple[Table, int]:
    """All measured rows of a batch size, as many as a page bears, and how many there are."""
    rows = data.measured[data.measured["batch"] == batch].sort_values(["kl"], kind="stable")
    order = {pair: i for i, pair in enumerate(pair for pairs in data.series.values() for pair in pairs)}
    rows = rows.assign(order=rows["pair"].map(order)).sort_values("order", kind="stable")
    drawn = [
        Shown("pair", lambda row, name: Cell(row[name], float(row["order"]))),
        Shown("estimator", cells.name),
        Shown("target", cells.text),
        Shown("truth", cells.number()),
        *(Shown(name, cells.with_error) for name in ("bias", "std", "rmse")),
        Shown("frac_negative", cells.percent),
        Shown("coverage", cells.percent),
        Shown("khat", cells.with_error),
        Shown("status", lambda row, name: Cell(row[name], tone="" if row[name] == "ok" else "bad")),
    ]
    shown = VALUES.rows(rows.head(MAX_ROWS))
    return table(f"Every estimator, {_size(batch)}", VALUES, shown, drawn), len(rows)


def _cut(shown: Table, total: int) -> list[Block]:
    left = total - len(shown.rows)
    return [
        shown,
        *([Paragraph(Markup("{} more rows are in the table's file.").format(f"{left:,}"), "note")] if left > 0 else []),
    ]


def skipped(data: Data) -> list[Block]:
    """What was not measured, and why."""
    rows = data.values[data.values["status"].str.startswith("skipped")]
    if rows.empty:
        return []
    counts = Counter(zip(rows["estimator"], rows["status"], strict=True))
    columns = [
        Column("Estimator", "name in klbench"),
        Column("Reason", "why it was not measured"),
        Column("Rows", "rows of the table, one for each pair and batch size", True),
    ]
    body = [
        [Cell(code(name)), Cell(status.removeprefix("skipped: ")), Cell(f"{n:,}", n)] for (name, status), n in counts.items()
    ]
    return [Details(f"What was not measured ({len(rows):,} rows)", [Table("Not measured", columns, body)])]


def all_tables(data: Data) -> list[Block]:
    """In the page's order."""
    blocks: list[Block] = [section_ranking.table(data)]
    for batch in data.ends:
        blocks += [*at_a_glance(data, batch), *at_a_glance(data, batch, off_policy=True)]
    for batch in data.ends:
        shown, total = every_row(data, batch)
        blocks.append(Details(f"Every estimator on every pair, {_size(batch)} ({total:,} rows)", _cut(shown, total)))
    return [*blocks, *skipped(data)]
