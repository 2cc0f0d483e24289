"""The work behind the verb ``doctor``: a diagnosis on the terminal, or a run with a page."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from klbench import inputs
from klbench.doctor.api import doctor
from klbench.doctor.screen import lines
from klbench.engine.app import run as run_experiment
from klbench.studies.doctor.run import FILE


def found(options: argparse.Namespace, columns: Mapping[str, str]) -> dict[str, Any]:
    """Return the diagnosis as plain data, once it is printed; with ``--out``, by a run."""
    if options.out is None:
        diagnosis = doctor(options.files, columns, text=options.text, trainer=options.trainer)
        print(diagnosis)
        return diagnosis.plain()
    paths = ",".join(map(_quoted, options.files))
    roles = ",".join(f"{role}:{_quoted(name)}" for role, name in columns.items())
    overrides = [
        f"path=[{paths}]",
        f"text={str(options.text).lower()}",
        f"out={_quoted(options.out)}",
    ]
    overrides += [f"map={{{roles}}}"] * bool(roles)
    overrides += [f"trainer={_quoted(options.trainer)}"] * bool(options.trainer)
    run = run_experiment("doctor", *overrides)
    if run.status != "done":
        raise KeyboardInterrupt
    result: dict[str, Any] = inputs.read_json(run.path / FILE)
    print("\n".join(lines(result)))
    print(run.path / "index.html")
    return result


def _quoted(text: str) -> str:
    """Return a text as a value of the command line takes it, whatever is in it."""
    return "'" + text.replace("'", "\\'") + "'"
