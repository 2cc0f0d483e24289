"""The ranking and the verdicts follow from the tables, and the page says them.

Other numbers, other sentences.
"""

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
from klbench.report.blocks import Block, Details, Figure, Lead, Paragraph, Table
from klbench.report.writing import made
from klbench.studies.value import run as value_run
from klbench.studies.value import section
from klbench.studies.value.columns import ALL, TWO, UNBIASED, common_batch
from klbench.studies.value.ranking import complete, ranked
from klbench.studies.value.run import ValueOptions
from klbench.studies.value.section_data import Data

Content = dict[str, pd.DataFrame]


def plain(text: object) -> str:
    words = html.unescape(re.sub(r"<[^>]+>", " ", str(text).replace("<wbr>", ""))).replace(
        "\xa0", " "
    )
    return re.sub(r"\s+", " ", words).strip().replace(" ,", ",").replace(" .", ".")


def won(
    content: Content, among: str = ALL, batch: int = 1, series: str = "shift"
) -> list[tuple[str, float, float]]:
    """Winner, and ends of the range of KL."""
    table = ranked(content)["ranges"]
    rows = table[
        (table["among"] == among) & (table["batch"] == batch) & (table["series"] == series)
    ]
    return list(
        zip(rows["estimator"], rows["kl_low"].round(4), rows["kl_high"].round(4), strict=True)
    )


def verdicts(content: Content) -> dict[str, str]:
    table = ranked(content)["estimators"]
    return dict(zip(table["estimator"], table["verdict"], strict=True))


def lead(content: Content) -> Lead:
    return section.lead(ranked(content))


def blocks(content: Content) -> list[Block]:
    found = made(section.build(ranked(content)))
    return [
        *found,
        *(block for each in found if isinstance(each, Details) for block in each.blocks),
    ]


def warnings(content: Content) -> str:
    return plain(
        " ".join(
            str(block.text)
            for block in blocks(content)
            if isinstance(block, Paragraph) and block.tone == "warning"
        )
    )


def measured(
    pair: Any, *chosen: str, samples: int = 20_000, batches: tuple[int, ...] = (1, 64)
) -> Content:
    options = ValueOptions(pairs=(pair,), estimators=chosen, samples=samples, batches=batches)
    return value_run.run(options, Context(0))


def swapped(content: Content, a: str, b: str) -> Content:
    values = content["values"].copy()
    values["estimator"] = values["estimator"].replace({a: b, b: a})
    return content | {"values": values, "differences": differences(values)}


def test_the_winner_is_named_with_its_range_and_margin() -> None:
    assert won(tables()) == [("k3", 0.02, 0.5), ("k1", 2.0, 2.0)]
    assert won(tables(), TWO) == [("k3", 0.02, 0.5), ("k1", 2.0, 2.0)]
    table = ranked(tables())["ranges"]
    row = table[(table["among"] == TWO) & (table["batch"] == 1)].iloc[0]
    assert [row["pair"], row["next"]] == ["N(0, 1) ‖ N(0.2, 1)", "k1"]
    assert [round(row[name], 4) for name in ("error", "next_error", "behind", "behind_se")] == [
        0.0285,
        0.2,
        0.1715,
        0.0,
    ]


def test_the_page_opens_with_the_winners() -> None:
    found = lead(tables())
    assert found.question == "Which estimator of KL(q‖p) has the least error on Gaussian pairs?"
    assert (
        plain(found.verdict)
        == "With one sample at a time, k3 has the least error on 2 of 3 pairs, k1 on 1."
    )
    assert "the rmse of k3 is 0.0285 nats" in plain(found.more[0])
    assert [panel.title for panel in found.figure.panels] == ["shift"]
    assert {"k1", "k2", "k3"} <= {entry.label for entry in found.figure.legend}


def test_swapping_the_winner_swaps_the_rows_and_the_sentence() -> None:
    content = swapped(tables(), "k1", "k3")
    assert won(content, TWO) == [("k1", 0.02, 0.5), ("k3", 2.0, 2.0)]
    assert "k3 has the least error on 1" not in plain(lead(content).verdict)


def test_a_biased_winner_counts_among_all_alone() -> None:
    few = tables([0.5, 0.6], {"k1": FORMS["k1"], "k2": lambda t: (0.0, 0.1)})
    assert won(few) == [("k2", 0.5, 0.6)]
    assert won(few, UNBIASED) == [("k1", 0.5, 0.6)]
    assert "Of those that claim to be unbiased, k1 has the least error on both pairs." in map(
        plain, lead(few).more
    )


def test_a_tie_goes_to_the_unbiased_one() -> None:
    assert won(swapped(tables(), "k2", "k3"))[0][0] == "k3"  # within 0.5 % of k2


def test_names_of_the_same_numbers_count_once() -> None:
    for forms in (FORMS, dict(reversed(FORMS.items()))):
        content = tables(forms=forms)
        assert "bregman_kl_qp" not in {name for name, _, _ in won(content)}
        assert "bregman_kl_qp" not in set(
            ranked(content)["ranges"]["next"][ranked(content)["ranges"]["estimator"] == "k3"]
        )


def test_rows_that_cannot_be_trusted_win_nothing() -> None:
    content = tables()
    content["values"].loc[
        content["values"]["estimator"].isin(["k3", "bregman_kl_qp"]), "status"
    ] = "infinite variance"
    assert "k3" not in {name for name, _, _ in won(content)}
    assert "infinite variance (18)" in warnings(content)


def test_what_cannot_be_trusted_is_counted() -> None:
    assert (
        warnings(tables())
        == "6 of 42 results are not to be trusted: heavy tail (6). They are drawn hollow, and"
        " ranked only where their exact error is known."
    )


def test_a_bias_that_more_samples_do_not_cure() -> None:
    def caption(content: Content) -> str:
        return next(
            plain(block.caption)
            for block in blocks(content)
            if getattr(block, "name", "") == "error-by-batch"
        )

    assert "In batches of 256 the bias exceeds the noise of k2 on 2 of 3 pairs." in caption(
        tables()
    )
    assert "exceeds the noise" not in caption(tables(forms=FORMS | {"k2": FORMS["k1"]}))


def test_no_claim_is_broken_by_honest_numbers() -> None:
    assert not any(verdict.startswith("broken") for verdict in verdicts(tables()).values())
    assert "broken" not in warnings(tables())


@pytest.mark.parametrize(
    ("change", "sentence", "verdict"),
    [
        ({"bias": 1.0}, "k3 claims to be unbiased and is off by", "broken: biased"),
        (
            {"frac_negative": 0.01},
            "k3 claims never to be negative and was in 1 % of the batches",
            "broken: negative",
        ),
    ],
)
def test_a_broken_claim_is_named(change: dict[str, float], sentence: str, verdict: str) -> None:
    content = tables()
    values = content["values"]
    values.loc[(values["estimator"] == "k3") & (values["truth"] == 0.5), list(change)] = list(
        change.values()
    )
    assert verdicts(content)["k3"] == verdict
    assert sentence in warnings(content)


def test_samples_of_a_third_distribution_break_no_claim_of_the_unweighted() -> None:
    table = ranked(tables())["estimators"].set_index("estimator")
    assert table.loc["k1", ["verdict", "judged"]].tolist() == ["kept", 9]
    assert table.loc["k1_weighted", "judged"] == 3
    figure = next(
        block for block in blocks(tables()) if getattr(block, "name", "") == "third-sampler"
    )
    assert "k1 0.41" in figure.panels[0].alt


def test_what_q_never_samples_breaks_no_claim() -> None:
    """q = (.6, .4, 0), p = (.5, .3, .2): k3 is off by 0.2 of 0.2245."""
    content = measured(
        pairs.get("categorical")(q={"probs": [0.6, 0.4, 0.0]}, p={"probs": [0.5, 0.3, 0.2]}),
        "k1",
        "k3",
    )
    assert set(verdicts(content).values()) == {"not judged: no row to be trusted"}
    (panel,) = next(
        block for block in blocks(content) if getattr(block, "name", "") == "third-sampler"
    ).panels
    assert "20 %" in panel.detail
    assert "k3 −0.89" in panel.alt


def test_too_few_samples_judge_nothing() -> None:
    content = tables()
    values = content["values"]
    values.loc[values["estimator"] == "k3", "bias"] = 1.0
    assert verdicts(content)["k3"] == "broken: biased"
    values["samples"] = 50
    assert verdicts(content)["k3"] == "not judged: no row to be trusted"


def test_noise_that_the_samples_missed_judges_no_estimator_of_unknown_noise() -> None:
    content = tables()
    values = content["values"]
    odd = (values["estimator"] == "k3") & (values["truth"] == 0.5)
    values.loc[odd, ["bias", "exact_std"]] = [1.0, float("nan")]
    assert verdicts(content)["k3"] == "broken: biased"
    values.loc[(values["estimator"] == "k1") & (values["truth"] == 0.5), "std_z"] = -9.0
    assert verdicts(content)["k3"] == "kept"


def test_a_known_exact_error_ranks_whatever_the_tail() -> None:
    """N(0, 1) against N(0, 1.25^2).

    k_lambda's exact std is 0.1262 and k1's 0.2546, and the ratio has no third moment.
    """
    pair = pairs.get("gaussian")(q={"std": 1.0}, p={"std": 1.25})
    content = measured(pair, "k1", "k3", "k_lambda", "k_fitted", samples=200_000, batches=(1, 1024))
    assert set(content["values"]["status"]) == {
        "ok",
        "heavy tail",
        "skipped: needs batches of at least 2",
    }
    table = content["ranges"][content["ranges"]["among"] == ALL].set_index("batch")
    assert table.loc[1, ["estimator", "next"]].tolist() == ["k_lambda", "k1"]
    assert [round(table.loc[1, name], 3) for name in ("error", "next_error", "behind")] == [
        0.126,
        0.255,
        0.128,
    ]
    assert round(table.loc[1024, "error"], 5) == 0.00394
    both = content["ranges"][content["ranges"]["among"] == TWO]
    assert both["estimator"].tolist() == ["k1", "k1"]
    alone = content | {
        "values": content["values"][content["values"]["estimator"].isin(["k1", "k_fitted"])]
    }
    again = ranked(alone)["ranges"]
    assert again[(again["among"] == ALL) & (again["batch"] == 1024)]["unranked"].tolist() == [
        "k_fitted"
    ]


def test_a_difference_within_its_interval_ends_no_range() -> None:
    content = tables([0.5, 2.0])
    content["values"]["exact_std"] = float("nan")
    content["values"]["status"] = "ok"
    assert won(content, TWO) == [("k3", 0.5, 0.5), ("k1", 2.0, 2.0)]
    content["differences"]["rmse_difference_se"] = 10.0
    assert won(content, TWO) == [("k1", 0.5, 2.0)]


def test_a_run_without_pairs_of_known_divergence_ranks_nothing() -> None:
    content = tables()
    content["values"][["truth", "rmse", "exact_bias"]] = float("nan")
    content["pairs"]["kl_qp"] = float("nan")
    assert ranked(content)["ranges"].empty
    assert "no estimator is ranked" in plain(lead(content).verdict)


def test_a_line_joins_only_pairs_that_differ_steadily() -> None:
    content = tables([0.02, 0.5, 2.0])
    parameters = [{"mean": 0.2}, {"mean": 1.0}, {"mean": 2.0}]

    def family(changed: list[dict[str, Any]]) -> bool:
        texts = [json.dumps({"p": each}) for each in [*changed, {"mean": 0.0}]]
        data = Data("", content | {"pairs": content["pairs"].assign(parameters=texts)})
        return data.is_one_family(data.series["shift"])

    assert family(parameters)
    assert family(parameters[::-1])
    assert not family([parameters[1], parameters[0], parameters[2]])
    assert not family([{"probs": [0.5, 0.5]}, *parameters[1:]])
    assert not family([{"name": each} for each in "abc"])


def test_the_only_estimator_is_not_called_the_best() -> None:
    content = measured(pairs.get("gaussian")(p={"mean": 0.5}), "k3")
    found = lead(content)
    assert found.question == "How large is the error of k3 on N(0, 1²) ‖ N(0.5, 1²)?"
    assert plain(found.verdict).startswith(
        "With one sample at a time, k3 has an rmse of 0.184 nats"
    )


def test_a_single_pair_is_drawn_down_a_list_of_names() -> None:
    content = measured(
        pairs.get("gaussian")(p={"mean": 0.5}), "k1", "k3", "k_fitted", batches=(1, 4, 64)
    )
    found = lead(content)
    assert common_batch(content["values"]) == 4
    assert "on N(0, 1²) ‖ N(0.5, 1²)?" in found.question
    assert [panel.title for panel in found.figure.panels] == [
        "One sample",
        "Batches of 4",
        "Batches of 64",
    ]
    assert "k_fitted" in found.figure.panels[1].alt
    names = {block.name for block in blocks(content) if isinstance(block, Figure)}
    assert names == {"error-by-batch", "errors", "coverage"}


def test_every_estimator_that_is_named_is_drawn_and_what_is_left_out_is_said() -> None:
    eight = {f"own_{i}": lambda t, i=i: (0.0, (1 + 0.1 * i) * t**0.5) for i in range(8)}
    found = lead(tables(forms=eight))
    assert {entry.label for entry in found.figure.legend} == set(eight)
    assert "Not drawn" not in plain(found.figure.caption)
    ten = eight | {"k1": FORMS["k1"], "k3": FORMS["k3"]}
    found = lead(tables(forms=ten))
    labels = {entry.label for entry in found.figure.legend}
    assert len(labels) == 8
    assert {"k1", "k3"} < labels
    for name in set(ten) - labels:
        assert name in plain(found.figure.caption)


def test_coverage_is_a_heat_map_and_a_table() -> None:
    found = blocks(tables())
    figure = next(block for block in found if getattr(block, "name", "") == "coverage")
    assert "k3 94, 94" in figure.panels[0].alt
    table = next(
        block for block in found if isinstance(block, Table) and "hold the truth" in block.caption
    )
    assert [column.title for column in table.columns][2:] == ["16", "256"]


def test_samples_fewer_than_a_batch_are_said() -> None:
    def notes(content: Content) -> str:
        return " ".join(
            plain(block.text) for block in blocks(content) if isinstance(block, Paragraph)
        )

    content = tables()
    assert "follow from those of single samples" not in notes(content)
    content["values"]["samples"] = 100
    assert "follow from those of single samples" in notes(content)


def test_several_runs_lead_together() -> None:
    parts = [ranked(tables()), ranked(tables())]
    both = {}
    for name in parts[0]:
        for i, part in enumerate(parts):
            for column in {"pair", "series"} & set(part[name]):
                part[name][column] = part[name][column] + f", run {i}"
            part[name].insert(0, "run", f"run {i}")
        both[name] = pd.concat([part[name] for part in parts], ignore_index=True)
    found = section.lead(both)
    assert (
        plain(found.verdict)
        == "With one sample at a time, k3 has the least error on 4 of 6 pairs, k1 on 2."
    )
    assert [panel.title for panel in found.figure.panels] == ["shift, run 0", "shift, run 1"]
    titles = [block.caption for block in made(section.build(both)) if isinstance(block, Table)]
    assert [title for title in titles if "Claims" in title] == [
        f"Claims beside measurements, run {i}" for i in (0, 1)
    ]


def test_a_mean_without_third_moment_breaks_no_claim() -> None:
    content = tables()
    values = content["values"]
    values.loc[(values["estimator"] == "k1") & (values["truth"] == 0.5), "bias"] = 1.0
    assert verdicts(content)["k1"] == "broken: biased"
    content["pairs"].loc[content["pairs"]["kl_qp"] == 0.5, "tail_index"] = 0.45
    assert verdicts(content)["k1"] == "kept"


def test_tables_that_are_not_as_declared_are_left_alone() -> None:
    content = tables()
    assert complete({"values": content["values"]}).keys() == {"values"}
    assert "ranges" not in complete(content | {"pairs": content["pairs"].drop(columns="kind")})
