"""From the times of both sides to a ratio, its interval, and a verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

THRESHOLD = 1.15
FAMILY_ERROR = 0.05
"""Probability that any interval of the family misses, if nothing else were wrong with them."""
RESAMPLES = 10_000

Sessions = Sequence[Sequence[tuple[float, float]]]
"""Of one benchmark, in each session the turns: seconds of a call there, and here."""


@dataclass(frozen=True)
class Row:
    """A benchmark: least seconds of a call on both sides, this one's time over the base's, and
    the ratio's interval.
    """

    name: str
    base: float
    here: float
    ratio: float
    low: float
    high: float
    verdict: str

    def undecided(self, threshold: float) -> bool:
        """Whether the interval holds the threshold: more turns would say more."""
        return self.low <= threshold <= self.high


def interval(sessions: Sessions, level: float) -> tuple[float, float, float]:
    """The ratio and the ends of its bootstrap interval.

    A session is a pair of processes, and a turn's two times are neighbours in it: what slows the
    machine for more than a few milliseconds slows both, and drops out of their ratio. A session
    says the median of its turns' ratios, which single turns that went wrong do not move; the ratio
    is the geometric mean of what the sessions say. Resampled are the sessions, and the turns within
    each: turns alone would hide what a process's layout in memory does to all of its times.
    """
    stream = np.random.Generator(np.random.Philox(key=0))
    logs = [np.array([np.log(here / base) for base, here in turns]) for turns in sessions]
    said = np.empty((len(logs), RESAMPLES))
    for k, turns in enumerate(logs):
        said[k] = np.median(
            turns[stream.integers(turns.size, size=(RESAMPLES, turns.size))], axis=1
        )
    chosen = stream.integers(len(logs), size=(len(logs), RESAMPLES))
    means = said[chosen, np.arange(RESAMPLES)].mean(axis=0)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    middle = np.mean([np.median(turns) for turns in logs])
    return float(np.exp(middle)), float(np.exp(low)), float(np.exp(high))


def judged(
    found: Mapping[str, Sequence[Sequence[tuple[float, float]]]],
    threshold: float,
    family: int | None = None,
) -> list[Row]:
    """A row a benchmark.

    ``slower``: the whole interval lies beyond the threshold; ``faster``: it lies below the
    threshold's inverse. Each interval has the level ``1 - FAMILY_ERROR / family``, by Bonferroni,
    where the family is all benchmarks: with 95 % each, a suite of a hundred would miss five times
    in every run. At this level the ends are, all but, the worst that any session said, so that
    ``slower`` means: in every pair of processes, each of them in the median of its turns.
    """
    level = 1.0 - FAMILY_ERROR / (family or len(found))
    rows = []
    for name, sessions in found.items():
        ratio, low, high = interval(sessions, level)
        base, here = (min(turn[side] for turns in sessions for turn in turns) for side in (0, 1))
        verdict = "slower" if low > threshold else "faster" if high < 1.0 / threshold else ""
        rows.append(Row(name, base, here, ratio, low, high, verdict))
    return rows


def markdown(rows: Sequence[Row], base: str, threshold: float) -> str:
    """The verdict in a sentence, and a table, the slowest first."""
    slower, faster = ([row for row in rows if row.verdict == word] for word in ("slower", "faster"))
    head = (
        f"**{len(slower)} of {len(rows)} benchmarks are slower than {base}** beyond {threshold:g}x,"
        f" {len(faster)} faster."
    )
    lines = [
        f"| {row.name.replace('|', chr(92) + '|')} | {row.base * 1e3:.4g} | {row.here * 1e3:.4g} |"
        f" {row.ratio:.3f} | {row.low:.3f} to {row.high:.3f} | {row.verdict} |"
        for row in sorted(rows, key=lambda row: -row.ratio)
    ]
    return "\n".join(
        [
            head,
            "",
            f"Intervals hold for all {len(rows)} together with {1 - FAMILY_ERROR:.0%}.",
            "",
            "| benchmark | base, ms | here, ms | ratio | interval | |",
            "|---|---:|---:|---:|---:|---|",
            *lines,
        ]
    )
