"""What the training study found, in sentences made from its tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

from markupsafe import Markup

from klbench.report.blocks import Block, Bullets, Heading, Paragraph
from klbench.report.cells import code
from klbench.report.numbers import count, interval, number, percent, percent_interval, short, side
from klbench.report.tables import Row
from klbench.studies.ppo import section_recovery
from klbench.studies.ppo.columns import FRONTIER
from klbench.studies.ppo.section_data import (
    FLOORS,
    GREEDY,
    NONE,
    OPTIMUM,
    REFERENCE,
    UNKNOWN,
    WORDS,
    Trained,
    families,
)
from klbench.studies.ppo.section_tables import side_by_side

WHY = (
    "Does it matter for the policy in the end? Small policies are trained against a reward r less β times the penalty, once "
    "with each estimator and place, on the same prompts, rewards and random numbers. All their sequences are enumerated, so "
    "that the best possible policy is known, and with it each policy's regret: how far its exact objective E r − β KL(q‖p) "
    "stays below the largest possible one."
)
MOST_RUNS = 4
NEAR = 0.25
"""A floor is reached where at most so much of the way to it is left, or training came no further beyond it."""


def _lines(rows: Sequence[Row], said: Sequence[str]) -> Markup:
    lines = [Markup("{}: {}").format(code(row["combination"]), text) for row, text in zip(rows, said, strict=True)]
    return Markup("<p>{}</p>").format(Markup("<br>").join(lines))


def _regrets(rows: Sequence[Row]) -> Markup:
    return _lines(rows, [interval(row, "regret") for row in rows])


def _gone(row: Row) -> str:
    gone = -row["start_difference"]  # of the same seeds
    return percent(gone / (row["regret"] + gone))


def _optimum(trained: Trained) -> Markup | None:
    rows = trained.toward(OPTIMUM)
    if not rows:
        return None
    best = rows[0]
    text = Markup("<p><b>Head for the optimum</b></p><p>Their mean gradient vanishes at the best policy. Regret left:</p>")
    text += _regrets(rows)
    said = f"Of the regret before training, {_gone(best)} to {_gone(rows[-1])} is gone."
    if len(rows) == 1:
        said = f"Of the regret before training, {_gone(best)} is gone."
    point = trained.points.get(best["combination"])
    left = point["noise_free_regret"] if point else math.nan
    if not math.isnan(left):
        said += (
            f" Without noise, on exact gradients, the same policy keeps {number(left, 2)}: what its shape and the number of "
            "steps leave. The rest is noise."
        )
    return text + Markup("<p>{}</p>").format(said)


FLOOR_CARDS: dict[bool | None, tuple[str, str]] = {
    True: (
        "Stall at a floor that was predicted",
        (
            f"At the floor: what is left of the way to it, or lies beyond, is at most {percent(NEAR)} of the way from the "
            "regret before training, by the whole of its 95 % interval, paired by seed."
        ),
    ),
    False: ("Not at the floor that is predicted for them", "Where more training would lead them is not shown here."),
    None: ("At the predicted floor or not: these seeds do not tell", ""),
}


def _floor(trained: Trained, there: bool | None) -> Markup | None:
    rows = [row for row in trained.toward(*FLOORS) if _there(trained, row) is there]
    if not rows:
        return None
    title, closing = FLOOR_CARDS[there]
    text = Markup("<p><b>{}</b></p>").format(title) + _points(trained, rows) + ("" if there else _ways(trained, rows))
    closing = f"{closing} {_on_which(trained)}".strip()
    return text + (Markup("<p>{}</p>").format(closing) if closing else "")


def _ways(trained: Trained, rows: Sequence[Row]) -> Markup:
    said = [
        Markup("{} {}").format(code(row["combination"]), percent_interval(point, "sampled_way"))
        for row in rows
        if (point := trained.points.get(row["combination"])) and math.isfinite(point["sampled_way"])
    ]
    if not said:
        return Markup("")
    text = "<p>Of the way from the regret before training to the predicted one they have gone (95 % intervals): {}.</p>"
    return Markup(text).format(Markup(", ").join(said))


def _there(trained: Trained, row: Row) -> bool | None:
    """Tell whether training has come to its floor, by the interval of how much of the way it went; None: that is open."""
    if not (point := trained.points.get(row["combination"])):
        return None
    near, far = (side(point, "sampled_way", of=1.0 + sign * NEAR) for sign in (-1, 1))
    if near is None or far is None:
        return None
    return True if (near, far) == (1, -1) else False if near == -1 or far == 1 else None


def _points(trained: Trained, rows: Sequence[Row]) -> Markup:
    """By fixed point: what is predicted, and what three trainings reached on the same seeds."""
    text = Markup("")
    for point, members in families([row for row in rows if row["combination"] in trained.points]).items():
        reached = [trained.points[row["combination"]] for row in members]
        said = f"Fixed point of {WORDS[point]}: regret {number(reached[0]['predicted_regret'], 2)}"
        for kind, how in (("free", "with a free logit for every token"), ("noise_free", "in training without noise")):
            value = reached[0][f"{kind}_regret"]
            said += f", {number(value, 2)} {how}" if not math.isnan(value) else ""
            said += _unsettled(reached[0]) if kind == "free" else ""
        text += Markup("<p>{}. With noise:</p>").format(said)
        text += _lines(members, [interval(each, "sampled_regret") for each in reached])
    return text


def _unsettled(point: Row) -> str:
    left = point["free_unsettled"]
    if not left > 0:  # none, or no such training
        return ""
    return f" ({left:.0f} of {count(point['seeds'], 'seed')} not yet at rest after {count(int(point['free_steps']), 'step')})"


def _on_which(trained: Trained) -> str:
    few, seeds = next((row["seeds"] for row in trained.points.values()), 0), trained.seeds
    return f"All of this card is for {few} of the {seeds} seeds." if few not in (0, seeds) else ""


def _unheld(trained: Trained) -> Markup | None:
    rows = trained.toward(GREEDY)
    if not rows:
        return None
    text = Markup("<p><b>Do not regularise at all</b></p><p>No gradient on average: nothing holds the policy. KL, exact:</p>")
    text += _lines(rows, [f"{number(row['kl'], 2)} nats, regret {number(row['regret'], 2)}" for row in rows])
    if trained.reference:
        said = f"{REFERENCE} ends at {number(trained.reference['kl'], 2)} nats. "
        said += f"Regret before training: {number(rows[0]['start_regret'], 2)}."
        text += Markup("<p>{}</p>").format(said)
    return text


def _others(trained: Trained) -> Markup | None:
    rows = trained.toward(UNKNOWN)
    if not rows:
        return None
    text = Markup("<p><b>No fixed point is known</b></p><p>Their mean gradient is of no divergence. Regret left:</p>")
    text += _regrets(rows)
    for which, words in ((1, "Worse than not to train at all"), (0, "Cannot be told from not to train at all")):
        found = [row for row in rows if side(row, "start_difference") == which]
        if found:
            said = [Markup("{} by {}").format(code(row["combination"]), interval(row, "start_difference")) for row in found]
            text += Markup("<p>{} ({}), paired by seed: {}.</p>").format(
                words, number(found[0]["start_regret"], 2), Markup(", ").join(said)
            )
    return text


def _sure(trained: Trained) -> Markup | None:
    """By how much each is behind the comparison, and how sure that is."""
    rows = [row for row in trained.final if row["combination"] != REFERENCE and not math.isnan(row["difference_low"])]
    if not rows:
        return None
    behind, ahead, open_ = ([row for row in rows if side(row, "difference") == which] for which in (1, -1, 0))
    text = Markup("<p><b>How sure?</b></p><p>Paired over {}, against {}: ").format(
        count(trained.seeds, "seed"), code(REFERENCE)
    )
    text += f"{len(behind)} of {count(len(rows), 'combination')} {'are' if len(behind) != 1 else 'is'} behind for sure"
    text += f", {len(ahead)} ahead" if ahead else ""
    text += f", {len(open_)} cannot be told from it" if open_ else ""
    text += Markup(" (95 % intervals).</p>")
    if behind:
        least = min(behind, key=lambda row: row["difference"])
        most = max(behind, key=lambda row: row["difference"])
        text += Markup("<p>The least: {}, by {}. The most: {}, by {}.</p>").format(
            code(least["combination"]), interval(least, "difference"), code(most["combination"]), interval(most, "difference")
        )
    if ahead or open_:
        text += _lines([*ahead, *open_], [f"{interval(row, 'difference')}" for row in [*ahead, *open_]])
    return text


def _frontier(trained: Trained) -> Markup | None:
    rows = [row for row in trained.rows(FRONTIER) if not math.isnan(row["shortfall"])]
    if not rows:
        return None
    by_name: dict[str, list[Row]] = {}
    for row in rows:
        by_name.setdefault(str(row["combination"]), []).append(row)
    text = Markup("<p><b>At equal KL</b></p><p>Reward that is missing to the best policy of the same KL, over all β:</p>")
    groups = sorted(by_name.values(), key=lambda group: _short(max(group, key=_short)))
    leaders = [group[0] for group in groups]
    spans = [[number(row["shortfall"], 2) for row in (min(g, key=_short), max(g, key=_short))] for g in groups]
    text += _lines(leaders, [" to ".join(span) for span in spans])
    return text + Markup("<p>At a fixed β a penalty that does not hold would win on reward; here it cannot.</p>")


def _short(row: Row) -> float:
    return float(row["shortfall"])


def _lead(trained: Trained) -> str:
    first, last = trained.final[0], [row for row in trained.final if math.isfinite(row["regret"])][-1:]
    where = f"{trained.label}: " if trained.label else ""
    algorithm = trained.algorithm.replace("_", " ").upper()
    return (
        f"{where}{count(len(trained.final), 'way', 'ways')} to penalise, {algorithm} with β = {short(trained.beta)}, "
        f"{count(trained.updates, 'update')}, {count(trained.seeds, 'seed')}. Regret before training "
        f"{number(first['start_regret'], 2)}; after it from {number(first['regret'], 2)} to "
        f"{number(last[0]['regret'] if last else math.nan, 2)}."
    )


def answer(runs: Sequence[Trained]) -> list[Block]:
    """The question, and what the tables answer for each run."""
    blocks: list[Block] = side_by_side(runs) if len(runs) > 1 else []
    for trained in runs[:MOST_RUNS]:
        blocks.append(Paragraph(_lead(trained), "lead"))
        if trained is runs[0]:
            blocks.append(Paragraph(WHY))
        blocks += [*_stopped(trained), *_altered(trained)]
        parts: list[Callable[[Trained], Markup | None]] = [_optimum, *(partial(_floor, there=there) for there in FLOOR_CARDS)]
        parts += [_unheld, _others, _sure, _frontier, section_recovery.card]
        cards = [each for part in parts if (each := part(trained))]
        blocks.append(Bullets(cards, cards=True))
    if len(runs) > MOST_RUNS:
        blocks.append(Paragraph(f"The first {MOST_RUNS} of {len(runs)} runs; the others are in the tables below.", "note"))
    return blocks


def _altered(trained: Trained) -> list[Block]:
    """Where training follows another gradient than that of the objective."""
    settings = trained.final[0]["altered_by"]
    if not settings:
        return []
    return [
        Paragraph(
            f"This run has {settings}. That changes the reward's gradient, or its weight against a penalty in the loss: the "
            "fixed points named below are those of the objective as written, and need not be where this run is going."
            + _in_effect(trained),
            "warning",
        )
    ]


def _in_effect(trained: Trained) -> str:
    """What whitening, or a controller, has made of beta for penalties in the loss."""
    rows = [row for row in trained.final if row["placement"] not in ("reward", "reward_to_go", NONE)]
    found = [row["loss_beta"] for row in rows if not math.isnan(row["loss_beta"])]
    if not found or max(abs(each / trained.beta - 1.0) for each in found) < 0.02:
        return ""
    low, high = number(min(found), 2), number(max(found), 2)
    span = low if low == high else f"{low} to {high}"
    return f" Against the reward, β = {short(trained.beta)} of a penalty in the loss has in effect been {span}."


def _stopped(trained: Trained) -> list[Block]:
    if not trained.diverged:
        return []
    said = "; ".join(f"{name}, seed {seed}: {status}" for name, seed, status in trained.diverged[:6])
    more = f"; and {len(trained.diverged) - 6} more" if len(trained.diverged) > 6 else ""
    verb = "is" if len(trained.diverged) == 1 else "are"
    text = f"{count(len(trained.diverged), 'replica')} diverged and {verb} left out of all means and intervals ({said}{more})."
    return [Paragraph(text, "warning")]


def heading(trained: Trained) -> list[Block]:
    """What opens a run's part, where there are several."""
    return [Heading(trained.label)] if trained.label else []
