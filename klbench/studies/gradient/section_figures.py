"""Figures of the gradient study.

Settings by how far off they are, mean gradients as arrows, and noise with the reward.
"""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Sequence

from klbench.report.blocks import Figure, LegendEntry, Panel
from klbench.report.combinations import MOST, amount, joined, named, share
from klbench.report.panels import Arrow, Bar, bars, bars_height
from klbench.report.panels import arrows as arrow_panel
from klbench.report.plots import Axis, Mark, down
from klbench.report.prose import prose
from klbench.report.tables import Row
from klbench.rows import column_of, distinct, finite, where
from klbench.studies.gradient.columns import ARROWS
from klbench.studies.gradient.section_data import VERDICT_ORDER, Gradients

SAY = prose(__package__)
VERDICTS = {
    word: LegendEntry(str(SAY.verdict_label(word)), slot, "s")
    for word, slot in zip(VERDICT_ORDER, (3, 1, 4, 0, 2), strict=True)
}
MOST_BARS = 24
COLUMNS = 3
LINE = 30
"""Letters of a line of a label."""
LONGEST = 1.2
"""Bars end here, in lengths of the exact gradient."""
DRAWN = (
    "k1_loss",
    "k2_loss",
    "k3_loss",
    "k1_reward",
    "k1_reward_batch_mean",
    "k2_reward",
    "k3_reward",
)
"""Combinations that are drawn as arrows where the run was not asked for some by name."""
EXACT = {
    "exact KL(q‖p)": LegendEntry("∇ KL(q‖p)", 0, ""),
    "exact KL(p‖q)": LegendEntry("∇ KL(p‖q)", 1, ""),
}
MAX_PANELS = 4
OTHER_VALUES = re.compile(r"(?<=[^\s|])\|\S+")
"""The values of an option after the first, which mean the same."""

Tip = tuple[float, float]


def _wrapped(name: str) -> str:
    """Return a setting in lines of a label, one too long for a line broken after its ``=``."""
    words = [word if len(word) <= LINE else word.replace("=", "= ", 1) for word in name.split(" ")]
    return textwrap.fill(" ".join(words), LINE, break_on_hyphens=False)


def _bar(row: Row, name: str, more: int = 0) -> Bar:
    right = row["verdict"] == "right"
    far, near = (0.0 if right else row[f"rel_bias_{end}"] for end in ("far", "near"))
    return Bar(
        _wrapped(OTHER_VALUES.sub("", name) + (SAY.and_more(more) if more else "")),
        100 * far,
        VERDICTS[row["verdict"]],
        share(far),
        math.nan if near == far else 100 * near,
    )


def _settings_of(trainer: str, rows: Sequence[Row]) -> list[Bar]:
    """Return a trainer's name and its settings; one bar stands for those with the same bias."""
    alike: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        numbers = (amount(row["rel_bias_near"]), amount(row["rel_bias_far"]))
        alike.setdefault((row["verdict"], *numbers), []).append(row)
    drawn = [Bar(trainer)]
    for first, *others in alike.values():
        written = first["option"].partition(" (")[0]
        own = written.replace(trainer, "", 1).replace(" :", ":").split()
        drawn.append(_bar(first, " ".join(own) or written, len(others)))
    return drawn


def _by_trainer(rows: Sequence[Row]) -> list[list[Bar]]:
    """Return the bars of trainers in columns of about the same length."""
    trainers = filter(None, distinct(rows, "trainer"))
    groups = [_settings_of(trainer, where(rows, trainer=trainer)) for trainer in trainers]
    columns: list[list[Bar]] = [[] for _ in range(COLUMNS)]
    for group in sorted(groups, key=bars_height, reverse=True):
        min(columns, key=bars_height).extend(group)
    return [column for column in columns if column]


def settings(run: Gradients) -> Figure | None:
    """Return how far off each trainer's setting is, or each combination that was asked for."""
    rows = run.typed or ([] if any(column_of(run.options, "trainer")) else run.verdicts)
    axis = Axis("off by, % of the exact gradient")
    if rows:
        columns = [[_bar(row, named(row)) for row in rows[:MOST_BARS]]]
    else:
        columns = _by_trainer(run.options)
    if not columns:
        return None
    title = (run.label or str(SAY.all_of_them())) if rows else ""
    height = max(map(bars_height, columns))
    panels = [
        bars(title, drawn, axis, most=100 * LONGEST, left=0.55, height=height) for drawn in columns
    ]
    shown = {bar.entry for drawn in columns for bar in drawn}
    caption = SAY.settings_caption(*run.named_ends, len(rows[MOST_BARS:]))
    legend = [entry for entry in VERDICTS.values() if entry in shown]
    return run.figure("gradient-settings", str(SAY.settings_title()), caption, panels, legend)


def _tips(run: Gradients, pair: str) -> dict[Tip, list[str]]:
    """Return names by where their arrows end.

    Those that end at one point together, the exact ones first.
    """
    ends = {
        row["combination"]: (row["first"], row["second"])
        for row in finite(where(run.rows(ARROWS), pair=pair), "first", "second")
    }
    several = [name for name in arrows_drawn(run) if name in ends]
    near = 0.02 * max(
        (math.hypot(*tip) for name, tip in ends.items() if name in (*EXACT, *several)), default=1.0
    )
    tips: dict[Tip, list[str]] = {}
    for name in [each for each in EXACT if each in ends] + several:
        home = next((tip for tip in tips if math.dist(tip, ends[name]) <= near), None)
        tips.setdefault(home or ends[name], []).append(name)
    return tips


def arrows_drawn(run: Gradients) -> list[str]:
    """Return the combinations whose arrows are drawn.

    Those that were asked for by name, or well-known ones.
    """
    known = column_of(run.verdicts, "combination")
    return (
        column_of(run.typed, "combination") or [name for name in DRAWN if name in known] or known
    )[:MOST]


def _panel(run: Gradients, pair: str) -> Panel | None:
    drawn = [
        Arrow(
            *tip,
            [name for name in names if name not in EXACT],
            next((EXACT[name] for name in names if name in EXACT), None),
        )
        for tip, names in _tips(run, pair).items()
    ]
    return (
        arrow_panel(run.pair_label(pair), drawn, SAY.arrow_axis(0), SAY.arrow_axis(1))
        if drawn
        else None
    )


def arrows(run: Gradients) -> Figure | None:
    """Return the mean gradients of policies of two parameters."""
    pairs = distinct(run.rows(ARROWS), "pair")
    panels = [panel for pair in pairs[:MAX_PANELS] if (panel := _panel(run, pair)) is not None]
    if not panels:
        return None
    left_out = len({row["combination"] for row in run.rows(ARROWS)} - set(EXACT)) - len(
        arrows_drawn(run)
    )
    caption = SAY.arrows_caption(len(pairs), len(panels), max(0, left_out))
    return run.figure("gradient-arrows", SAY.arrows_title(), caption, panels, EXACT)


ALONE, TOGETHER = (
    LegendEntry(str(SAY.noise_label(alone)), slot, marker)
    for alone, slot, marker in ((True, 1, "o"), (False, 0, "s"))
)


def whole_objective(run: Gradients) -> Figure | None:
    """Return the noise of the right ones, alone and with the reward."""
    groups = [rows[0] for rows in joined(run.right).values() if rows[0]["place"] >= 1]
    if len(groups) < 2:
        return None
    panels = []
    for end, pair in zip(("near", "far"), run.ends, strict=False):
        marks = [
            Mark(named(row), row[f"{measure}_{end}"], entry)
            for row in groups[: MOST + 4]
            for measure, entry in (("rel_std", ALONE), ("total_rel_std", TOGETHER))
        ]
        panels.append(
            down(run.pair_label(pair), marks, Axis(str(SAY.noise_axis()), levels=(0.0,)), left=0.52)
        )
    caption = SAY.noise_caption(len(groups[MOST + 4 :]))
    return run.figure(
        "gradient-objective", str(SAY.noise_title()), caption, panels, [ALONE, TOGETHER]
    )
