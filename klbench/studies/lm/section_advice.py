"""What to take, what speaks against the data, what the intervals are for: sentences of the answer on completions."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from klbench.metrics.tails import CANNOT_TELL, ENOUGH_ROLLOUTS, ENOUGH_TERMS, FAILS, HEAVY, HOLDS
from klbench.report.blocks import Block, Paragraph
from klbench.report.numbers import count, number, percent, with_interval
from klbench.studies.lm.section_data import EXACT, Data, Record, code, finite


def spread(found: Sequence[float]) -> str:
    """Return ``0.1 to 0.3``, or one number where both ends look alike."""
    ends = dict.fromkeys(number(each, 2) for each in (min(found), max(found)))
    return " to ".join(ends)


def off(row: Record) -> str:
    """A relative bias with its interval."""
    return f"{with_interval(100.0 * row['rel_bias'], 100.0 * row['rel_bias_se'])} %"


def checks(data: Data) -> list[Block]:
    """Return blocks on what speaks against the completions, or cannot be told from them."""
    blocks: list[Block] = []
    failed = [row for row in data.checks if row["verdict"] == FAILS]
    if failed:
        lines = [
            f"{data.labels.get(row['pair'], row['pair'])} (mean of {row['ratio']}: "
            f"{with_interval(row['mean'], row['mean_se'])}, {abs(row['z']):,.0f} standard errors off)"
            for row in failed
        ]
        said = (
            f"These completions fail a check of their own, and nothing is recommended on them: {'; '.join(lines)}. Over the "
            f"tokens that the ratio's denominator has sampled, its mean is 1 (so that k1 and k3 agree). Either other "
            f"log-probabilities than the sampler's are given (another temperature, an older policy, another mask), or the "
            f"sampler never says what the numerator often says (top-p, top-k): then k3 and weights do not see that part."
        )
        blocks.append(Paragraph(said, "warning"))
    strangers = [(pair, row) for pair in data.pairs if (row := data.stranger(pair)) is not None]
    if strangers:
        said = "; ".join(
            f"{data.labels[pair]} (off by {off(row)}, {abs(row['bias'] / row['bias_se']):.0f} standard errors)"
            for pair, row in strangers
        )
        text = (
            "has no bias on samples of the policy itself, and has one here: {}. These completions were not sampled from the "
            "distribution whose log-probabilities are given as the policy's: another temperature, an older policy (give its "
            "log-probabilities as old_logprobs), or the wrong tokens masked. Nothing is recommended on them."
        )
        blocks.append(Paragraph(Markup("{} ").format(code("k1")) + Markup(text).format(said), "warning"))
    doubtful = [str(row["pair"]) for row in data.checks if row["verdict"] == CANNOT_TELL]
    unsure = dict.fromkeys(data.labels.get(pair, pair) for pair in doubtful)
    if unsure:
        said = (
            f"Whether the ratios to the sampler have the mean 1 that k3 and weights rest on, these completions cannot tell: "
            f"{'; '.join(unsure)}. The tail is too heavy (k-hat of {HEAVY:g} or above), or too few tokens or completions carry "
            f"the mean (effective sample size up to {ENOUGH_TERMS:g}, fewer than {ENOUGH_ROLLOUTS} completions)."
        )
        blocks.append(Paragraph(said, "note"))
    return [*blocks, *_read(data)]


def _read(data: Data) -> list[Block]:
    """Return sentences on what is odd about the file that the completions come from."""
    lines = []
    for pair in data.pairs:
        about = data.about.get(pair, {})
        above, unread = about.get("above_zero", 0), about.get("unread", "")
        if above > 0:
            lines.append(
                f"{data.labels[pair]}: {count(above, 'token has', 'tokens have')} a log-probability above 0 "
                f"({percent(above / about['tokens'])}), as rounding leaves them; they are taken as they are."
            )
        if isinstance(unread, str) and unread:
            lines.append(f"{data.labels[pair]}: columns that are not read: {unread}.")
    return [Paragraph(" ".join(lines), "note")] if lines else []


def prompts(data: Data) -> list[Block]:
    """For what the intervals are, where several completions answer one prompt."""
    if not data.prompts:
        return []

    def times(key: str, *of: str) -> list[float]:
        return [row[key] / row["se"] for row in data.prompts if row["what"] in of]

    exact = "exact KL" if any(row["what"] == "exact KL" for row in data.prompts) else "k1"
    own = [row for row in data.prompts if row["what"] == exact]
    biases = times("se_new", "k1 - exact KL", "k3 - exact KL")
    many, each = spread([row["prompts"] for row in own]), spread([row["completions"] / row["prompts"] for row in own])
    said = (
        f"Intervals take completions for independent, but {many} prompts were answered {each} times each, on average. For the "
        f"mean over these very prompts, standard errors of the {exact} would be {spread(times('se_same', exact))} times as "
        f"large; for the mean over prompts of which these are a sample, {spread(times('se_new', exact))} times"
        + (f", and those of biases {spread(biases)} times." if biases else ".")
    )
    return [Paragraph(said, "note")]


def advice(data: Data) -> list[Block]:
    """Which to take: how many more completions k1 needs than the others, and what whole sequences do to k3."""
    on_policy = [pair for pair in data.pairs if not data.off_policy(pair) and data.sound(pair)]

    def fewer(estimator: str, pairs: Sequence[str]) -> list[float]:
        """Of each pair: how many times fewer completions than k1 it needs for the same standard error, where that is known."""
        found = [(data.at(pair, "k1", "token"), data.at(pair, estimator, "token")) for pair in pairs]
        known = [(a, b) for a, b in found if a and b and a["status"] == b["status"] == "ok" and finite(a["std"], b["std"])]
        return [(a["std"] / b["std"]) ** 2 for a, b in known if b["std"] > 0.0]

    parts = []
    exact = fewer(EXACT[0], on_policy)
    k3 = fewer("k3", [pair for pair in on_policy if data.verdict(pair) == HOLDS])
    if exact:
        said = "Where both models' logits are at hand, take the exact KL of each token's distribution ({}): to be as sure, it "
        said += "needs {}."
        parts.append(Markup(said).format(code(EXACT[0]), _than_k1(exact)))
    if k3:
        said = "With nothing but the sampled tokens' log-probabilities, {} summed over tokens needs {}{}."
        some = "" if len(k3) == len(on_policy) else f", on the {len(k3)} of {len(on_policy)} pairs whose completions can tell"
        parts.append(Markup(said).format(code("k3"), _than_k1(k3), some))
    whole = [row for pair in on_policy if (row := data.at(pair, "k3", "sequence")) is not None]
    heavy = sum(row["status"] == "heavy tail" for row in whole)
    if heavy:
        where = "" if len(whole) == 1 else f" on {heavy} of {count(len(whole), 'pair')}"
        said = "Do not take {} of a whole completion's log-ratio: its tail is too heavy to be averaged{}."
        parts.append(Markup(said).format(code("k3"), where))
    return [Paragraph(Markup(" ").join(parts))] if parts else []


def _than_k1(fewer: Sequence[float]) -> Markup:
    """How many times fewer completions, in words that hold where it is more of them."""
    low, high = min(fewer), max(fewer)
    if low >= 1.0:
        return Markup("{} times fewer completions than {}").format(spread(fewer), code("k1"))
    if high <= 1.0:
        return Markup("{} times as many completions as {}").format(spread([1.0 / each for each in fewer]), code("k1"))
    worst = number(1.0 / low, 2)
    said = "up to {} times fewer completions than {}, {} on the pair where it is worst"
    return Markup(said).format(number(high, 2), code("k1"), "and as many" if worst == "1.0" else f"but {worst} times as many")
