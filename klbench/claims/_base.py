"""A claim, the finding of its check, and the verdict that follows from the numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

EXACT = 1e-9
"""Largest relative error that counts as none.

Far above rounding, far below any effect that is looked for.
"""
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Finding:
    """The result of a check.

    Parameters
    ----------
    verdict
        ``holds``, ``fails`` or ``holds only when ...``, as :func:`verdict` makes it.
    evidence
        One sentence with the numbers that decided.
    value, bound
        The deciding number, and what it was held against.
    """

    verdict: str
    evidence: str
    value: float
    bound: float


Check = Callable[..., Finding]
"""``check(seed)``; what it puts to the test can be replaced by a keyword, so that a wrong
formula can be seen to fail.
"""


@dataclass(frozen=True)
class Claim:
    """A statement, in words and in TeX, who makes it, what it is about, and the check that
    decides.
    """

    name: str
    statement: str
    tex: str
    source: str
    topic: str
    check: Check


def verdict(inside: bool, outside: bool = True, condition: str = "") -> str:
    """The verdict on a statement that was tested where its condition is met, and where it is not.

    Parameters
    ----------
    inside
        It was true wherever the condition is met.
    outside
        It was true elsewhere too.
    condition
        What comes after "only when"; a statement without one holds or fails.
    """
    if inside and outside:
        return "holds"
    return f"holds only when {condition}" if inside and condition else "fails"


def close(x: float, y: float, tolerance: float = EXACT) -> bool:
    """Return whether two numbers are equal up to rounding; False if one is not finite."""
    return abs(x - y) <= tolerance * max(abs(x), abs(y), 1.0)


def show(x: float) -> str:
    """Three significant digits, as people write them."""
    if math.isnan(x):
        return "undefined"
    if math.isinf(x):
        return "infinite"
    if abs(x) < 1e-300:
        return "0"
    exponent = math.floor(math.log10(abs(float(f"{x:.2e}"))))
    if -4 <= exponent < 6:
        return f"{x:,.{max(0, 2 - exponent)}f}".replace("-", "−")
    return f"{x / 10.0**exponent:.2f}×10{str(exponent).translate(_SUPERSCRIPT)}".replace("-", "−")


def percent(x: float) -> str:
    """A fraction in per cent, three significant digits."""
    return f"{show(100.0 * x)} %"


def error(x: float) -> str:
    """A relative error: rounding is not worth its digits, which differ from machine to machine."""
    return "less than 10⁻¹²" if abs(x) < 1e-12 else show(x)
