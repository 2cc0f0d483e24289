"""What to take, and what the intervals are for: sentences at the top and at the end of the answer on completions."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from klbench.report.blocks import Block, Paragraph
from klbench.report.numbers import count, number
from klbench.report.sections._tokens_data import EXACT, Data, code, finite


def spread(found: Sequence[float]) -> str:
    ends = dict.fromkeys(number(each, 2) for each in (min(found), max(found)))
    return " to ".join(ends)


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
    on_policy = [pair for pair in data.pairs if not data.off_policy(pair)]

    def fewer(estimator: str) -> list[float]:
        """Of each pair: how many times fewer completions than k1 it needs for the same standard error."""
        found = [(data.at(pair, "k1", "token"), data.at(pair, estimator, "token")) for pair in on_policy]
        return [(a["std"] / b["std"]) ** 2 for a, b in found if a and b and finite(a["std"], b["std"]) and b["std"] > 0.0]

    parts = []
    exact, k3 = fewer(EXACT[0]), fewer("k3")
    if exact:
        said = "Where both models' logits are at hand, take the exact KL of each token's distribution ({}): to be as sure, it "
        said += "needs {}."
        parts.append(Markup(said).format(code(EXACT[0]), _than_k1(exact)))
    if k3:
        said = "With nothing but the sampled tokens' log-probabilities, {} summed over tokens needs {}."
        parts.append(Markup(said).format(code("k3"), _than_k1(k3)))
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
    said = "up to {} times fewer completions than {}, but {} times as many on the pair where it is worst"
    return Markup(said).format(number(high, 2), code("k1"), number(1.0 / low, 2))
