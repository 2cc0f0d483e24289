"""Prompts that are passed through once: the same numbers, tokens and gradients as without."""

import copy
import inspect
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM

from klbench.lm import model
from klbench.lm.generation import generate
from klbench.lm.sampling import Sampling
from klbench.lm.scoring import token_logits
from klbench.lm.shared import cacheable, cheaper, packable, packed

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
        lm = replace(lms[0], model=copy.deepcopy(lms[0].model).requires_grad_())
        logits = token_logits(lm, asked, done.token, done.mask)
        logits.log_softmax(-1)[:, 3].sum().backward()
        sides.append([logits.detach(), *(each.grad for each in lm.model.parameters())])
    for plain, once in zip(*sides, strict=True):
        torch.testing.assert_close(once, plain, rtol=1e-4, atol=1e-4)


def test_a_prompt_is_passed_once(lms, asked, monkeypatch) -> None:
    done = completed(lms[0], asked)
    found = packed(asked, done.token, done.mask, lms[0].pad)
    monkeypatch.setattr(model, "FEW_PARAMETERS", 0)
    passes = rows_of(lms[0], monkeypatch)
    logits = token_logits(lms[0], asked, done.token, done.mask)
    assert passes == [found.ids.size]
    assert len(found.ids) == 5
    assert len(logits) == done.mask.sum()


def test_a_row_holds_a_prompt_and_its_completions() -> None:
    token, mask = np.array([[5, 6], [7, 0], [8, 9]]), np.array([[1, 1], [1, 0], [1, 1]], dtype=bool)
    found = packed([[1, 2], [3], [1, 2]], token, mask, 0)
    assert found.ids.tolist() == [[1, 2, 5, 8], [3, 0, 0, 0]]
    assert found.positions.tolist() == [[0, 1, 2, 2], [0, 0, 0, 0]]
    assert found.places.tolist() == [1, 2, 4, 1, 3]
    assert found.visible[0, 0].int().tolist() == [
        [1, 0, 0, 0],
        [1, 1, 0, 0],
        [1, 1, 1, 0],
        [1, 1, 0, 1],
    ]


def test_long_rows_cost_more_than_they_save(lms) -> None:
    def worth(tokens: int) -> bool:
        answers = np.ones((4, tokens), dtype=int)
        found = packed([[1, 2]] * 4, answers, answers.astype(bool), 0)
        return cheaper(lms[0], found, [2 + tokens] * 4)

    assert worth(4)
    assert not worth(400)


def test_a_window_is_not_continued_from_padding(random_lm) -> None:
    lm = random_lm("llama")
    assert cacheable(lm)
    assert packable(lm)
    config = MistralConfig(
        vocab_size=24,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        sliding_window=4,
    )
    windowed = replace(lm, model=MistralForCausalLM(config))
    assert not cacheable(windowed)
    assert not packable(windowed)
