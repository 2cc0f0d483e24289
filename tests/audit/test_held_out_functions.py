"""What the audit once said wrongly, of functions that were kept aside while it was built."""

import pytest
from held_out_functions import RIGHT, WRONG

import klbench


def name(value):
    return getattr(value, "__name__", None) or getattr(value, "name", None)


@pytest.mark.parametrize("function", WRONG, ids=name)
def test_a_wrong_function_is_caught_and_named(function):
    kind, options = WRONG[function]
    found = klbench.audit(function, **options)
    assert kind in [each.kind for each in found.errors], str(found)


@pytest.mark.parametrize("function", RIGHT, ids=name)
def test_a_right_function_has_neither_error_nor_warning(function):
    identified, options = RIGHT[function]
    found = klbench.audit(function, **options)
    assert [each for each in found.findings if each.severity != "note"] == [], str(found)
    assert found.identified == identified
