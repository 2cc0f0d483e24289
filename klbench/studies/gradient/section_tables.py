"""Tables of the gradient study.

Settings of trainers, bias and noise over all pairs, claims beside measurements.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from klbench.report import cells
from klbench.report.blocks import Block, Cell, Column, Details, Heading, Paragraph, Table
from klbench.report.combinations import SAY as WORDS
from klbench.report.combinations import (
    bias_cell,
    in_words,
    joined,
    name_cell,
    named,
    noise_cell,
    share,
    span,
)
from klbench.report.prose import prose
from klbench.report.tables import Row, Shown, select, table
from klbench.rows import where
from klbench.studies.gradient.columns import GRADIENTS, OPTIONS, VERDICTS
from klbench.studies.gradient.section_data import Gradients

MAX_PAIRS = 16
SAY = prose(__package__)


def target_cell(run: Gradients, row: Row) -> Cell:
    """Return the divergence whose gradient a mean is, on every pair, or where it is."""
    return Cell(
        SAY.target(row["verdict"], row["target"], run.right_on(row["combination"])), tone="words"
    )


def _off_cell(row: Row) -> Cell:
    far = 0.0 if row["verdict"] == "right" else row["rel_bias_far"]
    text = share(0.0) if not far else span(share(row["rel_bias_near"]), share(far))
    return cells.bar(far if far == far else 0.0, text, far)


def _noise(row: Row, name: str) -> Cell:
    return noise_cell(row[name])


def _instead(row: Row) -> Cell:
    if not row["instead_combination"]:
        return Cell("")
    return Cell(SAY.instead(row["instead"], row["instead_combination"]), tone="words")


def what_to_set(run: Gradients) -> list[Block]:
    """Return the settings of trainers by their verdict; the right ones are folded."""
    wrong = [row for row in run.options if row["verdict"] != "right"]
    right = where(run.options, verdict="right")
    target, off = cells.computed(lambda row: target_cell(run, row)), cells.computed(_off_cell)
    setting, own = select("option:words combination")
    noises = select("rel_std_far total_rel_std_far", rel_std_far=_noise, total_rel_std_far=_noise)
    blocks: list[Block] = [
        Heading(SAY.settings_heading()),
        Paragraph(SAY.settings_text(run.named_ends[0])),
    ]
    if wrong:
        shown = (
            setting,
            *select("target", target=target),
            Shown("rel_bias_far", off, SAY.off_heading()),
            *select("instead", instead=cells.computed(_instead)),
            own,
        )
        blocks.append(table(SAY.wrong_settings(len(wrong)), OPTIONS, wrong, shown))
    if right:
        drawn = table(SAY.right_settings(len(right)), OPTIONS, right, (setting, *noises, own))
        blocks.append(Details(SAY.right_settings(len(right)), [drawn]))
    return blocks if run.options else []


def _two_lines(run: Gradients, pair: str) -> Markup:
    """Return a pair's label as a heading: the series above the KL."""
    series, comma, kl = run.pair_label(pair).rpartition(", KL ")
    return (
        Markup("{}<br>KL {}").format(series, kl)
        if comma
        else Markup("{}").format(run.pair_label(pair))
    )


def _heat(run: Gradients, caption: str, rows: Sequence[Row], *, bias: bool) -> Table:
    pairs = list(run.pairs)[:MAX_PAIRS]
    meaning = GRADIENTS["rel_bias" if bias else "rel_std"].meaning
    columns = [Column("Combination", VERDICTS["combination"].meaning)]
    columns += [Column(_two_lines(run, pair), f"{meaning}: {pair}", numeric=True) for pair in pairs]
    columns.append(Column("Where", VERDICTS["placement"].meaning))
    lines = []
    for row, *others in joined(rows).values():
        found = [run.at.get((row["combination"], pair)) for pair in pairs]
        measured = [
            bias_cell(each) if bias else noise_cell(each["rel_std"] if each else math.nan)
            for each in found
        ]
        places = dict.fromkeys(WORDS.place(each["placement"]) for each in (row, *others))
        names = Cell(cells.codes([*map(named, [row, *others])], Markup("<br>")), tone="name")
        lines.append([names, *measured, Cell(Markup(", ").join(places))])
    return Table(caption, columns, lines)


def heat_maps(run: Gradients) -> list[Block]:
    """Return bias and noise, a column a pair; what is right everywhere has no bias to show."""
    wrong = [row for row in run.verdicts if row["verdict"] != "right"]
    cut = max(0, len(run.pairs) - MAX_PAIRS)
    sampled = any(row["method"] == "sampling" for row in run.measured)
    blocks: list[Block] = []
    if wrong:
        blocks += [
            Paragraph(SAY.bias_text(sampled, cut)),
            _heat(run, SAY.bias_title(), wrong, bias=True),
        ]
    noise: list[Block] = [
        Paragraph(SAY.noise_text(cut)),
        _heat(run, SAY.noise_of_one(), run.right + wrong, bias=False),
    ]
    return [*blocks, Details(SAY.noise_of_one(), noise)]


def pairs(run: Gradients) -> Table:
    """Return what the labels of the pairs stand for."""
    shown = (
        Shown(
            "series", cells.computed(lambda row: Cell(run.pair_label(row["pair"]))), "On this page"
        ),
        *select("pair:words tokens kl_qp:short kl_pq:short"),
    )
    return table(SAY.pairs_title(), GRADIENTS, list(run.pairs.values()), shown)


def _claimed(run: Gradients, combination: str) -> Markup:
    """Return what is claimed, and on which series where claims differ."""
    claims: dict[str, list[str]] = {}
    for row in run.measured:
        if row["combination"] == combination:
            claims.setdefault(row["claim"].replace("grad ", ""), []).append(
                row["series"] or run.pair_label(row["pair"])
            )
    return Markup(
        SAY.claimed({claim: list(dict.fromkeys(where)) for claim, where in claims.items()})
    )


def claims(run: Gradients) -> Table:
    """Return each combination in words.

    What it claims, and on how many pairs the measurement agrees.
    """

    def agrees(row: Row) -> Cell:
        part = row["agreeing_pairs"] / row["pairs"]
        return Cell(
            SAY.of(row["agreeing_pairs"], row["pairs"]), part, "good" if part == 1 else "bad"
        )

    def known(name: str) -> cells.Show:
        return lambda row, _: Cell(
            run.known[row["combination"]][name] if row["combination"] in run.known else "",
            tone="words",
        )

    in_short = cells.computed(
        lambda row: Cell(in_words(run.known.get(row["combination"], row)), tone="words")
    )
    claimed = cells.computed(lambda row: Cell(_claimed(run, row["combination"]), tone="words"))
    shown = (
        *select("combination", combination=name_cell),
        Shown("placement", in_short, "What it is"),
        Shown("target", claimed, GRADIENTS["claim"].heading, GRADIENTS["claim"].meaning),
        *select("agreeing_pairs", agreeing_pairs=cells.computed(agrees)),
        Shown("target", cells.computed(lambda row: target_cell(run, row)), "Measured"),
        Shown("typed", known("aliases"), "Also called", "names in other code"),
        Shown("same_as", known("source"), "Source", "where it is described"),
    )
    return table(SAY.claims_title(), VERDICTS, run.verdicts, shown)
