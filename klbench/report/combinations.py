"""The parts that pages on gradients share.

Pairs and their labels, cells of bias and noise, and combinations in words.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from markupsafe import Markup

from klbench.report.blocks import Block, Cell, Paragraph
from klbench.report.cells import code
from klbench.report.numbers import MISSING, number, percent_or_times, short
from klbench.report.prose import prose
from klbench.report.runs import RunTables
from klbench.rows import Row, Rows, distinct, grouped, keyed
from klbench.schema import Schema

QP = "KL(q‖p)"
ROUNDING = 1e-8
"""Share of the exact gradient below which a bias or a noise is rounding of 0."""
BIAS_STEPS = (0.02, 0.05, 0.1, 0.2, 0.5, 0.995, 2.0)
NOISE_STEPS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
MOST = 8
"""Combinations that a figure shows."""

SAY = prose("klbench.report", "assets/combinations.html.j2")


def exact(row: Row) -> bool:
    """Return whether a mean is the gradient of KL(q‖p).

    Up to rounding, or within five standard errors of a sampled one.
    """
    return QP in row["matches"].split(" = ")


def share(x: float) -> str:
    """Return a bias in two digits, 0 for rounding."""
    return MISSING if math.isnan(x) else "0" if x < ROUNDING else percent_or_times(x)


def amount(x: float) -> str:
    """Return a noise in two digits, 0 for rounding."""
    return "0" if 0 <= x < ROUNDING else number(x, 2)


def off(row: Row) -> str:
    """Return the bias of a row in words."""
    return ("≈ 0" if row["method"] == "sampling" else "0") if exact(row) else share(row["rel_bias"])


def span(*values: str) -> str:
    """Return ``2.0 → 2.6``, or one number where both are the same."""
    return " → ".join(dict.fromkeys(values))


def _tint(kind: str, x: float, steps: Sequence[float]) -> str:
    return "" if math.isnan(x) else f"tint-{kind}-{1 + sum(x >= step for step in steps)}"


def bias_cell(row: Row | None) -> Cell:
    """Return a bias, tinted."""
    if row is None:
        return Cell(MISSING, math.nan)
    value = 0.0 if exact(row) or row["rel_bias"] < ROUNDING else row["rel_bias"]
    return Cell(off(row), value, _tint("bias", value, BIAS_STEPS) if value else "tint-exact")


def noise_cell(noise: float) -> Cell:
    """Return a noise, tinted."""
    return Cell(amount(noise), noise, _tint("noise", noise, NOISE_STEPS))


def named(row: Row) -> str:
    """Return the name of a combination as the run was asked for it."""
    return str(row["typed"] or row["combination"])


def name_cell(row: Row, _: str = "") -> Cell:
    """Return the name that was typed, in a cell."""
    return Cell(code(named(row)), tone="name")


def in_words(row: Row) -> Markup:
    """Return what a combination does: with which number, where, and with which weight."""
    return Markup(SAY.combination(row)).strip()


@dataclass(frozen=True, eq=False)
class Measured(RunTables):
    """One run of a study of gradients, with the labels of its pairs."""

    main: ClassVar[Schema]
    combinations: ClassVar[Schema]

    @cached_property
    def measured(self) -> Rows:
        """The rows of the main table."""
        return self.rows(self.main)

    @cached_property
    def known(self) -> dict[str, Row]:
        """The parts of each combination, by name."""
        return keyed(self.rows(self.combinations), "combination")

    @cached_property
    def pairs(self) -> dict[str, Row]:
        """A row of each pair; those of a series together, each series by rising KL."""
        first = keyed(reversed(self.measured), "pair")
        order = distinct(self.measured, "series")
        rows = sorted(
            first.values(),
            key=lambda row: (order.index(row["series"]), math.isnan(row["kl_qp"]), row["kl_qp"]),
        )
        return keyed(rows, "pair")

    @cached_property
    def _labels(self) -> dict[str, str]:
        plain = {}
        for pair, row in self.pairs.items():
            kl = f"KL {short(row['kl_qp'], 2)}" if math.isfinite(row["kl_qp"]) else ""
            plain[pair] = ", ".join(filter(None, (row["series"], kl))) or pair
        return {
            pair: own if list(plain.values()).count(own) == 1 else pair
            for pair, own in plain.items()
        }

    def pair_label(self, pair: str) -> str:
        """Return the series and the KL of a pair, or its title where these do not tell it apart."""
        return self._labels.get(pair, pair)

    def warnings(self) -> list[Block]:
        """Return what must not be overlooked: broken claims, and variances that do not exist."""
        blocks: list[Block] = []
        for status in ("claim broken", "infinite mean", "infinite variance", "beyond float64"):
            where: dict[str, list[str]] = {}
            for row in self.measured:
                if row["status"] == status:
                    where.setdefault(row["combination"], []).append(self.pair_label(row["pair"]))
            if where:
                blocks.append(Paragraph(SAY.warning(status, where, self.label), "warning"))
        return blocks


def joined(rows: Iterable[Row]) -> dict[str, Rows]:
    """Return rows of combinations by the first one with the same numbers."""
    return grouped(rows, "same_as")
