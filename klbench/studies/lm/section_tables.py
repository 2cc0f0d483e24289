"""Tables of the study of completions."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from klbench.report.blocks import Block, Cell, Column, Details, Heading, Paragraph, Table
from klbench.report.numbers import MISSING, count, percent, with_interval
from klbench.studies.lm import section_cost
from klbench.studies.lm.section_cells import (
    MAX_OPEN,
    interval_cell,
    negative_cell,
    number_cell,
    pair_cell,
    pair_column,
    share_cell,
)
from klbench.studies.lm.section_data import LEVELS, Data, code, finite, known, visible

MAX_ROWS = 400
PER_TOKEN = (
    "Trainers often log a mean over all tokens instead: the sum of all terms over the number of tokens. Long completions weigh "
    "more in it. It is a ratio of two means, and its standard error is that of one (delta method). Estimates, with weights or "
    "without, and the exact value are all divided by this one number, the tokens of these completions."
)


def values(data: Data, pair: str, per: str) -> Table | None:
    """Every estimator at every level, a completion or a token."""
    rows = [row for row in data.values if row["pair"] == pair and row["per"] == per]
    rows = [row for row in rows if not str(row["status"]).startswith("skipped")]
    if not rows:
        return None
    unit = "completion" if per == "sequence" else "token"
    columns = [
        Column("Estimator", "name in klbench; rao_blackwell is the exact KL of each token's distribution, summed"),
        Column("Of", "each token: the terms of the tokens, summed; whole sequence: the term of the summed log-ratio"),
        Column("Aims at", "the divergence that it estimates"),
        Column("Exact", f"that divergence, nats a {unit}, with its 95 % interval; – where nobody knows it", numeric=True),
        Column("Mean", f"of the estimates, nats a {unit}", numeric=True),
        Column("Bias", "mean minus exact value, over the exact value, with its 95 % interval", numeric=True),
        Column("Sd", f"of one completion, nats a {unit}", numeric=True),
        Column("Below zero", "share of the terms (for sums over tokens: of the sums) that are negative", numeric=True),
        Column("k-hat", "how heavy the tail of the ratio is; at 0.5 and above there is no variance", numeric=True),
        Column("Flag", "ok, or why the row is not to be trusted"),
    ]
    cells = []
    for row in rows:
        off = with_interval(100.0 * row["rel_bias"], 100.0 * row["rel_bias_se"])
        bias = f"{off} %" if finite(row["rel_bias"]) else MISSING
        if row["bias_method"] == "is the truth":
            bias = "is the truth"
        cells.append(
            [
                Cell(code(str(row["estimator"]))), Cell(LEVELS[str(row["level"])]), Cell(str(row["target"])),
                Cell(known(row["truth"], row["truth_error"]), row["truth"]), number_cell(row["mean"]),
                Cell(bias, row["rel_bias"]), number_cell(row["std"]), negative_cell(row["frac_negative"]),
                number_cell(row["khat"], 2),
                Cell("" if row["status"] == "ok" else str(row["status"]), tone="" if row["status"] == "ok" else "doubtful"),
            ]
        )  # fmt: skip
    return Table(f"{data.labels[pair]}: estimators, nats a {unit}", columns, cells)


def skipped(data: Data) -> list[Block]:
    """What could not be measured, and why."""
    reasons: dict[str, list[str]] = {}
    for row in data.values:
        if str(row["status"]).startswith("skipped: "):
            reasons.setdefault(str(row["status"]).removeprefix("skipped: "), []).append(str(row["estimator"]))
    return [Paragraph(f"Left out, {why}: {', '.join(dict.fromkeys(names))}.", "note") for why, names in reasons.items()]


def positions(data: Data, pair: str) -> Table:
    """One row a position."""
    columns = [
        Column("Position", "counted from 1 among the tokens that count", numeric=True),
        Column("Completions", "that are still going there", numeric=True),
        Column("Exact KL", "mean of KL(q‖p) over the next token, nats, with its 95 % interval", numeric=True),
        Column("KL(p‖q)", "the same in the other direction", numeric=True),
        *(Column(name, f"mean of {name} of the token, nats, with its 95 % interval", numeric=True) for name in ("k1", "k3")),
        Column("k1 below zero", "share of the tokens there", numeric=True),
        Column("k-hat", "how heavy the tail of the token's ratio is there", numeric=True),
        Column("Share", "of the KL of the completions that arises there", numeric=True),
    ]
    rows = []
    for row in data.places(pair)[:MAX_ROWS]:
        pairs = (("kl_qp", "kl_qp_se"), ("kl_pq", "kl_pq_se"), ("k1", "k1_se"), ("k3", "k3_se"))
        rows.append(
            [
                Cell(f"{row['position']:,}", row["position"]), Cell(f"{row['n']:,}", row["n"]),
                *(interval_cell(row[name], row[se]) for name, se in pairs),
                negative_cell(row["frac_negative"]), number_cell(row["khat"], 2),
                Cell(percent(row["share"]) if finite(row["share"]) else MISSING, row["share"]),
            ]
        )  # fmt: skip
    return Table(f"By position: {data.labels[pair]}", columns, rows)


def top(data: Data, pair: str) -> list[Block]:
    """The tokens that carry the divergence."""
    rows = [row for row in data.top if row["pair"] == pair]
    if not rows:
        return []
    named = any(row["text"] for row in rows)
    whole = "exact KL" if rows[0]["share_of"] == "kl_qp" else "sum of k1"
    columns = [
        *([Column("Token", "its text; ␣ is a space, ⏎ the end of a line")] if named else []),
        Column("Id", "in the tokenizer", numeric=True),
        Column("Drawn", "how often", numeric=True),
        Column(
            "Share", f"its part of the {whole}: the sum of log q/p where it was drawn; below 0 where the policy avoids it", True
        ),
        Column("log q/p", "mean where it was drawn, nats", numeric=True),
        Column("Exact KL there", "sum of the KL of the distributions that it was drawn from, nats", numeric=True),
        Column("Largest |log r|", "of any time it was drawn, nats", numeric=True),
    ]
    cells = [
        [
            *([Cell(code(visible(row["text"])))] if named else []), Cell(f"{row['token']}", row["token"]),
            Cell(f"{row['count']:,}", row["count"]), share_cell(row["share"]), number_cell(row["k1_mean"], 2),
            number_cell(row["kl_sum"], 3), number_cell(row["largest"], 2),
        ]
        for row in rows
    ]  # fmt: skip
    total = int(rows[0]["distinct"])
    return [Table(f"{count(len(rows), 'token')} of {total:,} that carry most: {data.labels[pair]}", columns, cells)]


def ratios(data: Data, pair: str) -> list[Block]:
    """The tokens with the largest ratios."""
    rows = [row for row in data.ratios if row["pair"] == pair]
    if not rows:
        return []
    named = any(row["text"] for row in rows)
    columns = [
        *([Column("Token", "its text; ␣ is a space, ⏎ the end of a line")] if named else []),
        Column("Id", "in the tokenizer", numeric=True),
        Column("Largest |log r|", "of any time it was drawn, nats", numeric=True),
        Column("Drawn", "how often", numeric=True),
        Column("log q/p", "mean where it was drawn, nats", numeric=True),
    ]
    cells = [
        [
            *([Cell(code(visible(row["text"])))] if named else []), Cell(f"{row['token']}", row["token"]),
            number_cell(row["largest"]), Cell(f"{row['count']:,}", row["count"]), number_cell(row["k1_mean"], 2),
        ]
        for row in rows
    ]  # fmt: skip
    title = f"Tokens with the largest ratios: {data.labels[pair]}"
    return [Details(title, [Table(title, columns, cells)])]


def dtype(data: Data) -> list[Block]:
    """What another format changes."""
    rows = [row for row in data.dtype if row["estimator"] in ("k1", "k2", "k3")]
    if not rows:
        return []
    columns = [
        *pair_column(data), Column("Format", "that the same completions were scored in"),
        Column("What", "policy against reference, or against itself: then the true divergence is 0"),
        Column("Estimator", "name in klbench"), Column("Of", "each token or the whole sequence"),
        Column("Before", "mean in the pair's own format, nats a completion", numeric=True),
        Column("Change", "mean difference on the same completions, with its 95 % interval", numeric=True),
        Column("Sd of log r", "standard deviation of what a token's log-ratio changes by", numeric=True),
    ]  # fmt: skip
    cells = [
        [
            *pair_cell(data, row), Cell(str(row["dtype"])), Cell(str(row["what"])), Cell(code(str(row["estimator"]))),
            Cell(LEVELS[str(row["level"])]), number_cell(row["mean"]), interval_cell(row["change"], row["change_se"]),
            number_cell(row["sd_log_ratio"], 2),
        ]
        for row in rows
    ]  # fmt: skip
    said = "The same completions, scored again by the same models with fewer bits: what rounding does to each estimate."
    table = Table("Scored again", columns, cells)
    return [Heading("In fewer bits"), Paragraph(said), table if len(rows) <= MAX_OPEN else Details("Every estimator", [table])]


def truncation(data: Data) -> list[Block]:
    """What is left of the exact sum."""
    if not data.truncation:
        return []
    columns = [
        *pair_column(data), Column("k", "tokens told apart; all others are one bucket", numeric=True),
        Column("All tokens", "the exact sum, nats a completion", numeric=True),
        Column("k and a bucket", "what is left of it, with its 95 % interval", numeric=True),
        Column("Missing", "share of the exact sum", numeric=True),
    ]  # fmt: skip
    cells = [
        [*pair_cell(data, row), Cell(f"{row['k']:,}", row["k"]), number_cell(row["exact"]),
         interval_cell(row["mean"], row["mean_se"]), Cell(percent(row["share"]), row["share"])]
        for row in data.truncation
    ]  # fmt: skip
    return [Heading("Only the most probable tokens"), Table("KL over the k most probable tokens", columns, cells)]


def sampling(data: Data) -> list[Block]:
    """Samples of another distribution, with whose log-probabilities."""
    if not data.sampling:
        return []
    columns = [
        *pair_column(data), Column("Log-ratio", "whose log-probabilities are compared with the reference's"),
        Column("Estimator", "on samples of μ, without weights"), Column("Of", "each token or the whole sequence"),
        Column("Mean", "nats a completion, with its 95 % interval", numeric=True),
        Column("KL(q‖p)", "of the policy, exact", numeric=True), Column("Off by", "of it", numeric=True),
        Column("KL(μ‖p)", "of the sampler, as k1 with its own log-probabilities has it", numeric=True),
    ]  # fmt: skip
    cells = [
        [
            *pair_cell(data, row), Cell(str(row["log_ratio"]).replace("mu", "μ").replace("-", "−")),
            Cell(code(str(row["estimator"]))), Cell(LEVELS[str(row["level"])]), interval_cell(row["mean"], row["mean_se"]),
            number_cell(row["kl_qp"]), share_cell(row["rel_bias"]), interval_cell(row["kl_mup"], row["kl_mup_se"]),
        ]
        for row in data.sampling
    ]  # fmt: skip
    said = (
        "The samples come from μ and not from the policy q. With the policy's log-probabilities an estimator is off, since the "
        "tokens are not the policy's; with the sampler's it measures how far the sampler is from the reference."
    )
    return [Heading("Samples of another distribution"), Paragraph(said), Table("Which log-probabilities", columns, cells)]


def all_tables(data: Data) -> Sequence[Block]:
    """Everything below the figures."""
    blocks: list[Block] = []
    tables = [(pair, values(data, pair, "sequence"), values(data, pair, "token")) for pair in data.pairs]
    blocks += [Heading("Every estimator"), *skipped(data)]
    for pair, main, per_token in tables:
        if main is not None:
            blocks.append(Details(f"{data.labels[pair]}, a completion", [main]) if len(data.pairs) > 1 else main)
        if per_token is not None:
            blocks.append(Details(f"{data.labels[pair]}, a token", [Paragraph(PER_TOKEN), per_token]))
    blocks += [Details(f"{data.labels[pair]}, by position", [positions(data, pair)]) for pair in data.pairs]
    listed = [(pair, top(data, pair)) for pair in data.pairs]
    if any(found for _, found in listed):
        said = Markup(
            "Each time a token is drawn it adds log q/p to {}, whose mean is the KL. These are the tokens that add or take "
            "away most: what the policy has learned to say, and what it has learned to avoid."
        ).format(code("k1"))
        blocks += [Heading("The tokens that carry it"), Paragraph(said)]
        blocks += [
            Details(f"Tokens: {data.labels[pair]}", found) if len(data.pairs) > 1 else found[0]
            for pair, found in listed
            if found
        ]
        blocks += [block for pair in data.pairs for block in ratios(data, pair)]
    blocks += [*sampling(data), *dtype(data), *truncation(data), *section_cost.cost(data)]
    return [*blocks, *section_cost.prompts(data), *section_cost.checks(data)]
