"""The sentences follow from the tables: other numbers, other sentences."""

from __future__ import annotations

import html
import json
import re
from typing import Any

import pandas as pd
import pytest
from report_runs import FORMS, differences, tables

from klbench import pairs
from klbench.context import Context
from klbench.report.blocks import Block, Bullets, Paragraph
from klbench.studies.value import run as value_run
from klbench.studies.value import section_answer as answering
from klbench.studies.value import section_claims as claiming
from klbench.studies.value import section_ranking as ranking
from klbench.studies.value.options import ValueOptions
from klbench.studies.value.section_data import Data


def plain(blocks: list[Block]) -> str:
    texts = [text for block in blocks for text in _texts(block)]
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", text.replace("<wbr>", ""))) for text in texts).replace("\xa0", " ")


def _texts(block: Block) -> list[str]:
    if isinstance(block, Paragraph):
        return [str(block.text)]
    return [str(item) for item in block.items] if isinstance(block, Bullets) else []


def said(content: dict[str, pd.DataFrame]) -> str:
    return re.sub(r"\s+", " ", plain(answering.answer(Data("", content))))


def swapped(content: dict[str, pd.DataFrame], a: str, b: str) -> dict[str, pd.DataFrame]:
    values = content["values"].copy()
    values["estimator"] = values["estimator"].replace({a: b, b: a})
    return content | {"values": values, "differences": differences(values)}


def test_the_winner_is_named_with_its_range_and_margin() -> None:
    text = said(tables())
    assert "One sample: k3 up to KL 0.5 (at KL 0.02, rmse 0.0285 against 0.200 for k1 , 0.172 less), k1 at KL 2." in text
    assert "k1 or k3 ? The better of the two, one sample at a time: shift : k3 up to KL 0.5, k1 at KL 2." in text


def test_swapping_the_winner_swaps_the_sentence() -> None:
    text = said(swapped(tables(), "k1", "k3"))
    assert "One sample: k1 up to KL 0.5 (at KL 0.02, rmse 0.0285 against 0.200 for k3 , 0.172 less), k3 at KL 2." in text


def test_a_biased_winner_comes_second() -> None:
    text = said(swapped(tables(), "k2", "k3"))
    assert (
        "One sample: k3 at KL 0.02 (rmse 0.0286 against 0.200 for k1" in text
    )  # within 0.5 % of k2, and unbiased by its claim
    few = tables([0.5, 0.6], {"k1": FORMS["k1"], "k2": lambda t: (0.0, 0.1)})
    assert "One sample: k1 at every KL. Counting the biased ones too: k2 at every KL." in said(few)


def test_names_of_the_same_numbers_count_once() -> None:
    text = said(tables()).split("What cannot be trusted")[0]
    assert "bregman_kl_qp" not in text


def test_the_plain_name_wins_whatever_the_order() -> None:
    forms = dict(reversed(FORMS.items()))
    assert "bregman_kl_qp" not in said(tables(forms=forms)).split("What cannot be trusted")[0]


def test_rows_that_cannot_be_trusted_win_nothing() -> None:
    content = tables()
    content["values"].loc[content["values"]["estimator"].isin(["k3", "bregman_kl_qp"]), "status"] = "infinite variance"
    text = said(content)
    assert "k3" not in text.split("k1 or k3")[0]
    assert "Infinite variance , 18 rows" in text


def test_what_cannot_be_trusted_is_counted() -> None:
    text = said(tables())
    assert "What cannot be trusted? 6 of 42 measured rows" in text
    assert "Heavy tail , 6 rows" in text


def test_a_bias_that_more_samples_do_not_cure() -> None:
    assert "More samples do not help k2 : in batches of 256 its bias exceeds its noise on 2 of 3 pairs" in said(tables())
    honest = tables(forms=FORMS | {"k2": FORMS["k1"]})
    assert "More samples do not help" not in said(honest)


def test_no_claim_is_broken_by_honest_numbers() -> None:
    assert "Claims: none is broken" in said(tables())


@pytest.mark.parametrize(("change", "sentence", "verdict"), [
    ({"bias": 1.0}, "k3 claims to be unbiased and is off by", "broken: biased"),
    ({"frac_negative": 0.01}, "k3 claims never to be negative and was in 1 % of the batches", "broken: negative"),
])  # fmt: skip
def test_a_broken_claim_is_named(change: dict[str, float], sentence: str, verdict: str) -> None:
    content = tables()
    values = content["values"]
    values.loc[(values["estimator"] == "k3") & (values["truth"] == 0.5), list(change)] = list(change.values())
    assert sentence in said(content)
    assert {each.name: each.verdict for each in claiming.judged(Data("", content))}["k3"] == verdict


def test_samples_of_a_third_distribution_break_no_claim_of_the_unweighted() -> None:
    data = Data("", tables())
    verdicts = {each.name: each for each in claiming.judged(data)}
    assert verdicts["k1"].verdict == "kept"
    assert verdicts["k1"].rows == 9
    assert verdicts["k1_weighted"].rows == 3
    assert "unweighted estimators are off, at worst k1 by 40.6 %" in said(tables())


def test_what_q_never_samples_is_said_and_breaks_no_claim() -> None:
    """q = (.6, .4, 0), p = (.5, .3, .2): k3 is off by 0.2 of 0.2245."""
    pair = pairs.get("categorical")(q={"probs": [0.6, 0.4, 0.0]}, p={"probs": [0.5, 0.3, 0.2]})
    options = ValueOptions(pairs=(pair,), estimators=("k1", "k3", "bregman_kl_pq"), samples=20_000, batches=(1, 64))
    text = said(value_run.run(options, Context(0)))
    assert "Claims: none is broken" in text
    assert "p gives 0.200 of its probability to it. The mean of r is 0.800 and not 1" in text
    assert "Bias over the exact KL(q‖p): k1 0 % and k3 −89.1 %. Infinite there: KL(p‖q)." in text


def test_columns_that_say_who_needs_weights_are_believed() -> None:
    content: dict[str, Any] = tables()
    content["estimators"] = content["estimators"].assign(needs_weight=False)
    content["pairs"] = content["pairs"].assign(off_policy=False)
    data = Data("", content)
    assert data.weighted == frozenset()
    assert data.off_policy == frozenset()


def test_ranges_join_while_the_winner_is_level() -> None:
    content = tables([0.01, 0.1, 0.5])
    spans = ranking.spans(Data("", content), "shift", 1)
    assert [(span.winner, len(span.bests)) for span in spans] == [("k3", 3)]


def test_a_known_exact_error_ranks_whatever_the_tail() -> None:
    """N(0, 1) against N(0, 1.25^2): k_lambda's exact std is 0.1262 and k1's 0.2546, and the ratio has no third moment."""
    pair = pairs.get("gaussian")(q={"std": 1.0}, p={"std": 1.25})
    chosen = ("k1", "k3", "k_lambda", "k_fitted")
    options = ValueOptions(pairs=(pair,), estimators=chosen, samples=200_000, batches=(1, 1024))
    content = value_run.run(options, Context(0))
    assert set(content["values"]["status"]) == {"ok", "heavy tail", "skipped: needs batches of at least 2"}
    text = said(content)
    assert "One sample: k_lambda (rmse 0.126 against 0.255 for k1 , 0.128 less)." in text
    assert "Batches of 1,024: k_lambda (rmse 0.00394 against 0.00795 for k1 , 0.00401 less)" in text
    assert "k1 or k3 ? The better of the two, one sample at a time: N(0, 1²) ‖ N(0, 1.25²) : k1 ." in text
    assert "the known tail index 1/3 or more" in text
    assert "Measured less, and not ranked" not in text.split("Batches of")[0]
    alone = content | {"values": content["values"][content["values"]["estimator"].isin(["k1", "k_fitted"])]}
    assert "not ranked since the tail is heavy and the exact noise unknown: k_fitted on 1 pair." in said(alone)


def test_many_series_are_cut_with_a_word() -> None:
    content = tables([0.02 * 1.2**i for i in range(20)])
    values = content["values"]
    values.loc[values["series"] == "shift", "series"] = values["pair"]
    assert "5 more series are in the table of ranges below." in said(content)


def test_a_difference_within_its_interval_decides_nothing() -> None:
    content = tables([0.5])
    content["values"]["exact_std"] = float("nan")
    content["differences"]["rmse_difference_se"] = 10.0
    assert "neither" in said(content)


def test_a_run_without_pairs_of_known_divergence() -> None:
    content = tables()
    content["values"][["truth", "rmse", "exact_bias"]] = float("nan")
    content["pairs"]["kl_qp"] = float("nan")
    assert "no row of it can be trusted" in said(content)


def test_a_line_joins_only_pairs_that_differ_steadily() -> None:
    content = tables([0.02, 0.5, 2.0])
    parameters = [{"mean": 0.2}, {"mean": 1.0}, {"mean": 2.0}]

    def family(changed: list[dict[str, Any]]) -> bool:
        texts = [json.dumps({"p": each}) for each in [*changed, {"mean": 0.0}]]
        return Data("", content | {"pairs": content["pairs"].assign(parameters=texts)}).is_one_family("shift")

    assert family(parameters)
    assert family(parameters[::-1])
    assert not family([parameters[1], parameters[0], parameters[2]])
    assert not family([{"probs": [0.5, 0.5]}, *parameters[1:]])
    assert not family([{"name": each} for each in "abc"])


def test_the_only_estimator_is_not_ranked() -> None:
    text = said(tables(forms={"k1": FORMS["k1"]}) | {"differences": tables()["differences"].head(0)})
    assert "has the least error" in text  # k1_weighted is the second contender
    content = tables(forms={"k1": FORMS["k1"]})
    content["values"] = content["values"][content["values"]["estimator"] == "k1"]
    text = said(content)
    assert "has the least error" not in text
    assert "Rmse, one sample: 0.200 at KL 0.02, 2.00 at KL 2" in text


def test_samples_fewer_than_a_batch_are_said() -> None:
    content = tables()
    assert "follow from those of single samples" not in said(content)
    content["values"]["samples"] = 100
    assert "follow from those of single samples" in said(content)


def test_runs_that_agree_share_a_card() -> None:
    parts = [tables(), tables()]
    both = {}
    for name in parts[0]:
        for i, part in enumerate(parts):
            for column in {"pair", "series"} & set(part[name]):
                part[name][column] = part[name][column] + f", run {i}"
            part[name].insert(0, "run", f"run {i}")
        both[name] = pd.concat([part[name] for part in parts], ignore_index=True)
    text = said(both)
    assert text.startswith("These runs measured")
    assert "shift, run 0 ; shift, run 1 (3 pairs each" in text
    assert text.count("One sample:") == 2  # the shifts, and the third sampler


def test_a_mean_without_third_moment_breaks_no_claim() -> None:
    content = tables()
    values = content["values"]
    values.loc[(values["estimator"] == "k1") & (values["truth"] == 0.5), "bias"] = 1.0
    assert "k1 claims to be unbiased and is off" in said(content)
    content["pairs"].loc[content["pairs"]["kl_qp"] == 0.5, "tail_index"] = 0.45
    assert "Claims: none is broken" in said(content)
