"""The section of the lambda study.

The lambda that makes k_lambda least noisy, for the value and for the gradient.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from klbench.report import terms
from klbench.report.blocks import Block, Cell, Figure, Lead, LegendEntry, Panel, Section, Tables
from klbench.report.numbers import MISSING, number, percent, short
from klbench.report.plots import Axis, Line, Mark, down, lines
from klbench.report.prose import prose
from klbench.report.tables import Row, Shown, select, table
from klbench.rows import Rows, finite, grouped, rising
from klbench.studies.lambda_.columns import LAMBDA

SAY = prose(__package__)
LAMBDAS = {
    "lambda_value": LegendEntry("best for the value", 0, "o"),
    "lambda_gradient": LegendEntry("best for the gradient", 1, "s"),
}
VALUE = {
    "value_std_k1": LegendEntry("λ = 0 (k1)", 2, "^"),
    "value_std_k3": LegendEntry("λ = 1 (k3)", 3, "D"),
    "value_std_best": LAMBDAS["lambda_value"],
}
GRADIENT = {
    "gradient_rel_std_0": VALUE["value_std_k1"],
    "gradient_rel_std_1": VALUE["value_std_k3"],
    "gradient_rel_std_value_best": LAMBDAS["lambda_value"],
    "gradient_rel_std_gradient_best": LAMBDAS["lambda_gradient"],
}
MAX_SERIES = 4


def _series(tables: Tables) -> dict[str, Rows]:
    """Return rows by series, each by rising KL; without KL there is no place for a row."""
    rows = finite(LAMBDA.rows(tables[LAMBDA.table]), "kl_qp")
    return {
        name or SAY.all_pairs(): rising(found, "kl_qp")
        for name, found in grouped(rows, "series").items()
    }


def _gap(row: Row) -> float:
    """Return how far apart the two lambdas are, for sorting; -1 where one is not finite."""
    return float(row["lambda_gap"]) if math.isfinite(row["lambda_gap"]) else -1.0


def _shown(x: float, digits: int = 3) -> str:
    return MISSING if math.isnan(x) else "0" if 0 <= x < 5e-4 else number(x, digits)


def lead(tables: Tables) -> Lead:
    """Return whether the two lambdas are one, and what it costs to mistake one for the other."""
    found = _series(tables)
    apart = max(
        ((row, name) for name, rows in found.items() for row in rows),
        key=lambda each: _gap(each[0]),
        default=None,
    )
    if apart is None:
        return Lead(SAY.question(), SAY.nothing(), None)
    row, name = apart
    both = [_shown(row[key], 2) for key in LAMBDAS]
    verdict = SAY.verdict(row["one_lambda"], name, short(row["kl_qp"], 2), *both)
    more = []
    for series, rows in list(found.items())[: MAX_SERIES - 1]:
        known = finite(rows, "noise_lost")
        if known:
            worst = max(known, key=lambda row: float(row["noise_lost"]))
            noises = [
                number(worst[f"gradient_rel_std_{whose}_best"]) for whose in ("value", "gradient")
            ]
            more.append(
                SAY.cost(series, short(worst["kl_qp"], 2), percent(worst["noise_lost"]), *noises)
            )
    return Lead(SAY.question(), verdict, _best(found), more)


def _panel(title: str, rows: Sequence[Row], drawn: Mapping[str, LegendEntry], y: Axis) -> Panel:
    def points(key: str) -> list[tuple[float, float]]:
        return [
            (row["kl_qp"], row[key])
            for row in rows
            if math.isfinite(row[key]) and (row[key] > 0 or y.scale != "log")
        ]

    kept = [(entry, points(key)) for key, entry in drawn.items()]
    curves = [
        Line(entry, [x for x, _ in found], [y for _, y in found]) for entry, found in kept if found
    ]
    return lines(title, curves, Axis(SAY.kl_axis(), scale="log"), y)


def _drawn(found: Mapping[str, Sequence[Row]]) -> dict[str, Sequence[Row]]:
    """Return the series that are more than a point on a logarithmic axis."""
    several = {
        name: rows
        for name, rows in found.items()
        if len({row["kl_qp"] for row in rows if row["kl_qp"] > 0}) > 1
    }
    return {
        name: [row for row in rows if row["kl_qp"] > 0]
        for name, rows in list(several.items())[:MAX_SERIES]
    }


def _best(found: Mapping[str, Sequence[Row]]) -> Figure:
    """Return both lambdas over KL, or down a list of pairs where no series has several."""
    panels = [
        _panel(name, rows, LAMBDAS, Axis(SAY.lambda_axis(), levels=(0.0, 1.0)))
        for name, rows in _drawn(found).items()
    ]
    if not panels:
        rows = [
            (f"{name}, KL {short(row['kl_qp'], 2)}", row)
            for name, rows in found.items()
            for row in rows
        ]
        marks = [
            Mark(label, row[key], entry) for label, row in rows for key, entry in LAMBDAS.items()
        ]
        panels = [down(SAY.lambda_axis(), marks, Axis(SAY.lambda_axis(), levels=(0.0, 1.0)))]
    return Figure(
        "lambda",
        SAY.best_title(),
        SAY.best_caption(len(list(found)[MAX_SERIES:])),
        panels,
        [*LAMBDAS.values()],
    )


def _noise(found: Mapping[str, Sequence[Row]]) -> Iterator[Figure]:
    panels = []
    for name, rows in _drawn(found).items():
        panels.append(
            _panel(SAY.of_value(name).unescape(), rows, VALUE, Axis(SAY.value_axis(), scale="log"))
        )
        panels.append(
            _panel(
                SAY.of_gradient(name).unescape(),
                rows,
                GRADIENT,
                Axis(SAY.gradient_axis(), scale="log"),
            )
        )
    if panels:
        yield Figure(
            "lambda-noise", SAY.noise_title(), SAY.noise_caption(), panels, [*GRADIENT.values()]
        )


def build(tables: Tables) -> Sequence[Block]:
    """Return the noise against KL, and the table."""
    found = _series(tables)
    rows = [row for each in found.values() for row in each]
    return [*_noise(found), table(SAY.table_title(), LAMBDA, rows, SHOWN)] if rows else []


def _number(row: Row, name: str) -> Cell:
    return Cell(_shown(row[name]), float(row[name]))


SHOWN = (
    *select("series kl_qp:short"),
    *(Shown(name, _number) for name in (*LAMBDAS, *VALUE, *GRADIENT)),
    *select("noise_lost:percent"),
)

TERMS = ("q_p", "r", "schulman", "lambda", *terms.GRADIENTS)

SECTION = Section("The best λ", LAMBDA, build, lead=lead, order=25, terms=TERMS)
