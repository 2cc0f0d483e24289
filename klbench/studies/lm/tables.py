"""Tables of the study of completions beside the values.

Positions, tokens, samplers, speed, cost.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from klbench import divergences
from klbench.metrics.tails import unit_mean
from klbench.schema import Schema
from klbench.studies.lm.columns import LARGEST_RATIOS, TOP_TOKENS, with_inflation, with_totals
from klbench.studies.lm.found import Vocabulary
from klbench.studies.lm.measure import LEVELS, MIXED, STAGES, UNIT, check_columns
from klbench.studies.lm.prompts import prompt_rows
from klbench.studies.lm.values import (
    NAN,
    RAO_BLACKWELL,
    WEIGHTED,
    Kind,
    Measured,
    bias_of,
    ratio_of,
    root,
    tail_shape,
    truth_of,
)
from klbench.studies.value.tables import described
from klbench.types import Estimator, Truth

TOP, TOP_RATIOS = 50, 20
"""Tokens of a pair that are listed."""
RATIOS = {"r": "p/q", "w": "q/μ", "wr": "p/μ"}


def positions(results: Sequence[Measured]) -> pd.DataFrame:
    """Return a row for each pair and position, counted from 1.

    Means with standard errors, tail, share of the divergence.
    """
    frames = []
    for m in results:
        places, kept = m.found.places, m.found.kept
        with np.errstate(all="ignore"):
            se = np.sqrt(places.scatter / np.maximum(places.count - 1, 0) / places.count)
        by_name = dict(
            zip(
                ("kl_qp", "kl_pq", "k1", "k2", "k3"), zip(places.mean, se, strict=True), strict=True
            )
        )
        share_of = "k1" if np.isnan(by_name["kl_qp"][0]).all() else "kl_qp"
        sums = by_name[share_of][0] * places.count
        with np.errstate(all="ignore"):  # NaN where there is no divergence to have a share of
            share = sums / sums.sum()
        order = np.argsort(kept.position, kind="stable")
        ends = np.searchsorted(kept.position[order], np.arange(places.count.size + 1))
        khats = [tail_shape(kept.token_ratio[order[a:b]]) for a, b in pairwise(ends)]
        columns: dict[str, Any] = {
            "pair": m.pair.title,
            "position": np.arange(1, places.count.size + 1),
            "n": places.count,
        }
        for name, (mean, mean_se) in by_name.items():
            columns |= {name: mean, f"{name}_se": mean_se}
        columns |= {
            "frac_negative": places.negative / places.count,
            "largest": places.largest,
            "khat": [k for k, _, _ in khats],
            "khat_se": [s for _, s, _ in khats],
            "khat_samples": [n for _, _, n in khats],
            "share": share,
            "share_of": share_of,
        }
        frames.append(pd.DataFrame(columns))
    return with_totals(pd.concat(frames, ignore_index=True))


def token_means(results: Sequence[Measured]) -> pd.DataFrame | None:
    """Return the mean over completions of each one's mean over tokens.

    None for what an earlier version measured.
    """
    rows = []
    for m in results:
        kinds = [(each.name, divergences.get(each.target).symbol) for each in m.usable]
        kinds += [(RAO_BLACKWELL, "KL(q‖p)")] if "exact kl_qp" in m.place else []
        rows += [
            {
                "pair": m.pair.title,
                "estimator": name,
                "target": target,
                "mean": mean,
                "mean_se": error,
            }
            for (name, target), (mean, error) in zip(kinds, _logged(m)[3:], strict=False)
        ]
    return pd.DataFrame(rows) if rows else None


def agreement(results: Sequence[Measured]) -> pd.DataFrame | None:
    """Return k1, k3 and their difference, summed over tokens.

    None for what an earlier version measured.
    """
    rows = []
    for m in results:
        if logged := _logged(m):
            (k1, k1_se), (k3, k3_se), (difference, difference_se) = logged[:3]
            rows.append(
                {
                    "pair": m.pair.title,
                    "off_policy": m.off_policy,
                    "k1": k1,
                    "k1_se": k1_se,
                    "k3": k3,
                    "k3_se": k3_se,
                    "difference": difference,
                    "difference_se": difference_se,
                }
            )
    return pd.DataFrame(rows) if rows else None


def _logged(m: Measured) -> list[tuple[float, float]]:
    """Return means and standard errors of what is logged of each completion."""
    if m.found.logged is None:
        return []
    variances = np.diag(m.found.logged.covariance)
    return [
        (float(mean), root(float(variance) / m.n))
        for mean, variance in zip(m.found.logged.mean, variances, strict=True)
    ]


def _vocabularies(results: Sequence[Measured]) -> Iterator[tuple[Measured, Vocabulary]]:
    """Yield the pairs whose tokens have ids, with what is known of each token of the vocabulary."""
    for m in results:
        if m.found.vocabulary is not None:
            yield m, m.found.vocabulary


def _ranked(m: Measured, found: Vocabulary, top: np.ndarray) -> pd.DataFrame:
    """Return some tokens in an order of rank."""
    ids = found.token[top]
    return pd.DataFrame(
        {
            "pair": m.pair.title,
            "rank": np.arange(1, top.size + 1),
            "token": ids,
            "text": m.pair.decode(ids),
            "count": found.count[top],
            "k1_mean": found.k1[top] / found.count[top],
            "largest": found.largest[top],
        }
    )


def _joined(schema: Schema, frames: Sequence[pd.DataFrame]) -> pd.DataFrame | None:
    """Return the table of all pairs, its columns in the order of the schema.

    None if there are none.
    """
    return pd.concat(frames, ignore_index=True)[schema.names] if frames else None


def top_tokens(results: Sequence[Measured]) -> pd.DataFrame | None:
    """Return the tokens whose log-ratios carry most of the divergence, in either direction.

    None if tokens have no ids.
    """
    frames = []
    for m, found in _vocabularies(results):
        exact = "exact kl_qp" in m.place
        total = m.n * m.mean("exact kl_qp") if exact else float(found.k1.sum())
        top = np.lexsort((found.token, -np.abs(found.k1)))[:TOP]
        frames.append(
            _ranked(m, found, top).assign(
                frequency=found.count[top] / m.tokens,
                k1_sum=found.k1[top],
                k1_sum_se=np.sqrt(found.k1_squared[top]),
                kl_sum=found.kl[top] if exact else NAN,
                share=found.k1[top] / total if total else NAN,
                share_of="kl_qp" if exact else "k1",
                distinct=found.token.size,
            )
        )
    return _joined(TOP_TOKENS, frames)


def largest_ratios(results: Sequence[Measured]) -> pd.DataFrame | None:
    """Return the tokens whose log-ratio was ever the largest, in either direction.

    None if tokens have no ids.
    """
    frames = [
        _ranked(m, found, np.lexsort((found.token, -found.largest))[:TOP_RATIOS])
        for m, found in _vocabularies(results)
    ]
    return _joined(LARGEST_RATIOS, frames)


def sampling(results: Sequence[Measured]) -> pd.DataFrame | None:
    """Return k1 and k3 on samples of mu, with the policy's log-probabilities or the sampler's.

    None without samplers.
    """
    rows = []
    for m in results:
        if not m.off_policy:
            continue
        own = "mixed mu k1 sequence"
        for side in ("q", "mu"):
            for name in MIXED:
                for level in LEVELS:
                    kind = Kind(name, "kl_qp", level, "sequence", f"mixed {side} {name} {level}")
                    mean, mean_se = m.mean(kind.column), root(m.linear((kind.column, 1.0)) / m.n)
                    truth = truth_of(m, kind)[0] or Truth(NAN, NAN, "closed-form")
                    bias, bias_se, _ = bias_of(m, kind, mean, mean_se)
                    rows.append(
                        {
                            "pair": m.pair.title,
                            "log_ratio": f"log p - log {side}",
                            "estimator": name,
                            "level": level,
                            "mean": mean,
                            "mean_se": mean_se,
                            "kl_qp": truth.value,
                            "bias": bias,
                            "bias_se": bias_se,
                            "rel_bias": ratio_of(bias, truth.value),
                            "kl_mup": m.mean(own),
                            "kl_mup_se": root(m.linear((own, 1.0)) / m.n),
                        }
                    )
    return pd.DataFrame(rows) if rows else None


def prompts(results: Sequence[Measured]) -> pd.DataFrame | None:
    """Return standard errors with the completions of one prompt taken together.

    None where no two have one prompt.
    """
    rows = prompt_rows({m.pair.title: m.found.prompts for m in results})
    return with_inflation(pd.DataFrame(rows)) if rows else None


def checks(results: Sequence[Measured]) -> pd.DataFrame | None:
    """Return a row for each pair and ratio whose mean over tokens must be 1.

    Whether it is, completions taken for independent.

    ``khat`` and ``ess``, the effective sample size, say whether so few tokens can tell: where the
    tail is heavy or few tokens carry the mean, a standard error says little. A sampler of which
    klbench itself knows what it leaves out is not checked.
    """
    rows = []
    for m in results:
        if m.own is not None:
            continue
        sums, covariance = m.found.checks, m.found.checks.covariance
        columns = check_columns(off_policy=m.off_policy)
        tokens = float(sums.mean[0])
        for name in UNIT[m.off_policy]:
            at, square = (
                columns.index(f"excess {name}"),
                float(sums.mean[columns.index(f"square {name}")]),
            )
            excess = float(sums.mean[at]) / tokens
            with np.errstate(invalid="ignore"):
                variance = (
                    covariance[at, at]
                    - 2 * excess * covariance[at, 0]
                    + excess**2 * covariance[0, 0]
                )
            se = root(float(np.maximum(variance, 0.0)) / m.n) / tokens
            ess = ratio_of(m.n * (tokens * (1.0 + excess)) ** 2, square)
            khat = m.khats["token", name][0]
            rows.append(
                {
                    "pair": m.pair.title,
                    "ratio": RATIOS[name],
                    "completions": m.n,
                    "tokens": m.tokens,
                    "mean": 1.0 + excess,
                    "mean_se": se,
                    "z": ratio_of(excess, se),
                    "ess": ess,
                    "khat": khat,
                    "verdict": unit_mean(excess, se, ess=ess, khat=khat, rollouts=m.n),
                }
            )
    return pd.DataFrame(rows) if rows else None


def pairs(results: Sequence[Measured]) -> pd.DataFrame:
    """Return a row for each pair.

    Its completions, its divergence a sequence and a token, its parameters.
    """
    rows = []
    for m in results:
        truth = truth_of(m, Kind("k1", "kl_qp", "sequence", "sequence", ""))[0] or Truth(
            NAN, NAN, "closed-form"
        )
        rows.append(
            {
                "pair": m.pair.title,
                "series": m.pair.series,
                "kind": m.pair.kind,
                "off_policy": m.off_policy,
                "completions": m.n,
                "tokens": m.tokens,
                "mean_length": m.mean("tokens"),
                "longest": m.found.places.count.size,
                "exact_kl": "exact kl_qp" in m.place,
                "kl_qp": truth.value,
                "kl_qp_se": truth.error,
                "kl_qp_method": truth.method if truth.value == truth.value else "unknown",
                "largest": float(m.found.places.largest.max(initial=0.0)),
                "above_zero": round(m.n * float(m.found.checks.mean[1])),
                "unread": ", ".join(m.pair.unread),
                "parameters": m.pair.parameters_text(exclude_none=True),
            }
        )
    return pd.DataFrame(rows)


def described_all(chosen: Sequence[Estimator], *, off_policy: bool) -> pd.DataFrame:
    """Return a row for each estimator, those that use the exact divergence of each token among
    them.
    """
    table = described(chosen)
    shared = {
        "target": "KL(q‖p)",
        "unbiased_claim": True,
        "nonnegative_claim": True,
        "gradient_claim": "",
        "aliases": "full KL",
    }
    own = [
        shared
        | {
            "estimator": RAO_BLACKWELL,
            "tex": r"\sum_t \mathrm{KL}(q(\cdot|h_t) \| p(\cdot|h_t))",
            "needs_weight": False,
            "summary": (
                "the exact divergence over the next token, summed along the sampled prefixes"
            ),
            "source": (
                "Rao 1945; Blackwell 1947; for language models: Amini, Vieira and Cotterell 2025"
            ),
        }
    ]
    if off_policy:
        own.append(
            own[0]
            | {
                "estimator": WEIGHTED,
                "tex": r"\sum_t w_{<t} \mathrm{KL}(q(\cdot|h_t) \| p(\cdot|h_t))",
                "needs_weight": True,
                "summary": (
                    "the same, each prefix with its weight q/mu: unbiased for samples of a third"
                    " distribution"
                ),
            }
        )
    return pd.concat([pd.DataFrame(own)[list(table.columns)], table], ignore_index=True)


def throughput(results: Sequence[Measured], device: str) -> pd.DataFrame:
    """Return completions and tokens a second of making the completions and of each estimator's
    terms, both levels together.

    Of one process: seconds are added up over all that shared the run, and memory is that of the one
    which held most.
    """
    rows = []
    for m in results:
        clock = m.found.clock
        stages = [("completions", float(clock.completions))]
        stages += [
            (name, float(each))
            for name, each in zip(STAGES, clock.stages, strict=True)
            if each == each
        ]
        stages += [
            (each.name, float(seconds))
            for each, seconds in zip(m.usable, clock.estimators, strict=True)
        ]
        kernel = m.pair.chosen_kernel
        for stage, seconds in stages:
            rows.append(
                {
                    "pair": m.pair.title,
                    "stage": stage,
                    "seconds": seconds,
                    "completions_per_second": ratio_of(m.n, seconds),
                    "tokens_per_second": ratio_of(m.tokens, seconds),
                    "peak_mib": float(clock.peak),
                    "device": device,
                    "kernel": kernel if stage == "scoring" else "",
                }
            )
    return pd.DataFrame(rows)


def cost(results: Sequence[Measured], table: pd.DataFrame) -> pd.DataFrame:
    """Return what a standard error of 1 % of the divergence takes.

    Completions, and seconds at the speed of this run.
    """
    rows = []
    by_title = {m.pair.title: m for m in results}
    kept = table[
        (table["per"] == "sequence") & table["mean"].notna() & (table["target"] == "KL(q‖p)")
    ]
    for row in kept.to_dict("records"):
        m = by_title[row["pair"]]
        names = [each.name for each in m.usable]
        own = (
            float(m.found.clock.estimators[names.index(row["estimator"])]) / m.n
            if row["estimator"] in names
            else 0.0
        )
        # What took somebody else's rollouts to be sampled and scored is not known; reading them
        # took less.
        each = NAN if m.pair.available is not None else float(m.found.clock.completions) / m.n
        needed = (row["rel_std"] / 0.01) ** 2
        rows.append(
            {
                "pair": row["pair"],
                "estimator": row["estimator"],
                "level": row["level"],
                "completions_needed": needed,
                "seconds_per_completion": each,
                "estimator_seconds_per_completion": own,
                "seconds_needed": needed * (each + own),
                "rel_bias": row["rel_bias"],
                "status": row["status"],
            }
        )
    return pd.DataFrame(rows)
