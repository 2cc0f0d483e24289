"""Assertions for a test-suite of one's own: is this KL function, this loss, right?

They raise AssertionError with the findings of :func:`klbench.audit`, and take its options; nothing
heavy is imported before they are called.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from klbench.audit.findings import KINDS, Audit

Function = Callable[..., Any]


def _audit(function: Function, **options: Any) -> Audit:
    from klbench.audit.api import audit  # and with it torch

    return audit(function, **options)


def check_kl(function: Function, expect: str | None = None, **options: Any) -> Audit:
    """Assert that the audit of a function finds no error, and that it is the estimator ``expect``,
    such as ``k3``.

    Raises
    ------
    AssertionError
        The errors, and what the function is.
    klbench.ConfigError
        The function cannot be audited.
    """
    found = _audit(function, expect=expect, **options)
    assert found.ok, str(found)
    return found


def check_gradient(function: Function, expect: str, **options: Any) -> Audit:
    """Assert that the expected gradient of a function is that of ``expect``, such as ``KL(q‖p)``,
    and is sound.

    Other errors than those of the gradient are not looked at: :func:`check_kl` does.

    Raises
    ------
    AssertionError
        The gradient is another one, is NaN somewhere, or does not reach the policy.
    klbench.ConfigError
        The function cannot be audited, or there is no such divergence.
    """
    found = _audit(function, expect_gradient=expect, **options)
    of_gradients = (
        "expectation",
        "detached",
        "non-finite-gradient",
        "reference-gradient",
        "old-policy-gradient",
    )
    wrong = [each for each in found.errors if each.kind in of_gradients]
    assert not wrong, str(found)
    return found


def parametrize_with_checks(
    functions: Sequence[Function] | Mapping[Function, Mapping[str, Any]],
) -> Any:
    """Return a decorator of a test with the arguments ``function`` and ``check``.

    One test for each kind of finding.

    ::

        @parametrize_with_checks([kl_penalty, grpo_loss])
        def test_kl(function, check):
            check(function)

    A mapping gives each function its options of the audit. Every function is audited once, when its
    first check runs.
    """
    import pytest

    options = (
        dict(functions)
        if isinstance(functions, Mapping)
        else {function: {} for function in functions}
    )

    audited: dict[Function, Audit] = {}

    def check_of(kind: str) -> Callable[[Function], None]:
        def check(function: Function) -> None:
            if function not in audited:
                audited[function] = _audit(function, **options.get(function, {}))
            found = audited[function]
            wrong = [str(each) for each in found.errors if each.kind == kind]
            assert not wrong, "\n".join([*wrong, str(found)])

        check.__name__ = kind
        return check

    cases = [
        pytest.param(
            function,
            check_of(kind),
            id=f"{getattr(function, '__name__', type(function).__name__)}-{kind}",
        )
        for function in options
        for kind in KINDS
    ]
    return pytest.mark.parametrize(("function", "check"), cases)
