"""Language models from a hub, from a folder, or from what comes with klbench; and what two of them must share."""

from __future__ import annotations

import importlib.util
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from klbench import inputs
from klbench.lm import files, names
from klbench.lm.quiet import quiet
from klbench.types import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True, eq=False)
class LanguageModel:
    """A causal language model that is ready to run, and its tokenizer.

    Parameters
    ----------
    name
        What it was asked for by.
    vocabulary
        How many tokens its logits are over.
    context
        The longest sequence it takes; None where its configuration names none.
    end
        Ids of the tokens that end a sequence; none where it has no such token.
    pad
        What fills up a batch; no result depends on it.
    """

    name: str
    model: Any
    tokenizer: Any
    device: str
    vocabulary: int
    context: int | None
    end: tuple[int, ...]
    pad: int

    def encode(self, prompt: str) -> list[int]:
        """The ids of a prompt, with what the tokenizer puts before every text.

        Raises
        ------
        ConfigError
            Not one token comes of it.
        """
        with quiet():
            ids: list[int] = self.tokenizer(prompt)["input_ids"]
        if not ids:
            raise ConfigError(f"{self.name}: the prompt {prompt!r} has no tokens; a completion needs at least one before it")
        if max(ids) >= self.vocabulary:
            raise ConfigError(
                f"{self.name}: its tokenizer has token {max(ids)}, which is beyond the {self.vocabulary} that the model knows "
                f"(in the prompt {prompt!r:.60})"
            )
        return ids

    def continued(self, completion: str) -> list[int]:
        """The ids of what follows a prompt, without what the tokenizer puts around a text of its own."""
        with quiet():
            ids: list[int] = self.tokenizer(completion, add_special_tokens=False)["input_ids"]
        return ids

    def texts(self, token: np.ndarray, mask: np.ndarray) -> list[str]:
        """Completions ``(n, T)`` as texts, without special tokens."""
        with quiet():
            rows = [row[keep].tolist() for row, keep in zip(token, mask, strict=True)]
            found: list[str] = self.tokenizer.batch_decode(rows, skip_special_tokens=True)
        return found

    def decode(self, ids: Sequence[int]) -> list[str]:
        """The text of each token by itself."""
        with quiet():
            return [self.tokenizer.decode([int(each)]) for each in ids]


def check_device(device: str) -> None:
    """Check that a device is there; of several processes on a machine, each takes the GPU of its number (``LOCAL_RANK``).

    Raises
    ------
    ConfigError
        ``cuda`` without a GPU, or with fewer than there are processes.
    """
    if device != "cuda":
        return
    import torch

    if not torch.cuda.is_available():
        raise ConfigError("device='cuda': torch sees no GPU here; use device=cpu")
    local, gpus = os.environ.get("LOCAL_RANK", ""), torch.cuda.device_count()
    if local.isdecimal():
        if int(local) >= gpus:
            raise ConfigError(
                f"device='cuda': there is no GPU for process {int(local) + 1} of this machine, torch sees {gpus}; start {gpus}"
            )
        torch.cuda.set_device(int(local))  # what "cuda" means from here on


def load(name: str, revision: str | None = None, dtype: str = "float32", device: str = "cpu") -> LanguageModel:
    """The model of that name: ``embedded:...``, a local folder, or a hub id. Nothing that it brings is ever executed.

    Weights are read from safetensors only. A folder with an ``adapter_config.json`` is a LoRA adapter on its base model, the
    revision is then the base's. The last few models stay loaded: one that is asked for again is the same object.

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
        model, tokenizer = (_adapted if adapted else _plain)(where, name, revision, dtype)
        return _ready(name, model.to(device).eval().requires_grad_(False), tokenizer, device)


def _plain(where: str, name: str, revision: str | None, dtype: str) -> tuple[Any, Any]:
    return files.model(where, name, revision, dtype), files.tokenizer(where, name, revision)


def _adapted(where: str, name: str, revision: str | None, dtype: str) -> tuple[Any, Any]:
    """A LoRA adapter in a folder, on its base."""
    if importlib.util.find_spec("peft") is None:
        raise ConfigError(f"{name}: a LoRA adapter needs peft, which is not installed here; pip install 'klbench[lm]'")
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
    missing = next((each.message for each in said if "missing adapter keys" in str(each.message)), None)
    if isinstance(missing, Warning):
        said_of_it = inputs.reason(missing)
        raise ConfigError(f"{name}: the adapter lacks weights that its adapter_config.json speaks of ({said_of_it})")
    has_tokenizer = any((folder / file).is_file() for file in ("tokenizer.json", "tokenizer_config.json"))
    tokenizer = files.tokenizer(where, name, None) if has_tokenizer else files.tokenizer(base_where, base, revision)
    return adapted.get_base_model(), tokenizer  # the layers hold the adapter by now


def _base_of(folder: Path, name: str) -> str:
    """What the adapter in a folder says that it is for, after a check that it is an adapter to be read here."""
    if not (folder / "adapter_model.safetensors").is_file():
        raise ConfigError(f"{name}: no adapter_model.safetensors there; other formats can run code and are not read")
    inputs.check_folder(folder)
    file = folder / "adapter_config.json"
    config = inputs.read_json(file)
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise ConfigError(f"{file}: expected an adapter with peft_type LORA")
    if config.get("megatron_config"):
        raise ConfigError(f"{file}: megatron_config names a module to import, which is never done here")
    base = config.get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise ConfigError(f"{file}: base_model_name_or_path must name the model that the adapter is for")
    if inputs.kind(folder / base) == inputs.FOLDER:
        base = str(folder / base)
    if inputs.kind(Path(base, "adapter_config.json")) == inputs.FILE:
        raise ConfigError(f"{name}: its base {base} is an adapter itself; merge the two first")
    names.check(base)
    return base


def _ready(name: str, model: Any, tokenizer: Any, device: str) -> LanguageModel:
    head = model.get_output_embeddings()
    if head is None:
        raise ConfigError(f"{name}: has no output over tokens; expected a causal language model")
    logits = _logits(model, head.weight.shape[0])
    if not bool(logits.isfinite().all()):
        raise ConfigError(
            f"{name}: its logits are NaN or infinite, though its weights are not; "
            f"expected a config.json that fits the weights, and a dtype that holds what comes of them (this is {model.dtype})"
        )
    if not _is_causal(logits, model):
        raise ConfigError(f"{name}: what it says of a token depends on later ones; expected a causal language model")
    ends = model.generation_config.eos_token_id if model.generation_config is not None else None
    ends = tokenizer.eos_token_id if ends is None else ends
    end = tuple(ends) if isinstance(ends, list | tuple) else () if ends is None else (ends,)
    vocabulary = int(head.weight.shape[0])
    for each in end:
        if type(each) is not int or not 0 <= each < vocabulary:
            raise ConfigError(f"{name}: eos_token_id={each!r}: must be a token of the model, 0 to {vocabulary - 1:,}")
    # A padding token that was added to the tokenizer alone has no embedding; any that has one does as well.
    pad = next((int(each) for each in (tokenizer.pad_token_id, *end) if each is not None and each < vocabulary), 0)
    config = model.config.get_text_config()
    return LanguageModel(
        name=name,
        model=model,
        tokenizer=tokenizer,
        device=device,
        vocabulary=vocabulary,
        context=getattr(config, "max_position_embeddings", None),
        end=end,
        pad=pad,
    )


def _logits(model: Any, vocabulary: int) -> Tensor:
    """Logits after a first token that two different ones follow, one in each of two rows."""
    import torch

    ids = torch.tensor([[0, 1, 2], [0, 2, 1]], device=model.device) % vocabulary
    with torch.inference_mode():
        return model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[:, 0].float()


def _is_causal(logits: Tensor, model: Any) -> bool:
    """Return whether logits are the same whatever follows: transformers loads encoders such as BERT's as causal models, too."""
    import torch

    one, other = logits
    rounding = 1e-4 if model.dtype == torch.float32 else 0.05
    return bool((one - other).abs().max() <= rounding * one.abs().max())


def check_same_tokens(policy: LanguageModel, reference: LanguageModel) -> None:
    """Check that the two speak of the same tokens: log-ratios and divergences are meaningless otherwise.

    Raises
    ------
    ConfigError
        The first token that differs, or the two sizes.
    """
    if policy is reference:
        return
    ours, theirs = ({index: token for token, index in each.tokenizer.get_vocab().items()} for each in (policy, reference))
    if ours != theirs:
        first = next(i for i in sorted(ours.keys() | theirs.keys()) if ours.get(i) != theirs.get(i))
        raise ConfigError(
            f"policy {policy.name} and reference {reference.name} have different tokenizers: token {first} is "
            f"{ours.get(first)!r} in one and {theirs.get(first)!r} in the other; both must be of one family"
        )
    if policy.vocabulary != reference.vocabulary:
        raise ConfigError(
            f"policy {policy.name} has logits over {policy.vocabulary} tokens and reference {reference.name} over "
            f"{reference.vocabulary}; both must be of one family"
        )
    sample = 'Same "text", same tokens:\n\t x1 = 3.5 — naïve, 你好'
    if policy.encode(sample) != reference.encode(sample):
        raise ConfigError(
            f"policy {policy.name} and reference {reference.name} have the same tokens and cut a text into them differently; "
            f"both must be of one family"
        )
