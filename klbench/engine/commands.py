"""The commands other than help and version: a run, a sweep, or a look at the configuration."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence

from klbench import processes, studies
from klbench.engine import DONE, INTERRUPTED, inspection
from klbench.engine.app import launch
from klbench.engine.execution import Run
from klbench.engine.progress import print_summary
from klbench.engine.sweep import sweep
from klbench.runs import RunFolder
from klbench.types import ConfigError, RunError


def perform(arguments: Sequence[str]) -> int:
    """Do what the arguments ask for, and return the exit code.

    Raises
    ------
    ConfigError
        They ask for what there is not.
    RunError
        The run failed.
    """
    options, overrides = inspection.parse(arguments)
    if options.cfg or options.info or options.shell_completion:
        inspection.show(options, overrides)
        return DONE
    group = processes.join()
    if options.multirun:
        if group.size > 1:
            raise ConfigError(
                f"-m: a sweep cannot be shared by {group.size} processes; start it by itself"
            )
        return sweep(overrides)
    return _run(overrides, group)


def _run(overrides: Sequence[str], group: processes.Group) -> int:
    result = launch(overrides, group)
    if result is None:
        return group.from_main(DONE)
    code = _show(result)
    if result.status == "done":  # else the others are elsewhere, or gone
        with contextlib.suppress(RunError):
            group.from_main(code)
    return code


def _show(result: Run) -> int:
    study = studies.get(RunFolder(result.path).info["study"])
    if study.summarize is not None and result.tables:
        print_summary(study.summarize(result.tables))
    if result.status == "interrupted":
        print(
            f"klbench: interrupted; continue with: python -m klbench resume={result.path}",
            file=sys.stderr,
        )
    report = result.path / "index.html"
    print(report if report.exists() else result.path)
    return INTERRUPTED if result.status == "interrupted" else DONE
