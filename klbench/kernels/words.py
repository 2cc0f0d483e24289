"""Rows of logits in main memory as the compiled loops read them, and how these are compiled.

Logits of 16 bits are widened a tile at a time, in the nearest cache.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

F = np.float32
TILE = 512
"""Logits at a time, of each: they stay in the nearest cache, and their sums are short."""
FULL, BRAIN, SMALL = 0, 1, 2
"""Kinds of logits: float32, which take two words each, bfloat16 and float16."""
NAN_BITS = np.uint32(0x7FC0)
ABSENT = F(-1e30)
INFINITE = F(np.inf)

ROW = types.Array(types.float32, 1, "C")
IN = types.Array(types.float32, 1, "C", readonly=True)
BITS = types.Array(types.uint16, 1, "C", readonly=True)
TO_BITS = types.Array(types.uint16, 1, "C")
TABLE = types.Array(types.float64, 2, "C")
LOGITS = types.Tuple((BITS, types.int64, types.int64))
"""Rows of logits as words of 16 bits, the words from one row to the next, and their kind."""
_SOURCES = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
STAMP = hashlib.blake2s(_SOURCES, digest_size=4).hexdigest()
"""A hash of these files: Numba looks at the file of a function, not at those of what it calls."""


def compiled(signature: Any, *fast: str) -> Callable[[Callable[..., Any]], Any]:
    """Compile now, or load what an earlier process compiled.

    ``fast`` are the liberties that rounding may take.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        function.__qualname__ += f"_{STAMP}"
        options: dict[str, Any] = {"fastmath": set(fast), "error_model": "numpy", "nogil": True}
        try:
            return njit(signature, cache=True, **options)(function)
        except (RuntimeError, OSError):  # nowhere to keep it
            return njit(signature, **options)(function)

    return decorate


@compiled((types.float32,), "contract")
def finite(x: float) -> Any:  # pragma: no cover - compiled
    """The logit, or ``ABSENT`` for one that is less; NaN stays."""
    return ABSENT if x < ABSENT else x


def _conversion(result: Any, argument: Any, build: Callable[[Any, Any], Any]) -> Any:
    """A conversion of one number: a vector instruction."""

    @intrinsic
    def convert(typing: Any, x: Any) -> Any:
        return result(argument), lambda context, builder, signature, args: build(builder, args[0])

    return convert


_WORD, _HALF, _SINGLE = ir.IntType(32), ir.HalfType(), ir.FloatType()
_brain = _conversion(
    types.float32,
    types.uint16,
    lambda builder, x: builder.bitcast(builder.shl(builder.zext(x, _WORD), _WORD(16)), _SINGLE),
)
_widened = _conversion(
    types.float32,
    types.uint16,
    lambda builder, x: builder.fpext(builder.bitcast(x, _HALF), _SINGLE),
)
_narrowed = _conversion(
    types.uint16,
    types.float32,
    lambda builder, x: builder.bitcast(builder.fptrunc(x, _HALF), ir.IntType(16)),
)


@compiled((BITS, types.int64, ROW))
def widen(bits: np.ndarray, kind: int, to: np.ndarray) -> None:  # pragma: no cover - compiled
    """Logits of 16 bits as float32; bfloat16 is the upper half of one."""
    if kind == BRAIN:
        for i in range(bits.size):
            to[i] = _brain(bits[i])
    else:
        for i in range(bits.size):
            to[i] = _widened(bits[i])


@compiled((IN, types.int64, TO_BITS))
def narrow(x: np.ndarray, kind: int, to: np.ndarray) -> None:  # pragma: no cover - compiled
    """Round to 16 bits, half to even."""
    if kind == BRAIN:
        words = x.view(np.uint32)
        for i in range(x.size):
            b = words[i]
            rounded = (b + np.uint32(0x7FFF) + ((b >> np.uint32(16)) & np.uint32(1))) >> np.uint32(
                16
            )
            to[i] = np.uint16(NAN_BITS if x[i] != x[i] else rounded)
    else:
        for i in range(x.size):
            to[i] = _narrowed(x[i])


@compiled((LOGITS, types.int64, types.int64, types.int64, types.int64, ROW))
def tile(
    logits: Any, row: int, size: int, start: int, stop: int, buffer: np.ndarray
) -> Any:  # pragma: no cover - compiled
    """Part of a row as float32: where it is, or in the buffer."""
    bits, stride, kind = logits
    words = 2 if kind == FULL else 1
    ends = bits[row * stride : row * stride + words * size]
    part = ends[words * start : words * stop]
    tile = part.view(np.float32)[: stop - start] if kind == FULL else buffer[: stop - start]
    if kind != FULL:
        widen(part, kind, buffer)
    return tile


@compiled((LOGITS, types.int64, types.int64))
def logit(logits: Any, row: int, k: int) -> Any:  # pragma: no cover - compiled
    """One logit, and ``-inf`` for one that is absent."""
    bits, stride, kind = logits
    at = row * stride
    if kind == FULL:
        low, high = np.uint32(bits[at + 2 * k]), np.uint32(bits[at + 2 * k + 1])
        x = np.uint32(low | (high << np.uint32(16))).view(np.float32)
    else:
        x = _brain(bits[at + k]) if kind == BRAIN else _widened(bits[at + k])
    return -np.inf if x <= ABSENT else np.float64(x)


def _choice(order: str) -> Any:
    """The larger (``>``) or smaller of two numbers of which none is NaN: a vector instruction."""

    @intrinsic
    def choose(typing: Any, a: Any, b: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            flags = ("nnan", "nsz")
            first = builder.fcmp_ordered(order, *args, flags=flags)
            return builder.select(first, *args, flags=flags)

        return types.float32(types.float32, types.float32), generate

    return choose


larger, smaller = _choice(">"), _choice("<")


@compiled((IN, IN))
def ranges(z: np.ndarray, y: np.ndarray) -> Any:  # pragma: no cover - compiled
    """Largest and least of z, of y, and of ``y - z``; any numbers where there is a NaN."""
    top_z, top_y, top_g = -INFINITE, -INFINITE, -INFINITE
    low_z, low_y, low_g = INFINITE, INFINITE, INFINITE
    for i in range(z.size):
        g = y[i] - z[i]
        top_z, low_z = larger(z[i], top_z), smaller(z[i], low_z)
        top_y, low_y = larger(y[i], top_y), smaller(y[i], low_y)
        top_g, low_g = larger(g, top_g), smaller(g, low_g)
    return top_z, low_z, top_y, low_y, top_g, low_g


@compiled((LOGITS, LOGITS, types.int64, types.int64, types.int64, types.int64, ROW, ROW))
def widened_ranges(
    policy: Any,
    reference: Any,
    row: int,
    size: int,
    start: int,
    stop: int,
    to_z: np.ndarray,
    to_y: np.ndarray,
) -> Any:  # pragma: no cover - compiled
    """The same, of logits of one kind of 16 bits, which are widened on the way."""
    z = policy[0][row * policy[1] + start : row * policy[1] + stop]
    y = reference[0][row * reference[1] + start : row * reference[1] + stop]
    top_z, top_y, top_g = -INFINITE, -INFINITE, -INFINITE
    low_z, low_y, low_g = INFINITE, INFINITE, INFINITE
    if policy[2] == BRAIN:
        for i in range(z.size):
            v, w = _brain(z[i]), _brain(y[i])
            to_z[i], to_y[i] = v, w
            top_z, low_z = larger(v, top_z), smaller(v, low_z)
            top_y, low_y = larger(w, top_y), smaller(w, low_y)
            top_g, low_g = larger(w - v, top_g), smaller(w - v, low_g)
    else:
        for i in range(z.size):
            v, w = _widened(z[i]), _widened(y[i])
            to_z[i], to_y[i] = v, w
            top_z, low_z = larger(v, top_z), smaller(v, low_z)
            top_y, low_y = larger(w, top_y), smaller(w, low_y)
            top_g, low_g = larger(w - v, top_g), smaller(w - v, low_g)
    return top_z, low_z, top_y, low_y, top_g, low_g


@compiled((IN, IN, ROW, ROW))
def fill(
    z: np.ndarray, y: np.ndarray, to_z: np.ndarray, to_y: np.ndarray
) -> tuple[int, int]:  # pragma: no cover - compiled
    """Copies with ``ABSENT`` in the place of what is less.

    How often z alone is absent, and y alone.
    """
    no_z, no_y = 0, 0
    for i in range(z.size):
        v, w = finite(z[i]), finite(y[i])
        to_z[i], to_y[i] = v, w
        no_z += (v == ABSENT) & (w != ABSENT)
        no_y += (v != ABSENT) & (w == ABSENT)
    return no_z, no_y
