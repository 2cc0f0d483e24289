"""Tables of the study of completions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from klbench.report import cells
from klbench.report.blocks import Block, Cell, Details, Heading, Paragraph
from klbench.report.cells import Show
from klbench.report.numbers import exact, number
from klbench.report.prose import prose
from klbench.report.tables import Row, Schema, Shown, select, table
from klbench.rows import where
from klbench.studies.lm.columns import (
    AGREEMENT,
    CAUSES,
    CHECKS,
    COST,
    DTYPE,
    LARGEST_RATIOS,
    MUST_HOLD,
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


ESTIMATORS = select(
    "estimator level target truth mean rel_bias std:number frac_negative:percent "
    "khat:number2 status:flag",
    level=level,
    truth=truth,
    rel_bias=bias,
)
POSITIONS = select("position n kl_qp kl_pq k1 k3 frac_negative:percent khat:number2 share:percent")
TOKEN = select("text token", text=token_text)
TOP = (
    *TOKEN,
    *select("count share:signed_percent k1_mean:number2 kl_sum largest:number2"),
)
LARGEST = (*TOKEN, *select("largest count k1_mean:number2"))
SUMMARY = select(
    "nearest:name nearest_level nearest_rel_rmse_100:percent half_by k1_z:number2 ratios sound",
    nearest_level=level,
    ratios=verdict("holds"),
    sound=yes,
)
COMPARED = select("k1 k3 difference z:number2 verdict", verdict=verdict("agree"))
SAMPLED = select(
    "log_ratio estimator level mean kl_qp rel_bias:signed_percent kl_mup",
    log_ratio=cells.computed(
        lambda row: Cell(row["log_ratio"].replace("mu", "μ").replace("-", "−"))
    ),
    level=level,
)
RESCORED = select("dtype what estimator level mean change sd_log_ratio:number2", level=level)
TRUNCATED = select("k exact mean share:percent")
NEEDED = select(
    "estimator level completions_needed seconds_needed rel_bias:signed_percent status:flag",
    level=level,
    completions_needed=rounded,
    seconds_needed=rounded,
)
SPEED = select(
    "stage completions_per_second tokens_per_second peak_mib device kernel",
    stage=cells.computed(lambda row: Cell(STAGES[row["stage"]])),
)
BY_PROMPT = select(
    "what prompts completions mean se:number2 se_same:number2 se_new:number2 between_share:percent"
)
RATIOS = select("ratio mean z:number2 ess khat:number2 verdict", verdict=verdict("holds"))
LIKELY = select("cause score:number2 evidence:words")
HELD = select("check verdict value:plain4 message:words", verdict=verdict("holds"))


def blocks(data: Completions) -> Iterator[Block]:
    """Yield the tables: what sums a page up stays open, the rest is folded."""
    several = len(data.pairs) > 1
    yield Heading(SAY.tables_title())
    for reason, names in skipped(data).items():
        yield Paragraph(SAY.skipped(reason, names), "note")
    completion = where(data.values, per="sequence")
    if several:
        yield from _tables(data, VERDICTS, SAY.verdicts_title(), SUMMARY, is_open=True)
        yield from _tables(
            data, VALUES, SAY.completion_title(), ESTIMATORS, rows=completion, each=True
        )
    else:
        yield from _tables(
            data, VALUES, SAY.completion_title(), ESTIMATORS, rows=completion, is_open=True
        )
    token = where(data.values, per="token")
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
    yield from _tables(data, CAUSES, SAY.causes_title(), LIKELY, each=True)
    yield from _tables(data, MUST_HOLD, SAY.must_hold_title(), HELD, each=True)


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
        select("pair", pair=cells.computed(lambda row: Cell(data.labels[row["pair"]])))
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
