"""The section of the gradient study.

What each setting's and each combination's gradient really is, and how noisy.
"""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from klbench.report import terms
from klbench.report.blocks import Block, Details, Figure, Heading, Lead, Paragraph, Section, Tables
from klbench.report.combinations import amount, named, share
from klbench.report.prose import prose
from klbench.report.runs import by_run
from klbench.report.tables import Row
from klbench.studies.gradient import section_figures, section_tables
from klbench.studies.gradient.columns import GRADIENTS
from klbench.studies.gradient.section_data import Gradients

SAY = prose(__package__)


def read(tables: Tables) -> Sequence[Gradients]:
    """Return the runs in which something was measured."""
    return [run for run in by_run(Gradients, tables, GRADIENTS) if run.verdicts]


def _more(run: Gradients) -> list[Markup]:
    """Return what to set, what is called unbiased and is not, and who is quiet in training."""
    said = []
    instead = list(
        dict.fromkeys(row["instead"].partition(" (")[0] for row in run.options if row["instead"])
    )
    if instead:
        said.append(SAY.set_instead(instead))
    known = {
        row["combination"]: run.known.get(row["combination"], {}).get("called_unbiased_by", "")
        for row in run.verdicts
    }
    called = [
        row
        for row in run.verdicts
        if known[row["combination"]] and row["verdict"] != "right" and fresh(run, row)
    ]
    if called:
        off = [share(row[f"rel_bias_{end}"]) for row in called[:1] for end in ("near", "far")]
        said.append(
            SAY.called_unbiased(
                list(dict.fromkeys(known[row["combination"]] for row in called)),
                list(dict.fromkeys(off)),
            )
        )
    ranked = [row for row in run.right if row["place"] >= 1]
    if len(ranked) > 1:
        quiet = min(ranked, key=lambda row: row["rel_std_far"])
        numbers = [
            amount(row[f"{measure}_far"])
            for row in (quiet, ranked[0])
            for measure in ("rel_std", "total_rel_std")
        ]
        said.append(SAY.quiet(named(quiet), named(ranked[0]), numbers))
    return said


def fresh(run: Gradients, verdict: Row) -> bool:
    """Return whether a combination is off on samples of the policy itself."""
    rows = [run.at.get((verdict["combination"], pair)) for pair in run.pairs]
    return any(
        row is not None
        and row["staleness"] == 0
        and row["rel_bias"] > 1e-8
        and row["status"] == "ok"
        for row in rows
    )


def lead(tables: Tables) -> Lead:
    """Return the settings that are right, and how far off the others are."""
    runs = read(tables)
    if not runs:
        return Lead(str(SAY.question(False)), SAY.nothing(), None)
    run = runs[0]
    rows = [row for row in run.options if row["trainer"]] if not run.typed else []
    wrong = [row for row in rows or run.verdicts if row["verdict"] != "right"]
    biases = sorted(
        row["rel_bias_far"] for row in wrong if row["rel_bias_far"] == row["rel_bias_far"]
    )
    verdict = SAY.verdict(
        bool(rows),
        len(rows or run.verdicts),
        len(wrong),
        [share(x) for x in biases[:1] + biases[-1:]],
        run.named_ends[0],
        sum(row["verdict"] == "no gradient" for row in wrong),
        run.label,
    )
    return Lead(str(SAY.question(bool(rows))), verdict, section_figures.settings(run), _more(run))


def build(tables: Tables) -> Sequence[Block]:
    """Return what to set, noise and arrows, and the tables."""
    return [
        block
        for run in read(tables)
        for block in _run(run, first=run.label == read(tables)[0].label)
    ]


def _run(run: Gradients, *, first: bool) -> list[Block]:
    figures = [section_figures.whole_objective(run), section_figures.arrows(run)]
    opening: list[Block | Figure | None] = (
        [Paragraph(SAY.why())] if first else [Heading(run.label), section_figures.settings(run)]
    )
    return [
        *(block for block in opening if block is not None),
        *run.warnings(),
        *section_tables.what_to_set(run),
        *(figure for figure in figures if figure is not None),
        *section_tables.heat_maps(run),
        Details(SAY.claims_title(), [section_tables.claims(run)]),
        Details(SAY.pairs_title(), [section_tables.pairs(run)]),
    ]


TERMS = ("q_p", "r", "schulman", *terms.GRADIENTS, "policies_gradient")

SECTION = Section(
    "What each gradient really is", GRADIENTS, build, lead=lead, order=10, terms=TERMS
)
