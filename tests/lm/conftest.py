"""Small language models to test with.

The embedded set of the tiny recipe, and random ones without a tokenizer.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from klbench.lm.model import LanguageModel

VOCABULARY, END, PAD = 24, 3, 0


@pytest.fixture(scope="session", autouse=True)
def lm_cache(tmp_path_factory) -> Iterator[Path]:
    """The embedded models of these tests.

    Quickly made, kept apart from the user's, and nothing from any hub.
    """
    folder = tmp_path_factory.mktemp("lm-cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KLBENCH_CACHE", str(folder))
        patch.setenv("KLBENCH_EMBEDDED", "tiny")
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield folder


def random_model(kind: str, seed: int = 0):
    """An untrained model whose distributions are far from uniform, so that an error shows."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if kind == "gpt2":
            config = GPT2Config(
                vocab_size=VOCABULARY,
                n_positions=64,
                n_embd=16,
                n_layer=2,
                n_head=2,
                initializer_range=0.4,
                bos_token_id=END,
                eos_token_id=END,
                pad_token_id=PAD,
            )
            model = GPT2LMHeadModel(config)
        else:
            config = LlamaConfig(
                vocab_size=VOCABULARY,
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=64,
                initializer_range=0.4,
                bos_token_id=END,
                eos_token_id=END,
                pad_token_id=PAD,
            )
            model = LlamaForCausalLM(config)
    return model.eval().requires_grad_(False)


def _random_lm(kind: str = "gpt2", seed: int = 0) -> LanguageModel:
    return LanguageModel(
        f"{kind}-{seed}", random_model(kind, seed), None, "cpu", VOCABULARY, 64, (END,), PAD
    )


@pytest.fixture(scope="session")
def random_lm() -> Callable[..., LanguageModel]:
    return _random_lm


@pytest.fixture(scope="session", params=["gpt2", "llama"])
def lms(request, random_lm) -> tuple[LanguageModel, LanguageModel]:
    """A policy and a reference: absolute positions in one case, rotary ones in the other."""
    return random_lm(request.param, 3), random_lm(request.param, 4)


@pytest.fixture(scope="session")
def prompts() -> list[list[int]]:
    """Prompts of 1 to 9 tokens, the end token among them."""
    stream = np.random.default_rng(0)
    return [stream.integers(1, VOCABULARY, size=1 + k % 9).tolist() for k in range(15)]
