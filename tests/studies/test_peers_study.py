"""Functions of other libraries, taken from files as a package manager installs them, and what is
measured of them.
"""

import sys

import numpy as np
import pandas as pd
import pytest
import torch

from klbench.context import Context
from klbench.studies.peers import cases
from klbench.studies.peers import run as peers_run
from klbench.studies.peers.cases import Peer, Subject
from klbench.trainers.installed import MissingError, expression, function, module
from klbench.types import RunError

SOURCE = '''
"""A library that could not be imported here."""
import math
import a_package_that_nobody_has
from a_package_that_nobody_has import fast
from .neighbour import helper
from other import Missing

SCALE = 2.0
try:
    from a_package_that_nobody_has import kernel
    HAS_KERNEL = True
except ImportError:
    HAS_KERNEL = False


def inner(x):
    return SCALE * x


def recursive(n):
    return 1 if n == 0 else n * recursive(n - 1)


@Missing.decorated
def outer(x: Missing, base: "Missing" = 1.0) -> Missing:
    """Uses two statements of its file, and a fast way that is not to be had."""
    return fast(x) if HAS_KERNEL else inner(x) + base + math.floor(0.5)


def needs_neighbour(x):
    return helper(x)


class Loss(Missing):
    @staticmethod
    def forward(x, weight=3.0):
        return weight * inner(x)

    def compute(self, inputs):
        if inputs:
            penalty = math.exp(a - b) - (a - b) - 1
        return penalty
'''


@pytest.fixture
def library(tmp_path, monkeypatch) -> str:
    name = f"peer{tmp_path.name.replace('-', '').replace('_', '')}"
    (tmp_path / name).mkdir()
    (tmp_path / name / "code.py").write_text(SOURCE)
    info = tmp_path / f"{name}-1.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\n")
    monkeypatch.syspath_prepend(tmp_path)
    return name


def test_a_function_comes_with_what_it_needs_and_nothing_is_imported(library) -> None:
    before = set(sys.modules)
    assert function(library, f"{library}/code.py", "outer")(3.0) == 7.0
    assert function(library, f"{library}/code.py", "Loss.forward")(1.0) == 6.0
    assert function(library, f"{library}/code.py", "recursive")(5) == 120
    assert not {name for name in set(sys.modules) - before if name.startswith(library)}
    assert module(library, f"{library}/code.py").version == "1.5"


def test_an_expression_inside_a_method_is_a_function_of_its_names(library) -> None:
    made = expression(library, f"{library}/code.py", "Loss.compute", "penalty", ("a", "b"))
    assert made(1.0, 0.5) == np.exp(0.5) - 0.5 - 1


def test_what_was_not_loaded_says_so_when_it_is_used(library) -> None:
    with pytest.raises(RunError, match=r"not loaded: helper"):
        function(library, f"{library}/code.py", "needs_neighbour")(1.0)


def test_what_is_not_there_is_named(library) -> None:
    code = f"{library}/code.py"
    with pytest.raises(MissingError, match="no-such-library is not installed"):
        function("no-such-library", "a.py", "f")
    with pytest.raises(MissingError, match=r"1\.5 has no .*/other\.py"):
        function(library, f"{library}/other.py", "f")
    with pytest.raises(MissingError, match="has no nothing in"):
        function(library, code, "nothing")
    with pytest.raises(MissingError, match=r"assigns no other in Loss\.compute"):
        expression(library, code, "Loss.compute", "other", ())


OPTIONS = peers_run.PeersOptions(tokens=900, rows=8, vocabulary=64, repeats=3, seconds=1e-4)


@pytest.fixture(scope="module")
def tables() -> dict[str, pd.DataFrame]:
    return dict(peers_run.run(OPTIONS, Context(seed=0)))


def test_every_library_has_its_rows_or_a_reason(tables) -> None:
    table = tables["peers"]
    for subject in cases.SUBJECTS:
        for peer in subject.peers:
            rows = table[
                (table["subject"] == subject.name)
                & (table["library"] == peer.library)
                & (table["name"] == peer.name)
            ]
            assert (
                len(rows) == 8
                or rows["status"].iloc[0] == f"skipped: {peer.library} is not installed"
            ), (subject, peer)
            if len(rows) == 8:
                assert set(rows["status"]) == {"ok"}
                assert (rows["version"] != "").all()
    assert {"klbench", "torch", "scipy"} <= set(table[table["status"] == "ok"]["library"])


def at(tables, **of) -> pd.Series:
    table = tables["peers"]
    for column, value in of.items():
        table = table[table[column] == value]
    assert len(table) == 1
    return table.iloc[0]


def test_klbench_keeps_its_digits(tables) -> None:
    table = tables["peers"]
    own = table[(table["library"] == "klbench") & (table["dtype"] == "float32")]
    assert (
        own[own["subject"].isin(["k1", "k2", "k3", "log-probability", "KL(q‖p)"])]["max_rel_error"]
        < 1e-5
    ).all()
    assert (own["n_nan_gradient"] == 0).all()
    assert (own["frac_flat"] == 0.0).all()


def test_what_is_known_to_break_is_seen_to_break(tables) -> None:
    masked = at(tables, library="torch", subject="KL(q‖p)", dtype="float32", regime="masked")
    assert masked["n_nan_gradient"] == 8 * 64  # 0 times -inf
    assert (
        at(tables, library="torch", subject="KL(q‖p)", dtype="float32", regime="near")[
            "max_rel_error"
        ]
        > 0.01
    )
    assert np.isnan(
        at(tables, library="scipy", subject="KL(q‖p)", dtype="float32", regime="near")[
            "max_gradient_rel_error"
        ]
    )


def test_times_are_beside_those_of_klbench(tables) -> None:
    speed = tables["peers_speed"]
    assert (speed["seconds"] > 0).all()
    assert (speed[speed["library"] == "klbench"]["ratio"] == 1.0).all()
    assert not {"seconds", "ratio"} & set(tables["peers"].columns)


@pytest.mark.parametrize(
    ("formula", "expected"),
    [
        (
            lambda log_q, log_p: (log_p - log_q).exp() - 1 - (log_p - log_q),
            {"frac_wrong": 0.0, "frac_flat": 0.0},
        ),
        (
            lambda log_q, log_p: ((log_p - log_q).exp() - 1 - (log_p - log_q)).clamp(max=10.0),
            {"frac_flat": 1.0, "frac_wrong": 1.0},
        ),
        (
            lambda log_q, log_p: torch.full_like(log_q, torch.nan) * log_q,
            {"frac_wrong": 1.0, "n_nan_gradient": 9},
        ),
    ],
    ids=["plain", "clamped", "nothing but NaN"],
)
def test_clamps_and_nans_are_told_apart(formula, expected) -> None:
    subject = next(each for each in cases.SUBJECTS if each.name == "k3")
    pair = (
        torch.tensor(x, dtype=torch.float64) for x in cases.inputs("log-probs", "extreme", (9,), 0)
    )
    found = peers_run._accuracy(subject, formula, *pair)
    assert {key: found[key] for key in expected} == expected


def test_a_library_that_fails_is_a_row_and_no_crash() -> None:
    def fails(log_q: object, log_p: object) -> object:
        raise RuntimeError("no kernel\nfor this")

    subject = Subject("k1", "log-probs", lambda q, p: q - p, (Peer("x", "f", lambda: fails),))
    log_q, log_p = (torch.tensor(x) for x in cases.inputs("log-probs", "near", (9,), 0))
    assert peers_run._measured(subject, fails, log_q, log_p) == {
        "status": "failed: no kernel for this"
    }


@pytest.mark.parametrize("subject", cases.SUBJECTS, ids=lambda subject: subject.name)
def test_the_twins_of_what_is_installed_have_its_numbers(subject: Subject) -> None:
    functions, reasons = peers_run._available(subject)
    twins = [peer for peer in functions if peer.twin]
    if not twins:
        pytest.skip("; ".join(dict.fromkeys(reasons.values())) or "no twin")
    for peer in twins:
        assert peers_run._twin(peer, functions[peer], OPTIONS, 0) < 1e-5, (
            peer
        )  # OpenRLHF computes in float32
