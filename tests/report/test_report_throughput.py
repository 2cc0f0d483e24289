"""The part on speed: a plain reading of the timings."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from klbench.report import combine, render
from klbench.studies.throughput.section_answer import answer
from klbench.studies.throughput.section_data import load

RATES = {"k1": 2e9, "k2": 1e9, "k3": 5e7, "slow": 1e7}


def timings(rates: dict[str, float] | None = None) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    for name, rate in (rates or RATES).items():
        for backend, direction, dtype, factor in (
            ("numpy", "forward", "float64", 1.0),
            ("numpy", "forward", "float32", 0.5 if name == "k3" else 2.0),
            ("torch", "forward", "float64", 0.9),
            ("torch", "forward and backward", "float64", 0.3),
        ):
            rows.append(
                {
                    "estimator": name, "backend": backend, "pass": direction, "dtype": dtype, "device": "cpu",
                    "samples": 65_536, "terms_per_second": factor * rate, "terms_per_second_q25": 0.9 * factor * rate,
                    "terms_per_second_q75": 1.1 * factor * rate, "repeats": 9,
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


def said(table: pd.DataFrame) -> str:
    blocks = answer(load({"throughput": table}))
    texts = [str(text) for block in blocks for text in ([block.text] if hasattr(block, "text") else block.items)]
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", " ".join(texts))))


def test_fastest_slowest_dtype_and_backward() -> None:
    text = said(timings())
    assert "NumPy, float64: k1 is fastest with 2,000 million terms a second, slow slowest with 10.0 million: 200 times" in text
    assert "6.6 ms for 65,536 terms" in text
    assert "In between: k2 1,000, k3 50.0" in text
    assert "float32 in place of float64, on NumPy: 0.50 times as fast ( k3 ) to 2.0 times" in text
    assert "1 of 4 are slower" in text
    assert "together with it, a pass takes 3.0 times as long as forward alone" in text
    assert "20 % apart for the worst" in text
    assert "of one machine under the load that it had" in text


def test_other_numbers_other_sentences() -> None:
    text = said(timings(RATES | {"slow": 4e9}))
    assert "slow is fastest with 4,000 million" in text
    assert "k3 slowest with 50.0 million" in text


def test_one_estimator_is_not_compared_with_itself() -> None:
    text = said(timings({"k1": 2e9}))
    assert "k1 computes 2,000 million terms a second" in text
    assert "slowest" not in text


def test_the_page(make_run: Callable[..., Path]) -> None:
    folder = make_run(content={"throughput": timings().assign(device="<b>GPU</b>")}, experiment="throughput")
    page = render(folder).read_text(encoding="utf-8")
    assert "50.0 (45.0 to 55.0)" in page
    assert "<b>GPU</b>" not in page
    assert [path.name for path in (folder / "figures").glob("*.svg")] == ["throughput.svg"]


def test_two_runs_keep_their_numbers_apart(make_run: Callable[..., Path], tmp_path: Path) -> None:
    runs = [make_run(name, content={"throughput": timings({"k1": rate})}) for name, rate in (("a", 1e9), ("b", 3e9))]
    page = combine(runs, tmp_path / "both.html").read_text(encoding="utf-8")
    assert "These runs timed 1 estimator" in page
    assert "1,000 million" in page
    assert "3,000 million" in page


def test_nothing_timed(make_run: Callable[..., Path]) -> None:
    page = render(make_run(content={"throughput": timings().head(0)})).read_text(encoding="utf-8")
    assert "Nothing was timed" in page
