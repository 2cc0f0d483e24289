"""The kernel for a GPU, in Triton: one program a row, one read of its logits.

And again for the gradient.
"""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor

from klbench.kernels import reference as plain
from klbench.kernels.autograd import FOUND
from klbench.kernels.interpreter import interpreted
from klbench.kernels.overlap import SECOND, Asked, Looks, log_probs


def obstacle(policy: Tensor, reference: Tensor) -> str | None:
    """Return why the Triton kernels cannot take these logits; None if they can."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if torch.float64 in (policy.dtype, reference.dtype):
        return "it computes in float32, and the logits are float64"
    if policy.device.type != "cuda" and not interpreted():
        return f"the logits are on {policy.device}, not on a GPU, and TRITON_INTERPRET=1 is not set"
    return None


def _rows(x: Tensor) -> Tensor:
    return x if x.stride(1) == 1 or x.shape[1] == 1 else x.contiguous()


def forward(
    policy: Tensor, reference: Tensor, tokens: Tensor, asked: Asked, block_rows: int | None
) -> Looks:
    """Return the results of :class:`klbench.kernels.autograd.Implementation`, in float32.

    Logits whose columns are not neighbours are copied first.
    """
    from klbench.kernels import tiles

    policy, reference, tokens = _rows(policy), _rows(reference), tokens.contiguous()
    n, size = policy.shape
    found = torch.empty(n, FOUND, dtype=torch.float32, device=policy.device)
    if n:
        tiles.forward[(n,)](
            policy,
            policy.stride(0),
            reference,
            reference.stride(0),
            tokens,
            found,
            size,
            WIDTH=tiles.width(size),
        )
    places = plain.leading(*asked.support(policy, reference), block_rows)
    second = _overlap(policy, reference, found, asked, places) if asked else found[:0]
    return found, second, *log_probs(policy, reference, found, places)


def backward(
    policy: Tensor,
    reference: Tensor,
    tokens: Tensor,
    found: Tensor,
    weights: Tensor,
    block_rows: int | None,
) -> Tensor:
    """Return the gradient of :class:`klbench.kernels.autograd.Implementation`."""
    from klbench.kernels import tiles

    policy, reference, tokens = _rows(policy), _rows(reference), tokens.contiguous()
    n, size = policy.shape
    gradient = torch.empty(n, size, dtype=policy.dtype, device=policy.device)
    if n:
        tiles.backward[(n,)](
            policy,
            policy.stride(0),
            reference,
            reference.stride(0),
            tokens,
            found,
            weights.contiguous(),
            gradient,
            gradient.stride(0),
            size,
            WIDTH=tiles.width(size),
        )
    return gradient


def _overlap(
    policy: Tensor, reference: Tensor, found: Tensor, asked: Asked, places: Tensor
) -> Tensor:
    from klbench.kernels import overlap_tiles, tiles

    n, size = policy.shape
    out = torch.empty(n, SECOND, dtype=torch.float32, device=policy.device)
    if n:
        overlap_tiles.overlap[(n,)](
            policy,
            policy.stride(0),
            reference,
            reference.stride(0),
            found,
            places[:, -1:].contiguous(),
            out,
            size,
            asked.jsd or 0.0,
            WIDTH=tiles.width(size),
            VARIATION=asked.total_variation,
            SHANNON=asked.jsd is not None,
            MASSES=bool(asked.top),
            BY_POLICY=asked.by_policy,
        )
    return out
