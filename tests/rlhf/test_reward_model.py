"""Reward models against the optimum of scipy, best of n against brute force, and gains by hand."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from klbench.rlhf import reward_model, testbed
from klbench.rlhf.reward_model import Scored
from klbench.rlhf.testbed import reward_world
from klbench.rlhf.testbed.dpo_world import sampled

F64 = torch.float64
SCALE = 3.0


@pytest.fixture(scope="module")
def small() -> testbed.Testbed:
    return testbed.Testbed("gru", vocabulary=2, horizon=2, prompts=2, width=4, seed=0, seeds=(0, 1))


def models(bed, sizes, steps, rate=0.1, model="table"):
    preferences = sampled(bed, max(sizes), SCALE)
    return reward_world.RewardModels(
        bed, preferences, sizes, model=model, width=4, rate=rate, steps=steps
    ), preferences


def test_the_loss_and_the_accuracy_by_hand() -> None:
    scored = Scored(
        torch.tensor([1.0, 2.0, 0.5], dtype=F64), torch.tensor([0.0, 3.0, 0.5], dtype=F64)
    )
    by_hand = [math.log(1 + math.exp(-1)), math.log(1 + math.exp(1)), math.log(2)]
    assert float(scored.loss()) == pytest.approx(sum(by_hand) / 3)
    assert float(scored.accuracy()) == pytest.approx((1 + 0 + 0.5) / 3)
    weighted = Scored(scored.chosen, scored.rejected, torch.tensor([0.5, 0.5, 0.0], dtype=F64))
    assert float(weighted.loss()) == pytest.approx((by_hand[0] + by_hand[1]) / 2)
    assert float(weighted.accuracy()) == 0.5


def test_a_table_finds_the_optimum_of_a_logistic_regression(small) -> None:
    # A table is linear: one indicator for each token after each prefix. Enough pairs that no
    # direction is separable.
    world, preferences = models(small, (3000,), 3000)
    *_, last = reward_model.train(world, steps=3000, every=1000)
    paths, leaves = small.tree.paths, small.tree.leaves
    for k in range(2):
        features = np.zeros((2 * leaves, 2 * small.tree.nodes * small.tree.tokens))
        for prompt, leaf, t in itertools.product(range(2), range(leaves), range(2)):
            if paths.mask[leaf, t]:
                place = (
                    prompt * small.tree.nodes + int(paths.node[leaf, t])
                ) * small.tree.tokens + int(paths.token[leaf, t])
                features[prompt * leaves + leaf, place] += 1.0
        rows = np.arange(3000) % reward_world.HELD_OUT != 0
        x = (features[preferences.chosen[k].numpy()] - features[preferences.rejected[k].numpy()])[
            rows
        ]

        def loss(w, x=x):
            margin = x @ w
            return np.logaddexp(0.0, -margin).mean(), -(x / (1.0 + np.exp(margin))[:, None]).mean(0)

        best = minimize(
            loss,
            np.zeros(x.shape[1]),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": 2000, "ftol": 1e-14},
        )
        assert float(last.loss[0, k]) == pytest.approx(best.fun, abs=1e-5)
        # Where two sequences are hardly ever compared, scores may run far and change nothing:
        # probabilities of pairs are alike.
        mine, theirs = world.scores(world.theta.detach())[0, k].flatten().numpy(), features @ best.x
        margins = (
            each[preferences.chosen[k].numpy()] - each[preferences.rejected[k].numpy()]
            for each in (mine, theirs)
        )
        one, other = (1.0 / (1.0 + np.exp(-each)) for each in margins)
        assert np.abs(one - other).mean() < 1e-3
        # And near the truth: 3,000 labels, 14 probabilities.
        truth = (
            SCALE
            * (
                small.reward[k].flatten()[preferences.chosen[k]]
                - small.reward[k].flatten()[preferences.rejected[k]]
            ).numpy()
        )
        assert np.abs(one - 1.0 / (1.0 + np.exp(-truth))).mean() < 0.05


@pytest.mark.parametrize(("vocabulary", "n"), [(2, 20), (4, 20), (4, 64)])
def test_what_no_pair_sets_apart_has_the_same_score(vocabulary, n) -> None:
    """From few pairs a table has many scores that are equal in exact arithmetic, and gaps far above
    rounding between others.

    Best of n, by hand from scores that count as equal within 1e-9: of 1,024 answers it hangs on
    which of the best ones tie.
    """
    bed = testbed.Testbed(
        "gru", vocabulary=vocabulary, horizon=3, prompts=2, width=4, seed=0, seeds=tuple(range(8))
    )
    world, _ = models(bed, (n,), 100, rate=0.01)
    list(reward_model.train(world, steps=100, every=10))
    gaps = world.scores(world.kept).sort(-1).values.diff()
    assert not bool(
        ((gaps > 1e-13) & (gaps < 1e-9)).any()
    )  # no step was made of what rounding left of a gradient of 0
    score = world.kept_scores()
    gaps = score.sort(-1).values.diff()
    assert not bool(((gaps > 0) & (gaps < 1e-9)).any())
    assert bool((gaps == 0).any())
    found = reward_world.best_of_n(bed, score, torch.tensor([1024.0], dtype=F64)).kl[0, 0]
    for k in range(8):
        kl = 0.0
        for prompt in range(2):
            p, s = bed.leaf_log_p[k, prompt].exp().numpy(), score[0, k, prompt].numpy()
            below, equal = (
                (s[None] < s[:, None] - 1e-9) @ p,
                (np.abs(s[None] - s[:, None]) <= 1e-9) @ p,
            )
            q = p / equal * ((below + equal) ** 1024 - below**1024)
            kl += float(q[q > 0] @ np.log(q[q > 0] / p[q > 0])) / 2
        assert float(found[k]) == pytest.approx(kl, abs=1e-9)


def test_scores_that_rounding_sets_apart_are_one_and_no_others() -> None:
    eps = 2.0**-52
    score = torch.tensor(
        [3.0, 1.0 + 2 * eps, -4.0, 1.0, 3.0 - 4 * eps, 1.0 + 4 * eps, 1.0 + 1e-9, 0.0, 0.0],
        dtype=F64,
    )
    expected = torch.tensor(
        [3.0 - 4 * eps, 1.0, -4.0, 1.0, 3.0 - 4 * eps, 1.0, 1.0 + 1e-9, 0.0, 0.0], dtype=F64
    )
    assert torch.equal(reward_world.tied(score), expected)
    assert torch.equal(
        reward_world.tied(torch.stack([score, -score])),
        torch.stack([expected, reward_world.tied(-score)]),
    )
    assert torch.equal(reward_world.tied(torch.zeros(3, dtype=F64)), torch.zeros(3, dtype=F64))


def test_its_gradient_by_finite_differences(small) -> None:
    world, _ = models(small, (40, 200), 5, model="gru")
    with torch.no_grad():
        world.theta += 0.2 * torch.sin(torch.arange(world.theta.shape[-1]))
    (gradient,) = torch.autograd.grad(world.training(0).loss(0.1).sum(), world.theta)
    for j in (0, 11, 60):
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                world.theta[..., j] += sign * 1e-5
                ends.append(world.training(0).loss(0.1))
                world.theta[..., j] -= sign * 1e-5
        assert torch.allclose(gradient[..., j], (ends[0] - ends[1]) / 2e-5, atol=1e-8)


def test_what_is_kept_is_the_best_on_held_out_pairs_and_no_pair_is_in_both(small) -> None:
    world, _ = models(small, (30, 3000), 200, model="gru")
    seen = [
        (report, world.theta.detach().clone())
        for report in reward_model.train(world, steps=200, every=10)
    ]
    losses = torch.stack([report.held_out_loss for report, _ in seen])
    best = losses.argmin(0)
    assert torch.equal(seen[-1][0].kept, 10.0 * best)
    for i, k in itertools.product(range(2), range(2)):
        assert torch.equal(world.kept[i, k], seen[int(best[i, k])][1][i, k])
    training, held_out = world._weights
    assert bool(((training > 0) & (held_out > 0)).logical_not().all())
    assert ((training[:, 0] > 0) | (held_out[:, 0] > 0)).sum(-1).tolist() == [30, 3000]
    assert training.sum(-1).flatten().tolist() == pytest.approx([1.0, 1.0])
    assert bool((best[1] >= best[0]).all())  # few pairs are learned by heart soon


def test_one_that_fails_is_stopped_and_the_others_go_on(small) -> None:
    world, _ = models(small, (30, 60), 20)
    step = world.step

    def poisoned(loss, at):
        bad = torch.zeros_like(loss)
        bad[1, 0] = math.nan if at == 7 else 0.0
        step(loss + bad, at)

    world.step = poisoned
    list(reward_model.train(world, steps=20, every=5))
    healthy, _ = models(small, (30, 60), 20)
    list(reward_model.train(healthy, steps=20, every=5))
    assert world.optimizer.causes == {(1, 0): (7, "the loss is nan")}
    assert bool(world.theta.isfinite().all())
    for place in ((0, 0), (0, 1), (1, 1)):
        assert torch.equal(world.theta[place], healthy.theta[place])


def drawn_best(p, score, n):
    """Distribution of the best of ``n`` by trying all ``len(p)**n`` draws.

    The first of those that tie.
    """
    result = np.zeros(len(p))
    for draw in itertools.product(range(len(p)), repeat=n):
        winner = max(draw, key=lambda x: (score[x], -draw.index(x)))
        result[winner] += math.prod(p[x] for x in draw)
    return result


@pytest.mark.parametrize(
    "score", [[0.1, 0.5, -1.0, 0.3, 2.0], [0.0, 1.0, 1.0, -1.0, 1.0], [7.0] * 5]
)
@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_best_of_n_against_all_draws_ties_included(score, n) -> None:
    p = np.array([0.1, 0.3, 0.25, 0.05, 0.3])
    found = reward_world.log_best_of_n(
        torch.tensor(p).log()[None], torch.tensor([score], dtype=F64), n
    )
    assert np.allclose(found.exp().numpy()[0], drawn_best(p, score, n), atol=1e-13)


def test_best_of_n_on_the_tree(small) -> None:
    proxy = torch.stack([small.reward.round(decimals=1), small.reward])  # the first with ties
    n = torch.tensor([1.0, 3.0, 1000.0], dtype=F64)
    found = reward_world.best_of_n(small, proxy, n)
    for i, k in itertools.product(range(2), range(2)):
        kl = gold = 0.0
        for prompt in range(2):
            p = small.leaf_log_p[k, prompt].exp().numpy()
            q = drawn_best(p, proxy[i, k, prompt].tolist(), 3)
            kl += math.fsum(b * math.log(b / a) for a, b in zip(p, q, strict=True) if b > 0) / 2
            gold += float((q - p) @ small.reward[k, prompt].numpy()) / 2
        assert float(found.kl[1, i, k]) == pytest.approx(kl, abs=1e-12)
        assert float(found.gold[1, i, k]) == pytest.approx(gold, abs=1e-12)
    assert float(found.kl[0].abs().max()) < 1e-13
    assert float(found.gold[0].abs().max()) < 1e-13
    # Never beyond the formula, and less where scores tie.
    bound = n.log() - (n - 1) / n
    assert bool((found.kl <= bound[:, None, None] + 1e-12).all())
    assert bool((found.kl[:, 0] <= found.kl[:, 1] + 1e-12).all())
    assert float(found.kl[1, 0, 1]) < float(found.kl[1, 1, 1])


def test_best_of_n_of_many_answers_comes_to_the_bound() -> None:
    p = torch.full((1, 200_000), 1 / 200_000, dtype=F64)
    score = torch.arange(200_000, dtype=F64)[None]
    log_q = reward_world.log_best_of_n(p.log(), score, 100)
    assert float(log_q.exp().sum()) == pytest.approx(1.0)
    assert float((log_q.exp() * (log_q - p.log())).sum()) == pytest.approx(
        math.log(100) - 0.99, abs=1e-3
    )


def test_a_tilt_is_the_optimum_of_the_testbed(small) -> None:
    beta = torch.tensor([0.1, 0.7], dtype=F64)
    found = reward_world.tilted(small, reward_world.gain(small, small.reward)[None], beta)
    exact = small.exact_leaves(small.log_optimum(beta), beta)
    start = (small.leaf_log_p.exp() * small.reward).sum(-1).mean(-1)
    assert torch.allclose(found.kl[:, 0], exact.kl)
    assert torch.allclose(found.gold[:, 0], exact.reward - start)
    assert torch.allclose(found.proxy, found.gold[:, None] if found.gold.ndim < 3 else found.gold)


def test_another_reward_for_every_size_and_the_same_draws(small) -> None:
    proxy = torch.stack([small.reward, -small.reward, 0 * small.reward])
    mine = reward_world.with_proxy(small, proxy)
    assert mine.seeds == (0, 1, 0, 1, 0, 1)
    assert torch.equal(mine.log_p[2:4], small.log_p)
    assert torch.equal(mine.reward[2:4], -small.reward)
    assert torch.equal(small.reward, proxy[0])
