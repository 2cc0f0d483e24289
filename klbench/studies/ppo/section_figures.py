"""Figures of the training study: learning curves, paired differences, frontier, predicted against reached."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

from klbench.report.axes import kl_axis
from klbench.report.blocks import Figure, LegendEntry, Panel
from klbench.report.numbers import short
from klbench.report.plots import AHEAD, BEHIND, OPEN, Axis, Line, Mark, down, legend, lines, verdict
from klbench.report.tables import Row
from klbench.studies.ppo.columns import CURVES, FRONTIER, MATCHED
from klbench.studies.ppo.section_data import OPTIMUM, REFERENCE, Trained
from klbench.studies.ppo.section_recovery import figures as recovery

KINDS = {
    "predicted": LegendEntry("predicted", 5, "D"),
    "free": LegendEntry("free logits", 0, "o"),
    "noise_free": LegendEntry("without noise", 2, "s"),
    "sampled": LegendEntry("with noise", 1, "^"),
}


def _curve(trained: Trained, entries: dict[str, LegendEntry], column: str, label: str, title: str) -> Panel:
    drawn = []
    for name, entry in entries.items():
        rows = [row for row in trained.rows(CURVES) if row["combination"] == name and (column == "regret" or row["step"] > 0)]
        x, y, low, high = ([row[key] for row in rows] for key in ("step", column, f"{column}_low", f"{column}_high"))
        drawn.append(Line(entry, x, y, low, high))
    return lines(title, drawn, Axis("update"), Axis(label, "log"))


def curves(trained: Trained, stem: str) -> list[Figure]:
    """One line for each kind of fixed point, and all that head for the optimum."""
    if not trained.rows(CURVES):
        return []
    leaders, ideal = legend(trained.leaders()), legend([row["combination"] for row in trained.toward(OPTIMUM)])
    caption = (
        "Means over seeds; a band holds the middle 80 % of them. The scales are logarithmic. One line for each fixed point "
        "that a mean gradient can have, by {}."
    ).format("its best combination" if not trained.reference else f"{REFERENCE} for the optimum and the best one elsewhere")
    result = [
        Figure(
            f"training-curves{stem}", "While training", caption,
            [
                _curve(trained, leaders, "regret", "regret J* − J", "Regret"),
                _curve(trained, leaders, "kl", "exact KL(q‖p), nats", "KL"),
            ],
            list(leaders.values()),
        )
    ]  # fmt: skip
    if len(ideal) > 1:
        result.append(
            Figure(
                f"training-optimum{stem}", "Those that head for the optimum",
                "They follow the same mean gradient; what sets them apart is noise. Means over seeds, with the middle 80 %.",
                [_curve(trained, ideal, "regret", "regret J* − J", "Regret")], list(ideal.values()),
            )
        )  # fmt: skip
    return result


def forest(trained: Trained, stem: str) -> list[Figure]:
    """Return paired differences of regret from k1 in the reward."""
    rows = [row for row in trained.final if row["combination"] != REFERENCE and math.isfinite(row["difference"])]
    if not rows:
        return []
    marks = [
        Mark(row["combination"], row["difference"], verdict(*ends), *ends)
        for row in rows
        for ends in [(row["difference_low"], row["difference_high"])]
    ]
    panel = down("Difference in final regret", marks, Axis(f"regret − that of {REFERENCE}", "symlog", levels=[0.0]))
    caption = (
        f"Further left is better. Each seed's regret less that of {REFERENCE} on the same seed; the line is the 95 % "
        "interval of the mean. The scale is logarithmic beyond 0.01."
    )
    return [Figure(f"training-forest{stem}", f"Against {REFERENCE}", caption, [panel], (BEHIND, OPEN, AHEAD))]


def frontier(trained: Trained, stem: str) -> list[Figure]:
    """Reward over KL, a point for each beta, and the best there is."""
    found: dict[str, list[Row]] = {}
    for row in (each for each in trained.rows(FRONTIER) if math.isfinite(each["kl"])):
        found.setdefault(row["combination"], []).append(row)
    if not found:
        return []
    entries = legend([name for name in trained.leaders() if name in found] + [n for n in found if n not in trained.leaders()])
    best = LegendEntry("the best policy of that KL", 5, "_", dashed=True)
    every = sorted((row for name in entries for row in found[name]), key=lambda row: float(row["kl"]))
    drawn = [Line(best, [row["kl"] for row in every], [row["frontier_reward"] for row in every], marked=False)]
    drawn += [_over_kl(entry, found[name], "reward") for name, entry in entries.items()]
    place = partial(kl_axis, kls=[row["kl"] for row in every])
    panels = [lines("Reward over KL", drawn, Axis("exact KL(q‖p), nats", place=place), Axis("expected reward"))]
    panels += _matched(trained, entries)
    caption = (
        "Higher is better. Each point is a β; vertical lines are 95 % intervals of the reward over seeds. Dashed: "
        "the most reward that any policy of that KL can have. The second panel: the reward less that of k1_reward at the KL "
        "to which that came, interpolated between each seed's points."
    )
    title = "Reward at equal KL"
    return [Figure(f"training-frontier{stem}", title, caption, panels, [*entries.values(), best])]


def _over_kl(entry: LegendEntry, rows: Sequence[Row], column: str) -> Line:
    rows = sorted(rows, key=lambda row: float(row["kl"]))
    kl, y, low, high = ([row[key] for row in rows] for key in ("kl", column, f"{column}_low", f"{column}_high"))
    return Line(entry, kl, y, low, high, bars=True)


def _matched(trained: Trained, entries: dict[str, LegendEntry]) -> list[Panel]:
    rows = [row for row in trained.rows(MATCHED) if row["combination"] in entries]
    if not rows:
        return []
    drawn = [
        _over_kl(entry, mine, "difference")
        for name, entry in entries.items()
        if (mine := [row for row in rows if row["combination"] == name])
    ]
    x = Axis("exact KL(q‖p), nats", place=partial(kl_axis, kls=[row["kl"] for row in rows]))
    return [lines(f"Against {REFERENCE}", drawn, x, Axis(f"reward − {REFERENCE}'s", levels=[0.0]), left=0.19)]


def predicted(trained: Trained, stem: str) -> list[Figure]:
    """Predicted regret beside what three kinds of training reached."""
    rows = [row for row in trained.points.values() if row["fixed_point"]]
    if not rows:
        return []
    rows.sort(key=lambda row: (row["predicted_regret"] if row["predicted_regret"] > 1e-9 else 0.0, row["sampled_regret"]))
    marks = [
        Mark(row["combination"], max(row[f"{kind}_regret"], 0.0), entry, size=7.5 if kind == "predicted" else 4.4)
        for row in rows
        for kind, entry in KINDS.items()
        if math.isfinite(row[f"{kind}_regret"])
    ]
    panel = down("Regret", marks, Axis("regret J* − J", "symlog"))
    caption = (
        "The diamond is the regret of the policy at which the combination's mean gradient vanishes, computed from reference, "
        f"reward and β = {short(trained.beta)} alone. Free logits: a logit for every token after every prefix, each moved by "
        "the sign of its exact gradient. Without noise: the small policy itself on exact gradients; it cannot be every "
        "policy, and the steps are few. With noise: as it was trained. The scale is logarithmic beyond 0.01."
    )
    return [Figure(f"training-fixed-points{stem}", "Predicted, and reached", caption, [panel], list(KINDS.values()))]


def figures(trained: Trained) -> list[Figure]:
    """Return all figures of a run."""
    return [figure for part in (curves, forest, predicted, frontier, recovery) for figure in part(trained, trained.stem)]
