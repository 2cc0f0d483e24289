"""Training with a setting and with its translation: whether the KL that they reach is the same.

``python benchmarks/translated.py [--beta B] [--seeds N] [--lm]`` prints two tables, of pairs that
shall agree and of pairs that are said to differ;
``benchmarks/translated.md`` has those of the testbed and of the embedded language model.

Both settings of a pair are trained from the same references, against the same rewards and with the
same random numbers, each with its own combination, coefficient, average of the loss and baseline;
the rest of the loop is one PPO.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from scipy import stats

import klbench
from klbench import gradients, trainers
from klbench.rlhf.options import Baseline, Normalisation
from klbench.rlhf.penalty import arm
from klbench.rlhf.ppo import Recipe, train
from klbench.rlhf.testbed import Testbed
from klbench.rlhf.testbed.ppo_world import Replicas
from klbench.threads import one_thread
from klbench.trainers import LENGTH, TOKENS
from klbench.translate.answer import translate
from klbench.translate.averages import average, policy
from klbench.translate.likeness import SAME

TESTBED = {"vocabulary": 6, "horizon": 4, "prompts": 8, "width": 8}
AT_ONCE = 16
NORMALISATIONS: dict[str, Normalisation] = {TOKENS: "token", LENGTH: "sequence"}
BASELINES: dict[str, Baseline] = {"batch_mean": "batch_mean"}
"""What the reward has, where the penalty in the return has it: advantages are of both."""
PAIRS = (
    # The gradient is the same: clamps, averages and values differ.
    ("verl kl_loss_type=low_var_kl kl_loss_coef={beta}", "trl"),
    ("verl kl_loss_type=k3+ loss_agg_mode=seq-mean-token-mean kl_loss_coef={beta}", "skyrl"),
    ("trl use_bias_correction_kl=false loss_type=luspo beta={beta}", "verl"),
    ("openrlhf kl.estimator=k3 use_loss=true init_kl_coef={beta}", "torchforge"),
    ("nemo_rl reference_policy_kl_penalty={beta}", "trl"),
    # It is the same on average: single sequences have another.
    ("trl beta={beta}", "verl"),
    ("trl loss_type=grpo beta={beta}", "verl"),
    ("openrlhf use_loss=true unbiased_gradient=true kl.estimator=k3 init_kl_coef={beta}", "trl"),
    ("open_instruct kl_estimator=3 beta={beta}", "trl"),
    ("openrlhf init_kl_coef={beta}", "trl_rloo"),
    ("trl_rloo beta={beta}", "openrlhf"),
    ("verl use_kl_in_reward=true adv_estimator=grpo kl_coef={beta}", "trl_rloo"),
)
TOLD = (
    # The gradient is said to be another, far from the reference or of a sequence.
    ("trl beta={beta}", "unsloth"),
    ("verl kl_loss_type=mse kl_loss_coef={beta}", "trl_rloo"),
    ("trl use_bias_correction_kl=false beta={beta}", "trl_rloo"),
    ("trl_rloo beta={beta}", "trl"),
)

LM_PAIRS = (
    ("verl kl_loss_type=k3+ kl_loss_coef={beta}", "skyrl"),
    *(PAIRS[k] for k in (0, 5, 6, 9, 11)),
)
AVERAGED = (
    ("verl kl_loss_type=k3+ kl_loss_coef={beta}", "loss_agg_mode=seq-mean-token-mean"),
    ("trl beta={beta}", "loss_type=grpo"),
)
"""Settings with the mean over all tokens, and what makes it that over each sequence's."""
TOKENS_EACH = 22.9
"""Tokens of a completion of the embedded model in training, on average: where the penalty alone is
a mean over each sequence's tokens and the policy's term one over all, the loop divides both by the
length of all, and the penalty's coefficient is this many times as large.
"""


@dataclass(frozen=True)
class Setting:
    """The part of a trainer's setting that a training has."""

    normalisation: Normalisation
    baseline: Baseline
    beta: float
    combination: str

    @classmethod
    def of(cls, words: str) -> Setting:
        """Return that of a setting in words; the mean over a sequence's tokens is the loop's, but
        for a penalty that is averaged otherwise than the policy's term.
        """
        found = trainers.parse(words)
        spec, beta = gradients.get(found.combination).spec, found.coefficient
        if (average(found), policy(found)) == (LENGTH, TOKENS):
            beta *= TOKENS_EACH
        else:
            spec = spec.replace("token:mean", "token")
        combination = gradients.get(spec)
        baseline = BASELINES.get(combination.baseline, "leave_one_out")
        how = NORMALISATIONS.get(policy(found), "sum")
        return cls(how, baseline, beta, combination.name)


@dataclass(frozen=True)
class Pair:
    """A setting and its translation, and how alike the two gradients are said to be."""

    source: str
    target: str
    likeness: str

    @classmethod
    def of(cls, words: str, to: str) -> Pair:
        """Return the pair of a setting in words and its translation."""
        found = translate(words, to)
        return cls(words, found["to"]["setting"], found["equal_strength"]["gradient"])

    @property
    def settings(self) -> tuple[Setting, Setting]:
        """What is trained."""
        return Setting.of(self.source), Setting.of(self.target)


def averaged(beta: float) -> list[Pair]:
    """Return pairs of one setting with the two means."""
    pairs = ((words.format(beta=beta), more) for words, more in AVERAGED)
    return [Pair(words, f"{words} {more}", SAME) for words, more in pairs]


Kls = dict[Setting, np.ndarray]
"""The exact KL that a setting ends at, nats a sequence, a number a seed."""


def together(settings: Iterable[Setting]) -> Iterator[list[Setting]]:
    """Yield those that one loop can train at once."""

    def loop(each: Setting) -> tuple[str, str, float]:
        return each.normalisation, each.baseline, each.beta

    for _, same in groupby(sorted(set(settings), key=repr), key=loop):
        yield list(same)


def on_testbed(
    settings: Iterable[Setting], seeds: Sequence[int], updates: int, **shape: int
) -> Kls:
    """Train on the testbed."""
    found: Kls = {}
    testbed = Testbed("gru", **(TESTBED | shape), seed=0, seeds=tuple(seeds))
    for mine in together(settings):
        recipe = Recipe(
            updates=updates,
            every=updates,
            normalisation=mine[0].normalisation,
            baseline=mine[0].baseline,
        )
        world = Replicas(
            testbed,
            len(mine),
            group=recipe.group,
            rate=0.02,
            clip=1.0,
            steps=recipe.steps,
            critic=False,
            lag=0,
        )
        *_, _ = train(world, [arm(each.combination, each.beta) for each in mine], recipe)
        with torch.no_grad():
            beta = torch.tensor([each.beta for each in mine], dtype=torch.float64)
            kl = testbed.exact(testbed.everywhere(world.policies), beta).kl
        found |= dict(zip(mine, kl.numpy(), strict=True))
    return found


def on_lm(settings: Iterable[Setting], seeds: int, updates: int, seed: int) -> Kls:
    """Train the embedded language model."""
    found: Kls = {}
    for mine in together(settings):
        with tempfile.TemporaryDirectory() as place:
            names = ",".join(f"'{each.combination}'" for each in mine)
            run = klbench.run(
                "ppo_lm",
                f"combinations=[{names}]",
                f"beta={mine[0].beta}",
                f"normalisation={mine[0].normalisation}",
                f"baseline={mine[0].baseline}",
                f"seed={seed}",
                f"seeds={seeds}",
                f"updates={updates}",
                "checkpoints=false",
                f"out={Path(place) / 'run'}",
            )
            table = run.tables["training"]
        last = table[table["step"] == table["step"].max()].sort_values("seed")
        for each in mine:
            found[each] = last.loc[last["combination"] == each.combination, "kl"].to_numpy()
    return found


def interval(values: np.ndarray) -> float:
    """Return half the width of the 95 % interval of a mean over seeds."""
    n = len(values)
    return float(stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n))


def compared(source: np.ndarray, target: np.ndarray) -> tuple[float, float]:
    """Return the ratio of two mean KLs on the same seeds, and half the width of its interval."""
    ratio = float(target.mean() / source.mean())
    return ratio, interval((target - ratio * source) / source.mean())


def table(pairs: Sequence[Pair], kls: Kls) -> Iterator[str]:
    """Yield the lines of the table, in Markdown."""
    yield "| setting | translation | gradient | KL | KL there | there over here |"
    yield "|---|---|---|---|---|---|"
    for pair in pairs:
        here, there = (kls[each] for each in pair.settings)
        ratio, half = compared(here, there)
        numbers = (f"{each.mean():.4f} ± {interval(each):.4f}" for each in (here, there))
        words = (f"`{pair.source}`", f"`{pair.target}`", pair.likeness, *numbers)
        yield f"| {' | '.join(words)} | {ratio:.3f} ± {half:.3f} |"


def main() -> None:
    """Train, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--beta", type=float, default=0.5)
    parser.add_argument("--seeds", type=int, default=160)
    parser.add_argument("--updates", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="the first one's, of a language model")
    parser.add_argument("--only", type=int, nargs="+", metavar="K", help="pairs by number, from 0")
    parser.add_argument("--lm", action="store_true", help="the embedded language model")
    given = parser.parse_args()
    agreeing, told = (LM_PAIRS, ()) if given.lm else (PAIRS, TOLD)
    tables = [
        [Pair.of(words.format(beta=given.beta), to) for words, to in each]
        for each in (agreeing, told)
    ]
    if given.lm:
        tables[1] = averaged(given.beta)
    pairs = [pair for each in tables for pair in each]
    if given.only:
        pairs = [pairs[k] for k in given.only]
        tables = [pairs]
    settings = {each for pair in pairs for each in pair.settings}
    if given.lm:
        kls = on_lm(settings, given.seeds, given.updates, given.seed)
    else:
        with one_thread():
            parts = [
                on_testbed(settings, range(k, min(k + AT_ONCE, given.seeds)), given.updates)
                for k in range(0, given.seeds, AT_ONCE)
            ]
        kls = {each: np.concatenate([part[each] for part in parts]) for each in settings}
    for each in tables:
        print("\n".join(table(each, kls)), end="\n\n")


if __name__ == "__main__":
    main()
