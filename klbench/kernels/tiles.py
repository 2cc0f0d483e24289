"""The Triton code: imported where it is first used.

The sums are those of the ``cpu`` kernel, and so are their names.

A program walks along one row in tiles. The sums are kept a lane each until the row ends; only the
largest logit is agreed on after every tile, and the sums are brought to a new one in the few tiles
where it rises.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from klbench.kernels.interpreter import interpreted

ABSENT = tl.constexpr(-1e30)
CERTAIN = tl.constexpr(1e29)
INFINITE = tl.constexpr(float("inf"))
SHIFTED = tl.constexpr(4.0)
NONE = tl.constexpr(float("-inf"))
# As in loops.py: (cosh(x) - 1) / t and (sinh(x) - x) / (x t) in t = x^2, for |x| < 1/2.
C0, C1, C2 = tl.constexpr(0.0013982186), tl.constexpr(0.041665792), tl.constexpr(0.5)
S0, S1 = tl.constexpr(0.008383088), tl.constexpr(0.1666651)
HALF = tl.constexpr(0.5)


def width(size: int) -> int:
    """The row's length, rounded up to a power of 2: what the choice of a tile is remembered by."""
    return triton.next_power_of_2(size)


def _configs() -> list[Any]:
    if interpreted():
        return [triton.Config({"TILE": 4096, "STAGES": 1}, num_warps=1)]
    sizes = [(2048, 4), (2048, 8), (4096, 8), (4096, 16)]
    return [
        triton.Config({"TILE": tile, "STAGES": stages}, num_warps=warps)
        for tile, warps in sizes
        for stages in (1, 3)
    ]


def _worth_trying(configs: list[Any], arguments: dict[str, Any], **options: Any) -> list[Any]:
    """One where the row is short: there is little to win, and each takes seconds to compile."""
    return configs if options["WIDTH"] > 4096 else configs[:1]


def tuned(function: Any) -> Any:
    """Compile with the tile and warps that are fastest for rows of a width."""
    return triton.autotune(
        _configs(), key=["WIDTH"], prune_configs_by={"early_config_prune": _worth_trying}
    )(triton.jit(function))


@triton.jit
def _finite(x):  # type: ignore[no-untyped-def]
    return tl.where(x < ABSENT, ABSENT, x)  # NaN stays


@triton.jit
def _gap(x):  # type: ignore[no-untyped-def]
    """``exp(x) - 1 - x`` of one number of float32; by definition where |x| is above 1/2."""
    t = x * x
    near = ((C0 * t + C1) * t + C2) * t + (S0 * t + S1) * t * x
    return tl.where(tl.abs(x) < HALF, near, tl.exp(x) - 1.0 - x)


@tuned
def forward(  # type: ignore[no-untyped-def]
    policy,
    policy_stride,
    reference,
    reference_stride,
    tokens,
    found,
    size,
    WIDTH: tl.constexpr,
    TILE: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Fill one row of ``found``, shape ``(n, 9)``."""
    row = tl.program_id(0).to(tl.int64)
    policy += row * policy_stride
    reference += row * reference_stride
    lane = tl.arange(0, TILE)
    top_z = tl.full((), ABSENT, tl.float32)
    top_y = tl.full((), ABSENT, tl.float32)
    from_z = tl.full((), 0.0, tl.float32)
    from_y = tl.full((), 0.0, tl.float32)
    q = tl.zeros((TILE,), tl.float32)
    p = tl.zeros((TILE,), tl.float32)
    qa = tl.zeros((TILE,), tl.float32)
    qg = tl.zeros((TILE,), tl.float32)
    pg = tl.zeros((TILE,), tl.float32)
    gap_q = tl.zeros((TILE,), tl.float32)
    gap_p = tl.zeros((TILE,), tl.float32)
    most = tl.zeros((TILE,), tl.float32)
    least = tl.zeros((TILE,), tl.float32)
    for start in tl.range(0, size, TILE, num_stages=STAGES):
        inside = start + lane < size
        z = tl.load(policy + start + lane, mask=inside, other=NONE).to(tl.float32)
        y = tl.load(reference + start + lane, mask=inside, other=NONE).to(tl.float32)
        new_z = tl.maximum(top_z, tl.max(z, 0))
        new_y = tl.maximum(top_y, tl.max(y, 0))
        if (new_z > top_z) | (new_y > top_y):
            # a falls by up_z, b by up_y, g changes by d. A sum over nothing but absent logits is 0
            # and stays so. The smaller origin is rounded until the difference of both is exact.
            zero_z = tl.where(new_z == ABSENT, 0.0, new_z)
            zero_y = tl.where(new_y == ABSENT, 0.0, new_y)
            s = zero_y - zero_z
            certain = tl.abs(s) < INFINITE
            new_from_z = tl.where(certain & (tl.abs(zero_z) < tl.abs(zero_y)), zero_y - s, zero_z)
            new_from_y = tl.where(certain & (tl.abs(zero_z) >= tl.abs(zero_y)), zero_z + s, zero_y)
            up_z = tl.where(top_z > ABSENT, new_from_z - from_z, 0.0)
            up_y = tl.where(top_y > ABSENT, new_from_y - from_y, 0.0)
            d = up_z - up_y
            less_q = tl.exp(-up_z)
            less_p = tl.exp(-up_y)
            near = tl.abs(d) < HALF
            r = tl.where(near, d, 0.0)
            gap = _gap(r)
            back = _gap(-r)
            gap_q = less_p * gap_q + less_q * (gap * q + (gap + r) * qg)
            gap_p = less_q * gap_p + less_p * (back * p - (back - r) * pg)
            qa = less_q * (qa - up_z * q)
            qg = less_q * (qg + d * q)
            pg = less_p * (pg + d * p)
            q = less_q * q
            p = less_p * p
            gap_q = tl.where(near, gap_q, p - q - qg)  # by definition, where that loses nothing
            gap_p = tl.where(near, gap_p, q - p + pg)
            top_z = new_z
            top_y = new_y
            from_z = new_from_z
            from_y = new_from_y
        z = _finite(z)
        y = _finite(y)
        shifted = from_y - from_z
        large = tl.where(tl.abs(shifted) > SHIFTED, shifted, 0.0)
        of_y = tl.where(tl.abs(from_y) >= tl.abs(from_z), large, 0.0)
        a = z - from_z
        e = tl.exp(a)
        f = tl.exp(y - from_y)
        # Neighbours first: exact, so that small differences keep their digits.
        g = ((y - of_y) - (z + (large - of_y))) - (shifted - large)
        t = g * g
        even = ((C0 * t + C1) * t + C2) * t
        odd = (S0 * t + S1) * t * g
        close = tl.abs(g) < HALF
        q += e
        p += f
        qa += e * a
        qg += e * g
        pg += f * g
        gap_q += tl.where(close, e * (even + odd), (f - e) - e * g)
        gap_p += tl.where(close, f * (even - odd), (e - f) + f * g)
        most = tl.maximum(most, g)
        least = tl.minimum(least, g)
    sum_q = tl.sum(q, 0).to(tl.float64)
    sum_p = tl.sum(p, 0).to(tl.float64)
    sum_qg = tl.sum(qg, 0).to(tl.float64)
    sum_pg = tl.sum(pg, 0).to(tl.float64)
    sum_gap_q = tl.sum(gap_q, 0).to(tl.float64)
    sum_gap_p = tl.sum(gap_p, 0).to(tl.float64)
    no_q = tl.max(most, 0) > CERTAIN
    no_p = tl.min(least, 0) < -CERTAIN
    nan = tl.full((), float("nan"), tl.float64)
    infinity = tl.full((), float("inf"), tl.float64)
    sum_q = tl.where(sum_q == 0.0, nan, sum_q)
    sum_p = tl.where(sum_p == 0.0, nan, sum_p)
    log_q = tl.log(sum_q)
    log_p = tl.log(sum_p)
    near_q = (sum_qg + sum_gap_q) / sum_q  # p / q - 1, unless it is a difference of large numbers
    near_p = (sum_gap_p - sum_pg) / sum_p
    are_near_q = (tl.abs(near_q) < HALF) & (sum_gap_q < sum_q) & (no_q == 0) & (no_p == 0)
    are_near_p = (tl.abs(near_p) < HALF) & (sum_gap_p < sum_p)
    log_near_p = tl.log(1.0 + tl.where(are_near_p, near_p, 0.0))
    shift = tl.where(are_near_q, tl.log(1.0 + tl.where(are_near_q, near_q, 0.0)), log_p - log_q)
    kl_qp = tl.where(are_near_q, sum_gap_q / sum_q + (shift - near_q), shift - sum_qg / sum_q)
    kl_pq = tl.where(are_near_p, sum_gap_p / sum_p + (log_near_p - near_p), sum_pg / sum_p - shift)
    token = tl.load(tokens + row)
    of_q = tl.load(policy + token).to(tl.float64)
    of_p = tl.load(reference + token).to(tl.float64)
    found += row * 9
    tl.store(found, (tl.where(of_q <= ABSENT, -infinity, of_q) - from_z) - log_q)
    tl.store(found + 1, (tl.where(of_p <= ABSENT, -infinity, of_p) - from_y) - log_p)
    tl.store(found + 2, tl.where(no_p, infinity + shift, kl_qp))
    tl.store(found + 3, tl.where(no_q, infinity + shift, kl_pq))
    tl.store(found + 4, log_q - tl.sum(qa, 0).to(tl.float64) / sum_q)
    tl.store(found + 5, from_z)
    tl.store(found + 6, from_y)
    tl.store(found + 7, log_q)
    tl.store(found + 8, shift)


@tuned
def backward(  # type: ignore[no-untyped-def]
    policy,
    policy_stride,
    reference,
    reference_stride,
    tokens,
    found,
    weights,
    gradient,
    gradient_stride,
    size,
    WIDTH: tl.constexpr,
    TILE: tl.constexpr,
    STAGES: tl.constexpr,
):
    """One row of ``q (w0 u + w2 log q + w3) + w1 p``, with ``u = log q/p``, and ``w4`` at the
    token.
    """
    row = tl.program_id(0).to(tl.int64)
    policy += row * policy_stride
    reference += row * reference_stride
    gradient += row * gradient_stride
    lane = tl.arange(0, TILE)
    from_z = tl.load(found + row * 9 + 5)
    from_y = tl.load(found + row * 9 + 6)
    log_sum = tl.load(found + row * 9 + 7)
    shift = tl.load(found + row * 9 + 8)
    w0 = tl.load(weights + row * 5)
    w1 = tl.load(weights + row * 5 + 1)
    w2 = tl.load(weights + row * 5 + 2)
    w3 = tl.load(weights + row * 5 + 3)
    w4 = tl.load(weights + row * 5 + 4)
    s = from_y - from_z
    large = tl.where(tl.abs(s) > SHIFTED, s, 0.0)
    of_y = tl.where(tl.abs(from_y) >= tl.abs(from_z), large, 0.0)
    token = tl.load(tokens + row)
    idle = (w0 == 0.0) & (w1 == 0.0) & (w2 == 0.0) & (w3 == 0.0) & (w4 == 0.0)
    for start in tl.range(0, size, TILE, num_stages=STAGES):
        inside = start + lane < size
        z = tl.load(policy + start + lane, mask=inside, other=NONE).to(tl.float32)
        y = tl.load(reference + start + lane, mask=inside, other=NONE).to(tl.float32)
        z = _finite(z)
        y = _finite(y)
        log_q = (z - from_z) - log_sum
        u = shift - (((y - of_y) - (z + (large - of_y))) - (s - large))
        total = tl.exp(log_q) * ((w0 * u + w2 * log_q) + w3) + w1 * tl.exp(
            (y - from_y) - (log_sum + shift)
        )
        total += tl.where(start + lane == token, w4, 0.0)
        total = tl.where(idle, 0.0, total)
        tl.store(gradient + start + lane, total.to(gradient.dtype.element_ty), mask=inside)
