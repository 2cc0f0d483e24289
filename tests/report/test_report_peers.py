"""The page of the comparison with other libraries says what the tables hold."""

import pandas as pd
from opening import plain, said

from klbench.report import render
from klbench.studies.peers.columns import PEERS, SPEED, VERDICTS
from klbench.studies.peers.section import build, lead
from klbench.studies.peers.verdicts import complete, verdicts

GOOD = {
    "subject": "k3",
    "version": "1.0",
    "dtype": "float32",
    "max_rel_error": 1e-7,
    "median_rel_error": 1e-8,
    "frac_wrong": 0.0,
    "n_nonfinite": 0,
    "max_gradient_rel_error": 1e-7,
    "frac_flat": 0.0,
    "n_nan_gradient": 0,
    "status": "ok",
}


SHOWN = ["functions", "lost_by", "least_lost", "own_error", "worst_error"]


def tables() -> dict[str, pd.DataFrame]:
    own = [
        PEERS.example(**GOOD | {"library": "klbench", "name": "k3", "regime": each})
        for each in ("near", "extreme")
    ]
    other = GOOD | {
        "library": "<b>lib",
        "name": "low_var_kl",
        "twin": "k3_verl",
        "twin_difference": 0.0,
    }
    near = PEERS.example(
        **other | {"regime": "near", "max_rel_error": 85.0, "median_rel_error": 0.13}
    )
    far = PEERS.example(
        **other | {"regime": "extreme", "frac_wrong": 1.0, "frac_flat": 0.5, "n_nan_gradient": 3}
    )
    gone = PEERS.example(
        subject="k3", library="trl", name="GRPO", status="skipped: trl is not installed"
    )
    key = {"subject": "k3", "dtype": "float32", "pass": "forward"}
    speed = [
        SPEED.example(
            **key
            | {
                "library": library,
                "name": name,
                "ratio": ratio,
                "ratio_q25": ratio,
                "ratio_q75": ratio,
            }
        )
        for library, name, ratio in (("klbench", "k3", 1.0), ("<b>lib", "low_var_kl", 0.25))
    ]
    return {"peers": pd.concat([*own, near, far, gone]), "peers_speed": pd.concat(speed)}


def test_the_lead_names_whose_values_rounding_takes() -> None:
    opening = lead(complete(tables()))
    assert (
        "half of the k3 values of <b>lib are off by 13 % or more in float32; klbench's by 1.0×10⁻⁸."
        in plain(str(opening.verdict).replace("&lt;", "&amp;lt;")).replace("&lt;", "<")
    )
    assert "Extreme inputs: values off by 1 % or more in" in said(opening)
    assert [panel.title for panel in opening.figure.panels] == ["k3"]
    assert "<b>lib" not in str(opening.verdict)


def test_where_all_are_right_it_says_so() -> None:
    fine = tables()
    fine["peers"] = fine["peers"][fine["peers"]["library"] == "klbench"]
    said_of = said(lead(complete(fine)))
    assert "all functions are within 1.0×10⁻⁷ of the exact values in float32" in said_of


def test_what_most_functions_lose_comes_first() -> None:
    near = GOOD | {"name": "f", "regime": "near"}
    rows = [
        near | {"subject": "k1", "library": "a", "median_rel_error": 0.5},
        near | {"subject": "k3", "library": "a", "median_rel_error": 0.2},
        near | {"subject": "k3", "library": "b", "median_rel_error": 0.04},
        near | {"subject": "k3", "library": "c", "median_rel_error": 0.0099, "max_rel_error": 3.0},
        near | {"subject": "k3", "library": "klbench", "median_rel_error": 0.02},
        near | {"subject": "k3", "library": "d", "median_rel_error": 0.9, "status": "failed: x"},
        near | {"subject": "k3", "library": "a", "median_rel_error": 0.9, "regime": "far"},
    ]
    found = verdicts(pd.concat([PEERS.example(**row) for row in rows])).set_index("subject")
    assert found["place"].to_dict() == {"k1": 2, "k3": 1}
    assert found["lost"].to_dict() == {"k1": 1, "k3": 2}
    assert found.loc["k3", SHOWN].to_list() == [3, "a, b", 0.04, 0.02, 3.0]
    assert pd.isna(found.loc["k1", "own_error"])
    VERDICTS.check(found.reset_index())


def test_accuracy_and_time_stand_in_one_table() -> None:
    skipped, table = build(tables())
    assert skipped.tone == "warning"
    assert "GRPO (trl is not installed). make peers, in a checkout, has them all." in plain(
        skipped.text
    )
    assert len({len(row) for row in table.rows} | {len(table.columns)}) == 1
    titles = [str(column.title) for column in table.columns]
    other = dict(zip(titles, table.rows[1], strict=True))
    assert other["Value, near"].value == 85.0
    assert other["Value, near"].tone == "bad"
    assert other["Zero, extreme"].tone == other["NaN"].tone == "bad"
    assert str(other["Forward"].text).startswith("0.25 (")
    assert "verl" in str(other["Same as"].text)


def test_without_any_library_it_says_so(make_run) -> None:
    page = render(
        make_run(content={"peers": tables()["peers"].iloc[-1:]}, study="peers")
    ).read_text(encoding="utf-8")
    assert "Nothing was compared" in page
    assert "GRPO" in page
