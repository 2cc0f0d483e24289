"""A second pass in Triton, for what needs both normalisers first: imported where first used."""

from __future__ import annotations

import triton
import triton.language as tl

from klbench.kernels.tiles import HALF, NONE, SHIFTED, _finite, tuned

# (exp(x) - 1 - x) / x^2 for |x| < 1, and with s = x / (2 + x), log(1 + x) = 2 s + s^3 P(s^2) for
# s^2 < 1/9, by mpmath.chebyfit.
G0, G1, G2 = tl.constexpr(2.5288435e-5), tl.constexpr(2.0329021e-4), tl.constexpr(0.0013886448)
G3, G4, G5 = tl.constexpr(0.0083308862), tl.constexpr(0.041666697), tl.constexpr(0.16666697)
L0, L1 = tl.constexpr(0.26851498), tl.constexpr(0.2823662)
L2, L3 = tl.constexpr(0.40007561), tl.constexpr(0.6666664)
ALIKE = tl.constexpr(1.0)


@triton.jit
def _excess(g):  # type: ignore[no-untyped-def]
    """``exp(g) - 1 - g`` where ``|g|`` is below ``ALIKE``, 0 elsewhere."""
    g = tl.where(tl.abs(g) < ALIKE, g, 0.0)
    return ((((((G0 * g + G1) * g + G2) * g + G3) * g + G4) * g + G5) * g + HALF) * (g * g)


@tuned
def overlap(  # type: ignore[no-untyped-def]
    policy,
    policy_stride,
    reference,
    reference_stride,
    found,
    ends,
    out,
    size,
    beta,
    WIDTH: tl.constexpr,
    VARIATION: tl.constexpr,
    SHANNON: tl.constexpr,
    MASSES: tl.constexpr,
    BY_POLICY: tl.constexpr,
    TILE: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Fill one row of ``out``, shape ``(n, 4)``."""
    row = tl.program_id(0).to(tl.int64)
    policy += row * policy_stride
    reference += row * reference_stride
    lane = tl.arange(0, TILE)
    from_z = tl.load(found + row * 9 + 5)
    from_y = tl.load(found + row * 9 + 6)
    log_sum = tl.load(found + row * 9 + 7)
    shift = tl.load(found + row * 9 + 8)
    s = from_y - from_z
    large = tl.where(tl.abs(s) > SHIFTED, s, 0.0)
    of_y = tl.where(tl.abs(from_y) >= tl.abs(from_z), large, 0.0)
    variation = tl.zeros((TILE,), tl.float32)
    shannon = tl.zeros((TILE,), tl.float32)
    tail_q = tl.zeros((TILE,), tl.float32)
    tail_p = tl.zeros((TILE,), tl.float32)
    end = tl.full((), 0, tl.int64)
    least = tl.full((), 0.0, tl.float32)
    if MASSES:
        end = tl.load(ends + row)
        owner = policy if BY_POLICY else reference
        least = _finite(tl.load(owner + end).to(tl.float32))
    for start in tl.range(0, size, TILE, num_stages=STAGES):
        inside = start + lane < size
        z = tl.load(policy + start + lane, mask=inside, other=NONE).to(tl.float32)
        y = tl.load(reference + start + lane, mask=inside, other=NONE).to(tl.float32)
        z = _finite(z)
        y = _finite(y)
        q = tl.exp((z - from_z) - log_sum)
        p = tl.exp((y - from_y) - (log_sum + shift))
        g = (((y - of_y) - (z + (large - of_y))) - (s - large)) - shift
        if VARIATION:
            near = tl.abs(g) < ALIKE
            variation += tl.abs(tl.where(near, q * (tl.where(near, g, 0.0) + _excess(g)), p - q))
        if SHANNON:
            v = -tl.abs(g)
            less = g < 0.0
            base = tl.where(less, q, p)
            share = tl.where(less, beta, 1.0 - beta)
            near = -v < ALIKE
            r = tl.exp(v)
            gap = _excess(v)
            w = tl.where(near, v + gap, r - 1.0)
            whole = tl.where(near, v * w - gap, r * v - w)
            x = share * w
            close = x >= -HALF
            mixed = 1.0 + x
            u = tl.where(close, x / (2.0 + x), 0.0)
            t = u * u
            odd = (((L0 * t + L1) * t + L2) * t + L3) * u
            far = mixed * tl.log(tl.where(close, 1.0, tl.where(mixed > 0.0, mixed, 1.0))) - x
            part = tl.where(close, t * (2.0 + (1.0 + u) * odd) * (1.0 + HALF * x), far)
            shannon += tl.where(base == 0.0, 0.0, base * (share * whole - part))
        if MASSES:
            own = z if BY_POLICY else y
            kept = (own > least) | ((own == least) & (start + lane <= end))
            tail_q += tl.where(kept | (inside == 0), 0.0, q)
            tail_p += tl.where(kept | (inside == 0), 0.0, p)
    out += row * 4
    tl.store(out, tl.sum(variation, 0) * HALF)
    tl.store(out + 1, tl.sum(shannon, 0))
    tl.store(out + 2, tl.sum(tail_q, 0))
    tl.store(out + 3, tl.sum(tail_p, 0))
