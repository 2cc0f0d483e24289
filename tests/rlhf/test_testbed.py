"""Exact values against brute force, and the identity that ties them."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch

from klbench.rlhf import testbed
from klbench.rlhf.testbed import by_level, padded, reach
from klbench.types import RunError


def sequences(bed: testbed.Testbed):
    """All sequences after a prompt, as tuples of tokens."""
    end = bed.vocabulary
    for length in range(1, bed.horizon + 1):
        for start in itertools.product(range(end), repeat=length - 1):
            for last in range(end + 1):
                if last == end or length == bed.horizon:
                    yield (*start, last)


def by_hand(bed: testbed.Testbed, log_probs, prompt):
    """Log-probability of every sequence, walking down the tree.

    ``log_probs`` is ``(nodes, tokens)``.
    """
    found = {}
    for sequence in sequences(bed):
        total, node = 0.0, 0
        for depth, token in enumerate(sequence):
            total += float(log_probs[prompt, node, token])
            if depth + 1 < len(sequence):
                node = int(bed.tree.child(torch.tensor(node), torch.tensor(token), depth))
        found[sequence] = total
    return found


def rewards_by_hand(bed: testbed.Testbed, k, prompt):
    path = {
        tuple(t[m].tolist()): i
        for i, (t, m) in enumerate(zip(bed.tree.paths.token, bed.tree.paths.mask, strict=True))
    }
    return {sequence: float(bed.reward[k, prompt, path[sequence]]) for sequence in sequences(bed)}


def drawn(bed: testbed.Testbed, arms: int) -> torch.Tensor:
    noise = padded(
        np.random.default_rng(1).standard_normal((arms, len(bed.seeds), bed.policy.parameters))
    )
    return bed.everywhere(bed.reference + 0.4 * noise)


def test_exact_values_against_brute_force(bed) -> None:
    beta = torch.tensor([0.2, 0.7], dtype=torch.float64)
    log_probs = drawn(bed, 2)
    exact = bed.exact(log_probs, beta)
    for i, k in itertools.product(range(2), range(2)):
        reward = kl = best = to_best = 0.0
        for prompt in range(bed.prompts):
            q, p = by_hand(bed, log_probs[i, k], prompt), by_hand(bed, bed.log_p[k], prompt)
            r = rewards_by_hand(bed, k, prompt)
            assert math.fsum(math.exp(v) for v in q.values()) == pytest.approx(1.0, abs=1e-12)
            log_z = math.log(math.fsum(math.exp(p[s] + r[s] / float(beta[i])) for s in q))
            reward += math.fsum(math.exp(q[s]) * r[s] for s in q) / bed.prompts
            kl += math.fsum(math.exp(q[s]) * (q[s] - p[s]) for s in q) / bed.prompts
            best += float(beta[i]) * log_z / bed.prompts
            to_best += (
                math.fsum(math.exp(q[s]) * (q[s] - p[s] - r[s] / float(beta[i]) + log_z) for s in q)
                / bed.prompts
            )
        assert float(exact.reward[i, k]) == pytest.approx(reward, abs=1e-12)
        assert float(exact.kl[i, k]) == pytest.approx(kl, abs=1e-12)
        assert float(exact.objective[i, k]) == pytest.approx(
            reward - float(beta[i]) * kl, abs=1e-12
        )
        assert float(exact.regret[i, k]) == pytest.approx(
            best - reward + float(beta[i]) * kl, abs=1e-12
        )
        assert float(exact.kl_to_optimum[i, k]) == pytest.approx(to_best, abs=1e-12)
        assert float(exact.regret[i, k]) == pytest.approx(float(beta[i]) * to_best, abs=1e-12)


def test_a_broken_identity_is_no_result(bed) -> None:
    log_probs = drawn(bed, 1)
    with pytest.raises(RunError, match="must be the same, and differ by"):
        bed.exact(
            log_probs + 0.01, torch.tensor([0.2], dtype=torch.float64)
        )  # probabilities that do not sum to one
    with pytest.raises(RunError, match="nan"):
        bed.exact(log_probs * math.nan, torch.tensor([0.2], dtype=torch.float64))


def test_the_optimum_has_no_regret_and_lies_on_the_frontier(bed) -> None:
    beta = torch.tensor([0.1, 0.5], dtype=torch.float64)
    exact = bed.exact_leaves(bed.log_optimum(beta), beta)
    assert float(exact.regret.abs().max()) < 1e-14
    assert torch.allclose(bed.frontier(exact.kl), exact.reward, atol=1e-8)


def test_no_policy_is_beyond_the_frontier(bed) -> None:
    exact = bed.exact(drawn(bed, 4), torch.full((4,), 0.2, dtype=torch.float64))
    assert bool((bed.frontier(exact.kl) >= exact.reward).all())


def test_reach_and_levels(bed) -> None:
    reached = reach(bed.tree, bed.log_p)
    assert float(reached[..., 0].abs().max()) == 0.0
    # Whoever reaches the last depth goes on to one of its leaves.
    last = by_level(bed.tree, bed.leaf_log_p)[-1][1]
    assert torch.allclose(last.logsumexp(-1), reached[..., bed.tree.level(bed.horizon - 1)])


def test_rewards_are_bounded_structured_and_a_seeds_own(bed) -> None:
    assert float(bed.reward.abs().max()) < 1.0
    assert 0.2 < float(bed.reward.std()) < 0.8
    alone = dataclasses.replace(bed, seeds=(1,))
    assert torch.equal(alone.reward[0], bed.reward[1])
    assert torch.equal(alone.log_p[0], bed.log_p[1])
    assert not torch.equal(bed.reward[0], bed.reward[1])
    assert not torch.equal(dataclasses.replace(bed, seed=1).reward, bed.reward)


def test_sequences_with_the_same_tokens_and_neighbours_have_the_same_reward() -> None:
    """``aaba`` and ``abaa`` have the same terms in another order.

    In exact arithmetic, and so to the bit, the same sum.
    """
    bed = testbed.Testbed("gru", vocabulary=3, horizon=5, prompts=1, width=4, seed=0, seeds=(0, 1))
    neighbours = (
        [f"{a}{b}" for a, b in itertools.pairwise(sequence)] for sequence in sequences(bed)
    )
    terms = [
        tuple(sorted([*map(str, each), *two]))
        for each, two in zip(sequences(bed), neighbours, strict=True)
    ]
    for k in range(2):
        found: dict[tuple[str, ...], set[float]] = {}
        for each, reward in zip(terms, rewards_by_hand(bed, k, 0).values(), strict=True):
            found.setdefault(each, set()).add(reward)
        assert len(found) < len(terms)
        assert all(len(values) == 1 for values in found.values())
