"""Model and tokenizer as a folder or a hub has them, and what is refused of what lies there."""

from __future__ import annotations

import re
import socket
import urllib.parse
import urllib.request
from collections.abc import Iterable
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from klbench import inputs
from klbench.types import ConfigError

INDEX = "model.safetensors.index.json"
_BUFFERS = re.compile(r"(masked_bias|inv_freq|(attn|attention)\.bias)$")
"""Constants that old versions of transformers saved beside the weights.

Causal masks and the angles of positions.
"""


def model(where: str, name: str, revision: str | None, dtype: str) -> Any:
    """A causal language model of transformers, all of whose weights are there.

    Raises
    ------
    ConfigError
        It is not there, not safetensors, not whole, of another kind, or its weights are not those
        of its configuration.
    """
    try:
        if Path(where).is_dir():
            _check_folder(Path(where), name)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            where,
            output_loading_info=True,
            revision=revision or "main",
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=from_disk_only(where),
        )
    except ConfigError:
        raise
    except (
        Exception
    ) as error:  # transformers raises nearly anything on files that are not as it wrote them
        raise ConfigError(_why(where, name, revision, error)) from error
    found, about = loaded
    if about["missing_keys"]:  # transformers would draw them at random, and say so in a warning
        raise ConfigError(
            f"{name}: not a whole causal language model, its weights lack"
            f" {_some(about['missing_keys'])}"
        )
    unused = [key for key in about["unexpected_keys"] if _belongs_elsewhere(found, key)]
    if unused:
        raise ConfigError(
            f"{name}: config.json does not describe its weights, they have {_some(unused)} more"
        )
    for key, weight in found.named_parameters():
        if weight.numel() and not all(bool(each.isfinite()) for each in weight.aminmax()):
            raise ConfigError(
                f"{name}: the weight {key} holds NaN or infinity in {dtype}; nothing can be"
                " measured with it"
            )
    return found


def _some(keys: Iterable[str]) -> str:
    first, *others = sorted(keys)
    return f"{first} and {len(others)} others" if others else first


def _belongs_elsewhere(model: Any, key: str) -> bool:
    """Return whether an unused weight is of a module or a list of layers that the model has.

    It is then another model's.

    What stands apart, such as a value head or the half of a model that sees images, may lie in the
    same file.
    """
    if _BUFFERS.search(key):
        return False
    modules = dict(model.named_modules())
    for path in (key, f"{model.base_model_prefix}.{key}"):
        parts = path.split(".")[:-1]
        longest = [each for each in accumulate(parts, lambda a, b: f"{a}.{b}") if each in modules]
        if longest and (
            longest[-1] == ".".join(parts) or type(modules[longest[-1]]).__name__ == "ModuleList"
        ):
            return True
    return False


def _check_folder(folder: Path, name: str) -> None:
    if not (folder / "config.json").is_file():
        raise ConfigError(
            f"{name}: no config.json there; expected a folder that save_pretrained of transformers"
            " wrote"
        )
    if not any(folder.glob("*.safetensors")):
        pickled = next(
            (
                file.name
                for pattern in ("*.bin", "*.pt", "*.pth")
                for file in sorted(folder.glob(pattern))
            ),
            None,
        )
        have = (
            f"only {pickled}, and such a file can run code when it is read"
            if pickled
            else "nor any other weights"
        )
        raise ConfigError(
            f"{name}: no *.safetensors there, {have}; save it with save_pretrained(...,"
            " safe_serialization=True)"
        )
    inputs.check_folder(folder)
    if (folder / INDEX).is_file():
        _check_index(folder)
    _check_layers(folder, name)


def _check_index(folder: Path) -> None:
    """Check that the index of weights in several files names files that are there."""
    index = inputs.read_json(folder / INDEX)
    files = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(files, dict) or not all(isinstance(file, str) for file in files.values()):
        raise ConfigError(
            f"{folder / INDEX}: expected a weight_map from the names of weights to those of files"
        )
    for file in sorted(set(files.values())):
        found = inputs.kind(folder / file)
        if found != inputs.FILE:
            raise ConfigError(
                f"{folder / INDEX}: names {file!r}, expected a file beside it, found {found}"
            )


def _check_layers(folder: Path, name: str) -> None:
    """Check that there are no more layers than weights.

    Transformers would first build them all, however many.
    """
    config = AutoConfig.from_pretrained(
        folder, trust_remote_code=False, local_files_only=True
    ).get_text_config()
    layers = getattr(config, "num_hidden_layers", None)
    weights = 0
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="pt") as opened:
            weights += len(opened.keys())
    if isinstance(layers, int) and not 0 <= layers <= weights:
        raise ConfigError(
            f"{name}: config.json speaks of {layers:,} layers, all weights together are {weights:,}"
        )


def tokenizer(where: str, name: str, revision: str | None) -> Any:
    """The tokenizer beside a model.

    Raises
    ------
    ConfigError
        There is none, or it cannot be read.
    """
    advice = "save it beside the model with tokenizer.save_pretrained"
    files = (
        "tokenizer.json",
        "tokenizer_config.json",
        "tokenizer.model",
        "vocab.json",
        "vocab.txt",
    )
    if Path(where).is_dir():
        inputs.check_folder(Path(where))
        if not any((Path(where) / file).is_file() for file in files):
            raise ConfigError(f"{name}: no tokenizer there; {advice}")
    with inputs.refused(f"{name}: its tokenizer cannot be read, {advice}"):
        return AutoTokenizer.from_pretrained(
            where,
            revision=revision or "main",
            trust_remote_code=False,
            local_files_only=from_disk_only(where),
        )


def _why(where: str, name: str, revision: str | None, error: Exception) -> str:
    if Path(where).is_dir():
        return f"{name}: cannot be loaded as a causal language model: {inputs.reason(error)}"
    text = str(error)
    if "trust_remote_code" in text:
        return f"{name}: needs code of its own from the hub, which is never run here"
    if "safetensors" in text:
        return (
            f"{name}: has no safetensors weights on the hub; other formats can run code when they"
            " are read"
        )
    at = f" at revision {revision}" if revision else ""
    return (
        f"{name}: no such folder, and neither in the local cache of the hub nor to be had from"
        f" it{at}; name a folder, or fetch it first where there is a network"
        f" ({inputs.reason(error)})"
    )


def from_disk_only(where: str) -> bool:
    """Return whether to look on this machine only.

    If the hub is out of reach, its own client would try for a minute.
    """
    if Path(where).is_dir() or constants.HF_HUB_OFFLINE:
        return True
    if urllib.request.getproxies():
        return False
    hub = urllib.parse.urlsplit(constants.ENDPOINT)
    try:
        with socket.create_connection((hub.hostname or "", hub.port or 443), timeout=5.0):
            return False
    except OSError:
        return True
