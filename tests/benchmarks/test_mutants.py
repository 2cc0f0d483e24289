"""The harness that mutates right functions makes wrong ones, and reports the survivors that nobody
has looked at.
"""

import mutants
import pytest


def test_survivors_that_are_classified_are_counted_and_not_reported(capsys):
    assert mutants.main(["k2", "k3"]) == 0
    assert capsys.readouterr().out == "24 caught, 1 equivalent, 2 another, 0 new\n"


@pytest.mark.parametrize(
    ("said", "words"), [([], "new: k2: order in line 1: "), (["warning"], "a warning is missing")]
)
def test_one_that_is_not_or_that_should_be_warned_of_is_reported(capsys, monkeypatch, said, words):
    found = [mutants.Rule(kind, "a test's", ("k2: *",)) for kind in said]
    monkeypatch.setattr(mutants, "rules", lambda: found)
    assert mutants.main(["k2"]) == 1
    assert words in capsys.readouterr().out


@pytest.mark.parametrize(
    ("code", "changed"),
    [
        (
            "def f(log_a, log_b):\n    return log_a - log_b",
            {"operator", "order", "argument", "detached", "transposed"},
        ),
        ("def f(x):\n    return 2", {"constant", "detached", "transposed"}),
        ("def f(x):\n    return x.exp()", {"left out", "detached", "transposed"}),
    ],
)
def test_every_kind_of_change_is_made(code, changed):
    (tree,) = mutants.ast.parse(code).body
    assert {label.partition(" in line ")[0] for label, _ in mutants.mutants(tree)} == changed
