"""What the value study found, in sentences made from its tables."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from klbench.report.blocks import Block, Bullets, Paragraph
from klbench.report.cells import code
from klbench.report.numbers import Z95, count, number, short, with_interval
from klbench.studies.value.section_claims import broken
from klbench.studies.value.section_data import Data, plainness
from klbench.studies.value.section_ranking import LEVEL, Span, spans, unranked, where

FEW_SAMPLES = 100
"""From here on Student's quantile, 1.98, is as good as 1.96."""
MAX_SERIES = 16
"""More are not read: the rest is in the tables."""

MEANINGS = {
    "infinite mean": "there is no finite mean to estimate",
    "infinite variance": "no standard deviation exists, so the measured noise and intervals mean nothing",
    "heavy tail": (
        "k-hat is 0.5 or more, or the known tail index 1/3 or more, or far less noise was measured than is known to be there; "
        "the measured noise may be too small, and intervals hold the truth less often than they say"
    ),
    "non-finite values": "some values overflowed or are not numbers",
}


def _rival(span: Span) -> str | None:
    """Whom to compare a winner with: the plainest estimator that readers know, if it has other numbers."""
    at = span.middle
    known = [name for name in ("k1", "k3", "k2", "k1_weighted", "k3_weighted") if name in at.rmse]
    others = sorted((name for name in at.rmse if name not in known), key=plainness)
    return next((name for name in (*known, *others) if not at.same(name, span.winner)), None)


def _margin(data: Data, batch: int, span: Span) -> Markup:
    """How far ahead of a plain rival, on the middle pair of the range."""
    at, rival = span.middle, _rival(span)
    if rival is None:
        return Markup("")
    place = f"at KL {short(data.kl[at.pair])}, " if len(span.bests) > 1 and math.isfinite(data.kl[at.pair]) else ""
    if rival in at.level:
        return Markup(" ({}level with {})").format(place, code(rival))
    text = Markup(" ({}rmse {} against {} for {}").format(
        place, number(at.rmse[span.winner]), number(at.rmse[rival]), code(rival)
    )
    found = data.error_difference(at.pair, batch, rival, span.winner)
    return text + (f", {with_interval(*found)} less)" if found is not None else ")")


def _ranges(data: Data, series: str, batch: int, found: Sequence[Span], *, margin: bool) -> Markup:
    """``k3 up to KL 0.5 (...), k1 from KL 0.98 on``; the margin stands with the longest range."""
    longest = max(range(len(found)), key=lambda i: len(found[i].bests))
    parts = []
    for i, span in enumerate(found):
        place = where(data, series, span.pairs)
        said = Markup("{} {}").format(code(span.winner), place) if place else code(span.winner)
        parts.append(said + _margin(data, batch, span) if margin and i == longest else said)
    return Markup(", ").join(parts)


def _winners(data: Data, series: str, batch: int) -> Markup | None:
    """Who has the least rmse in a series: among those that claim to be unbiased, and among all."""
    everyone, honest = spans(data, series, batch), spans(data, series, batch, unbiased=True)
    if not everyone:
        return None
    label = Markup("<b>{}:</b> ").format("One sample" if batch == 1 else f"Batches of {batch:,}")
    if not honest:
        return (
            label
            + _ranges(data, series, batch, everyone, margin=True)
            + (
                ". None of them claims to be unbiased on samples of a third distribution."
                if data.is_off_policy(series)
                else ". None of them claims to be unbiased."
            )
        )
    text = label + _ranges(data, series, batch, honest, margin=True) + "."
    if [(span.winner, span.pairs) for span in honest] != [(span.winner, span.pairs) for span in everyone]:
        text += Markup(" Counting the biased ones too: {}.").format(_ranges(data, series, batch, everyone, margin=False))
    beyond = unranked(data, [each for span in everyone for each in span.bests], batch)
    if beyond:
        said = Markup(", ").join(Markup("{} on {}").format(code(name), count(n, "pair")) for name, n in beyond.items())
        text += Markup(" Measured less, and not ranked since the tail is heavy and the exact noise unknown: {}.").format(said)
    return text


def _title(data: Data, names: Sequence[str]) -> Markup:
    each = data.series[names[0]]
    kls = sorted(data.kl[pair] for pair in each if math.isfinite(data.kl[pair]))
    span = (
        "KL not known" if not kls else f"KL {short(kls[0])}" if kls[0] == kls[-1] else f"KL {short(kls[0])} to {short(kls[-1])}"
    )
    shown = Markup("; ").join(Markup("<b>{}</b>").format(name) for name in names)
    return Markup("{} ({}{}, {})").format(shown, count(len(each), "pair"), " each" if len(names) > 1 else "", span)


def _alike(data: Data) -> list[list[str]]:
    """Series with the same winners over the same ranges, which several runs of the same pairs give: one card serves them."""
    groups: dict[object, list[str]] = {}
    for series in list(data.series)[:MAX_SERIES]:
        found = tuple(
            tuple((span.winner, where(data, series, span.pairs)) for span in spans(data, series, batch, unbiased=unbiased))
            for batch in data.ends
            for unbiased in (False, True)
        )
        kls = tuple(short(data.kl[pair]) for pair in data.series[series])
        groups.setdefault((found, kls) if data.several else series, []).append(series)
    return list(groups.values())


def _rmse_of(data: Data, series: str, name: str, batch: int) -> str:
    """``0.1 at KL 0.005, 2.8 at KL 3.92``: from one end of a series to the other."""
    rows = [(pair, data.at(pair, batch).get(name)) for pair in data.series[series]]
    found = [(pair, row["error"]) for pair, row in rows if row and math.isfinite(row["error"])]
    ends = [found[0], found[-1]] if len(found) > 1 else found
    told = len({data.kl[pair] for pair, _ in ends}) == len(ends)
    return ", ".join(f"{number(rmse)} {f'at KL {short(data.kl[pair])}' if told else f'on {pair}'}" for pair, rmse in ends)


def alone(data: Data, name: str) -> list[Block]:
    """The error of the only estimator there is: nothing to rank."""
    items = []
    for series in list(data.series)[:MAX_SERIES]:
        sizes = [("one sample" if batch == 1 else f"batches of {batch:,}", batch) for batch in data.ends]
        said = [f"{size}: {text}" for size, batch in sizes if (text := _rmse_of(data, series, name, batch))]
        text = f"Rmse, {'; '.join(said)}." if said else "No row of it can be trusted."
        items.append(Markup("<p>{}</p><p>{}</p>").format(_title(data, [series]), text))
    lead = Markup(
        "<b>How large is the error of {}, which estimates {}?</b> Error is the root-mean-square error (rmse) in nats, which "
        "joins bias and noise. No other estimator of it was measured beside it."
    ).format(code(name), data.target)
    return [Paragraph(lead), Bullets(items, cards=True)]


def winners(data: Data) -> list[Block]:
    """Who has the least rmse where, for one sample and for a large batch."""
    contenders = sorted(set(data.measured["estimator"][data.measured["target"] == data.target]))
    if len(contenders) == 1:
        return alone(data, contenders[0])
    items = []
    for names in _alike(data):
        said = [each for batch in data.ends if (each := _winners(data, names[0], batch)) is not None]
        said = said or [Markup("no row of it can be trusted, so none is ranked.")]
        said += [Markup("The same in all of these; the numbers are those of the first.")] * (len(names) > 1)
        items.append(Markup("<p>{}</p>").format(_title(data, names)) + Markup("").join(map(Markup("<p>{}</p>").format, said)))
    lead = Markup(
        "<b>Which estimator of {} has the least error?</b> Error is the root-mean-square error (rmse) in nats, which "
        "joins bias and noise. "
        "Where the exact error is known, it ranks. First come those that claim to be unbiased. Where several are within {} of "
        "the least, or the samples cannot tell them from it, one is named, an unbiased and plain one if there is any. "
        "Behind ± are 95&nbsp;% intervals of the difference."
    ).format(data.target, f"{100 * LEVEL:g} %")
    left = max(0, len(data.series) - MAX_SERIES)
    rest = [Paragraph(f"{left} more series are in the table of ranges below.", "note")] if left else []
    return [Paragraph(lead), Bullets(items, cards=True), *rest]


def _k1_or_k3(data: Data, pair: str, batch: int) -> str | None:
    rows = data.at(pair, batch)
    if not {"k1", "k3"} <= set(rows) or math.isnan(rows["k1"]["error"]):
        return None
    if math.isnan(rows["k3"]["error"]):
        return "k1"
    found = data.error_difference(pair, batch, "k1", "k3")
    if found is None:
        return None
    return "neither" if abs(found[0]) <= Z95 * found[1] else "k3" if found[0] > 0 else "k1"


def k1_or_k3(data: Data) -> list[Markup]:
    """Where k3 has less error than k1, and where it has more, for one sample of q."""
    items: dict[Markup, list[str]] = {}
    for series, pairs in list(data.series.items())[:MAX_SERIES]:
        stretches: list[tuple[str, list[str]]] = []
        for pair in pairs:
            choice = None if pair in data.off_policy else _k1_or_k3(data, pair, data.batches[0])
            if choice and stretches and stretches[-1][0] == choice:
                stretches[-1][1].append(pair)
            elif choice:
                stretches.append((choice, [pair]))
        said = [
            Markup("{} {}").format(code(c) if c != "neither" else "neither", where(data, series, kept)) for c, kept in stretches
        ]
        if said:
            items.setdefault(Markup(", ").join(said), []).append(series)
    if not items:
        return []
    size = "one sample at a time" if data.batches[0] == 1 else f"in batches of {data.batches[0]:,}"
    text = Markup("<b>{} or {}?</b> The better of the two, {}: {}. Where {} cannot be trusted, {} counts as the better one.")
    said = [
        Markup("{}: {}").format(Markup(" and ").join(map(Markup("<i>{}</i>").format, names)), each)
        for each, names in items.items()
    ]
    return [text.format(code("k1"), code("k3"), size, Markup("; ").join(said), code("k3"), code("k1"))]


def bias_floor(data: Data) -> list[Markup]:
    """Where k2's bias, and no longer its noise, makes its error at the largest batch size."""
    batch = data.batches[-1]
    rows = data.ok[(data.ok["estimator"] == "k2") & (data.ok["batch"] == batch) & ~data.ok["pair"].isin(data.off_policy)]
    pairs = [str(pair) for pair in rows[rows["bias"].abs() > rows["std"]].sort_values("kl", kind="stable")["pair"]]
    if not pairs or batch == 1:
        return []
    at = pairs[len(pairs) // 2]
    table = data.at(at, batch)
    rival = next((name for name in ("k1", "k3") if name in table and table[name]["status"] == "ok"), None)
    beside = Markup(" against {} for {}").format(number(table[rival]["rmse"]), code(rival)) if rival else ""
    text = Markup(
        "<b>More samples do not help {}:</b> in batches of {} its bias exceeds its noise {}. On {} (KL {}) its rmse is {}{}."
    )
    return [
        text.format(
            code("k2"),
            f"{batch:,}",
            "on the only pair" if len(rows) == 1 else f"on {len(pairs):,} of {count(len(rows), 'pair')}",
            at,
            short(data.kl[at]),
            number(table["k2"]["rmse"]),
            beside,
        )
    ]


def _untrusted(data: Data, status: str) -> Markup | None:
    rows = data.measured[data.measured["status"] == status]
    if rows.empty:
        return None
    cases = rows.drop_duplicates(["pair", "estimator"])
    names = sorted(set(cases["estimator"]), key=plainness)
    shown = [code(name) for name in names[:6]] + ([Markup("{} more").format(len(names) - 6)] if len(names) > 6 else [])
    places = Markup(", ").join(
        Markup("<i>{}</i> ({})").format(series, count(group["pair"].nunique(), "pair"))
        for series, group in cases.groupby("series", sort=False)
    )
    meaning = MEANINGS.get(status, "set apart by the study")
    return Markup("<b>{}</b>, {}: {}. {} in {}.").format(
        status.capitalize(), count(len(rows), "row"), meaning, Markup(", ").join(shown), places
    )


def untrusted(data: Data) -> list[Block]:
    """What must not be believed, and how many rows of it there are."""
    found = [*MEANINGS, *(status for status in data.measured["status"].unique() if status != "ok" and status not in MEANINGS)]
    items = [said for status in found if (said := _untrusted(data, status)) is not None]
    total = count(len(data.measured), "measured row")
    if not items:
        return [
            Paragraph(
                Markup("<b>What cannot be trusted?</b> Nothing was found: all {} are finite, without heavy tails.").format(
                    total
                )
            )
        ]
    text = Markup(
        "<b>What cannot be trusted?</b> {} of {} (a row is a pair, an estimator and a batch size). They are drawn hollow, and "
        "not ranked unless their exact noise is known."
    )
    return [Paragraph(text.format(f"{len(data.measured) - len(data.ok):,}", total)), Bullets(items)]


def _asked(data: Data) -> Markup:
    sizes = sorted({int(n) for n in data.values["samples"]})
    return Markup(
        "{} measured {} on {} of distributions q and p{}: {} samples of each pair, the same for all, averaged in batches of {}."
    ).format(
        "These runs" if data.several else "This run",
        count(len(data.names), "estimator"),
        count(len(data.kl), "pair"),
        f" in {len(data.series)} series" if len(data.series) > 1 else "",
        " to ".join(f"{n:,}" for n in sorted({sizes[0], sizes[-1]})),
        " to ".join(f"{n:,}" for n in data.ends),
    ) + (" The errors of batches larger than that follow from those of single samples." if sizes[0] < data.ends[-1] else "")


def answer(data: Data) -> list[Block]:
    """The question and what the tables answer."""
    if data.measured.empty:
        return [Paragraph("Nothing was measured: the run has no row with numbers.", "warning")]
    said = (*k1_or_k3(data), *bias_floor(data), *broken(data))
    few = data.measured["samples"].min() < FEW_SAMPLES
    said_of_few = "With so few samples intervals are too narrow: the errors are taken for normal."
    narrow = [Paragraph(said_of_few, "warning")] if few else []
    return [Paragraph(_asked(data), "lead"), *narrow, *winners(data), *map(Paragraph, said), *untrusted(data)]
