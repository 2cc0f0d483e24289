"""The options of the command line that Hydra has an answer to.

The configuration, where it comes from, shell completion.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Never

from klbench import inputs
from klbench.engine import OPTIONS, app
from klbench.types import ConfigError


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Never:
        raise ConfigError(message)


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Split a command line into options and overrides.

    A folder of one's own becomes an override too.

    Raises
    ------
    ConfigError
        There is no such option, its value is wrong, or two of them exclude each other.
    """
    parser = _Parser(prog="klbench", add_help=False, allow_abbrev=False)
    parser.add_argument("--multirun", "-m", action="store_true")
    parser.add_argument("--cfg", "-c", choices=("job", "hydra", "all"))
    parser.add_argument("--package", "-p")
    parser.add_argument("--resolve", action="store_true")
    what = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
    parser.add_argument("--info", "-i", nargs="?", const="all", choices=what)
    parser.add_argument("--shell-completion", "-sc", action="store_true")
    parser.add_argument("--config-dir", "-cd")
    options, overrides = parser.parse_known_args(list(arguments))
    flags = [each for each in overrides if each.startswith("-")]
    if flags:
        known = ", ".join(each.split()[0] for each in OPTIONS)
        raise ConfigError(
            f"{flags[0]}: unknown option; there are --help, --version, -m, {known}, all else is"
            " key=value"
        )
    modes = [
        name for name in ("multirun", "cfg", "info", "shell_completion") if getattr(options, name)
    ]
    if len(modes) > 1:
        raise ConfigError(
            f"{' and '.join(f'--{name}'.replace('_', '-') for name in modes)}: one of them at a"
            " time"
        )
    if options.config_dir is not None:
        overrides.append(_search(options.config_dir, overrides))
    return options, overrides


def _search(folder: str, overrides: Sequence[str]) -> str:
    if (found := inputs.kind(folder)) != inputs.FOLDER:
        raise ConfigError(
            f"--config-dir {folder}: expected a folder with exp/NAME.yaml in it, found {found}"
        )
    if any(each.startswith("hydra.searchpath=") for each in overrides):
        raise ConfigError("--config-dir and hydra.searchpath=[...] are the same: give one of them")
    quoted = str(Path(folder).absolute()).replace("\\", "\\\\").replace("'", "\\'")
    return f"hydra.searchpath=['file://{quoted}']"


def show(options: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Print what is asked for; nothing is run.

    Raises
    ------
    ConfigError
        The configuration is wrong, or has no such part.
    """
    if options.shell_completion:
        with app.initialized() as hydra, inputs.refused("--shell-completion"):
            hydra.shell_completion("config", list(overrides))
        return
    normalized = app.normalized(overrides)
    if any(app.split(each)[0] == "exp" for each in normalized):
        app.check(normalized)
    with app.initialized() as hydra, inputs.refused("the configuration cannot be shown"):
        if options.info:
            with _logging_as_before():
                hydra.show_info(options.info, "config", normalized)
            return
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                hydra.show_cfg("config", normalized, options.cfg, options.package, options.resolve)
        except SystemExit:
            raise ConfigError(
                f"--package={options.package}: the configuration has no such part"
            ) from None


@contextlib.contextmanager
def _logging_as_before() -> Iterator[None]:
    """Undo what Hydra does to the root logger for the sake of its information, which it logs."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
