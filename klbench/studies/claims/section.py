"""The section of the claims study: what is commonly said, and whether it holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from klbench.report import blocks, plots
from klbench.report.formulas import formula
from klbench.report.prose import prose
from klbench.report.tables import Row
from klbench.rows import Rows, column_of, where
from klbench.studies.claims.columns import CLAIMS

SAY = prose(__package__)
TONES = {"holds": "good", "fails": "bad"}
GOOD, BAD, MIXED = "good", "bad", "mixed"
LEGEND = {
    GOOD: blocks.LegendEntry("holds", 2, "s"),
    MIXED: blocks.LegendEntry("holds only under a condition", 4, "s"),
    BAD: blocks.LegendEntry("fails", 1, "s"),
}
TOPICS = ("values", "gradients", "alignment", "distillation")


def _judged(tables: blocks.Tables) -> Rows:
    """Return the rows with their ``tone``.

    Runs that found the same share one, and others are told apart by their ``run``.
    """
    table = tables[CLAIMS.table]
    distinct = table.drop_duplicates(["claim", "verdict", "evidence"])
    disputed = set(distinct["claim"][distinct["claim"].duplicated()])
    return [
        row
        | {
            "tone": TONES.get(row["verdict"], MIXED),
            "run": str(row.get("run", "")) if row["claim"] in disputed else "",
        }
        for row in CLAIMS.rows(distinct)
    ]


def lead(tables: blocks.Tables) -> blocks.Lead:
    """Return how many hold, and those that fail."""
    found = _judged(tables)
    if not found:
        return blocks.Lead(SAY.question(), SAY.nothing(), None)
    by_tone = {tone: where(found, tone=tone) for tone in LEGEND}
    names = {row["claim"] for row in found}
    verdict = SAY.verdict(len(names), *(len(by_tone[tone]) for tone in (GOOD, BAD, MIXED)))
    return blocks.Lead(SAY.question(), verdict, _figure(found), list(_more(by_tone)))


def _more(by_tone: dict[str, Rows]) -> Iterator[blocks.Text]:
    if by_tone[BAD]:
        yield SAY.failing(by_tone[BAD][:3])
    if by_tone[MIXED]:
        yield SAY.conditional()
    disputed = list(
        dict.fromkeys(row["claim"] for rows in by_tone.values() for row in rows if row["run"])
    )
    if disputed:
        yield SAY.disputed(disputed)


def _figure(found: Sequence[Row]) -> blocks.Figure:
    counts = {
        topic: [
            (entry, sum(row["topic"] == topic and row["tone"] == tone for row in found))
            for tone, entry in LEGEND.items()
        ]
        for topic in dict.fromkeys([*TOPICS, *column_of(found, "topic")])
        if any(row["topic"] == topic for row in found)
    }
    panel = plots.shares("", counts, plots.Axis("statements"))
    return blocks.Figure(
        "claims", SAY.figure_title(), SAY.caption(), [panel], list(LEGEND.values())
    )


def build(tables: blocks.Tables) -> Sequence[blocks.Block]:
    """Return a card for each claim, by topic: those that fail first."""
    found = sorted(_judged(tables), key=lambda row: (BAD, MIXED, GOOD).index(row["tone"]))
    shown: list[blocks.Block] = []
    for topic in dict.fromkeys([*TOPICS, *column_of(found, "topic")]):
        cards = [SAY.card(row, formula(row["tex"])) for row in found if row["topic"] == topic]
        if cards:
            shown += [blocks.Heading(SAY.topic(topic)), blocks.Bullets(cards, cards=True)]
    return shown or [blocks.Paragraph(SAY.nothing(), "warning")]


TERMS = (
    "q_p",
    "r",
    "schulman",
    "both_kl",
    "chi2",
    "enumerated",
    "gradient_sign",
    "placements",
    "levels",
    "stale_mu",
    "optimum",
    "claim_symbols",
)

SECTION = blocks.Section(
    "What is said, and what holds", CLAIMS, build, lead=lead, order=45, terms=TERMS
)
