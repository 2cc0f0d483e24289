"""The common claims about KL estimators in RLHF, checked one by one."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from klbench import claims
from klbench.context import Context
from klbench.rows import Row
from klbench.schema import Tables
from klbench.studies.claims.options import ClaimsOptions
from klbench.study import Summary
from klbench.threads import one_thread
from klbench.workers import copied

LONGEST = 74
"""Letters of evidence that the terminal shows; the report and the table have all of it."""


def check(name: str, seed: int) -> Row:
    """One task: a claim's row."""
    claim = claims.get(name)
    with one_thread(torch="torch" in sys.modules):
        found = claim.check(seed)
    return {
        "claim": claim.name,
        "statement": claim.statement,
        "verdict": found.verdict,
        "evidence": found.evidence,
        "source": claim.source,
        "tex": claim.tex,
        "topic": claim.topic,
        "value": found.value,
        "bound": found.bound,
    }


def run(options: ClaimsOptions, context: Context) -> Tables:
    """Table ``claims``: one row a claim."""
    # Not by workers that would have to load torch, which takes as long as most of the work: copies
    # have it.
    if any(claims.get(name).topic == "gradients" for name in options.claims):
        import torch  # noqa: F401
    near = replace(context, workers=context.workers if copied() else 1, cluster=None)
    tasks = [(name, (name, context.seed)) for name in options.claims]
    rows = near.collect(check, tasks, short=True)
    context.interrupted = near.interrupted
    return {"claims": pd.DataFrame(rows)} if rows else {}


def _shortened(text: str) -> str:
    return (
        text if len(text) <= LONGEST else text[:LONGEST].rsplit(" ", 1)[0].rstrip(",;:.") + " ..."
    )


def summarize(tables: Tables) -> Sequence[Summary]:
    """Return each claim with its verdict and the beginning of its evidence."""
    found = tables["claims"].to_dict("records")
    rows = [
        (str(row["claim"]), str(row["verdict"]), _shortened(str(row["evidence"]))) for row in found
    ]
    return [Summary(f"{len(rows)} claims", ("claim", "verdict", "evidence"), rows)]
