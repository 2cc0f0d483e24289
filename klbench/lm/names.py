"""The names that a model is asked for by.

An embedded one, ``smollm2``, a local folder, a GGUF file, a hub id.
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path

from klbench import inputs
from klbench.lm.catalogue import PREFIX, TRAINED_BY, check_name
from klbench.lm.packaged import (
    PACKAGED,
    SMOLLM2,
    SUFFIX,
    TRAINED_SMOLLM2,
    check_gguf,
    check_reader,
    is_gguf,
    packaged_file,
)
from klbench.types import ConfigError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[\w.-]{1,96})?")


def check(name: str) -> None:
    """Check what can be checked of a name without loading anything.

    Raises
    ------
    ConfigError
        No such embedded model, no such folder, or nothing that a hub could know.
    """
    if name.startswith(PREFIX):
        check_name(name)
    elif name in (SMOLLM2, *TRAINED_SMOLLM2):
        check_reader(name)
        packaged_file(PACKAGED)
    elif _is_local(name):
        found = inputs.kind(_path(name))
        if is_gguf(name):
            check_gguf(name, found)
        elif found != inputs.FOLDER:
            found = found.replace("no such file", "no such folder")
            raise ConfigError(
                f"{name}: {found}; give a model's folder, a {SUFFIX} file, a hub id, or"
                f" {PREFIX}NAME"
            )
    elif not _HUB_ID.fullmatch(name):
        raise ConfigError(
            f"{name!r}: neither a folder that exists, nor a hub id such as org/name, nor {SMOLLM2},"
            f" nor {PREFIX}NAME"
        )


def _path(name: str) -> Path:
    return inputs.expanded(name)


def _is_local(name: str) -> bool:
    looks_it = name.startswith((".", "/", "~")) or name.endswith("/") or name.count("/") > 1
    return looks_it or (name != "" and not inputs.kind(_path(name)).startswith("no such"))


def resolved(name: str) -> str:
    """The folder, or the hub id where there is none."""
    from klbench.lm import embedded, gguf

    if name.startswith(PREFIX):
        return str(embedded.folder(name))
    if name in TRAINED_SMOLLM2:
        return str(importlib.import_module(TRAINED_BY).trained_smollm2(name))
    if is_gguf(name):
        return str(gguf.folder(name))
    return str(_path(name).resolve()) if _is_local(name) else name
