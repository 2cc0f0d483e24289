"""What the value study found, in sentences made from its tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from klbench.report.blocks import Block, Bullets, Cell, Column, Paragraph, Table
from klbench.report.numbers import Z95, count, listing, number, short, with_interval
from klbench.report.sections._values_claims import broken
from klbench.report.sections._values_data import Data, plainness

SAME = 1e-9
"""Root-mean-square errors that differ by less than this fraction are the same numbers by another name."""


def code(name: str) -> Markup:
    """A name as the page writes it."""
    return Markup("<code>{}</code>").format(name)


@dataclass(frozen=True)
class Best:
    """Of one pair and batch size: the rmse of each contender, the least of them, and who cannot be told from it."""

    pair: str
    rmse: dict[str, float]
    first: str
    level: frozenset[str]


@dataclass(frozen=True)
class Span:
    """Neighbouring pairs of a series over which one estimator has, or shares, the least rmse."""

    winner: str
    bests: Sequence[Best]


def _same(a: float, b: float) -> bool:
    return abs(a - b) <= SAME * max(abs(a), abs(b))


def best(data: Data, pair: str, batch: int, *, unbiased: bool = False) -> Best | None:
    """The least rmse among the trusted rows of the main target."""
    rows = data.ok[(data.ok["pair"] == pair) & (data.ok["batch"] == batch) & (data.ok["target"] == data.target)]
    if unbiased:
        table = data.estimators
        rows = rows[rows["estimator"].isin(table["estimator"][table["unbiased_claim"].astype(bool)])]
    rmse = {str(name): float(x) for name, x in zip(rows["estimator"], rows["rmse"], strict=True) if math.isfinite(x)}
    if not rmse:
        return None
    first = min(rmse, key=lambda name: (rmse[name], plainness(name)))
    level = set()
    for name, value in rmse.items():
        found = data.rmse_difference(pair, batch, name, first)
        if _same(value, rmse[first]) or (found is not None and abs(found[0]) <= Z95 * found[1]):
            level.add(name)
    plain = min((name for name in rmse if _same(rmse[name], rmse[first])), key=plainness)
    return Best(pair, rmse, plain, frozenset(level))


def spans(data: Data, series: str, batch: int, *, unbiased: bool = False) -> list[Span]:
    """A series cut into as few ranges of KL as have one estimator with the least rmse, or level with it, throughout."""
    bests = [found for pair in data.series[series] if (found := best(data, pair, batch, unbiased=unbiased)) is not None]
    groups: list[list[Best]] = []
    common: frozenset[str] = frozenset()
    for each in bests:
        if groups and common & each.level:
            groups[-1].append(each)
            common &= each.level
        else:
            groups.append([each])
            common = each.level
    result = []
    for group in groups:
        shared = frozenset.intersection(*(each.level for each in group))
        leads = {name: sum(_same(each.rmse[name], each.rmse[each.first]) for each in group) for name in shared}
        result.append(Span(min(shared, key=lambda name: (-leads[name], plainness(name))), group))
    return result


def runner_up(data: Data, at: Best, winner: str) -> str | None:
    """The next best that is not the same numbers by another name."""
    others = {name: x for name, x in at.rmse.items() if not _same(x, at.rmse[winner])}
    return min(others, key=lambda name: (others[name], plainness(name)), default=None)


def _where(data: Data, series: str, span: Span, total: int) -> Markup:
    kls = [data.kl[each.pair] for each in span.bests]
    known = [data.kl[pair] for pair in data.series[series] if not math.isnan(data.kl[pair])]
    if not all(map(math.isfinite, kls)) or len(set(known)) < len(known):
        if len(span.bests) == total > 1:
            return Markup("on all {} pairs").format(total)
        return Markup("on {}").format(listing([each.pair for each in span.bests]))
    if total == 1:
        return Markup("")
    low, high = short(min(kls)), short(max(kls))
    if len(span.bests) == total:
        return Markup("at every KL measured ({} to {})").format(low, high)
    if len(kls) == 1:
        return Markup("at KL {}").format(low)
    if min(kls) == min(known):
        return Markup("up to KL {}").format(high)
    return Markup("from KL {} {}").format(low, "on" if max(kls) == max(known) else f"to {high}")


def _margin(data: Data, batch: int, span: Span) -> Markup:
    """How far ahead of a plain rival, on the middle pair of the range."""
    at = span.bests[(len(span.bests) - 1) // 2]
    rivals = [name for name in ("k1", "k3", "k2", "k1_weighted", "k3_weighted") if name in at.rmse]
    rivals = [name for name in rivals if not _same(at.rmse[name], at.rmse[span.winner])]
    rival = rivals[0] if rivals else runner_up(data, at, span.winner)
    if rival is None:
        return Markup("")
    found = data.rmse_difference(at.pair, batch, rival, span.winner)
    where = f"at KL {short(data.kl[at.pair])} " if len(span.bests) > 1 and math.isfinite(data.kl[at.pair]) else ""
    said = f"{where}rmse {number(at.rmse[span.winner])} against {number(at.rmse[rival])} for "
    if found is None:
        return Markup(" ({}{})").format(said, code(rival))
    if abs(found[0]) <= Z95 * found[1]:
        return Markup(" ({}{}, level within the paired 95&nbsp;% interval)").format(said, code(rival))
    direction = "less" if found[0] > 0 else "more"
    return Markup(" ({}{}, {} {})").format(said, code(rival), with_interval(abs(found[0]), found[1]), direction)


def _sentence(data: Data, series: str, batch: int) -> Markup | None:
    found = spans(data, series, batch)
    if not found:
        return None
    total = sum(len(span.bests) for span in found)

    def part(span: Span) -> Markup:
        where = _where(data, series, span, total)
        return Markup("{}{}{}").format(code(span.winner), Markup(" {}").format(where) if where else "", _margin(data, batch, span))

    text = Markup("<b>{}:</b> {}.").format(
        "One sample at a time" if batch == 1 else f"Batches of {batch:,}", Markup("; ").join(part(span) for span in found)
    )
    claimed = spans(data, series, batch, unbiased=True)
    names = [(span.winner, [each.pair for each in span.bests]) for span in found]
    if claimed and [(span.winner, [each.pair for each in span.bests]) for span in claimed] != names:
        total = sum(len(span.bests) for span in claimed)
        parts = [Markup("{} {}").format(code(span.winner), _where(data, series, span, total)) for span in claimed]
        text += Markup(" Among those that claim to be unbiased: {}.").format(Markup("; ").join(parts))
    return text


def _ends(data: Data) -> list[int]:
    return sorted({data.batches[0], data.batches[-1]})


def _series_intro(data: Data, series: str) -> Markup:
    kls = sorted(data.kl[pair] for pair in data.series[series] if math.isfinite(data.kl[pair]))
    span = "KL not known" if not kls else f"KL {short(kls[0])} nats" if kls[0] == kls[-1] else f"KL {short(kls[0])} to {short(kls[-1])} nats"
    return Markup("<b>{}</b> ({}, {})").format(series, count(len(data.series[series]), "pair"), span)


def winners(data: Data) -> list[Block]:
    """Who has the least rmse where, for one sample and for a large batch."""
    items = []
    for series in data.series:
        sentences = [said for batch in _ends(data) if (said := _sentence(data, series, batch)) is not None]
        if sentences:
            items.append(Markup("<p>{}</p>").format(_series_intro(data, series)) + Markup("").join(map(Markup("<p>{}</p>").format, sentences)))
        else:
            items.append(Markup("<p>{}: no row of it can be trusted, so none is ranked.</p>").format(_series_intro(data, series)))
    lead = Markup(
        "Which estimator of {} has the least root-mean-square error (rmse), in nats? Ranges of KL by series; estimators "
        "that give the same numbers count once, under the plainer name, and one that cannot be told from the best on the same samples "
        "shares its place."
    ).format(data.target)
    return [Paragraph(lead), Bullets(items)]


def _dominated(data: Data, name: str, batch: int) -> list[str]:
    """On-policy pairs at which an estimator's bias exceeds its noise, by rising KL."""
    rows = data.ok[(data.ok["estimator"] == name) & (data.ok["batch"] == batch) & ~data.ok["pair"].isin(data.off_policy)]
    return [str(pair) for pair in rows[rows["bias"].abs() > rows["std"]].sort_values("kl")["pair"]]


def bias_floor(data: Data) -> list[Markup]:
    """Where k2's bias, and no longer its noise, makes its error at the largest batch size."""
    batch = data.batches[-1]
    pairs = _dominated(data, "k2", batch)
    if not pairs or batch == 1:
        return []
    at = pairs[len(pairs) // 2]
    table = data.ok[(data.ok["pair"] == at) & (data.ok["batch"] == batch)].set_index("estimator")
    rival = next((name for name in ("k1", "k3") if name in table.index), None)
    beside = Markup(" against {} for {}").format(number(table.loc[rival, "rmse"]), code(rival)) if rival else ""
    return [
        Markup("In batches of {}, {} is held back by its bias and not by noise from KL {} on: at KL {} its rmse is {}{}, and more samples will not help.").format(
            f"{batch:,}", code("k2"), short(data.kl[pairs[0]]), short(data.kl[at]), number(table.loc["k2", "rmse"]), beside
        )
    ]  # fmt: skip


def _untrusted(data: Data, status: str, meaning: str) -> Markup | None:
    rows = data.measured[data.measured["status"] == status]
    if rows.empty:
        return None
    cases = rows.drop_duplicates(["pair", "estimator"])
    names = sorted(set(cases["estimator"]), key=plainness)
    shown = [code(name) for name in names[:6]] + ([Markup("{} others").format(len(names) - 6)] if len(names) > 6 else [])
    joined = Markup(", ").join(shown[:-1]) + Markup(" and ") + shown[-1] if len(shown) > 1 else shown[0]
    where = Markup(", ").join(Markup("<i>{}</i>").format(series) for series in dict.fromkeys(cases["series"]))
    return Markup("<b>{}:</b> {} of pair and estimator ({}), {}: {} in {}.").format(
        status.capitalize(), count(len(cases), "combination"), count(len(rows), "row"), meaning, joined, where
    )


def untrusted(data: Data) -> list[Block]:
    """What must not be believed, and how many rows of it there are."""
    meanings = {
        "infinite mean": "whose values have no finite mean, so that there is nothing to estimate",
        "infinite variance": "where a closed form says that no standard deviation exists; their measured noise and intervals mean nothing",
        "heavy tail": "where the measured tail is so heavy (k-hat at or beyond 0.7) that the measured noise is most likely too small",
        "non-finite values": "with values that overflowed or are no numbers",
    }
    known = [*meanings, *(s for s in data.measured["status"].unique() if s != "ok" and s not in meanings)]
    items = [said for status in known if (said := _untrusted(data, status, meanings.get(status, "set apart by the study"))) is not None]
    total, bad = len(data.measured), len(data.measured) - len(data.ok)
    if not items:
        return [Paragraph(Markup("<b>What cannot be trusted:</b> nothing was found. All {} are finite and without heavy tails.").format(count(total, "measured row")))]
    return [Paragraph(Markup("<b>What cannot be trusted:</b> {} of {}; they are left out of the ranking above and drawn hollow below.").format(
        f"{bad:,}", count(total, "measured row"))), Bullets(items)]  # fmt: skip


def answer(data: Data) -> list[Block]:
    """The question and what the tables answer."""
    if data.measured.empty:
        return [Paragraph("Nothing was measured: the run has no row with numbers.", "warning")]
    pairs, names, batches = len(data.kl), len(data.names), data.batches
    asked = Markup(
        "{} of distributions q and p in {}: {} drawn from each, {} compared on those same samples, in {}."
    ).format(
        count(pairs, "pair"), Markup("{} series").format(len(data.series)), Markup("{} samples").format(" to ".join(_sizes(data))),
        count(names, "estimator"), f"batches of {batches[0]:,} to {batches[-1]:,}" if len(batches) > 1 else f"batches of {batches[0]:,}",
    )  # fmt: skip
    blocks: list[Block] = [Paragraph(asked, "lead"), *winners(data)]
    blocks += [Paragraph(said) for said in (*bias_floor(data), *broken(data))]
    return [*blocks, *untrusted(data)]


def _sizes(data: Data) -> list[str]:
    sizes = sorted({int(n) for n in data.values["samples"]})
    return [f"{n:,}" for n in sorted({sizes[0], sizes[-1]})]


def ranking(data: Data) -> Table:
    """Every range of KL with its winner, the next best, and the difference."""
    columns = [
        Column("Series", "what the pairs have in common"),
        Column("Batch", "samples averaged into one estimate", numeric=True),
        Column("KL from", "least exact KL(q‖p) of the range, nats", numeric=True),
        Column("KL to", "greatest exact KL(q‖p) of the range, nats", numeric=True),
        Column("Least rmse", "the estimator with the least root-mean-square error there, or level with it"),
        Column("rmse", "its root-mean-square error on the middle pair of the range, nats", numeric=True),
        Column("Next", "the next best on that pair that is not the same numbers by another name"),
        Column("Behind by", "rmse of the next minus rmse of the first on the same samples, with its paired 95 % interval, nats", numeric=True),
    ]
    rows = []
    for series in data.series:
        for batch in _ends(data):
            for span in spans(data, series, batch):
                kls = [data.kl[each.pair] for each in span.bests]
                at = span.bests[(len(span.bests) - 1) // 2]
                rival = runner_up(data, at, span.winner)
                found = data.rmse_difference(at.pair, batch, rival, span.winner) if rival else None
                rows.append([
                    Cell(series), Cell(f"{batch:,}", batch), Cell(short(min(kls)), min(kls)), Cell(short(max(kls)), max(kls)), Cell(code(span.winner)),
                    Cell(number(at.rmse[span.winner]), at.rmse[span.winner]), Cell(code(rival) if rival else "–"),
                    Cell(with_interval(*found), found[0]) if found else Cell("–", math.nan),
                ])  # fmt: skip
    return Table("Least root-mean-square error, range by range", columns, rows)
