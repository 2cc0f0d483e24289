"""The language models that come with klbench.

A small reference and policies made from it, on first use.

They are small, and they are language models in every way that matters to an estimator: subword
tokens, an end-of-sequence token, attention over what precedes, and a policy that was fine-tuned
away from its reference, or sharpened.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from klbench import streams
from klbench.lm import cache, files
from klbench.lm.catalogue import LEVELS, NAMES, PREFIX, TRAINED_BY, check_name
from klbench.lm.corpus import corpus
from klbench.lm.generation import generate
from klbench.lm.model import ready
from klbench.lm.quiet import quiet
from klbench.lm.sampling import Sampling
from klbench.lm.scoring import score
from klbench.registry import unknown
from klbench.threads import one_thread

END, PAD = "<|end|>", "<|pad|>"
VERSION = 1
"""The version of the training, raised when the same recipe, text and libraries yield another
model.
"""
VARIABLE = "KLBENCH_EMBEDDED"
"""Names the recipe; ``tiny`` is for tests, which would rather wait a second than have a model
that has learned anything.
"""


@dataclass(frozen=True)
class Recipe:
    """The settings that decide the result, apart from text and libraries.

    Parameters
    ----------
    steps, finetuning
        Updates of the reference, and after how many further ones, on a part of the text, each level
        is saved.
    temperatures
        Of the sharpened policies, a level each.
    measured
        Completions from which each policy's distance is measured.
    """

    vocabulary: int = 512
    context: int = 96
    width: int = 64
    layers: int = 2
    heads: int = 4
    batch: int = 32
    steps: int = 300
    rate: float = 5e-3
    finetuning: tuple[int, int, int] = (7, 18, 95)
    finetuning_rate: float = 1e-3
    temperatures: tuple[float, float, float] = (0.91, 0.76, 0.52)
    measured: int = 128
    tokens: int = 32
    seed: int = 0


RECIPES = {
    "standard": Recipe(),
    "tiny": Recipe(
        vocabulary=288,
        width=16,
        layers=1,
        heads=2,
        batch=8,
        steps=12,
        finetuning=(2, 4, 8),
        measured=16,
    ),
}


@dataclass(frozen=True)
class Trainer:
    """The recipe that makes one of ``TRAINED`` from the reference.

    All that decides the result, and the work itself.
    """

    made_with: Callable[[], Any]
    train: Callable[[Path], None]


def folder(name: str) -> Path:
    """The folder of that model in the form that transformers loads.

    It is made first if it is not there yet.

    Raises
    ------
    ConfigError
        No such model, or the cache cannot be written.
    """
    check_name(name)
    short = name.removeprefix(PREFIX)
    if short in NAMES:
        return built() / short
    trainer: Trainer = importlib.import_module(TRAINED_BY).trainer(short)
    start = built()
    made_with = json.dumps([start.name, trainer.made_with()], sort_keys=True)
    return cache.folder(
        "lm-trained", hashlib.sha256(made_with.encode()).hexdigest()[:16], trainer.train
    )


def built() -> Path:
    """The folder of the whole set: one folder a model, and ``made.json`` (see :func:`describe`)."""
    recipe = RECIPES[recipe_in_use()]
    return cache.folder("lm", _key(recipe), lambda unfinished: build(recipe, unfinished))


def describe() -> dict[str, Any]:
    """Return the set's corpus, recipe and versions, and each policy's ``KL(q‖p)`` in nats a
    completion.
    """
    made: dict[str, Any] = json.loads((built() / "made.json").read_text(encoding="utf-8"))
    return made


def recipe_in_use() -> str:
    """Return the name of the recipe: ``standard``, or the value of ``KLBENCH_EMBEDDED``."""
    name = os.environ.get(VARIABLE) or "standard"
    if name not in RECIPES:
        raise unknown(f"recipe {VARIABLE}=", name, RECIPES)
    return name


def _made_with(recipe: Recipe) -> dict[str, Any]:
    return {
        "corpus": corpus().sha256,
        "version": VERSION,
        "recipe": asdict(recipe),
        "versions": {
            each: importlib.metadata.version(each)
            for each in ("torch", "transformers", "tokenizers")
        },
    }


def _key(recipe: Recipe) -> str:
    return hashlib.sha256(json.dumps(_made_with(recipe), sort_keys=True).encode()).hexdigest()[:16]


def build(recipe: Recipe, target: Path) -> None:
    """Train and save every model of the set into an empty folder."""
    with one_thread(), quiet():
        tokenizer = make_tokenizer(corpus().train, recipe)
        _train_all(tokenizer, recipe, target)
        distances = {name: _distance(target, name, recipe) for name in NAMES[1:]}
    made = _made_with(recipe) | {"kl_qp": distances}
    (target / "made.json").write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")


def make_tokenizer(texts: Sequence[str], recipe: Recipe) -> PreTrainedTokenizerFast:
    """A byte-level byte-pair tokenizer; every text begins with the token that also ends one."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocabulary,
        special_tokens=[END, PAD],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    end = tokenizer.token_to_id(END)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{END} $A", special_tokens=[(END, end)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END,
        eos_token=END,
        pad_token=PAD,
        model_max_length=recipe.context,
        clean_up_tokenization_spaces=False,
    )


def _train_all(tokenizer: PreTrainedTokenizerFast, recipe: Recipe, target: Path) -> None:
    def save(model: GPT2LMHeadModel, name: str) -> None:
        model.save_pretrained(target / name)
        tokenizer.save_pretrained(target / name)

    end, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=recipe.context,
        n_embd=recipe.width,
        n_layer=recipe.layers,
        n_head=recipe.heads,
        activation_function="gelu_pytorch_tanh",  # the same function as GPT-2's, in one kernel
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=pad,
    )
    everything, part = (
        [[*tokenizer(s)["input_ids"], end] for s in texts]
        for texts in (corpus().train, corpus().part)
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(
            recipe.seed
        )  # transformers takes its initial weights from the global generator
        model = GPT2LMHeadModel(config)
    for _ in _updates(model, everything, recipe, recipe.rate, recipe.steps, anneal=True):
        pass
    save(model, "reference")
    final = model.transformer.ln_f
    weight, bias = final.weight.detach().clone(), final.bias.detach().clone()
    for level, temperature in zip(LEVELS, recipe.temperatures, strict=True):
        # The last layer norm's output times 1/T is the logits times 1/T, so that the folder is like
        # any other model's.
        with torch.no_grad():
            final.weight.copy_(weight / temperature)
            final.bias.copy_(bias / temperature)
        save(model, f"sharpened-{level}")
    with torch.no_grad():
        final.weight.copy_(weight)
        final.bias.copy_(bias)
    levels = dict(zip(recipe.finetuning, LEVELS, strict=True))
    for done in _updates(model, part, recipe, recipe.finetuning_rate, max(levels), anneal=False):
        if done in levels:
            save(model, f"finetuned-{levels[done]}")


def _updates(
    model: GPT2LMHeadModel,
    documents: list[list[int]],
    recipe: Recipe,
    rate: float,
    steps: int,
    *,
    anneal: bool,
) -> Iterator[int]:
    """Train, and yield after each update how many there have been."""
    documents = sorted((each[: recipe.context] for each in documents), key=len)
    stream = torch.Generator().manual_seed(recipe.seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.1)
    near = min(4 * recipe.batch, len(documents))
    model.train()
    for step in range(steps):
        # Documents of a like length, so that little of a batch is padding.
        first = int(torch.randint(len(documents) - near + 1, (), generator=stream))
        chosen = (first + torch.randperm(near, generator=stream)[: recipe.batch]).tolist()
        for group in optimizer.param_groups:
            group["lr"] = (
                rate * min(1.0, (step + 1) / 20) * ((1.0 - 0.9 * step / steps) if anneal else 1.0)
            )
        loss = _loss(model, [documents[k] for k in chosen])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        yield step + 1


def _loss(model: GPT2LMHeadModel, documents: list[list[int]]) -> Any:
    """Cross-entropy in nats a token."""
    longest = max(map(len, documents))
    ids = torch.tensor([each + [0] * (longest - len(each)) for each in documents])
    target = torch.tensor([each[1:] + [-100] * (longest - len(each)) for each in documents])
    logits = model(input_ids=ids[:, :-1]).logits
    return torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), target.flatten(), ignore_index=-100
    )


def _distance(target: Path, name: str, recipe: Recipe) -> dict[str, float]:
    """``KL(q‖p)`` in nats of whole completions, its standard error, and their mean length in
    tokens.
    """
    paths = [str(target / each) for each in (name, "reference")]
    policy, reference = (
        ready(
            path, files.model(path, path, None, "float32"), files.tokenizer(path, path, None), "cpu"
        )
        for path in paths
    )
    texts = corpus().prompts
    prompts = [policy.encode(texts[i % len(texts)]) for i in range(recipe.measured)]
    uniform = streams.generator(recipe.seed, "lm", "distance", name).random(
        (recipe.measured, recipe.tokens)
    )
    sampled = generate(policy, prompts, uniform, Sampling(), batch=128)
    # The sum of exact divergences along sampled prefixes: unbiased, and much the quieter.
    total = score(policy, reference, prompts, sampled.token, sampled.mask, batch=64).kl_qp.sum(-1)
    return {
        "value": float(total.mean()),
        "error": float(total.std(ddof=1) / np.sqrt(len(total))),
        "tokens": float(sampled.mask.sum(-1).mean()),
    }
