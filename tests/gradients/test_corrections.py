"""Each correction's weights against plain loops over tokens, and at its bounds."""

import math

import numpy as np
import pytest
import torch

from klbench.gradients import corrections, normalised
from klbench.gradients.kinds import KINDS
from klbench.types import ConfigError

STREAM = np.random.default_rng(3)
MASK = np.arange(4) < np.array([4, 2, 1, 3] * 6)[:, None]
MU = np.where(MASK, -np.exp(STREAM.normal(-0.5, 1.0, MASK.shape)), 0.0)
OLD = np.where(MASK, np.minimum(MU + STREAM.normal(0.0, 0.6, MASK.shape), -0.01), 0.0)
Q = np.where(MASK, np.minimum(OLD + STREAM.normal(0.0, 0.6, MASK.shape), -0.01), 0.0)
SIDES = {"q": Q, "old": OLD, "mu": MU}
ADVANTAGE = STREAM.normal(size=MASK.shape)


def within(x, low, high):
    return low <= x <= high


def small(x, high):
    return x <= high


def binary_kl(m, q):
    return m * math.log(m / q) + (1 - m) * math.log((1 - m) / (1 - q))


def change(m, q):
    return abs(q - m)


def gate(kind, m, q, bounds, advantage):
    """Whether one token, or (lists) one sequence, is kept: written out kind by kind."""
    what = kind.rpartition("_")[2]
    distance = {
        "k2": lambda m, q: math.log(q / m) ** 2 / 2,
        "k3": lambda m, q: q / m - 1 - math.log(q / m),
        "kl": binary_kl,
        "tv": change,
        "vaco": lambda m, q: abs(q / m - 1),
    }.get(what)
    ratio = [b / a for a, b in zip(m, q, strict=True)]
    n = len(ratio)
    if kind == "seq_sum_k1":
        return within(1 / math.prod(ratio), *bounds)
    if kind == "seq_mean_k1":
        return within(math.prod(ratio) ** (-1 / n), *bounds)
    if kind == "every_ratio":
        return all(within(each, *bounds) for each in ratio)
    if kind in ("geometric_mask", "masked_geometric_ratio"):
        return within(math.prod(ratio) ** (1 / n), *bounds)
    if kind == "opsm":
        return advantage >= 0 or -sum(map(math.log, ratio)) / n <= bounds[0]
    values = [distance(a, b) for a, b in zip(m, q, strict=True)]
    over = {"sum": sum, "max": max}.get(kind.split("_")[1], lambda each: sum(each) / n)
    return small(over(values), *bounds)


def pushed_beyond(ratio, advantage, bounds):
    """Whether a ratio is beyond the bound that a step along the advantage takes it to."""
    return ratio > bounds[1] if advantage > 0 else advantage < 0 and ratio < bounds[0]


def by_hand(kind, bounds, sequence, i, t):
    """The weight of token t of sequence i, of ``q`` over ``mu``."""
    here = MASK[i]
    m, q = np.exp(MU[i][here]), np.exp(Q[i][here])
    ratio = list(q / m)
    own, whole = ratio[t], math.prod(ratio)
    kept = whole if sequence else own
    if kind in ("token_ratio", "prefix_ratio", "decision_ratio", "sequence_ratio"):
        return {"t": own, "s": whole}.get(kind[0], math.prod(ratio[: t + 1]))
    if kind == "block_ratio":
        return math.prod(ratio[: (t // int(bounds[0]) + 1) * int(bounds[0])])
    if kind == "truncated_decision_ratio":
        return min(math.prod(ratio[: t + 1]), bounds[0])
    if kind == "dual_clip":
        return float(own <= bounds[0] or ADVANTAGE[i, t] >= 0)
    if kind in ("ppo_ratio", "ppo_geometric_ratio"):
        clipped = kept if kind == "ppo_ratio" else math.prod(ratio) ** (1 / len(ratio))
        return 0.0 if pushed_beyond(clipped, ADVANTAGE[i, t], bounds) else clipped
    if kind == "gmpo":
        ends = [bounds[int(a > 0)] for a in ADVANTAGE[i][here]]
        beyond = [
            pushed_beyond(each, a, bounds)
            for each, a in zip(ratio, ADVANTAGE[i][here], strict=True)
        ]
        moved = [end if far else each for end, far, each in zip(ends, beyond, ratio, strict=True)]
        return 0.0 if beyond[t] else math.prod(moved) ** (1 / len(ratio))
    if kind.endswith("geometric_ratio"):
        mean = math.prod(ratio) ** (1 / len(ratio))
        if kind.startswith("clipped"):
            return min(max(mean, bounds[0]), bounds[1])
        return mean if not bounds or within(mean, *bounds) else 0.0
    if kind == "faded_ratio":
        sigmoid = 1 / (1 + math.exp(-bounds[int(ADVANTAGE[i, t] <= 0)] * (own - 1)))
        return own * 4 * sigmoid * (1 - sigmoid)
    if kind == "fall":
        return own if m[t] - q[t] <= bounds[0] else 0.0
    if kind == "vaco":
        away = ADVANTAGE[i, t] * (q[t] - m[t]) > 0
        return float(not away or gate("mean_vaco", m, q, bounds, None))
    if kind == "truncated_ratio":
        return min(kept, bounds[0])
    if kind in ("clipped_ratio", "clipped_sequence_ratio"):
        return min(max(kept if kind == "clipped_ratio" else whole, bounds[0]), bounds[1])
    if kind == "masked_ratio":
        return kept if within(kept, *bounds) else 0.0
    if kind == "truncated_sequence_ratio":
        return min(whole, bounds[0])
    if kind == "masked_sequence_ratio":
        return whole if within(whole, *bounds) else 0.0
    if kind == "sequence_mask":
        return whole if whole <= bounds[0] else 0.0
    if kind == "token_k1":
        return float(within(1 / own, *bounds))
    if kind.startswith("dppo"):
        far = (binary_kl if kind == "dppo_kl" else change)(m[t], q[t]) > bounds[0]
        away = ADVANTAGE[i, t] * (q[t] - m[t]) > 0
        return 0.0 if far and away else own
    single = kind.startswith("token_") or (kind in ("binary_kl", "tv") and not sequence)
    sides = ([m[t]], [q[t]]) if single else (m, q)
    inside = gate(
        "seq_mean_" + kind if kind in ("binary_kl", "tv") else kind, *sides, bounds, ADVANTAGE[i, 0]
    )
    return float(inside) * (kept if KINDS[kind].keeps == "ratio" else 1.0)


BOUNDS = {0: ((),), 1: ((0.02,), (0.2,), (1.1,)), 2: ((0.5, 1.2), (0.9, 5.0))}
BLOCKS = ((1.0,), (2.0,), (3.0,), (7.0,))


@pytest.mark.parametrize("sequence", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_those_of_loops_over_tokens(kind, sequence):
    advantage = np.broadcast_to(ADVANTAGE[:, :1], MASK.shape) if kind == "opsm" else ADVANTAGE
    outcomes = set()
    for bounds in BLOCKS if kind == "block_ratio" else BOUNDS[len(KINDS[kind].bounds)]:
        text = kind + (":" + "-".join(map(str, bounds)) if bounds else "")
        found = corrections.weight(text, SIDES, MASK, sequence=sequence, advantage=advantage)
        assert found.shape[1] in (1, 4)
        found = np.broadcast_to(found, MASK.shape)
        for i, t in zip(*MASK.nonzero(), strict=True):
            expected = by_hand(kind, bounds, sequence, i, t)
            assert found[i, t] == pytest.approx(expected, rel=1e-12), (text, i, t)
            outcomes.add(expected == 0.0)
        same = corrections.weight(
            text,
            {side: torch.from_numpy(each) for side, each in SIDES.items()},
            torch.from_numpy(MASK),
            sequence=sequence,
            advantage=torch.from_numpy(advantage.copy()),
        )
        np.testing.assert_allclose(np.broadcast_to(same.numpy(), MASK.shape), found, rtol=1e-14)
    if KINDS[kind].statistic:
        assert outcomes == {True, False}, "the bounds are on both sides of what is weighed"


@pytest.mark.parametrize(
    ("kind", "bound"),
    [
        (kind, bound)
        for kind in (
            "masked_ratio",
            "geometric_mask",
            "masked_geometric_ratio",
            "every_ratio",
            "token_k1",
            "seq_mean_k1",
        )
        for bound in (0.5, 0.1, 3.0, 5.0)
    ],
)
def test_bounds_belong_to_what_is_kept(kind, bound):
    """To the last place of the log-ratio, from either side, in float32 too."""
    sign = -1.0 if kind.endswith("k1") else 1.0
    mask = np.ones((1, 1), bool)
    for dtype in (np.float64, np.float32):
        at = np.full((1, 1), sign * math.log(bound), dtype)
        for x, inside in ((at, True), (at * (1 + 1e-4), None), (at * (1 - 1e-4), None)):
            sides = {"q": x - 1, "mu": 0 * x - 1, "old": 0 * x - 1}
            for low, high in ((bound, 6.0), (0.05, bound)):
                kept = bool(corrections.weight(f"{kind}:{low}-{high}", sides, mask)[0, 0])
                ratio = math.exp(sign * float(x[0, 0]))
                assert kept == (inside or low <= ratio <= high)


def test_masks_have_no_gradient_of_their_own_even_beyond_floats():
    log_q = torch.tensor([[0.1, 800.0, -1.0]], dtype=torch.float64, requires_grad=True)
    sides = {"q": log_q, "mu": torch.zeros(1, 3), "old": torch.zeros(1, 3)}
    found = corrections.weight("masked_ratio:0.5-5", sides, torch.ones(1, 3, dtype=torch.bool))
    assert found.tolist() == [[math.exp(0.1), 0.0, 0.0]]
    (gradient,) = torch.autograd.grad(found.sum(), log_q)
    assert gradient.tolist() == [[math.exp(0.1), 0.0, 0.0]]
    assert not corrections.weight("seq_sum_k3:1", sides, torch.ones(1, 3).bool()).requires_grad


def test_factors_multiply_and_have_policies_of_their_own():
    found = corrections.weight("token_ratio@q:old*sequence_mask:1.5@old:mu", SIDES, MASK)
    whole = np.exp((OLD - MU).sum(-1, keepdims=True))
    np.testing.assert_allclose(found, np.exp(Q - OLD) * np.where(whole <= 1.5, whole, 0.0))
    assert corrections.weight("none", SIDES, MASK).tolist() == [[1.0]] * len(MASK)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("maskd_ratio", "unknown correction 'maskd_ratio'; did you mean 'masked_ratio'?"),
        ("masked_ratio:3", "expected low-high after masked_ratio, got '3'"),
        ("masked_ratio:5-0.5", "expected 0 <= low <= high after masked_ratio, got '5-0.5'"),
        ("masked_ratio:nan-5", "expected 0 <= low <= high after masked_ratio"),
        ("sequence_mask:x", "expected a number after sequence_mask, got 'x'"),
        ("sequence_mask:-1", "expected a number after sequence_mask, got '-1'"),
        ("block_ratio:1.5", "expected a whole number of tokens after block_ratio, got '1.5'"),
        ("block_ratio:inf", "expected a whole number of tokens after block_ratio, got 'inf'"),
        ("truncated_ratio:0", "expected a positive number after truncated_ratio, got '0'"),
        (
            "token_ratio:3",
            "token_ratio takes no number; those that do: truncated_ratio, clipped_ratio,",
        ),
        (
            "token_ratio@q:p",
            "expected two of q, old and mu after @, as in token_ratio@old:mu, got 'q:p'",
        ),
        ("token_ratio@q:q", "expected two of q, old and mu after @"),
        ("token_ratio*", "unknown correction ''"),
    ],
)
def test_what_is_no_correction_is_said_in_one_line(text, message):
    with pytest.raises(ConfigError) as error:
        corrections.factors(text)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_bounds_may_have_exponents():
    (found,) = corrections.factors("masked_ratio:1e-3-1e+2")
    assert (found.low, found.high) == (1e-3, 1e2)


@pytest.mark.parametrize("kind", ["tv", "binary_kl", "dppo_tv", "opsm"])
def test_what_a_factor_takes_besides_is_asked_for(kind):
    with pytest.raises(ValueError, match="takes the"):
        corrections.factors(kind)[0].weight(Q - MU, MASK)


@pytest.mark.parametrize("group", [1, 2, 8])
def test_weights_that_are_all_one_need_no_integral(group: int) -> None:
    # Twice the weights take the long way, and give half the gradient.
    stream = torch.Generator().manual_seed(0)
    vectors = torch.randn(30, 5, generator=stream, dtype=torch.float64)
    probability = torch.rand(30, generator=stream, dtype=torch.float64).softmax(0)
    numbers = torch.randint(1, 5, (30,), generator=stream).double()
    rest = (numbers, (vectors**2).sum(1), lambda factor: factor @ vectors)
    mean, variance = normalised.moments(normalised.Samples(probability, numbers, *rest), group)
    half, quarter = normalised.moments(normalised.Samples(probability, 2.0 * numbers, *rest), group)
    torch.testing.assert_close(mean, 2.0 * half, rtol=1e-9, atol=0.0)
    assert variance == pytest.approx(4.0 * quarter, rel=1e-9)
