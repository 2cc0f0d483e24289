"""The figure of the comparison with other libraries: what is left of a value, near the reference and far from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from klbench.report.axes import log_ticks
from klbench.report.blocks import Figure, LegendEntry, Panel
from klbench.report.figures import MARKERS, TEXT, colour, drawing
from klbench.report.numbers import number

if TYPE_CHECKING:
    import pandas as pd

REGIMES = ("near", "usual", "far")
FLOOR = 1e-9
"""Errors below this, 0 among them, are drawn there."""


def _panel(subject: str, rows: pd.DataFrame, legend: dict[str, LegendEntry], top: float) -> Panel:
    said = []
    with drawing(left=0.17) as (axes, svg):
        axes.axhline(1.0, color=TEXT, linewidth=0.9, linestyle="--", zorder=1)
        for library, of in rows.groupby("library", sort=False):
            errors = of.set_index("regime")["median_rel_error"]
            known = [(k, float(errors[each])) for k, each in enumerate(REGIMES) if each in errors]
            entry = legend[str(library)]
            axes.plot(
                [k for k, _ in known], [max(each, FLOOR) for _, each in known], marker=entry.marker, color=colour(entry.slot)
            )
            said.append(f"{library} {number(known[0][1], 2)}")
        axes.set_yscale("log")
        axes.set_ylim(FLOOR / 2, top)
        log_ticks(axes.yaxis, FLOOR / 2, top)
        axes.set_xticks(range(len(REGIMES)), REGIMES)
        axes.set_xlim(-0.2, len(REGIMES) - 0.8)
        axes.set_ylabel("median relative error")
    return Panel(subject, svg[0], f"Median relative error of {subject} near the reference: {', '.join(said)}.")


def figures(measured: pd.DataFrame) -> list[Figure]:
    """A panel a subject, in the first dtype: those that not all libraries compute alike."""
    dtype = measured["dtype"].iloc[0]
    rows = measured[(measured["dtype"] == dtype) & measured["regime"].isin(REGIMES)]
    worst = rows.groupby("subject", sort=False)["median_rel_error"].max()
    rows = rows[rows["subject"].isin(worst[worst > 1e-3].index)]
    if not len(rows):
        return []
    names = list(dict.fromkeys(rows["library"]))
    legend = {name: LegendEntry(name, k, MARKERS[k % len(MARKERS)]) for k, name in enumerate(names)}
    top = max(10.0, 3.0 * float(rows["median_rel_error"].max()))
    panels = [_panel(str(subject), of, legend, top) for subject, of in rows.groupby("subject", sort=False)]
    caption = (
        "Lower is better. Half of the values are off by more than the point says, as a fraction of the exact one; at the "
        "dashed line nothing is left of them. At near, where training with a KL penalty begins, policy and reference are all "
        "but equal: log-ratios, or differences of logits, of about 0.001. At usual they are 0.3, at far 3."
    )
    return [Figure("peers", f"What rounding leaves of the value, {dtype}", caption, panels, list(legend.values()))]
