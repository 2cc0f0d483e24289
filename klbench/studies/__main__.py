"""``python -m klbench.studies`` prints the data dictionary: every table of every study, column by column, in Markdown."""

from __future__ import annotations

from collections.abc import Iterator

from klbench import studies
from klbench.schema import dictionary

TITLE = """\
# Tables

Each run writes its tables to `tables/NAME.parquet`, with a `.csv` beside it. Logarithms are natural, divergences are in nats,
`q` is the policy that samples and `p` the reference. This page is made from the declarations of the studies (`make tables`).
"""


def lines() -> Iterator[str]:
    """Yield the lines of the dictionary; studies that share their tables share a part."""
    yield from TITLE.splitlines()
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
        yield from dictionary(studies.get(names[0]).tables)


if __name__ == "__main__":
    print("\n".join(lines()).rstrip())
