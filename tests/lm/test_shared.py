"""Prompts that are passed through once: the same numbers, tokens and gradients as without."""

import copy
import inspect
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM

from klbench.lm import model, scoring
from klbench.lm.generation import generate
from klbench.lm.sampling import Sampling
from klbench.lm.scoring import token_logits
from klbench.lm.shared import cacheable, saved

STEPS = 6


@pytest.fixture
def asked(prompts):
    """Each prompt thrice, not next to each other; one has a single token."""
    return [*prompts[:5], *prompts[:5], *prompts[:5]]


def completed(lm, asked):
    uniform = np.random.default_rng(1).random((len(asked), STEPS))
    return generate(lm, asked, uniform, Sampling())


def rows_of(lm, monkeypatch):
    """The rows of each pass through a model."""
    found, forward = [], type(lm.model).forward

    def counting(self, *args, **given):
        found.append(given["input_ids"].numel())
        return forward(self, *args, **given)

    counting.__signature__ = inspect.signature(forward)
    monkeypatch.setattr(type(lm.model), "forward", counting)
    return found


def test_completions_are_the_same(lms, asked, monkeypatch) -> None:
    plain = completed(lms[0], asked)
    monkeypatch.setattr(model, "FEW_PARAMETERS", 0)
    passes = rows_of(lms[0], monkeypatch)
    once = completed(lms[0], asked)
    assert passes[0] == 5 * 5  # five prompts, the longest of five tokens
    assert np.array_equal(plain.token, once.token)
    assert np.array_equal(plain.mask, once.mask)
    np.testing.assert_allclose(plain.log_mu, once.log_mu, atol=1e-5)


def test_logits_and_gradients_are_the_same(lms, asked, monkeypatch) -> None:
    done = completed(lms[0], asked)
    assert not done.mask.all()  # some end early
    sides = []
    for few in (model.FEW_PARAMETERS, 0):
        monkeypatch.setattr(model, "FEW_PARAMETERS", few)
        monkeypatch.setattr(scoring, "WORTH", 1)
        lm = replace(lms[0], model=copy.deepcopy(lms[0].model).requires_grad_())
        logits = token_logits(lm, asked, done.token, done.mask)
        logits.log_softmax(-1)[:, 3].sum().backward()
        sides.append([logits.detach(), *(each.grad for each in lm.model.parameters())])
    for plain, once in zip(*sides, strict=True):
        torch.testing.assert_close(once, plain, rtol=1e-4, atol=1e-4)


def test_what_is_saved_is_counted() -> None:
    # 4 x (3 + 5) tokens in one, or 2 x 2 of prompts and 4 x 5 that follow.
    assert saved([[1, 2, 3], [4, 5, 6]] * 2, [5, 5, 2, 1]) == 32 - 24
    assert saved([[1], [2]], [3, 3]) == 0  # no prompt has a beginning


def test_a_window_is_not_continued_from_padding(random_lm) -> None:
    lm = random_lm("llama")
    assert cacheable(lm)
    config = MistralConfig(
        vocab_size=24,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        sliding_window=4,
    )
    assert not cacheable(replace(lm, model=MistralForCausalLM(config)))
