"""DPO of a language model, against losses and gradients that are written out by hand."""

import math

import numpy as np
import pytest
import torch
from small_lm import END, PAD, V, judge, log_softmax, model

from klbench import streams
from klbench.rlhf import preferences
from klbench.rlhf.dpo import judged, train
from klbench.rlhf.language.dpo_world import Preferences, Preferring, fitting, sampled
from klbench.rlhf.language.ppo_world import Language, Setting
from klbench.rlhf.language.sft import Examples, padded
from klbench.rlhf.options import DpoArm
from klbench.studies.dpo.options import arms

PROMPTS = [(1, 2), (4,), (5, 6, 1)]
CHOSEN = [[4, END], [6, 6, 2, END], [END]]
REJECTED = [[2, 2, END], [1], [5, 5, 5, 5]]


def learner() -> Language:
    setting = Setting(2, 2, 4, rate=0.02, clip=None, steps=None)
    return Language(model(1), model(2), PROMPTS, judge, setting, (0, "test"))


def examples(answers) -> Examples:
    return Examples(PROMPTS, *padded(answers, PAD))


def log_ratio(world: Language, prompt, answer) -> torch.Tensor:
    at = range(len(answer)), answer
    ours, theirs = (
        log_softmax(lm, prompt, answer)[at].sum() for lm in (world.policy, world.reference)
    )
    return ours - theirs


def test_the_loss_and_its_gradient_are_those_written_out() -> None:
    world = learner()
    beta, smoothing = 0.7, 0.1
    margins = torch.stack(
        [
            log_ratio(world, prompt, chosen) - log_ratio(world, prompt, rejected)
            for prompt, chosen, rejected in zip(PROMPTS, CHOSEN, REJECTED, strict=True)
        ]
    )
    sigmoid = torch.sigmoid(beta * margins)
    expected = -((1 - smoothing) * sigmoid.log() + smoothing * (1 - sigmoid).log()).mean()
    gradient = torch.autograd.grad(expected, list(world.policy.model.parameters()))
    preferring = Preferring(world, Preferences(examples(CHOSEN), examples(REJECTED)), batch=3)
    found = []
    preferring.step = lambda loss, step: found.append(
        torch.autograd.grad(loss.sum(), list(world.policy.model.parameters()))
    )
    report, _ = train(preferring, [DpoArm("dpo", beta, "kl_qp", smoothing)], steps=1, every=1)
    assert float(report.loss) == pytest.approx(float(expected.detach()), rel=1e-12)
    assert float(report.accuracy) == pytest.approx(float((margins > 0).double().mean()))
    for mine, theirs in zip(found[0], gradient, strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-8, atol=1e-11)


def test_every_pair_stands_once_in_a_pass_and_passes_differ() -> None:
    preferring = Preferring(learner(), Preferences(examples(CHOSEN), examples(REJECTED)), batch=2)
    passes = [
        np.concatenate([preferring.which(2 * k), preferring.which(2 * k + 1)]) for k in range(8)
    ]
    assert all(sorted(each) == [0, 1, 2] for each in passes)
    assert len({tuple(each) for each in passes}) > 1


@pytest.mark.parametrize("batch", [1, 2, 5, 7])
def test_a_policy_that_is_its_reference_ranks_nothing(batch) -> None:
    """In float32 the log-probability of a completion depends on what it is padded to.

    That of the reference is no other's.
    """
    setting = Setting(2, 2, 4, rate=0.02, clip=None, steps=None, batch=3)
    start = model(1, torch.float32)
    world = Language(start, start, PROMPTS, judge, setting, (0, "test"))
    stream = streams.generator(0, "test")
    preferences = sampled(
        start, PROMPTS, judge, 40, scale=6.0, tokens=4, batch=40, dtype="float32", stream=stream
    )
    preferring = Preferring(world, preferences, batch)
    for step in range(-(-40 // batch)):
        report = judged([DpoArm("dpo", 0.7)], preferring.log_ratios(step))
        assert float(report.margin) == 0.0
        assert float(report.accuracy) == 0.5


def test_it_learns_to_rank() -> None:
    preferring = Preferring(learner(), Preferences(examples(CHOSEN), examples(REJECTED)), batch=3)
    reports = list(train(preferring, [DpoArm("dpo", 0.7)], steps=20, every=20))
    assert float(reports[-1].loss) < 0.5 * float(reports[0].loss)
    assert float(reports[-1].accuracy) == 1.0


def test_labels_follow_bradley_and_terry() -> None:
    n, scale = 4000, 6.0
    lm = model(2)
    stream = streams.generator(0, "test")
    preferences = sampled(
        lm, PROMPTS, judge, n, scale=scale, tokens=4, batch=1000, dtype="float32", stream=stream
    )
    assert [preferences.chosen.prompts[i] for i in range(4)] == [*PROMPTS, PROMPTS[0]]
    better, worse = (
        judge(None, each.token, each.mask) for each in (preferences.chosen, preferences.rejected)
    )
    margin = better - worse
    # E[label | both rewards] = sigma(scale |m|): the share of pairs labelled as their rewards rank
    # them.
    apart = margin[margin != 0]
    chance = 1 / (1 + np.exp(-scale * np.abs(apart)))
    error = math.sqrt((chance * (1 - chance)).sum()) / len(apart)
    assert abs((apart > 0).mean() - chance.mean()) < 5 * error
    assert chance.mean() - 5 * error > 0.5
    assert preferences.chosen.token.max() < V


@pytest.mark.parametrize("name", ["ipo", "hinge", "kto", "dpo_norm", "simpo:0.3"])
def test_other_losses_are_those_written_out(name) -> None:
    world = learner()
    (arm,) = arms((), (), (name,), 0.5, 3)
    preferring = Preferring(world, Preferences(examples(CHOSEN), examples(REJECTED)), batch=3)
    which = preferring.which(0)
    with torch.no_grad():
        ratio = [
            torch.stack([log_ratio(world, PROMPTS[i], side[i]) for i in which])
            for side in (CHOSEN, REJECTED)
        ]
        log_q = [
            torch.stack(
                [
                    log_softmax(world.policy, PROMPTS[i], side[i])[
                        range(len(side[i])), side[i]
                    ].sum()
                    for i in which
                ]
            )
            for side in (CHOSEN, REJECTED)
        ]
        # Each prompt with the answers of the pair before it.
        other = [
            log_ratio(world, PROMPTS[i], side[which[k - 1]])
            for side in (CHOSEN, REJECTED)
            for k, i in enumerate(which)
        ]
    tokens = tuple(torch.tensor([len(side[i]) for i in which]) for side in (CHOSEN, REJECTED))
    if name == "ipo":
        expected = preferences.ipo_loss(*ratio, arm.beta)
    elif name == "hinge":
        expected = preferences.hinge_loss(*ratio, arm.beta)
    elif name == "dpo_norm":
        expected = preferences.normalised_dpo_loss(*ratio, tokens, arm.beta)
    elif name == "kto":
        point = preferences.kto_reference_point([torch.stack(other)])
        assert float(point) == max(0.0, float(torch.stack(other).mean()))
        expected = sum(preferences.kto_loss(*ratio, point, arm.beta)) / 2
    else:
        expected = preferences.simpo_loss(*log_q, tokens, arm.beta, 0.3)
    found = judged([arm], preferring.log_ratios(0))
    assert float(found.loss.detach()) == pytest.approx(float(expected.mean()), rel=1e-9)


def test_answers_to_other_prompts_are_cut_off_where_the_context_ends() -> None:
    long = Examples([(1,), tuple([1] * 14)], *padded([[2] * 8, [2, 5]], PAD))
    other = fitting(Examples(long.prompts, long.token[::-1], long.mask[::-1]), 16)
    assert other.mask.sum(-1).tolist() == [2, 2]
    assert fitting(long, None) is long
