"""What a run was made with: versions, machine, revision."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

__version__ = "0.1.0"
PACKAGES = (
    "numpy",
    "numba",
    "scipy",
    "torch",
    "pandas",
    "pyarrow",
    "hydra-core",
    "joblib",
    "matplotlib",
    "seaborn",
    "arviz-stats",
    "transformers",
    "tokenizers",
    "peft",
)


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _git() -> dict[str, Any] | None:
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    try:
        revision = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, timeout=10, check=True
        )
        changed = subprocess.run(
            ["git", "status", "--porcelain"], cwd=root, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return {"revision": revision.stdout.strip(), "dirty": bool(changed.stdout.strip())}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def describe() -> dict[str, Any]:
    """Versions of what computes, the machine, and the revision where there is one."""
    found = {name: _version(name) for name in PACKAGES}
    versions = {"klbench": __version__, "python": platform.python_version()} | {k: v for k, v in found.items() if v is not None}
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30 if hasattr(os, "sysconf") else None
    machine = {"system": platform.platform(), "cpu": _cpu(), "cores": os.cpu_count(), "memory_gib": memory and round(memory, 1)}
    return {"versions": versions, "machine": machine, "git": _git()}
