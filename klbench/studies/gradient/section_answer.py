"""What the gradient study found, in sentences made from its tables."""

from __future__ import annotations

import math

from markupsafe import Markup

from klbench.report.blocks import Block, Bullets, Paragraph
from klbench.report.cells import code, codes
from klbench.report.combinations import (
    DIFFERENCE,
    NOTHING,
    PQ,
    QP,
    ROUNDING,
    Data,
    Group,
    Row,
    amount,
    lines,
    span_of,
    warnings,
)
from klbench.report.numbers import count, listing, short

WHY = (
    "Whoever adds a KL penalty to training chooses a formula for its value, and then, often without noticing, what becomes of "
    "it: it is differentiated as part of the loss, or it is a number in the reward. The optimiser follows the gradient, and "
    "the same formula gives different gradients in different places. Each way of doing it is called a combination here. "
    "Averaged over all samples, is its gradient that of KL(q‖p)? And how far does one sample's gradient stray from that "
    "average?"
)


def _ends(data: Data, name: str) -> list[Row]:
    return [row for pair in data.ends if (row := data.at(name, pair)) is not None]


def _noise(data: Data, name: str) -> float:
    """Of a single sample, at the furthest pair of the main series."""
    rows = _ends(data, name)
    return rows[-1].noise if rows and not math.isnan(rows[-1].noise) else math.inf


def _at(data: Data, pair: str) -> str:
    """One pair in words."""
    return f"at {data.label(pair)}" if data.label(pair).startswith("KL ") else f"on {data.label(pair)}"


def _off(data: Data, name: str) -> str:
    """The bias at the ends of the main series, or where it is worst if it has none there."""
    rows = [row for row in _ends(data, name) if not math.isnan(row.bias)]
    if any(not row.exact for row in rows):
        return span_of([row.off for row in rows])
    others = [row for row in data.of(name) if not row.exact and not math.isnan(row.bias)]
    worst = max(others, key=lambda row: row.bias, default=None)
    return "–" if worst is None else f"{worst.off} ({data.label(worst.pair)})"


def _noises(data: Data, name: str) -> str:
    return span_of([amount(row.noise) for row in _ends(data, name)] or ["–"])


def _exact(data: Data) -> Markup | None:
    names = [name for name in data.names if data.verdicts[name] == QP]
    everywhere = " on every pair" if data.several else ""
    if not names:
        return Markup("<p><b>None gives the gradient of KL(q‖p){}.</b></p>").format(everywhere)
    groups = sorted(data.groups(names), key=lambda group: _noise(data, group.leader))
    text = Markup("<p><b>The gradient of KL(q‖p){}</b>: {} of {}.").format(everywhere, len(names), len(data.names))
    quiet = groups[0].leader
    rival = next((name for name in ("k1_reward", groups[-1].leader) if name in names and name not in groups[0].names), None)
    if rival is not None:
        text += Markup(
            " The least noisy is {}: one sample strays from the mean by {} times its length, with {} by {} times."
        ).format(code(quiet), _noises(data, quiet), code(rival), _noises(data, rival))
    noises = [_noises(data, group.leader) for group in groups]
    return text + Markup("</p><p>All of them, with that noise:</p>") + lines(groups, noises)


PER_TOKEN = (
    "They leave out what a token does to the tokens after it (semi-gradients). With one token there is nothing to leave out."
)


def _sometimes(data: Data) -> Markup | None:
    """Those that are exact on some pairs and biased on others."""
    found = {
        name: [row for row in data.of(name) if row.exact and not row.sampled] for name in data.names if not data.verdicts[name]
    }
    names = [name for name, rows in found.items() if rows]
    if not names:
        return None
    by_pairs: dict[tuple[str, ...], list[str]] = {}
    for name in names:
        where = tuple(dict.fromkeys(data.series[row.pair] or data.label(row.pair) for row in found[name]))
        by_pairs.setdefault(where, []).append(name)
    text = Markup("<p><b>Exact on some pairs, biased on others</b></p>")
    if all(data.known.get(name, {}).get("one_token") == f"grad {QP}" for name in names):
        text += Markup("<p>{}</p>").format(PER_TOKEN)
    for where, some in by_pairs.items():
        groups = data.groups(some)
        text += Markup("<p>Exact on {}; elsewhere off by:</p>").format(listing(where))
        text += lines(groups, [_off(data, group.leader) for group in groups])
    return text


CALLED_UNBIASED = (
    "So it is for each token's own KL, given the tokens before it. A penalty on sequences also holds a token to account for "
    "what it makes of the later ones: from that gradient the mean is off by:"
)


def _called_unbiased(data: Data) -> Markup | None:
    """Return a sentence on the combinations that trainers call unbiased and that are so per token alone."""
    said = {name: data.known.get(name, {}).get("called_unbiased_by", "") for name in data.names}
    # On samples of the policy itself they fail on nothing but sequences.
    biased = {row.combination for row in data.rows if row.status == "ok" and row.lag == 0.0 and not row.exact}
    names = [name for name in data.names if said[name] and name in biased]
    if not names:
        return None
    who = listing(list(dict.fromkeys(said[name] for name in names)))
    groups = data.groups(names)
    text = Markup("<p><b>Called unbiased by {}: per token, not per sequence</b></p><p>{}</p>").format(who, CALLED_UNBIASED)
    return text + lines(groups, [_off(data, group.leader) for group in groups])


def _other(data: Data, target: str, title: str, explained: str) -> Markup | None:
    names = [name for name in data.names if data.verdicts[name] == target]
    if not names:
        return None
    groups = data.groups(names)
    said = [_off(data, group.leader) for group in groups]
    return Markup("<p><b>{}</b></p><p>{}</p>").format(title, explained) + lines(groups, said)


def _nothing(data: Data) -> Markup | None:
    names = [name for name in data.names if data.verdicts[name] == NOTHING]
    if not names:
        return None
    groups = data.groups(names)
    text = Markup(
        "<p><b>No gradient at all</b></p><p>The mean is zero: the policy is not held back, only shaken. The noise, in units "
        "of the gradient that is missing:</p>"
    )
    return text + lines(groups, [_noises(data, group.leader) for group in groups])


def _biased(data: Data) -> Markup | None:
    names = [
        name for name in data.names if not data.verdicts[name] and not any(r.exact and not r.sampled for r in data.of(name))
    ]
    if not names:
        return None
    groups = sorted(data.groups(names), key=lambda group: max((row.bias for row in _ends(data, group.leader)), default=0.0))
    text = Markup("<p><b>Another gradient</b></p><p>Off by, in units of the true gradient:</p>")
    return text + lines(groups, [_off(data, group.leader) for group in groups])


def _against(data: Data) -> Markup | None:
    """Those whose mean points away from the exact gradient somewhere."""
    by_pairs: dict[tuple[str, ...], list[str]] = {}
    for name in data.names:
        where = tuple(data.label(row.pair) for row in data.of(name) if row.cosine < 0 and row.status == "ok")
        if where:
            by_pairs.setdefault(where, []).append(name)
    if not by_pairs:
        return None
    parts = [Markup("{} ({})").format(codes(names), "; ".join(where)) for where, names in by_pairs.items()]
    text = (
        "<p><b>The wrong sign</b></p><p>These point away from the true gradient on some pairs, and a step against them takes "
        "the policy further from the reference: {}.</p>"
    )
    return Markup(text).format(Markup("; ").join(parts))


def ranked(data: Data, pair: str) -> list[tuple[Group, Row]]:
    """The exact combinations whose noise is known alone and within the whole objective, by the latter."""
    names = [name for name in data.names if data.verdicts[name] == QP]
    found = [(group, data.at(group.leader, pair)) for group in data.groups(names)]
    kept = [(group, row) for group, row in found if row is not None and math.isfinite(row.noise) and math.isfinite(row.total)]
    return sorted(kept, key=lambda each: (each[1].total if each[1].total >= ROUNDING else 0.0, each[1].noise))


def _ranking(data: Data) -> Markup | None:
    """Who is quiet alone, and who is in the sum with the reward."""
    pair = data.ends[-1]
    found = ranked(data, pair)
    if len(found) < 2:
        return None
    quiet, quiet_row = min(found, key=lambda each: each[1].noise)
    least = found[0][1].total
    best = [group for group, row in found if math.isclose(row.total, least, rel_tol=1e-6, abs_tol=ROUNDING)]
    text = Markup("<p><b>{}</b></p><p>Of the exact ones, {}, the penalty's own gradient is least noisy with {} ({}). ").format(
        "Noise in training" if quiet in best else "Quiet alone is not quiet in training",
        _at(data, pair), code(quiet.leader), amount(quiet_row.noise),
    )  # fmt: skip
    text += Markup("But it is added to the reward's gradient. With a policy that is already the best one for its reward, ")
    if quiet in best:
        return text + Markup("the sum is least noisy with it too ({}).</p>").format(amount(least))
    names = [name for group in best for name in group.names]
    place = 1 + next(i for i, (group, _) in enumerate(found) if group == quiet)
    text += Markup("the sum is least noisy with {} ({}{}); {} is {} of {} there ({}).</p>").format(
        codes(names), amount(least),
        ": reward and penalty cancel sample by sample" if least < ROUNDING else "",
        code(quiet.leader), f"number {place}", len(found), amount(quiet_row.total),
    )  # fmt: skip
    return text


def _reading(data: Data) -> str:
    """How to read the numbers of the cards."""
    said = "Biases and noises are in units of the exact gradient's length; “=” joins combinations with the same numbers."
    if len(data.ends) == 1:
        return f"{said} They are those of {data.label(data.ends[0])}." if data.several else said
    near, far = map(data.label, data.ends)
    return f"{said} An arrow leads from near the reference ({near}) to far from it ({far})."


def answer(data: Data) -> list[Block]:
    """The question and what the table answers."""
    if not data.rows:
        return [Paragraph("Nothing was measured: the run has no row with numbers.", "warning")]
    kls = sorted(kl for kl in data.kl.values() if math.isfinite(kl))
    span = f" at KL {' to '.join(dict.fromkeys([short(kls[0], 2), short(kls[-1], 2)]))}" if kls else ""
    exact = sum(verdict == QP for verdict in data.verdicts.values())
    asked = (
        f"{count(len(data.names), 'way', 'ways')} to turn an estimate of KL into a policy gradient, on "
        f"{count(len(data.pairs), 'policy with its reference', 'policies with their references')}{span}: "
        f"{exact or 'none'} of them {'has' if exact == 1 else 'have'} the gradient of KL(q‖p) as "
        f"{'its' if exact == 1 else 'their'} mean{' on every pair' if data.several else ''}."
    )
    other = (
        "It leads to the same reference, but hardly pulls where the policy does what the reference almost never does. "
        "Off, as a gradient of KL(q‖p), by:"
    )
    difference = (
        "Two gradients that almost agree near the reference are subtracted: there is almost no penalty left there. Off, as a "
        "gradient of KL(q‖p), by:"
    )
    cards = [
        _exact(data),
        _called_unbiased(data),
        _biased(data),
        _sometimes(data),
        _ranking(data),
        _other(data, PQ, "The gradient of KL(p‖q) instead", other),
        _other(data, DIFFERENCE, "The gradient of KL(q‖p) − KL(p‖q)", difference),
        _nothing(data),
        _against(data),
    ]
    blocks = [Paragraph(asked, "lead"), Paragraph(WHY), *warnings(data)]
    return [*blocks, Paragraph(_reading(data), "note"), Bullets([each for each in cards if each], cards=True)]
