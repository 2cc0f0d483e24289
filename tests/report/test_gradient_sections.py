"""The parts on gradients: sentences that follow from the tables, whatever is odd, missing or few in them."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import pytest
from gradient_runs import (
    FAR,
    NEAR,
    ONE,
    QP,
    SHAPES,
    arrows,
    cells,
    content,
    lambda_table,
    plain,
    shape_table,
    stale,
    table,
)
from test_report_browser import CHROMIUM

from klbench.report import combine, render
from klbench.report.blocks import Paragraph
from klbench.studies.gradient import section as gradient_section
from klbench.studies.gradient import section_figures
from klbench.studies.lambda_ import section as lambda_section
from klbench.studies.same_kl import section as same_kl_section
from klbench.studies.staleness import section as staleness_section

MakeRun = Callable[..., Path]


def said(tables: dict[str, pd.DataFrame]) -> str:
    return plain(gradient_section.answer(tables))


def test_the_verdicts_are_those_of_the_table() -> None:
    text = said(content())
    assert (
        "8 ways to turn an estimate of KL into a policy gradient, on 3 policies with their references at KL 0.05 to 2" in text
    )
    assert "2 of them have the gradient of KL(q‖p) as their mean on every pair." in text
    assert "The least noisy is full_with_score: one sample strays from the mean by 2.0 → 2.6 times its length" in text
    assert "with k1_reward by 6.4 → 7.1 times" in text
    assert "The gradient of KL(p‖q) instead" in text
    assert "k3_sequence_loss: 14 % → 73 %" in text
    assert "k3_sequence_reward: 99 % → 60 %" in text
    assert re.search(r"No gradient at all .*k1_loss: 15 → 2.3", text)
    assert re.search(r"Exact on one; elsewhere off by: \| k2_loss = k2_twin: 5.4 % → 34 %", text)
    assert "They leave out what a token does to the tokens after it" in text
    assert re.search(r"Another gradient \| [^|]*\| k2_reward: 94 % → 50 %", text)
    assert re.search(r"The wrong sign \| [^|]*k2_reward \(one, KL 0.5\)", text)


def test_a_number_flipped_flips_the_sentence() -> None:
    changed = content()
    frame = changed["gradients"]
    frame.loc[(frame["combination"] == "k1_reward") & (frame["pair"] == FAR), ["matches", "rel_bias"]] = ["none", 0.2]
    frame.loc[frame["combination"] == "k2_reward", "cosine"] = 0.5
    text = said(changed)
    assert "1 of them has the gradient of KL(q‖p) as its mean on every pair." in text
    assert re.search(r"Exact on GRU and one; elsewhere off by: \| k1_reward: 0 → 20 %", text)
    assert "They leave out" not in text
    assert "The wrong sign" not in text


def test_what_trainers_call_unbiased_is_said_to_be_so_per_token_alone() -> None:
    """Where sequences have one token, and of what is exact, there is nothing to say."""
    called = r"Called unbiased by a trainer: per token, not per sequence \| [^|]* \| k2_loss = k2_twin: 5.4 % → 34 %"
    assert re.search(called, said(content()))
    assert "Called unbiased" not in said(content(pairs=(ONE,)))
    stale_only = content()
    stale_only["gradients"]["staleness"] = 0.1
    assert "Called unbiased" not in said(stale_only)


def test_quiet_alone_is_told_from_quiet_in_training() -> None:
    text = said(content())
    assert "the penalty's own gradient is least noisy with full_with_score (2.6)" in text
    assert "the sum is least noisy with k1_reward (0: reward and penalty cancel sample by sample)" in text
    assert "full_with_score is number 2 of 2 there (5.3)" in text
    same = content()
    same["gradients"].loc[same["gradients"]["combination"] == "full_with_score", "total_rel_std"] = 0.0
    assert "the sum is least noisy with it too (0)" in said(same)
    unknown = content()
    unknown["gradients"]["total_rel_std"] = math.nan
    assert "in training" not in said(unknown)


def test_broken_claims_and_infinite_variances_are_warned_of() -> None:
    assert not [
        block for block in gradient_section.answer(content()) if isinstance(block, Paragraph) and block.tone == "warning"
    ]
    changed = content()
    frame = changed["gradients"]
    frame.loc[(frame["combination"] == "k2_loss") & (frame["pair"] == ONE), ["matches", "status"]] = ["none", "claim broken"]
    frame.loc[frame["combination"] == "k3_sequence_loss", ["rel_std", "status"]] = [math.inf, "infinite variance"]
    frame.loc[frame["combination"] == "k1_loss", ["rel_bias", "status"]] = [math.inf, "beyond float64"]
    text = said(changed)
    assert "k1_loss has a bias or a noise too large" in text
    assert "k2_loss does not have the gradient that it claims (one, KL 0.5)" in text
    assert "k3_sequence_loss has no finite variance" in text
    claims = gradient_section.build(changed)[-1].blocks[0]  # type: ignore[union-attr]
    assert cells(claims, "k2_loss")[2] == "2 of 3"  # type: ignore[arg-type]
    assert cells(claims, "k1_reward")[2] == "3 of 3"  # type: ignore[arg-type]


def test_the_tables_of_bias_and_noise() -> None:
    blocks = gradient_section.build(content())
    bias, noise = table(blocks, "Bias"), table(blocks, "Noise")
    assert [str(column.title) for column in bias.columns] == [
        "Combination", "GRU<br>KL 0.05", "GRU<br>KL 2", "one<br>KL 0.5", "Where",
    ]  # fmt: skip
    assert cells(bias, "k2_loss") == ["k2_loss", "5.4 %", "34 %", "0", "loss"]
    assert cells(noise, "k3_sequence_loss") == ["k3_sequence_loss", "6.4", "134", "134", "loss"]
    tones = {str(line[0].text): [cell.tone for cell in line[1:4]] for line in bias.rows}
    exact = next(value for key, value in tones.items() if "score" in key)
    assert exact == ["tint-exact"] * 3
    nothing = next(value for key, value in tones.items() if "k1_<wbr>loss" in key)
    assert nothing == ["tint-bias-7"] * 3


def test_a_sampled_match_is_no_exact_zero() -> None:
    changed = content()
    frame = changed["gradients"]
    sampled = (frame["combination"] == "full_with_score") & (frame["pair"] == ONE)
    frame.loc[sampled, ["method", "rel_bias"]] = ["sampling", 0.01]
    lucky = (frame["combination"] == "k2_reward") & (frame["pair"] == ONE)
    frame.loc[lucky, ["method", "matches"]] = ["sampling", QP]
    assert cells(table(gradient_section.build(changed), "Bias"), "full_with_score")[3] == "≈ 0"
    text = said(changed)
    assert "2 of them have the gradient" in text
    assert re.search(r"Another gradient \| [^|]*\| k2_reward", text)


def test_names_in_the_wild_are_escaped_and_explained(make_run: MakeRun) -> None:
    page = render(make_run(content=content(), study="gradient")).read_text(encoding="utf-8")
    assert "<b>k2_loss</b>" not in page
    assert "&lt;b&gt;k2_loss&lt;/b&gt; &amp; others" in page
    assert "k2 of each token, differentiated" in page
    assert "KL(q‖p) on one; elsewhere no KL" in page
    assert "nothing (mean 0)" in page
    assert page.count("<script>") == 1


def test_arrows_that_end_together_share_a_label() -> None:
    data = gradient_section.read(content() | {"arrows": arrows(ONE)})
    figure = section_figures.arrows(data)
    assert figure is not None
    assert "∇ KL(q‖p), k2_loss, k1_reward at (−1.4, 0.8)" in figure.panels[0].alt
    assert "∇ KL(p‖q), k3_loss at (−0.8, −0.2)" in figure.panels[0].alt
    assert "k1_loss at (0, 0)" in figure.panels[0].alt
    assert "k2_reward" not in figure.panels[0].svg
    assert section_figures.arrows(gradient_section.read(content())) is None


@pytest.mark.parametrize("pairs", [(NEAR,), (ONE,), (NEAR, ONE)])
@pytest.mark.parametrize("names", [("k1_reward",), ("k2_loss", "k1_reward"), ("k2_reward",)])
def test_few_rows(make_run: MakeRun, pairs: Sequence[str], names: Sequence[str]) -> None:
    tables = content(pairs, names)
    page = render(make_run(content=tables, study="gradient")).read_text(encoding="utf-8")
    assert "What the gradient really is</h2>" in page
    assert ("on every pair" in said(tables)) == (len(pairs) > 1)
    if names == ("k2_reward",):
        assert "None gives the gradient of KL(q‖p)" in said(tables)


def test_numbers_that_are_none(make_run: MakeRun) -> None:
    tables = content()
    tables["gradients"].loc[:, ["rel_bias", "rel_std", "cosine", "total_rel_std", "kl_qp"]] = math.nan
    tables["gradients"]["series"] = None
    page = render(make_run(content=tables, study="gradient")).read_text(encoding="utf-8")
    assert ">nan" not in page
    tables["gradients"].loc[:, ["rel_bias", "rel_std"]] = math.inf
    assert "∞" in render(make_run("infinite", tables, study="gradient")).read_text(encoding="utf-8")


def test_nothing_measured() -> None:
    empty = {name: content()["gradients"].head(0) for name in ("gradients", "staleness")}
    for section in (gradient_section, staleness_section):
        assert "Nothing was measured" in plain(section.answer(empty))
        assert section.build(empty) == []


def test_a_lag_parts_the_exact_from_the_others() -> None:
    text = plain(staleness_section.answer(stale()))
    assert "up to 0.1 nats behind. At that lag a batch is worth 60 % of its size" in text
    assert re.search(r"Exact at every lag \| [^|]*\| full_with_score: 2.0 → 3.0", text)
    assert re.search(r"Exact on fresh samples, biased on stale ones \| [^|]*\| k1_reward: 0 → 20 %", text)
    assert re.search(r"Biased at any lag \| [^|]*\| k2_loss: 30 %", text)


def test_a_bias_is_forgiven_in_small_batches_only() -> None:
    # 3² - 1² = 8 of variance saved, for a bias of 0.3² = 0.09: less error up to 88 samples.
    text = plain(staleness_section.answer(stale()))
    assert re.search(r"these err less than full_with_score, for all their bias, .*: \| k2_loss: 88 \|", text)
    noisy = stale()
    noisy["staleness"].loc[noisy["staleness"]["combination"] == "k2_loss", "rel_std"] = 4.0
    assert "full_with_score errs less than each of the biased ones" in plain(staleness_section.answer(noisy))
    batches = table(staleness_section.build(noisy), "Bias or noise?")
    assert cells(batches, "k2_loss")[4:] == ["never"]


def test_a_pair_without_a_lag(make_run: MakeRun) -> None:
    tables = stale((0.0,))
    page = render(make_run(content=tables, study="staleness")).read_text(encoding="utf-8")
    assert "samples of the policy itself, without a lag" in page
    assert "<svg viewBox" not in page[page.index("At each lag") :]


def test_several_lagging_pairs(make_run: MakeRun) -> None:
    both = stale() | {"staleness": pd.concat([stale()["staleness"], stale(pair=NEAR)["staleness"]])}
    page = render(make_run(content=both, study="staleness")).read_text(encoding="utf-8")
    assert "Noise of one sample, GRU, KL 0.05" in page
    assert "Noise of one sample, GRU, KL 2" in page


def test_the_two_lambdas_are_compared() -> None:
    text = plain(lambda_section.answer(lambda_table(0.0, 0.5)))
    assert (
        "The best λ is not one number. On <i>sequences</i>, at KL 0.1, λ = 0.50 makes the value least noisy and λ = 1.5" in text
    )
    assert "loses most at KL 0.1: noise of 7.50 instead of 6.00 times" in text
    same = plain(lambda_section.answer(lambda_table(0.0, 0.001)))
    assert "The same λ" in same
    assert "the value's λ is as good" in same


@pytest.mark.parametrize("odd", [math.nan, math.inf])
@pytest.mark.parametrize("column", ["lambda_value", "gradient_rel_std_value_best", "value_std_k3", "kl_qp"])
def test_a_lambda_that_is_not_known(make_run: MakeRun, column: str, odd: float) -> None:
    tables = lambda_table(0.0, 0.5)
    tables["lambda"].loc[0, column] = odd
    page = render(make_run(content=tables, study="lambda")).read_text(encoding="utf-8")
    assert "The best λ</h2>" in page
    assert "<i>" not in page
    none = render(make_run("none", lambda_table(0.1, **{column: odd}), study="lambda")).read_text(encoding="utf-8")
    assert ("Nothing was measured" in none) == (column == "kl_qp")


def test_who_wins_is_said_of_one_kl() -> None:
    text = plain(same_kl_section.answer(shape_table(*SHAPES)))
    assert "At one and the same KL of 0.1, k1 is less noisy on hole and k3 on tilt." in text
    assert "On “hole”, the standard deviation of one term is 1.0 nats with k1 and 8.0 with k3; on “tilt”, 1.0 and 0.50." in text
    assert "χ² against 2J does." in text
    assert "k3 is less noisy on 1 pair, with χ² below 2J; k1 is less noisy on 2 pairs, with χ² above 2J" in text
    assert "k2_loss: exact on all of them" in text
    assert "k3_loss: off by 10 % (tilt, KL 0.1) to 14 × (hole, KL 0.1)" in text


def test_a_pair_against_the_rule_is_named() -> None:
    text = plain(same_kl_section.answer(shape_table(("tilt", 0.1, 0.5, "k1"), *SHAPES[1:])))
    assert "χ² against 2J says it on 2 of 3 pairs." in text
    assert "Not on: tilt (0.1)." in text
    assert "The KL does not say who wins" not in text


def test_shapes_of_several_runs_and_odd_numbers(make_run: MakeRun, tmp_path: Path) -> None:
    odd = shape_table(*SHAPES)
    odd["shapes"].loc[0, "chi2"] = math.inf
    odd["shapes"].loc[1, "gradient_rel_bias_k3_loss"] = math.nan
    runs = [("a", odd), ("b", shape_table(*SHAPES))]
    runs = [make_run(name, each, study="same_kl", config=f"seed: {i}\n") for i, (name, each) in enumerate(runs)]
    page = combine(runs, tmp_path / "both.html").read_text(encoding="utf-8")
    assert "5 pairs of 4 shapes" in page
    assert "tilt, seed=1" in page


def test_gradients_of_several_runs(make_run: MakeRun, tmp_path: Path) -> None:
    runs = [make_run(name, content(), study="gradient", config=f"seed: {i}\n") for i, name in enumerate("ab")]
    page = combine(runs, tmp_path / "both.html").read_text(encoding="utf-8")
    assert "on 6 policies with their references" in page
    assert "GRU, seed=1<br>KL 2" in page


def test_a_real_run(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    import klbench

    run = klbench.run(
        "gradient", "pair=categorical", "pair.random.size=4", "pair.random.kl=0.5", "combinations=[k1_reward,k3_loss,k1_loss]",
        "workers=1", f"out={tmp_path / 'run'}",
    )  # fmt: skip
    page = (run.path / "index.html").read_text(encoding="utf-8")
    assert "1 of them has the gradient of KL(q‖p) as its mean." in page
    assert "The gradient of KL(p‖q) instead" in page
    assert "TRL GRPO" in page


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_all_parts_fit_a_phone(make_run: MakeRun) -> None:
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    found = {
        "gradient": content() | {"arrows": arrows(ONE)},
        "lambda": lambda_table(0.0, 0.5),
        "same_kl": shape_table(*SHAPES),
        "staleness": stale(),
    }
    urls = [render(make_run(name, tables, study=name)).as_uri() for name, tables in found.items()]
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        for url, width in itertools.product(urls, (360, 1280)):
            page = browser.new_page(viewport={"width": width, "height": 900})
            page.goto(url)
            page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
            assert page.evaluate("document.scrollingElement.scrollWidth <= innerWidth")
        browser.close()
