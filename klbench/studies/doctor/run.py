"""The run of the doctor's study: one diagnosis, as tables and as ``diagnosis.json``."""

from __future__ import annotations

import json

from klbench.context import Context
from klbench.doctor.api import doctor
from klbench.doctor.tables import tables
from klbench.runs import write_text
from klbench.schema import Tables
from klbench.studies.doctor.options import DoctorOptions
from klbench.study import Summary

FILE = "diagnosis.json"
"""The whole diagnosis in the run folder, as ``klbench doctor --json`` writes it."""


def run(options: DoctorOptions, context: Context) -> Tables:
    """Return the tables of the diagnosis."""
    found = doctor(list(options.path), options.map, text=options.text, trainer=options.trainer)
    if context.folder is not None:
        text = json.dumps(found.plain(), indent=2, ensure_ascii=False) + "\n"
        write_text(context.folder.path / FILE, text)
    return tables(found)


def summarize(results: Tables) -> list[Summary]:
    """Return the causes, and below them why it alarms and what to do."""
    said = results["said"].to_dict("records") if "said" in results else []
    notes = [str(row["sentence"]) for row in said if row["kind"] in ("alarm", "advice")]
    about = results["diagnosis"].to_dict("records")[0]
    title = f"{about['files']}, {about['rollouts']:,} rollouts, {about['tokens']:,} tokens"
    columns, cells = ("cause", ">score", "evidence"), ("{cause}", "{score:.2f}", "{evidence}")
    return [Summary.of(title, columns, cells, results["causes"], notes)]
