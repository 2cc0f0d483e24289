"""Estimators on completions, token by token.

Language models, recorded rollouts, and sequences whose truth is enumerated.

Completions are measured in shards that are merged in a fixed order: memory does not grow with their
number, what was merged is kept in the run folder, and the tables but for ``throughput`` and
``cost`` are the same to the bit whoever did the work. Language models stay in this process, where
torch has its threads; everything else goes to the workers. Several processes that share the run
(``accelerate launch -m klbench``) take shards in turn, each on a GPU of its own.

The truth of a pair whose truth is not known is the mean, over completions of the policy, of the
exact divergences of their tokens' distributions: the Rao-Blackwell sum. The bias of an estimator is
measured on the very same completions, as the mean of its difference from that sum, which has less
noise than either. A language model that samples from another distribution than its own (a
temperature, top-p) gets as many further completions from its own, for the truth.

Per token, everything is divided by one number: the plain count of the tokens that were measured,
whoever sampled them. That holds for the truth and for weighted estimators as well, so that an
estimator that is right per completion is right per token.

Standard errors take completions for independent. Where several answer one prompt that is too
careful for the mean over these very prompts, and not careful enough for that over prompts of which
these are a sample; ``prompts`` says by how much.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Iterator, Sequence

import pandas as pd

from klbench.context import Checkpoint, Context
from klbench.metrics.tails import FAILS
from klbench.pairs import Pair
from klbench.pairs.recorded import RecordedPair
from klbench.report.numbers import with_interval
from klbench.schema import Tables
from klbench.studies.lm import tables as made
from klbench.studies.lm.again import scored_again
from klbench.studies.lm.found import Found
from klbench.studies.lm.measure import measure_shard, measured
from klbench.studies.lm.options import LmOptions
from klbench.studies.lm.values import Measured, values
from klbench.studies.lm.verdicts import complete
from klbench.study import Summary
from klbench.types import Estimator, RunError, Truth


def _part(pair: Pair) -> str:
    """A name for what is kept of a pair.

    Its parameters, and the state of the file that it reads.
    """
    content = f"{pair.kind} {pair.parameters_text()} {pair.fingerprint}"
    return f"lm-{hashlib.sha256(content.encode()).hexdigest()[:16]}"


def _measure(
    pair: Pair, options: LmOptions, context: Context, progress: Checkpoint[Found]
) -> Iterator[int]:
    """Merge a pair's shards; yields how many are done."""
    total, chosen = options.completions(pair), options.chosen(pair)
    size = options.drawn(pair)
    shards = -(-total // size)
    tasks = (
        (pair, chosen, context.seed, k, size, min(size, total - k * size))
        for k in range(progress.shards, shards)
    )
    if pair.capabilities.in_process and progress.shards < shards:
        context.group.agreed(
            pair.prepare
        )  # lest the first shard's clock run while a model is loaded, or built
    here = pair.capabilities.in_process and context.group.size == 1 and context.cluster is None
    results = (
        (measure_shard(*task) for task in tasks)
        if here
        else context.map(measure_shard, tasks, short=True)
    )
    for found in results:
        progress.add(found, last=progress.shards == shards - 1)
        yield progress.shards


def _solved(pair: Pair, chosen: tuple[Estimator, ...], found: Found, own: Found | None) -> Measured:
    """Return what was measured, with what is exact about the pair."""
    truths: dict[str, Truth | None] = {each.target: pair.truth(each.target) for each in chosen}
    truths["kl_qp"] = pair.truth("kl_qp")
    usable = measured(chosen, off_policy=pair.off_policy)
    moments = {each.name: exact for each, exact in zip(usable, pair.exact(usable), strict=True)}
    return Measured(
        pair, chosen, found, truths, moments, None if own is None else Measured(pair, (), own, {})
    )


def _all_pairs(options: LmOptions, device: str) -> tuple[list[Pair], list[Pair]]:
    """Return the pairs to report, and all that must be measured for them, each once."""
    wanted = [pair.placed(device) for pair in options.pairs]
    needed = {_part(pair): pair for pair in wanted}
    for pair in wanted:
        own = pair.on_policy()
        if own is not None:
            needed.setdefault(_part(own), own)
    return wanted, list(needed.values())


def run(options: LmOptions, context: Context) -> dict[str, pd.DataFrame]:
    """Return the tables that :mod:`klbench.studies.lm.columns` declares."""
    wanted, needed = _all_pairs(options, context.device)
    counts = [-(-options.completions(pair) // options.shard) for pair in needed]
    states: dict[str, Checkpoint[Found]] = {}
    done = 0
    try:
        for pair, count in zip(needed, counts, strict=True):
            state = states[_part(pair)] = Checkpoint(context, _part(pair), Found)
            context.progress(done + state.shards, sum(counts), pair.title)
            for shards in _measure(pair, options, context, state):
                context.progress(done + shards, sum(counts), pair.title)
            done += count
    except KeyboardInterrupt:
        context.interrupted = True
        for state in states.values():
            state.save()
    finished = {
        _part(pair): states[_part(pair)].found
        for pair, count in zip(needed, counts, strict=True)
        if _part(pair) in states and states[_part(pair)].shards == count
    }
    results = []
    for pair in wanted:
        own, found = pair.on_policy(), finished.get(_part(pair))
        if found is not None and (own is None or _part(own) in finished):
            results.append(
                _solved(
                    pair, options.chosen(pair), found, None if own is None else finished[_part(own)]
                )
            )
    again: dict[str, pd.DataFrame] = {}
    if not context.interrupted:
        chosen = [options.chosen(pair) for pair in wanted]
        times = [(options.again(pair), options.drawn(pair)) for pair in wanted]
        again = scored_again(wanted, chosen, context, times, options.dtypes, options.truncations)
    if not results:
        if context.interrupted or not context.group.main:
            return {}
        raise RunError("there are no completions to measure")
    return _tables(results, again, context)


def _diagnosed(results: Sequence[Measured]) -> dict[str, pd.DataFrame]:
    """Return the doctor's tables of recorded rollouts.

    With it comes much that models do not need.
    """
    if not any(isinstance(m.pair, RecordedPair) for m in results):
        return {}
    module = importlib.import_module("klbench.studies.lm.diagnosed")
    found: dict[str, pd.DataFrame] = module.diagnosed(results)
    return found


def _tables(
    results: list[Measured], again: dict[str, pd.DataFrame], context: Context
) -> dict[str, pd.DataFrame]:
    found = values(results)
    used = {each.name: each for m in results for each in m.chosen}
    optional = {
        "top_tokens": made.top_tokens(results),
        "largest_ratios": made.largest_ratios(results),
        "sampling": made.sampling(results),
        "prompts": made.prompts(results),
        "checks": made.checks(results),
        "token_means": made.token_means(results),
        "agreement": made.agreement(results),
    }
    return complete(
        {
            "values": found,
            "tokens": made.positions(results),
            **{name: table for name, table in optional.items() if table is not None},
            **again,
            "pairs": made.pairs(results),
            "estimators": made.described_all(
                list(used.values()), off_policy=any(m.off_policy for m in results)
            ),
            **_diagnosed(results),
            "throughput": made.throughput(results, context.device),
            "cost": made.cost(results, found),
        }
    )


def _known(value: float, text: str) -> str:
    return "–" if value != value else text


def _notes(results: Tables, pair: str) -> list[str]:
    """Return sentences on what is odd about a pair's completions."""
    about = next(row for row in results["pairs"].to_dict("records") if row["pair"] == pair)
    above, unread = about["above_zero"], about["unread"]
    notes = [f"Columns that were not read: {unread}."] if unread else []
    if above:
        notes.append(
            f"Tokens with a log-probability above 0, as rounding leaves them: {above:,}. They are"
            " taken as they are."
        )
    for row in results["checks"].to_dict("records") if "checks" in results else []:
        if row["pair"] == pair and row["verdict"] == FAILS:
            mean = with_interval(row["mean"], row["mean_se"])
            notes.append(
                f"The mean of {row['ratio']} over tokens is {mean} and not 1: these completions"
                " fail their own check."
            )
    return notes


def summarize(results: Tables) -> list[Summary]:
    """Return a row for each estimator and level, per sequence, of the first pair."""
    table = results["values"]
    titles = list(dict.fromkeys(table["pair"]))
    rows = table[(table["pair"] == titles[0]) & (table["per"] == "sequence")]
    kept = rows[~rows["status"].str.startswith("skipped")].to_dict("records")
    if not kept:
        return []
    notes = [f"{len(titles) - 1} further pairs are in the report."] if len(titles) > 1 else []
    if all(row["truth"] != row["truth"] for row in kept):
        notes.append("The exact divergence is not known: these rollouts have no column kl.")
    notes += _notes(results, titles[0])
    lines = [
        (
            row["estimator"],
            row["level"],
            row["target"],
            _known(row["truth"], f"{row['truth']:.4g}"),
            f"{row['mean']:.4g}",
            _known(row["bias"], with_interval(row["bias"], row["bias_se"])),
            _known(row["std"], f"{row['std']:.4g}"),
            "" if row["status"] == "ok" else row["status"],
        )
        for row in kept
    ]
    heading = (
        f"{titles[0]}, {kept[0]['samples']:,} completions, {kept[0]['tokens']:,} tokens (nats per"
        " completion)"
    )
    columns = (
        "estimator",
        "level",
        "target",
        ">truth",
        ">mean",
        ">bias, 95% interval",
        ">std",
        "flag",
    )
    return [Summary(heading, columns, lines, notes)]
