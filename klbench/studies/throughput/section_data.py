"""The table of the throughput study, by what was timed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from klbench.report.blocks import Tables

MILLION = 1e6
FORWARD = "forward"
LIBRARIES = {"numpy": "NumPy"}
COLUMNS = (
    *("estimator", "backend", "pass", "dtype"),
    *("terms_per_second", "terms_per_second_q25", "terms_per_second_q75", "rank", "times_slower"),
)
"""The columns of a timing, in the order of its fields."""


@dataclass(frozen=True)
class Setting:
    """The conditions that all estimators share: where they ran, on how many terms."""

    run: str
    device: str
    samples: int
    repeats: int


@dataclass(frozen=True)
class Timing:
    """One estimator on one library, in one direction and dtype.

    Terms a second, median and quartiles.
    """

    setting: Setting
    estimator: str
    backend: str
    direction: str
    dtype: str
    rate: float
    low: float
    high: float
    rank: int
    times_slower: float

    @property
    def library(self) -> str:
        return LIBRARIES.get(self.backend, self.backend)

    @property
    def kind(self) -> tuple[str, str]:
        """Library and direction: a panel of the figure."""
        return self.backend, self.direction

    @property
    def spread(self) -> float:
        """The range from the first to the third quartile, as a fraction of the median."""
        return (self.high - self.low) / self.rate


@dataclass(frozen=True)
class Data:
    """All timings, in the table's order."""

    timings: Sequence[Timing]

    @property
    def settings(self) -> list[Setting]:
        return list(dict.fromkeys(each.setting for each in self.timings))

    def of(
        self, setting: Setting, kind: tuple[str, str] | None = None, dtype: str | None = None
    ) -> dict[str, Timing]:
        """Timings by estimator, the fastest first."""
        found = [
            each
            for each in self.timings
            if each.setting == setting and kind in (None, each.kind) and dtype in (None, each.dtype)
        ]
        return {each.estimator: each for each in sorted(found, key=lambda each: -each.rate)}

    def kinds(self, setting: Setting) -> list[tuple[str, str]]:
        """Libraries and directions that were timed."""
        return list(dict.fromkeys(each.kind for each in self.timings if each.setting == setting))

    def dtypes(self, setting: Setting, kind: tuple[str, str] | None = None) -> list[str]:
        """Formats that were timed."""
        return list(
            dict.fromkeys(
                each.dtype
                for each in self.timings
                if each.setting == setting and kind in (None, each.kind)
            )
        )

    def ratios(self, above: dict[str, Timing], below: dict[str, Timing]) -> dict[str, float]:
        """Return, for the estimators in both, how many times as fast the first is, rising."""
        found = {name: above[name].rate / below[name].rate for name in above if name in below}
        return dict(sorted(found.items(), key=lambda item: item[1]))


def load(tables: Tables) -> Data:
    """The timings; rows without a rate are left out."""
    table = tables["throughput"]
    rows = table[table["terms_per_second"] > 0].to_dict("records")
    return Data(
        [
            Timing(
                Setting(
                    str(row.get("run", "")),
                    str(row["device"]),
                    int(row["samples"]),
                    int(row["repeats"]),
                ),
                *(row[name] for name in COLUMNS),
            )
            for row in rows
        ]
    )
