"""Figures of the gradient study: mean gradients as arrows, and noise alone beside noise with the reward."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from klbench.report.axes import rows_of_bars
from klbench.report.blocks import Figure, LegendEntry, Panel
from klbench.report.combinations import Data, amount
from klbench.report.figures import FAINT, TEXT, colour, drawing
from klbench.report.numbers import short
from klbench.studies.gradient.section_answer import ranked

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DRAWN = (
    "k1_loss", "k2_loss", "k3_loss", "k1_reward", "k1_reward_batch_mean", "k2_reward", "k3_reward",
)  # fmt: skip
EXACT = {"exact KL(q‖p)": 0, "exact KL(p‖q)": 1}
SIDE = 330
MAX_ROWS = 12
MAX_PANELS = 4

Tip = tuple[float, float]


def _tips(data: Data, pair: str) -> dict[Tip, list[str]]:
    """Names by where their arrows end; those that end at one point together, the exact ones first."""
    ends = {
        str(each["combination"]): (float(each["first"]), float(each["second"]))
        for each in data.arrows
        if each["pair"] == pair and math.isfinite(each["first"]) and math.isfinite(each["second"])
    }
    several = [name for name in DRAWN if name in ends] or [name for name in ends if not name.startswith("exact")][:8]
    near = 0.02 * max((math.hypot(*tip) for name, tip in ends.items() if name in (*EXACT, *several)), default=1.0)
    tips: dict[Tip, list[str]] = {}
    for name in [each for each in EXACT if each in ends] + several:
        home = next((tip for tip in tips if math.dist(tip, ends[name]) <= near), None)
        if home is None:
            tips[ends[name]] = [name]
        else:
            tips[home].append(name)
    return tips


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
        width, height = 5.3 * max(map(len, lines)) + 2, 12.0 * len(lines)
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


def _panel(data: Data, pair: str) -> Panel | None:
    tips = _tips(data, pair)
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
                    line, xy=(low[0] + x / scale, low[1] + (y + 12 * (len(lines) / 2 - i - 0.5)) / scale), fontsize=9,
                    ha=side_of, va="center", color=colour(slot) if bold and slot is not None else TEXT,
                    fontweight="bold" if bold else "normal", zorder=5,
                )  # fmt: skip
        axes.set_xlabel("gradient in the policy's mean")
        axes.set_ylabel("gradient in its log-scale")
    longest = max(math.hypot(*tip) for tip in tips)

    def number(x: float) -> str:
        return short(x if abs(x) > 1e-6 * longest else 0.0, 2)

    said = "; ".join(f"{', '.join(_text(names))} at ({number(x)}, {number(y)})" for (x, y), names in tips.items())
    return Panel(pair, svg[0], f"Mean gradients on {pair}: {said}.")


def arrows(data: Data) -> Figure | None:
    """Mean gradients of policies of two parameters."""
    pairs = list(dict.fromkeys(str(each["pair"]) for each in data.arrows))
    panels = [panel for pair in pairs[:MAX_PANELS] if (panel := _panel(data, pair)) is not None]
    if not panels:
        return None
    caption = (
        "Each policy here is a bell curve with two parameters, its mean and the logarithm of its width, so that a gradient is "
        "an arrow in the plane. Thick arrows are the exact gradients (∇) of the two divergences, thin ones the means of what "
        "the combinations give; names that share an arrow share its end. A penalty moves the policy against its arrow. A "
        "point at the origin is a penalty that does nothing on average. Only what ends where ∇ KL(q‖p) ends reduces that "
        "divergence as it should; whatever points to the other side increases it."
    )
    if len(pairs) > MAX_PANELS:
        caption += f" Drawn are the first {MAX_PANELS} of {len(pairs)} pairs."
    return Figure("gradient-arrows", "What the gradients point at", caption, panels)


ALONE, TOGETHER = LegendEntry("penalty alone", 1, "o"), LegendEntry("reward and penalty together, at the optimum", 0, "s")


def whole_objective(data: Data) -> Figure | None:
    """Of the exact combinations, the noise of the penalty alone and of the whole objective."""
    panels = []
    for pair in data.ends:
        found = ranked(data, pair)[:MAX_ROWS]
        if len(found) < 2:
            continue
        with drawing(left=0.5, bottom=46 / (70 + 19 * len(found)), height=70 + 19 * len(found)) as (axes, svg):
            for y, (_, row) in enumerate(found):
                axes.plot([row.noise, row.total], [y, y], color=FAINT, linewidth=2.0, zorder=1)
                for entry, x in ((ALONE, row.noise), (TOGETHER, row.total)):
                    axes.plot(x, y, linestyle="none", marker=entry.marker, color=colour(entry.slot), clip_on=False, zorder=3)
            rows_of_bars(axes, [group.leader for group, _ in found], "sd / exact gradient")
            axes.tick_params(axis="y", labelsize=8.5)
            axes.set_xlim(left=0.0)
        said = "; ".join(f"{group.leader} {amount(row.noise)} and {amount(row.total)}" for group, row in found)
        panels.append(Panel(data.label(pair), svg[0], f"Noise alone and with the reward on {data.label(pair)}: {said}."))
    if not panels:
        return None
    caption = (
        "Further left is better. Only combinations whose mean is the gradient of KL(q‖p) on every pair; of those with the "
        "same numbers, one. Circles: the noise of the penalty's own gradient. Squares: that of the gradient of reward and "
        "penalty together, for a policy that is already the best one for its reward, with the exact mean as baseline. There, "
        "what the reward says of a sample is what the penalty takes back: a penalty that stands where the reward does can "
        "cancel with it, however noisy it is alone; one with little noise of its own leaves the reward's noise as it is."
    )
    title = "Noise of the penalty, and of what training really adds up"
    return Figure("gradient-objective", title, caption, panels, [ALONE, TOGETHER])
