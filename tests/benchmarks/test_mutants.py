"""The harness that mutates right functions makes wrong ones, and lists those that nothing was
found in.
"""

import mutants
import pytest


def test_the_survivors_of_k3_compute_k1_and_all_others_are_caught(capsys):
    mutants.main(["k3"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "15 caught, 0 cannot be called, 2 without an error"
    assert all("[1 k1, per token, gradient 0]" in line for line in lines[:-1])


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
    assert {label.partition(":")[0] for label, _ in mutants.mutants(tree)} == changed
