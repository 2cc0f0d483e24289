"""The section of the claims study: what is commonly said, and whether it holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup

from klbench.report.blocks import Block, Bullets, Details, Heading, Paragraph, Section, Tables
from klbench.report.formulas import formula
from klbench.report.numbers import listing
from klbench.studies.claims.columns import CLAIMS

if TYPE_CHECKING:
    import pandas as pd

KEYS = ("claim", "statement", "verdict", "evidence", "source", "tex", "topic")
TONES = {"holds": "good", "fails": "bad"}
TOPICS = {
    "values": "What the estimators estimate, and how noisily",
    "gradients": "What they do as a loss and in the reward",
    "alignment": "The objective, DPO and Bradley-Terry",
}


@dataclass(frozen=True)
class Judged:
    """A claim and its verdict, as the table has them; ``run`` is set where several runs disagree."""

    name: str
    statement: str
    verdict: str
    evidence: str
    source: str
    tex: str
    topic: str
    run: str = ""

    @property
    def tone(self) -> str:
        """``good``, ``bad`` or ``mixed``."""
        return TONES.get(self.verdict, "mixed")

    @property
    def badge(self) -> Markup:
        """The verdict in its colour, and in words that say the same."""
        return Markup('<span class="verdict {}">{}</span>').format(self.tone, self.verdict[:1].upper() + self.verdict[1:])

    @property
    def card(self) -> Markup:
        """All that is known of it."""
        said = f"Said by: {self.source}." + (f" Run: {self.run}." if self.run else "")
        parts = [
            Markup("<b>{}</b>").format(self.statement),
            formula(self.tex),
            self.badge,
            Markup("{}").format(self.evidence),
            Markup("<small>{} <code>{}</code></small>").format(said, self.name),
        ]
        return Markup("").join(Markup("<p>{}</p>").format(part) for part in parts if part)


def judged(table: pd.DataFrame) -> list[Judged]:
    """The rows of the table; runs that found the same share one."""
    distinct = table.drop_duplicates(["claim", "verdict", "evidence"])
    disagreeing = set(distinct["claim"][distinct["claim"].duplicated()])
    found = []
    for row in distinct.to_dict("records"):
        run = str(row["run"]) if "run" in row and row["claim"] in disagreeing else ""
        name, statement, verdict, evidence, source, tex, topic = (str(row[key]) for key in KEYS)
        found.append(Judged(name, statement, verdict, evidence, source, tex, topic, run))
    return found


def _counted(n: int, one: str, many: str) -> str:
    return f"{n} {one if n == 1 else many}"


def answer(tables: Tables) -> Sequence[Block]:
    """How many hold, those that fail, and those that need a condition."""
    found = judged(tables["claims"])
    if not found:
        return [Paragraph("No claim was checked.", "warning")]
    good, bad, mixed = ([each for each in found if each.tone == tone] for tone in ("good", "bad", "mixed"))
    counts = [
        _counted(len(group), *words)
        for group, words in (
            (good, ("holds", "hold")),
            (bad, ("fails", "fail")),
            (mixed, ("holds only under a condition", "hold only under a condition")),
        )
        if group
    ]
    what = _counted(len({each.name for each in found}), "thing that is said", "things that are said")
    blocks: list[Block] = [Paragraph(f"Of {what} about KL estimators in RLHF, {listing(counts)}.", "lead")]
    disputed = list(dict.fromkeys(each.name for each in found if each.run))
    if disputed:
        said = f"The runs differ about {listing(disputed)}: each of their findings is counted, and shown with its run."
        blocks.append(Paragraph(said, "note"))
    if bad:
        blocks.append(Bullets([Markup("{}: {}").format(each.badge, each.statement) for each in bad]))
    if mixed:
        items = [Markup("{} {}.").format(each.statement, each.badge) for each in mixed]
        folded = "The one that holds only under a condition" if len(mixed) == 1 else f"The {len(mixed)} that need a condition"
        blocks.append(Details(folded, [Bullets(items)]))
    return blocks


def build(tables: Tables) -> Sequence[Block]:
    """A card for each claim, by topic."""
    found = judged(tables["claims"])
    blocks: list[Block] = []
    for topic in dict.fromkeys([*TOPICS, *(each.topic for each in found)]):
        cards = [each.card for each in found if each.topic == topic]
        if cards:
            blocks += [Heading(TOPICS.get(topic, topic)), Bullets(cards, cards=True)]
    return blocks


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

SECTION = Section("What is said, and what holds", CLAIMS, build, answer, order=45, terms=TERMS)
