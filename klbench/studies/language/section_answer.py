"""What training language models found, in sentences made from its tables."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from markupsafe import Markup

from klbench.report.blocks import Block, Bullets, Paragraph
from klbench.report.cells import code
from klbench.report.numbers import Z95, count, number, percent, percent_interval, short, with_interval
from klbench.report.tables import Row
from klbench.studies.language.section_data import FAILS, FEW, HOLDS, NONE, UNTOLD, UNTRAINED, LmPreferred, LmTrained

WHY = (
    "A language model is trained against a reward r less β times a KL penalty, once with each estimator and place, on the same "
    "prompts and random numbers. Nobody knows the best policy here; but the KL of every sampled completion is a sum of exact "
    "KLs over its tokens, so that what the penalty holds is measured and not estimated by the estimator in question."
)
WHY_DPO = (
    "DPO learns from ranked pairs of completions, by one loss for each f-divergence from the reference, on the same pairs in "
    "the same order; no completion of the policy is sampled to train it. Those below were sampled to measure it: the KL of "
    "each is a sum of exact KLs over its tokens, and k1 to k3 are what the usual estimators say of the same completions."
)
MOST_RUNS = 4


def _lines(rows: Sequence[Row], said: Sequence[str]) -> Markup:
    lines = [Markup("{}: {}").format(code(row["combination"]), text) for row, text in zip(rows, said, strict=True)]
    return Markup("<p>{}</p>").format(Markup("<br>").join(lines))


def _ends(row: Row) -> str:
    return f"reward {with_interval(row['reward'], row['reward_se'])}, KL {with_interval(row['kl'], row['kl_se'])} nats"


def _range(shares: Iterable[float]) -> str:
    ends = [percent(each) for each in sorted(shares)]
    return ends[0] if ends[0] == ends[-1] else f"{ends[0]} to {ends[-1]}"


def _held(trained: LmTrained) -> Markup | None:
    rows = trained.toward(HOLDS)
    if not rows:
        return None
    text = Markup("<p><b>Hold the policy</b></p>") + _lines(rows, [_ends(row) for row in rows])
    said = "<p>Less than half of the KL that training without a penalty comes to, by the whole 95 % interval: {} of it.</p>"
    return text + Markup(said).format(_range(row["kl_share"] for row in rows))


def _untold(trained: LmTrained) -> Markup | None:
    rows = trained.toward(UNTOLD, FEW)
    if not rows:
        return None
    text = Markup("<p><b>Hold it or not: these runs do not tell</b></p><p>KL over that of training without a penalty, with its "
                  "95 % interval; a half would be the border:</p>")  # fmt: skip
    return text + _lines(rows, [percent_interval(row, "kl_share") for row in rows])


def _not_held(trained: LmTrained) -> Markup | None:
    rows = trained.toward(FAILS)
    free = trained.of(NONE)
    if not rows or free is None:
        return None
    text = Markup("<p><b>Do not hold it</b></p>") + _lines(rows, [_ends(row) for row in rows])
    said = f"Without any penalty: {_ends(free)}. "
    said += "A higher reward, and a policy that has left its reference all the same: see the completions below."
    return text + Markup("<p>{}</p>").format(said)


def _estimates(trained: LmTrained) -> Markup | None:
    rows = [row for row in trained.trained if not math.isnan(row["kl_estimate"])]
    if not rows:
        return None
    text = Markup("<p><b>{} says of the KL</b></p>").format(
        "What k1" if isinstance(trained, LmPreferred) else "What the estimator in use"
    )
    text += _lines(rows, [f"{number(row['kl_estimate'], 3)} nats where it is {number(row['kl'], 3)}" for row in rows])
    sure = [row for row in rows if abs(row["estimate_error"]) > Z95 * row["estimate_error_se"]]
    if sure:
        names = Markup(", ").join(code(row["combination"]) for row in sure)
        return text + Markup("<p>Further off than noise explains (95 %): {}.</p>").format(names)
    return text + Markup("<p>None is further off than noise explains.</p>")


def _objective(trained: LmTrained) -> Markup | None:
    rows = [row for row in trained.trained if not math.isnan(row["objective"])]
    if not rows:
        return None
    start = trained.of(UNTRAINED)
    text = Markup("<p><b>What was to be made large</b></p><p>The objective E r − β KL(q‖p), exact KL:</p>")
    text += _lines(rows, [with_interval(row["objective"], row["objective_se"]) for row in rows])
    if start is not None:
        text += Markup("<p>Before training: {}.</p>").format(with_interval(start["objective"], start["objective_se"]))
    return text


def _gain(row: Row, name: str) -> str:
    return with_interval(row[f"{name}_gain"], row[f"{name}_gain_se"])


def _proxy(trained: LmTrained) -> Markup | None:
    if not trained.paid:
        return None
    text = Markup("<p><b>What the reward model paid</b></p><p>Training saw the score of a model that has learned from ranked "
                  "pairs. How much that score has risen, and the reward itself, completion by completion:</p>")  # fmt: skip
    text += _lines(trained.trained, [f"score {_gain(row, 'proxy')}, reward {_gain(row, 'reward')}" for row in trained.trained])
    ranked = [row["held_out_accuracy"] for row in trained.kept_raters]
    if not ranked:
        return text
    text += Markup("<p>Of pairs held out it ranks {} as they are labelled.</p>").format(_range(ranked))
    idle = [str(row["seed"]) for row in trained.kept_raters if row["kept"] == 0]
    return text + (
        Markup("<p>It has learned nothing in seed {}, and pays nothing there.</p>").format(", ".join(idle)) if idle else ""
    )


def _spread(trained: LmTrained) -> Markup | None:
    rows = [row for row in trained.trained if not math.isnan(row["kl_spread"])]
    if not rows:
        return None
    text = Markup("<p><b>How sure?</b></p><p>± is the 95 % interval over completions, given the trained policies. From seed to "
                  "seed their KL differs by (standard deviation):</p>")  # fmt: skip
    return text + _lines(
        rows, [f"{number(row['kl_spread'], 2)} nats, reward {number(row['reward_spread'], 2)}" for row in rows]
    )


def _lead(trained: LmTrained) -> str:
    where = f"{trained.label}: " if trained.label else ""
    start, first = trained.of(UNTRAINED), trained.training[0]
    none = "" if trained.of(NONE) is None else " and none at all"
    words = ("loss", "losses") if isinstance(trained, LmPreferred) else ("way to penalise", "ways to penalise")
    penalised = count(sum(row["combination"] != NONE for row in trained.trained), *words)
    said = (
        f"{where}{penalised}{none}, {str(first['algorithm']).replace('_', ' ').upper()} with "
        f"β = {short(first['beta'])}, {count(trained.updates, 'update')}, {count(trained.compared[0]['seeds'], 'seed')}. "
    )
    if start is None:
        return said
    rewards = [row["reward"] for row in trained.trained]
    return (
        said
        + f"The reward, {number(start['reward'], 2)} before, comes to {number(min(rewards), 2)} to {number(max(rewards), 2)}."
    )


def answer(runs: Sequence[LmTrained]) -> list[Block]:
    """The question, and what the tables answer for each run."""
    blocks: list[Block] = []
    for trained in runs[:MOST_RUNS]:
        if not trained.training:
            continue
        blocks.append(Paragraph(_lead(trained), "lead"))
        if trained is runs[0]:
            blocks.append(Paragraph(WHY_DPO if isinstance(trained, LmPreferred) else WHY))
        if trained.diverged:
            blocks.append(Paragraph(f"Stopped where numbers failed: {'; '.join(trained.diverged[:6])}.", "warning"))
        parts = (_held, _not_held, _untold, _proxy, _estimates, _objective, _spread)
        blocks.append(Bullets([each for part in parts if (each := part(trained))], cards=True))
    if len(runs) > MOST_RUNS:
        blocks.append(Paragraph(f"The first {MOST_RUNS} of {len(runs)} runs; the others are in the tables below.", "note"))
    return blocks
