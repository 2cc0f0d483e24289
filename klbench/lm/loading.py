"""Language models from a hub, from a folder, or from what comes with klbench.

And what two of them must share.
"""

from __future__ import annotations

import importlib.util
import os
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from transformers.pytorch_utils import Conv1D

from klbench import inputs
from klbench.lm import files, names
from klbench.lm.model import LanguageModel, ready
from klbench.lm.quiet import quiet
from klbench.types import ConfigError

INT8 = "int8"
"""Weights of linear layers rounded to 8 bits; all else is float32."""

DTYPES = ("float32", "bfloat16", "float16", INT8)


def check_device(device: str) -> None:
    """Check that a device is there.

    Of several processes on a machine, each takes the GPU of its number (``LOCAL_RANK``).

    Raises
    ------
    ConfigError
        ``cuda`` without a GPU, or with fewer than there are processes.
    """
    if device != "cuda":
        return
    if not torch.cuda.is_available():
        raise ConfigError("device='cuda': torch sees no GPU here; use device=cpu")
    local, gpus = os.environ.get("LOCAL_RANK", ""), torch.cuda.device_count()
    if local.isdecimal():
        if int(local) >= gpus:
            raise ConfigError(
                f"device='cuda': there is no GPU for process {int(local) + 1} of this machine,"
                f" torch sees {gpus}; start {gpus}"
            )
        torch.cuda.set_device(int(local))  # what "cuda" means from here on


def load(
    name: str, revision: str | None = None, dtype: str = "float32", device: str = "cpu"
) -> LanguageModel:
    """The model of that name: ``embedded:...``, a local folder, or a hub id.

    Nothing that it brings is ever executed.

    Weights are read from safetensors only. A folder with an ``adapter_config.json`` is a LoRA
    adapter on its base model, the revision is then the base's. The last few models stay loaded: one
    that is asked for again is the same object.

    Raises
    ------
    ConfigError
        There is none, or it is not of a kind that can be read.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"dtype={dtype!r}: must be one of {', '.join(DTYPES)}")
    names.check(name)
    check_device(device)
    return _load(names.resolved(name), name, revision, dtype, device)


@lru_cache(maxsize=4)  # policy and reference, each in two dtypes
def _load(where: str, name: str, revision: str | None, dtype: str, device: str) -> LanguageModel:
    with quiet(), inputs.refused(f"{name}: cannot be used as a causal language model"):
        adapted = (Path(where) / "adapter_config.json").is_file()
        stored = "float32" if dtype == INT8 else dtype
        model, tokenizer = (_adapted if adapted else _plain)(where, name, revision, stored)
        return ready(name, rounded(model) if dtype == INT8 else model, tokenizer, device)


def rounded(model: Any) -> Any:
    """The model with the weights of its linear layers as 8 bits hold them.

    A scale for each output, symmetrical, to nearest.

    As weight-only formats have it: inputs, arithmetic, embeddings and the output over tokens stay
    float32. (Dettmers et al. 2022, "LLM.int8()", without the part for outliers, which concerns
    inputs.)
    """
    head = model.get_output_embeddings()
    for layer in model.modules():
        if isinstance(layer, torch.nn.Linear | Conv1D) and layer is not head:
            weight = layer.weight.data
            inputs_at = 0 if isinstance(layer, Conv1D) else 1  # GPT-2 has its weights transposed
            largest = weight.abs().amax(inputs_at, keepdim=True)
            scale = largest.clamp(min=torch.finfo(weight.dtype).tiny) / 127.0
            weight.copy_((weight / scale).round() * scale)
    return model


def _plain(where: str, name: str, revision: str | None, dtype: str) -> tuple[Any, Any]:
    return files.model(where, name, revision, dtype), files.tokenizer(where, name, revision)


def _adapted(where: str, name: str, revision: str | None, dtype: str) -> tuple[Any, Any]:
    """A LoRA adapter in a folder, on its base."""
    if importlib.util.find_spec("peft") is None:
        raise ConfigError(
            f"{name}: a LoRA adapter needs peft, which is not installed here; pip install"
            " 'klbench[lm]'"
        )
    folder = Path(where)
    base = _base_of(folder, name)
    base_where = names.resolved(base)
    model = files.model(base_where, f"{base}, the base of {name}", revision, dtype)
    from peft import PeftModel

    with (
        inputs.refused(f"{name}: the adapter does not fit its base {base}"),
        warnings.catch_warnings(record=True) as said,
    ):
        warnings.simplefilter("always")
        adapted = PeftModel.from_pretrained(model, where, is_trainable=False)
    missing = next(
        (each.message for each in said if "missing adapter keys" in str(each.message)), None
    )
    if isinstance(missing, Warning):
        said_of_it = inputs.reason(missing)
        raise ConfigError(
            f"{name}: the adapter lacks weights that its adapter_config.json speaks of"
            f" ({said_of_it})"
        )
    has_tokenizer = any(
        (folder / file).is_file() for file in ("tokenizer.json", "tokenizer_config.json")
    )
    tokenizer = (
        files.tokenizer(where, name, None)
        if has_tokenizer
        else files.tokenizer(base_where, base, revision)
    )
    return adapted.get_base_model(), tokenizer  # the layers hold the adapter by now


def _base_of(folder: Path, name: str) -> str:
    """Return the base model that an adapter names, after a check that the adapter can be read
    here.
    """
    if not (folder / "adapter_model.safetensors").is_file():
        raise ConfigError(
            f"{name}: no adapter_model.safetensors there; other formats can run code and are not"
            " read"
        )
    inputs.check_folder(folder)
    file = folder / "adapter_config.json"
    config = inputs.read_json(file)
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise ConfigError(f"{file}: expected an adapter with peft_type LORA")
    if config.get("megatron_config"):
        raise ConfigError(
            f"{file}: megatron_config names a module to import, which is never done here"
        )
    base = config.get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise ConfigError(
            f"{file}: base_model_name_or_path must name the model that the adapter is for"
        )
    if inputs.kind(folder / base) == inputs.FOLDER:
        base = str(folder / base)
    if inputs.kind(Path(base, "adapter_config.json")) == inputs.FILE:
        raise ConfigError(f"{name}: its base {base} is an adapter itself; merge the two first")
    names.check(base)
    return base


def check_same_tokens(policy: LanguageModel, reference: LanguageModel) -> None:
    """Check that the two speak of the same tokens.

    log-ratios and divergences are meaningless otherwise.

    Raises
    ------
    ConfigError
        The first token that differs, or the two sizes.
    """
    if policy is reference:
        return
    ours, theirs = (
        {index: token for token, index in each.tokenizer.get_vocab().items()}
        for each in (policy, reference)
    )
    if ours != theirs:
        first = next(i for i in sorted(ours.keys() | theirs.keys()) if ours.get(i) != theirs.get(i))
        raise ConfigError(
            f"policy {policy.name} and reference {reference.name} have different tokenizers: token"
            f" {first} is {ours.get(first)!r} in one and {theirs.get(first)!r} in the other; both"
            " must be of one family"
        )
    if policy.vocabulary != reference.vocabulary:
        raise ConfigError(
            f"policy {policy.name} has logits over {policy.vocabulary} tokens and reference"
            f" {reference.name} over {reference.vocabulary}; both must be of one family"
        )
    sample = 'Same "text", same tokens:\n\t x1 = 3.5 — naïve, 你好'
    if policy.encode(sample) != reference.encode(sample):
        raise ConfigError(
            f"policy {policy.name} and reference {reference.name} have the same tokens and cut a"
            " text into them differently; both must be of one family"
        )
