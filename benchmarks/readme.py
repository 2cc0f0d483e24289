"""README's table of trainers, and the data dictionary, made again from what they are about: ``make tables``."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from klbench import gradients, schema, studies, trainers
from klbench.trainers import Spelling

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DICTIONARY = ROOT / "docs" / "tables.md"
PUBLISHED = ROOT / "reports" / "published" / "gradient" / "tables" / "gradients.csv"
NEAR, FAR = (
    f"Sequences gru, 6 tokens, horizon 4, 8 prompts, KL={kl}, seed 0" for kl in ("0.05", "2")
)
HEAD = ("| you have | it is | on sequences its mean is |", "|---|---|---|")


def measured(combination: str) -> str:
    """What the published run found its mean gradient to be, near the reference and far from it."""
    with PUBLISHED.open(encoding="utf-8", newline="") as file:
        rows = {
            row["pair"]: row for row in csv.DictReader(file) if row["combination"] == combination
        }
    near, far = rows[NEAR], rows[FAR]
    if near["matches"] == far["matches"] != "none":
        return "0" if near["matches"] == "0" else f"the gradient of {near['matches']}"
    said = gradients.get(combination).called_unbiased_by
    off = f"{100 * float(near['rel_bias']):.0f} % and {100 * float(far['rel_bias']):.0f} % off"
    return f"{off}, though {said} calls it unbiased" if said else off


def options(spelling: Spelling) -> str:
    """What to set, the first of the values that mean the same; since or until when it was the default; what is cut off."""
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
    """The README with the table as it should be."""
    before, head, rest = text.partition("\n".join(HEAD) + "\n")
    if not head:
        raise ValueError(f"the README has no table that begins with {HEAD[0]}")
    return before + "\n".join(table()) + rest[rest.index("\n\n") :]


TABLES_TITLE = """\
# Tables

Each run writes its tables to `tables/NAME.parquet`, with a `.csv` beside it. Logarithms are natural, divergences are in nats,
`q` is the policy that samples and `p` the reference. This page is made from the declarations of the studies (`make tables`).
"""


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
        yield from schema.dictionary(studies.get(names[0]).tables)


if __name__ == "__main__":
    README.write_text(replaced(README.read_text(encoding="utf-8")), encoding="utf-8")
    DICTIONARY.write_text("\n".join(dictionary()) + "\n", encoding="utf-8")
