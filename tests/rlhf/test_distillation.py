"""Objectives of distillation.

Values against mpmath, gradients and noise against a list of all sequences.
"""

from __future__ import annotations

import math
from pathlib import Path

import mpmath
import pytest
import torch
from torch import Tensor

from klbench import gradients, pairs
from klbench.gradients.exact import moments
from klbench.policies.tree import Tree
from klbench.rlhf import topk
from klbench.rlhf.distillation import pieces, support
from klbench.rlhf.objectives import get, names
from klbench.rlhf.testbed.distilled import Moments, States
from klbench.types import ConfigError, GradientTask

SEQUENCE = pairs.get("sequence").model_validate(
    {"model": "table", "vocabulary": 3, "horizon": 3, "prompts": 2, "kl": 0.5}
)


def one(q: list[float], p: list[float]) -> States:
    log_q, log_p = (torch.tensor(x, dtype=torch.float64).log()[None, None] for x in (q, p))
    return States(Tree(len(q) - 1, 1), log_q, log_p)


def sequences() -> States:
    sides = {side: torch.from_numpy(SEQUENCE.token_log_probs[side]) for side in "qp"}
    return States(SEQUENCE.tree, sides["q"], sides["p"])


def measured(states: States, name: str, owner: str = "teacher", k: int = 1) -> Moments:
    return states.moments(get(name), states.support(owner, k))


def off(states: States, name: str, owner: str = "teacher", k: int = 1) -> float:
    """Return the distance of a gradient from its target's, in lengths of that."""
    target = measured(states, get(name).target).gradient
    return float((measured(states, name, owner, k).gradient - target).norm() / target.norm())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("topk_raw", -0.243279),
        ("topk_clamped", 0.0),
        ("topk_renormalized", 0.0),
        ("topk_tail_bucket", 0.311239),
        ("topk_sampled_tail", 0.311239),
        ("full", 0.311239),
        ("full:kl_pq", 0.226289),
        ("jsd:0.5", 0.063288),
        ("full:js", 0.063288),
        ("f_reward:js", 0.063288),
    ],
)
def test_two_tokens_by_hand(name: str, value: float) -> None:
    assert measured(one([0.6, 0.4], [0.9, 0.1]), name).value == pytest.approx(value, abs=5e-7)


def test_what_the_student_never_samples() -> None:
    states = one([0.6, 0.4, 0.0], [0.5, 0.3, 0.2])
    assert measured(states, "full").value == pytest.approx(0.224466, abs=5e-7)
    assert measured(states, "k3_loss").value == pytest.approx(0.024466, abs=5e-7)
    assert measured(states, "full:kl_pq").value == math.inf
    assert measured(states, "full:js").value == pytest.approx(measured(states, "jsd:0.5").value)
    assert bool(measured(states, "full").gradient.isfinite().all())


def test_top_k_as_an_advantage_has_no_gradient() -> None:
    for states in (one([0.6, 0.4], [0.9, 0.1]), sequences()):
        assert float(measured(states, "topk_reward").gradient.norm()) < 1e-15


Q = [[0.5, 0.2, 0.15, 0.1, 0.05], [0.3, 0.0, 0.3, 0.25, 0.15]]
P = [[0.1, 0.4, 0.2, 0.05, 0.25], [0.2, 0.1, 0.1, 0.25, 0.35]]


def _exactly(name: str, q: list[float], p: list[float], kept: list[bool]) -> mpmath.mpf:
    """The value of an objective from its definition, in 60 digits."""
    with mpmath.workdps(60):
        q, p = [mpmath.mpf(str(x)) for x in q], [mpmath.mpf(str(x)) for x in p]
        swapped = name.endswith("kl_pq")
        a, b = (p, q) if swapped else (q, p)

        def kl(x: list[mpmath.mpf], y: list[mpmath.mpf]) -> mpmath.mpf:
            return mpmath.fsum(
                0 if u == 0 else mpmath.inf if v == 0 else u * mpmath.log(u / v)
                for u, v in zip(x, y, strict=True)
            )

        def mixed(x: list[mpmath.mpf], y: list[mpmath.mpf], share: str) -> list[mpmath.mpf]:
            return [
                mpmath.mpf(share) * u + (1 - mpmath.mpf(share)) * v
                for u, v in zip(x, y, strict=True)
            ]

        inside_a, inside_b = ([u for u, k in zip(x, kept, strict=True) if k] for x in (a, b))
        raw = kl(inside_a, inside_b)
        kind = name.removesuffix(":kl_pq")
        if kind == "topk_renormalized":
            sums = mpmath.fsum(inside_a), mpmath.fsum(inside_b)
            return kl([u / sums[0] for u in inside_a], [v / sums[1] for v in inside_b])
        values = {
            "full": lambda: kl(a, b),
            "topk_raw": lambda: raw,
            "topk_clamped": lambda: max(raw, mpmath.mpf(0)),
            "topk_tail_bucket": lambda: (
                raw + kl([1 - mpmath.fsum(inside_a)], [1 - mpmath.fsum(inside_b)])
            ),
            "jsd:0.3": lambda: (
                mpmath.mpf("0.3") * kl(p, mixed(p, q, "0.3"))
                + mpmath.mpf("0.7") * kl(q, mixed(p, q, "0.3"))
            ),
            "skew:0.2": lambda: kl(a, mixed(a, b, "0.2")),
        }
        return values[kind]()


@pytest.mark.parametrize(
    "name",
    [
        *(f"{kind}{way}" for kind in topk.names() for way in ("", ":kl_pq")),
        *("full", "full:kl_pq", "jsd:0.3", "skew:0.2", "skew:0.2:kl_pq"),
    ],
)
def test_values_against_mpmath(name: str) -> None:
    log_q, log_p = (torch.tensor(x, dtype=torch.float64).log() for x in (Q, P))
    for owner in (log_q, log_p):
        for k in (1, 2, 4):
            kept = support(owner, k)
            found = pieces(get(name), log_q, log_p, kept).loss
            for i in range(len(Q)):
                exact = float(_exactly(name, Q[i], P[i], kept[i].tolist()))
                assert float(found[i]) == pytest.approx(exact, rel=1e-13, abs=1e-15)


def _listed(states: States, name: str, kept: Tensor) -> Moments:
    """The same moments from every sequence's own gradient, one after the other."""
    objective, q = get(name), states.log_q.exp()
    parts, path = states.differentiated(objective, kept)
    node, token, mask = states.tree.paths
    probability = states.tree.sum_along(states.log_q).exp()
    means, variances, values = [], [], []
    for x in range(len(q)):
        mean, square, value = torch.zeros_like(q[x]), 0.0, 0.0
        for leaf in range(states.tree.leaves):
            at, chosen = node[leaf][mask[leaf]].tolist(), token[leaf][mask[leaf]].tolist()
            seen = [float(parts.value[x, s, a]) for s, a in zip(at, chosen, strict=True)]
            gradient = torch.zeros_like(q[x])
            for t, (s, a) in enumerate(zip(at, chosen, strict=True)):
                later = sum(objective.discount ** (j - t) * seen[j] for j in range(t + 1, len(at)))
                score = -q[x, s]
                score[a] += 1.0
                gradient[s] = path[x, s] + (parts.score[x, s, a] + later) * score
            weight = float(probability[x, leaf])
            mean += weight * gradient
            square += weight * float((gradient**2).sum())
            value += weight * sum(seen)
        means.append(mean)
        variances.append(square - float((mean**2).sum()))
        values.append(value)
    return Moments(sum(values) / len(q), torch.stack(means) / len(q), sum(variances) / len(q))


@pytest.mark.parametrize(
    "name",
    [
        *("full", "full_with_score", "full_with_score:kl_pq", "jsd_with_score:0.4", "topk_raw"),
        *("topk_tail_bucket:kl_pq", "topk_sampled_tail", "topk_corrected_tail:kl_pq"),
        *("k1_reward:0.9", "k1_reward:1:token_kl", "k3_loss", "f_reward:chi2"),
    ],
)
def test_moments_against_a_list_of_all_sequences(name: str) -> None:
    states = sequences()
    kept = states.support("student", 2)
    found, listed = states.moments(get(name), kept), _listed(states, name, kept)
    assert found.value == pytest.approx(listed.value, rel=1e-12)
    torch.testing.assert_close(found.gradient, listed.gradient, rtol=1e-11, atol=1e-14)
    assert found.variance == pytest.approx(listed.variance, rel=1e-10)


@pytest.mark.parametrize(
    ("name", "combination"),
    [
        ("full", "full_loss"),
        ("full_with_score", "full_with_score"),
        ("k1_reward:1", "k1_reward_to_go"),
        ("k1_reward:1:token_kl", "k1_reward_token_kl"),
        ("k1_reward:0", "k2_loss"),
        ("k1_reward:0", "k1/reward_to_go/token/none/none/gamma=0"),
        ("k1_reward:0.9", "k1/reward_to_go/token/none/none/gamma=0.9"),
        ("k1_reward:0.9:token_kl", "k1/reward_to_go/token/none/token_kl/gamma=0.9"),
        ("k3_loss", "k3_loss"),
        ("k3_ratio_loss", "k3_ratio_loss"),
    ],
)
def test_with_a_logit_for_each_token_they_are_the_combinations(name: str, combination: str) -> None:
    task = SEQUENCE.gradient_task()
    assert not hasattr(task, "reason")
    found, other = measured(sequences(), name), moments(gradients.get(combination), _task(task))
    torch.testing.assert_close(found.gradient.flatten(), other.mean, rtol=1e-11, atol=1e-14)
    assert found.variance == pytest.approx(other.variance, rel=1e-10)


def _task(task: object) -> GradientTask:
    return task  # type: ignore[return-value]


def test_whole_targets_are_the_pairs_own_truths() -> None:
    assert measured(sequences(), "full_with_score").value == pytest.approx(0.5, rel=1e-12)
    task = _task(SEQUENCE.gradient_task())
    exact = task.gradient("kl_qp").view(sequences().log_q.shape)
    torch.testing.assert_close(
        measured(sequences(), "full_with_score").gradient, exact, rtol=1e-11, atol=1e-14
    )


def _pair(k: int) -> States:
    pair = pairs.get("categorical").model_validate({"random": {"size": 16, "kl": 0.5, "seed": k}})
    log_q, log_p = (torch.from_numpy(pair.log_probs[side])[None, None] for side in "qp")
    return States(Tree(15, 1), log_q, log_p)


@pytest.mark.parametrize("way", ["", ":kl_pq"])
def test_the_sampled_tail_is_off_by_the_gradient_of_the_mass(way: str) -> None:
    """What is detached there leaves the slope of the student's mass on the support (of KL(p‖q):
    off it), and nothing else.
    """
    for seed in range(3):
        states = _pair(seed)
        q = states.log_q.exp()
        for owner in ("student", "teacher"):
            for k in (1, 4, 15, 16):
                kept = states.support(owner, k)
                mass = (q * kept).sum(-1, keepdim=True)
                slope = q * (kept.double() - mass) * (-1.0 if way else 1.0)
                name = f"topk_sampled_tail{way}"
                target = measured(states, get(name).target).gradient
                found = states.moments(get(name), kept).gradient
                torch.testing.assert_close(found, target + slope, rtol=1e-11, atol=1e-14)
                assert off(states, f"topk_corrected_tail{way}", owner, k) < 1e-12
                assert (float(slope.norm()) < 1e-14) == (k == 16)


@pytest.mark.parametrize("name", ["kl_qp", "kl_pq", "js", "hellinger", "chi2", "alpha:0.5"])
def test_rewards_are_right_where_they_are_differentiated_too(name: str) -> None:
    assert off(_pair(0), f"f_reward:{name}") < 1e-12
    stopped = off(_pair(0), f"f_reward_stopped:{name}")
    assert stopped < 1e-12 if name == "kl_qp" else stopped > 0.1


def test_a_whole_vocabulary_leaves_no_choice() -> None:
    states = _pair(1)
    for kind in topk.names():
        for way in ("", ":kl_pq"):
            assert off(states, kind + way, k=16) < 1e-12
            assert off(states, kind + way, k=15) < 1e-12 or kind != "topk_tail_bucket"


def test_ties_go_to_the_first_token() -> None:
    assert support(torch.zeros(4), 2).tolist() == [True, True, False, False]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("topk_row", "did you mean 'topk_raw'"),
        ("topk_raw:js", "takes a direction"),
        ("jsd:0", "whose limits are full:kl_pq and full"),
        ("jsd:1.5", "inside 0 and 1"),
        ("skew:x", "expected alpha"),
        ("k1_reward:2", "a discount from 0 to 1"),
        ("k1_reward:0:1", "expected a discount"),
        ("f_reward:nothing", "unknown divergence"),
        ("topk_reward_with_score", "unknown objective"),
        ("k3_loss:2", "unknown objective"),
    ],
)
def test_what_is_no_objective(name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        get(name)


def test_bytes() -> None:
    assert get("full").bytes_per_token(50_000, 50_000) == 200_000
    assert get("topk_raw").bytes_per_token(8, 50_000) == 64
    assert get("topk_sampled_tail").bytes_per_token(8, 50_000) == 68
    assert get("k1_reward:0").bytes_per_token(1, 50_000) == 4


HALF = """\"\"\"Half of the sum.\"\"\"

from klbench.rlhf.topk import raw


def divergence(log_a, log_b, kept):
    \"\"\"Half of the sum over the support.\"\"\"
    return 0.5 * raw.divergence(log_a, log_b, kept)
"""


def test_one_more_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "half.py").write_text(HALF, encoding="utf-8")
    monkeypatch.setattr(topk, "__path__", [*topk.__path__, str(tmp_path)])
    assert "topk_half" in names()
    states = one([0.6, 0.4], [0.9, 0.1])
    for way in ("", ":kl_pq"):
        half, whole = (measured(states, f"{kind}{way}") for kind in ("topk_half", "topk_raw"))
        assert half.value == pytest.approx(0.5 * whole.value)
        torch.testing.assert_close(half.gradient, 0.5 * whole.gradient)
