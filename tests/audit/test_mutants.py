"""The harness of mutants reports what nobody has looked at, and that alone."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import mutants


def test_a_survivor_that_is_classified_is_not_reported(capsys):
    assert mutants.main(["k2"]) == 0
    assert capsys.readouterr().out == "9 caught, 1 equivalent, 0 new\n"


@pytest.mark.parametrize(
    ("said", "words"), [([], "new: k2: order in line 1: "), (["warning"], "a warning is missing")]
)
def test_one_that_is_not_or_that_should_be_warned_of_is(capsys, monkeypatch, said, words):
    found = [mutants.Rule(kind, "a test's", ("k2: *",)) for kind in said]
    monkeypatch.setattr(mutants, "rules", lambda: found)
    assert mutants.main(["k2"]) == 1
    assert words in capsys.readouterr().out
