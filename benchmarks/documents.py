"""Pages of ``docs/`` that are made from data: the table of trainers, tables, footguns.

``make tables``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from jinja2 import Environment, StrictUndefined

from klbench import gradients, studies, trainers
from klbench.schema import Schema
from klbench.trainers import Spelling

ROOT = Path(__file__).parents[1]
TRAINERS, DICTIONARY, FOOTGUNS = (
    ROOT / "docs" / name for name in ("trainer.md", "tables.md", "footguns.md")
)
PUBLISHED = ROOT / "reports" / "published"
NEAR, FAR = (
    f"Sequences gru, 6 tokens, horizon 4, 8 prompts, KL={kl}, seed 0" for kl in ("0.05", "2")
)
HEAD = ("| you have | it is | on sequences its mean is |", "|---|---|---|")


@cache
def published(finding: str, table: str) -> list[dict[str, Any]]:
    """Return the rows of a published finding's table."""
    path = PUBLISHED / finding / "tables" / f"{table}.parquet"
    return pq.read_table(path).to_pylist()


def gradient(combination: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the published rows of a combination: near the reference, and far from it."""
    rows = {
        row["pair"]: row
        for row in published("gradient", "gradients")
        if row["combination"] == combination
    }
    return rows[NEAR], rows[FAR]


def off(combination: str) -> str:
    """Return how far the mean gradient is from that of KL(q‖p), near the reference and far from
    it.
    """
    near, far = (f"{100 * float(row['rel_bias']):.0f} %" for row in gradient(combination))
    return f"{near} and {far} off"


def measured(combination: str) -> str:
    """Return what the mean gradient is, near the reference and far from it."""
    near, far = gradient(combination)
    if near["matches"] == far["matches"] != "none":
        return "0" if near["matches"] == "0" else f"the gradient of {near['matches']}"
    said = gradients.get(combination).called_unbiased_by
    return f"{off(combination)}, though {said} calls it unbiased" if said else off(combination)


def options(spelling: Spelling) -> str:
    """What to set, the first of the values that mean the same.

    Since or until when it was the default; what is cut off.
    """
    trainer, found = trainers.get(spelling.meaning.trainer), spelling.meaning
    words = spelling.words.partition(" ")[2]
    text = f" `{words}`" if words else ""
    for option in trainer.options:
        for bound, value in option.before:
            text += (
                f" (the default before {bound})"
                if found.options[option.path] == value
                else f" (by default since {bound})"
            )
    named, combination = (gradients.get(name) for name in (found.named, found.combination))
    return f"{text} ({found.clamp})" if named.estimator != combination.estimator else text


def table() -> Iterator[str]:
    """Yield the lines: a row for each combination with a name that some trainer computes.

    Averages that are no default are those of trainers whose functions are run beside the rows.
    """
    titles: dict[tuple[str, str], list[str]] = {}
    defaults = list(trainers.spellings())
    for spelling in trainers.spellings(averages=True):
        named, trainer = spelling.meaning.named, trainers.get(spelling.meaning.trainer)
        if named not in ("", trainers.NONE) and (trainer.package or spelling in defaults):
            found = titles.setdefault((named, options(spelling)), [])
            found += [] if trainer.title in found else [trainer.title]
    yield from HEAD
    for name in gradients.names():
        said = [", ".join(who) + text for (named, text), who in titles.items() if named == name]
        if said:
            yield f"| {'; '.join(said)} | `{name}` | {measured(name)} |"


def replaced(text: str) -> str:
    """Return the page of trainers with the table as it should be."""
    before, head, rest = text.partition("\n".join(HEAD) + "\n")
    if not head:
        raise ValueError(f"there is no table that begins with {HEAD[0]}")
    return before + "\n".join(table()) + rest[rest.index("\n\n") :]


TABLES_TITLE = """\
# Tables

Each run writes its tables to `tables/NAME.parquet`, with a `.csv` beside it. Logarithms are
natural, divergences are in nats, `q` is the policy that samples and `p` the reference. This page is
made from the declarations of the studies (`make tables`).
"""


def described(schemas: Sequence[Schema]) -> Iterator[str]:
    """Yield the data dictionary of tables, as lines of Markdown."""
    for schema in schemas:
        yield ""
        yield f"### `{schema.table}`"
        yield ""
        yield schema.meaning + (" Only some runs have it." if schema.optional else "")
        yield ""
        yield "| column | type | unit | meaning |"
        yield "|---|---|---|---|"
        for column in schema.columns:
            meaning = (
                f"{column.meaning}{' (only in some runs)' if column.optional else ''}".replace(
                    "|", "\\|"
                )
            )
            yield f"| `{column.name}` | {column.type} | {column.unit} | {meaning} |"


def dictionary() -> Iterator[str]:
    """Yield the lines of the dictionary; studies that share their tables share a part."""
    yield from TABLES_TITLE.splitlines()
    found: dict[int, list[str]] = {}
    for name in studies.names():
        if studies.get(name).tables:
            found.setdefault(id(studies.get(name).tables), []).append(name)
    for names in found.values():
        yield ""
        yield f"## {', '.join(names)}"
        yield ""
        said = "; ".join(studies.get(name).summary for name in names)
        yield f"{said[:1].upper()}{said[1:]}."
        yield from described(studies.get(names[0]).tables)


def evidence(claim: str) -> str:
    """Return what is said in a claim, whether it holds, and what was found."""
    row = {row["claim"]: row for row in published("claims", "claims")}[claim]
    verdict = row["verdict"][:1].upper() + row["verdict"][1:]
    return f"Said: *{row['statement']}* {verdict}. {row['evidence']}"


def lost(subject: str, library: str) -> str:
    """Return the median relative error of a library's float32 value where q is all but p."""
    (row,) = (
        row
        for row in published("peers", "peers")
        if (row["subject"], row["library"]) == (subject, library)
        and (row["dtype"], row["regime"]) == ("float32", "near")
    )
    return f"{100 * float(row['median_rel_error']):.2g} %"


def footguns() -> str:
    """Return the page of footguns, with the numbers of the published findings."""
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True)
    template = environment.from_string(
        Path(__file__).with_name("footguns.md.j2").read_text(encoding="utf-8")
    )
    return template.render(evidence=evidence, off=off, lost=lost)


if __name__ == "__main__":
    TRAINERS.write_text(replaced(TRAINERS.read_text(encoding="utf-8")), encoding="utf-8")
    DICTIONARY.write_text("\n".join(dictionary()) + "\n", encoding="utf-8")
    FOOTGUNS.write_text(footguns(), encoding="utf-8")
