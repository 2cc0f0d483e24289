"""The code of a user's function: its library, its file and line, and where it raised."""

from __future__ import annotations

import functools
import inspect
import traceback
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from klbench.inputs import reason

LONGEST = 400
"""Characters of somebody's message that are repeated."""


def library(function: Callable[..., Any]) -> str:
    """``numpy`` where the function's own code, and that of its module's functions that it calls,
    names NumPy and not torch.
    """
    plain = _plain(function)
    if isinstance(plain, np.ufunc) or str(getattr(plain, "__module__", "")).partition(".")[0] in (
        "numpy",
        "scipy",
    ):
        return "numpy"
    code, space = getattr(plain, "__code__", None), getattr(plain, "__globals__", {})
    found: set[str] = set()
    seen: set[types.CodeType] = set()

    def walk(code: types.CodeType) -> None:
        if code in seen:
            return
        seen.add(code)
        for name in code.co_names:
            value = space.get(name)
            if isinstance(value, types.ModuleType) or (
                name in ("numpy", "torch") and value is None
            ):
                found.add(
                    (value.__name__ if isinstance(value, types.ModuleType) else name).split(".")[0]
                )
            elif inspect.isfunction(value):
                found.add((value.__module__ or "").split(".")[0])
                walk(value.__code__)
        for each in code.co_consts:
            if isinstance(each, types.CodeType):
                walk(each)

    if code is not None:
        walk(code)
    return "numpy" if found & {"numpy", "scipy"} and "torch" not in found else "torch"


def own(error: BaseException, function: Callable[..., Any]) -> str:
    """Return the function's own exception on one line, with the place in its file where it was
    raised.
    """
    file = source_file(function)
    frames = [
        each
        for each in traceback.extract_tb(error.__traceback__)
        if Path(each.filename).name != "adapter.py"
    ]
    at = [each for each in frames if file and each.filename == file] or frames
    place = f"{Path(at[-1].filename).name}:{at[-1].lineno}: " if at else ""
    said = "".join(sign if sign.isprintable() else " " for sign in reason(error))[:LONGEST]
    kind = type(error).__name__
    return f"{place}{said if said.startswith(kind) else f'{kind}: {said}'}"


def _plain(function: Callable[..., Any]) -> Any:
    """Return the function that holds the code.

    Of a partial, a decorated function, a method, a module.
    """
    while isinstance(function, functools.partial):
        function = function.func
    plain: Any = inspect.unwrap(function)
    if not hasattr(plain, "__code__"):
        plain = getattr(plain, "forward", None) or getattr(plain, "__func__", plain)
    return getattr(plain, "__func__", plain)


def source_file(function: Callable[..., Any]) -> str | None:
    """Return the file of a function; None where it has none."""
    code = getattr(_plain(function), "__code__", None)
    return code.co_filename if code is not None else None


def first_line(function: Callable[..., Any]) -> int | None:
    """Return the line on which a function begins; None where that cannot be told."""
    code = getattr(_plain(function), "__code__", None)
    return code.co_firstlineno if code is not None else None


def signature(function: Callable[..., Any]) -> inspect.Signature:
    """Return a function's signature; a module's is that of its ``forward``.

    Raises
    ------
    TypeError, ValueError
        It has none.
    """
    forward = getattr(function, "forward", None)
    held = forward if callable(forward) and not inspect.isclass(function) else function
    scripted = getattr(getattr(held, "schema", None), "arguments", None)  # by torch.jit
    if scripted is None:
        return inspect.signature(held)
    return inspect.Signature(
        [
            inspect.Parameter(
                each.name,
                inspect.Parameter.POSITIONAL_OR_KEYWORD,
                default=each.default_value if each.has_default_value() else inspect.Parameter.empty,
            )
            for each in scripted
            if each.name != "self"
        ]
    )
