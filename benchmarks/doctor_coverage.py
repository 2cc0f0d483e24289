"""Coverage of the doctor's 95 % intervals over simulated files whose truth is known.

``python benchmarks/doctor_coverage.py [FILES]`` prints a table; the one of 4,000 files is ``benchmarks/doctor_coverage.md``.

A token's log-ratio is normal given its prompt's and its rollout's own part, so that the mean of r is 1 for every token. Lengths
differ. Truths are those of the population that files are drawn from: prompts, lengths and tokens are all random.
"""

from __future__ import annotations

import math
import sys
from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from klbench import streams
from klbench.doctor.measures import Measured, measures
from klbench.doctor.reading import Gathered
from klbench.rollouts.batches import Batch

LENGTHS = (8, 24)
NAMES = (
    "kl_token",
    "kl_sequence",
    "gap_token",
    "gap_sequence",
    "excess",
    "ess_token",
    "ess_sequence",
    "chi2_token",
    "chi2_sequence",
)


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Parameters
    ----------
    variance
        Of a token's log-ratio; a token's KL is half of it.
    spread
        How much variances differ between prompts: each is its mean times ``1 ± spread``.
    group
        Rollouts of a prompt.
    """

    name: str
    rollouts: int
    variance: float
    spread: float = 0.0
    group: int = 1

    def file(self, seed: int) -> Gathered:
        """Return what the doctor gathers from one simulated file."""
        stream = streams.generator(seed, "doctor_coverage", self.name)
        prompts = self.rollouts // self.group
        side = stream.choice([-1.0, 1.0], size=prompts)
        prompt = np.repeat(np.arange(prompts), self.group)
        variance = self.variance * (1.0 + self.spread * side[prompt])
        lengths = stream.integers(LENGTHS[0], LENGTHS[1] + 1, size=self.rollouts)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        v = np.repeat(variance, lengths)
        x = stream.normal(size=v.size) * np.sqrt(v) - v / 2.0
        sampler = -stream.exponential(2.0, v.size) - 20.0  # far from 0, lest a sum be above it
        gathered = Gathered()
        gathered.add(
            Batch(
                offsets,
                {"policy": sampler + x, "sampler": sampler},
                None,
                None,
                np.ones(v.size, dtype=bool),
                prompt + 1,
                None,
                None,
                None,
                np.arange(self.rollouts),
                "simulated",
            )
        )
        return gathered

    def truths(self) -> dict[str, float]:
        """Return the truths by closed form: ``E r^2 = e^v`` a token, the mean over lengths and prompts."""
        variances = [self.variance * (1.0 + s * self.spread) for s in (-1.0, 1.0)]
        lengths = range(LENGTHS[0], LENGTHS[1] + 1)
        length = sum(lengths) / len(lengths)
        kl = self.variance / 2.0
        r2 = float(np.mean([math.exp(v) for v in variances]))
        w2 = float(np.mean([math.exp(v * n) for v in variances for n in lengths]))
        return {
            "kl_token": kl,
            "kl_sequence": kl * length,
            "gap_token": kl,
            "gap_sequence": kl * length,
            "excess": 0.0,
            "ess_token": 1.0 / r2,
            "ess_sequence": 1.0 / w2,
            "chi2_token": r2 - 1.0,
            "chi2_sequence": w2 - 1.0,
        }


KINDS = (
    Kind("an engine's noise", 200, 1e-6),
    Kind("bfloat16", 100, 1e-4),
    Kind("one update behind", 200, 2e-3),
    Kind("prompts that differ", 200, 2e-3, 0.8, 4),
    Kind("eight updates behind", 200, 2e-2, 0.5),
    Kind("few rollouts", 40, 1e-3),
    Kind("far", 200, 0.2, 0.5, 4),
    Kind("very far", 200, 0.6),
)


def cover(kinds: tuple[Kind, ...], files: int) -> dict[str, dict[str, list[bool | None]]]:
    """Return, for each kind and statistic, whether each file's interval covers; None where it gives none."""
    found: dict[str, dict[str, list[bool | None]]] = defaultdict(lambda: defaultdict(list))
    for kind in kinds:
        truths = kind.truths()
        for seed in range(files // len(kinds)):
            m: Measured = measures(kind.file(seed))["sampler"]
            for name in NAMES:
                number = m[name]
                given = math.isfinite(number.low)
                inside = number.low <= truths[name] <= number.high
                found[kind.name][name].append(inside if given else None)
    return found


def table(found: dict[str, dict[str, list[bool | None]]], files: int) -> str:
    """Return the table in Markdown: coverage in percent, and the share of files with an interval where not all have one."""
    lines = [
        f"{files:,} files",
        "",
        f"| file | {' | '.join(NAMES)} |",
        "|---" * (len(NAMES) + 1) + "|",
    ]

    def cell(values: list[bool | None]) -> str:
        given = [each for each in values if each is not None]
        if len(given) < 0.02 * len(values):
            return "none"
        share = len(given) / len(values)
        return f"{100 * np.mean(given):.1f}" + (f" ({100 * share:.0f} %)" if share < 1.0 else "")

    for kind, by_name in found.items():
        lines.append(f"| {kind} | {' | '.join(cell(by_name[name]) for name in NAMES)} |")
    everything = {name: [each for by in found.values() for each in by[name]] for name in NAMES}
    lines.append(f"| all | {' | '.join(cell(everything[name]) for name in NAMES)} |")
    every = [each for name in NAMES for each in everything[name] if each is not None]
    return "\n".join(
        [*lines, "", f"Of {len(every):,} intervals {100 * np.mean(every):.2f} % cover."]
    )


if __name__ == "__main__":
    files = int(sys.argv[1]) if len(sys.argv) > 1 else 4_000
    print(table(cover(KINDS, files), files))
