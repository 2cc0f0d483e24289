"""What the top of the page says of completions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from markupsafe import Markup

from klbench.report.blocks import Block, Bullets, Paragraph
from klbench.report.numbers import count, listing, number, percent, short, with_interval
from klbench.studies.lm import section_advice
from klbench.studies.lm.section_advice import off, spread
from klbench.studies.lm.section_data import EXACT, Data, Record, code, finite, known, percent_of

HOW = (
    "The exact value is the mean of the exact KL between the two models' distributions over the next token, summed along each "
    "completion (the Rao-Blackwell sum, rao_blackwell). The bias of an estimator is the mean difference from that sum on the "
    "very same completions, which is far less noisy than either: that is what the ± after a bias refers to."
)
WITHOUT = (
    "Nobody has said what the exact KL of these rollouts is: there is no column kl. The estimators can be compared with each "
    "other, and their noise is known; how far they are from the truth is not. Record the KL over the full vocabulary (kl) "
    "along with the log-probabilities, and this page can say it."
)
ENUMERATED = "Here the exact value is enumerated over all sequences."


def _noise(row: Record) -> str:
    return f"{number(row['rel_std'], 2)} times"


def _nearest(data: Data) -> Markup | None:
    """On each pair, the estimator whose mean over a hundred completions has the least error, and how it compares."""
    lines = []
    for pair in filter(data.sound, data.pairs):
        rows = [row for row in data.measured(pair) if finite(row["rmse_100"], row["rel_bias"], row["rel_bias_se"])]
        found = [row for row in rows if row["estimator"] not in EXACT and row["status"] == "ok"]
        if not found:
            continue
        best = min(found, key=lambda row: row["rmse_100"])
        kl, se = data.truth(pair)
        where = "summed over tokens" if best["level"] == "token" else "of the whole sequence"
        text = Markup("<b>{}</b> (KL {}): {} {}, off by {}, noise {} the KL").format(
            data.labels[pair], known(kl, se), code(best["estimator"]), where, off(best), _noise(best)
        )
        exact = data.at(pair, EXACT[0], "token")
        if exact is not None and not data.off_policy(pair):
            text += Markup("; the exact sum itself: {}").format(number(exact["rel_std"], 2))
        lines.append(text + ".")
    if not lines:
        return None
    head = Markup(
        "<p><b>Nearest to the exact value.</b></p><p>The least root-mean-square error of a mean over 100 completions. Noise is "
        "the standard deviation of one; over 100 it is a tenth of that, while a bias stays.</p>"
    )
    return head + Markup("").join(Markup("<p>{}</p>").format(line) for line in lines)


def _levels(data: Data) -> Markup | None:
    """What taking k3 of the whole log-ratio costs."""
    lines = []
    for pair in data.pairs:
        whole, token = (data.at(pair, "k3", level) for level in ("sequence", "token"))
        if (
            whole is None
            or token is None
            or data.off_policy(pair)
            or not finite(whole["std"], token["std"])
            or not token["std"]
        ):
            continue
        flag = "" if whole["status"] == "ok" else f" ({whole['status']}: it may well be more)"
        lines.append(
            Markup("{}: noise {} times as large{}").format(data.labels[pair], number(whole["std"] / token["std"], 2), flag)
        )
    if not lines:
        return None
    head = Markup(
        "<p><b>Per token or per sequence.</b></p><p>{} is the same either way. {} of the whole sequence's log-ratio "
        "instead of the sum of the tokens' {}: </p>"
    ).format(code("k1"), code("k3"), code("k3"))
    return head + Markup("<ul>{}</ul>").format(Markup("").join(Markup("<li>{}.</li>").format(line) for line in lines))


def _where(data: Data) -> Markup | None:
    """By which position half of the divergence has arisen."""
    lines = []
    for pair in data.pairs:
        total, rows = 0.0, data.places(pair)
        if len(rows) < 4 or not all(finite(row["share"]) for row in rows):
            continue
        for row in rows:
            total += row["share"]
            if total >= 0.5:
                break
        first = max(1, len(rows) // 4)
        opening = f"positions 1 to {first} of {len(rows)} carry" if first > 1 else f"position 1 of {len(rows)} carries"
        early = sum(each["share"] for each in rows[:first])
        lines.append(f"{data.labels[pair]}: {opening} {percent(early)} of it, half has arisen by position {row['position']}")
    if not lines:
        return None
    items = Markup("").join(Markup("<li>{}.</li>").format(line) for line in lines)
    return Markup("<p><b>Where in a completion the KL arises.</b></p><ul>{}</ul>").format(items)


def _dtype(data: Data) -> Markup | None:
    """What another format does to the log-ratio, and the divergence that it invents."""
    lines = []
    for dtype in dict.fromkeys(row["dtype"] for row in data.dtype):
        rows = [row for row in data.dtype if row["dtype"] == dtype and row["estimator"] == "k3" and row["level"] == "token"]
        false = [row for row in rows if row["what"] == "policy against itself"]
        moved = [row for row in rows if row["what"] != "policy against itself" and row["change_se"] > 0.0]
        if not false:
            continue
        moves, invented = (spread([row[key] for row in false]) for key in ("sd_log_ratio", "change"))
        said = "{}: a token's log r moves by {} (sd), and {} of the policy against itself, whose KL is 0, comes to {} nats"
        text = Markup(said).format(dtype, moves, code("k3"), invented)
        shares = [row["change"] / data.truth(str(row["pair"]))[0] for row in false if data.truth(str(row["pair"]))[0] > 0.0]
        text += f", up to {percent(max(shares))} of the true KL" if shares else ""
        if moved:
            far = max(abs(row["change"] / row["change_se"]) for row in moved)
            text += f". Against the reference it changes by at most {number(far, 2)} standard errors of that change"
        lines.append(text)
    if not lines:
        return None
    items = Markup("").join(Markup("<li>{}.</li>").format(line) for line in lines)
    return Markup(
        "<p><b>Scored again in fewer bits.</b></p><p>The same completions by the same models; sums over the tokens of a "
        "completion{}.</p><ul>{}</ul>"
    ).format(", over all pairs" if len(data.pairs) > 1 else "", items)


def _samplers(data: Data) -> Markup | None:
    """What estimators say of samples that are not the policy's own."""
    lines = []
    for pair in dict.fromkeys(str(row["pair"]) for row in data.sampling):
        rows = [row for row in data.sampling if row["pair"] == pair and row["estimator"] == "k1" and row["level"] == "sequence"]
        by_side = {str(row["log_ratio"]): row for row in rows}
        own, mixed = by_side.get("log p - log q"), by_side.get("log p - log mu")
        if own is None or mixed is None or not finite(own["kl_qp"]):
            continue
        lines.append(
            Markup(
                "{}: KL(q‖p) is {}. {} with the policy's log-probabilities says {} ({}), with the sampler's {}, "
                "which is KL(μ‖p)"
            ).format(
                data.labels.get(pair, pair), short(own["kl_qp"]), code("k1"), with_interval(own["mean"], own["mean_se"]),
                percent_of(own["rel_bias"]), with_interval(mixed["mean"], mixed["mean_se"]),
            )
        )  # fmt: skip
    if not lines:
        return None
    items = Markup("").join(Markup("<li>{}.</li>").format(line) for line in lines)
    return Markup(
        "<p><b>Samples of another distribution μ</b></p><p>than the policy's own, such as another temperature or an older "
        "policy.</p><ul>{}</ul>"
    ).format(items)


def _truncated(data: Data) -> Markup | None:
    """What the most probable tokens leave out."""
    rows = [row for row in data.truncation if finite(row["share"])]
    if not rows:
        return None
    lines = []
    for k in dict.fromkeys(row["k"] for row in rows):
        shares = [row["share"] for row in rows if row["k"] == k]
        ends = dict.fromkeys(percent(each) for each in (min(shares), max(shares)))
        lines.append(f"{count(int(k), 'token')} told apart: {' to '.join(ends)} is missing")
    items = Markup("").join(Markup("<li>{}.</li>").format(line) for line in lines)
    return Markup(
        "<p><b>Only the most probable tokens.</b></p><p>The exact sum with the k most probable tokens told apart and all "
        "others in one bucket: it is always too low{}.</p><ul>{}</ul>"
    ).format(", by pair more or less so" if len(data.pairs) > 1 else "", items)


def _cost(data: Data) -> Markup | None:
    """What a standard error of one per cent takes."""
    lines = []
    for pair in filter(data.sound, data.pairs):
        rows = [
            row for row in data.cost
            if row["pair"] == pair and row["status"] == "ok" and finite(row["completions_needed"])
        ]  # fmt: skip
        unbiased = [row for row in rows if (row["estimator"], row["level"]) in {("k1", "token"), ("k3", "token")}]
        exact = [row for row in rows if row["estimator"] == EXACT[0]]
        if unbiased and not data.off_policy(pair):
            said = [Markup("{} {}").format(code(row["estimator"]), _completions(row)) for row in exact + unbiased]
            lines.append(Markup("{}: {}").format(data.labels[pair], Markup(", ").join(said)))
    if not lines:
        return None
    items = Markup("").join(Markup("<li>{}.</li>").format(line) for line in lines)
    timed = any(finite(row["seconds_needed"]) for row in data.cost)
    seconds = ", and seconds to sample, score and estimate them at the speed of this run" if timed else ""
    return Markup("<p><b>What a standard error of 1 % takes.</b></p><p>Completions{}.</p><ul>{}</ul>").format(seconds, items)


def _completions(row: Record) -> str:
    needed = float(f"{row['completions_needed']:.2g}")
    if not finite(row["seconds_needed"]):
        return number(needed, 2)
    seconds = float(f"{row['seconds_needed']:.2g}")
    return f"{number(needed, 2)} ({number(seconds, 2)} s)"


PARTS: tuple[Callable[[Data], Markup | None], ...] = (_nearest, _levels, _where, _cost, _samplers, _dtype, _truncated)


def answer(data: Data) -> Sequence[Block]:
    """What was measured, and what it says."""
    if not data.pairs or not data.values:
        return [Paragraph("No completion was measured.", "warning")]
    completions = sum(int(data.about.get(pair, {}).get("completions", 0)) for pair in data.pairs)
    tokens = sum(int(data.about.get(pair, {}).get("tokens", 0)) for pair in data.pairs)
    lead = (
        f"{count(completions, 'completion')} of {count(tokens, 'token')} in all, from "
        f"{count(len(data.pairs), 'pair')} of policy and reference, measured token by token and as whole sequences."
    )
    methods = {str(row["truth_method"]) for pair in data.pairs for row in data.measured(pair)}
    blocks: list[Block] = [Paragraph(lead, "lead")]
    blocks.append(
        Paragraph(WITHOUT if methods <= {"unknown"} else HOW + (f" {ENUMERATED}" if "enumeration" in methods else ""))
    )
    blocks += [*section_advice.checks(data), *section_advice.advice(data)]
    doubtful = sorted(
        {str(row["estimator"]) for row in data.values if str(row["status"]) in ("heavy tail", "non-finite values")}
    )
    if doubtful:
        blocks.append(
            Paragraph(
                Markup("Not to be trusted on some pairs, since the tail of the ratio is too heavy for so few completions: ")
                + Markup(listing([str(code(each)) for each in doubtful]))
                + ".",
                "warning",
            )
        )  # fmt: skip
    cards = [Markup(str(card).replace(" %", "\N{NO-BREAK SPACE}%")) for part in PARTS if (card := part(data)) is not None]
    return [*blocks, *([Bullets(cards, cards=True)] if cards else []), *section_advice.prompts(data)]
