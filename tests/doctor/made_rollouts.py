"""Rollouts made from small tables of probabilities, and batches of them: oracles know both."""

import numpy as np
import pandas as pd

from klbench import streams
from klbench.rollouts.batches import Batch

VOCABULARY, CONTEXTS, END = 40, 12, 0


def tables(seed: int, distance: float) -> tuple[np.ndarray, np.ndarray]:
    """Return log-probabilities of policy and reference for each context, ``(contexts, vocabulary)``."""
    stream = streams.generator(seed, "made", "tables")
    q = stream.normal(size=(CONTEXTS, VOCABULARY)) * 1.5
    p = q + distance * stream.normal(size=q.shape)
    return tuple(x - np.logaddexp.reduce(x, axis=1, keepdims=True) for x in (q, p))


def frame(
    seed: int = 0,
    rollouts: int = 200,
    tokens: int = 20,
    distance: float = 0.3,
    noise: float = 1e-4,
    sampler: np.ndarray | None = None,
    policy: np.ndarray | None = None,
) -> pd.DataFrame:
    """Return healthy rollouts; ``sampler`` and ``policy`` are other tables, of who samples and who scores."""
    q, p = tables(seed, distance)
    mu, scored = q if sampler is None else sampler, q if policy is None else policy
    stream = streams.generator(seed, "made", "rollouts")
    rows = []
    for i in range(rollouts):
        context, row = i % CONTEXTS, {"tokens": [], "q": [], "mu": [], "p": []}
        while len(row["tokens"]) < tokens and END not in row["tokens"]:
            token = int(
                stream.choice(VOCABULARY, p=np.exp(mu[context]) / np.exp(mu[context]).sum())
            )
            for name, table in (("q", scored), ("mu", mu), ("p", p)):
                row[name].append(float(table[context, token]))
            row["tokens"].append(token)
            context = (3 * context + token + 1) % CONTEXTS
        row["mu"] = list(
            np.minimum(np.array(row["mu"]) + noise * stream.normal(size=len(row["mu"])), 0.0)
        )
        rows.append(row | {"prompt": f"prompt {i % CONTEXTS}"})
    found = pd.DataFrame(rows)
    names = {"q": "logprobs", "mu": "sampling_logprobs", "p": "ref_logprobs"}
    return found.rename(columns=names)


def batch(lengths, columns, prompt=None) -> Batch:
    """Return a batch of rollouts of these lengths."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    where = np.arange(len(lengths))
    return Batch(
        offsets, columns, None, None, np.ones(int(offsets[-1]), dtype=bool),
        None if prompt is None else np.asarray(prompt), None, None, None, where, "made",
    )  # fmt: skip
