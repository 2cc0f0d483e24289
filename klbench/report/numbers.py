"""Numbers as people read them: few digits, as many as their uncertainty allows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from klbench.metrics.seeds import Z95 as Z95
from klbench.metrics.seeds import side as side

MISSING = "–"
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def power_of_ten(exponent: int) -> str:
    """``10⁻³`` from -3."""
    return f"10{str(exponent).translate(_SUPERSCRIPT)}"


def number(x: float, digits: int = 3) -> str:
    """``digits`` significant digits; powers of ten only where zeros would fill the page."""
    if math.isnan(x):
        return MISSING
    if math.isinf(x):
        return "∞" if x > 0 else "−∞"
    if x == 0:
        return "0"
    exponent = math.floor(math.log10(abs(float(f"{x:.{digits - 1}e}"))))
    if not -4 <= exponent < 6:
        mantissa = f"{x / 10.0**exponent:.{digits - 1}f}"
        return f"{mantissa}×{power_of_ten(exponent)}".replace("-", "−")
    return f"{x:,.{max(0, digits - 1 - exponent)}f}".replace("-", "−")


def short(x: float, digits: int = 3) -> str:
    """Like :func:`number`, without closing zeros: 0.5 and not 0.500."""
    text = number(x, digits)
    return text.rstrip("0").rstrip(".") if "." in text and "×" not in text else text


def interval(row: Mapping[str, Any], name: str, digits: int = 2, least: float = -math.inf) -> str:
    """``0.024 (0.018 to 0.036)`` of a value with ``_low`` and ``_high``.

    What is rounding of 0 is 0.

    An interval of what cannot be below ``least`` ends there, which its table or caption must say.
    """
    value, low, high = (
        0.0 if abs(x) < 1e-12 else x
        for x in (row[name], *(row[f"{name}_{end}"] for end in ("low", "high")))
    )
    if math.isnan(low) or low == high:
        return number(value, digits)
    return f"{number(value, digits)} ({number(max(low, least), digits)} to {number(high, digits)})"


def percent_interval(row: Mapping[str, Any], name: str) -> str:
    """``61 % (40 % to 82 %)`` of a share with ``_low`` and ``_high``.

    Without them, the share alone.
    """
    low, high = (row.get(f"{name}_{end}", math.nan) for end in ("low", "high"))
    return (
        percent(row[name])
        if math.isnan(low)
        else f"{percent(row[name])} ({percent(low)} to {percent(high)})"
    )


def with_interval(x: float, se: float) -> str:
    """``0.0884 ± 0.0004``.

    The half width of the 95 % interval to one digit (two where it opens with 1 or 2), ``x`` as far.
    """
    half = Z95 * se
    if not math.isfinite(x) or not math.isfinite(half) or half <= 0:
        return number(x)
    place = math.floor(math.log10(half))
    if half / 10.0**place < 2.95:
        place -= 1
    scale = math.floor(math.log10(max(abs(x), half)))
    if -4 <= scale < 6:
        places = max(0, -place)
        return f"{_rounded(x, -place):,.{places}f} ± {_rounded(half, -place):,.{places}f}".replace(
            "-", "−"
        )
    places = scale - place
    return (
        f"({_rounded(x / 10.0**scale, places):.{places}f} ±"
        f" {half / 10.0**scale:.{places}f})×{power_of_ten(scale)}".replace("-", "−")
    )


def _rounded(x: float, places: int) -> float:
    return round(x, places) + 0.0  # adding it makes -0.0 a plain 0


def percent(x: float) -> str:
    """A fraction in per cent, to about two digits."""
    if math.isnan(x):
        return MISSING
    if x and abs(x) < 0.0001:
        return "< 0.01 %"
    return f"{short(100 * x, 2 if abs(x) < 0.095 else 3 if abs(x) < 0.995 else 2)} %".replace(
        "-", "−"
    )


def signed_percent(x: float) -> str:
    """Return a difference in per cent with its sign, to two digits: ``+12 %``."""
    if not math.isfinite(x):
        return MISSING
    return ("+" if x > 0 else "") + (f"{short(100 * x, 2)} %" if abs(x) >= 5e-5 else "0 %")


def exact(value: float, se: float) -> str:
    """Return an exact value, with its interval where that is wide enough to show."""
    return (
        with_interval(value, se)
        if math.isfinite(se) and abs(se) > 1e-6 * abs(value)
        else number(value)
    )


def percent_or_times(x: float) -> str:
    """Return a share of something's length in two digits: ``21 %``, ``14 ×``."""
    if math.isinf(x):
        return "∞"
    if 0 < x < 1e-3:
        return "< 0.1 %"
    x *= 1 + 1e-9  # so that an eighth is 13 % on whatever side rounding left it
    return f"{number(x, 2)} ×" if x >= 10 else f"{number(100 * x, 2)} %"


def count(n: float, one: str, many: str = "") -> str:
    """``1 pair``, ``21 pairs``."""
    return f"{int(n):,} {one if n == 1 else many or one + 's'}"


def listing(items: Sequence[str], last: str = "and") -> str:
    """``a, b and c``."""
    return f" {last} ".join(part for part in (", ".join(items[:-1]), *items[-1:]) if part)
