"""The committed numbers come out again, and mistakes that an estimator could suffer do not go
through.
"""

import dataclasses
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import golden
import numpy as np
import pytest
import torch

from klbench import estimators
from klbench.gradients import Combination, exact, surrogate
from klbench.types import Completions, Draws, Rollouts

CASES = {case.name: case for case in golden.CASES}
FAST = [case.name for case in golden.CASES if case.fast]


@contextmanager
def broken(name: str, formula: Callable[[Draws], object]) -> Iterator[None]:
    """An estimator with another formula, for a while."""
    estimator = estimators.get(name)
    right = estimator.formula
    object.__setattr__(estimator, "formula", formula)
    try:
        yield
    finally:
        object.__setattr__(estimator, "formula", right)


def found(name: str) -> list[str]:
    return golden.differences(CASES[name], golden.recompute(CASES[name]))[0]


@pytest.mark.parametrize("name", FAST)
def test_the_committed_numbers_come_out_again(name: str) -> None:
    assert found(name) == []


@pytest.mark.parametrize("case", golden.CASES, ids=lambda case: case.name)
def test_every_number_says_how_it_was_made(case: golden.Case) -> None:
    made = json.loads((golden.FOLDER / case.name / "made.json").read_text("utf-8"))
    assert made["command"] == case.command
    assert set(made["versions"]) == set(golden.COMPUTING)
    assert made["machine"]
    assert list((golden.FOLDER / case.name).glob("*.csv"))


def of(lines: list[str]) -> set[str]:
    """Which estimators the lines are about."""
    words = {word.rstrip(")") for line in lines for word in line.partition("): ")[0].split(", ")}
    return words & set(estimators.names())


def test_a_sign_error_is_caught_as_that_estimators_alone() -> None:
    right = estimators.get("k2").formula
    with broken("k2", lambda draws: -right(draws)):
        lines = [line for line in found("value") if "table values" in line]
    assert of(lines) == {"k2"}
    assert any(": mean was " in line for line in lines)


def test_a_clamp_that_nobody_asked_for_is_caught() -> None:
    """Near the reference it changes nothing; the run of far policies is there for that."""
    right = estimators.get("k3").formula
    with broken("k3", lambda draws: np.minimum(right(draws), 10.0)):
        lines = found("far")
    assert "k3" in of(lines)


def test_a_dropped_mask_is_caught_in_values(monkeypatch: pytest.MonkeyPatch) -> None:
    checked = Completions.__post_init__

    def unmasked(self: Completions) -> None:
        checked(self)
        object.__setattr__(self, "mask", np.ones_like(self.mask))

    monkeypatch.setattr(Completions, "__post_init__", unmasked)
    assert {"k1", "k2", "k3"} <= of([line for line in found("recorded") if "table values" in line])


def test_a_dropped_mask_is_caught_in_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all fields are 0 beyond the end, it shows in means over the length."""

    def unmasked(combination: Combination, rollouts: Rollouts) -> surrogate.Parts:
        return surrogate.parts(
            combination, dataclasses.replace(rollouts, mask=torch.ones_like(rollouts.mask))
        )

    monkeypatch.setattr(exact, "parts", unmasked)
    assert any("k3_loss_length_mean" in line for line in found("gradient"))


@pytest.mark.parametrize(
    ("old", "new", "se", "good"),
    [
        (1.0, 1.0 + 1e-10, None, True),
        (1.0, 1.0 + 1e-8, None, False),
        (1.0, 1.0 + 1e-8, 0.1, True),
        (1.0, 1.0 + 1e-6, 0.1, False),
        (0.0, 1e-11, None, True),
        (1e-8, -1e-8, None, False),
        (np.nan, np.nan, None, True),
        (np.nan, 1.0, None, False),
        (np.inf, np.inf, None, True),
        (np.inf, 1.0, None, False),
        (np.inf, -np.inf, 1.0, False),
    ],
)
def test_what_another_machine_may_change(
    old: float, new: float, se: float | None, good: bool
) -> None:
    assert golden.tolerated(
        np.array([old]), np.array([new]), None if se is None else np.array([se])
    ).tolist() == [good]


def test_one_bit_is_caught_on_the_machine_that_made_it_and_tolerated_elsewhere(
    tmp_path, monkeypatch
) -> None:
    case = CASES["lambda"]
    tables = golden.recompute(case)
    golden.write(case, tables, tmp_path)
    assert golden.differences(case, tables, tmp_path) == ([], True)
    changed = {name: table.copy() for name, table in tables.items()}
    changed["lambda"].loc[0, "kl_qp"] = np.nextafter(changed["lambda"].loc[0, "kl_qp"], 9.0)
    lines, exact = golden.differences(case, changed, tmp_path)
    assert exact
    assert len(lines) == 1
    assert lines[0].startswith("lambda, table lambda, row 0 (")
    monkeypatch.setattr("klbench.machine.kind", lambda: "another machine")
    assert golden.differences(case, changed, tmp_path) == ([], False)
    changed["lambda"].loc[0, "kl_qp"] *= 1 + 1e-6
    assert len(golden.differences(case, changed, tmp_path)[0]) == 1
    other = dataclasses.replace(case, words=(*case.words, "seed=1"))
    assert "those of another command" in golden.differences(other, tables, tmp_path)[0][0]


def test_rows_columns_and_tables_that_come_or_go_are_told(tmp_path) -> None:
    case = CASES["lambda"]
    tables = golden.recompute(case)
    assert golden.differences(case, tables, tmp_path)[0] == [
        "lambda: has no committed numbers yet; make golden UPDATE=1 takes these"
    ]
    golden.write(case, tables, tmp_path)
    table = tables["lambda"]
    assert "2 rows, now 1" in golden.differences(case, {"lambda": table.iloc[:1]}, tmp_path)[0][0]
    assert (
        "gone: ['kl_qp']"
        in golden.differences(case, {"lambda": table.drop(columns="kl_qp")}, tmp_path)[0][0]
    )
    assert golden.differences(case, tables | {"more": table}, tmp_path)[0] == [
        "lambda: table more is in one of both only"
    ]


def test_a_run_that_does_not_exist_is_named(capsys) -> None:
    with pytest.raises(SystemExit) as error:
        golden.main(["lamda"])
    assert error.value.code == 2
    assert "no run is named lamda; available: value, far" in capsys.readouterr().err
