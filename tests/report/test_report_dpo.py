"""The page of DPO: the question and the numbers that answer it, figures and tables of each run."""

import math
import re

import pytest
from report_runs import write

from klbench.report import combine, render
from klbench.report.blocks import Figure
from klbench.report.sources import read
from klbench.studies.dpo.columns import (
    DPO_CURVES,
    DPO_ESTIMATES,
    DPO_FINAL,
    DPO_OPTIMA,
    DPO_RATES,
    DPO_SEEN,
    KTO_POINTS,
    TABLES,
    TRAINING,
)
from klbench.studies.dpo.section import SECTION

SIZES, STEPS = [64.0, 1024.0, math.inf], [0, 10, 20]
LAST = {"dpo": (2.0, 0.5, 0.1), "f-dpo chi2": (1.0, 0.3, 0.4)}
FIGURES = (
    "dpo-pairs",
    "dpo-places",
    "dpo-curves",
    "dpo-forest",
    "dpo-optima",
    "dpo-implicit",
    "dpo-estimates",
)


def content(enough=1024.0, status="ok", losses=tuple(LAST)):
    """Tables of two losses that were trained on 64, 1,024 and all pairs."""
    plan = [(loss, size, LAST[loss][k]) for loss in losses for k, size in enumerate(SIZES)]
    steps = [(loss, size, step) for loss, size, _ in plan for step in STEPS]
    arms, pairs, last = (list(each) for each in zip(*plan, strict=True))
    place = [
        "nearest" if value == min(LAST[loss][k] for loss in losses) else "further"
        for loss in losses
        for k, value in enumerate(LAST[loss])
    ]
    at = {
        "arm": [each[0] for each in steps],
        "pairs": [each[1] for each in steps],
        "step": [each[2] for each in steps],
    }
    seen = {
        "pairs": 1024,
        "samples_of": ["policy", "pairs"],
        "estimator": ["k1", "k1 weighted"],
        "level": "sequence",
    }
    tables = (
        TRAINING.example(
            **at,
            seed=1,
            status=[status if loss != "dpo" and step == 20 else "ok" for loss, _, step in steps],
        ),
        DPO_FINAL.example(
            arm=arms, pairs=pairs, last=last, place=place, beta=0.2, seeds=4, smoothing=0.0
        ),
        DPO_CURVES.example(**at),
        DPO_RATES.example(arm=list(losses), enough_pairs=enough),
        DPO_OPTIMA.example(
            arm=list(losses),
            divergence="chi2",
            start=1.5,
            reached_kl_to_optimum=0.3,
            reached_kl=0.2,
        ),
        DPO_ESTIMATES.example(
            **{
                key: value if isinstance(value, (int, str)) else value * 2
                for key, value in seen.items()
            },
            step=[10, 10, 20, 20],
        ),
        DPO_SEEN.example(**seen),
    )
    always = [schema.table for schema in TABLES if not schema.optional]
    return dict(zip(always, tables, strict=True))


def test_the_verdict_has_the_number_of_pairs_that_is_enough() -> None:
    found = SECTION.lead(content())
    assert "which loss" in found.question
    for number in ("1,024 pairs", "0.50", "1.5", "0.10"):
        assert number in found.verdict
    assert len(found.more) <= 3


@pytest.mark.parametrize(
    ("enough", "words"), [(math.inf, "Only with all pairs"), (math.nan, "with 64 pairs")]
)
def test_the_verdict_where_few_pairs_are_not_enough(enough, words) -> None:
    assert words in SECTION.lead(content(enough)).verdict


def test_the_nearest_loss_is_named_by_number_of_pairs() -> None:
    said = "".join(SECTION.lead(content()).more)
    assert "f-dpo chi2</code> with 64 and 1,024 pairs" in said
    assert "dpo</code> with all pairs" in said


def test_one_loss_is_compared_with_no_other() -> None:
    tables = content(losses=("dpo",))
    assert "which loss" not in SECTION.lead(tables).question
    assert not {"dpo-places", "dpo-forest"} & {
        block.name for block in SECTION.build(tables) if isinstance(block, Figure)
    }


def test_the_reference_point_of_kto_stands_beside_the_kl() -> None:
    points = KTO_POINTS.example(
        pairs=math.inf, step=[0, 20], kl=[0.0, 0.9], point=[0.0, 0.0], mismatched=[0.0, -2.7]
    )
    found = content() | {"kto_points": points}
    said = " ".join(map(str, SECTION.lead(found).more))
    assert "With all pairs it ends at 0 nats where the KL is 0.9" in said
    assert "log q/p of −2.7 in the mean" in said
    assert "Is KTO" in str(SECTION.build(found))
    assert "KTO" not in str(SECTION.build(content()))


def test_one_number_of_pairs_is_no_line() -> None:
    tables = content()
    tables["dpo_final"] = tables["dpo_final"][tables["dpo_final"]["pairs"] == 64.0]
    assert "ranked pairs" not in "".join(panel.svg for panel in SECTION.lead(tables).figure.panels)
    assert "dpo-implicit" not in {
        block.name for block in SECTION.build(tables) if isinstance(block, Figure)
    }


def test_what_diverged_is_a_warning() -> None:
    (warning,) = (
        block
        for block in SECTION.build(content(status="diverged at step 12: the loss is nan"))
        if getattr(block, "tone", "") == "warning"
    )
    assert "3 replicas diverged" in warning.text
    assert "seed 1, diverged at step 12: the loss is nan" in warning.text


def test_one_seed_has_no_intervals(make_run) -> None:
    tables = content()
    for table in tables.values():
        table[[column for column in table if column.endswith(("_low", "_high"))]] = math.nan
    assert not re.search(
        r"\bnan\b", render(make_run("dpo", tables, study="dpo")).read_text(encoding="utf-8")
    )


def test_figures_and_tables(make_run) -> None:
    page = render(make_run("dpo", content(), study="dpo"))
    assert sorted(path.stem for path in (page.parent / "figures").glob("*.svg")) == sorted(FIGURES)
    text = page.read_text(encoding="utf-8")
    assert text.count("<table") == 3
    assert "Other tables" not in text


@pytest.mark.parametrize(
    "missing",
    [schema.table for schema in TABLES if schema is not DPO_FINAL and not schema.optional],
)
def test_a_table_that_is_missing_costs_its_own_part_only(make_run, missing: str) -> None:
    tables = content()
    del tables[missing]
    text = render(make_run("dpo", tables, study="dpo")).read_text(encoding="utf-8")
    assert f"The run has no table {missing}." in text
    assert 'id="figure-dpo-pairs"' in text


def test_several_runs_stand_apart(tmp_path) -> None:
    folders = [
        write(tmp_path / str(beta), content(), config=f"beta: {beta}\n", study="dpo")
        for beta in (0.2, 0.1)
    ]
    out = tmp_path / "both.html"
    combine(folders, out)
    text = out.read_text(encoding="utf-8")
    opening = text[text.index('<section class="opening">') : text.index("</section>")]
    assert all(
        f"<h4>beta={beta}</h4>" in opening and f"beta={beta} (all pairs)" in opening
        for beta in (0.2, 0.1)
    )
    assert text.count('id="figure-dpo-curves') == 2


def test_tables_of_an_earlier_version_get_their_verdicts(make_run) -> None:
    new = {
        schema.table: [column.name for column in schema.columns if column.since]
        for schema in TABLES
    }
    old = {name: table.drop(columns=new[name]) for name, table in content().items()}
    final = old["dpo_final"].drop(columns=["best_difference_seeds", "stopped_difference_seeds"])
    old["dpo_final"] = final.rename(columns={"last_difference_seeds": "difference_seeds"}).assign(
        difference_seeds=3
    )
    folder = make_run("dpo", old, study="dpo")
    found = read(folder).tables
    assert list(found["dpo_final"]["stopped_difference_seeds"]) == [3] * 6
    assert list(found["dpo_final"]["place"][:3]) == [
        "too few seeds to tell",
        "too few seeds to tell",
        "nearest",
    ]
    assert set(found["dpo_final"]["start_outcome"]) == {"too few seeds to tell"}
    assert found["dpo_rates"]["enough_pairs"].isna().all()
    assert set(found["dpo_seen"]["outcome"]) == {"too high"}
    assert "lacks the column" not in render(folder).read_text(encoding="utf-8")
