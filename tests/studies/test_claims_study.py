"""The claims study: a row a claim, from the command line to the table."""

import subprocess
import sys

import pandas as pd
import pytest

import klbench
from klbench import claims
from klbench.context import Context
from klbench.studies.claims import run as study
from klbench.types import ConfigError

FEW = ("ratio_mean_one", "k3_less_variance", "shifted_gaussians_suffice")
COLUMNS = ["claim", "statement", "verdict", "evidence", "source"]


@pytest.fixture
def blank_pages(monkeypatch) -> None:
    monkeypatch.setattr("klbench.report.render", lambda folder, outcome, **_: None)


def run(*names: str, seed: int = 0) -> pd.DataFrame:
    return study.run(study.ClaimsOptions(claims=names), Context(seed))["claims"]


def test_a_row_a_claim_in_the_order_asked_for() -> None:
    table = run(*FEW)
    assert list(table.columns) == [*COLUMNS, "tex", "topic", "value", "bound"]
    assert tuple(table["claim"]) == FEW
    row = table.set_index("claim").loc["k3_less_variance"]
    assert row["statement"] == claims.get("k3_less_variance").statement
    assert row["verdict"].startswith("holds only when χ²")
    assert "0.628" in row["evidence"]
    assert row["value"] > row["bound"]


def test_all_are_checked_where_none_is_named() -> None:
    assert (
        study.ClaimsOptions().claims
        == study.ClaimsOptions(claims="all").claims
        == tuple(claims.names())
    )
    assert study.ClaimsOptions(claims="k3_less_variance").claims == ("k3_less_variance",)


def test_one_seed_one_table() -> None:
    pd.testing.assert_frame_equal(run(*FEW, seed=7), run(*FEW, seed=7), check_exact=True)


COPIES = """\
from klbench import context, processes
from klbench.context import Context
from klbench.studies.claims.run import ClaimsOptions, run
names = ("rao_blackwell_never_noisier", "k1_loss_nothing", "straight_through_repairs")
alone = run(ClaimsOptions(claims=names), Context(0))["claims"]
processes.own, context.COPY_SECONDS = True, 0.0
assert run(ClaimsOptions(claims=names), Context(0, workers=2))["claims"].equals(alone)
"""


def test_copies_of_a_process_that_has_used_torch_make_the_same_table() -> None:
    subprocess.run([sys.executable, "-c", COPIES], check=True, timeout=300)


def test_progress_is_told() -> None:
    told = []
    study.run(study.ClaimsOptions(claims=FEW), Context(0, progress=lambda *args: told.append(args)))
    assert told == [(k, 3, name) for k, name in enumerate(FEW, 1)]


def test_the_terminal_gets_a_short_row_a_claim() -> None:
    (summary,) = study.summarize({"claims": run(*FEW)})
    assert [row[0] for row in summary.rows] == list(FEW)
    assert max(len(row[2]) for row in summary.rows) <= study.LONGEST + 4
    assert summary.rows[1][2].startswith("k3 is the quieter one")
    assert summary.rows[1][2].endswith(" ...")


def test_through_the_app(tmp_path, monkeypatch, blank_pages) -> None:
    monkeypatch.chdir(tmp_path)
    result = klbench.run("claims", "claims=[k3_less_variance,ratio_mean_one]", "out=here", "seed=7")
    assert result.status == "done"
    pd.testing.assert_frame_equal(
        result.tables["claims"], run("k3_less_variance", "ratio_mean_one", seed=7), check_exact=True
    )
    written = pd.read_csv(tmp_path / "here" / "tables" / "claims.csv")
    assert list(written.columns[:5]) == COLUMNS


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "claims=[k3_less_varience]",
            r"unknown claim 'k3_less_varience'; did you mean 'k3_less_variance'\? Available: ",
        ),
        ("claims=nothing_of_the_kind", r"claims='nothing_of_the_kind': unknown claim"),
        ("claims=[]", r"^claims=\[\]: needs at least 1 of them$"),
        ("claims=[ratio_mean_one,ratio_mean_one]", r"ratio_mean_one is named twice$"),
        ("claims=[1]", r"must be text"),
        ("claim=ratio_mean_one", r"unknown key 'claim'; did you mean 'claims'"),
        ("device=cuda", r"the claims study runs on cpu$"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, monkeypatch, override: str, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message) as caught:
        klbench.run("claims", override)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
