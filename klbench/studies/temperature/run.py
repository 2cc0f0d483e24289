"""The run of the temperature study: every quantity beside the others, at each temperature."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from klbench.context import Context
from klbench.pairs import Pair
from klbench.pairs.lm import LmPair, threads
from klbench.rlhf.testbed.distilled import States
from klbench.rows import Rows
from klbench.schema import Tables
from klbench.studies.distill.rows import states, token_log_probs
from klbench.studies.temperature.options import TemperatureOptions
from klbench.study import Summary
from klbench.threads import one_thread

QUANTITIES = ("kl_models", "kl_scored", "mean_mixed", "kl_sampler")

Row = dict[str, Any]


def at(log_probs: Tensor, temperature: float) -> Tensor:
    """Return log-probabilities of the distribution with its logits divided by a temperature."""
    return (log_probs / temperature).log_softmax(-1)


def means(sampler: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """``E_sampler[log first/second]`` of the next token, ``(..., V)`` to ``(...)``."""
    never = sampler.isneginf()
    gap = first.masked_fill(never, 0.0) - second.masked_fill(never, 0.0)
    return (sampler.exp() * gap).sum(-1)


def of_states(log_q: Tensor, log_p: Tensor, temperature: float) -> dict[str, Tensor]:
    """Return each quantity that is a mean over samples of q_T, of the next token at some states."""
    sampler, scored = at(log_q, temperature), at(log_p, temperature)
    return {
        "kl_scored": means(sampler, sampler, scored),
        "mean_mixed": means(sampler, log_q, log_p),
        "kl_sampler": means(sampler, sampler, log_p),
    }


def enumerated(pair: Pair, temperatures: Sequence[float]) -> Rows:
    """One task: a pair whose every sequence is enumerated."""
    with one_thread():
        found = states(pair)
        log_q, log_p = found.log_q, found.log_p
        leaves_q = found.tree.sum_along(log_q)
        prompts = len(log_q)

        def total(of: States, values: Tensor) -> float:
            return float((of.often * values).sum()) / prompts

        models = total(found, means(log_q, log_q, log_p))
        rows = []
        for temperature in temperatures:
            sampler = at(log_q, temperature)
            there = States(found.tree, sampler, log_p)
            values = {
                name: total(there, each)
                for name, each in of_states(log_q, log_p, temperature).items()
            }
            leaves = found.tree.sum_along(sampler)
            log_weight = (leaves_q - leaves).masked_fill(leaves.isneginf(), -math.inf)
            moment = [(leaves + n * log_weight).logsumexp(-1).exp().mean() for n in (1, 2)]
            rows.append(
                _row(pair, temperature, {"kl_models": models} | values)
                | {"mean_weight": float(moment[0]), "mean_weight_se": 0.0}
                | {"ess": 1.0 / float(moment[1]), "method": "enumeration", "samples": 0}
            )
        return rows


def _row(pair: Pair, temperature: float, values: Mapping[str, float]) -> Row:
    known = all(map(math.isfinite, values.values()))
    return {
        "pair": pair.title,
        "series": pair.series,
        "temperature": temperature,
        **{f"{name}_se": 0.0 for name in QUANTITIES},
        **values,
        "status": "ok" if known else "infinite",
    }


def sampled(pair: LmPair, temperature: float, samples: int, seed: int) -> dict[str, np.ndarray]:
    """Return each quantity's value on completions of q_T, and their weights ``log q/q_T``.

    A value is a sum over a completion's tokens of means over what could have come next.
    """
    own = pair.model_copy(update={"temperature": temperature})
    parts: dict[str, list[np.ndarray]] = {}
    for shard, start in enumerate(range(0, samples, pair.score_batch)):
        size = min(pair.score_batch, samples - start)
        completions = own.completions(seed, shard, size)
        completion = torch.from_numpy(np.nonzero(completions.mask)[0])
        with threads(*own.models):
            log_q, log_p = token_log_probs(own, completions)
            found = of_states(log_q, log_p, temperature)
            assert completions.token is not None
            token = torch.from_numpy(completions.token[completions.mask])[:, None]
            found["log_weight"] = (log_q - at(log_q, temperature)).gather(-1, token)[:, 0]
        for name, each in found.items():
            total = torch.zeros(size, dtype=each.dtype).index_add_(0, completion, each)
            parts.setdefault(name, []).append(total.numpy())
    return {name: np.concatenate(each) for name, each in parts.items()}


def of_language(pair: LmPair, options: TemperatureOptions, seed: int) -> Rows:
    """Return the rows of a pair of language models, from completions at each temperature."""
    n = options.samples
    models = sampled(pair, 1.0, n, seed)["kl_scored"]
    rows = []
    for temperature in options.temperatures:
        found = sampled(pair, temperature, n, seed)
        weight = np.exp(found.pop("log_weight"))
        found |= {"kl_models": models, "mean_weight": weight}
        rows.append(
            _row(pair, temperature, {name: float(found[name].mean()) for name in QUANTITIES})
            | {f"{name}_se": each.std(ddof=1) / math.sqrt(n) for name, each in found.items()}
            | {"mean_weight": weight.mean(), "ess": weight.sum() ** 2 / (n * (weight**2).sum())}
            | {"method": "sampling", "samples": n}
        )
    return rows


def run(options: TemperatureOptions, context: Context) -> Tables:
    """Return table ``temperature``."""
    listed = [pair for pair in options.pairs if not isinstance(pair, LmPair)]
    tasks = [(pair.title, (pair, options.temperatures)) for pair in listed]
    rows = [row for found in context.collect(enumerated, tasks, short=True) for row in found]
    for pair in options.pairs:
        if isinstance(pair, LmPair) and not context.interrupted:
            rows += of_language(pair, options, context.seed)
    return {"temperature": pd.DataFrame(rows)} if rows else {}


def summarize(results: Tables) -> list[Summary]:
    """Return the quantities of each pair side by side."""
    columns = (">T", ">KL(q‖p)", ">KL(q_T‖p_T)", ">E_q_T log q/p", ">KL(q_T‖p)", ">E q/q_T", ">ESS")
    quantities = (f"{{{name}:.6g}}" for name in QUANTITIES)
    cells = ("{temperature:g}", *quantities, "{mean_weight:.4g}", "{ess:.1%}")
    return [
        Summary.of(
            f"{pair}: nats a sequence; q_T and p_T have their logits divided by T",
            columns,
            cells,
            rows,
        )
        for pair, rows in results["temperature"].groupby("pair", sort=False)
    ]
