"""The section of the training study: what each estimator, in its place, makes of a policy."""

from __future__ import annotations

import math
from collections.abc import Sequence

from klbench.report import terms
from klbench.report.blocks import Block, Heading, Lead, Paragraph, Section, Tables
from klbench.report.prose import prose
from klbench.report.tables import Row
from klbench.rows import where
from klbench.studies.ppo import section_figures, section_tables
from klbench.studies.ppo.columns import FINAL, NONE
from klbench.studies.ppo.section_data import Trained, load

SAY = prose(__package__)
MOST_NAMED = 6
"""So many replicas that diverged are named."""
CHANGED = 0.02
"""A weight in effect this much off, as a share, is worth telling."""


def lead(tables: Tables) -> Lead:
    """Return the question, the verdict and the figure that the page opens with."""
    runs = load(tables)
    first = runs[0]
    question = str(SAY.question(first.algorithm))
    figure = section_figures.opening(runs)
    if len(runs) > 1:
        return Lead(
            question,
            SAY.several([(each.label, each.final[0]) for each in runs]),
            figure,
            [SAY.regret()],
        )
    more = [
        SAY.regret() + " " + SAY.setting(first.algorithm, first.beta, first.updates, first.seeds)
    ]
    if arrived := where(first.points, arrived="yes"):
        more.append(SAY.floors(arrived))
    if worse := where(first.final, start_outcome="worse than not training"):
        more.append(SAY.worse(worse))
    return Lead(question, _verdict(first), figure, more)


def _verdict(trained: Trained) -> str:
    best, *others = trained.final
    if math.isnan(best["regret"]):
        return str(SAY.nothing())
    level = where(others, outcome=f"not told from {trained.reference}")
    behind = [row for row in others if row["difference_low"] > 0]
    said: str = SAY.verdict(best, trained.reference, level, len(behind), len(others))
    return said


def build(tables: Tables) -> Sequence[Block]:
    """Return warnings, figures and tables of each run."""
    runs = load(tables)
    blocks: list[Block] = section_tables.side_by_side(runs) if len(runs) > 1 else []
    for trained in runs:
        blocks += [Heading(trained.label)] if trained.label else []
        blocks += [Paragraph(text, "warning") for text in _warnings(trained)]
        blocks += section_figures.figures(trained)
        blocks += section_tables.tables(trained)
    return blocks


def _warnings(trained: Trained) -> list[str]:
    found, settings = trained.diverged, trained.final[0]["altered_by"]
    said = (
        [SAY.diverged(len(found), found[:MOST_NAMED], max(0, len(found) - MOST_NAMED))]
        if found
        else []
    )
    return [*said, SAY.altered(settings, trained.beta, *_in_effect(trained))] if settings else said


def _in_effect(trained: Trained) -> tuple[float | None, float | None]:
    """Return the range of what whitening, or a controller, has made of beta for penalties in the
    loss; None: about beta.
    """

    def in_loss(row: Row) -> bool:
        return row["placement"] not in ("reward", "reward_to_go", NONE) and math.isfinite(
            row["loss_beta"]
        )

    found = [float(row["loss_beta"]) for row in trained.final if in_loss(row)]
    changed = any(abs(each / trained.beta - 1.0) >= CHANGED for each in found)
    return (min(found), max(found)) if changed else (None, None)


TERMS = (
    "q_p",
    "r",
    "schulman",
    *terms.GRADIENTS,
    "beta",
    "regret",
    "fixed_point",
    "seed",
    "interval_seeds",
    "algorithms",
    "clip",
)

SECTION = Section("What training makes of it", FINAL, build, lead=lead, order=10, terms=TERMS)
