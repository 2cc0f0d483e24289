"""Trainers release by release: what the audits say, beside the data, and what changed, in words."""

import pytest
from audited import CORRECTED, PLAIN, audited

import klbench
from klbench.engine.cli import command_line
from klbench.report.sections import part
from klbench.studies.trainers.changes import changes
from klbench.studies.trainers.columns import CHANGES, LAW, TRAINERS


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trainers")
    old = audited(folder / "old", "1.9.2", "false")
    new = audited(folder / "new")
    return klbench.run("trainers", f"audits=[{old},{new}]", "chains=1", f"out={folder / 'run'}")


def test_the_matrix_has_the_audit_and_the_data(run) -> None:
    rows = TRAINERS.rows(run.tables[TRAINERS.table])
    assert [(row["version"], row["options"]) for row in rows if row["default"] == "yes"] == [
        ("1.9.2", PLAIN),
        ("1.16.0", CORRECTED),
    ]
    assert {row["agrees"] for row in rows} == {"yes"}
    assert {row["dead"] for row in rows if row["options"] == PLAIN} == {
        "dead in 1.9.2",
        "dead in 1.16.0",
    }
    near = {row["combination"]: row["rel_bias_4"] for row in rows}
    assert near["k3_ratio_loss"] < near["k3_loss"]


def test_the_law_is_the_recursions_at_every_length(run) -> None:
    rows = LAW.rows(run.tables[LAW.table])
    assert len(rows) == 10
    assert all(0.0 < row["rel_bias"] < 1.0 for row in rows)


def test_the_default_penalty_that_changed_is_said_in_words(run) -> None:
    said = [row["change"] for row in CHANGES.rows(run.tables[CHANGES.table])]
    assert said[0] == (
        "the default penalty is k3_ratio_loss, it was k3_loss; its gradient changed from that of"
        " KL(p‖q), each token for itself to that of KL(q‖p), each token for itself"
    )
    assert "trl_grpo: use_bias_correction_kl is true by default, it was false" in said
    assert any("now dead in 1.16.0; no longer dead in 1.9.2" in each for each in said)


def test_nothing_is_said_where_nothing_changed(run) -> None:
    rows = TRAINERS.rows(run.tables[TRAINERS.table])[2:]
    again = [row | {"version": "1.17.0"} for row in rows]
    (only,) = changes([*rows, *again], [])
    assert (only["what"], only["before"], only["version"]) == ("nothing", "1.16.0", "1.17.0")
    assert "the default penalty is still k3_ratio_loss" in only["change"]


def test_a_newer_release_is_compared_by_number_not_by_letter(run) -> None:
    found = CHANGES.rows(run.tables[CHANGES.table])
    assert {(row["before"], row["version"]) for row in found} == {("1.9.2", "1.16.0")}


def test_the_page_opens_with_the_current_release_alone(run) -> None:
    lead = part("trainers", run.tables).lead
    assert lead is not None
    assert "Of 2 KL functions and settings" in str(lead.verdict)
    assert "trl 1.16.0" in str(lead.verdict)
    assert "1.9.2" not in str(lead.verdict)
    assert lead.figure is not None
    assert "trl 1.16.0, the default penalty is k3_ratio_loss" in str(lead.more[0])


def test_a_folder_without_tables_is_one_line(capsys, tmp_path) -> None:
    code = command_line(["+exp=trainers", f"audits=[{tmp_path}]", f"out={tmp_path / 'run'}"])
    err = capsys.readouterr().err
    assert code == 2
    assert "no table audit" in err or "no table trainers_defaults" in err
    assert "Traceback" not in err
