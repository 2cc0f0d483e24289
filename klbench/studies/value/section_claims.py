"""What the estimators claim, beside what was measured."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from klbench.report.blocks import Block, Cell, Column, Paragraph, Table
from klbench.report.formulas import formula
from klbench.report.numbers import count, listing, number, percent
from klbench.studies.value.section_data import LARGE_Z, Data, plainness

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Judged:
    """An estimator's claims and the worst that was seen of them."""

    name: str
    unbiased: bool
    nonnegative: bool
    z: float
    z_pair: str
    rows: int
    negative: float

    @property
    def bias_seen(self) -> bool:
        return self.z > LARGE_Z

    @property
    def verdict(self) -> str:
        """In words; ``broken`` opens the bad ones."""
        failed = ["biased"] * (self.unbiased and self.bias_seen) + ["negative"] * (self.nonnegative and self.negative > 0)
        if failed:
            return f"broken: {' and '.join(failed)}"
        if self.unbiased and not self.rows:
            return "not judged: no row to be trusted"
        if self.unbiased or self.nonnegative:
            return "kept" if self.unbiased or not self.bias_seen else "kept; biased, as it says"
        return "claims nothing; biased" if self.bias_seen else "claims nothing"


def _rows(data: Data, name: str) -> pd.DataFrame:
    """The rows that judge an estimator's claim: samples of q, or of the third distribution when weighted; no skewed pairs.

    Nor pairs whose p reaches beyond q: claims are for a ratio whose mean is 1.
    """
    ok = data.ok[(data.ok["estimator"] == name) & ~data.ok["pair"].isin({*data.skewed, *data.unreached})]
    ok = ok[ok["pair"].isin(data.off_policy) == (name in data.weighted)]
    return ok[(ok["bias_se"] > 0) & ok["bias"].notna()]


def judged(data: Data) -> list[Judged]:
    """All estimators, in the table's order."""
    result = []
    for row in data.estimators.itertuples():
        name = str(row.estimator)
        rows = _rows(data, name)
        z = (rows["bias"] / rows["bias_se"]).abs()
        negative = data.measured["frac_negative"][data.measured["estimator"] == name].max()
        result.append(
            Judged(
                name,
                bool(row.unbiased_claim),
                bool(row.nonnegative_claim),
                float(z.max()) if len(z) else math.nan,
                str(max(zip(z, rows["pair"], strict=True))[1]) if len(z) else "",
                len(rows),
                float(negative),
            )
        )
    return result


def broken(data: Data) -> list[Markup]:
    """The claims that did not hold, or that all of them did; and what samples of a third distribution do to the unweighted."""
    found = [each for each in judged(data) if each.verdict.startswith("broken")]
    if data.estimators.empty:
        return []
    if not found:
        said = Markup(
            "<b>Claims:</b> none is broken. No estimator that claims to be unbiased is off by more than {} standard "
            "errors on rows "
            "that can be trusted, and none that claims never to be negative ever was."
        ).format(f"{LARGE_Z:g}")
    else:
        parts = [
            Markup("<code>{}</code> {}").format(
                each.name,
                Markup(" and ").join(
                    [
                        Markup("claims to be unbiased and is off by {} standard errors on {}").format(
                            number(each.z, 2), each.z_pair
                        )
                    ]
                    * (each.unbiased and each.bias_seen)
                    + [Markup("claims never to be negative and was in {} of the batches").format(percent(each.negative))]
                    * (each.nonnegative and each.negative > 0)
                ),
            )
            for each in found
        ]
        said = Markup("<b>Claims:</b> those of {} are broken. {}.").format(
            count(len(found), "estimator"), Markup("; ").join(parts)
        )
    return [said, *_off_policy(data), *_unreached(data)]


def _relative(row: dict[str, Any]) -> float:
    """The exact bias over the truth, or the measured one where it is not known; 0 for what rounding leaves of it."""
    bias = float(row["exact_bias"] / row["truth"] if math.isfinite(row["exact_bias"]) else row["rel_bias"])
    return bias if abs(bias) > 1e-12 else 0.0


def _unreached(data: Data) -> list[Markup]:
    """Return sentences on what each estimator loses where no sample shows a part of p."""
    result = []
    for pair, mass in data.unreached.items():
        rows = data.at(pair, data.batches[-1]).values()
        off = [row for row in rows if row["target"] == data.target and math.isfinite(row["rel_bias"])]
        infinite = sorted({str(row["target"]) for row in rows if math.isinf(row["truth"])})
        biases = listing([f"{row['estimator']} {percent(_relative(row))}" for row in off])
        said = Markup(
            "<b>What q never samples:</b> on {} p gives {} of its probability to it. The mean of r is {} and not 1, and what "
            "has r in it is off. Bias over the exact {}: {}."
        ).format(pair, number(mass), number(1.0 - mass), data.target, biases)
        said += Markup(" Infinite there: {}.").format(listing(infinite)) if infinite else Markup("")
        result.append(said + Markup(" No claim covers that, so it breaks none."))
    return result


def _off_policy(data: Data) -> list[Markup]:
    rows = data.ok[data.ok["pair"].isin(data.off_policy) & (data.ok["target"] == data.target) & (data.ok["bias_se"] > 0)]
    rows = rows[rows["estimator"].isin(data.unbiased) & (rows["batch"] == rows["batch"].max())]
    plain, weighted = rows[~rows["estimator"].isin(data.weighted)], rows[rows["estimator"].isin(data.weighted)]
    if plain.empty:
        return []
    worst = {
        str(name): group.loc[group["rel_bias"].abs().idxmax()]
        for name, group in plain.groupby("estimator")
        if group["rel_bias"].notna().any()
    }
    shown = [name for name in ("k1", "k3") if name in worst] or sorted(worst, key=plainness)[:2]
    if not shown:
        return []
    parts = listing([f"{name} by {percent(float(worst[name]['rel_bias']))} of the true value" for name in shown])
    said = Markup(
        "<b>Samples of a third distribution:</b> there, unweighted estimators are off, at worst {}. No claim covers "
        "that, so it breaks none."
    ).format(parts)
    if len(weighted):
        z = (weighted["bias"] / weighted["bias_se"]).abs().max()
        names = listing(sorted(set(weighted["estimator"]), key=plainness))
        said += Markup(" With importance weights, {} {} at most {} standard errors from the truth.").format(
            names, "are" if weighted["estimator"].nunique() > 1 else "is", number(float(z), 2)
        )
    return [said]


def _yes(claimed: bool) -> Cell:
    return Cell("yes" if claimed else "no", float(claimed))


def claims(data: Data) -> list[Block]:
    """The table of claims and how to read it."""
    if data.estimators.empty:
        return []
    described = data.estimators.set_index("estimator")
    columns = [
        Column("Estimator", "name in klbench"),
        Column("Verdict", f"broken if |z| > {LARGE_Z:g}, or if a value was negative against the claim"),
        Column("Estimates", "the divergence that it aims at"),
        Column("Unbiased?", "claimed: its mean is exactly that divergence"),
        Column(
            "Worst |z|",
            "largest distance of its mean from the truth, in standard errors, over trusted rows where the claim applies",
            numeric=True,
        ),
        Column("Never negative?", "claimed: no estimate is below zero"),
        Column("Negative", "largest share of batches with a negative estimate that was measured", numeric=True),
        Column(
            "Gradient as a loss",
            "claimed, not measured here: what its expected gradient is the gradient of, when it is differentiated as a loss "
            "term (blank: of no named divergence)",
        ),
        Column(
            "Terms",
            "the formula that is averaged over the batch; r = p(x)/q(x), w = q(x) over the density that x was drawn from",
        ),
        Column("Also called", "names in other code"),
    ]
    rows = []
    for each in judged(data):
        row = described.loc[each.name]
        bad = each.verdict.startswith("broken")
        rows.append(
            [
                Cell(Markup("<code>{}</code>").format(each.name)),
                Cell(each.verdict, tone="bad" if bad else "good" if each.verdict.startswith("kept") else ""),
                Cell(str(row["target"])),
                _yes(each.unbiased),
                Cell(number(each.z, 2), each.z),
                _yes(each.nonnegative),
                Cell("0 %" if each.negative == 0 else percent(each.negative), each.negative),
                Cell(str(row["gradient_claim"] or "")),
                Cell(formula(str(row["tex"]))),
                Cell(str(row["aliases"] or "")),
            ]
        )
    rows_judged = sum(each.rows for each in judged(data))
    note = (
        f"A |z| of 2 is nothing: over the {rows_judged:,} rows that were judged, a few beyond 3 are expected by chance alone, "
        f"so a claim counts as broken beyond {LARGE_Z:g}. Judged are rows with status ok: unweighted estimators on samples "
        "of q, weighted ones on those of the third distribution. Left out are pairs whose ratio has a tail index from 1/3 on: "
        "there it has no third moment, and a measured mean may stray by many of its standard errors."
    )
    return [Paragraph(note), Table("Claims beside measurements", columns, rows), *_self_check(data)]


def _self_check(data: Data) -> list[Block]:
    z = data.ok["bias_z"].dropna().abs()
    if z.empty:
        return []
    said = Markup(
        "Where the mean of an estimator is known in closed form ({} trusted rows), the measured mean is at most {} "
        "standard errors from it."
    )
    return [Paragraph(said.format(f"{len(z):,}", number(float(z.max()), 2)), "note" if z.max() <= LARGE_Z else "warning")]
