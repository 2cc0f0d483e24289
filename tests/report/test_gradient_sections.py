"""The pages on gradients.

What they open with and show follows from the tables, whatever is odd, missing or few in them.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from gradient_runs import (
    CASES,
    NEAR,
    ONE,
    QP,
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
from klbench.report.blocks import Block, Details, Figure, Lead, Paragraph
from klbench.studies.gradient import section as gradient_section
from klbench.studies.gradient import tables as gradient_tables
from klbench.studies.lambda_ import section as lambda_section
from klbench.studies.lambda_.columns import compared
from klbench.studies.same_kl import section as same_kl_section
from klbench.studies.staleness import section as staleness_section
from klbench.studies.staleness import tables as staleness_tables

MakeRun = Callable[..., Path]


def judged(tables: dict[str, pd.DataFrame], **typed: str) -> dict[str, pd.DataFrame]:
    """The tables of a gradient run with the verdicts on them.

    ``typed`` holds names that were asked for.
    """
    return tables | gradient_tables.judged(tables, typed)


def opening(lead: Lead) -> str:
    return plain([Paragraph(text) for text in (lead.verdict, *lead.more)])


def figure(blocks: Sequence[Block], name: str) -> Figure:
    return next(block for block in blocks if isinstance(block, Figure) and block.name == name)


def unfolded(blocks: Sequence[Block]) -> list[Block]:
    """Blocks with those that are folded away."""
    return [
        each
        for block in blocks
        for each in (block.blocks if isinstance(block, Details) else [block])
    ]


def test_the_opening_counts_settings_and_says_what_to_set() -> None:
    lead = gradient_section.lead(judged(content()))
    text = opening(lead)
    assert "1 of 4 settings of trainers" in text
    assert "off by 34 % to 100 %" in text
    assert "verl in_reward" in text
    assert "a trainer" in text
    assert "off by 5.4 % near the reference and 34 % far from it" in text
    assert lead.figure is not None
    panel, other = lead.figure.panels
    assert "<b>kl</b> & others 100 %; mse 34 %; in_reward 0" in panel.alt
    assert "k1 100 %" in other.alt
    assert "&lt;b&gt;kl&lt;/b&gt;" in panel.svg


def test_names_that_were_typed_are_kept_and_drawn() -> None:
    tables = judged(
        content() | {"arrows": arrows(ONE)}, k2_reward="mse_reward", k1_reward="k1_reward"
    )
    lead = gradient_section.lead(tables)
    assert lead.figure is not None
    assert "mse_reward 50 %; k1_reward 0" in lead.figure.panels[0].alt
    blocks = gradient_section.build(tables)
    assert cells(table(blocks, "Bias"), "mse_reward")[1:4] == ["94 %", "50 %", "50 %"]
    assert "k2_loss" not in figure(blocks, "gradient-arrows").panels[0].alt


def test_without_settings_of_trainers_combinations_are_counted_and_drawn() -> None:
    tables = content()
    tables["combinations"]["used_by"] = ""
    lead = gradient_section.lead(judged(tables))
    assert "2 of 8 combinations" in opening(lead)
    assert lead.figure is not None
    assert "k3_sequence_loss 73 %" in lead.figure.panels[0].alt


def test_who_is_quiet_in_training() -> None:
    text = opening(gradient_section.lead(judged(content())))
    assert (
        "full_with_score has the least noise (2.6); with the reward it has 5.3, and k1_reward has 0"
        in text
    )
    unknown = content()
    unknown["gradients"]["total_rel_std"] = math.nan
    assert "full_with_score" not in opening(gradient_section.lead(judged(unknown)))


def test_what_is_off_with_old_samples_only_is_not_called_unbiased() -> None:
    old = content()
    old["gradients"]["staleness"] = 0.1
    assert "a trainer" not in opening(gradient_section.lead(judged(old)))
    assert "a trainer" not in opening(gradient_section.lead(judged(content(pairs=(ONE,)))))


def test_broken_claims_and_infinite_variances_are_warned_of() -> None:
    def warnings(tables: dict[str, pd.DataFrame]) -> str:
        blocks = gradient_section.build(judged(tables))
        return plain(
            [block for block in blocks if isinstance(block, Paragraph) and block.tone == "warning"]
        )

    assert not warnings(content())
    changed = content()
    frame = changed["gradients"]
    frame.loc[
        (frame["combination"] == "k2_loss") & (frame["pair"] == ONE), ["matches", "status"]
    ] = ["none", "claim broken"]
    frame.loc[frame["combination"] == "k3_sequence_loss", ["rel_std", "status"]] = [
        math.inf,
        "infinite variance",
    ]
    frame.loc[frame["combination"] == "k1_loss", ["rel_bias", "status"]] = [
        math.inf,
        "beyond float64",
    ]
    text = warnings(changed)
    assert "k1_loss has a bias or a noise too large" in text
    assert "k2_loss does not have the gradient that it claims (one, KL 0.5)" in text
    assert "k3_sequence_loss has no finite variance" in text
    claims = table(unfolded(gradient_section.build(judged(changed))), "Each combination")
    assert cells(claims, "k2_loss")[3] == "2 of 3"
    assert cells(claims, "k1_reward")[3] == "3 of 3"


def test_the_tables_of_settings_bias_and_noise() -> None:
    blocks = gradient_section.build(judged(content()))
    settings = table(blocks, "3 settings")
    assert [str(line[3].text) for line in settings.rows] == [
        "verl in_reward",
        "<code>k1_<wbr>reward</code>, in klbench",
        "verl in_reward",
    ]
    assert settings.rows[2][2].value == 0.335
    bias = table(blocks, "Bias")
    assert [str(column.title) for column in bias.columns] == [
        "Combination",
        "GRU<br>KL 0.05",
        "GRU<br>KL 2",
        "one<br>KL 0.5",
        "Where",
    ]
    assert cells(bias, "k2_lossk2_twin")[1:] == ["5.4 %", "34 %", "0", "loss"]
    assert len(bias.rows) == 5  # what is right on every pair has no bias to show
    noise = table(unfolded(blocks), "Noise")
    assert cells(noise, "k3_sequence_loss")[1:] == ["6.4", "134", "134", "loss"]
    tones = {str(line[0].text): [cell.tone for cell in line[1:4]] for line in bias.rows}
    nothing = next(value for key, value in tones.items() if "k1_<wbr>loss" in key)
    assert nothing == ["tint-bias-7"] * 3


def test_a_sampled_match_is_no_exact_zero() -> None:
    changed = content()
    frame = changed["gradients"]
    lucky = (frame["combination"] == "k2_reward") & (frame["pair"] == ONE)
    frame.loc[lucky, ["method", "matches"]] = ["sampling", QP]
    blocks = gradient_section.build(judged(changed))
    assert cells(table(blocks, "Bias"), "k2_reward")[3] == "≈ 0"


def test_settings_are_escaped_and_combinations_explained(make_run: MakeRun) -> None:
    page = render(make_run(content=content(), study="gradient")).read_text(encoding="utf-8")
    assert "<b>kl</b>" not in page
    assert "&lt;b&gt;kl&lt;/b&gt; &amp; others" in page
    assert "KL(q‖p) on one; elsewhere no KL" in page
    assert page.count("<script>") == 1


def test_arrows_that_end_together_share_a_label() -> None:
    alt = (
        figure(
            gradient_section.build(judged(content() | {"arrows": arrows(ONE)})), "gradient-arrows"
        )
        .panels[0]
        .alt
    )
    assert "∇ KL(q‖p), k2_loss, k1_reward at (−1.4, 0.8)" in alt
    assert "∇ KL(p‖q) at (−0.8, −0.2)" in alt
    assert "k1_loss at (0, 0)" in alt
    assert "k2_reward" not in alt


@pytest.mark.parametrize("pairs", [(NEAR,), (ONE,), (NEAR, ONE)])
@pytest.mark.parametrize("names", [("k1_reward",), ("k2_loss", "k1_reward"), ("k2_reward",)])
def test_few_rows(make_run: MakeRun, pairs: Sequence[str], names: Sequence[str]) -> None:
    page = render(make_run(content=content(pairs, names), study="gradient")).read_text(
        encoding="utf-8"
    )
    assert "What each gradient really is</h2>" in page
    assert 'id="figure-gradient-settings"' in page


@pytest.mark.parametrize("odd", [math.nan, math.inf])
def test_numbers_that_are_none(make_run: MakeRun, odd: float) -> None:
    tables = content()
    tables["gradients"].loc[:, ["rel_bias", "rel_std", "cosine", "total_rel_std", "kl_qp"]] = odd
    tables["gradients"]["series"] = None
    page = render(make_run(content=tables, study="gradient")).read_text(encoding="utf-8")
    assert ">nan" not in page
    assert ("∞" in page) == math.isinf(odd)


def test_nothing_measured() -> None:
    empty: dict[str, Any] = {name: frame.head(0) for name, frame in (content() | stale()).items()}
    for section, tables in (
        (gradient_section, judged(empty)),
        (staleness_section, staleness_tables.complete(empty)),
        (same_kl_section, {"shapes": shape_table(*CASES)["shapes"].head(0)}),
        (lambda_section, {"lambda": lambda_table(0.1)["lambda"].head(0)}),
    ):
        lead = section.lead(tables)
        assert "Nothing was measured" in lead.verdict
        assert lead.figure is None
        assert section.build(tables) == []


def test_a_lag_parts_the_right_from_the_others() -> None:
    tables = staleness_tables.complete(stale())
    lead = staleness_section.lead(tables)
    text = opening(lead)
    assert "1 of 3 combinations" in text
    assert "full_with_score" in text
    assert "k1_reward, which is right on fresh samples, is off by 20 %" in text
    assert "60 %" in text
    assert "up to 88 samples, k2_loss errs less than full_with_score" in text
    assert lead.figure is not None
    assert "full_with_score 0; k1_reward 20 %; k2_loss 30 %" in lead.figure.panels[0].alt
    assert "full_with_score 3.0; k1_reward 7.0; k2_loss 1.0" in lead.figure.panels[1].alt


def test_batches_and_lags_are_in_tables() -> None:
    blocks = unfolded(staleness_section.build(staleness_tables.complete(stale())))
    assert cells(table(blocks, "Bias or noise?"), "k2_loss")[-1] == "88"
    assert cells(table(blocks, "Bias at"), "k1_reward")[1:3] == ["0", "20 %"]
    assert cells(table(blocks, "Noise"), "full_with_score")[1:3] == ["2.0", "3.0"]
    noisy = stale()
    noisy["staleness"].loc[noisy["staleness"]["combination"] == "k2_loss", "rel_std"] = 4.0
    blocks = unfolded(staleness_section.build(staleness_tables.complete(noisy)))
    assert cells(table(blocks, "Bias or noise?"), "k2_loss")[-1] == "never"


def test_weights_are_in_a_table_where_they_are_known() -> None:
    weighted = stale()
    weighted["staleness"] = weighted["staleness"].assign(
        correction="masked_ratio:0.5-5", weight_mean=0.9, weight_ess=0.8, weight_kept=0.95
    )
    blocks = unfolded(staleness_section.build(staleness_tables.complete(weighted)))
    assert cells(table(blocks, "Weights at"), "k1_reward")[1:] == ["0.9", "80 %", "95 %"]


def test_a_pair_without_a_lag_is_no_line(make_run: MakeRun) -> None:
    page = render(make_run(content=stale((0.0,)), study="staleness")).read_text(encoding="utf-8")
    assert page.count("<figure") == 1


def test_several_lagging_pairs(make_run: MakeRun) -> None:
    both = stale() | {"staleness": pd.concat([stale()["staleness"], stale(pair=NEAR)["staleness"]])}
    page = render(make_run(content=both, study="staleness")).read_text(encoding="utf-8")
    assert page.count("<h4>GRU, KL 0.05</h4>") == page.count("<h4>GRU, KL 2</h4>") == 4
    figures = re.findall(r'id="(figure-[^"]+)"', page)
    assert len(set(figures)) == len(figures) == 7


def test_bias_against_noise_names_what_errs_least_and_draws_the_others() -> None:
    worse = stale()
    at = worse["staleness"]["combination"] == "k1_reward"
    worse["staleness"].loc[at, "placement"] = "full"
    for tables, more in ((stale(), []), (worse, ["others, which err more in every batch"])):
        blocks = unfolded(staleness_section.build(staleness_tables.complete(tables)))
        (drawn,) = [each for each in blocks if getattr(each, "title", "") == "Bias against noise"]
        best = {"k2_loss", "full_with_score"} | (set() if more else {"k1_reward"})
        assert {each.label for each in drawn.legend} == best | set(more)
        assert len(drawn.panels) == 2
        assert f"{(more or ['k1_reward'])[0]} 20" in drawn.panels[-1].alt


def test_the_two_lambdas_are_compared() -> None:
    lead = lambda_section.lead(lambda_table(0.0, 0.5))
    text = opening(lead)
    assert "on <i>sequences</i>, at KL 0.1, λ = 0.50" in text
    assert "λ = 1.5" in text
    assert "25 %" in text
    assert "7.50 instead of 6.00" in text
    assert lead.figure is not None
    assert "best for the value 0.50; best for the gradient 1.5" in lead.figure.panels[0].alt
    assert opening(lambda_section.lead(lambda_table(0.0, 0.001))).startswith("Yes")


def test_lambdas_are_one_where_less_than_0_03_apart() -> None:
    ends = [(1.0, 1.029), (1.029, 1.0), (0.0, 0.03), (math.nan, 1.0), (math.inf, math.inf)]
    found = compared(pd.DataFrame(ends, columns=["lambda_value", "lambda_gradient"]))
    assert found["one_lambda"].to_list() == [True, True, False, False, False]
    assert found["lambda_gap"].to_list()[:3] == pytest.approx([0.029, 0.029, 0.03])
    assert found["lambda_gap"].isna().to_list()[3:] == [True, True]


def test_one_pair_is_no_line() -> None:
    lead = lambda_section.lead(lambda_table(0.5))
    assert lead.figure is not None
    assert (
        "<i>sequences</i>, KL 0.01 0.50; <i>sequences</i>, KL 0.01 1.5" in lead.figure.panels[0].alt
    )
    assert [type(block).__name__ for block in lambda_section.build(lambda_table(0.5))] == ["Table"]


@pytest.mark.parametrize("odd", [math.nan, math.inf])
@pytest.mark.parametrize(
    "column", ["lambda_value", "gradient_rel_std_value_best", "value_std_k3", "kl_qp"]
)
def test_a_lambda_that_is_not_known(make_run: MakeRun, column: str, odd: float) -> None:
    tables = lambda_table(0.0, 0.5)
    tables["lambda"].loc[0, column] = odd
    tables["lambda"] = compared(tables["lambda"])
    page = render(make_run(content=tables, study="lambda")).read_text(encoding="utf-8")
    assert "The best λ</h2>" in page
    assert "<i>" not in page
    none = render(make_run("none", lambda_table(0.1, **{column: odd}), study="lambda")).read_text(
        encoding="utf-8"
    )
    assert ("Nothing was measured" in none) == (column == "kl_qp")


def test_who_wins_is_said_of_one_kl() -> None:
    lead = same_kl_section.lead(shape_table(*CASES))
    text = opening(lead)
    assert (
        "at one KL of 0.1, k1 is less noisy on “hole” (1.0 against 8.0 nats) and k3 on “tilt” (0.50"
        " against 1.0)" in text
    )
    assert "3 of 3 pairs" in text
    assert "k3_loss is off by 10 % (tilt, KL 0.1) to 14 × (hole, KL 0.1)" in text
    assert "k2_loss" not in text
    assert (
        cells(table(same_kl_section.build(shape_table(*CASES)), "Shape by shape"), "hole")[6]
        == "k1"
    )


def test_a_pair_against_the_rule_is_counted() -> None:
    text = opening(same_kl_section.lead(shape_table(("tilt", 0.1, 0.5, "k1"), *CASES[1:])))
    assert "2 of 3 pairs" in text
    assert "at one KL of" not in text


def test_shapes_of_several_runs_and_odd_numbers(make_run: MakeRun, tmp_path: Path) -> None:
    odd = shape_table(*CASES)
    odd["shapes"].loc[0, "chi2"] = math.inf
    odd["shapes"].loc[1, "gradient_rel_bias_k3_loss"] = math.nan
    runs = [("a", odd), ("b", shape_table(*CASES))]
    runs = [
        make_run(name, each, study="same_kl", config=f"seed: {i}\n")
        for i, (name, each) in enumerate(runs)
    ]
    page = combine(runs, tmp_path / "both.html").read_text(encoding="utf-8")
    assert "on 5 of 5 pairs" in page
    assert "tilt, seed=1" in page


@pytest.mark.parametrize(
    ("study", "tables"),
    [("gradient", content()), ("staleness", stale()), ("lambda", lambda_table(0.0, 0.5))],
)
def test_several_runs(
    make_run: MakeRun, tmp_path: Path, study: str, tables: dict[str, pd.DataFrame]
) -> None:
    runs = [
        make_run(name, tables, study=study, config=f"seed: {i}\n") for i, name in enumerate("ab")
    ]
    page = combine(runs, tmp_path / "both.html").read_text(encoding="utf-8")
    assert "seed=1" in page
    assert page.count('class="opening"') == 1


def test_a_real_run(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    import klbench

    run = klbench.run(
        "gradient",
        "pair=categorical",
        "pair.random.size=4",
        "pair.random.kl=0.5",
        "combinations=[k1_reward,trl_grpo,k1_loss]",
        "workers=1",
        f"out={tmp_path / 'run'}",
    )
    assert dict(
        zip(run.tables["verdicts"]["typed"], run.tables["verdicts"]["verdict"], strict=True)
    ) == {
        "k1_reward": "right",
        "trl_grpo": "right",
        "k1_loss": "no gradient",
    }
    page = (run.path / "index.html").read_text(encoding="utf-8")
    assert "2 of 3 combinations" in page
    assert "trl_grpo 0" in page
    assert "TRL GRPO" in page


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_all_parts_fit_a_phone(make_run: MakeRun) -> None:
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    found = {
        "gradient": content() | {"arrows": arrows(ONE)},
        "lambda": lambda_table(0.0, 0.5),
        "same_kl": shape_table(*CASES),
        "staleness": stale(),
    }
    urls = [render(make_run(name, tables, study=name)).as_uri() for name, tables in found.items()]
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        for url, width in itertools.product(urls, (360, 1280)):
            page = browser.new_page(viewport={"width": width, "height": 900})
            page.goto(url)
            page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
            assert page.evaluate("document.scrollingElement.scrollWidth <= innerWidth")
        browser.close()
