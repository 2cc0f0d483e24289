"""The section of the study of completions.

Estimators per token and per completion, positions, tokens, formats, cost.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from klbench.report.blocks import Block, Lead, Paragraph, Section, Tables, Text
from klbench.report.prose import prose
from klbench.rows import where
from klbench.studies.lm import section_figures, section_tables
from klbench.studies.lm.columns import CHECKS, PAIRS, PROMPTS, TOKENS
from klbench.studies.lm.section_data import Completions, finite, spread

SAY = prose(__package__)
MOST_SENTENCES, MOST_NAMED = 3, 4
TERMS = (
    "q_p",
    "r",
    "schulman",
    "control_variates",
    "clamped",
    "completion",
    "levels_lm",
    "rao_blackwell",
    "sampler",
    "interval_lm",
    "k_hat",
    "nat",
    "dtypes",
)


def lead(tables: Tables) -> Lead:
    """Return the question, what to take, and the picture that shows it."""
    data = Completions("", tables)
    question = SAY.question_recorded() if data.recorded else SAY.question_models()
    if not data.pairs or not data.values:
        return Lead(question, SAY.nothing(), None)
    figure = (
        section_figures.ways(data)
        if data.recorded
        else section_figures.errors(data) or section_figures.ways(data)
    )
    return Lead(question, _verdict(data), figure, list(_more(data))[:MOST_SENTENCES])


def _verdict(data: Completions) -> Text:
    """Return the sentence that answers the question.

    It recommends nothing on completions that fail their own checks.
    """
    if len(data.unsound) == len(data.pairs):
        return SAY.nothing_sound(list(data.agreement.values()))
    if data.recorded:
        sound = [pair for pair in data.pairs if data.labels[pair] not in data.unsound]
        if len(data.pairs) == 1:
            return SAY.recorded(
                data.at(sound[0], "rao_blackwell"),
                data.agreement[sound[0]],
                data.at(sound[0], "k3", "token"),
            )
        return SAY.several(
            [data.agreement[pair] | {"label": data.labels[pair]} for pair in sound[:MOST_NAMED]]
        )
    best = [
        row | {"label": data.labels[pair]} for pair, row in data.verdicts.items() if row["nearest"]
    ]
    return _savings(data) or (SAY.nearest(best) if best else SAY.no_truth())


def _savings(data: Completions) -> Text:
    """Return how many completions the exact KL and k3 save; an empty text if it is unknown."""
    exact, k3 = (data.saving(name) for name in ("exact_saving", "k3_saving"))
    if not exact and not k3:
        return ""
    unknown = [
        data.labels[row["pair"]]
        for row in where(data.verdicts.values(), sound=True, ratios="cannot tell")
        if not data.about[row["pair"]]["off_policy"]
    ]
    return SAY.savings(spread(exact) if exact else (), spread(k3) if k3 else (), unknown)


def _more(data: Completions) -> Iterator[Text]:
    """Yield what a reader must not miss, each on one thing, the most important first."""
    if 0 < len(data.unsound) < len(data.pairs):
        yield SAY.unsound(data.unsound)
    if data.recorded and len(data.pairs) == 1:
        yield SAY.difference(data.agreement[data.pairs[0]])
    if data.recorded and (savings := _savings(data)):
        yield savings
    whole = [row for row in data.verdicts.values() if row["whole_k3_status"]]
    heavy = where(whole, whole_k3_status="heavy tail")
    if heavy:
        yield SAY.whole_log_ratio(len(heavy), len(whole))
    unknown = [pair for pair in data.pairs if not finite(data.about[pair]["kl_qp"])]
    if unknown:
        yield SAY.without_exact(len(unknown) == len(data.pairs))
    elif others := [
        row
        for row in data.verdicts.values()
        if row["nearest"] and data.about[row["pair"]]["off_policy"]
    ]:
        yield SAY.other_sampler(others[0], data.labels[others[0]["pair"]], len(data.pairs))


def warnings(data: Completions) -> Iterator[Block]:
    """Yield what speaks against the completions, or cannot be told from them."""
    for pair in data.pairs:
        verdict, label = data.verdicts[pair], data.labels[pair]
        if verdict["ratios"] == "fails":
            failed = where(data.rows(CHECKS), pair=pair, verdict="fails")
            yield Paragraph(SAY.ratio_fails(label, failed), "warning")
        elif label in data.unsound:
            yield Paragraph(SAY.k1_off(label, data.at(pair, "k1"), verdict["k1_z"]), "warning")
    doubtful = [
        data.labels[pair] for pair in data.pairs if data.verdicts[pair]["ratios"] == "cannot tell"
    ]
    if doubtful:
        yield Paragraph(SAY.cannot_tell(doubtful), "note")
    heavy = dict.fromkeys(
        row["estimator"]
        for row in data.values
        if row["status"] not in ("ok", "too few completions")
    )
    if heavy:
        yield Paragraph(SAY.heavy_tails(list(heavy)), "warning")
    for pair in data.pairs:
        about = data.about[pair]
        if about["above_zero"] > 0:
            yield Paragraph(
                SAY.above_zero(data.labels[pair], about["above_zero"], about["tokens"]), "note"
            )
        if about["unread"]:
            yield Paragraph(SAY.unread(data.labels[pair], about["unread"]), "note")
    rows = where(data.rows(PROMPTS), what="exact KL") or where(data.rows(PROMPTS), what="k1")
    if rows:
        answers = spread([row["completions"] / row["prompts"] for row in rows])
        factors = [spread([row[name] for row in rows]) for name in ("same_over_se", "new_over_se")]
        yield Paragraph(
            SAY.prompts(
                spread([row["prompts"] for row in rows], 6), answers, rows[0]["what"], *factors
            ),
            "note",
        )


def build(tables: Tables) -> Sequence[Block]:
    """Return warnings, figures and tables."""
    data = Completions("", tables)
    if not data.pairs or not data.values:
        return []
    figures = [
        *(() if data.recorded else (section_figures.ways,) if len(data.pairs) == 1 else ()),
        section_figures.bias,
        section_figures.noise,
        section_figures.agreement,
        section_figures.by_position,
        section_figures.top_tokens,
        section_figures.samplers,
        section_figures.formats,
        section_figures.truncation,
    ]
    drawn = [figure for make in figures if (figure := make(data)) is not None]
    return [
        Paragraph(SAY.measured(data.rows(PAIRS))),
        *warnings(data),
        *drawn,
        *section_tables.blocks(data),
    ]


SECTION = Section("Token by token", TOKENS, build, lead=lead, order=5, terms=TERMS)
