"""The text of ``klbench --help``, kept beside compiled modules from one call to the next.

To make it imports every estimator, pair, combination and claim.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.metadata
import os
import sys
from pathlib import Path

from klbench import inputs

PLACE = Path(__file__).parent / "__pycache__" / "help.txt"


def help_text(place: Path = PLACE) -> str:
    """Return the text, of ``place`` where no file of klbench has changed since."""
    package = Path(__file__).parent.parent
    now, added = stamp(package, inputs.conf_folder()), _added()
    with contextlib.suppress(OSError, ValueError):
        then, _, text = place.read_text(encoding="utf-8").partition("\n")
        if then == now and not added:
            return text
    made: str = importlib.import_module("klbench.engine.help").text()
    if not sys.dont_write_bytecode and not added:
        partial = place.with_name(f"{place.name}.{os.getpid()}")
        with contextlib.suppress(OSError):
            partial.write_text(f"{now}\n{made}", encoding="utf-8")
            partial.replace(place)
    return made


def stamp(*folders: Path) -> str:
    """Return what changes with any file of these folders, Python's own left out."""
    found = hashlib.sha256()
    for folder in folders:
        for place, inner, files in os.walk(folder):
            inner[:] = sorted(set(inner) - {"__pycache__"})
            for file in sorted(files):
                about = Path(place, file).stat()
                found.update(f"{place}/{file} {about.st_mtime_ns} {about.st_size}\n".encode())
    return found.hexdigest()


def _added() -> bool:
    """Return whether others may have added to klbench, whose files are not looked at.

    Plugins, or code of this process that has loaded what additions are made of.
    """
    groups = importlib.metadata.entry_points().groups
    return "klbench.types" in sys.modules or any(each.startswith("klbench.") for each in groups)
