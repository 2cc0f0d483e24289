"""Tables of the gradient study: bias and noise over all pairs, names in the wild, claims beside measurements."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from klbench.report.blocks import Block, Cell, Column, Heading, Paragraph, Table
from klbench.report.cells import code
from klbench.report.combinations import DIFFERENCE, NOTHING, PLACES, Data, Row, bias_cell, in_words, noise_cell
from klbench.report.numbers import listing, short

MAX_PAIRS = 16


def _two_lines(data: Data, pair: str) -> Markup:
    """A pair's label as a heading: the series above the KL."""
    series, comma, kl = data.label(pair).rpartition(", KL ")
    return Markup("{}<br>KL {}").format(series, kl) if comma else Markup("{}").format(data.label(pair))


def _text(text: str | Markup) -> Cell:
    return Cell(text, tone="words")


def _heat(data: Data, caption: str, *, bias: bool) -> Table:
    pairs = data.pairs[:MAX_PAIRS]
    measured = "bias" if bias else "noise"
    columns = [Column("Combination", "name in klbench; the table of names says what it is")]
    columns += [Column(_two_lines(data, pair), f"{measured} on: {pair}", numeric=True) for pair in pairs]
    columns.append(Column("Where", "where the estimator stands"))
    rows = []
    for name in data.names:
        found = [data.at(name, pair) for pair in pairs]
        cells = [bias_cell(row) if bias else noise_cell(math.nan if row is None else row.noise) for row in found]
        placement = data.of(name)[0].placement
        rows.append([Cell(code(name), tone="name"), *cells, Cell(PLACES.get(placement, placement))])
    return Table(caption, columns, rows)


def heat_maps(data: Data) -> list[Block]:
    """Bias and noise, a column a pair."""
    cut = f" The first {MAX_PAIRS} of {len(data.pairs)} pairs." if len(data.pairs) > MAX_PAIRS else ""
    sampled = " ≈ 0: sampled, and within five standard errors of it." if any(row.sampled for row in data.rows) else ""
    return [
        Paragraph(
            "How far is the mean gradient from the gradient of KL(q‖p)? The distance is in per cent of the exact gradient's "
            "length: at 0 the combination is exact, at 100 % it is as wrong as no gradient at all. The deeper the colour, the "
            f"worse.{sampled}{cut}"
        ),
        _heat(data, "Bias of the mean gradient", bias=True),
        Paragraph(
            "How far does the gradient of one sample stray from that mean? The standard deviation, over all parameters "
            "together, in units of the exact gradient's length: at 10, a batch of 100 samples has as much noise as signal. "
            "Little noise is "
            f"worth nothing where the table above shows a large bias.{cut}"
        ),
        _heat(data, "Noise of one sample's gradient", bias=False),
    ]


def measured_target(data: Data, name: str) -> str:
    """Of which function the mean is the gradient, on every pair, or where it is."""
    shown = {NOTHING: "nothing (mean 0)", DIFFERENCE: "KL(q‖p) − KL(p‖q)"}
    verdict = data.verdicts[name]
    if verdict:
        return shown.get(verdict, verdict)
    somewhere: dict[str, list[str]] = {}
    for row in data.of(name):
        for target in sorted(row.matches if not row.sampled else ()):  # a noisy one may match by accident
            somewhere.setdefault(target, []).append(data.series[row.pair] or data.label(row.pair))
    if not somewhere:
        return "no KL"
    parts = [f"{shown.get(t, t)} on {listing(list(dict.fromkeys(where)))}" for t, where in somewhere.items()]
    return f"{'; '.join(parts)}; elsewhere no KL"


def in_the_wild(data: Data) -> list[Block]:
    """What trainers call it, and what it is."""
    named = [name for name in data.names if data.known.get(name, {}).get("used_by")]
    if not named:
        return []
    ends = data.ends
    said = "; ".join(data.label(pair) for pair in ends)
    columns = [
        Column("Combination", "name in klbench"),
        Column("In trainers", "what trainers and papers call it, as far as is known"),
        Column("What it is", "what is computed, in words"),
        Column("Its mean is the gradient of", "measured, over all pairs of this page"),
        *(Column(Markup("Off by<br>{}").format(_tail(data, pair)), f"bias on {pair}", numeric=True) for pair in ends),
        Column(Markup("Noise<br>{}").format(_tail(data, ends[-1])), f"sd of one sample on {ends[-1]}", numeric=True),
        Column(
            Markup("With reward<br>{}").format(_tail(data, ends[-1])),
            f"the same of reward and penalty together, at the optimum, on {ends[-1]}", numeric=True,
        ),
        Column("Also called", "other names that klbench understands"),
    ]  # fmt: skip
    rows = []
    for name in named:
        known, found = data.known[name], [data.at(name, pair) for pair in ends]
        last = found[-1]
        rows.append(
            [
                Cell(code(name), tone="name"), _text(known["used_by"]), _text(in_words(data.of(name)[0])),
                _text(measured_target(data, name)),
                *map(bias_cell, found), noise_cell(math.nan if last is None else last.noise),
                noise_cell(math.nan if last is None else last.total), _text(known.get("aliases", "")),
            ]
        )  # fmt: skip
    where = "near the reference and far from it: " if len(ends) > 1 else ""
    return [
        Heading("Names in the wild"),
        Paragraph(
            "Trainers have options for this, with names of their own. What each one computes, and what its mean gradient was "
            f"found to be; with its bias and its noise, in units of the exact gradient ({where}{said})."
        ),
        Table("Names in the wild", columns, rows),
    ]


def _tail(data: Data, pair: str) -> str:
    """``KL 2``, or nothing where it is not known."""
    return f"KL {short(data.kl[pair], 2)}" if math.isfinite(data.kl[pair]) else ""


def _claimed(data: Data, rows: Sequence[Row]) -> str:
    """What is claimed, and on which series where claims differ."""
    claims: dict[str, list[str]] = {}
    for row in rows:
        claim = row.claim.removeprefix("grad ").replace(" - grad ", " − ")
        claims.setdefault("nothing (mean 0)" if claim == NOTHING else claim or "makes no claim", []).append(
            data.series[row.pair] or data.label(row.pair)
        )
    if len(claims) == 1:
        return next(iter(claims))
    return "; ".join(f"{claim} ({', '.join(dict.fromkeys(where))})" for claim, where in claims.items())


def claims(data: Data) -> Table:
    """One row a combination: what it claims, and on how many pairs the measurement agrees."""
    columns = [
        Column("Combination", "name in klbench"),
        Column("Claims to be the gradient of", "what its definition says; biased: of no KL"),
        Column("Agrees on", "pairs on which the measured mean is what is claimed; a claim of bias is never refuted"),
        Column("Measured", "of which KL the mean gradient was found to be the gradient"),
        Column("Found", "by enumeration or closed form (exact), or from samples (within five standard errors)"),
        Column("Source", "where the claim, or the reason for it, is from"),
    ]
    rows = []
    for name in data.names:
        found = data.of(name)
        agreeing = [row for row in found if row.status != "claim broken"]
        share = len(agreeing) / len(found)
        sampled = sum(row.sampled for row in found)
        how = "exact" if not sampled else "from samples" if sampled == len(found) else f"exact, {sampled} from samples"
        rows.append(
            [
                Cell(code(name), tone="name"), _text(_claimed(data, found)),
                Cell(f"{len(agreeing)} of {len(found)}", share, "good" if share == 1 else "bad"),
                _text(measured_target(data, name)), Cell(how), _text(data.known.get(name, {}).get("source", "")),
            ]
        )  # fmt: skip
    return Table("Claimed beside measured", columns, rows)
