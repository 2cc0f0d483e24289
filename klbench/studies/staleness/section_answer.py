"""What the staleness study found, in sentences and tables made from its table."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from klbench.report.blocks import Block, Bullets, Cell, Column, Heading, Paragraph, Table
from klbench.report.cells import code
from klbench.report.combinations import Data, Group, amount, bias_cell, lines, noise_cell, span_of, warnings
from klbench.report.numbers import number, percent_or_times, short
from klbench.studies.staleness.section_data import ALWAYS, FRESH, NEVER, Lagging, beaten_up_to, benchmarks, by_pair

MOST = 5
"""Lines of a card."""

WHY = (
    "In practice the samples come from an earlier state of the policy, μ: several updates use one batch, or the generation "
    "engine computes slightly other probabilities than the trainer. The remedy is to weight each sample with the ratio q/μ, "
    "of the token, of all tokens up to it, or of the whole sequence, cut off or not. Which of these give the gradient of "
    "KL(q‖p) all the same, and what does it cost?"
)


def _noises(lagging: Lagging, group: Group) -> str:
    rows = lagging.curve(group.leader)
    return span_of([amount(rows[0].noise), amount(rows[-1].noise)])


def _biases(lagging: Lagging, group: Group) -> str:
    rows = lagging.curve(group.leader)
    return span_of([rows[0].off, rows[-1].off])


def _exact(lagging: Lagging) -> Markup:
    groups = sorted(lagging.groups(ALWAYS), key=lambda group: lagging.last(group.leader).noise)
    if not groups:
        return Markup("<p><b>None stays exact at every lag.</b></p>")
    text = Markup("<p><b>Exact at every lag</b></p><p>The price is noise, in units of the exact gradient's length:</p>")
    return text + lines(groups, [_noises(lagging, group) for group in groups])


def _fresh(lagging: Lagging) -> Markup | None:
    groups = sorted(lagging.groups(FRESH), key=lambda group: lagging.last(group.leader).bias)
    if not groups:
        return None
    text = Markup("<p><b>Exact on fresh samples, biased on stale ones</b></p><p>Off, in units of the exact gradient, by:</p>")
    return text + lines(groups, [_biases(lagging, group) for group in groups])


def _never(lagging: Lagging) -> Markup | None:
    groups = sorted(lagging.groups(NEVER), key=lambda group: lagging.last(group.leader).bias)
    if not groups:
        return None
    text = Markup("<p><b>Biased at any lag</b></p><p>On fresh samples they are off already. Off by:</p>")
    return text + lines(groups, [_biases(lagging, group) for group in groups])


def _trade(lagging: Lagging) -> Markup | None:
    """In which batches a biased one errs less than the exact ones."""
    rivals = benchmarks(lagging)
    biased = [group for kind in (FRESH, NEVER) for group in lagging.groups(kind)]
    if not rivals or not biased:
        return None
    text = Markup("<p><b>Small batches forgive a bias, large ones do not</b></p>")
    for rival in rivals:
        exact = lagging.last(rival)
        found = {group: beaten_up_to(lagging.last(group.leader), exact) for group in biased}
        kept = sorted((group for group in biased if found[group] >= 2), key=lambda group: -found[group])
        if not kept:
            said = "<p>At lag {}, {} errs less than each of the biased ones, in batches of 2 or more.</p>"
            text += Markup(said).format(short(exact.lag), code(rival))
            continue
        said = "<p>At lag {}, these err less than {}, for all their bias, in batches of up to this many samples{}:</p>"
        rest = f" ({len(kept) - MOST} more in the table)" if len(kept) > MOST else ""
        text += Markup(said).format(short(exact.lag), code(rival), rest)
        text += lines(kept[:MOST], [_batch(found[group]) for group in kept[:MOST]])
    return text


def _where(lagging: Lagging) -> str:
    lag, whole, token = lagging.sizes[-1]
    if lag == 0:
        return f"{lagging.pair}: samples of the policy itself, without a lag."
    text = f"{lagging.pair}: samples from a policy up to {short(lag)} nats behind"
    if math.isfinite(whole):
        text += (
            f". At that lag a batch is worth {percent_or_times(whole)} of its size when whole sequences are weighted, and "
            f"{percent_or_times(token)} when single tokens are"
        )
    return f"{text}."


def answer(data: Data) -> list[Block]:
    """The question, and what the table answers for each pair."""
    found = by_pair(data)
    if not found:
        return [Paragraph("Nothing was measured: the run has no row with numbers.", "warning")]
    blocks: list[Block] = []
    for lagging in found:
        low, high = short(lagging.lags[0]), short(lagging.lags[-1])
        blocks.append(Paragraph(_where(lagging), "lead"))
        if lagging is found[0]:
            blocks += [Paragraph(WHY), *warnings(data)]
        if low != high:
            blocks.append(
                Paragraph(f"An arrow leads from lag {low} to lag {high}; “=” joins those with the same numbers.", "note")
            )
        cards = [_exact(lagging), _trade(lagging), _fresh(lagging), _never(lagging)]
        blocks.append(Bullets([each for each in cards if each], cards=True))
    return blocks


def _by_lag(lagging: Lagging, *, bias: bool) -> Table:
    columns = [Column("Combination", "name in klbench")]
    what = (
        "bias, in units of the exact gradient" if bias else "standard deviation of one sample, in units of the exact gradient"
    )
    columns += [Column(f"Lag {short(lag)}", f"{what}, at KL(q‖μ) = {short(lag)} nats", numeric=True) for lag in lagging.lags]
    columns.append(Column("Weight", "what the terms are weighted with"))
    rows = []
    for name in lagging.names:
        at = {row.lag: row for row in lagging.curve(name)}
        first = next(iter(at.values()))
        cells = [
            bias_cell(at.get(lag)) if bias else noise_cell(at[lag].noise if lag in at else math.nan) for lag in lagging.lags
        ]
        rows.append([Cell(code(name), tone="name"), *cells, Cell(first.correction.replace("_", " "))])
    return Table(f"{'Bias' if bias else 'Noise'} at each lag, {lagging.pair}", columns, rows)


def _batches(lagging: Lagging) -> Table | None:
    rivals = benchmarks(lagging)
    biased = [name for name in lagging.names if lagging.kinds[name] != ALWAYS]
    if not biased:
        return None
    lag = short(lagging.lags[-1])
    columns = [
        Column("Combination", "name in klbench; only biased ones"),
        Column(f"Off by, lag {lag}", "bias at the largest lag, in units of the exact gradient", numeric=True),
        Column(f"Noise, lag {lag}", "standard deviation of one sample there", numeric=True),
        Column("Bias = noise at", "batch from which on the bias is the larger part of the error", numeric=True),
        *(
            Column(
                Markup("Beats {} up to").format(code(rival)), f"largest batch in which it errs less than {rival}", numeric=True
            )
            for rival in rivals
        ),
    ]
    rows = []
    for name in biased:
        row = lagging.last(name)
        limits = [beaten_up_to(row, lagging.last(rival)) for rival in rivals]
        rows.append(
            [
                Cell(code(name), tone="name"),
                bias_cell(row),
                noise_cell(row.noise),
                Cell(_batch(row.balance), row.balance),
                *(Cell("never" if limit < 1 else _batch(limit), limit) for limit in limits),
            ]
        )
    return Table(f"Bias or noise? Batches at lag {lag}, {lagging.pair}", columns, rows)


def _batch(size: float) -> str:
    """A batch size of two digits, rounded down."""
    if not math.isfinite(size):
        return number(size)
    step = 10.0 ** max(0, math.floor(math.log10(max(size, 1.0))) - 1)
    return number(step * math.floor(size / step), 2)


def tables(data: Data) -> Sequence[Block]:
    """Bias and noise at each lag, and what a batch makes of them."""
    blocks: list[Block] = []
    for lagging in by_pair(data):
        batches = _batches(lagging)
        blocks += [_by_lag(lagging, bias=True), _by_lag(lagging, bias=False), *([batches] if batches else [])]
    return [Heading("At each lag"), *blocks]
