"""Every wrong function is caught, and its fault is named."""

import pytest
from wrong_functions import LOGITS, LOSSES, NUMPY, VALUES

import klbench

PARTS = {"kl": VALUES | LOGITS | NUMPY, "loss": LOSSES}
CASES = [
    (used_as, function, kind)
    for used_as, functions in PARTS.items()
    for function, kind in functions.items()
]


@pytest.mark.parametrize(
    ("used_as", "function", "kind"), CASES, ids=[function.__name__ for _, function, _ in CASES]
)
def test_a_wrong_function_is_caught_and_its_fault_is_named(used_as, function, kind):
    found = klbench.audit(function, used_as=used_as)
    kinds = [each.kind for each in found.errors]
    assert kind in kinds, str(found)
