"""The page of the study of completions: what it says, and that all it is given is shown as text."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
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
from klbench.report.blocks import Details, Figure, Paragraph, Table
from klbench.studies import get
from klbench.studies.lm import section, section_figures, section_tables
from klbench.studies.lm.columns import TABLES, TOKENS
from klbench.studies.lm.options import LmOptions
from klbench.studies.lm.section_data import Completions as Data
from klbench.studies.lm.section_data import visible
from klbench.studies.lm.verdicts import complete
from klbench.types import Capabilities, Completions, Truncated

SMALL: dict[str, Any] = {"vocabulary": 3, "horizon": 5, "prompts": 2}


class Model(SequencePair):
    """A small policy that can do what language models can."""

    capabilities = Capabilities(completions=True, rescored=True, truncated=True, in_process=True)

    def rescored(self, completions: Completions, dtype: str) -> Completions:
        off = np.where(completions.mask, 0.02 * np.sign(completions.log_q + 1.0), 0.0)
        return Completions(**{**vars(completions), "log_q": completions.log_q - off})

    def truncated(self, completions: Completions, ks: Sequence[int]) -> list[Truncated]:
        kl = completions.kl_qp
        assert kl is not None
        return [Truncated(k, kl * k / (1.0 + k), kl / (1.0 + k)) for k in ks]

    @property
    def chosen_kernel(self) -> str:
        return "abacus"

    def decode(self, ids: list[int]) -> list[str]:
        return (
            ["<script>alert(1)</script>", " a", "\n", "\x00\u202eb"][: max(ids) + 1]
            if len(ids) > 3
            else ["?"] * len(ids)
        )


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


def words(*found: Any) -> str:
    """What a reader sees of texts."""
    return re.sub(r"\s+", " ", re.sub("<[^>]*>", "", " ".join(map(str, found)))).strip()


def opening(found: dict[str, pd.DataFrame]) -> str:
    """The words before and beside the first figure, and the warnings."""
    lead = section.lead(found)
    warned = [block.text for block in section.build(found) if isinstance(block, Paragraph)]
    return words(lead.question, lead.verdict, *lead.more, *warned)


def shown(found: dict[str, pd.DataFrame]) -> dict[str, Table]:
    """The tables of a page by their captions, the folded ones too."""
    blocks = [
        each
        for block in section.build(found)
        for each in (block.blocks if isinstance(block, Details) else [block])
    ]
    return {words(block.caption): block for block in blocks if isinstance(block, Table)}


def figures(found: dict[str, pd.DataFrame]) -> dict[str, Figure]:
    lead = section.lead(found).figure
    drawn = [
        *([lead] if lead else []),
        *(block for block in section.build(found) if isinstance(block, Figure)),
    ]
    return {figure.name: figure for figure in drawn}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    return render(write(tmp_path_factory.mktemp("tokens") / "run", tables(), study="lm")).read_text(
        encoding="utf-8"
    )


def test_the_page_leads_with_a_question_and_a_picture(page: str) -> None:
    assert (
        page.index("<h1>Which estimator")
        < page.index('id="figure-completions-errors"')
        < page.index('id="tokens"')
    )
    before = words(page[page.index("<h1>") : page.index('<figure id="figure-completions-errors"')])
    assert len(before.split()) <= 160
    assert "Other tables" not in page
    assert "How wrong, how noisy" not in page


def test_the_kernel_that_scored_is_said_where_there_was_one() -> None:
    def headings(kernel: str) -> list[str]:
        timed = tables()["throughput"].assign(stage="scoring", kernel=kernel)
        return [
            words(column.title)
            for column in shown(tables() | {"throughput": timed})["Speed"].columns
        ]

    assert not tables("exact")["throughput"]["kernel"].any()
    assert {*tables()["throughput"].query("stage == 'completions'")["kernel"]} == {""}
    assert "Kernel" in headings("abacus")
    assert "Kernel" not in headings("")


def test_what_is_recommended_is_what_the_verdicts_say() -> None:
    found = {name: table.copy() for name, table in tables().items()}
    for exact, k3, said in (
        ([2.0, 5.0], [np.nan, np.nan], "needs 2 to 5 times fewer completions than k1."),
        ([3.0, np.nan], [0.5, 0.8], "which needs 1.2 to 2 times as many completions as k1."),
        (
            [3.0, 3.0],
            [0.5, 4.0],
            (
                "up to 4 times fewer completions than k1, but 2 times as many on the pair where it"
                " is worst."
            ),
        ),
    ):
        found["verdicts"] = found["verdicts"].assign(exact_saving=exact, k3_saving=k3)
        assert said in words(section.lead(found).verdict)
        assert "cannot tell" not in words(section.lead(found).verdict)


def test_where_k3_cannot_be_judged_is_said_beside_what_it_saves() -> None:
    found = tables()
    judged = {"exact_saving": [3.0, 3.0], "k3_saving": [np.nan, 4.0]}
    verdicts = found["verdicts"].assign(ratios=["cannot tell", "holds"], sound=True, **judged)
    said = words(section.lead(found | {"verdicts": verdicts}).verdict)
    assert "4 times fewer completions than k1. On " in said
    assert said.endswith("these completions cannot tell.")


def test_savings_are_the_ratios_of_variances() -> None:
    found, pair = tables(), tables()["pairs"]["pair"][0]
    rows = (
        found["values"]
        .query("pair == @pair and per == 'sequence' and level == 'token'")
        .set_index("estimator")
    )
    verdict = found["verdicts"].set_index("pair").loc[pair]
    for name, column in (("rao_blackwell", "exact_saving"), ("k3", "k3_saving")):
        assert verdict[column] == pytest.approx(
            rows.at["k1", "variance"] / rows.at[name, "variance"]
        )
    trusted = found["values"].query(
        "pair == @pair and per == 'sequence' and status == 'ok' and target == 'KL(q‖p)'"
    )
    trusted = trusted[~trusted["estimator"].str.startswith("rao_blackwell")]
    best = trusted.loc[trusted["rmse_100"].idxmin()]
    assert (verdict["nearest"], verdict["nearest_level"]) == (best["estimator"], best["level"])


def test_a_row_in_doubt_says_nothing_of_how_many_completions_are_needed() -> None:
    found = {name: table.copy() for name, table in tables("plain").items()}
    k3 = (found["values"]["estimator"] == "k3") & (found["values"]["level"] == "token")
    assert np.isfinite(complete(found)["verdicts"]["k3_saving"]).all()
    found["values"].loc[k3, "status"] = "heavy tail"
    assert complete(found)["verdicts"]["k3_saving"].isna().all()


def test_what_it_says_where_nobody_knows_the_truth() -> None:
    found = {name: table.copy() for name, table in tables("plain").items()}
    unknown = [
        "truth",
        "truth_error",
        "bias",
        "bias_se",
        "rel_bias",
        "rel_bias_se",
        "rel_std",
        "rmse",
        "rmse_100",
        "rel_rmse_100",
    ]
    found["values"][unknown] = np.nan
    found["values"][["truth_method", "bias_method"]] = "unknown"
    found["tokens"][["kl_qp", "kl_qp_se", "kl_pq", "kl_pq_se", "kl_qp_total"]] = np.nan
    found["pairs"][["kl_qp", "kl_qp_se"]] = np.nan
    found["cost"]["completions_needed"] = np.nan
    drawn = figures(complete(found))
    assert "no column kl" in opening(complete(found))
    assert next(iter(drawn)) == "completions-ways"
    assert "completions-bias" not in drawn
    assert "nats" in drawn["completions-noise"].panels[0].alt
    assert [entry.label for entry in drawn["completions-positions"].legend] == ["k1", "k2", "k3"]


def test_completions_of_somebody_else_are_found_out() -> None:
    found = {name: table.copy() for name, table in tables("plain").items()}
    k1 = (found["values"]["estimator"] == "k1") & (found["values"]["level"] == "token")
    found["values"].loc[k1, "bias"] = 9 * found["values"].loc[k1, "bias_se"]
    found = complete(found)
    assert found["verdicts"]["k1_z"].tolist() == pytest.approx([9.0])
    assert not found["verdicts"]["sound"].any()
    assert "9 standard errors" in opening(found)
    assert not any(each in opening(found) for each in RECOMMENDS)


def recorded(
    path: Path, log_ratio: Any, kl: float | None = None, **others: Any
) -> dict[str, pd.DataFrame]:
    """Of 400 rollouts of 12 tokens, where ``log_ratio(stream, 12)`` is each token's log p/q."""
    stream, rows = np.random.default_rng(5), []
    for _ in range(400):
        log_q = -10.0 - stream.gamma(1.0, 1.0, 12)
        row = {"logprobs": log_q.tolist(), "ref_logprobs": (log_q + log_ratio(stream, 12)).tolist()}
        rows.append(row if kl is None else row | {"kl": stream.gamma(4.0, kl / 4.0, 12).tolist()})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    options = LmOptions(pairs=(RecordedPair(path=str(path)),), **others)
    return dict(get("lm").run(options, Context(0)))


RECOMMENDS = (
    "times fewer completions",
    "times as many completions",
    "is nearest to",
    "Take the exact KL",
    "Otherwise take",
)


def test_nothing_is_recommended_on_data_that_fail_their_own_check(tmp_path: Path) -> None:
    """k1 is 1.92 here and k3 0.16.

    They disagree by many standard errors, so that k3 has no support.
    """
    for kl in (None, 0.16):
        found = recorded(tmp_path / "r.jsonl", lambda stream, n: stream.normal(-0.16, 0.05, n), kl)
        said = opening(found)
        assert found["agreement"]["verdict"].tolist() == ["differ"]
        assert "fail a check of their own, and nothing is recommended on them: k1 says 1.9" in said
        assert re.search(
            r"The mean of p/q over tokens is 0\.85\d* ± 0\.00\d+, \d+ standard errors", said
        )
        assert not any(each in said for each in RECOMMENDS)
        assert found["verdicts"][["exact_saving", "k3_saving"]].isna().all(axis=None)
        assert not found["verdicts"]["nearest"].any()


def test_what_passes_is_told_from_what_cannot_be_told(tmp_path: Path) -> None:
    good = recorded(tmp_path / "r.jsonl", lambda stream, n: stream.normal(-0.02, 0.2, n))
    assert good["agreement"]["verdict"].tolist() == ["agree"]
    assert good["verdicts"]["k3_saving"].item() > 1.0
    assert "they agree" in opening(good)
    heavy = recorded(
        tmp_path / "s.jsonl", lambda stream, n: 0.8 * stream.standard_exponential(n) - 1.6, 0.8
    )
    assert heavy["agreement"]["verdict"].tolist() == ["cannot tell"]
    assert np.isnan(heavy["verdicts"]["k3_saving"].item())
    assert "cannot tell whether the ratios" in opening(heavy)
    assert "Rollouts of s.jsonl" in opening(heavy)


def test_recorded_rollouts_lead_with_every_way_of_logging(tmp_path: Path) -> None:
    names = ("k1", "k3", "bregman_js", "k_lambda:0.3")
    found = recorded(
        tmp_path / "r.jsonl", lambda stream, n: stream.normal(-0.02, 0.2, n), estimators=names
    )
    lead = section.lead(found)
    assert lead.figure is not None
    assert [panel.title for panel in lead.figure.panels] == ["A completion", "A token"]
    for panel in lead.figure.panels:
        assert all(name in panel.alt for name in names)
    labels = [entry.label for entry in lead.figure.legend]
    assert labels == [
        "sum over tokens",
        "whole log-ratio",
        "mean over all tokens (masked mean)",
        "mean over each completion, then over completions",
    ]
    # Every completion has 12 tokens here, so that both means over tokens are one number, a 12th of
    # the sum.
    sums = found["values"].query("estimator == 'k3' and level == 'token'").set_index("per")["mean"]
    means = found["token_means"].set_index("estimator")["mean"]
    assert means["k3"] == pytest.approx(sums["token"]) == pytest.approx(sums["sequence"] / 12)


def test_every_named_estimator_is_drawn_and_what_is_left_out_is_said(tmp_path: Path) -> None:
    lambdas = [f"k_lambda:{k / 20}" for k in range(16)]
    found = recorded(
        tmp_path / "r.jsonl",
        lambda stream, n: stream.normal(-0.02, 0.2, n),
        0.02,
        estimators=lambdas,
    )
    for name in ("completions-ways", "completions-bias", "completions-noise"):
        figure = figures(found)[name]
        drawn = [each for each in lambdas if re.search(rf"{each} ", figure.panels[0].alt)]
        assert len(drawn) >= 8
        assert all(each in figure.caption for each in lambdas if each not in drawn)


def test_a_value_that_would_squeeze_all_others_is_named_instead() -> None:
    found = {name: table.copy() for name, table in tables("plain").items()}
    found["values"].loc[found["values"]["estimator"] == "abs", "mean"] *= 100.0
    figure = section_figures.ways(Data("", found))
    assert figure is not None
    assert "abs" in figure.caption
    assert "abs" not in figure.panels[0].alt


def test_positions_are_added_up() -> None:
    found = tables("plain")
    (panel,) = figures(found)["completions-positions"].panels
    last = found["tokens"].iloc[-1]
    means = (
        found["values"]
        .query("per == 'sequence' and level == 'token'")
        .set_index("estimator")["mean"]
    )
    for name in ("k1", "k2", "k3"):
        assert last[f"{name}_total"] == pytest.approx(means[name])
    assert last["kl_qp_total"] == pytest.approx(means["rao_blackwell"])
    assert "nats up to there over position" in panel.alt


def test_what_was_not_read_and_what_lies_above_0_is_said(tmp_path: Path) -> None:
    found = recorded(tmp_path / "r.jsonl", lambda stream, n: stream.normal(-0.02, 0.2, n))
    found["pairs"] = found["pairs"].assign(above_zero=12, unread="reward, <b>x</b>")
    page = render(write(tmp_path / "run", found, study="lm")).read_text(encoding="utf-8")
    assert "12 tokens have a log-probability above 0 (0.25 %)" in page
    assert "columns that are not read: reward, &lt;b&gt;x&lt;/b&gt;" in page


def test_text_is_shown_as_text(page: str) -> None:
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<b>ref</b>" not in page
    assert "␣a" in page
    assert "⏎" in page
    assert "‹0›‹202e›b" in page


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (" the", "␣the"),
        ("\n\n", "⏎⏎"),
        ("\t", "⇥"),
        ("你", "你"),
        ("\u200b", "‹200b›"),
        ("", ""),
    ],
)
def test_white_space_is_visible(raw: str, shown: str) -> None:
    assert visible(raw) == shown


def test_labels_leave_out_what_all_share() -> None:
    def labels(*pairs: str) -> list[str]:
        return list(Data("", {"tokens": TOKENS.example(pair=list(pairs))}).labels.values())

    assert labels(
        "LM a ‖ ref, 32 tokens", "LM b ‖ ref, 32 tokens", "LM b ‖ ref, 32 tokens, T=0.7"
    ) == ["a", "b", "b, T=0.7"]
    assert labels("LM a ‖ ref", "LM a ‖ other") == ["LM a ‖ ref", "LM a ‖ other"]
    assert labels("only, one") == ["only, one"]
    assert labels("x, 1", "x, 1, 1") == ["x, 1", "x, 1, 1"]


def test_each_figure_and_table_is_there() -> None:
    found = tables()
    names = (
        "errors",
        "bias",
        "noise",
        "agreement",
        "positions",
        "tokens",
        "samplers",
        "formats",
        "truncation",
    )
    assert list(figures(found)) == [f"completions-{name}" for name in names]
    assert len(shown(found)) == 19
    assert sum(
        len(table.rows)
        for title, table in shown(found).items()
        if title.startswith("Every estimator")
    ) == len(found["values"].query("mean == mean"))


@pytest.mark.parametrize("name", sorted(schema.table for schema in TABLES if schema is not TOKENS))
def test_a_table_that_cannot_be_used_leaves_the_others(name: str) -> None:
    left = {other: table for other, table in tables().items() if other != name}
    assert section.lead(left).question
    assert bool(section.build(left)) == (name != "values")


def test_runs_side_by_side(tmp_path: Path) -> None:
    from klbench.report import combine

    one, two = (
        write(tmp_path / name, tables("plain"), config=f"seed: {i}\n", study="lm")
        for i, name in enumerate(("one", "two"))
    )
    page = combine([one, two], tmp_path / "both.html").read_text(encoding="utf-8")
    assert "4,000 completions" in page
    assert "seed=1" in page


def test_a_run_without_completions_says_so() -> None:
    nothing = {"tokens": tables("plain")["tokens"].head(0)}
    assert words(section.lead(nothing).verdict) == "No completion was measured."
    assert section.build(nothing) == []


def test_earlier_runs_get_their_verdicts_as_they_are_read() -> None:
    """Without what is measured today, the difference of k1 and k3 has the error of the mean of
    p/q over tokens.
    """
    now = tables("plain")
    earlier = {
        name: table
        for name, table in now.items()
        if name not in ("agreement", "verdicts", "token_means")
    }
    found = complete(earlier)
    pd.testing.assert_frame_equal(found["verdicts"], now["verdicts"])
    assert found["agreement"]["difference"].item() == pytest.approx(
        now["agreement"]["difference"].item()
    )
    assert found["agreement"]["difference_se"].item() == pytest.approx(
        now["agreement"]["difference_se"].item(), rel=0.05
    )
    blocks = section_tables.blocks(Data("", found))
    assert any(isinstance(block, Details) for block in blocks)
