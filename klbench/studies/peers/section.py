"""The section of the comparison with other libraries: errors, gradients and time of the same functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from klbench.report.blocks import Block, Bullets, Cell, Column, Paragraph, Section, Table, Tables
from klbench.report.numbers import MISSING, count, number, percent
from klbench.studies.peers import section_figures
from klbench.studies.peers.columns import PEERS

if TYPE_CHECKING:
    import pandas as pd

HERE = "klbench"
LOST = 0.01
"""A relative error of this or more leaves little of a value."""
REGIMES = {
    "near": "policy and reference all but equal: log-ratios, or differences of logits, of about 0.001",
    "usual": "of about 0.3",
    "far": "of about 3",
    "extreme": "log-ratios from ±15 to ±199",
    "masked": "of about 0.3, and a tenth of the vocabulary masked by −∞ in both",
}


def _code(text: Any) -> Markup:
    return Markup("<code>{}</code>").format(text)


def _who(row: Any) -> Markup:
    return Markup("{} {}").format(row.library, _code(row.name_))


def _measured(tables: Tables) -> pd.DataFrame:
    table = tables["peers"]
    return table[table["status"] == "ok"].rename(columns={"name": "name_"})


def _listed(rows: pd.DataFrame, value: Any) -> Markup:
    return Markup("; ").join(Markup("{}: {}").format(_who(row), value(row)) for row in rows.itertuples())


def _near(rows: pd.DataFrame) -> Markup:
    near = rows[rows["regime"] == "near"]
    if near["max_rel_error"].max() < LOST:
        return Markup("Near the reference all are within {}.").format(number(near["max_rel_error"].max(), 2))
    text = Markup("Near the reference, half of the values are off by more than (and the worst by): {}.")
    return text.format(_listed(near, lambda r: f"{number(r.median_rel_error, 2)} ({number(r.max_rel_error, 2)})"))


def _last(rows: pd.DataFrame) -> list[Markup]:
    """What breaks at the far end: values that are others, gradients that are none."""
    last = rows[rows["regime"].isin(["extreme", "masked"])]
    said = []
    for column, text in (
        ("frac_wrong", "values off by 1 % or more"),
        ("frac_flat", "a gradient of 0 where there is one"),
    ):
        hit = last[last[column] > 0]
        if len(hit):
            said.append(
                Markup("{}, {}: {}.").format(
                    last["regime"].iloc[0].capitalize(), text, _listed(hit, lambda r, c=column: percent(getattr(r, c)))
                )
            )
    lost = last[last["n_nan_gradient"] > 0]
    if len(lost):
        said.append(
            Markup("{}, NaN in the gradient: {}.").format(
                last["regime"].iloc[0].capitalize(), _listed(lost, lambda r: f"{int(r.n_nan_gradient):,} of its elements")
            )
        )
    return said


def _cost(tables: Tables, subject: str, dtype: str) -> Markup:
    table = tables.get("peers_speed")
    if table is None or not len(table):
        return Markup("")
    rows = table[(table["subject"] == subject) & (table["dtype"] == dtype) & (table["library"] != HERE)].rename(
        columns={"name": "name_"}
    )
    said = []
    for direction, of in rows.groupby("pass", sort=False):
        said.append(Markup("{}: {}").format(direction, _listed(of, lambda r: number(r.ratio, 2))))
    return Markup("Time, klbench's = 1, {}.").format(Markup(". ").join(said)) if said else Markup("")


def answer(tables: Tables) -> Sequence[Block]:
    """What the top of the page says, in the first dtype."""
    measured = _measured(tables)
    if not len(measured):
        return [Paragraph("Nothing was compared: no library was to be had.", "warning")]
    dtype = measured["dtype"].iloc[0]
    cards = []
    for subject, rows in measured[measured["dtype"] == dtype].groupby("subject", sort=False):
        said = [Markup("<b>{}</b>, {}").format(subject, dtype), _near(rows), *_last(rows), _cost(tables, str(subject), dtype)]
        cards.append(Markup("").join(Markup("<p>{}</p>").format(each) for each in said if each))
    libraries = [
        f"{name} {version}" for name, version in measured[["library", "version"]].drop_duplicates().itertuples(index=False)
    ]
    asked = "What are the functions of other libraries worth beside klbench's, and what do they cost?"
    note = (
        f"Compared are {', '.join(libraries)}, each on the same inputs in the same format, with one thread. Errors are "
        "relative, against float64 on the inputs as that format has them: what rounding these has cost is nobody's fault "
        "here. A library's clamp counts as an error where the exact value is another one; it may be meant."
    )
    return [Paragraph(asked, "lead"), Paragraph(note), *_missing(tables), Bullets(cards, cards=True)]


def _missing(tables: Tables) -> list[Block]:
    """What was not compared, once for each reason."""
    gone = tables["peers"][tables["peers"]["status"] != "ok"]
    if not len(gone):
        return []
    reasons: dict[str, list[str]] = {}
    for row in gone.itertuples():
        reasons.setdefault(str(row.status).removeprefix("skipped: "), []).append(str(row.name))
    said = "; ".join(f"{', '.join(names)} ({reason})" for reason, names in reasons.items())
    hint = " make peers, in a checkout, has them all." if any("not installed" in reason for reason in reasons) else ""
    return [Paragraph(f"Not compared: {said}.{hint}", "warning")]


def build(tables: Tables) -> Sequence[Block]:
    """What rounding leaves, drawn; and a table for each thing that is computed: accuracy and time side by side."""
    measured = _measured(tables)
    if not len(measured):
        return []
    drawn = section_figures.figures(measured)
    return [
        *drawn,
        *(_table(str(subject), rows, tables.get("peers_speed")) for subject, rows in measured.groupby("subject", sort=False)),
    ]


def _table(subject: str, rows: pd.DataFrame, speed: pd.DataFrame | None) -> Table:
    regimes = list(dict.fromkeys(rows["regime"]))
    last = regimes[-1]
    columns = [Column("Whose", "library and function"), Column("Dtype", "format of the inputs")]
    columns += [
        Column(f"Value, {each}", f"worst relative error of the value; {REGIMES[each]}", numeric=True) for each in regimes
    ]
    columns += [
        Column("Gradient, near", "worst relative error of the gradient there; of logits, over the row's largest", True),
        Column(f"Zero, {last}", "share of the inputs whose gradient is 0 though the exact one is not", True),
        Column("NaN", f"elements of the gradient that are NaN, {last}", True),
        Column("Forward", "time over klbench's: median of the rounds, and quartiles", True),
        Column("Both", "the same, forward and backward", True),
        Column("Same as", "klbench's estimator of these numbers; in float64 they differ by at most this, over 1 + |value|"),
    ]  # fmt: skip
    lines = []
    for (library, name, dtype), of in rows.groupby(["library", "name_", "dtype"], sort=False):
        by = of.set_index("regime")
        twin = of.iloc[0]
        same = (
            f"{twin['twin']} ({number(twin['twin_difference'], 2)})"
            if isinstance(twin.get("twin"), str) and twin["twin"]
            else ""
        )
        cells = [Cell(Markup("{} {}").format(library, _code(name))), Cell(str(dtype))]
        cells += [_error(by["max_rel_error"].get(each)) for each in regimes]
        cells.append(_error(by["max_gradient_rel_error"].get("near")))
        flat, lost = by["frac_flat"].get(last), by["n_nan_gradient"].get(last)
        cells.append(
            Cell(percent(flat) if flat else "0 %" if flat == 0 else MISSING, flat, "bad" if flat and flat > LOST else "")
        )
        cells.append(
            Cell(f"{int(lost):,}" if lost is not None and lost >= 0 else MISSING, lost, "bad" if lost and lost > 0 else "")
        )
        cells += [_time(speed, subject, library, name, dtype, each) for each in ("forward", "forward and backward")]
        cells.append(Cell(_code(same) if same else ""))
        lines.append(cells)
    return Table(f"{subject}: {count(len(lines), 'row')}", columns, lines)


def _error(value: float | None) -> Cell:
    if value is None or value != value:
        return Cell(MISSING, float("nan"))
    return Cell(number(value, 2), value, "bad" if value >= LOST else "good" if value < 1e-5 else "")


def _time(speed: pd.DataFrame | None, *key: object) -> Cell:
    if speed is not None:
        found = speed[(speed[["subject", "library", "name", "dtype", "pass"]] == list(key)).all(axis=1)]
        if len(found):
            row = found.iloc[0]
            return Cell(
                f"{number(row['ratio'], 2)} ({number(row['ratio_q25'], 2)} to {number(row['ratio_q75'], 2)})", row["ratio"]
            )
    return Cell(MISSING, float("nan"))


TERMS = ("r", "schulman", "regimes", "jensen_shannon", "dtypes")

SECTION = Section("Beside other libraries", PEERS, build, answer, order=55, terms=TERMS)
