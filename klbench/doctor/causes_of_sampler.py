"""Causes of a difference between sampler and trainer, by what it depends on."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from klbench.doctor.findings import Cause
from klbench.doctor.kept import Counted
from klbench.doctor.measures import Found
from klbench.doctor.reading import Gathered, Ratio, ratios
from klbench.doctor.signs import ROUNDING, Signs, correlation, signs

QUIET = 3e-3
"""A standard deviation that kernels of an engine and of a trainer differ by."""
COARSE = 0.15
"""The most that the rounding of weights or activations makes: on SmolLM2 0.07 in bfloat16 and 0.12
in int8, on the embedded models 0.01; another text makes 0.26 and more.
"""
STATIC = 0.1
"""The share of the variance of d that the token's id explains, from which weights are not the
same.
"""
TOGETHER = 0.1
"""So much more of it where the reference's column has the same error, as it has where both were
given another text.
"""
BORDER = 0.02
MOVED = (0.21, 0.29)
"""The same: below, weights are rounded ones; above, they were trained further."""
ALONG = (0.05, 0.1)
"""Correlations of d with reference - policy, from rounded weights to weights that were trained
further.
"""


def causes(gathered: Gathered, found: Found) -> Iterator[Cause]:
    """Yield what may make sampler and trainer differ, each with its score."""
    ratio = ratios(frozenset(gathered.columns)).get("sampler")
    if ratio is None or "sampler" not in found:
        return
    counted = gathered.kept.counted
    loud, broken = outlying_rows(counted, ratio)
    if broken is not None:
        yield broken
    seen = signs(counted, ratio.above, ratio.below, None if broken is None else ~loud)
    if seen is None or math.hypot(seen.sd, seen.mean) <= QUIET:
        return
    cut = list(truncated(counted, ratio, seen))
    yield from cut
    if cut:
        return
    hot = list(temperature(counted, ratio, seen))
    yield from hot
    if hot:
        return
    yield from _kinds(gathered, seen, found)


def outlying_rows(counted: Counted, ratio: Ratio) -> tuple[np.ndarray, Cause | None]:
    """Return the rollouts that differ far more than others, and the cause they make if few.

    A rollout stands out by its mean square of d: more than 25 times what nine in ten of the
    others have.
    """
    x, index = counted.ratio(ratio.above, ratio.below)
    n = counted.counts.size
    row = counted.row[index]
    count = np.bincount(row, minlength=n)
    square = np.bincount(row, x * x, minlength=n) / np.maximum(count, 1)
    there = count > 0
    none = np.zeros(n, dtype=bool)
    if there.sum() < 10:
        return none, None
    usual = float(np.quantile(square[there], 0.9))
    loud = there & (square > max(25.0 * usual, 0.01))
    total = float((square * count).sum())
    if not loud.any() or loud.sum() > max(1, 0.05 * there.sum()) or not total > 0.0:
        return none, None
    share = float((square * count)[loud].sum()) / total
    if share < 0.5:
        return none, None
    worst = int(np.argmax(square))
    return loud, Cause(
        "outlier_tokens",
        0.95,
        f"{int(loud.sum()):,} of {int(there.sum()):,} rollouts make {share:.0%} of the squared "
        f"difference of {ratio.above} and "
        f"{ratio.below}; the worst is off by {math.sqrt(square[worst]):.3g} a token, nine in ten "
        "others by "
        f"{math.sqrt(usual):.2g} at most",
    )


def truncated(counted: Counted, ratio: Ratio, seen: Signs) -> Iterator[Cause]:
    """Recognise a sampler that renormalises after truncation.

    Top-p keeps the fewest tokens that hold p: ``p <= S < p + q(x)`` for each kept token x. Under
    top-k, S is anything.
    """
    if seen.positive > 0.01 or seen.negative < 0.2 or seen.mean > -2.0 * ROUNDING:
        return
    d, index = counted.ratio(ratio.above, ratio.below)
    kept, q = np.exp(d), np.exp(counted.columns[ratio.above][index])
    cut = d < -ROUNDING
    p = float(np.quantile(kept[cut], 0.02))
    within = float(np.mean(kept[cut] < p + q[cut] + 2.0 * ROUNDING))
    loose = float(np.mean(kept[cut] < p + 0.05))
    mass = (
        f"trainer / sampler is never above 1 and {float(kept.mean()):.3g} on average, "
        "as the kept mass is"
    )
    # Where S were anything, a token that is not likely would often lie outside of [p, p + q).
    strict = within > 0.97
    first, second = ("top_p", "top_k") if strict else ("top_k", "top_p")
    spread = (
        f"{within:.0%} of tokens have it within their own probability of {p:.3g} "
        f"({loose:.0%} within .05)"
    )
    yield Cause(first, 0.95, f"{mass}; {spread}", about={"top_p": p} if strict else {})
    yield Cause(second, 0.4, f"{mass}; {spread}")


def temperature(counted: Counted, ratio: Ratio, seen: Signs) -> Iterator[Cause]:
    """Recognise one distribution that is the other's power.

    Then every token above one half has become more probable, or every one less.
    """
    if seen.sure < 15:
        return
    one_way = max(seen.sure_below, 1.0 - seen.sure_below)
    if one_way < 0.96 or abs(seen.slope - 1.0) < 0.05 or seen.correlation < 0.7:
        return
    if (seen.slope < 1.0) != (seen.sure_below > 0.5):
        return
    value, how = estimated_temperature(counted, ratio, seen)
    yield Cause(
        "temperature",
        0.94,
        f"{one_way:.0%} of {seen.sure:,} tokens above one half are "
        f"{'more' if seen.sure_below > 0.5 else 'less'} probable under "
        f"the sampler; temperature about {value:.2g} against the trainer's 1 ({how})",
        about={"temperature": value},
    )


def estimated_temperature(counted: Counted, ratio: Ratio, seen: Signs) -> tuple[float, str]:
    """Return the temperature, and how it was found.

    After the same text, ``log mu = log q / T + c``: the slope between different tokens there is
    exact. Elsewhere c varies with the text, and the slope over all tokens is near T only.
    """
    contexts = counted.contexts
    if contexts is not None:
        _, index = counted.ratio(ratio.above, ratio.below)
        q, mu = counted.columns[ratio.above][index], counted.columns[ratio.below][index]
        _, group = np.unique(contexts[index], return_inverse=True)
        n = np.bincount(group)
        q, mu = (x - (np.bincount(group, x) / n)[group] for x in (q, mu))
        top, bottom = float(np.sum(q * q)), float(np.sum(q * mu))
        if np.sum(q * q > 0.01) >= 10 and bottom > 0.0:
            return top / bottom, "from different tokens after the same text"
    return seen.slope, "the slope of one column on the other, which is near it only"


def _near(value: float, low: float, high: float) -> float:
    """Return 0 at ``low``, 1 at ``high``, and what lies between; one half where it is not known."""
    if math.isnan(value):
        return 0.5
    return min(max((value - low) / (high - low), 0.0), 1.0)


def _kinds(gathered: Gathered, seen: Signs, found: Found) -> Iterator[Cause]:
    """Yield causes that leave the sampler's distribution whole: weights, text, noise."""
    small, kl = seen.sd < COARSE, found["sampler"]["kl_token"].value
    weights = _other_weights(seen)
    grown, words = _age(gathered, seen)
    different = max(weights, grown)
    start = 0.0 if math.isnan(seen.early) else _near(seen.early, 4.0, 10.0)
    far = max(_near(kl, 0.6, 1.0), _near(-seen.correlation, -0.7, -0.5))
    moved = max(_trained_further(seen), grown) if small else 1.0
    size = f"standard deviation {seen.sd:.2g} a token"
    if not math.isnan(seen.by_token):
        size += (
            f"; a token's id explains {max(seen.by_token, 0.0):.0%} of what its probability leaves"
        )
    room = 1.0 - 0.8 * start
    if start > 0.3:
        yield Cause(
            "template_or_prefix",
            0.5 + 0.45 * start,
            f"the first token differs most: its mean square is {seen.early:.3g} times that of "
            f"later ones; {size}",
        )
    yield Cause(
        "stale_weights",
        0.9 * room * different * moved * (1.0 - 0.5 * far),
        f"{size}, as other weights would have it{words}",
    )
    yield Cause(
        "wrong_weights",
        0.9 * room * different * moved * far,
        f"KL {kl:.2g} a token, correlation {seen.correlation:.2f}; {size}",
    )
    if different > 0.5 and 0.8 < seen.shared < 1.2 and abs(seen.along) < 0.2 and not small:
        yield Cause(
            "template_or_prefix",
            0.4,
            f"policy and reference differ from the sampler alike (slope {seen.shared:.2f}), as"
            " another text before the tokens would have it, too",
        )
    if small:
        yield Cause(
            "quantised",
            0.88 * room * weights * (1.0 - moved),
            f"{size}: small, and in part the token's own",
        )
        yield Cause(
            "low_precision",
            0.88 * room * (1.0 - different),
            f"{size}: small, and as good as random",
        )
    else:
        yield from _noise(seen, (1.0 - different) * room, size)


def _other_weights(seen: Signs) -> float:
    """Return how sure it is that weights differ.

    Then a token's own part of the difference is the same everywhere.
    """
    if seen.again >= 5 and seen.again_above - seen.again_below > 0.25:
        return 0.0  # one column is not the same twice
    if math.isnan(seen.by_token):
        shared = seen.sd >= COARSE and seen.shared > 0.5
        return (
            0.5 if math.isnan(seen.shared) else 0.3 if shared or abs(seen.along) < ALONG[1] else 0.7
        )
    border = STATIC
    if seen.sd < COARSE:
        border -= BORDER
    elif not math.isnan(seen.shared):
        border += TOGETHER * (min(max(seen.shared, 0.0), 1.0) - 0.25)
    found = _near(seen.by_token, border - BORDER, border + BORDER)
    return found if seen.by_token_z > 4.0 else min(found, 0.3)


def _trained_further(seen: Signs) -> float:
    """Return how sure it is that other weights are trained ones, and not the same ones rounded."""
    if math.isnan(seen.along):
        return _near(seen.by_token, *MOVED)
    if abs(seen.along) * math.sqrt(seen.n) < 4.0:
        return _near(seen.by_token, MOVED[1] + 0.04, MOVED[1] + 0.12)
    return max(
        _near(abs(seen.along), *ALONG), _near(seen.by_token, MOVED[1] + 0.04, MOVED[1] + 0.12)
    )


def _noise(seen: Signs, room: float, size: str) -> Iterator[Cause]:
    """Yield causes of a large difference that is not the token's: dropout, or another text."""
    if seen.again >= 3 and seen.again_above == seen.again_above:
        drop = _near(max(seen.again_above - seen.again_below, 0.0), 0.1, 0.4)
        why = (
            f"the same tokens after the same text, {seen.again} pairs, differ by "
            f"{seen.again_above:.2f} of the difference "
            "in the trainer's column"
        )
    elif seen.shared == seen.shared:
        drop = 1.0 - _near(seen.shared, 0.25, 0.5)
        why = f"reference - sampler goes with it at a slope of {seen.shared:.2f}"
    else:
        drop = _near(seen.sure_below, 0.62, 0.72) if seen.sure >= 30 else 0.5
        why = f"of sure tokens {seen.sure_below:.0%} are less probable under the trainer"
    yield Cause("dropout", 0.9 * room * drop, f"{size}; {why}")
    yield Cause("template_or_prefix", 0.85 * room * (1.0 - drop), f"{size}; {why}")


def _age(gathered: Gathered, seen: Signs) -> tuple[float, str]:
    """Return how sure it is that the difference grows with the age of the weights."""
    kept, counted = gathered.kept, gathered.kept.counted
    ratio = ratios(frozenset(gathered.columns))["sampler"]
    x, index = counted.ratio(ratio.above, ratio.below)
    row = counted.row[index]
    count = np.bincount(row, minlength=counted.counts.size)
    square = np.log(np.bincount(row, x * x, minlength=count.size) / np.maximum(count, 1) + 1e-12)
    if kept.version is not None and np.unique(kept.version).size > 1:
        age = (0 if kept.step is None else kept.step) - kept.version.astype(float)
        there = count > 0
        c = correlation(age[there], square[there])
        if c * math.sqrt(there.sum()) > 5.0:
            return 1.0, f"; it grows with the age of the weights (correlation {c:.2f})"
    if seen.late > 3.0:
        return (
            0.7,
            f"; it grows along the rollout, {seen.late:.2g} times from the middle to the end",
        )
    return 0.0, ""
