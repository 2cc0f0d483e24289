"""What the DPO study found, in sentences made from its tables."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from klbench.report.blocks import Block, Bullets, Paragraph
from klbench.report.numbers import count, interval, number, percent, short, side
from klbench.report.tables import Row
from klbench.studies.dpo.columns import DPO_RATES, DPO_SEEN
from klbench.studies.dpo.section_data import STANDARD, Preferred, pairs, symbol

WHY = (
    "DPO trains on ranked pairs of answers instead of a reward: its loss is least, if all pairs there are could be had, at the "
    "policy that is the best for the reward behind the labels less β times KL(q‖p). Here that policy is known exactly, and so "
    "is, at every step, how far the trained one is from it: KL(q‖q*)."
)
MOST_RUNS = 4


def _card(title: str, *parts: Markup | str) -> Markup:
    return Markup("<p><b>{}</b></p>").format(title) + Markup("").join(
        Markup("<p>{}</p>").format(part) for part in parts if part
    )


def _lines(lines: Sequence[str]) -> Markup:
    return Markup("<br>").join(lines)


def _by_pairs(run: Preferred) -> Markup | None:
    rows = run.of(STANDARD)
    if not rows:
        return None
    start = run.start
    lines = [f"{pairs(row['pairs'])}: {interval(row, 'last')}, at its best {number(row['best'], 2)}" for row in rows]
    rate = next((row for row in run.rows(DPO_RATES) if row["arm"] == STANDARD), None)
    said = ""
    if rate and not math.isnan(rate["best_exponent"]):
        said = f"At its best it falls with the number of pairs to the power {interval(rate, 'best_exponent')}."
    return _card(
        "How many pairs?",
        f"KL(q‖q*) after training with standard DPO, and at the best checkpoint, in nats; before training {number(start, 2)}:",
        _lines(lines), said,
    )  # fmt: skip


def _early(run: Preferred) -> Markup | None:
    start = run.start
    rows = [row for row in run.of(STANDARD) if math.isfinite(row["pairs"])]
    if not rows or math.isnan(start):
        return None
    worse, open_, nearer = ([row for row in rows if side(row, "last_start_difference") == which] for which in (1, 0, -1))
    said = f"With {_with(worse)} the policy ends further from the optimum than the reference was. " if worse else ""
    said += f"With {_with(open_)} it cannot be told from the reference. " if open_ else ""
    said += f"With {_with(nearer)} it ends nearer. " if nearer else ""
    said = f"{said}(Paired by seed, 95 %.)" if said else "Too few seeds to tell."
    first = rows[0]
    held = "; ".join(f"{pairs(row['pairs'])} {number(row['stopped'], 2)}" for row in rows)
    return _card(
        "Does it overfit?", said,
        f"With {pairs(first['pairs'])} its loss on them went from {number(math.log(2), 2)} to {number(first['loss'], 2)}, and "
        f"that on all pairs to {number(first['population_loss'], 2)}. It ranks {percent(first['accuracy'])} of its own pairs "
        f"as they are labelled, and {percent(first['population_accuracy'])} of all pairs. Its KL(q‖p) is then "
        f"{number(first['kl'], 2)} nats; the optimum's is {number(run.optima.get(STANDARD, {}).get('own_kl', math.nan), 2)}.",
        f"Stopped where the loss on all pairs is least, KL(q‖q*) would be: {held}.",
    )  # fmt: skip


def _with(rows: Sequence[Row]) -> str:
    return " and with ".join(pairs(row["pairs"]) for row in rows)


def _elsewhere(run: Preferred) -> Markup | None:
    rows = [row for name, row in run.optima.items() if name != STANDARD and row["smoothing"] == 0]
    if not rows:
        return None
    lines = [
        f"{symbol(row['divergence'])}: {number(row['own_kl_to_optimum'], 2)} from q*, "
        f"{number(row['own_kl'], 2)} from the reference"
        for row in rows
    ]
    standard = run.optima.get(STANDARD, {})
    reached = [row for row in rows if not math.isnan(row["reached_kl_to_own"])]
    said = ""
    if reached:
        low, high = (pick(row["reached_kl_to_own"] for row in reached) for pick in (min, max))
        said = f"Trained on all pairs they are still {number(low, 2)} to {number(high, 2)} nats from these optima of their own."
    return _card(
        "Other divergences have other optima",
        "Exact, at the same weight near the reference, in nats (the last one is KL(q‖p); standard DPO's optimum has "
        f"{number(standard.get('own_kl', math.nan), 2)}):",
        _lines(lines), said,
    )  # fmt: skip


def _compared(run: Preferred) -> Markup | None:
    rows = [row for row in run.at(run.middle) if row["arm"] != STANDARD and math.isfinite(row["last_difference_low"])]
    if not rows:
        return None
    lines = [
        f"{row['arm']}: {interval(row, 'last_difference')}" for row in sorted(rows, key=lambda row: row["last_difference"])
    ]
    most = run.sizes[-1]
    far = [row for row in run.at(most) if row["arm"] != STANDARD and math.isfinite(row["last_difference_low"])]
    nearer, further = ([row["arm"] for row in far if side(row, "last_difference") == which] for which in (-1, 1))
    words = [f"nearer for sure: {', '.join(nearer) or 'none'}", f"further for sure: {', '.join(further) or 'none'}"]
    return _card(
        "Against standard DPO",
        f"KL(q‖q*) after training on {pairs(run.middle)}, less that of standard DPO on the same seeds (95 % "
        "intervals; below 0 is nearer):",
        _lines(lines), f"With {pairs(most)} {'; '.join(words)}." if far and most != run.middle else "",
    )  # fmt: skip


def _smoothing(run: Preferred) -> Markup | None:
    rows = [row for row in run.optima.values() if row["smoothing"] > 0]
    if not rows:
        return None
    standard = run.optima.get(STANDARD, {})
    lines = [
        f"{short(row['smoothing'])}: {number(row['own_kl_to_optimum'], 2)} nats from q*, KL(q‖p) {number(row['own_kl'], 2)}, "
        f"rewards {number(row['own_slope'], 2)} times as large"
        for row in rows
    ]
    return _card(
        "Label smoothing aims lower",
        "Even with all pairs its loss is least elsewhere: it takes sure labels for doubtful ones. By the smoothing, exact:",
        _lines(lines), f"Without smoothing KL(q‖p) is {number(standard.get('own_kl', math.nan), 2)}.",
    )  # fmt: skip


def _implied(run: Preferred) -> Markup | None:
    rows = run.of(STANDARD)
    if not rows:
        return None
    lines = [
        f"{pairs(row['pairs'])}: {number(row['reward_correlation'], 2)} and {number(row['policy_correlation'], 2)}"
        for row in rows
    ]
    return _card(
        "Is the implicit reward the reward?",
        "Correlation of β log q/p with the true reward, centred by prompt: over the reference's answers, which it was trained "
        "on the like of, and over the policy's own:",
        _lines(lines),
    )  # fmt: skip


def _seen(run: Preferred) -> Markup | None:
    rows = [row for row in run.rows(DPO_SEEN) if row["pairs"] == run.middle]
    if not rows:
        return None
    lines = [f"{named(row)}: {_signed(row['rel_error'])} on average, below in {percent(row['below'])}" for row in rows]
    return _card(
        "What samples say of the KL",
        f"Error of estimates of standard DPO's KL(q‖p) with {pairs(run.middle)}, over all checkpoints, in units of the exact "
        f"value, {number(rows[0]['kl'], 2)} nats on average:",
        _lines(lines),
    )  # fmt: skip


def named(row: Row) -> str:
    """An estimator and what it is fed."""
    source = {"policy": "", "reference": ", fresh answers of the reference", "pairs": ", the training pairs themselves"}
    level = f" per {row['level']}" if row["estimator"] in ("k2", "k3") else ""
    name = "exact KL of each next token" if row["estimator"] == "full" else row["estimator"]
    return f"{name}{level}{source[row['samples_of']]}"


def _signed(x: float) -> str:
    return ("+" if x > 0 else "") + percent(x)


def _lead(run: Preferred) -> str:
    rows = run.of(STANDARD)
    where = f"{run.label}: " if run.label else ""
    first, last = rows[0], rows[-1]
    start = run.start
    return (
        f"{where}{count(len(run.arms), 'preference loss', 'preference losses')}, β = {short(first['beta'])}, "
        f"{count(first['seeds'], 'seed')}. Standard DPO ends {number(first['last'], 2)} nats from the optimum with "
        f"{pairs(first['pairs'])} and {number(last['last'], 2)} with {pairs(last['pairs'])}; "
        f"the reference is at {number(start, 2)}."
    )


def answer(runs: Sequence[Preferred]) -> list[Block]:
    """The question, and what the tables answer for each run."""
    blocks: list[Block] = []
    for run in runs[:MOST_RUNS]:
        if not run.of(STANDARD):
            continue
        blocks.append(Paragraph(_lead(run), "lead"))
        if run is runs[0]:
            blocks.append(Paragraph(WHY))
        if run.diverged:
            more = f"; and {len(run.diverged) - 6} more" if len(run.diverged) > 6 else ""
            said, verb = "; ".join(run.diverged[:6]), "is" if len(run.diverged) == 1 else "are"
            text = f"{count(len(run.diverged), 'replica')} diverged and {verb} left out of all means and intervals"
            blocks.append(Paragraph(f"{text} ({said}{more}).", "warning"))
        parts = (_by_pairs, _early, _compared, _elsewhere, _smoothing, _implied, _seen)
        blocks.append(Bullets([card for part in parts if (card := part(run))], cards=True))
    if len(runs) > MOST_RUNS:
        blocks.append(Paragraph(f"The first {MOST_RUNS} of {len(runs)} runs; the others are in the tables below.", "note"))
    return blocks
