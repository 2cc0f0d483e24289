"""The section of the study over length: what grows, what levels off, and what weights cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

from markupsafe import Markup

from klbench.report import cells
from klbench.report.blocks import (
    Block,
    Cell,
    Column,
    Details,
    Heading,
    Lead,
    Paragraph,
    Section,
    Table,
    Tables,
)
from klbench.report.combinations import amount, share
from klbench.report.prose import prose
from klbench.report.runs import by_run
from klbench.report.tables import Row, Shown, table
from klbench.studies.horizon import section_figures
from klbench.studies.horizon.columns import (
    BOUNDS,
    CROSSINGS,
    FAMILIES,
    GAPS,
    HORIZON,
    LEVELS,
    MARKS,
    SAMPLED,
)
from klbench.studies.horizon.section_data import Horizon, biased

SAY = prose(__package__)
SAID = 3
"""Combinations that the first sentence names."""


def read(tables: Tables) -> Sequence[Horizon]:
    """Return the runs in which something was measured."""
    return [run for run in by_run(Horizon, tables, HORIZON) if run.measured]


def lead(tables: Tables) -> Lead:
    """Return what length does to what trainers do, and the figure that shows it."""
    runs = read(tables)
    if not runs or not runs[0].drawn:
        return Lead(str(SAY.question()), SAY.nothing(), None)
    run = runs[0]
    series, kl, lag = run.leading
    ends = [{"label": label, **rows[-1]} for label, rows in list(run.drawn.items())]
    said = [row for row in ends if row["tokens"] == max(each["tokens"] for each in ends)]
    verdict = SAY.verdict(series, kl, lag, said[0]["tokens"], said[:SAID])
    return Lead(str(SAY.question()), verdict, section_figures.against_length(run), _more(run))


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
    own = [row for row in run.gaps if row["series"] == "lm"]
    if language is not None and own:
        said.append(SAY.models(language, own[0], own[-1]))
    elif growing is not None:
        said.append(SAY.grows(growing))
    if run.crossings:
        kls = sorted({row["kl_token"] for row in run.crossings})
        rows = [row for row in run.crossings if row["kl_token"] == kls[len(kls) // 2]]
        said.append(SAY.cross(rows[0]))
    return said


def build(tables: Tables) -> Sequence[Block]:
    """Return curves over the length, and the tables behind them."""
    runs = read(tables)
    return [Paragraph(SAY.why()), *chain.from_iterable(map(_run, runs))] if runs else []


def _run(run: Horizon) -> Iterator[Block]:
    if run.label:
        yield Heading(run.label)
    yield from section_figures.levelling(run)
    yield from section_figures.within(run)
    yield from section_figures.worth(run)
    yield from section_figures.bounds(run)
    yield Details(SAY.numbers(), list(_tables(run)))


def _tables(run: Horizon) -> Iterator[Table]:
    for series in run.series:
        kl, lags = run.settings(series)
        for lag in dict.fromkeys((lags[0], lags[-1])):
            yield _by_length(run, series, kl, lag)
    shown = (
        (SAY.families_table(), FAMILIES, run.families, FAMILY_COLUMNS),
        (SAY.gaps_table(), GAPS, run.gaps, GAP_COLUMNS),
        (SAY.levels_table(), LEVELS, run.levels, LEVEL_COLUMNS),
        (SAY.crossings_table(), CROSSINGS, run.crossings, CROSSING_COLUMNS),
        (SAY.bounds_table(), BOUNDS, run.bounds, BOUND_COLUMNS),
        (SAY.marks_table(), MARKS, run.marks, MARK_COLUMNS),
        (SAY.sampled_table(), SAMPLED, run.sampled, SAMPLED_COLUMNS),
    )
    for title, schema, rows, columns in shown:
        if rows:
            yield table(title, schema, rows, columns)


def _by_length(run: Horizon, series: str, kl: float, lag: float) -> Table:
    rows = [
        row
        for row in run.measured
        if (row["series"], row["lag_token"]) == (series, lag)
        and (series == "lm" or row["kl_token"] == kl)
    ]
    lengths = sorted({row["tokens"] for row in rows})
    kept = lengths[:: max(1, (len(lengths) + 5) // 6)]
    columns = [Column("Combination", HORIZON["combination"].meaning)]
    columns += [
        Column(SAY.at_tokens(tokens), SAY.at_meaning(tokens), numeric=True) for tokens in kept
    ]
    by_name: dict[str, dict[int, Row]] = {}
    for row in rows:
        by_name.setdefault(row["combination"], {})[row["tokens"]] = row
    shown = [
        [Cell(cells.code(name)), *(_both(own.get(tokens)) for tokens in kept)]
        for name, own in by_name.items()
    ]
    return Table(str(SAY.by_length(series, kl, lag)), columns, shown)


def _both(row: Row | None) -> Cell:
    if row is None:
        return Cell("")
    bias = share(row["rel_bias"]) if biased(row) else "0"
    return Cell(SAY.both(bias, amount(row["rel_std"])), row["rel_bias"])


FAMILY_COLUMNS = (
    Shown("series", cells.text),
    Shown("kl_token", cells.short()),
    Shown("first", cells.percent_interval),
    Shown("last", cells.percent_interval),
    Shown("growth", cells.number(2)),
    Shown("levels_at", cells.short()),
    Shown("relaxation", cells.short()),
    Shown("limit", cells.percent),
    Shown("verdict", cells.text),
    Shown("like", cells.text),
)
GAP_COLUMNS = (
    Shown("series", cells.text),
    Shown("gap", cells.whole),
    Shown("left_out", cells.percent_interval),
    Shown("share", cells.percent),
)
LEVEL_COLUMNS = (
    Shown("tokens", cells.whole),
    Shown("rel_bias", cells.percent_interval),
    Shown("known", cells.percent),
    Shown("of_limit", cells.percent),
)
CROSSING_COLUMNS = (
    Shown("kl_token", cells.short()),
    Shown("lag_token", cells.short()),
    Shown("token", cells.name),
    Shown("sequence", cells.name),
    Shown("tokens", cells.interval()),
    Shown("nats", cells.short(2)),
    Shown("crossed", cells.percent),
)
BOUND_COLUMNS = (
    Shown("series", cells.text),
    Shown("kl_token", cells.short()),
    Shown("lag_token", cells.short()),
    Shown("tokens", cells.whole),
    Shown("error", cells.number(2)),
    Shown("slack_2", cells.number(2)),
    Shown("slack_15", cells.number(2)),
    Shown("slack_1", cells.number(2)),
)
MARK_COLUMNS = (
    Shown("nats", cells.short()),
    Shown("ess", cells.number(3)),
    Shown("kept", cells.percent),
    Shown("khat", cells.number(2)),
)
SAMPLED_COLUMNS = (
    Shown("combination", cells.name),
    Shown("tokens", cells.whole),
    Shown("lag_token", cells.short(2)),
    Shown("rel_bias", cells.with_error),
    Shown("rel_std", cells.with_error),
)

SECTION = Section(
    "What length does",
    HORIZON,
    build,
    lead=lead,
    order=25,
    terms=("q_p", "r", "gradient_bias", "gradient_noise", "lag", "effective_sample_size", "k_hat"),
)
