"""Tables of what completions cost, of whether they can be trusted, and of what it means that some answer the same prompt."""

from __future__ import annotations

from klbench.metrics.tails import HOLDS
from klbench.report.blocks import Block, Cell, Column, Details, Heading, Table
from klbench.report.numbers import percent
from klbench.studies.lm.section_cells import MAX_OPEN, interval_cell, number_cell, pair_cell, pair_column, share_cell
from klbench.studies.lm.section_data import LEVELS, Data, code, finite

STAGES = {"completions": "all", "generation": "generation", "scoring": "scoring"}


def prompts(data: Data) -> list[Block]:
    """Standard errors that take completions of one prompt for what they are."""
    if not data.prompts:
        return []
    columns = [
        *pair_column(data), Column("Of", "the mean over completions of this, summed over tokens"),
        Column("Prompts", "that were answered", numeric=True), Column("Completions", "in all", numeric=True),
        Column("Mean", "nats a completion", numeric=True),
        Column("S.e.", "as everywhere on this page: completions taken for independent", numeric=True),
        Column("These prompts", "standard error for the mean over these very prompts", numeric=True),
        Column("New prompts", "standard error for the mean over prompts of which these are a sample", numeric=True),
        Column("Between", "share of the variance that is between prompts", numeric=True),
    ]  # fmt: skip
    cells = [
        [*pair_cell(data, row), Cell(str(row["what"])), Cell(f"{row['prompts']:,}", row["prompts"]),
         Cell(f"{row['completions']:,}", row["completions"]), number_cell(row["mean"]), number_cell(row["se"], 2),
         number_cell(row["se_same"], 2), number_cell(row["se_new"], 2),
         Cell(percent(row["between_share"]), row["between_share"])]
        for row in data.prompts
    ]  # fmt: skip
    table = Table("Completions of the same prompts", columns, cells)
    return [Details("Standard errors, with completions of one prompt taken together", [table])]


def checks(data: Data) -> list[Block]:
    """Ratios to whoever sampled, whose mean over tokens must be 1."""
    if not data.checks:
        return []
    columns = [
        *pair_column(data), Column("Ratio", "of a token's probabilities; below the line is who sampled"),
        Column("Mean", "over all tokens, with its 95 % interval, completions taken for independent", numeric=True),
        Column("Standard errors", "by which the mean is not 1", numeric=True),
        Column("Effective tokens", "that carry the mean: (sum r)² / sum r²", numeric=True),
        Column("k-hat", "how heavy the tail of the ratio is; at 0.5 and above there is no variance", numeric=True),
        Column("Mean of 1", "holds, fails beyond 5 standard errors, or cannot be told from these completions"),
    ]  # fmt: skip
    cells = [
        [*pair_cell(data, row), Cell(str(row["ratio"])), interval_cell(row["mean"], row["mean_se"]), number_cell(row["z"], 2),
         number_cell(row["ess"]), number_cell(row["khat"], 2),
         Cell(str(row["verdict"]), tone="" if row["verdict"] == HOLDS else "doubtful")]
        for row in data.checks
    ]  # fmt: skip
    return [Details("Whether ratios have the mean that they must have", [Table("Ratios whose mean is 1", columns, cells)])]


def cost(data: Data) -> list[Block]:
    """What a standard error of one per cent takes, and the speed."""
    rows = [row for row in data.cost if finite(row["completions_needed"])]
    speed = [row for row in data.throughput if row["stage"] in STAGES]
    blocks: list[Block] = []
    if rows:
        columns = [
            *pair_column(data), Column("Estimator", "name in klbench"), Column("Of", "each token or the whole sequence"),
            Column("Completions", "for a standard error of 1 % of the exact KL", numeric=True),
            Column("Seconds", "for them, at the speed of this run: making, scoring and estimating", numeric=True),
            Column("Bias", "what no number of completions takes away", numeric=True),
            Column("Flag", "why the row is not to be trusted"),
        ]  # fmt: skip
        cells = [
            [
                *pair_cell(data, row), Cell(code(str(row["estimator"]))), Cell(LEVELS[str(row["level"])]),
                number_cell(row["completions_needed"], 2), number_cell(row["seconds_needed"], 2), share_cell(row["rel_bias"]),
                Cell("" if row["status"] == "ok" else str(row["status"]), tone="" if row["status"] == "ok" else "doubtful"),
            ]
            for row in rows
        ]  # fmt: skip
        table = Table("What a standard error of 1 % takes", columns, cells)
        blocks.append(table if len(rows) <= MAX_OPEN else Details("Every estimator", [table]))
    if speed:
        kernels = [str(row["kernel"]) for row in speed] if all(isinstance(row.get("kernel"), str) for row in speed) else []
        kernels = kernels if any(kernels) else []
        columns = [
            *pair_column(data),
            Column("Of", "all that it takes to have completions; of that, sampling them, and scoring them by both models"),
            Column("Completions a second", "of one process", numeric=True),
            Column("Tokens a second", "that count", numeric=True),
            Column("Memory, MiB", "the most that a process held; on a GPU, that its tensors held", numeric=True),
            Column("Device", "where"),
            *([Column("Kernel", "what computed log-probabilities and exact KL from the logits")] if kernels else []),
        ]  # fmt: skip
        cells = [
            [*pair_cell(data, row), Cell(STAGES[row["stage"]]), number_cell(row["completions_per_second"]),
             number_cell(row["tokens_per_second"]), number_cell(row["peak_mib"]), Cell(str(row["device"])),
             *([Cell(kernel)] if kernels else [])]
            for row, kernel in zip(speed, kernels or [""] * len(speed), strict=True)
        ]  # fmt: skip
        blocks.append(Table("Speed", columns, cells))
    return [Heading("What it costs"), *blocks] if blocks else []
