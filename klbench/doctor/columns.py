"""The tables of a diagnosis, as the doctor's page and that of recorded rollouts have them."""

from __future__ import annotations

from klbench.schema import Column, Schema, flag, integer, interval, text, with_error

DIAGNOSIS = Schema(
    "diagnosis",
    "One row for each file or set of files: what was read, and what is going on.",
    (
        text("files", "names of the files"),
        text("layout", "how a row is a rollout: lists, tokens or sums"),
        text("columns", "the column of each role"),
        integer("rollouts", "rollouts with tokens that count", "Rollouts"),
        integer("empty", "rollouts without, which are left out", "Empty"),
        integer("tokens", "tokens that count", "Tokens"),
        flag("alarm", "whether something has consequences"),
        text("cause", "the likeliest cause", "Cause"),
        text("evidence", "the numbers that speak for it"),
    ),
)
CAUSES = Schema(
    "causes",
    "One row for each possible cause, the likeliest first.",
    (
        integer("place", "1 is the likeliest"),
        text("cause", "name of the cause", "Cause"),
        Column("score", "between 0 and 1, comparable within one file", heading="Score"),
        text("evidence", "the numbers that speak for it", "Evidence"),
    ),
    optional=True,
)
MUST_HOLD = Schema(
    "must_hold",
    "One row for each thing that must hold of a run's log-probabilities.",
    (
        text("check", "name of the check", "Check"),
        text("verdict", "holds, fails or cannot tell", "Verdict"),
        *with_error(Column("value", "what was measured", heading="Value")),
        flag("consequence", "whether it is an alarm where it fails"),
        text("message", "what was measured, in words", "In words"),
    ),
    optional=True,
)
LINES = Schema(
    "doctor_lines",
    "One row for each statistic of the screen.",
    (
        text("part", "sampler, lag (policy since sampling) or reference", "Of"),
        text("quantity", "name of the statistic", "Statistic"),
        *interval(Column("value", "value; nats for divergences", heading="Value")),
        Column("value_se", "standard error of value"),
    ),
    optional=True,
)
MASKS = Schema(
    "masks",
    "One row for each usual correction: what it touches of these rollouts, and what it leaves.",
    (
        text("name", "name of the correction", "Correction"),
        text("by", "whose default it is", "Default of"),
        text("what", "what it does", "What it does"),
        text("per", "what it counts: token or rollout"),
        *with_error(Column("share", "share that it touches", heading="Touches")),
        *with_error(Column("weight", "share of the weight that is left", heading="Weight left")),
    ),
    optional=True,
)
SAID = Schema(
    "said",
    "One row for each sentence: alarms, findings and advice.",
    (text("kind", "alarm, finding or advice"), text("sentence", "the sentence")),
    optional=True,
)
STEPS = Schema(
    "doctor_steps",
    "One row for each step and line of the screen.",
    (
        integer("step", "training step, or number of the file"),
        text("line", "name of the statistic"),
        *with_error(Column("value", "its value at that step")),
        flag("leaves", "whether it is the first out of the band of the steps before"),
    ),
    optional=True,
)
DIFFERENCES = Schema(
    "differences",
    "One row for each two columns and range of log-probabilities: how far the columns differ there.",
    (
        text("ratio", "sampler (trainer less sampler) or reference (reference less policy)"),
        Column("log_prob", "middle of the range, of whoever sampled", "nats"),
        Column("low", "the difference that one token in ten is below", "nats"),
        Column("middle", "the median difference", "nats"),
        Column("high", "the difference that one token in ten is above", "nats"),
        integer("tokens", "tokens in the range"),
    ),
    optional=True,
)
TABLES = (DIAGNOSIS, CAUSES, MUST_HOLD, LINES, MASKS, SAID, STEPS, DIFFERENCES)
