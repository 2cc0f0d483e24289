"""What the throughput study found, in sentences and tables."""

from __future__ import annotations

from markupsafe import Markup

from klbench.report.blocks import Block, Bullets, Cell, Column, Paragraph, Table
from klbench.report.numbers import count, listing, number, percent
from klbench.studies.throughput.section_data import FORWARD, LIBRARIES, MILLION, Data, Setting, Timing

KNOWN = ("k1", "k2", "k3")


def code(name: str) -> Markup:
    """A name as the page writes it."""
    return Markup("<code>{}</code>").format(name)


def _millions(timing: Timing) -> str:
    return number(timing.rate / MILLION)


def _ends(ratios: dict[str, float], what: str) -> Markup:
    """``1.2 times as fast (k1) to 3.4 times (k3)``; the estimators that readers know are named if they are not the ends."""
    names = list(ratios)
    text = Markup("{} times {} ({})").format(number(ratios[names[0]], 2), what, code(names[0]))
    if len(names) > 1:
        text += Markup(" to {} times ({})").format(number(ratios[names[-1]], 2), code(names[-1]))
    inner = [Markup("{} {}").format(code(name), number(ratios[name], 2)) for name in KNOWN if name in names[1:-1]]
    return text + (Markup("; {}").format(Markup(", ").join(inner)) if inner else Markup(""))


def _fastest(data: Data, setting: Setting) -> list[Markup]:
    """Fastest and slowest, for each library and the format that it was timed in first."""
    said = []
    for kind in [kind for kind in data.kinds(setting) if kind[1] == FORWARD]:
        dtype = data.dtypes(setting, kind)[0]
        found = data.of(setting, kind, dtype)
        first, last = next(iter(found.values())), list(found.values())[-1]
        head = Markup("<b>{}, {}:</b>").format(first.library, dtype)
        if first is last:
            only = Markup(" {} computes {} million terms a second.").format(code(first.estimator), _millions(first))
            said.append(head + only)
            continue
        text = head + Markup(
            " {} is fastest with {} million terms a second, {} slowest with {} million: {} times as slow, "
            "and still {} ms for {} terms."
        ).format(
            code(first.estimator),
            _millions(first),
            code(last.estimator),
            _millions(last),
            number(first.rate / last.rate, 2),
            number(1e3 * setting.samples / last.rate, 2),
            f"{setting.samples:,}",
        )
        between = [found[name] for name in KNOWN if name in found and name not in (first.estimator, last.estimator)]
        if between:
            text += Markup(" In between: {}.").format(
                Markup(", ").join(Markup("{} {}").format(code(each.estimator), _millions(each)) for each in between)
            )
        said.append(text)
    return said


def _dtypes(data: Data, setting: Setting) -> list[Markup]:
    """What a shorter format buys, forward."""
    said = []
    for kind in [kind for kind in data.kinds(setting) if kind[1] == FORWARD]:
        base, *shorter = data.dtypes(setting, kind)
        library = LIBRARIES.get(kind[0], kind[0])
        for dtype in shorter:
            ratios = data.ratios(data.of(setting, kind, dtype), data.of(setting, kind, base))
            if ratios:
                slower = sum(ratio < 1 for ratio in ratios.values())
                text = Markup("<b>{} in place of {}, on {}:</b> {}").format(dtype, base, library, _ends(ratios, "as fast"))
                if slower:
                    text += f". {slower} of {len(ratios)} are slower"
                said.append(text + ".")
    return said


def _backward(data: Data, setting: Setting) -> list[Markup]:
    """What a backward pass costs, in each format."""
    said = []
    for backend, direction in [kind for kind in data.kinds(setting) if kind[1] != FORWARD]:
        for dtype in data.dtypes(setting, (backend, direction)):
            ratios = data.ratios(data.of(setting, (backend, FORWARD), dtype), data.of(setting, (backend, direction), dtype))
            if ratios:
                text = Markup("<b>Backward, {}, {}:</b> together with it, a pass takes {}.")
                said.append(text.format(LIBRARIES.get(backend, backend), dtype, _ends(ratios, "as long as forward alone")))
    return said


def _caution(data: Data, setting: Setting) -> Markup:
    timings = [each for each in data.timings if each.setting == setting]
    spread = sorted(each.spread for each in timings)
    wide = max(timings, key=lambda each: each.spread)
    text = (
        "<b>How firm is it?</b> Of {}, the quartiles lie within {} of each other for half of the timings, {} apart for the "
        "worst ({}, {}, {}, {}). Differences of that size may be chance."
    )
    return Markup(text).format(
        count(setting.repeats, "repeat"), percent(spread[(len(spread) - 1) // 2]), percent(wide.spread), code(wide.estimator),
        wide.library, wide.direction, wide.dtype,
    )  # fmt: skip


def _card(data: Data, setting: Setting) -> Markup:
    title = Markup("<b>On {}{}</b>, {} terms a call").format(
        setting.where, f", {setting.run}" if setting.run else "", f"{setting.samples:,}"
    )
    said = [title, *_fastest(data, setting), *_dtypes(data, setting), *_backward(data, setting), _caution(data, setting)]
    return Markup("").join(Markup("<p>{}</p>").format(each) for each in said)


def answer(data: Data) -> list[Block]:
    """The question and what the table answers."""
    if not data.timings:
        return [Paragraph("Nothing was timed: the run has no row with numbers.", "warning")]
    names = {each.estimator for each in data.timings}
    libraries = listing(list(dict.fromkeys(each.library for each in data.timings)))
    these = "These runs" if any(setting.run for setting in data.settings) else "This run"
    asked = f"{these} timed {count(len(names), 'estimator')} on {libraries}: how many terms a second does each compute?"
    note = (
        "The timings are of one machine under the load that it had at the time: another machine, or the same one when busier, "
        "gives other numbers, and ratios between estimators carry over better than rates do. On a processor, each library had "
        "one thread. "
        "Given are medians; half of the repeats lie between the quartiles that the figure shows."
    )
    return [
        Paragraph(asked, "lead"),
        Paragraph(note),
        Bullets([_card(data, setting) for setting in data.settings], cards=True),
    ]


def tables(data: Data) -> list[Block]:
    """One row an estimator, a column for each library, direction and format."""
    return [_table(data, setting) for setting in data.settings]


def _table(data: Data, setting: Setting) -> Table:
    timed = [(kind, dtype) for kind in data.kinds(setting) for dtype in data.dtypes(setting, kind)]
    columns = [Column("Estimator", "name in klbench")]
    for (backend, direction), dtype in timed:
        library = LIBRARIES.get(backend, backend)
        columns.append(
            Column(
                f"{library}, {'both' if direction != FORWARD else direction}, {dtype}",
                f"million terms a second, {direction}, on {library} in {dtype}: the median of {setting.repeats} repeats, and "
                "the first and third quartile",
                numeric=True,
            )
        )
    found = {(kind, dtype): data.of(setting, kind, dtype) for kind, dtype in timed}
    rows = [
        [Cell(code(name)), *(_cell(found[each].get(name)) for each in timed)]
        for name in dict.fromkeys(each.estimator for each in data.timings if each.setting == setting)
    ]
    where = f" on {setting.where}" + (f", {setting.run}" if setting.run else "")
    return Table(f"Million terms a second{where}, {setting.samples:,} terms a call", columns, rows)


def _cell(timing: Timing | None) -> Cell:
    if timing is None:
        return Cell("–", float("nan"))
    low, high = number(timing.low / MILLION), number(timing.high / MILLION)
    return Cell(f"{_millions(timing)} ({low} to {high})", timing.rate)
