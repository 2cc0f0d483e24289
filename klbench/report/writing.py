"""Puts the page together and writes it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from klbench import inputs
from klbench.context import Context
from klbench.report import provenance
from klbench.report.blocks import Block, Definitions, Details, Figure, Heading, Lead, Maker, Tables
from klbench.report.figures import as_file
from klbench.report.page import GENERATOR, Page, html
from klbench.report.sections import Part, part
from klbench.report.sources import Combined, Source
from klbench.report.terms import explained
from klbench.runs import RunFolder, write_text
from klbench.types import ConfigError
from klbench.workers import copied


def _parts(tables: Mapping[str, Tables]) -> list[Part]:
    """Return the parts of the page in its order."""
    parts = [part(study, each) for study, each in tables.items()]
    return sorted(
        parts,
        key=lambda each: (
            (each.section.order, each.section.title) if each.section else (1000, each.study)
        ),
    )


def answers(combined: Combined) -> list[dict[str, str]]:
    """Return study, question and answer of each part of the page that has one."""
    leads = [(each.study, each.lead) for each in _parts(combined.tables)]
    return [
        {
            "study": study,
            "question": lead.question,
            "answer": Markup(lead.verdict).striptags()
            if isinstance(lead.verdict, Markup)
            else lead.verdict,
        }
        for study, lead in leads
        if lead is not None
    ]


def _title(blocks: Sequence[Block], otherwise: str) -> str:
    """Return the question that the page answers, if it has one."""
    return next((each.question for each in blocks if isinstance(each, Lead)), otherwise)


def _list(maker: Maker) -> list[Block]:
    made = maker()
    return [made] if isinstance(made, Block) else [*(made or ())]


def _tried(maker: Maker) -> list[Block] | None:
    """Return what a maker makes, None where it fails."""
    try:
        return _list(maker)
    except Exception:  # noqa: BLE001  # it fails again where it is told
        return None


def made(planned: Iterable[Block | Maker], workers: int = 1) -> list[Block]:
    """Return the blocks in their order, those of the makers made on copies of this process where
    that pays.
    """
    parts = list(planned)
    makers = [(each,) for each in parts if not isinstance(each, Block)]
    tried = iter(list(Context(0, workers if copied() else 1).map(_tried, makers, short=True)))
    blocks = []
    for each in parts:
        if isinstance(each, Block):
            blocks.append(each)
        else:
            found = next(tried)
            blocks += _list(each) if found is None else found
    return blocks


def _blocks(
    sources: Sequence[Source], parts: Sequence[Part], page: Path, workers: int
) -> list[Block]:
    planned = [block for each in parts for block in each.opening()]
    planned += [block for each in parts for block in each.build()]
    blocks = [*provenance.status(sources), *made(planned, workers)]
    if rest := [block for each in parts for block in each.rest()]:
        blocks += [Heading("Other tables", 2, "other"), *rest]
    keys = [key for each in parts if each.shown and each.section for key in each.section.terms]
    if keys:
        blocks += [Heading("Terms", 2, "terms"), Definitions(explained(keys))]
    return [*blocks, Heading("How it was made", 2, "made"), *provenance.made(sources, page)]


def _figures(blocks: Sequence[Block]) -> Iterator[Figure]:
    for block in blocks:
        if isinstance(block, Figure):
            yield block
        elif isinstance(block, Details):
            yield from _figures(block.blocks)
        elif isinstance(block, Lead) and block.figure is not None:
            yield block.figure


def write_run(source: Source, workers: int) -> Path:
    """The figures and the page of one run, in its folder.

    Figures of an earlier rendering that are no more are removed.

    Raises
    ------
    ConfigError
        An entry of the folder leads out of it.
    """
    folder = RunFolder(source.path)
    folder.check_inside()
    if source.info.get("status") != "running":
        folder.drop_partials()
    out = source.path / "index.html"
    parts = _parts({source.study: source.tables})
    blocks = _blocks([source], parts, out, workers)
    written = set()
    for figure in _figures(blocks):
        file = source.path / "figures" / f"{figure.name}.svg"
        write_text(file, as_file(figure))
        written.add(file)
    for stale in set((source.path / "figures").glob("*.svg")) - written:
        stale.unlink()
    experiment = f"Experiment {source.info.get('experiment', 'unnamed')}"
    title = _title(blocks, experiment)
    subtitle = ", ".join(
        filter(None, (experiment if title != experiment else "", _when(source.info)))
    )
    write_text(out, html(Page(title, subtitle, blocks)))
    return out


def _when(info: Mapping[str, Any]) -> str:
    """``seed 0, finished 2026-11-23 05:00 UTC``, as far as it is known."""
    facts = [f"seed {info['seed']}"] if "seed" in info else []
    for word in ("finished", "started"):
        if info.get(word):
            zone = " UTC" if str(info[word]).endswith("+00:00") else ""
            facts.append(f"{word} {str(info[word])[:16].replace('T', ' ')}{zone}")
            break
    return ", ".join(facts)


def write_combined(combined: Combined, out: Path, workers: int) -> Path:
    """One page over several runs.

    Raises
    ------
    ConfigError
        ``out`` is a folder, or a file that klbench did not make.
    """
    check_own(out)
    names = list(
        dict.fromkeys(str(source.info.get("experiment", "run")) for source in combined.sources)
    )
    several = "runs" if len(combined.sources) > 1 else "run"
    runs = f"{', '.join(names)}: {len(combined.sources)} {several}"
    parts = _parts(combined.tables)
    blocks = _blocks(combined.sources, parts, out, workers)
    title = _title(blocks, runs)
    labels = [runs if title != runs else "", *(source.label for source in combined.sources)]
    write_text(out, html(Page(title, "; ".join(filter(None, labels)), blocks)))
    return out


def check_own(out: Path) -> None:
    """Refuse to write where a folder is, or a file that klbench did not make."""
    if not (found := inputs.kind(out)).startswith((inputs.FILE, "no such")):
        raise ConfigError(f"{out}: expected the path of a file to write, got {found}")
    if out.exists() and GENERATOR not in out.read_text(encoding="utf-8", errors="replace")[:2000]:
        raise ConfigError(
            f"{out}: exists already and was not made by klbench; name another file with --out"
        )
