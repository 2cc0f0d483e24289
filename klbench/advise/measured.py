"""The errors that advice rests on, measured.

``python -m klbench.advise.measured`` writes the stored table.

Bias and noise are root mean squares over random ``mixing`` policies, each exact, by recursion.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from klbench import gradients, streams
from klbench.advise.table import COMMAND, FILE, GRADIENTS, KLS, LAGS, LENGTHS, VALUES, Table
from klbench.gradients import recursion
from klbench.gradients.edges import Edges
from klbench.gradients.values import value_moments
from klbench.policies import markov
from klbench.policies.markov import Chain

CHAINS = 6


def policies(kl: float, lag: float, chains: int = CHAINS, seed: int = 0) -> Iterator[Chain]:
    """Yield random mixing policies with so many nats a token to the reference and to the
    sampler.
    """
    for k in range(chains):
        stream = streams.generator(seed, "advise", k)
        yield markov.make("mixing", stream, kl, lag, LENGTHS[-1])


def errors(made: Sequence[Chain], lengths: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return bias and noise of values and of gradients, ``(candidates, lengths, 2)``, relative
    to the truth.
    """
    values = np.zeros((len(VALUES), len(lengths), 2))
    for each in made:
        edges = Edges(each)
        kls = [each.kl(tokens) for tokens in lengths]
        for k, name in enumerate(VALUES):
            estimator, _, weight = name.partition("/")
            found = value_moments(estimator, weight or "none", edges, lengths)
            for t, tokens in enumerate(lengths):
                mean, variance = found[tokens]
                values[k, t] += ((mean / kls[t] - 1.0) ** 2, max(variance, 0.0) / kls[t] ** 2)
    return np.sqrt(values / len(made)), gradient_errors(GRADIENTS, made, lengths)


def gradient_errors(
    names: Sequence[str], made: Sequence[Chain], lengths: Sequence[int]
) -> np.ndarray:
    """Return bias and noise of combinations, ``(names, lengths, 2)``, relative to the truth.

    NaN for those whose moments no recursion has.
    """
    found = np.zeros((len(names), len(lengths), 2))
    for each in made:
        exact = recursion.exact_gradient(each, lengths)
        for k, name in enumerate(names):
            moments = recursion.moments(gradients.get(name), each, lengths)
            if moments is None:
                found[k] = np.nan
                continue
            for t, tokens in enumerate(lengths):
                square = float(exact[tokens] @ exact[tokens])
                apart = moments[tokens].mean - exact[tokens]
                found[k, t] += (
                    float(apart @ apart) / square,
                    max(moments[tokens].variance, 0.0) / square,
                )
    return np.sqrt(found / len(made))


def main() -> None:
    """Measure every setting of the grid, and write the table."""
    shape = (len(KLS), len(LAGS), len(LENGTHS), 2)
    values = np.zeros((len(VALUES), *shape))
    combinations = np.zeros((len(GRADIENTS), *shape))
    for i, kl in enumerate(KLS):
        for j, lag in enumerate(LAGS):
            values[:, i, j], combinations[:, i, j] = errors([*policies(kl, lag)], LENGTHS)
            print(f"{kl:g} nats a token, lag {lag:g}", file=sys.stderr)
    Table.of(values, combinations).save(Path(__file__).parent / FILE)
    print(COMMAND)


if __name__ == "__main__":
    main()
