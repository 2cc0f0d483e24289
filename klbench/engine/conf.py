"""A listing of ``conf/``."""

from __future__ import annotations

from klbench import inputs


def groups() -> list[str]:
    """The names of the folders of ``conf/`` from which an experiment's file chooses one file
    each, such as ``preset``.
    """
    return sorted(
        path.name for path in inputs.conf_folder().iterdir() if path.is_dir() and path.name != "exp"
    )


def experiments() -> dict[str, str]:
    """Return all experiments with one line each, from the third line of their files."""
    files = sorted((inputs.conf_folder() / "exp").glob("*.yaml"))
    return {
        path.stem: path.read_text(encoding="utf-8").splitlines()[2].lstrip("# ") for path in files
    }
