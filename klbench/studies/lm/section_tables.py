"""Tables of the study of completions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from klbench.report import cells
from klbench.report.blocks import Block, Cell, Details, Heading, Paragraph
from klbench.report.cells import Show
from klbench.report.numbers import exact, number
from klbench.report.prose import prose
from klbench.report.tables import Row, Schema, Shown, table
from klbench.studies.lm.columns import (
    AGREEMENT,
    CHECKS,
    COST,
    DTYPE,
    LARGEST_RATIOS,
    PROMPTS,
    SAMPLING,
    THROUGHPUT,
    TOKENS,
    TOP_TOKENS,
    TRUNCATION,
    VALUES,
    VERDICTS,
)
from klbench.studies.lm.section_data import Completions, visible

SAY = prose(__package__)
LEVELS = {"token": "each token", "sequence": "whole sequence", "": ""}
STAGES = {"completions": "all", "generation": "generation", "scoring": "scoring"}
MAX_ROWS = 400


def level(row: Row, name: str) -> Cell:
    """Show a level in words."""
    return Cell(LEVELS[row[name]])


def truth(row: Row, name: str) -> Cell:
    """Show the exact value."""
    return Cell(exact(row[name], row["truth_error"]), row[name])


def bias(row: Row, name: str) -> Cell:
    """Show a relative bias with its interval, in per cent."""
    if row["bias_method"] == "is the truth":
        return Cell(SAY.is_the_truth(), 0.0)
    return Cell(SAY.off(row[name], row[f"{name}_se"]), row[name])


def token_text(row: Row, name: str) -> Cell:
    """Show the text of a token."""
    return Cell(cells.code(visible(row[name])), tone="name")


def verdict(good: str) -> Show:
    """Return what shows a verdict, in grey unless it is the good one."""
    return lambda row, name: Cell(row[name], tone="" if row[name] == good else "doubtful")


def rounded(row: Row, name: str) -> Cell:
    """Show a number with two digits, the others as zeros."""
    return Cell(number(float(f"{row[name]:.2g}"), 2), row[name])


def yes(row: Row, name: str) -> Cell:
    """Show yes or no."""
    return Cell("yes" if row[name] else "no", tone="" if row[name] else "doubtful")


ESTIMATORS = (
    Shown("estimator", cells.name),
    Shown("level", level),
    Shown("target", cells.text),
    Shown("truth", truth),
    Shown("mean", cells.with_error),
    Shown("rel_bias", bias),
    Shown("std", cells.number()),
    Shown("frac_negative", cells.percent),
    Shown("khat", cells.number(2)),
    Shown("status", cells.flag),
)
POSITIONS = (
    Shown("position", cells.whole),
    Shown("n", cells.whole),
    *(Shown(name, cells.with_error) for name in ("kl_qp", "kl_pq", "k1", "k3")),
    Shown("frac_negative", cells.percent),
    Shown("khat", cells.number(2)),
    Shown("share", cells.percent),
)
TOKEN = (Shown("text", token_text), Shown("token", cells.whole))
TOP = (
    *TOKEN,
    Shown("count", cells.whole),
    Shown("share", cells.signed_percent),
    Shown("k1_mean", cells.number(2)),
    Shown("kl_sum", cells.number()),
    Shown("largest", cells.number(2)),
)
LARGEST = (
    *TOKEN,
    Shown("largest", cells.number()),
    Shown("count", cells.whole),
    Shown("k1_mean", cells.number(2)),
)
SUMMARY = (
    Shown("nearest", cells.name),
    Shown("nearest_level", level),
    Shown("nearest_rel_rmse_100", cells.percent),
    Shown("half_by", cells.whole),
    Shown("k1_z", cells.number(2)),
    Shown("ratios", verdict("holds")),
    Shown("sound", yes),
)
COMPARED = (
    Shown("k1", cells.with_error),
    Shown("k3", cells.with_error),
    Shown("difference", cells.with_error),
    Shown("z", cells.number(2)),
    Shown("verdict", verdict("agree")),
)
SAMPLED = (
    Shown(
        "log_ratio",
        cells.computed(lambda row: Cell(row["log_ratio"].replace("mu", "μ").replace("-", "−"))),
    ),
    Shown("estimator", cells.name),
    Shown("level", level),
    Shown("mean", cells.with_error),
    Shown("kl_qp", cells.number()),
    Shown("rel_bias", cells.signed_percent),
    Shown("kl_mup", cells.with_error),
)
RESCORED = (
    Shown("dtype", cells.text),
    Shown("what", cells.text),
    Shown("estimator", cells.name),
    Shown("level", level),
    Shown("mean", cells.number()),
    Shown("change", cells.with_error),
    Shown("sd_log_ratio", cells.number(2)),
)
TRUNCATED = (
    Shown("k", cells.whole),
    Shown("exact", cells.number()),
    Shown("mean", cells.with_error),
    Shown("share", cells.percent),
)
NEEDED = (
    Shown("estimator", cells.name),
    Shown("level", level),
    Shown("completions_needed", rounded),
    Shown("seconds_needed", rounded),
    Shown("rel_bias", cells.signed_percent),
    Shown("status", cells.flag),
)
SPEED = (
    Shown("stage", cells.computed(lambda row: Cell(STAGES[row["stage"]]))),
    Shown("completions_per_second", cells.number()),
    Shown("tokens_per_second", cells.number()),
    Shown("peak_mib", cells.number()),
    Shown("device", cells.text),
    Shown("kernel", cells.text),
)
BY_PROMPT = (
    Shown("what", cells.text),
    Shown("prompts", cells.whole),
    Shown("completions", cells.whole),
    Shown("mean", cells.number()),
    *(Shown(name, cells.number(2)) for name in ("se", "se_same", "se_new")),
    Shown("between_share", cells.percent),
)
RATIOS = (
    Shown("ratio", cells.text),
    Shown("mean", cells.with_error),
    Shown("z", cells.number(2)),
    Shown("ess", cells.number()),
    Shown("khat", cells.number(2)),
    Shown("verdict", verdict("holds")),
)


def blocks(data: Completions) -> Iterator[Block]:
    """Yield the tables: what sums a page up stays open, the rest is folded."""
    several = len(data.pairs) > 1
    yield Heading(SAY.tables_title())
    for reason, names in skipped(data).items():
        yield Paragraph(SAY.skipped(reason, names), "note")
    completion = [row for row in data.values if row["per"] == "sequence"]
    if several:
        yield from _tables(data, VERDICTS, SAY.verdicts_title(), SUMMARY, is_open=True)
        yield from _tables(
            data, VALUES, SAY.completion_title(), ESTIMATORS, rows=completion, each=True
        )
    else:
        yield from _tables(
            data, VALUES, SAY.completion_title(), ESTIMATORS, rows=completion, is_open=True
        )
    token = [row for row in data.values if row["per"] == "token"]
    yield from _tables(
        data, VALUES, SAY.token_title(), ESTIMATORS, rows=token, each=True, note=SAY.per_token()
    )
    yield from _tables(data, TOKENS, SAY.position_title(), POSITIONS, each=True)
    yield from _tables(data, AGREEMENT, SAY.agreement_title(), COMPARED)
    yield from _tables(data, TOP_TOKENS, SAY.top_title(), TOP, each=True)
    yield from _tables(data, LARGEST_RATIOS, SAY.ratios_title(), LARGEST, each=True)
    yield from _tables(data, SAMPLING, SAY.samplers_title(), SAMPLED)
    yield from _tables(data, DTYPE, SAY.formats_title(), RESCORED)
    yield from _tables(data, TRUNCATION, SAY.truncation_title(), TRUNCATED)
    yield from _tables(data, COST, SAY.cost_title(), NEEDED)
    stages = [row for row in data.rows(THROUGHPUT) if row["stage"] in STAGES]
    yield from _tables(data, THROUGHPUT, SAY.speed_title(), SPEED, rows=stages)
    yield from _tables(data, PROMPTS, SAY.prompts_title(), BY_PROMPT)
    yield from _tables(data, CHECKS, SAY.checks_title(), RATIOS)


def _tables(
    data: Completions,
    schema: Schema,
    title: str,
    shown: Sequence[Shown],
    *,
    rows: Sequence[Row] | None = None,
    each: bool = False,
    is_open: bool = False,
    note: str = "",
) -> Iterator[Block]:
    """Yield one table, or one for each pair, without the columns that are empty in all its rows."""
    rows = data.rows(schema) if rows is None else rows
    several = len(data.pairs) > 1
    label = (
        (Shown("pair", cells.computed(lambda row: Cell(data.labels[row["pair"]]))),)
        if several and not each
        else ()
    )
    made: list[Block] = []
    for pair in data.pairs if each else [""]:
        kept = [row for row in rows if pair in ("", row["pair"])][:MAX_ROWS]
        used = [
            one
            for one in shown
            if any(
                row[one.name] not in ("", "ok") and row[one.name] == row[one.name] for row in kept
            )
        ]
        caption = SAY.of_pair(title, data.labels[pair]) if pair and several else title
        made += [table(caption, schema, kept, [*label, *used])] if kept else []
    if is_open:
        yield from made
    elif made:
        yield Details(title, [*([Paragraph(note)] if note else []), *made])


def skipped(data: Completions) -> dict[str, list[str]]:
    """Return the estimators that could not be measured, by the reason."""
    reasons: dict[str, list[str]] = {}
    for row in data.rows(VALUES):
        _, found, reason = row["status"].partition("skipped: ")
        if found and row["estimator"] not in (names := reasons.setdefault(reason, [])):
            names.append(row["estimator"])
    return reasons
