"""The run folder and page of audits, and the audit of trainers' functions that are installed."""

import json
import re
import sys

import pandas as pd
import pytest
from test_command import RIGHT, WRONG, run

from klbench import studies
from klbench.audit import field, findings
from klbench.report import render
from klbench.studies.audit.columns import TABLES
from klbench.types import ConfigError

LIBRARY = "tinker-cookbook"
"""A library with a single function among those that are known."""
METRICS = """
import no_such_package
from .masks import only

def compute_kl_sample_train(data_D, training_logprobs_D):
    for sampling_logprobs_actions, training_logprobs_actions in data_D:
        logprob_diff = sampling_logprobs_actions - training_logprobs_actions
    return logprob_diff

def masked(logprobs, ref_logprobs, mask):
    return only(logprobs - ref_logprobs, mask)
"""
MASKS = "import torch\n\ndef only(x, mask):\n    return torch.where(mask, x, 0.0)\n"


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A distribution whose modules cannot be imported, and no other of those that are known."""
    for file, text in {
        "tinker_cookbook/__init__.py": "",
        "tinker_cookbook/rl/__init__.py": "",
        "tinker_cookbook/rl/metrics.py": METRICS,
        "tinker_cookbook/rl/masks.py": MASKS,
        "tinker_cookbook-0.9.dist-info/METADATA": "Metadata-Version: 2.1\nName: tinker-cookbook\nVersion: 0.9\n",
    }.items():
        path = tmp_path / "site" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    real = field.Place.version.fget
    monkeypatch.setattr(
        field.Place, "version", property(lambda self: real(self) if self.library == LIBRARY else "")
    )
    yield tmp_path
    for name in [each for each in sys.modules if each.startswith("tinker_cookbook")]:
        del sys.modules[name]


def opening(page):
    """The words of a page before its figure."""
    text = page.read_text(encoding="utf-8")
    before = text[text.index("<h1") : text.index("<svg")]
    return re.sub(r"<[^>]+>", " ", before).split()


def test_an_audit_leaves_a_run_folder_that_is_rendered_again(capsys, tmp_path):
    out = tmp_path / "run"
    code, said, _ = run(capsys, f"{WRONG}:k2_without_half", "--out", out)
    page = out / "index.html"
    assert code == 1
    assert said.splitlines()[-1] == str(page)
    info = json.loads((out / "run.json").read_text())
    assert (info["status"], info["study"]) == ("done", "audit")
    assert info["command"].endswith(f"k2_without_half --out {out}")
    tables = {
        each.table: pd.read_parquet(out / "tables" / f"{each.table}.parquet") for each in TABLES
    }
    for each in TABLES:
        each.check(tables[each.table])
        assert (out / "tables" / f"{each.table}.csv").is_file()
    row = tables["audit"].iloc[0]
    assert (row["identified"], row["scale"], row["errors"], row["verdict"]) == (
        "k2",
        2.0,
        1,
        "wrong",
    )
    values = tables["audit_values"]
    assert set(values["right_name"]) == {"k2"}
    assert values["value"].to_numpy() == pytest.approx(2.0 * values["right"].to_numpy())
    assert values["right"].to_numpy() == pytest.approx(0.5 * values["log_ratio"].to_numpy() ** 2)
    assert (out / "figures" / "audit.svg").is_file()
    words = opening(page)
    assert " ".join(words).startswith("Is k2_without_half right?")
    assert "the half is missing" in " ".join(words)
    assert len(words) <= 160
    before = page.read_text()
    assert render(out) == page
    assert page.read_text() == before


def test_a_folder_that_is_there_is_refused_before_anything_is_imported(
    capsys, tmp_path, monkeypatch
):
    monkeypatch.setattr("klbench.audit.isolated.audit", None)
    (tmp_path / "file").write_text("mine")
    for out, why in (
        (tmp_path, "exists already"),
        (tmp_path / "file" / "x", "cannot be written to"),
    ):
        code, _, err = run(capsys, f"{RIGHT}:k3", "--out", out)
        assert code == 2
        assert err.startswith(f"klbench: --out {out}: ")
        assert why in err
        assert err.count("\n") == 1


def test_nothing_is_imported_because_a_configuration_says_so():
    study = studies.get("audit")
    options = study.options.model_validate({"target": "os:abort", "as": "kl"})
    with pytest.raises(ConfigError, match="klbench audit os:abort --out DIR"):
        study.run(options, None)


def test_every_known_function_has_a_target_of_its_own():
    targets = [place.target for place in field.places()]
    assert len(set(targets)) == len(targets) > 100
    assert len({place.library for place in field.places()}) == 9


def test_a_function_is_imported_or_taken_from_its_file(installed):
    place = field.Place(LIBRARY, "tinker_cookbook/rl/masks.py", "only")
    function, how = place.load()
    assert how == findings.IMPORTED
    assert function is sys.modules["tinker_cookbook.rl.masks"].only
    function, how = field.Place(LIBRARY, "tinker_cookbook/rl/metrics.py", "masked").load()
    assert how == findings.FROM_FILE
    assert function(1.0, 3.0, field.losses.torch.tensor(True)) == -2.0
    for file, name in (("rl/metrics.py", "gone"), ("rl/none.py", "masked")):
        with pytest.raises(ConfigError, match=f"{LIBRARY} 0.9 has no "):
            field.Place(LIBRARY, f"tinker_cookbook/{file}", name).load()


def test_what_is_installed_is_audited_and_the_page_says_how_it_was_taken(capsys, installed):
    out, file = installed / "run", installed / "audit.json"
    code, said, _ = run(capsys, "--installed", "--out", out, "--json", file)
    assert code == 0, said
    assert "k1, estimates KL(q‖p)" in said
    assert "taken from its file" in said
    (found,) = json.loads(file.read_text())["audits"]
    assert found["identified"] == "k1"
    table = pd.read_parquet(out / "tables" / "audit.parquet")
    assert list(table["library"]) == [LIBRARY]
    assert list(table["version"]) == ["0.9"]
    assert list(table["taken"]) == [findings.FROM_FILE]
    assert "by the syntax tree" in " ".join((out / "index.html").read_text().split())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "expected a TARGET, or --installed in its place"),
        ([f"{RIGHT}:k3", "--installed"], "expected a TARGET, or --installed in its place"),
        (["--installed", "--args", "logprobs"], "--args: is of one target, not of --installed"),
        (["--installed", "--expect", "k3"], "--expect: is of one target, not of --installed"),
    ],
)
def test_installed_and_a_target_exclude_each_other(capsys, arguments, said):
    code, _, err = run(capsys, *arguments)
    assert code == 2
    assert said in err


def test_nothing_installed_is_said(capsys, monkeypatch):
    monkeypatch.setattr(field.Place, "version", "")
    code, _, err = run(capsys, "--installed")
    assert code == 2
    assert "none of these is installed: trl, verl, openrlhf" in err
