"""The section of the DPO study: how near to the exact optimum ranked pairs lead."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from klbench.report import blocks, cells
from klbench.report.blocks import Block, Cell, Lead, Section, Tables, Text
from klbench.report.tables import Row, select, table
from klbench.report.tables import tables as tables_of
from klbench.rows import column_of, grouped, rising, where
from klbench.studies.dpo import section_figures
from klbench.studies.dpo.columns import DPO_FINAL, DPO_OPTIMA, DPO_RATES, DPO_SEEN, KTO_POINTS
from klbench.studies.dpo.section_data import SAY, STANDARD, Preferred, load, symbol


def lead(tables: Tables) -> Lead:
    """Return how many pairs are enough, and the picture of the distance from the optimum by
    their number.
    """
    runs = [run for run in load(tables) if run.of(STANDARD)]
    if not runs:
        return Lead(SAY.question(1), SAY.nothing(), None)
    first = runs[0]
    verdict = (
        _verdict(first)
        if len(runs) == 1
        else SAY.runs([(run.label, run.of(STANDARD)[-1]) for run in runs])
    )
    more = [SAY.each(first.label, each) if first.label else each for each in _more(first)]
    return Lead(SAY.question(len(first.losses)), verdict, section_figures.distance(runs), more)


def _verdict(run: Preferred) -> Text:
    rows = run.of(STANDARD)
    for rate in where(run.rows(DPO_RATES), arm=STANDARD)[:1]:
        for row in where(rows, pairs=rate["enough_pairs"]):
            return SAY.enough(row, rows[-1], run.start)
    return SAY.ends(rows[0], rows[-1], run.start)


def _more(run: Preferred) -> Iterator[Text]:
    placed = grouped(rising(where(run.final, place="nearest"), "pairs"), "arm")
    nearest = {name: column_of(rows, "pairs") for name, rows in placed.items()}
    if len(run.losses) > 1 and nearest:
        yield SAY.nearest(nearest)
    first = run.of(STANDARD)[0]
    if math.isfinite(first["pairs"]):
        yield SAY.overfit(first)
    if points := run.rows(KTO_POINTS):
        yield SAY.point(points[-1])
    yield SAY.setting(first, len(run.losses))


def _pairs(row: Row, name: str) -> Cell:
    return Cell(SAY.size(row[name]), row[name])


FINAL = select(
    "arm:name pairs last last_difference place best:number best_step:short "
    "stopped:number kl_to_own reward kl reward_slope population_accuracy:percent",
    pairs=_pairs,
)
OPTIMA = select(
    "arm:name divergence residual:number1 own_kl_to_optimum own_kl own_reward "
    "own_slope:number reached_kl_to_own",
    divergence=cells.computed(lambda row: Cell(symbol(row["divergence"]))),
)
SEEN = select(
    "pairs estimator rel_error outcome rel_rmse:number2 rel_bias:number2 below:percent",
    pairs=_pairs,
    estimator=cells.computed(lambda row: Cell(SAY.estimate(row))),
)
POINTS = select("pairs step kl:number point:number mismatched:number bias", pairs=_pairs)


def build(tables: Tables) -> Sequence[Block]:
    """Return what diverged, figures and tables of each run."""
    found: list[Block] = []
    for run in load(tables):
        found += [blocks.Heading(run.label)] if run.label else []
        found += [blocks.Paragraph(SAY.diverged(run.diverged), "warning")] if run.diverged else []
        found += [
            *section_figures.figures(run),
            table("After training", DPO_FINAL, run.final, FINAL),
        ]
        own = "Each loss's own optimum, exact"
        found += tables_of(own, DPO_OPTIMA, [*run.optima.values()], OPTIMA)
        if seen := run.rows(DPO_SEEN):
            estimates = table("Estimates of standard DPO's KL(q‖p)", DPO_SEEN, seen, SEEN)
            found.append(blocks.Details(SAY.estimates_title(), [estimates]))
        if points := run.rows(KTO_POINTS):
            references = table("Reference points", KTO_POINTS, points, POINTS)
            caption = blocks.Paragraph(SAY.points_caption())
            found.append(blocks.Details(SAY.points_title(), [caption, references]))
    return found


TERMS = (
    "q_p",
    "r",
    "schulman",
    "own_optimum",
    "pair",
    "implicit_reward",
    "f_dpo",
    "label_smoothing",
    "other_losses",
    "weighted_k1",
)

SECTION = Section("From ranked pairs", DPO_FINAL, build, lead=lead, order=12, terms=TERMS)
