"""The section of the staleness study.

What a sampler that lags behind does to each gradient, and what corrections cost.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from markupsafe import Markup

from klbench.report import cells, terms
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
from klbench.report.combinations import bias_cell, name_cell, named, noise_cell, share
from klbench.report.numbers import number, percent, short
from klbench.report.prose import prose
from klbench.report.runs import by_run
from klbench.report.tables import Row, Shown, select, table
from klbench.rows import keyed, where
from klbench.studies.staleness import section_figures
from klbench.studies.staleness.columns import CHOICES, CORRECTIONS, OVER_SEEDS, STALENESS
from klbench.studies.staleness.section_data import VERDICTS, Lagging, Staleness

SAY = prose(__package__)


def read(tables: Tables) -> Sequence[Staleness]:
    """Return the runs in which something was measured."""
    return [run for run in by_run(Staleness, tables, STALENESS) if run.lagging]


def _more(lagging: Lagging) -> list[Markup]:
    """Return what a sample is worth, and which biased one errs least in small batches."""
    said, last = [], lagging.rows[-1]
    if math.isfinite(last["ess"]) and last["staleness"]:
        said.append(SAY.worth(percent(last["ess"]), percent(last["ess_token"])))
    biased = [
        row
        for row in lagging.corrections
        if row["verdict"] != VERDICTS[0] and row["best_up_to"] >= 2
    ]
    if biased and math.isfinite(biased[0]["best_up_to"]):
        best = max(biased, key=lambda row: row["best_up_to"])
        said.append(SAY.forgiven(named(best), best["rival"], _batch(best["best_up_to"])))
    return said


def lead(tables: Tables) -> Lead:
    """Return which corrections stay right at the largest lag."""
    runs = read(tables)
    if not runs:
        return Lead(SAY.question(), SAY.nothing(), None)
    if runs[0].over_seeds:
        return _over_seeds(runs[0])
    lagging = runs[0].lagging[0]
    right = lagging.groups(VERDICTS[0])
    plain = where(lagging.corrections, correction="none", verdict=VERDICTS[1])
    worst = max(plain, key=lambda row: row["rel_bias_last"], default=None)
    verdict = SAY.verdict(
        runs[0].label,
        short(lagging.lags[-1]),
        sum(map(len, right)),
        len(lagging.corrections),
        named(right[0][0]) if right else "",
        named(worst) if worst else "",
        share(worst["rel_bias_last"]) if worst else "",
    )
    return Lead(SAY.question(), verdict, section_figures.at_last(lagging), _more(lagging))


def _over_seeds(run: Staleness) -> Lead:
    """Return the price of being right over several seeds."""
    rows = run.over_seeds
    right = [row for row in rows if row["right_pairs"] == row["pairs"]]
    plain = where(right, correction="sequence_ratio")
    rival = min(plain, key=lambda row: row["rel_std"], default=None)
    biased = [row for row in rows if row["right_pairs"] < row["pairs"]]
    verdict = SAY.price(
        len(right),
        len(rows),
        short(rows[0]["staleness"]),
        named(right[0]) if right else "",
        right[0] if right else None,
        named(rival) if rival is not None else "",
        rival,
    )
    more = [SAY.biased(named(row), share(row["rel_bias"])) for row in biased[:1]]
    return Lead(SAY.price_question(), verdict, section_figures.over_seeds(run), more)


def _seeds_table(run: Staleness) -> Table:
    shown = select(
        "combination correction rel_bias rel_std:interval over_least:interval",
        combination=name_cell,
        correction=lambda row, name: Cell(row[name].replace("_", " ")),
        rel_bias=lambda row, name: bias_cell(row | {"matches": "", "method": ""}),
    )
    return table(SAY.seeds_title(), OVER_SEEDS, run.over_seeds, shown)


def _by_lag(lagging: Lagging, *, bias: bool) -> Table:
    meaning = STALENESS["rel_bias" if bias else "rel_std"].meaning
    columns = [Column("Combination", CORRECTIONS["combination"].meaning)]
    columns += [
        Column(SAY.lag(short(lag)), SAY.lag_meaning(meaning, short(lag)), numeric=True)
        for lag in lagging.lags
    ]
    columns.append(Column("Weight", CORRECTIONS["correction"].meaning))
    rows = []
    for row in (row for group in lagging.ordered for row in group):
        at = keyed(lagging.curve(row["combination"]), "staleness")
        shown = [
            bias_cell(at.get(lag))
            if bias
            else noise_cell(at[lag]["rel_std"] if lag in at else math.nan)
            for lag in lagging.lags
        ]
        rows.append([name_cell(row), *shown, Cell(row["correction"].replace("_", " "))])
    return Table(SAY.by_lag(bias), columns, rows)


def _weights(lagging: Lagging) -> Table | None:
    """Return what is left of the samples of each weight at the largest lag."""
    last, names = lagging.lags[-1], keyed(lagging.corrections, "combination")
    rows = [
        names[row["combination"]] | row
        for row in lagging.rows
        if row["staleness"] == last
        and row["correction"] != "none"
        and math.isfinite(row.get("weight_kept", math.nan))
    ]
    shown = (
        Shown("combination", name_cell),
        Shown("weight_mean", cells.short(), SAY.mean_weight()),
        Shown("weight_ess", cells.percent, SAY.size()),
        Shown("weight_kept", cells.percent, SAY.kept()),
    )
    return table(SAY.weights_title(short(last)), STALENESS, rows, shown) if rows else None


def _batches(lagging: Lagging) -> Table | None:
    biased = [row for rows in lagging.ordered for row in rows if row["verdict"] != VERDICTS[0]]
    if not biased:
        return None
    first = biased[0]
    rivals = [Shown("best_up_to", _limit, SAY.beats(first["rival"]))] if first["rival"] else []
    if first["sampled_rival"] not in ("", first["rival"]):
        rivals.append(Shown("best_sampled_up_to", _limit, SAY.beats(first["sampled_rival"])))
    shown = (
        *select(
            "combination verdict:text rel_bias_last rel_std_last balance_batch",
            combination=name_cell,
            rel_bias_last=lambda row, name: bias_cell(
                row | {"matches": "", "method": "", "rel_bias": row[name]}
            ),
            rel_std_last=lambda row, name: noise_cell(row[name]),
            balance_batch=lambda row, name: Cell(_batch(row[name]), row[name]),
        ),
        *rivals,
    )
    return table(SAY.batches(short(lagging.lags[-1])), CORRECTIONS, biased, shown)


def _choices(lagging: Lagging) -> list[Block]:
    """Return which combination to use below which batch: a figure and the table that says so."""
    if not lagging.choices:
        return []
    shown = select(
        "staleness:short among:words batch_from:whole batch_to combination rel_bias "
        "rel_std rel_error_from:percent",
        batch_to=lambda row, name: Cell(number(row[name]), row[name]),
        combination=name_cell,
        rel_bias=lambda row, name: bias_cell(row | {"matches": "", "method": ""}),
        rel_std=lambda row, name: noise_cell(row[name]),
    )
    found = table(SAY.choices(lagging.label), CHOICES, lagging.choices, shown)
    figures = (section_figures.bias_against_noise, section_figures.by_batch)
    return [*(draw(lagging) for draw in figures if lagging.lags[-1]), found]


def _limit(row: Row, name: str) -> Cell:
    return Cell(SAY.never() if row[name] < 1 else _batch(row[name]), row[name])


def _batch(size: float) -> str:
    """Return a batch size of two digits, rounded down."""
    if not math.isfinite(size):
        return number(size)
    step = 10.0 ** max(0, math.floor(math.log10(max(size, 1.0))) - 1)
    return number(step * math.floor(size / step), 2)


def build(tables: Tables) -> Sequence[Block]:
    """Return curves over the lag, and the tables behind them."""
    return (
        [Paragraph(SAY.why()), *(block for run in read(tables) for block in _run(run))]
        if read(tables)
        else []
    )


def _run(run: Staleness) -> Iterator[Block]:
    if run.label:
        yield Heading(run.label)
    yield from run.warnings()
    if run.over_seeds:
        yield _seeds_table(run)
        yield Paragraph(SAY.why_quieter())
    if run.lagging:
        yield from _choices(run.lagging[0])
    yield from section_figures.over_lags(run)
    for k, lagging in enumerate(run.lagging):
        tables = [
            _batches(lagging),
            _by_lag(lagging, bias=True),
            _by_lag(lagging, bias=False),
            _weights(lagging),
        ]
        more = _choices(lagging) if k else []
        yield Details(
            SAY.numbers(lagging.label, lagging.pair),
            [*(each for each in more if isinstance(each, Table)), *filter(None, tables)],
        )


TERMS = ("q_p", "r", "schulman", *terms.GRADIENTS, "lag", "sampler_path", "effective_sample_size")

SECTION = Section(
    "When the sampler lags behind", STALENESS, build, lead=lead, order=20, terms=TERMS
)
