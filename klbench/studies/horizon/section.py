"""The section of the study over length: what grows, what levels off, and what weights cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

from markupsafe import Markup

from klbench.report import blocks, cells
from klbench.report.combinations import amount, share
from klbench.report.prose import prose
from klbench.report.runs import by_run
from klbench.report.tables import Row, select, table
from klbench.rows import column_of, distinct, where
from klbench.studies.horizon import columns, section_figures
from klbench.studies.horizon.section_data import Horizon, biased

SAY = prose(__package__)
SAID = 3
"""Combinations that the first sentence names."""


def read(tables: blocks.Tables) -> Sequence[Horizon]:
    """Return the runs in which something was measured."""
    return [run for run in by_run(Horizon, tables, columns.HORIZON) if run.measured]


def lead(tables: blocks.Tables) -> blocks.Lead:
    """Return what length does to what trainers do, and the figure that shows it."""
    runs = read(tables)
    if not runs or not runs[0].drawn:
        return blocks.Lead(str(SAY.question()), SAY.nothing(), None)
    run = runs[0]
    series, kl, lag = run.leading
    ends = [{"label": label, **rows[-1]} for label, rows in list(run.drawn.items())]
    said = where(ends, tokens=max(column_of(ends, "tokens")))
    verdict = SAY.verdict(series, kl, lag, said[0]["tokens"], said[:SAID])
    return blocks.Lead(
        str(SAY.question()), verdict, section_figures.against_length(run), _more(run)
    )


def _more(run: Horizon) -> list[Markup]:
    """Return where it levels off, whom the language models are like, and where weights cross."""
    said: list[Markup] = []
    if run.levels:
        at = (
            next(row for row in run.levels if row["of_limit"] >= 0.95)
            if run.levels[-1]["of_limit"] >= 0.95
            else run.levels[-1]
        )
        said.append(SAY.levels(run.levels[-1], at))
    language, growing = run.language(), run.growing()
    own = where(run.gaps, series="lm")
    if language is not None and own:
        said.append(SAY.models(language, own[0], own[-1]))
    elif growing is not None:
        said.append(SAY.grows(growing))
    if run.crossings:
        kls = sorted(distinct(run.crossings, "kl_token"))
        rows = where(run.crossings, kl_token=kls[len(kls) // 2])
        said.append(SAY.cross(rows[0]))
    return said


def build(tables: blocks.Tables) -> Sequence[blocks.Block]:
    """Return curves over the length, and the tables behind them."""
    runs = read(tables)
    return [blocks.Paragraph(SAY.why()), *chain.from_iterable(map(_run, runs))] if runs else []


def _run(run: Horizon) -> Iterator[blocks.Block]:
    if run.label:
        yield blocks.Heading(run.label)
    yield from section_figures.levelling(run)
    yield from section_figures.within(run)
    yield from section_figures.worth(run)
    yield from section_figures.bounds(run)
    yield blocks.Details(SAY.numbers(), list(_tables(run)))


def _tables(run: Horizon) -> Iterator[blocks.Table]:
    for series in run.series:
        kl, lags = run.settings(series)
        for lag in dict.fromkeys((lags[0], lags[-1])):
            yield _by_length(run, series, kl, lag)
    for schema, shown in FOLDED:
        if rows := run.rows(schema):
            yield table(getattr(SAY, f"{schema.table}_table")(), schema, rows, select(shown))


def _by_length(run: Horizon, series: str, kl: float, lag: float) -> blocks.Table:
    rows = [
        row
        for row in run.measured
        if (row["series"], row["lag_token"]) == (series, lag)
        and (series == "lm" or row["kl_token"] == kl)
    ]
    lengths = sorted(distinct(rows, "tokens"))
    kept = lengths[:: max(1, (len(lengths) + 5) // 6)]
    heads = [
        blocks.Column("Combination", columns.HORIZON["combination"].meaning),
        *(
            blocks.Column(SAY.at_tokens(tokens), SAY.at_meaning(tokens), numeric=True)
            for tokens in kept
        ),
    ]
    by_name: dict[str, dict[int, Row]] = {}
    for row in rows:
        by_name.setdefault(row["combination"], {})[row["tokens"]] = row
    shown = [
        [blocks.Cell(cells.code(name)), *(_both(own.get(tokens)) for tokens in kept)]
        for name, own in by_name.items()
    ]
    return blocks.Table(str(SAY.by_length(series, kl, lag)), heads, shown)


def _both(row: Row | None) -> blocks.Cell:
    if row is None:
        return blocks.Cell("")
    bias = share(row["rel_bias"]) if biased(row) else "0"
    return blocks.Cell(SAY.both(bias, amount(row["rel_std"])), row["rel_bias"])


FOLDED = (
    (
        columns.FAMILIES,
        (
            "series:text kl_token:short first:percent_interval last:percent_interval growth:number2"
            " levels_at:short relaxation:short limit:percent verdict:text like:text"
        ),
    ),
    (columns.GAPS, "series:text gap:whole left_out:percent_interval share:percent"),
    (columns.LEVELS, "tokens:whole rel_bias:percent_interval known:percent of_limit:percent"),
    (
        columns.CROSSINGS,
        (
            "kl_token:short lag_token:short token:name sequence:name tokens:interval nats:short2"
            " crossed:percent"
        ),
    ),
    (
        columns.BOUNDS,
        (
            "series:text kl_token:short lag_token:short tokens:whole error:number2 slack_2:number2"
            " slack_15:number2 slack_1:number2"
        ),
    ),
    (columns.MARKS, "nats:short ess:number kept:percent khat:number2"),
    (
        columns.SAMPLED,
        "combination:name tokens:whole lag_token:short2 rel_bias:with_error rel_std:with_error",
    ),
)
"""The tables that are folded, and what each shows."""

SECTION = blocks.Section(
    "What length does",
    columns.HORIZON,
    build,
    lead=lead,
    order=25,
    terms=("q_p", "r", "gradient_bias", "gradient_noise", "lag", "effective_sample_size", "k_hat"),
)
