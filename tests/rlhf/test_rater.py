"""A reward model made of a language model, against what transformers makes of the same
parameters.
"""

import math
from itertools import islice

import numpy as np
import pytest
import torch
from small_lm import END, PAD, V, judge, model

from klbench import streams
from klbench.rlhf.language import sft
from klbench.rlhf.language.dpo_world import Preferences, sampled
from klbench.rlhf.language.reward_world import Rater, judging
from klbench.rlhf.language.sft import Examples, padded
from klbench.rlhf.reward_model import train

PROMPTS = [(1, 2), (4,), (5, 6, 1), (2, 2)]
CHOSEN = [[4, END], [6, 6, 2, END], [END], [5]]
REJECTED = [[2, 2, END], [1], [5, 5, 5, 5], [1, END]]
SCALE = 6.0


def examples(answers) -> Examples:
    return Examples(PROMPTS, *padded(answers, PAD))


def rater(preferences: Preferences, *, each=8, steps=30, rate=0.02) -> Rater:
    made = Rater(
        model(1),
        preferences,
        each=each,
        batch=3,
        rate=rate,
        steps=steps,
        dtype="float32",
        names=(0, "test"),
    )
    with torch.no_grad():
        made.model.model.score.weight.copy_(
            torch.linspace(-1, 1, 8)[None]
        )  # from 0 on, no layer but the last would learn
    return made


def score(one: Rater, prompt, answer) -> torch.Tensor:
    """By transformers, of one completion by itself; all tokens differ from the padding."""
    return one.model.model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0, 0]


def test_it_begins_at_0() -> None:
    preferences = Preferences(examples(CHOSEN), examples(REJECTED))
    fresh = Rater(
        model(1),
        preferences,
        each=2,
        batch=3,
        rate=0.1,
        steps=1,
        dtype="float32",
        names=(0, "test"),
    )
    assert float(fresh.held_out().chosen.detach().abs().max()) == 0.0


def test_scores_and_the_losss_gradient_are_those_written_out() -> None:
    one = rater(Preferences(examples(CHOSEN), examples(REJECTED)))
    margins = torch.stack(
        [
            score(one, prompt, chosen) - score(one, prompt, rejected)
            for prompt, chosen, rejected in zip(PROMPTS[1:], CHOSEN[1:], REJECTED[1:], strict=True)
        ]
    )
    expected = -torch.sigmoid(margins).log().mean()
    parameters = list(one.model.named_parameters().values())
    gradient = torch.autograd.grad(expected, parameters)
    loss = one.training(0).loss()  # pair 0 is held out
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-12)
    for mine, theirs in zip(torch.autograd.grad(loss, parameters), gradient, strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-8, atol=1e-12)
    held_out = one.held_out()
    assert float(held_out.chosen.detach()) == pytest.approx(
        float(score(one, PROMPTS[0], CHOSEN[0]).detach()), rel=1e-12
    )


def test_what_it_says_as_a_reward() -> None:
    one = rater(Preferences(examples(CHOSEN), examples(REJECTED)))
    said = judging(one.model, level=0.25, scale=SCALE, batch=3, dtype="float32")(
        PROMPTS, *padded(REJECTED, PAD)
    )
    by_hand = [
        (float(score(one, *each).detach()) - 0.25) / SCALE
        for each in zip(PROMPTS, REJECTED, strict=True)
    ]
    assert np.allclose(said, by_hand, rtol=1e-10)


def test_it_learns_the_reward_that_labels_come_from_and_the_best_step_is_kept() -> None:
    lm = model(2)
    preferences = sampled(
        lm,
        PROMPTS,
        judge,
        600,
        scale=SCALE,
        tokens=4,
        batch=1200,
        dtype="float32",
        stream=streams.generator(0, "test"),
    )
    one = rater(preferences, each=64, steps=60)
    reports = list(train(one, steps=60, every=10))
    level = one.back()
    losses = [float(each.held_out_loss) for each in reports]
    assert float(reports[-1].kept) == 10 * np.argmin(losses)
    with torch.no_grad():
        assert float(one.held_out().loss()) == pytest.approx(min(losses))
    assert min(losses) < math.log(2) - 0.05
    said = judging(one.model, level=level, scale=SCALE, batch=500, dtype="float32")
    whole = [
        said(each.prompts, each.token, each.mask)
        for each in (preferences.chosen, preferences.rejected)
    ]
    own = np.arange(len(preferences)) % 5 != 0
    assert abs(np.concatenate([each[own] for each in whole]).mean()) < 1e-9
    true = np.concatenate(
        [judge(None, each.token, each.mask) for each in (preferences.chosen, preferences.rejected)]
    )
    assert np.corrcoef(np.concatenate(whole), true)[0, 1] > 0.7
    assert preferences.chosen.token.max() < V


def test_batches_go_through_all_in_every_pass() -> None:
    found = list(islice(sft.batches(9, 4, (0, "test")), 6))
    first, second = np.concatenate(found[:3]), np.concatenate(found[3:])
    assert sorted(first) == sorted(second) == list(range(9))
    assert list(first) != list(second)
    assert [len(each) for each in found] == [4, 4, 1] * 2
