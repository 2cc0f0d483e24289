"""The table of the throughput study."""

from __future__ import annotations

from klbench.schema import Column, Schema, integer, text

THROUGHPUT = Schema(
    "throughput",
    "One row for each estimator, library, direction and dtype: terms a second, over timed blocks of calls.",
    (
        text("estimator", "name in klbench", "Estimator"),
        text("backend", "the array library"),
        text("pass", "forward, or forward and backward"),
        text("dtype", "format of the numbers"),
        text("device", "where it ran"),
        integer("samples", "terms in a call"),
        Column("terms_per_second", "median over the blocks", "1/s"),
        Column("terms_per_second_q25", "first quartile over the blocks", "1/s"),
        Column("terms_per_second_q75", "third quartile over the blocks", "1/s"),
        integer("repeats", "timed blocks"),
    ),
)

TABLES = (THROUGHPUT,)
