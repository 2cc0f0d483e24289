"""The page of the study of completions: what it says, and that all it is given is shown as text."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from report_runs import write

from klbench.context import Context
from klbench.pairs.recorded import RecordedPair
from klbench.pairs.sequence import SequencePair
from klbench.report import render
from klbench.report.blocks import Paragraph
from klbench.report.sections import discover
from klbench.studies import get
from klbench.studies.lm import section as lm_section
from klbench.studies.lm import section_advice, section_cost, section_data
from klbench.studies.lm.run import LmOptions
from klbench.studies.lm.section_data import Data, known, load, percent_of, visible
from klbench.types import Capabilities, Completions, Truncated

SMALL: dict[str, Any] = {"vocabulary": 3, "horizon": 5, "prompts": 2}


class Model(SequencePair):
    """A small policy that can do what language models can."""

    capabilities = Capabilities(completions=True, rescored=True, truncated=True, in_process=True)

    def rescored(self, completions: Completions, dtype: str) -> Completions:
        off = np.where(completions.mask, 0.02 * np.sign(completions.log_q + 1.0), 0.0)
        return Completions(**{**vars(completions), "log_q": completions.log_q - off})

    def truncated(self, completions: Completions, k: int) -> Truncated:
        assert completions.kl_qp is not None
        return Truncated(k, completions.kl_qp * k / (1.0 + k), completions.kl_qp / (1.0 + k))

    @property
    def chosen_kernel(self) -> str:
        return "abacus"

    def decode(self, ids: list[int]) -> list[str]:
        return ["<script>alert(1)</script>", " a", "\n", "\x00\u202eb"][: max(ids) + 1] if len(ids) > 3 else ["?"] * len(ids)


@cache
def tables(kind: str = "models") -> dict[str, pd.DataFrame]:
    pairs: tuple[SequencePair, ...]
    if kind == "models":
        pairs = (
            Model(**SMALL, kl=0.3, label="near ‖ <b>ref</b>"),
            Model(**SMALL, kl=1.5, lag=0.1, label="far ‖ <b>ref</b>, T=2"),
        )
    else:
        pairs = (SequencePair(**SMALL, kl=0.3),)
    options = LmOptions(pairs=pairs, samples=2_000, shard=1_000, rescored=500)
    return dict(get("lm").run(options, Context(0)))


def text(blocks: Any) -> str:
    """All that the top of the page says."""
    items = [item for block in blocks for item in (getattr(block, "items", None) or [block.text])]
    return re.sub(r"\s+", " ", re.sub("<[^>]*>", " ", " ".join(str(item) for item in items)))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    return render(write(tmp_path_factory.mktemp("tokens") / "run", tables())).read_text(encoding="utf-8")


def test_the_kernel_that_scored_is_said_where_there_was_one(page: str) -> None:
    assert not tables("exact")["throughput"]["kernel"].any()
    assert {*tables()["throughput"].query("stage == 'completions'")["kernel"]} == {""}
    timed = tables()["throughput"].assign(stage="scoring", kernel="abacus")
    shown = [str(block) for block in section_cost.cost(load(tables() | {"throughput": timed}))]
    assert any("Kernel" in each and "abacus" in each for each in shown)
    older = [str(block) for block in section_cost.cost(load(tables() | {"throughput": timed.drop(columns="kernel")}))]
    assert not any("Kernel" in each for each in older)


def test_the_section_is_chosen_and_the_one_of_the_value_study_is_not(page: str) -> None:
    assert "Token by token" in page
    assert "How wrong, how noisy" not in page
    assert "Other tables" not in page
    assert lm_section.SECTION in discover()
    assert page.count('id="tokens"') == 1


def test_what_the_top_says() -> None:
    said = text(lm_section.answer(tables()))
    data = load(tables())
    assert "4,000 completions of" in said
    assert "Here the exact value is enumerated over all sequences." in said
    for pair in data.pairs:
        best = min(
            (row for row in data.measured(pair) if row["estimator"] not in section_data.EXACT and row["status"] == "ok"),
            key=lambda row: row["rmse_100"],
        )
        assert re.search(rf"{data.labels[pair]} \(KL [^)]*\): {best['estimator']}", said)
    for words in ("of the whole sequence's log-ratio instead of the sum", "Where in a completion the KL arises",
                  "Samples of another distribution μ", "Only the most probable tokens", "(sd)",
                  "What a standard error of 1 % takes"):  # fmt: skip
        assert words in said.replace("\N{NO-BREAK SPACE}", " "), words
    assert "half has arisen by position" in said
    assert "1 token told apart: 50 % is missing" in said.replace("\N{NO-BREAK SPACE}", " ")


@pytest.mark.parametrize(("fewer", "words"), [
    ([2.0, 5.0], "2.0 to 5.0 times fewer completions than"), ([3.0], "3.0 times fewer"),
    ([0.5, 0.8], "1.2 to 2.0 times as many"),
    ([0.97, 4.0], "up to 4.0 times fewer completions than <code>k1</code>, and as many on the pair where it is worst"),
    ([0.5, 4.0], "up to 4.0 times fewer completions than <code>k1</code>, but 2.0 times as many on the pair where it is worst"),
])  # fmt: skip
def test_fewer_or_more_completions_than_k1(fewer: list[float], words: str) -> None:
    assert words in section_advice._than_k1(fewer)


def test_the_advice_is_that_of_the_table() -> None:
    found = {name: table.copy() for name, table in tables().items()}
    data = load(found)
    on_policy = [pair for pair in data.pairs if not data.off_policy(pair)]
    k1, exact = ([data.at(pair, name, "token")["std"] for pair in on_policy] for name in ("k1", "rao_blackwell"))
    ratios = [(a / b) ** 2 for a, b in zip(k1, exact, strict=True)]
    assert str(section_advice._than_k1(ratios)).replace("<code>", "").replace("</code>", "") in text(lm_section.answer(found))


def test_what_it_says_where_nobody_knows_the_truth() -> None:
    found = {name: table.copy() for name, table in tables("plain").items()}
    unknown = ["truth", "truth_error", "bias", "bias_se", "rel_bias", "rel_bias_se", "rel_std", "rmse", "rmse_100"]
    found["values"][unknown] = np.nan
    found["values"][["truth_method", "bias_method"]] = "unknown"
    found["tokens"][["kl_qp", "kl_qp_se", "kl_pq", "kl_pq_se"]] = np.nan
    said = text(lm_section.answer(found))
    assert "no column kl" in said
    assert "Nearest" not in said
    assert lm_section.build(found)


def test_completions_of_somebody_else_are_found_out() -> None:
    found = {name: table.copy() for name, table in tables("plain").items()}
    assert "were not sampled from the" not in text(lm_section.answer(found))
    k1 = (found["values"]["estimator"] == "k1") & (found["values"]["level"] == "token")
    found["values"].loc[k1, "bias"] = 9 * found["values"].loc[k1, "bias_se"]
    said = text(lm_section.answer(found))
    assert "were not sampled from the distribution" in said
    assert "9 standard errors" in said


def recorded(path: Path, log_ratio: Any, kl: float | None = None) -> dict[str, pd.DataFrame]:
    """Of 400 rollouts of 12 tokens, where ``log_ratio(stream, 12)`` is each token's log p/q."""
    stream, rows = np.random.default_rng(5), []
    for _ in range(400):
        log_q = -10.0 - stream.gamma(1.0, 1.0, 12)
        row = {"logprobs": log_q.tolist(), "ref_logprobs": (log_q + log_ratio(stream, 12)).tolist()}
        rows.append(row if kl is None else row | {"kl": stream.gamma(4.0, kl / 4.0, 12).tolist()})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    options = LmOptions(pairs=(RecordedPair(path=str(path)),))
    return {name: table for name, table in get("lm").run(options, Context(0)).items() if name != "cost"}


RECOMMENDS = ("times fewer completions", "times as many completions", "Nearest to the exact value", "take the exact KL")


def test_nothing_is_recommended_on_data_that_fail_their_own_check(tmp_path: Path) -> None:
    """k1 is 1.92 here and k3 0.16: they disagree by many standard errors, so that k3 has no support."""
    for kl in (None, 0.16):
        found = recorded(tmp_path / "r.jsonl", lambda stream, n: stream.normal(-0.16, 0.05, n), kl)
        said = text(lm_section.answer(found))
        assert "fail a check of their own, and nothing is recommended on them" in said
        assert re.search(r"mean of p/q: 0\.85\d* ± 0\.00\d+, \d+ standard errors off", said)
        assert not any(words in said for words in RECOMMENDS)


def test_what_passes_is_recommended_and_what_cannot_be_told_is_said(tmp_path: Path) -> None:
    said = text(lm_section.answer(recorded(tmp_path / "r.jsonl", lambda stream, n: stream.normal(-0.02, 0.2, n))))
    assert "k3 summed over tokens needs" in said
    assert "fail a check" not in said
    assert "cannot tell" not in said
    heavy = recorded(tmp_path / "s.jsonl", lambda stream, n: 0.8 * stream.standard_exponential(n) - 1.6, 0.8)
    said = text(lm_section.answer(heavy))
    assert "these completions cannot tell: Rollouts of s.jsonl" in said
    assert "k3 summed over tokens needs" not in said
    assert "take the exact KL" in said


def test_a_pair_whose_tail_is_too_heavy_is_left_out_of_how_many_completions_are_needed() -> None:
    """A row that is not to be trusted must not say what is worst: by its noise, k3 needs 100 times as many completions."""
    found = {name: table.copy() for name, table in tables().items()}
    near = load(found).pairs[0]
    k1, k3 = (
        found["values"][(found["values"]["pair"] == near) & (found["values"]["estimator"] == name)].assign(pair="other")
        for name in ("k1", "k3")
    )
    k3 = k3.assign(std=10.0 * float(k1["std"].iloc[0]), status="heavy tail")
    found["values"] = pd.concat([found["values"], k1, k3], ignore_index=True)
    found["tokens"] = pd.concat([found["tokens"], found["tokens"].head(1).assign(pair="other")], ignore_index=True)
    found["pairs"] = pd.concat([found["pairs"], found["pairs"].head(1).assign(pair="other")], ignore_index=True)
    said = text(section_advice.advice(load(found)))
    assert "on the pair where it is worst" not in said
    assert "k3 summed over tokens needs" in said
    assert "on the 1 of 2 pairs whose completions can tell" in said


def test_what_was_not_read_and_what_lies_above_0_is_said(tmp_path: Path) -> None:
    found = recorded(tmp_path / "r.jsonl", lambda stream, n: stream.normal(-0.02, 0.2, n))
    found["pairs"] = found["pairs"].assign(above_zero=12, unread="reward, <b>x</b>")
    notes = [block for block in lm_section.answer(found) if isinstance(block, Paragraph) and block.tone == "note"]
    (said,) = (str(block.text).replace("\N{NO-BREAK SPACE}", " ") for block in notes)
    assert "12 tokens have a log-probability above 0 (0.25 %), as rounding leaves them; they are taken as they are." in said
    assert "columns that are not read: reward, <b>x</b>." in said
    page = render(write(tmp_path / "run", found)).read_text(encoding="utf-8")
    assert "Ratios whose mean is 1" in page
    assert "columns that are not read: reward, &lt;b&gt;x&lt;/b&gt;" in page


def test_text_is_shown_as_text(page: str) -> None:
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<b>ref</b>" not in page
    assert "␣a" in page
    assert "⏎" in page
    assert "‹0›‹202e›b" in page


@pytest.mark.parametrize(("raw", "shown"), [
    (" the", "␣the"), ("\n\n", "⏎⏎"), ("\t", "⇥"), ("你", "你"), ("\u200b", "‹200b›"), ("", ""), (None, ""), (float("nan"), ""),
])  # fmt: skip
def test_white_space_is_visible(raw: Any, shown: str) -> None:
    assert visible(raw) == shown


def test_numbers() -> None:
    assert known(0.5, 1e-15) == "0.500"
    assert known(0.5, 0.01) == "0.500 ± 0.020"
    assert percent_of(0.1234) == "+12 %"
    assert percent_of(-0.5) == "−50 %"
    assert percent_of(0.0) == "0 %"
    assert percent_of(float("nan")) == "–"


def test_labels_leave_out_what_all_share() -> None:
    def labels(*pairs: str) -> list[str]:
        data = Data([], [{"pair": each} for each in pairs], [], [], [], [], {}, [], [], [], [])
        return list(data.labels.values())

    assert labels("LM a ‖ ref, 32 tokens", "LM b ‖ ref, 32 tokens", "LM b ‖ ref, 32 tokens, T=0.7") == ["a", "b", "b, T=0.7"]
    assert labels("LM a ‖ ref", "LM a ‖ other") == ["LM a ‖ ref", "LM a ‖ other"]
    assert labels("only, one") == ["only, one"]
    assert labels("x, 1", "x, 1, 1") == ["x, 1", "x, 1, 1"]


def test_each_figure_and_table_is_there(page: str) -> None:
    for name in ("bias", "noise", "positions"):
        assert f'id="figure-completions-{name}"' in page
    for words in ("By position", "Which log-probabilities", "Scored again", "KL over the k most probable tokens",
                  "What a standard error of 1 % takes", "Speed", "that carry most"):  # fmt: skip
        assert words in page, words


def test_runs_side_by_side(tmp_path: Path) -> None:
    from klbench.report import combine

    one, two = (write(tmp_path / name, tables("plain"), config=f"seed: {i}\n") for i, name in enumerate(("one", "two")))
    page = combine([one, two], tmp_path / "both.html").read_text(encoding="utf-8")
    assert "4,000 completions" in page
    assert "seed=1" in page


def test_a_run_without_completions_says_so() -> None:
    assert text(lm_section.answer({"tokens": tables("plain")["tokens"].head(0)})) == "No completion was measured."
    assert lm_section.build({"tokens": tables("plain")["tokens"].head(0)}) == []
