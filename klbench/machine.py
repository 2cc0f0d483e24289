"""The provenance of a run: versions, machine, revision."""

from __future__ import annotations

import importlib.metadata
import math
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

__version__ = "0.2.0"
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
    "transformers",
    "tokenizers",
    "peft",
)


def _said(file: str) -> dict[str, str]:
    """Return the first entries of a file in which Linux describes itself; empty elsewhere."""
    info = Path(file)
    first = info.read_text().partition("\n\n")[0] if info.exists() else ""
    return {
        key.strip(): value.strip()
        for key, _, value in (line.partition(":") for line in first.splitlines())
    }


def _cpuinfo() -> dict[str, str]:
    """Return what is known of the first processor."""
    return _said("/proc/cpuinfo")


def peak_memory() -> float:
    """Return the most memory that this process has held, in MiB.

    NaN where the system does not say. ``getrusage`` would count what whoever started it held then.
    """
    if most := _said("/proc/self/status").get("VmHWM"):
        return float(most.removesuffix(" kB")) / 2**10
    try:
        import resource
    except ImportError:
        return math.nan
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def _cpu() -> str:
    return _cpuinfo().get("model name") or platform.processor() or platform.machine()


def kind() -> str:
    """The class of this machine, such as ``Linux x86_64, AMD EPYC, family 26 model 2, AVX-512``.

    On one kind, with the same versions, the same numbers have the same bits: they depend on which
    of their loops NumPy, torch and the compilers choose, and these choose by the processor's
    generation and its vector instructions.
    """
    info = _cpuinfo()
    flags = set(info.get("flags", info.get("Features", "")).split())
    parts = [f"{platform.system()} {platform.machine()}", _cpu()]
    if "cpu family" in info:
        parts.append(f"family {info['cpu family']} model {info.get('model', '?')}")
    known = (("avx512f", "AVX-512"), ("avx2", "AVX2"), ("sve", "SVE"), ("asimd", "NEON"))
    parts += [name for flag, name in known if flag in flags][:1]
    return ", ".join(parts)


def _git() -> dict[str, Any] | None:
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    asked = {
        "revision": ["rev-parse", "HEAD"],
        "committed": ["show", "-s", "--format=%cI", "HEAD"],
        "dirty": ["status", "--porcelain"],
    }
    settings: dict[str, Any] = {"cwd": root, "capture_output": True, "text": True}
    try:
        said = {
            key: subprocess.run(["git", *words], timeout=10, check=True, **settings).stdout.strip()
            for key, words in asked.items()
        }
    except (OSError, subprocess.SubprocessError):
        return None
    return said | {"dirty": bool(said["dirty"])}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def describe() -> dict[str, Any]:
    """Versions of what computes, the machine, and the revision where there is one."""
    found = {name: _version(name) for name in PACKAGES}
    versions = {"klbench": __version__, "python": platform.python_version()} | {
        k: v for k, v in found.items() if v is not None
    }
    memory = (
        os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
        if hasattr(os, "sysconf")
        else None
    )
    machine = {
        "system": platform.platform(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_gib": memory and round(memory, 1),
    }
    return {"versions": versions, "machine": machine, "git": _git()}
