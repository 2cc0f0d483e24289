"""Model and tokenizer as a folder or a hub has them, and what is refused of what lies there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from klbench.lm import names
from klbench.types import ConfigError


def model(where: str, name: str, revision: str | None, dtype: str) -> Any:
    """A causal language model of transformers, all of whose weights are there.

    Raises
    ------
    ConfigError
        It is not there, not safetensors, not whole, or of another kind.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    if Path(where).is_dir():
        _check_folder(Path(where), name)
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            where,
            output_loading_info=True,
            revision=revision or "main",
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=names.from_disk_only(where),
        )
    except (OSError, ValueError, KeyError, SafetensorError, ImportError, RuntimeError) as error:
        raise ConfigError(_why(where, name, revision, error)) from None
    found, about = loaded
    missing = sorted(about["missing_keys"])
    if missing:  # transformers would draw them at random, and say so in a warning
        more = f" and {len(missing) - 1} others" if len(missing) > 1 else ""
        raise ConfigError(f"{name}: not a whole causal language model, its weights lack {missing[0]}{more}")
    return found


def _check_folder(folder: Path, name: str) -> None:
    if not (folder / "config.json").is_file():
        raise ConfigError(f"{name}: no config.json there; expected a folder that save_pretrained of transformers wrote")
    if not any(folder.glob("*.safetensors")):
        pickled = next((file.name for pattern in ("*.bin", "*.pt", "*.pth") for file in sorted(folder.glob(pattern))), None)
        have = f"only {pickled}, and such a file can run code when it is read" if pickled else "nor any other weights"
        raise ConfigError(f"{name}: no *.safetensors there, {have}; save it with save_pretrained(..., safe_serialization=True)")


def tokenizer(where: str, name: str, revision: str | None) -> Any:
    """The tokenizer beside a model.

    Raises
    ------
    ConfigError
        There is none, or it cannot be read.
    """
    from transformers import AutoTokenizer

    missing = f"{name}: no tokenizer there; save it beside the model with tokenizer.save_pretrained"
    files = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt")
    if Path(where).is_dir() and not any((Path(where) / file).is_file() for file in files):
        raise ConfigError(missing)
    try:
        return AutoTokenizer.from_pretrained(
            where, revision=revision or "main", trust_remote_code=False, local_files_only=names.from_disk_only(where)
        )
    except Exception as error:  # noqa: BLE001  # the Rust side of tokenizers raises bare Exception
        raise ConfigError(f"{missing} ({line(error)})") from None


def _why(where: str, name: str, revision: str | None, error: Exception) -> str:
    if Path(where).is_dir():
        return f"{name}: cannot be loaded as a causal language model: {line(error)}"
    text = str(error)
    if "trust_remote_code" in text:
        return f"{name}: needs code of its own from the hub, which is never run here"
    if "safetensors" in text:
        return f"{name}: has no safetensors weights on the hub; other formats can run code when they are read"
    at = f" at revision {revision}" if revision else ""
    return (
        f"{name}: no such folder, and neither in the local cache of the hub nor to be had from it{at}; "
        f"name a folder, or fetch it first where there is a network ({line(error)})"
    )


def line(error: BaseException | str, most: int = 160) -> str:
    """The first line of an error, cut to size."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0] if len(lines[0]) <= most else lines[0][: most - 3] + "..."
