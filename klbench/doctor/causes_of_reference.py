"""Causes that show between policy and reference."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from klbench.doctor.causes_of_sampler import outlying_rows
from klbench.doctor.findings import Cause
from klbench.doctor.kept import Counted
from klbench.doctor.measures import SMALL, Found, Measured
from klbench.doctor.reading import Gathered, ratios
from klbench.doctor.signs import signs
from klbench.metrics.tails import CANNOT_TELL

UNLIKELY = -12.0
"""The log-ratio of a token that the reference as good as never says."""
SUSPECT = 3.5
"""Standard errors from which a mean that is not 1 is looked into."""


def causes(gathered: Gathered, found: Found) -> Iterator[Cause]:
    """Yield what policy and reference show."""
    names = ratios(frozenset(gathered.columns))
    counted = gathered.kept.counted
    if "penalty" in found and not found["penalty"].identical:
        ratio = names["penalty"]
        loud, broken = outlying_rows(counted, ratio)
        if broken is not None:
            yield broken
        seen = signs(counted, ratio.above, ratio.below, ~loud)
        if seen is not None and seen.early > 4.0 and "sampler" not in found:
            yield Cause(
                "template_or_prefix",
                0.55 + 0.35 * min((seen.early - 4.0) / 6.0, 1.0),
                f"policy and reference differ most at the first token: {seen.early:.3g} times "
                "the mean square of later ones",
            )
        yield from unsupported(counted, found["penalty"])
    name = "reference" if "reference" in found else "penalty"
    differs = "sampler" in found and found["sampler"]["gap_token"].value > SMALL
    if name in found and not differs:
        yield from tempered(counted, names[name].below, found[name])


def unsupported(counted: Counted, m: Measured) -> Iterator[Cause]:
    """Recognise tokens that the reference hardly ever says, the same ones again and again."""
    with np.errstate(invalid="ignore"):
        x = counted.columns["reference"] - counted.columns["policy"]
    rare = np.flatnonzero(x < UNLIKELY)
    if rare.size < 3:
        return
    finite = np.maximum(x[np.isfinite(x) | (x == -np.inf)], -100.0)
    share = float(np.abs(np.maximum(x[rare], -100.0)).sum() / np.abs(finite).sum())
    text = (
        f"{rare.size:,} tokens have a log-ratio below {UNLIKELY:g} and make {share:.0%} of "
        "the mean of |log r|"
    )
    if counted.tokens is None:
        yield Cause("reference_lacks_support", 0.4 + 0.4 * share, text)
        return
    ids, times = np.unique(counted.tokens[rare], return_counts=True)
    again = times.max() / rare.size
    rows = np.unique(counted.row[rare]).size
    if again > 0.3 and rows >= 3:
        yield Cause(
            "reference_lacks_support",
            0.5 + 0.4 * min(1.0, share + again / 2.0),
            f"{text}; {again:.0%} of them are id {int(ids[times.argmax()])}, in {rows:,} rollouts",
        )


def tempered(counted: Counted, sampler: str, m: Measured) -> Iterator[Cause]:
    """Recognise samples at another temperature than their log-probabilities are at.

    For ``x`` sampled from ``q^(1/T) / Z`` and every s, ``E[q^s (r - 1)]`` is ``sum_x q (r - 1) /
    Z = 0`` at ``s = 1 - 1/T``.
    """
    z = m["excess"].z
    heavy = m.holds == CANNOT_TELL
    if heavy or m.negative or not (abs(z) > SUSPECT and abs(m["excess"].value) > SMALL):
        return
    x, index = counted.ratio("reference", sampler)
    if x.max() > 12.0:
        return
    excess, log_q, row = np.expm1(x), counted.columns[sampler][index], counted.row[index]
    grid = np.exp(np.linspace(math.log(0.25), math.log(3.0), 101))
    zs = []
    for each in grid:
        sums = np.bincount(row, np.exp((1.0 - 1.0 / each) * np.maximum(log_q, -30.0)) * excess)
        zs.append(float(sums.sum() / max(math.sqrt(float(np.sum(sums * sums))), 1e-300)))
    curve = np.array(zs)
    crossing = np.flatnonzero(np.sign(curve[1:]) != np.sign(curve[:-1]))
    crossing = crossing[np.abs(np.log(grid[crossing])) > 0.05]
    if not crossing.size:
        return
    k = int(crossing[np.argmin(np.abs(np.log(grid[crossing])))])
    near = np.abs(curve) < 2.0
    low, high = grid[near][0], grid[near][-1]
    yield Cause(
        "temperature",
        0.7,
        f"the mean of reference / sampler is {1.0 + m['excess'].value:.3g}, {abs(z):.1f} "
        "standard errors from 1; samples at a "
        f"temperature of {math.sqrt(grid[k] * grid[k + 1]):.2g} would explain it ({low:.2g} to "
        f"{high:.2g})",
        about={"temperature": float(math.sqrt(grid[k] * grid[k + 1]))},
    )
