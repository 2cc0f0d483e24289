"""The batched sampler against a slow loop: one sequence at a time, no cache, no padding."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from klbench.lm.generation import generate
from klbench.lm.model import LanguageModel
from klbench.lm.quiet import quiet
from klbench.lm.sampling import Sampling, choose
from klbench.lm.scoring import score

END, PAD, VOCABULARY = 3, 0, 24  # of the models in conftest.py
STEPS = 10
UNIFORM = np.random.default_rng(2).random((15, STEPS))
SAMPLINGS = [Sampling(), Sampling(0.7), Sampling(1.0, 0.8, 0), Sampling(1.3, 0.9, 6)]


def slowly(lm, prompts, uniform, sampling):
    token, mask, log_mu = (
        np.full(uniform.shape, PAD),
        np.zeros(uniform.shape, bool),
        np.zeros(uniform.shape),
    )
    for i, prompt in enumerate(prompts):
        ids = list(prompt)
        for t in range(uniform.shape[1]):
            log_probs = sampling.log_probs(
                lm.model(torch.tensor([ids]), use_cache=False).logits[:, -1]
            )
            chosen = choose(log_probs, torch.from_numpy(uniform[i, t : t + 1])).item()
            ids.append(chosen)
            token[i, t], mask[i, t], log_mu[i, t] = chosen, True, log_probs[0, chosen]
            if chosen == END:
                break
    return token, mask, log_mu


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_the_sampler_is_the_slow_loop(lms, prompts, sampling) -> None:
    lm = lms[0]
    token, mask, log_mu = slowly(lm, prompts, UNIFORM, sampling)
    for batch in (1, 3, 8, 64):
        found = generate(lm, prompts, UNIFORM, sampling, batch)
        np.testing.assert_array_equal(found.token, token)
        np.testing.assert_array_equal(found.mask, mask)
        np.testing.assert_allclose(found.log_mu, log_mu, atol=1e-5)


def kinds() -> dict[str, Callable[[], torch.nn.Module]]:
    """Where positions come from, what a token sees and how a state is handed on differ."""
    import transformers as hf

    own = {"vocab_size": VOCABULARY, "bos_token_id": END, "eos_token_id": END, "pad_token_id": PAD}
    layers = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "initializer_range": 0.4,
    }
    opt = {
        "hidden_size": 16,
        "ffn_dim": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "word_embed_proj_dim": 16,
    }
    mamba = {"hidden_size": 16, "state_size": 4, "num_hidden_layers": 2, "initializer_range": 0.4}
    return {
        "a window of 4": lambda: hf.MistralForCausalLM(
            hf.MistralConfig(**own, **layers, sliding_window=4, num_key_value_heads=2)
        ),
        "alibi": lambda: hf.BloomForCausalLM(
            hf.BloomConfig(**own, hidden_size=16, n_layer=2, n_head=4, initializer_range=0.4)
        ),
        "positions from the mask": lambda: hf.OPTForCausalLM(
            hf.OPTConfig(**own, **opt, max_position_embeddings=64, init_std=0.4)
        ),
        "recurrent": lambda: hf.MambaForCausalLM(hf.MambaConfig(**own, **mamba)),
    }


@pytest.mark.parametrize("kind", ["a window of 4", "alibi", "positions from the mask", "recurrent"])
def test_padding_reaches_no_kind_of_model(kind, prompts) -> None:
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kinds()[kind]().eval().requires_grad_(False)
    lm = LanguageModel(kind, model, None, "cpu", VOCABULARY, 64, (END,), PAD)
    some, numbers = prompts[:9], UNIFORM[:9]
    token, mask, log_mu = slowly(lm, some, numbers, Sampling(0.9))
    for batch in (1, 4, 9):
        found = generate(lm, some, numbers, Sampling(0.9), batch)
        np.testing.assert_array_equal(found.token, token)
        np.testing.assert_allclose(found.log_mu, log_mu, atol=1e-5)
        scores = score(lm, lm, some, token, mask, batch=batch, sampling=Sampling(0.9))
        np.testing.assert_allclose(scores.log_mu, log_mu, atol=1e-5)


def test_a_completion_ends_with_its_end_token_or_is_cut_off(lms, prompts) -> None:
    found = generate(lms[0], prompts, UNIFORM, Sampling())
    ended = (found.token == END).any(-1)
    assert 3 <= ended.sum() <= len(prompts) - 3, "both should be tested"
    for token, mask, log_mu, end in zip(found.token, found.mask, found.log_mu, ended, strict=True):
        length = mask.sum()
        assert mask[:length].all()
        assert length == (np.argmax(token == END) + 1 if end else STEPS)
        assert (token[length:] == PAD).all()
        assert (log_mu[length:] == 0.0).all()
        assert (log_mu[:length] < 0.0).all()


def test_a_completion_depends_on_its_own_prompt_and_numbers_alone(random_lm, prompts) -> None:
    lm = random_lm()
    whole = generate(lm, prompts, UNIFORM, Sampling())
    some = generate(lm, prompts[5:9], UNIFORM[5:9], Sampling())
    np.testing.assert_array_equal(whole.token[5:9], some.token)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.8, 0.95, 10)], ids=str)
def test_pairs_of_tokens_come_as_often_as_they_are_probable(lms, sampling) -> None:
    lm, n, prompt = lms[0], 20_000, [5, 7, 2]
    found = generate(lm, [prompt] * n, np.random.default_rng(3).random((n, 2)), sampling, batch=n)
    first = sampling.log_probs(lm.model(torch.tensor([prompt])).logits[0, -1]).exp()
    after = torch.tensor([[*prompt, k] for k in range(len(first))])
    second = sampling.log_probs(lm.model(after).logits[:, -1]).exp()
    p = (first[:, None] * second).numpy()
    p[END] = 0.0
    whole = found.mask.all(-1)
    counts = np.zeros(p.shape)
    np.add.at(counts, tuple(found.token[whole].T), 1)
    assert abs(whole.mean() - p.sum()) <= 5 * np.sqrt(p.sum() * (1 - p.sum()) / n) + 1e-12
    assert (np.abs(counts / n - p) <= 5 * np.sqrt(p * (1 - p) / n) + 2 / n).all()


def test_a_model_without_an_end_token_goes_on_to_the_limit(random_lm, prompts) -> None:
    found = generate(replace(random_lm(), end=()), prompts, UNIFORM, Sampling())
    assert found.mask.all()


def test_all_of_several_end_tokens_end(random_lm, prompts) -> None:
    found = generate(replace(random_lm(), end=(END, 5, 9)), prompts, UNIFORM, Sampling())
    last = found.token[np.arange(len(prompts)), found.mask.sum(-1) - 1]
    inside = found.token[
        found.mask & (np.cumsum(found.mask, -1) < found.mask.sum(-1, keepdims=True))
    ]
    assert len(set(last.tolist()) & {END, 5, 9}) >= 2
    assert not set(inside.tolist()) & {END, 5, 9}
