"""The value study's tables for the terminal."""

from __future__ import annotations

from klbench.report.numbers import with_interval
from klbench.schema import Tables, records
from klbench.studies.value.columns import FEW_SAMPLES, common_batch
from klbench.study import Summary

COLUMNS = ("estimator", "target", ">truth", ">bias, 95% interval", ">std", ">rmse", "flag")
CELLS = ("{estimator}", "{target}", "{truth:.4g}", "{off}", "{std:.4g}", "{rmse:.4g}", "{flag}")


def summarize(results: Tables) -> list[Summary]:
    """Return a row for each estimator at a batch size that all have, for one pair or two, and
    what was skipped and why.
    """
    table = results["values"]
    table = table[table["batch"] == common_batch(table)]
    titles = list(dict.fromkeys(table["pair"]))
    summaries = []
    for title in dict.fromkeys([*titles[:1], *titles[len(titles) // 2 :][:1]]):
        skipped = table["status"].str.startswith("skipped")
        rows = [
            row | {"off": with_interval(row["bias"], row["bias_se"])}
            for row in records(table[(table["pair"] == title) & ~skipped])
        ]
        if rows:
            batch, samples = rows[0]["batch"], rows[0]["samples"]
            heading = f"{title}, batches of {batch}, {samples:,} samples (nats)"
            left_out = table[(table["pair"] == title) & skipped].groupby("status", sort=False)
            notes = [f"{reason}: {', '.join(group['estimator'])}" for reason, group in left_out]
            if samples < FEW_SAMPLES:
                notes.append(
                    f"With fewer than {FEW_SAMPLES} samples intervals are too narrow: errors are"
                    " taken for normal."
                )
            summaries.append(Summary.of(heading, COLUMNS, CELLS, rows, notes))
    if len(titles) > 2:
        summaries.append(
            Summary("", (), (), (f"{len(titles) - 2} further pairs are in the report.",))
        )
    return summaries
