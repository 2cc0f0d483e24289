"""The page on speed: a plain reading of the timings."""

import pandas as pd
import pytest
from opening import said

from klbench.report import combine, render
from klbench.studies.throughput.columns import THROUGHPUT, ranked
from klbench.studies.throughput.section import lead

RATES = {"k1": 2e9, "k2": 1e9, "k3": 5e7, "slow": 1e7}


def timings(rates=RATES) -> pd.DataFrame:
    kinds = (
        ("numpy", "forward", "float64", 1.0),
        ("numpy", "forward", "float32", 2.0),
        ("torch", "forward", "float64", 0.9),
        ("torch", "forward", "float32", 0.45),
        ("torch", "forward and backward", "float64", 0.3),
    )
    rows = [
        THROUGHPUT.example(
            estimator=name,
            backend=backend,
            dtype=dtype,
            device="cpu",
            samples=65_536,
            repeats=9,
            terms_per_second=factor * rate,
            terms_per_second_q25=0.9 * factor * rate,
            terms_per_second_q75=1.1 * factor * rate,
            **{"pass": direction},
        )
        for name, rate in rates.items()
        for backend, direction, dtype, factor in kinds
    ]
    return ranked(pd.concat(rows, ignore_index=True))


def opening(table: pd.DataFrame) -> str:
    return said(lead({"throughput": table}))


def test_fastest_slowest_dtype_and_backward() -> None:
    text = opening(timings())
    assert text.startswith(
        "On NumPy in float64, k1 is the fastest with 2,000 million terms a second and slow the"
        " slowest, 200 times"
    )
    assert "On torch, float32 is 0.50 times as fast as float64." in text
    assert "take 3.0 times as long as forward alone" in text
    assert "quartiles within 20 % of each other" in text


def test_other_numbers_other_sentences() -> None:
    text = opening(timings(RATES | {"slow": 4e9}))
    assert "slow is the fastest with 4,000 million" in text
    assert "k3 the slowest, 80 times" in text


def test_places_are_among_the_same_library_direction_and_dtype() -> None:
    found = timings().set_index(["backend", "pass", "dtype", "estimator"])
    assert found["rank"].groupby(level=3).agg(list).to_dict() == {
        name: [place] * 5 for place, name in enumerate(RATES, start=1)
    }
    ratios = found["times_slower"].xs("k3", level="estimator")
    assert ratios.to_list() == pytest.approx([RATES["k1"] / RATES["k3"]] * 5)


def test_a_run_of_an_earlier_version_gets_its_places() -> None:
    old = timings().drop(columns=["rank", "times_slower"])
    pd.testing.assert_frame_equal(THROUGHPUT.migrated(old, 0), timings())


def test_one_estimator_is_not_compared_with_itself() -> None:
    text = opening(timings({"k1": 2e9}))
    assert "k1 computes 2,000 million terms a second" in text
    assert "slowest" not in text


def test_the_page(make_run) -> None:
    folder = make_run(
        content={"throughput": timings().assign(device="<b>GPU</b>")}, study="throughput"
    )
    page = render(folder).read_text(encoding="utf-8")
    assert "50.0 (45.0 to 55.0)" in page
    assert "<b>GPU</b>" not in page
    assert [path.name for path in (folder / "figures").glob("*.svg")] == ["throughput.svg"]


def test_two_runs_keep_their_numbers_apart(make_run, tmp_path) -> None:
    runs = [
        make_run(name, content={"throughput": timings({"k1": rate})}, study="throughput")
        for name, rate in (("a", 1e9), ("b", 3e9))
    ]
    page = combine(runs, tmp_path / "both.html").read_text(encoding="utf-8")
    assert "1,000 (900 to 1,100)" in page
    assert "3,000 (2,700 to 3,300)" in page


def test_nothing_timed(make_run) -> None:
    page = render(
        make_run(content={"throughput": timings().head(0)}, study="throughput")
    ).read_text(encoding="utf-8")
    assert "Nothing was timed" in page
