"""The conformance matrix of trainers, from their wheels: ``make trainers VERSIONS="trl==1.16.0"``.

Each release is installed alone, without what it needs, in a folder of ``.trainers/``; its KL
functions and losses are audited in a process that sees that folder first, imported or taken from
its files by the syntax tree; and ``+exp=trainers`` is run on what was found.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from klbench import schema, trainers
from klbench.audit import field, isolated
from klbench.studies.audit.folder import tables
from klbench.studies.trainers.columns import DEFAULTS
from klbench.trainers.defaults import UNSET, defaults

ROOT = Path(__file__).resolve().parents[1]
WHEELS, AUDITED = ".trainers", "audited"
RELEASE = re.compile(r"([a-z][a-z0-9-]*)==([0-9][0-9a-z.]*)")
ABOUT_KL = re.compile(r"(^|[._])kl|bias_correction")
"""Options that are kept though klbench has no row for them: those that say they are of a KL."""


def libraries() -> list[str]:
    """Return the distributions whose options klbench knows and whose functions it audits."""
    audited = {place.library for place in field.places()}
    known = (each.package for each in trainers.TRAINERS if each.package in audited)
    return list(dict.fromkeys(known))


def installed(library: str, version: str) -> Path:
    """Return the folder that has that release alone; pip gets it where it is not there yet."""
    folder = ROOT / WHEELS / f"{library}-{version}"
    if not any(folder.glob("*.dist-info")):
        pip = "-m pip install --quiet --disable-pip-version-check --no-deps --target".split()
        subprocess.run([sys.executable, *pip, folder, f"{library}=={version}"], check=True)
    return folder


def option_defaults(library: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of the options' defaults that a library has here."""
    version = next(each.version for each in field.places() if each.library == library)
    rest = True
    for trainer in (each for each in trainers.TRAINERS if each.package == library):
        known = {each.path for each in trainer.options}
        for option, default in defaults(trainer.name).items():
            if option in known or (rest and ABOUT_KL.search(option)):
                yield {
                    "library": library,
                    "version": version,
                    "trainer": trainer.name,
                    "option": option,
                    "default": "" if default is UNSET else json.dumps(default, default=str),
                }
        rest = False


def audit(library: str, out: Path) -> None:
    """Audit what of a library has a KL, and write the tables and the options' defaults."""
    places = [
        each
        for each in field.places()
        if each.library == library and (each.used_as != "loss" or "loss_type" in each.options)
    ]
    requests = [(place.target, place.audited()) for place in places]
    records = []
    for place, found in zip(places, isolated.several(requests, loader=field.load), strict=True):
        made = found if isinstance(found, isolated.Found) else None
        records.append(isolated.Record(place.target, made, "" if made else str(found), place))
    options = pd.DataFrame([*option_defaults(library)])
    schema.check((DEFAULTS,), {DEFAULTS.table: options})
    out.mkdir(parents=True, exist_ok=True)
    for name, table in (tables(records) | {DEFAULTS.table: options}).items():
        table.to_parquet(out / f"{name}.parquet", index=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; gives back the exit code."""
    parser = argparse.ArgumentParser(description="Make the conformance matrix from wheels.")
    parser.add_argument("--out", help="the new run folder")
    parser.add_argument("--audit", metavar="DIR", help=argparse.SUPPRESS)  # in a process of its own
    parser.add_argument("releases", nargs="+", metavar="NAME==VERSION")
    given = parser.parse_args(arguments)
    if given.audit:
        audit(given.releases[0], Path(given.audit))
        return 0
    folders = []
    for release in given.releases:
        match = RELEASE.fullmatch(release)
        if not match or match[1] not in libraries():
            parser.error(f"{release}: expected NAME==VERSION of {', '.join(libraries())}")
        folder = installed(*match.groups())
        print(f"{release}: audited", file=sys.stderr, flush=True)
        out = folder / AUDITED
        subprocess.run(
            [sys.executable, __file__, "--audit", out, match[1]],
            env=os.environ | {"PYTHONPATH": os.pathsep.join((str(folder), str(ROOT)))},
            check=True,
        )
        folders.append(out.relative_to(ROOT).as_posix())
    words = ["+exp=trainers", f"audits=[{','.join(folders)}]"]
    words += [f"out={given.out}"] if given.out else []
    return subprocess.run(
        [sys.executable, "-m", "klbench", *words], cwd=ROOT, check=False
    ).returncode


if __name__ == "__main__":
    sys.exit(main())
