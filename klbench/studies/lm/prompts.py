"""Completions of one prompt are more alike than those of several.

What that makes of standard errors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from klbench.studies.lm.arrays import Arrays

MOST = 2**16
"""Prompts that are told apart.

Where there are more, most have one completion and nothing is to be said.
"""
NAMES = ("exact KL", "k1", "k3", "k1 - exact KL", "k3 - exact KL")


@dataclass(frozen=True)
class Prompts(Arrays):
    """Sums for each prompt, ids rising.

    ``count`` ``(p,)`` completions, and ``total`` ``(p, 5)``, the sums of ``NAMES``.

    ``squares`` ``(5,)`` are sums over all completions. Of more than ``MOST`` prompts nothing is
    kept: ``full``.
    """

    prompt: np.ndarray
    count: np.ndarray
    total: np.ndarray
    squares: np.ndarray
    full: np.ndarray

    @classmethod
    def of_completions(
        cls, prompt: np.ndarray, k1: np.ndarray, k3: np.ndarray, exact: np.ndarray | None
    ) -> Prompts:
        """Return the sums of a shard.

        Each argument is ``(n,)``, sums over the tokens of a completion.
        """
        exact = np.full(k1.size, np.nan) if exact is None else exact
        values = np.column_stack([exact, k1, k3, k1 - exact, k3 - exact])
        ids, which = np.unique(prompt, return_inverse=True)
        total = np.column_stack([np.bincount(which, x, ids.size) for x in values.T])
        return cls(
            ids,
            np.bincount(which, minlength=ids.size),
            total,
            (values**2).sum(axis=0),
            np.array(ids.size > MOST),
        )

    def merge(self, later: Prompts) -> Prompts:
        """Return both together."""
        ids = np.union1d(self.prompt, later.prompt)
        squares = self.squares + later.squares
        if self.full or later.full or ids.size > MOST:
            return Prompts(ids[:0], self.count[:0], self.total[:0], squares, np.array(True))
        count, total = np.zeros(ids.size, dtype=np.int64), np.zeros((ids.size, len(NAMES)))
        for each in (self, later):
            at = np.searchsorted(ids, each.prompt)
            count[at] += each.count
            total[at] += each.total
        return Prompts(ids, count, total, squares, np.array(False))


def prompt_rows(found: Mapping[str, Prompts | None]) -> Sequence[dict[str, Any]]:
    """Return a row for each pair and quantity, for pairs with several completions of several
    prompts.

    ``se``
        As everywhere else: completions are taken for independent.
    ``se_same``
        For the mean over these very prompts: from the variance within prompts, ``W / n``.
    ``se_new``
        For the mean over prompts of which these are a sample: from the spread of the prompts' sums,
        ``P / (P - 1) sum (total - count * mean)^2 / n^2`` (cluster-robust; Liang and Zeger 1986).
    ``between_share``
        ``B / (B + W)`` of the variance, by the usual analysis of variance; 0 where that comes out
        negative.
    """
    rows = []
    for title, prompts in found.items():
        if prompts is None or prompts.full:
            continue
        n, size = int(prompts.count.sum()), prompts.prompt.size
        if size < 2 or n < 2 * size:
            continue
        mean = prompts.total.sum(axis=0) / n
        explained = (prompts.total**2 / prompts.count[:, None]).sum(axis=0)
        within = np.maximum(prompts.squares - explained, 0.0) / (n - size)
        between = ((explained - n * mean**2) / (size - 1) - within) / (
            (n - (prompts.count**2).sum() / n) / (size - 1)
        )
        between = np.maximum(between, 0.0)
        spread = (
            ((prompts.total - prompts.count[:, None] * mean) ** 2).sum(axis=0) * size / (size - 1)
        )
        all_of_it = np.maximum(prompts.squares / n - mean**2, 0.0) * n / (n - 1)
        for k, name in enumerate(NAMES):
            if np.isfinite(mean[k]) and all_of_it[k] > 0.0:
                rows.append(
                    {
                        "pair": title,
                        "what": name,
                        "prompts": size,
                        "completions": n,
                        "mean": mean[k],
                        "se": np.sqrt(all_of_it[k] / n),
                        "se_same": np.sqrt(within[k] / n),
                        "se_new": np.sqrt(spread[k]) / n,
                        "between_share": between[k] / (between[k] + within[k]),
                    }
                )
    return rows
