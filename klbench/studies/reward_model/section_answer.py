"""What the reward-model study found, in sentences made from its tables."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from klbench.report.blocks import Block, Bullets, Heading, Paragraph
from klbench.report.cells import code
from klbench.report.numbers import count, interval, number, percent, side
from klbench.report.tables import Row
from klbench.studies.reward_model.columns import EQUAL_KL, GOLD, REWARD_MODELS, REWARD_MODELS_BY_SEED, TRAINING
from klbench.studies.reward_model.section_data import BEST, OPTIMUM, PPO, Learned, extremes, named, way_of

WHY = (
    "A reward that was learned from ranked pairs is only a proxy: where it is made large, it is soon large for the wrong "
    "answers. Here the true reward is known, and every answer is enumerated, so that both can be followed exactly: for the "
    "best policy by the proxy at every weight β of the penalty, for the best of n answers, and for PPO. Gains are reckoned "
    "from what the reference has."
)
MOST_RUNS = 4
HARDLY = 0.002
"""A loss of true reward below this, its whole interval, is hardly any."""


def _lines(pairs: Sequence[tuple[str, str]]) -> Markup:
    return Markup("<p>{}</p>").format(Markup("<br>").join(Markup("{}: {}").format(code(a), b) for a, b in pairs))


def _card(title: str, *parts: str | Markup) -> Markup:
    text = Markup("<p><b>{}</b></p>").format(title)
    for part in parts:
        text += part if isinstance(part, Markup) else Markup("<p>{}</p>").format(part)
    return text


def _lead(learned: Learned) -> str:
    first, last = (learned.peak((OPTIMUM, ""), each) for each in (learned.proxies[0], learned.proxies[-1]))
    where = f"{learned.label}: " if learned.label else ""
    if first is None or last is None:
        return f"{where}{count(len(learned.proxies), 'reward model')}, by number of ranked pairs."
    text = f"{where}Held back in time, a reward model of {first['proxy']} gains {number(first['peak_gold'], 2)} of true reward"
    if last is not first:
        text += f", one of {last['proxy']} {number(last['peak_gold'], 2)}"
    gold = learned.peak((OPTIMUM, ""), GOLD)
    text += f"; the true reward itself, {number(gold['peak_gold'], 2)}" if gold else ""
    text += f". Pressed on to {number(first['end_kl'], 2)} nats, the first falls to {number(first['end_gold'], 2)}"
    text += f" while its own score says {number(first['end_proxy'], 2)}."
    return text + f" ({count(first['seeds'], 'seed')}, means.)"


def _models(learned: Learned) -> Markup | None:
    rows = learned.rows(REWARD_MODELS)
    if not rows:
        return None
    text = "New pairs that the model ranks as they are labelled, and the share at which its confidence is off on average:"
    lines = [(row["proxy"], f"{percent(row['accuracy'])}, off by {percent(row['calibration_error'])}") for row in rows]
    best = f"The true reward itself meets {percent(rows[0]['best_accuracy'])} of the labels: they are drawn by chance."
    idle = [f"{row['untrained']} of {count(row['seeds'], 'model')} of {row['proxy']}" for row in rows if row["untrained"]]
    said = f"Held-out pairs confirm nothing of what {' and '.join(idle)} learned: their score stays 0." if idle else ""
    return _card("How good the reward models are", text, _lines(lines), best, *([said] if said else []))


def _falls(learned: Learned, way: tuple[str, str], title: str, opening: str) -> Markup | None:
    rows = [row for each in learned.proxies if (row := learned.peak(way, each))]
    if not rows:
        return None
    lines = [
        (
            row["proxy"],
            f"{number(row['peak_gold'], 2)} at {number(row['peak_kl'], 2)} nats, then {_end(row)}: {_lost(row)}",
        )
        for row in rows
    ]
    return _card(title, opening, _lines(lines))


def _end(row: Row) -> str:
    return f"{number(row['end_gold'], 2)} at {number(row['end_kl'], 2)}"


def _lost(row: Row) -> str:
    most = row["lost_high"] if math.isfinite(row["lost_high"]) else row["lost"]
    return "hardly anything lost" if most < HARDLY else f"{interval(row, 'lost')} lost"


def _best_of(learned: Learned) -> Markup | None:
    card = _falls(
        learned, (BEST, ""), "The best of n answers", "True reward at its peak over n, and at the largest n that was taken:"
    )
    rows = learned.path((BEST, ""), learned.proxies[-1])
    if card is None or not rows:
        return card
    row = rows[-1]
    said = (
        f"The best of {int(row['n']):,} is {number(row['kl'], 3)} nats from the reference; the usual log n − (n − 1)/n says "
        f"{number(row['kl_bound'], 3)}, an upper bound."
    )
    return card + Markup("<p>{}</p>").format(said)


def _ppo(learned: Learned) -> Markup | None:
    ways = [way for way in learned.ways if way[0] == PPO]
    if not ways:
        return None
    parts: list[str | Markup] = ["True reward at its peak and at the end of training, and the KL there:"]
    for proxy in extremes(learned.proxies):
        rows = [(way, row) for way in ways if (row := learned.peak(way, proxy))]
        lines = [
            (way[1], f"{number(row['peak_gold'], 2)}, then {number(row['end_gold'], 2)} at {number(row['end_kl'], 2)} nats")
            for way, row in rows
        ]
        parts += [f"With {proxy}:", _lines(lines)]
    return _card("PPO on the proxy", *parts)


def _equal(learned: Learned) -> Markup | None:
    proxy = learned.proxies[-1]
    rows = [row for row in learned.rows(EQUAL_KL) if row["proxy"] == proxy and row["method"] != OPTIMUM]
    if not rows:
        return None
    kl = max(row["kl"] for row in rows if row["seeds"] == max(each["seeds"] for each in rows))
    mine = sorted((row for row in rows if row["kl"] == kl), key=lambda row: -row["difference"])
    lines = [(named(way_of(row)), interval(row, "difference")) for row in mine]
    text = f"True reward at {number(kl, 2)} nats, less that of the exact optimum of the same proxy ({proxy}), paired by seed:"
    return _card("At equal KL", text, _lines(lines))


def _told(learned: Learned) -> Markup | None:
    """KL at the end of training, exact and as two estimators say."""
    proxy = learned.proxies[-1]
    rows = [path[-1] for way in learned.ways if way[0] == PPO and (path := learned.path(way, proxy))]
    if not rows or math.isnan(rows[0]["k1_error"]):
        return None
    lines = [
        (
            row["combination"],
            f"{number(row['kl'], 3)} exact; k1 {interval(row, 'k1_error')}, k3 {interval(row, 'k3_error')}",
        )
        for row in rows
    ]
    text = f"KL(q‖p) of sequences at the end of PPO ({proxy}), and by how much the last batches' estimates are off:"
    short = [code(row["combination"]) for row in rows if side(row, "k3_error") == -1]
    note = Markup("<p>With {} k3 is short, though it is unbiased: what it lacks are rare tokens with a huge ratio.</p>")
    return _card(
        "What training was told of the KL", text, _lines(lines), *([note.format(Markup(" and ").join(short))] if short else [])
    )


def answer(runs: Sequence[Learned]) -> list[Block]:
    """The question, and what the tables answer for each run."""
    blocks: list[Block] = []
    for learned in runs[:MOST_RUNS]:
        blocks.append(Paragraph(_lead(learned), "lead"))
        if learned is runs[0]:
            blocks.append(Paragraph(WHY))
        blocks += _stopped(learned)
        optimum = _falls(
            learned, (OPTIMUM, ""), "The exact optimum of the proxy",
            "ref exp(proxy/β)/Z: true reward at its peak over β, and at the smallest β that was tried:",
        )  # fmt: skip
        cards = [_models(learned), optimum, _best_of(learned), _ppo(learned), _equal(learned), _told(learned)]
        blocks.append(Bullets([each for each in cards if each], cards=True))
    if len(runs) > MOST_RUNS:
        blocks.append(Paragraph(f"The first {MOST_RUNS} of {len(runs)} runs; the others are in the tables below.", "note"))
    return blocks


def _stopped(learned: Learned) -> list[Block]:
    models = [r for r in learned.rows(REWARD_MODELS_BY_SEED) if r["status"] != "ok"]
    policies = {(r["combination"], r["proxy"], r["seed"]): r["status"] for r in learned.rows(TRAINING) if r["status"] != "ok"}
    said = [f"reward model of {row['proxy']}, seed {row['seed']}: {row['status']}" for row in models]
    said += [f"{name}, {proxy}, seed {seed}: {status}" for (name, proxy, seed), status in policies.items()]
    if not said:
        return []
    more = f"; and {len(said) - 6} more" if len(said) > 6 else ""
    text = f"{count(len(said), 'replica')} diverged ({'; '.join(said[:6])}{more}). "
    text += "Policies that did are left out of all means; of a reward model counts what predicted held-out pairs best, before."
    return [Paragraph(text, "warning")]


def heading(learned: Learned) -> list[Block]:
    """What opens a run's part, where there are several."""
    return [Heading(learned.label)] if learned.label else []
