"""Figures of the gradient study: settings by how far off they are, mean gradients as arrows, and noise with the reward."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from klbench.report.blocks import Figure, LegendEntry, Panel
from klbench.report.combinations import MOST, joined, named, share
from klbench.report.figures import FAINT, TEXT, colour, drawing
from klbench.report.numbers import short
from klbench.report.plots import Axis, Bar, Mark, bars, down
from klbench.report.prose import prose
from klbench.report.tables import Row
from klbench.studies.gradient.columns import ARROWS
from klbench.studies.gradient.section_data import VERDICT_ORDER, Gradients

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SAY = prose(__package__)
VERDICTS = {
    word: LegendEntry(str(SAY.verdict_label(word)), slot, "s")
    for word, slot in zip(VERDICT_ORDER, (3, 1, 4, 0, 2), strict=True)
}
MOST_BARS = 24
LONGEST = 1.2
"""Bars end here, in lengths of the exact gradient."""
DRAWN = ("k1_loss", "k2_loss", "k3_loss", "k1_reward", "k1_reward_batch_mean", "k2_reward", "k3_reward")
"""Combinations that are drawn as arrows where the run was not asked for some by name."""
EXACT = {"exact KL(q‖p)": 0, "exact KL(p‖q)": 1}
SIDE = 330
MAX_PANELS = 4

Tip = tuple[float, float]


def _bar(row: Row, name: str) -> Bar:
    right = row["verdict"] == "right"
    far, near = (0.0 if right else row[f"rel_bias_{end}"] for end in ("far", "near"))
    lines = textwrap.wrap(name, 30, break_on_hyphens=False, break_long_words=False)
    text = "\n".join([*lines[:1], textwrap.shorten(" ".join(lines[1:]), 30, placeholder="…")] if lines[1:] else lines)
    return Bar(text, 100 * far, VERDICTS[row["verdict"]], share(far), math.nan if near == far else 100 * near)


def _by_trainer(rows: Iterable[Row]) -> list[tuple[str, list[Bar]]]:
    """Return the bars of each trainer, those with most settings first."""
    found: dict[str, list[Bar]] = {}
    for row in rows:
        if row["trainer"]:
            setting = " ".join(row["option"].partition(" (")[0].replace(row["trainer"], "", 1).replace(" :", ":").split())
            found.setdefault(row["trainer"], []).append(_bar(row, setting or row["option"].partition(" (")[0]))
    return sorted(found.items(), key=lambda each: -len(each[1]))


def settings(run: Gradients) -> Figure | None:
    """Return how far off each trainer's setting is, or each combination that was asked for."""
    axis = Axis("off by, % of the exact gradient")
    rows = run.typed or ([] if any(row["trainer"] for row in run.options) else run.verdicts)
    columns: list[list[Bar]] = [[_bar(row, named(row)) for row in rows[:MOST_BARS]]] if rows else [[], []]
    titles: list[list[str]] = [[] for _ in columns]
    for trainer, drawn in [] if rows else _by_trainer(run.options):
        shortest = min(range(2), key=lambda i: len(columns[i]))
        columns[shortest] += [Bar(trainer), *drawn]
        titles[shortest].append(trainer)
    panels = [
        bars(", ".join(title) or run.label or SAY.all_of_them(), drawn[len(title) == 1 :], axis, most=100 * LONGEST, left=0.55)
        for title, drawn in zip(titles, columns, strict=True)
        if drawn
    ]
    if not panels:
        return None
    shown = {row["verdict"] for row in rows[:MOST_BARS] or run.options}
    caption = SAY.settings_caption(*run.named_ends, len(rows[MOST_BARS:]))
    legend = [entry for word, entry in VERDICTS.items() if word in shown]
    return Figure(f"gradient-settings{run.stem}", str(SAY.settings_title()), caption, panels, legend)


def _tips(run: Gradients, pair: str) -> dict[Tip, list[str]]:
    """Return names by where their arrows end; those that end at one point together, the exact ones first."""
    ends = {
        row["combination"]: (row["first"], row["second"])
        for row in run.rows(ARROWS)
        if row["pair"] == pair and math.isfinite(row["first"]) and math.isfinite(row["second"])
    }
    several = [name for name in arrows_drawn(run) if name in ends]
    near = 0.02 * max((math.hypot(*tip) for name, tip in ends.items() if name in (*EXACT, *several)), default=1.0)
    tips: dict[Tip, list[str]] = {}
    for name in [each for each in EXACT if each in ends] + several:
        home = next((tip for tip in tips if math.dist(tip, ends[name]) <= near), None)
        tips.setdefault(home or ends[name], []).append(name)
    return tips


def arrows_drawn(run: Gradients) -> list[str]:
    """Return the combinations whose arrows are drawn: those that were asked for by name, or well-known ones."""
    known = [row["combination"] for row in run.verdicts]
    return ([row["combination"] for row in run.typed] or [name for name in DRAWN if name in known] or known)[:MOST]


def _text(names: Sequence[str]) -> list[str]:
    """A label's lines: the divergence, if it is one, and the combinations that end there."""
    lines = [name.replace("exact ", "∇ ") for name in names if name.startswith("exact")]
    return lines + [name for name in names if not name.startswith("exact")]


def _overlap(one: Sequence[float], other: Sequence[float]) -> float:
    wide = min(one[2], other[2]) - max(one[0], other[0])
    high = min(one[3], other[3]) - max(one[1], other[1])
    return wide * high if wide > 0 and high > 0 else 0.0


def _place(tips: dict[Tip, list[str]], low: Tip, scale: float) -> dict[Tip, tuple[float, float, str]]:
    """Where each label goes, in points from the lower left: the candidate that covers least of arrows and other labels."""
    at = {tip: ((tip[0] - low[0]) * scale, (tip[1] - low[1]) * scale) for tip in tips}
    origin = (-low[0] * scale, -low[1] * scale)
    strokes = [
        (x - 2, y - 2, x + 2, y + 2)
        for end in at.values()
        for step in range(41)
        for x, y in [(origin[0] + (end[0] - origin[0]) * step / 40, origin[1] + (end[1] - origin[1]) * step / 40)]
    ]
    dots = [(x - 5, y - 5, x + 5, y + 5) for x, y in at.values()]
    placed: dict[Tip, tuple[float, float, str]] = {}
    boxes: list[tuple[float, float, float, float]] = []
    for tip in sorted(tips, key=lambda each: -len(tips[each])):
        lines = _text(tips[tip])
        width, height = 6.3 * max(map(len, lines)) + 2, 13.5 * len(lines)
        best: tuple[float, tuple[float, float, float, float], tuple[float, float, str]] | None = None
        for distance in (8.0, 16.0, 28.0, 42.0):
            for turn in range(16):
                angle = math.pi * turn / 8
                x, y = at[tip][0] + distance * math.cos(angle), at[tip][1] + distance * math.sin(angle)
                right = math.cos(angle) >= 0
                box = (x if right else x - width, y - height / 2, x + width if right else x, y + height / 2)
                outside = max(0.0, -box[0]) + max(0.0, box[2] - SPAN) + max(0.0, -box[1]) + max(0.0, box[3] - SPAN)
                covered = sum(_overlap(box, each) for each in (*strokes, *dots)) + 4 * sum(
                    _overlap(box, each) for each in boxes
                )
                cost = covered + 40 * outside + 1.5 * distance
                if best is None or cost < best[0]:
                    best = (cost, box, (x, y, "left" if right else "right"))
        assert best is not None
        boxes.append(best[1])
        placed[tip] = best[2]
    return placed


SPAN = 290.0
"""Points along each side of the square that arrows are drawn in."""


def _arrow(axes: Axes, tip: Tip, slot: int | None) -> None:
    exact = slot is not None
    style = {"arrowstyle": "-|>", "color": colour(slot or 0) if exact else TEXT, "linewidth": 3.2 if exact else 1.0,
             "shrinkA": 0, "shrinkB": 0, "mutation_scale": 15 if exact else 9}  # fmt: skip
    axes.annotate("", xy=tip, xytext=(0.0, 0.0), arrowprops=style, zorder=2 if exact else 3)


def _panel(run: Gradients, pair: str) -> Panel | None:
    tips = _tips(run, pair)
    if not tips:
        return None
    xs, ys = ([0.0, *(tip[i] for tip in tips)] for i in (0, 1))
    side = 1.45 * max(max(xs) - min(xs), max(ys) - min(ys), 1e-9)
    low = ((max(xs) + min(xs) - side) / 2, (max(ys) + min(ys) - side) / 2)
    scale = SPAN / side
    with drawing(left=0.15, bottom=0.14, height=SIDE) as (axes, svg):
        axes.set_xlim(low[0], low[0] + side)
        axes.set_ylim(low[1], low[1] + side)
        axes.axhline(0.0, color=FAINT, linewidth=0.8, zorder=0)
        axes.axvline(0.0, color=FAINT, linewidth=0.8, zorder=0)
        axes.locator_params(nbins=5)
        places = _place(tips, low, scale)
        for tip, names in tips.items():
            slot = next((EXACT[name] for name in names if name in EXACT), None)
            length = math.hypot(*tip) * scale
            if length < 4:
                axes.plot(0.0, 0.0, "o", color=TEXT, markersize=6, zorder=4)
            else:
                _arrow(axes, tip, slot)
            x, y, side_of = places[tip]
            aside = (low[0] + x / scale, low[1] + y / scale)
            if math.dist(aside, tip) * scale > 20:  # so that the eye finds the arrow that a label belongs to
                axes.plot(*zip(tip, aside, strict=True), color=TEXT, linewidth=0.6, linestyle=":", zorder=4)
            lines = _text(names)
            for i, line in enumerate(lines):
                bold = line.startswith("∇")
                axes.annotate(
                    line, xy=(low[0] + x / scale, low[1] + (y + 13.5 * (len(lines) / 2 - i - 0.5)) / scale), fontsize=11,
                    ha=side_of, va="center", color=colour(slot) if bold and slot is not None else TEXT,
                    fontweight="bold" if bold else "normal", zorder=5,
                )  # fmt: skip
        axes.set_xlabel("gradient in the policy's mean")
        axes.set_ylabel("gradient in its log-scale")
    longest = max(math.hypot(*tip) for tip in tips)

    def number(x: float) -> str:
        return short(x if abs(x) > 1e-6 * longest else 0.0, 2)

    said = "; ".join(f"{', '.join(_text(names))} at ({number(x)}, {number(y)})" for (x, y), names in tips.items())
    return Panel(run.pair_label(pair), svg[0], f"Mean gradients on {pair}: {said}.")


def arrows(run: Gradients) -> Figure | None:
    """Return the mean gradients of policies of two parameters."""
    pairs = list(dict.fromkeys(row["pair"] for row in run.rows(ARROWS)))
    panels = [panel for pair in pairs[:MAX_PANELS] if (panel := _panel(run, pair)) is not None]
    if not panels:
        return None
    left_out = len({row["combination"] for row in run.rows(ARROWS)} - set(EXACT)) - len(arrows_drawn(run))
    caption = SAY.arrows_caption(len(pairs), len(panels), max(0, left_out))
    return Figure(f"gradient-arrows{run.stem}", str(SAY.arrows_title()), caption, panels)


ALONE, TOGETHER = (
    LegendEntry(str(SAY.noise_label(alone)), slot, marker) for alone, slot, marker in ((True, 1, "o"), (False, 0, "s"))
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
        panels.append(down(run.pair_label(pair), marks, Axis(str(SAY.noise_axis()), levels=(0.0,)), left=0.52))
    return Figure(
        f"gradient-objective{run.stem}",
        str(SAY.noise_title()),
        SAY.noise_caption(len(groups[MOST + 4 :])),
        panels,
        [ALONE, TOGETHER],
    )
