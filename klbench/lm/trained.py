"""A language model in training: a copy of it, its precision, and where it is kept during and after training."""

from __future__ import annotations

import copy
import json
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from klbench import inputs
from klbench.lm.model import LanguageModel
from klbench.lm.quiet import quiet
from klbench.runs import atomic
from klbench.types import ConfigError

STATE = "state"
"""The key of a checkpoint's header under which what is no tensor stands, as JSON."""


def trainable(lm: LanguageModel) -> LanguageModel:
    """A copy whose parameters are learned; dropout stays off, so that a policy's log-probabilities are always the same.

    Raises
    ------
    ConfigError
        It is an adapter on a base model.
    """
    if getattr(lm.model, "peft_config", None) or any(
        "lora_" in name for name, _ in lm.model.named_parameters()
    ):
        raise ConfigError(
            f"{lm.name}: an adapter cannot be trained further here; merge it into its base model first"
        )
    return replace(lm, model=copy.deepcopy(lm.model).requires_grad_().eval())


def precision(dtype: str, device: str) -> AbstractContextManager[Any]:
    """Layers in ``bfloat16`` where that is the dtype, parameters and their updates in float32 whatever it is."""
    return nullcontext() if dtype == "float32" else torch.autocast(device, getattr(torch, dtype))


def export(lm: LanguageModel, folder: Path) -> None:
    """Save model and tokenizer as transformers does, all or nothing; a folder of that name is replaced."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(
        tempfile.mkdtemp(prefix=f".{folder.name}-", suffix=".partial", dir=folder.parent)
    )
    try:
        with quiet():
            lm.model.save_pretrained(unfinished)
            lm.tokenizer.save_pretrained(unfinished)
        unfinished.chmod(0o755)
        shutil.rmtree(folder, ignore_errors=True)
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def keep(file: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Write tensors and, in the same file's header, JSON: safetensors, atomically."""
    plain = {name: each.detach().contiguous().cpu() for name, each in tensors.items()}
    with atomic(file) as partial:
        save_file(plain, partial, metadata={STATE: json.dumps(state)})


def put_back(parameters: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    """Give each parameter the values that were kept of it."""
    with torch.no_grad():
        for name, each in parameters.items():
            each.copy_(tensors[name])


def kept(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Return what :func:`keep` wrote; None if there is no such file.

    Raises
    ------
    ConfigError
        It cannot be read.
    """
    if not file.is_file():
        return None
    with (
        inputs.refused(f"{file}: not a checkpoint that klbench wrote"),
        safe_open(file, framework="pt") as opened,
    ):
        state = json.loads(opened.metadata()[STATE])
        return {name: opened.get_tensor(name) for name in opened.keys()}, state  # noqa: SIM118
