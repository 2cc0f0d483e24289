"""The provenance of a run: command, versions, machine, configuration."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from klbench.report.blocks import (
    Block,
    Bullets,
    Cell,
    Column,
    Definitions,
    Details,
    Paragraph,
    Preformatted,
    Table,
)
from klbench.report.numbers import count
from klbench.report.sources import Source


def status(sources: Sequence[Source]) -> list[Block]:
    """A warning for each run that did not come to its end."""
    said = {
        "running": "was still going when this page was made; its numbers are those of what was finished by then",
        "interrupted": "was interrupted; the numbers are those of what was finished",
        "failed": "failed; the numbers are those of what was finished",
    }
    blocks: list[Block] = []
    for source in sources:
        word = str(source.info.get("status", "of unknown status"))
        if word != "done":
            name = Markup(" <b>{}</b>").format(source.label) if source.label else ""
            text = Markup("The run{} {}.").format(name, said.get(word, f"is {word}, not done"))
            if word == "interrupted":
                text += Markup(
                    " Continue it with <code>python -m klbench resume={}</code>."
                ).format(source.path)
            blocks.append(Paragraph(text, "warning"))
    return blocks


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_shown(each)}" for key, each in value.items())
    return "not known" if value is None else str(value)


def _revision(git: Any) -> str:
    if not isinstance(git, Mapping):
        return "not known: not run from a checkout"
    changes = ", with changes that are not committed" if git.get("dirty") else ""
    return f"{git.get('revision', 'not known')}{changes}"


def _seconds(seconds: Any) -> str:
    if not isinstance(seconds, Mapping) or not seconds:
        return "not known"
    return ", ".join(f"{name} {float(value):.1f} s" for name, value in seconds.items())


def _facts(info: Mapping[str, Any]) -> list[tuple[str, Any]]:
    fixed = [
        ("command", Markup("<code>{}</code>").format(_shown(info.get("command")))),
        ("experiment", _shown(info.get("experiment"))),
        ("status", _shown(info.get("status"))),
        ("seed", _shown(info.get("seed"))),
        ("worker processes", _shown(info.get("workers"))),
        ("started", _shown(info.get("started"))),
        ("finished", _shown(info.get("finished"))),
        ("time taken", _seconds(info.get("seconds"))),
        ("versions", _shown(info.get("versions"))),
        ("machine", _shown(info.get("machine"))),
        ("git revision", _revision(info.get("git"))),
    ]
    return fixed + ([("error", _shown(info["error"]))] if info.get("error") else [])


def links(source: Source, page: Path) -> list[Markup]:
    """Return a relative link to each table of a run that is a file; those that are completed on reading are none."""
    result = []
    for name, table in source.tables.items():
        files = [source.path / "tables" / f"{name}.{kind}" for kind in ("csv", "parquet")]
        file = next((each for each in files if each.exists()), None)
        if file is None:
            continue
        href = quote(Path(os.path.relpath(file, page.parent)).as_posix())
        result.append(
            Markup('<a href="{}">tables/{}</a> ({})').format(
                href, file.name, count(len(table), "row")
            )
        )
    return result


def made(sources: Sequence[Source], page: Path) -> list[Block]:
    """Return the blocks with all that is needed to make the numbers again."""
    if len(sources) == 1:
        (source,) = sources
        return [
            Definitions(_facts(source.info)),
            Paragraph("All numbers are in the tables, each also as a Parquet file:"),
            Bullets(links(source, page)),
            Details(
                "The configuration, complete",
                [Preformatted(source.config or "config.yaml is missing")],
            ),
        ]
    blocks: list[Block] = [_runs(sources)]
    for source in sources:
        config = Preformatted(source.config or "config.yaml is missing")
        blocks.append(
            Details(
                source.label,
                [Definitions(_facts(source.info)), Bullets(links(source, page)), config],
            )
        )
    return blocks


def _runs(sources: Sequence[Source]) -> Table:
    columns = [
        Column("Run", "what sets it apart, or its folder"),
        Column("Experiment", "its name"),
        Column("Status", "done, or how it ended"),
        Column("Seed", "all random numbers come from it", numeric=True),
        Column("Revision", "of klbench, in git"),
        Column("Folder", "where it is"),
    ]
    rows = []
    for source in sources:
        git = source.info.get("git")
        revision = str(git.get("revision", ""))[:10] if isinstance(git, Mapping) else "not known"
        info = source.info
        rows.append(
            [
                Cell(text)
                for text in (
                    source.label,
                    _shown(info.get("experiment")),
                    _shown(info.get("status")),
                    _shown(info.get("seed")),
                    revision,
                    str(source.path),
                )
            ]
        )
    return Table("The runs", columns, rows)
