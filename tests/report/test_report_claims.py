"""The part on claims: counts, verdicts in words and colour, one card a claim."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from klbench.report import combine, render
from klbench.report.blocks import Block, Details
from klbench.studies.claims.section import answer, build, judged


def row(claim: str, verdict: str = "holds", **others: Any) -> dict[str, Any]:
    return {
        "claim": claim, "statement": f"Statement of {claim}.", "verdict": verdict, "evidence": f"It was 0.628 for {claim}.",
        "source": f"Source of {claim}", "tex": r"\mathbb{E}_q[r] = 1", "topic": "values", "value": 0.628, "bound": 1.0,
    } | others  # fmt: skip


def content(*rows: dict[str, Any]) -> dict[str, pd.DataFrame]:
    known = (row("a"), row("b", "fails", topic="gradients"), row("c", "holds only when q < p"), row("d"))
    return {"claims": pd.DataFrame(rows or known)}


def plain(blocks: list[Block]) -> str:
    texts = []
    for block in blocks:
        if isinstance(block, Details):
            texts += [str(block.summary), plain(list(block.blocks))]
        else:
            texts += [str(text) for text in ([block.text] if hasattr(block, "text") else block.items)]
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", " ".join(texts))))


def test_the_lead_counts() -> None:
    text = plain(list(answer(content())))
    assert "Of 4 things that are said about KL estimators in RLHF, 2 hold, 1 fails and 1 holds only under a condition." in text
    assert "Fails : Statement of b." in text
    assert "Statement of c. Holds only when q < p ." in text
    assert "Statement of a" not in text


def test_one_claim_is_one() -> None:
    text = plain(list(answer(content(row("a")))))
    assert text == "Of 1 thing that is said about KL estimators in RLHF, 1 holds."


def test_a_card_has_all_of_a_claim() -> None:
    text = plain(list(build(content())))
    assert "Statement of c. Holds only when q < p It was 0.628 for c. Said by: Source of c. c" in text
    assert text.index("What the estimators estimate") < text.index("Statement of d") < text.index("What they do as a loss")


def test_a_verdict_has_its_tone() -> None:
    assert [each.tone for each in judged(content()["claims"])] == ["good", "bad", "mixed", "good"]


def test_an_unknown_topic_comes_last_under_its_name() -> None:
    text = plain(list(build(content(row("x", topic="numbers"), row("a")))))
    assert text.index("Statement of a") < text.index("numbers") < text.index("Statement of x")


def test_the_page(make_run: Callable[..., Path]) -> None:
    hostile = row("e", "holds only when <b>x</b>", evidence="<script>alert(1)</script> 1", tex="")
    page = render(make_run(content=content(row("a"), hostile), experiment="claims")).read_text(encoding="utf-8")
    assert "What is said, and what holds</h2>" in page
    assert '<span class="verdict good">Holds</span>' in page
    assert 'aria-label="\\mathbb{E}_q[r] = 1"' in page
    assert "<script>alert(1)" not in page
    assert "<b>x</b>" not in page


def test_runs_that_agree_share_a_card_and_others_are_named(make_run: Callable[..., Path], tmp_path: Path) -> None:
    runs = [
        make_run(name, content=content(row("a"), row("b", verdict)), config=f"seed: {name}\n", experiment="claims")
        for name, verdict in (("1", "holds"), ("2", "fails"))
    ]
    page = combine(runs, tmp_path / "both.html").read_text(encoding="utf-8")
    assert page.count("<b>Statement of a.</b>") == 1
    assert page.count("<b>Statement of b.</b>") == 2
    assert "Run: seed=1." in page
    assert "Run: seed=2." in page
    assert "Of 2 things" in page
    assert "The runs differ about b:" in page


def test_nothing_checked(make_run: Callable[..., Path]) -> None:
    empty = {"claims": content()["claims"].head(0)}
    page = render(make_run(content=empty, experiment="claims")).read_text(encoding="utf-8")
    assert "No claim was checked" in page
