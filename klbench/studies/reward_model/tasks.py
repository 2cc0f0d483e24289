"""The work of one process of the reward-model study: some seeds, from pairs to policies."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from klbench.rlhf import reward_model
from klbench.rlhf.penalty import PenaltyArm, arm, estimates
from klbench.rlhf.ppo import PpoBatch, Recipe, train
from klbench.rlhf.reward_model import Scored
from klbench.rlhf.rows import by_replica
from klbench.rlhf.testbed import Testbed, dpo_world, reward_world
from klbench.rlhf.testbed.dpo_world import Preferences
from klbench.rlhf.testbed.ppo_world import Replicas
from klbench.rows import Rows
from klbench.studies.reward_model.options import RewardModelOptions
from klbench.threads import one_thread

TEST_PAIRS = 16_384
"""Pairs of each seed that no model has seen."""
BINS = 10
COLUMNS = ("kl", "proxy_gain", "gold_gain")
GOLD = "gold"
"""Stands among the proxies for the true reward."""

Found = dict[str, Rows]


class _RecordingReplicas(Replicas):
    """Replicas that keep the last batch that was sampled."""

    last: PpoBatch

    def sample(self, update: int, lag: int) -> PpoBatch:
        """Sample a batch, and keep it."""
        self.last = super().sample(update, lag)
        return self.last


def perform(options: RewardModelOptions, seed: int, seeds: tuple[int, ...]) -> Found:
    """Return rows of the reward models, of their calibration, of all ways to make their rewards
    large, and of training.
    """
    with one_thread():
        testbed = Testbed.of(options, seed, seeds)
        preferences = dpo_world.sampled(testbed, max(options.sizes) + TEST_PAIRS, options.scale)
        models, scores, calibration = _models(options, testbed, preferences)
        proxy = reward_world.gain(testbed, scores / options.scale)
        return {
            "models": models,
            "calibration": calibration,
            "paths": _paths(options, testbed, proxy),
            "training": _trained(options, testbed, proxy),
        }


def _take(preferences: Preferences, first: int, last: int) -> Preferences:
    return preferences.take(torch.arange(first, last))


def _models(
    options: RewardModelOptions, testbed: Testbed, preferences: Preferences
) -> tuple[Rows, Tensor, Rows]:
    """Train all models; return their rows, their scores, ``(sizes, seeds, prompts, leaves)``,
    and rows of calibration.
    """
    most = max(options.sizes)
    world = reward_world.RewardModels(
        testbed,
        _take(preferences, 0, most),
        options.sizes,
        model=options.reward_model,
        width=options.model_width,
        rate=options.model_rate,
        steps=options.model_steps,
    )
    every = max(1, options.model_steps // 60)
    for each in reward_model.train(
        world, steps=options.model_steps, every=every, smoothing=options.smoothing
    ):
        report = each
    scores = world.kept_scores()
    test = _take(preferences, most, most + TEST_PAIRS)
    values = _quality(options, testbed, scores, test) | {
        "kept_step": report.kept,
        "train_loss": report.loss,
        "train_accuracy": report.accuracy,
        "held_out_loss": report.held_out_loss,
    }
    predicted, true = _confidence(options, testbed, scores, test)
    calibration: Rows = []
    rows: Rows = []
    for i, size in enumerate(options.sizes):
        for j, k in enumerate(testbed.seeds):
            step, cause = world.optimizer.causes.get((i, j), (0, ""))
            status = f"diverged at step {step}: {cause}" if cause else "ok"
            one = {name: float(column[i, j]) for name, column in values.items()}
            binned = _binned(predicted[i, j], true[i, j])
            error = sum(each["share"] * abs(each["predicted"] - each["true"]) for each in binned)
            rows.append(
                {"proxy": label(size), "pairs": size, "seed": k}
                | one
                | {"calibration_error": error, "status": status}
            )
            calibration += [
                {"proxy": label(size), "pairs": size, "seed": k} | each for each in binned
            ]
    return rows, scores, calibration


def label(size: int) -> str:
    """Return the name of a model of so many pairs."""
    return f"{size:,} pairs"


def _at(values: Tensor, places: Tensor) -> Tensor:
    """Return values of sequences, ``(..., seeds, prompts, leaves)``, at places of them,
    ``(seeds, n)``.
    """
    flat = values.flatten(-2)
    return flat.gather(-1, places.expand(*flat.shape[:-2], *places.shape))


def _quality(
    options: RewardModelOptions, testbed: Testbed, scores: Tensor, test: Preferences
) -> dict[str, Tensor]:
    """Return the quality of models on new pairs: labels met, the true order met, the loss.

    And the exact correlation.
    """
    p, gold, proxy = (
        testbed.leaf_log_p.exp(),
        reward_world.gain(testbed, testbed.reward),
        reward_world.gain(testbed, scores),
    )
    found, ideal = (
        Scored(_at(each, test.chosen), _at(each, test.rejected))
        for each in (scores, options.scale * testbed.reward[None])
    )
    order = (found.chosen - found.rejected).sign() * (ideal.chosen - ideal.rejected).sign()
    moments = [
        (p * one * other).sum((-2, -1))
        for one, other in ((proxy, gold), (proxy, proxy), (gold, gold))
    ]
    shape = scores.shape[:2]
    return {
        "accuracy": found.accuracy(),
        "best_accuracy": ideal.accuracy().expand(shape),
        "order": 0.5 * (1.0 + order).mean(-1),
        "loss": found.loss(),
        "best_loss": ideal.loss().expand(shape),
        # A model that has learned nothing says the same of all sequences, and goes along with
        # nothing.
        "correlation": moments[0] / (moments[1] * moments[2]).sqrt().clamp(min=1e-300),
    }


def _confidence(
    options: RewardModelOptions, testbed: Testbed, scores: Tensor, test: Preferences
) -> tuple[Tensor, Tensor]:
    """Return for new pairs the probability that a model gives to what it prefers, and the true one:
    ``(sizes, seeds, n)`` each.

    Where it prefers neither, either may be meant: both are a half.
    """
    margin = _at(scores, test.chosen) - _at(scores, test.rejected)
    gold = options.scale * (_at(testbed.reward, test.chosen) - _at(testbed.reward, test.rejected))
    return torch.sigmoid(margin.abs()), torch.sigmoid(margin.sign() * gold)


def _binned(predicted: Tensor, true: Tensor) -> Rows:
    """Return means in bins of the predicted probability, from a half to one.

    Bins without pairs are left out.
    """
    index = ((predicted - 0.5) * 2 * BINS).long().clamp(max=BINS - 1)
    rows: Rows = []
    for number in sorted(set(index.tolist())):
        mine = index == number
        share = float(mine.to(torch.float64).mean())
        rows.append(
            {
                "bin": number,
                "share": share,
                "predicted": float(predicted[mine].mean()),
                "true": float(true[mine].mean()),
            }
        )
    return rows


def _paths(options: RewardModelOptions, testbed: Testbed, proxy: Tensor) -> Rows:
    """The exact optimum of each proxy over beta, and the best of n.

    Those of the gold reward too.
    """
    every = torch.cat([proxy, reward_world.gain(testbed, testbed.reward)[None]])
    rows: Rows = []
    ways: tuple[tuple[str, str, tuple[float, ...], Callable[..., reward_world.Optimised]], ...] = (
        ("optimum", "beta", options.betas, reward_world.tilted),
        ("best_of_n", "n", tuple(float(n) for n in options.best_of), reward_world.best_of_n),
    )
    for method, key, values, optimised in ways:
        found = optimised(testbed, every, torch.tensor(values, dtype=torch.float64))
        for a, value in enumerate(values):
            for i, name in enumerate([*map(label, options.sizes), GOLD]):
                rows += [
                    {
                        "method": method,
                        "proxy": name,
                        "pairs": options.sizes[i] if name != GOLD else None,
                        "seed": k,
                        key: value,
                    }
                    | {
                        column: float(each[a, i, j])
                        for column, each in zip(COLUMNS, found, strict=True)
                    }
                    for j, k in enumerate(testbed.seeds)
                ]
    return rows


def _trained(options: RewardModelOptions, testbed: Testbed, proxy: Tensor) -> Rows:
    """Train by PPO with each combination on each proxy, all at once; return the rows."""
    mine = reward_world.with_proxy(testbed, proxy)
    arms = [arm(name, options.beta) for name in options.combinations]
    recipe = Recipe.of(options, lag=0)
    world = _RecordingReplicas.of(options, mine, arms, recipe)
    beta = torch.full((len(arms),), options.beta, dtype=torch.float64)
    gold = reward_world.gain(testbed, testbed.reward).repeat(len(options.sizes), 1, 1)
    rows: Rows = []
    for report in train(world, arms, recipe, lambda update: world.pretraining(update, exact=False)):
        with torch.no_grad():
            leaves = mine.tree.sum_along(mine.everywhere(world.policies))
            exact = mine.exact_leaves(leaves, beta)
            seen = world.rollouts(world.last)
            values = exact._asdict() | {
                "gold": (leaves.exp() * gold).sum(-1).mean(-1),
                "kl_estimate": report.kl_estimate,
                "kl_estimate_se": report.kl_estimate_se,
                "clip_fraction": report.clip_fraction,
                "beta_used": report.beta,
                "k1_estimate": estimates([arm("k1_loss", 0.0)] * len(arms), seen)[0].mean(-1),
                "k3_estimate": estimates([arm("k3_loss", 0.0)] * len(arms), seen)[0].mean(-1),
            }
        rows += _training_rows(options, testbed, world, arms, report.update, values)
    return rows


def _training_rows(
    options: RewardModelOptions,
    testbed: Testbed,
    world: Replicas,
    arms: list[PenaltyArm],
    step: int,
    values: Mapping[str, Tensor],
) -> Rows:
    found = by_replica(values)
    rows: Rows = []
    for i, each in enumerate(arms):
        for place in range(len(options.sizes) * len(testbed.seeds)):
            size, k = divmod(place, len(testbed.seeds))
            update, cause = world.optimizer.causes.get((i, place), (step, ""))
            stopped = cause and step > update
            rows.append(
                {
                    "combination": each.name,
                    "beta": each.beta,
                    "proxy": label(options.sizes[size]),
                    "pairs": options.sizes[size],
                    "seed": testbed.seeds[k],
                    "step": step,
                }
                | found[i][place]
                | {"status": f"diverged at update {update}: {cause}" if stopped else "ok"}
            )
    return rows
