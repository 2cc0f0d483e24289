"""Gradients at any length: by doubling, against enumeration, sampling and 60-digit arithmetic."""

import math
from collections.abc import Iterator
from dataclasses import replace

import mpmath
import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from klbench import gradients, streams
from klbench.gradients import exact, recursion
from klbench.gradients._combination import GROUPED
from klbench.gradients.edges import Edges
from klbench.gradients.plans import split
from klbench.pairs._scores import DenseScores
from klbench.policies import markov
from klbench.policies.markov import Chain
from klbench.types import Atoms, Rollouts

CORRECTED = """
k1/reward_to_go/token/sequence_ratio k1/reward_to_go/token/prefix_ratio
k1/reward_to_go/token/decision_ratio k1/reward_to_go/token/decision_ratio/token_kl
k1/reward_to_go/token/none/none/gamma=0.5 k1/reward_to_go/token/token_ratio/none/gamma=0.9
k1/reward_to_go/token/token_ratio/token_kl/gamma=0 full_kl/full_with_score/token/decision_ratio
full_kl/full/token/decision_ratio full_kl/full_with_score/token/token_ratio
full_kl/full_with_score/token/prefix_ratio full_kl/full/token/prefix_ratio:differentiated
full_kl/full/token/sequence_ratio:differentiated full_kl/full/token/geometric_ratio:differentiated
k3/loss/token/geometric_ratio:differentiated k3/loss/token/geometric_ratio
k1/reward/token/geometric_ratio k1/reward/sequence/geometric_ratio
k3/loss/token/masked_ratio:0.8-1.25:differentiated
k3/loss/token/clipped_ratio:0.9-1.1:differentiated
k2/loss/token/token_ratio*seq_max_k2:0.05 k1/reward/token/sequence_ratio*seq_max_k3:0.05
k2/loss/token/sequence_ratio*token_k2:0.05 k2/loss/token/tv:0.1 k3/loss/token/binary_kl:0.01
k2/loss/token/none/none/reference=sampler k3/loss/token/sequence_ratio:differentiated
k2/loss/token/sequence_ratio k3/loss/token/prefix_ratio:differentiated
k2/reward/sequence/token_ratio
""".split()
OPEN = (
    "k3/loss/sequence/truncated_ratio:5",
    "k1/reward/token/sequence_mask:3",
    "k1/reward/token/opsm",
    "k1/reward/token/token_ratio:normalised",
)


def chain(family: markov.Family, lag: float = 0.1, tokens: int = 8) -> Chain:
    made = markov.make(family, streams.generator(1, family), 0.1, lag, tokens)
    return replace(made, start=np.eye(len(made.start))[0])


def enumerated(policies: Chain, tokens: int) -> Atoms:
    """Return all sequences of a chain that begins in its first state."""
    edges = Edges(policies)
    paths = [(edge,) for edge in np.flatnonzero(edges.state == 0)]
    for _ in range(tokens - 1):
        nexts = [np.flatnonzero(edges.state == state) for state in range(len(policies.start))]
        paths = [(*path, edge) for path in paths for edge in nexts[edges.after[path[-1]]]]
    index = torch.tensor(np.array(paths))
    q, p, mu, kl = (
        torch.from_numpy(np.ascontiguousarray(each))[index]
        for each in (edges.log_q, edges.log_p, edges.log_mu, edges.kl)
    )
    mask = torch.ones_like(index, dtype=torch.bool)
    nodes = torch.zeros(len(policies.start), edges.scores.shape[1], dtype=torch.float64)
    nodes[torch.from_numpy(edges.state)] = torch.from_numpy(edges.fulls)
    scores = torch.from_numpy(edges.scores)
    at = torch.from_numpy(edges.state)[index]
    return Atoms(
        mu.sum(-1).exp(), Rollouts(q, p, mu, kl, mask), DenseScores(scores, nodes, index, at, mask)
    )


class Enumerated:
    """A task of one prompt whose sequences are given."""

    staleness = 1.0

    def __init__(self, atoms: Atoms) -> None:
        self._atoms = atoms

    def atoms(self) -> Iterator[Atoms]:
        return iter([self._atoms])


@pytest.mark.parametrize("family", markov.FAMILIES)
def test_every_combination_is_what_enumeration_says(family: markov.Family) -> None:
    policies = chain(family)
    combinations = [gradients.get(name) for name in (*gradients.names(), *CORRECTED)]
    found = exact.all_moments(combinations, Enumerated(enumerated(policies, 4)))
    for combination, expected in zip(combinations, found, strict=True):
        moments = recursion.moments(combination, policies, [4])
        if moments is None:
            assert combination.name in gradients.names(), combination.name
            grouped = combination.baseline in GROUPED and combination.placement != "reward"
            assert grouped or split(combination) is None, combination.name
            continue
        size = max(expected.size or 1.0, 1.0)
        assert moments[4].mean == pytest.approx(
            expected.mean.numpy(), rel=1e-11, abs=1e-13 * size
        ), combination.name
        assert moments[4].variance == pytest.approx(expected.variance, rel=1e-10, abs=1e-13), (
            combination.name
        )


@pytest.mark.parametrize("tokens", [1, 2, 3, 5, 8])
def test_every_length_up_to_8_is_what_enumeration_says(tokens: int) -> None:
    policies = chain("mode")
    names = ("k3_loss", "k1_reward", "k1_prefix_ratio_loss", "full_with_score_sequence_ratio")
    combinations = [gradients.get(name) for name in names]
    found = exact.all_moments(combinations, Enumerated(enumerated(policies, tokens)))
    for combination, expected in zip(combinations, found, strict=True):
        at = (recursion.moments(combination, policies, [tokens]) or {})[tokens]
        assert at.mean == pytest.approx(expected.mean.numpy(), rel=1e-10, abs=1e-12)
        assert at.variance == pytest.approx(expected.variance, rel=1e-10)


def test_the_exact_gradient_is_what_finite_differences_say() -> None:
    policies = replace(chain("mixing"), log_mu=chain("mixing").log_q)
    gradient = recursion.exact_gradient(policies, [7])[7].reshape(policies.log_q.shape)
    for state, token in ((0, 1), (2, 5)):
        step = np.zeros_like(policies.log_q)
        step[state, token] = 1e-5
        ends = [
            replace(policies, log_q=markov.normalised(policies.log_q + sign * step)).kl(7)
            for sign in (1, -1)
        ]
        assert gradient[state, token] == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-7)


@pytest.mark.parametrize("spec", OPEN)
def test_what_is_no_product_over_tokens_has_no_recursion(spec: str) -> None:
    assert recursion.moments(gradients.get(spec), chain("mode"), [4]) is None


@pytest.mark.parametrize("lag", [0.0, 0.002])
def test_64_tokens_are_what_samples_say(lag: float) -> None:
    policies, tokens, n = chain("mixing", lag, 64), 64, 10_000
    edges, stream = Edges(policies), np.random.default_rng(3)
    index = np.full(policies.log_q.shape, -1)
    index[edges.state, edges.token] = np.arange(len(edges.state))
    cumulative = np.exp(policies.log_mu).cumsum(-1)[:, :-1]
    state, path = np.zeros(n, dtype=np.int64), np.empty((n, tokens), dtype=np.int64)
    for t in range(tokens):
        token = (stream.random(n)[:, None] >= cumulative[state]).sum(1)
        path[:, t], state = index[state, token], policies.after[state, token]
    weight = np.exp(edges.log_weight[path].sum(-1))[:, None]
    log_ratio, scores = -edges.log_ratio[path], edges.scores[path].sum(1)
    sampled = {
        "k1_reward_sequence_ratio": weight * log_ratio.sum(-1, keepdims=True) * scores,
        "k2_loss": np.einsum("nt,ntp->np", log_ratio, edges.scores[path]),
        "full_loss": edges.fulls[path].sum(1),
    }
    for name, each in sampled.items():
        found = (recursion.moments(gradients.get(name), policies, [tokens]) or {})[tokens]
        error = each.std(0) / math.sqrt(n)
        assert np.all(np.abs(each.mean(0) - found.mean) <= 5 * error + 1e-12), name
        squares = ((each - found.mean) ** 2).sum(-1)
        assert abs(squares.mean() - found.variance) <= 5 * squares.std() / math.sqrt(n), name


def test_1024_tokens_are_what_60_digits_say() -> None:
    """One token after the other with 60 digits, two states, and no doubling."""
    logits = {
        "q": [[0.3, -0.2], [0.1, 0.9]],
        "p": [[0.0, 0.4], [-0.3, 0.5]],
        "mu": [[0.35, -0.2], [0.1, 0.8]],
    }
    tables = {side: log_softmax(np.array(each), axis=-1) for side, each in logits.items()}
    after = np.array([[0, 1], [0, 1]])
    policies = Chain(np.array([1.0, 0.0]), after, tables["q"], tables["p"], tables["mu"])
    name, tokens = "k1_reward_sequence_ratio", 1024
    found = (recursion.moments(gradients.get(name), policies, [tokens]) or {})[tokens]
    with mpmath.workdps(60):
        mean, square = _stepped(tables, tokens)
        variance = square - sum(each**2 for each in mean)
        assert found.mean == pytest.approx([float(each) for each in mean], rel=1e-11)
        assert found.variance == pytest.approx(float(variance), rel=1e-11)


def _stepped(tables: dict[str, np.ndarray], tokens: int) -> tuple[list[mpmath.mpf], mpmath.mpf]:
    """Return the mean, and the mean square, of ``W R Z`` of a chain of two states, forward in
    time.
    """
    log = {
        side: [[mpmath.mpf(float(x)) for x in row] for row in each] for side, each in tables.items()
    }
    prob = [[mpmath.exp(x) for x in row] for row in log["q"]]

    def over(power: int) -> list[dict[tuple[int, ...], mpmath.mpf]]:
        """Return by state ``E[W^power R^i Z_0^j Z_1^k]``, Z the scores of each state's first
        token.
        """
        at = [{(0, 0, 0): mpmath.mpf(1)}, {}]
        for _ in range(tokens):
            new: list[dict[tuple[int, ...], mpmath.mpf]] = [{}, {}]
            for s in range(2):
                for a in range(2):
                    w = mpmath.exp(log["mu"][s][a] + power * (log["q"][s][a] - log["mu"][s][a]))
                    r, z = log["q"][s][a] - log["p"][s][a], (1 - a) - prob[s][0]
                    for (i, j, k), value in at[s].items():
                        for di in range(3 - i):
                            for dz in range(3 - j - k):
                                key = (i + di, j + dz * (s == 0), k + dz * (s == 1))
                                # Terms of exp(r x + z y), whose coefficients are the powers over
                                # factorials.
                                term = r**di * z**dz / (mpmath.factorial(di) * mpmath.factorial(dz))
                                new[a][key] = new[a].get(key, 0) + w * value * term
            at = new
        return at

    first, second = over(1), over(2)

    def read(at: list[dict[tuple[int, ...], mpmath.mpf]], *key: int) -> mpmath.mpf:
        scale = mpmath.mpf(1)
        for n in key:
            scale *= mpmath.factorial(n)
        return scale * (at[0].get(key, 0) + at[1].get(key, 0))

    halves = [read(first, 1, 1, 0), read(first, 1, 0, 1)]
    mean = [sign * half for half in halves for sign in (1, -1)]
    square = 2 * (read(second, 2, 2, 0) + read(second, 2, 0, 2))
    return mean, square
