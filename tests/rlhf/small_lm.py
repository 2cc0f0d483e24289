"""A language model of a few tokens and random weights, and what it says, one completion at a
time.
"""

import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from klbench.lm.model import LanguageModel

V, END, PAD = 7, 3, 0


def model(seed: int, dtype: torch.dtype = torch.float64) -> LanguageModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = GPT2Config(
            vocab_size=V,
            n_positions=16,
            n_embd=8,
            n_layer=1,
            n_head=2,
            initializer_range=0.4,
            bos_token_id=END,
            eos_token_id=END,
            pad_token_id=PAD,
        )
        made = GPT2LMHeadModel(config).to(dtype).eval().requires_grad_(False)
    return LanguageModel(f"random-{seed}", made, None, "cpu", V, 16, (END,), PAD)


def judge(prompts, token, mask) -> np.ndarray:
    """The mean token, in units of the vocabulary."""
    return (token * mask).sum(-1) / mask.sum(-1) / V


def log_softmax(lm, prompt, tokens) -> torch.Tensor:
    """Next-token log-probabilities before each of the tokens."""
    ids = torch.tensor([[*prompt, *tokens]])
    return lm.model(input_ids=ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
