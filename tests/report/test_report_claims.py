"""The page of claims: counts, verdicts in words and colour, one card a claim."""

import pandas as pd
from opening import plain, said

from klbench.report import combine, render
from klbench.studies.claims.columns import CLAIMS
from klbench.studies.claims.section import build, lead


def content(*rows):
    known = rows or (
        ("a", "holds", "values"),
        ("b", "fails", "gradients"),
        ("c", "holds only when q < p", "values"),
        ("d", "holds", "values"),
    )
    claims, verdicts, topics = map(list, zip(*known, strict=True))
    statements = [f"Statement of {claim}." for claim in claims]
    tex = r"\mathbb{E}_q[r] = 1"
    return {
        "claims": CLAIMS.example(
            claim=claims, verdict=verdicts, topic=topics, statement=statements, tex=tex
        )
    }


def cards(tables) -> str:
    return plain(
        " ".join(
            str(text)
            for block in build(tables)
            for text in (getattr(block, "text", ""), *getattr(block, "items", ()))
        )
    )


def test_the_lead_counts_and_names_what_fails() -> None:
    opening = lead(content())
    assert said(opening).startswith(
        "Of 4 common statements, 2 hold, 1 fails and 1 holds only under a condition."
    )
    assert "“Statement of b.”" in said(opening)
    assert "Statement of a" not in said(opening)
    assert "values: 2 holds, 1 holds only under a condition" in opening.figure.panels[0].alt


def test_a_card_has_all_of_a_claim_and_what_fails_comes_first() -> None:
    tables = content(("a", "holds", "values"), ("b", "fails", "values"), ("x", "holds", "numbers"))
    text = cards(tables)
    assert "Statement of b. " in text
    assert "Fails text Said by: text. b" in text
    assert (
        text.index("Statement of b")
        < text.index("Statement of a")
        < text.index("numbers")
        < text.index("Statement of x")
    )


def test_the_page_escapes_what_is_in_the_table(make_run) -> None:
    hostile = CLAIMS.example(
        verdict="holds only when <b>x</b>",
        evidence="<script>alert(1)</script> 1",
        tex="",
        topic="values",
    )
    tables = {"claims": pd.concat([content()["claims"], hostile])}
    page = render(make_run(content=tables, experiment="claims", study="claims")).read_text(
        encoding="utf-8"
    )
    assert '<span class="verdict good">Holds</span>' in page
    assert 'aria-label="\\mathbb{E}_q[r] = 1"' in page
    assert "<script>alert(1)" not in page
    assert "<b>x</b>" not in page


def test_runs_that_agree_share_a_card_and_others_are_named(make_run, tmp_path) -> None:
    runs = [
        make_run(
            name,
            content=content(("a", "holds", "values"), ("b", verdict, "values")),
            config=f"seed: {name}\n",
            study="claims",
        )
        for name, verdict in (("1", "holds"), ("2", "fails"))
    ]
    page = combine(runs, tmp_path / "both.html").read_text(encoding="utf-8")
    assert page.count("<b>Statement of a.</b>") == 1
    assert page.count("<b>Statement of b.</b>") == 2
    assert "Run: seed=1." in page
    assert "Run: seed=2." in page
    assert "Of 2 common statements" in page
    assert "The runs differ about" in page


def test_nothing_checked(make_run) -> None:
    page = render(
        make_run(content={"claims": content()["claims"].head(0)}, study="claims")
    ).read_text(encoding="utf-8")
    assert "No claim was checked" in page
