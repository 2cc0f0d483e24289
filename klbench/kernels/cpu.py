"""The kernel for main memory: compiled loops over rows, in as many threads as torch is allowed.

Each logit is read once. Logits that are float32 with neighbouring columns are read where they are;
other ones are widened a row at a time, so that nothing larger than a row, of policy, reference and
gradient, is held by each thread.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from klbench.kernels import loops
from klbench.kernels.autograd import FOUND

ROWS = 8
"""Rows that a thread takes at a time, unless told."""
WORTH_THREADS = 2**18
"""Logits from which a second thread pays."""


def obstacle(policy: Tensor, reference: Tensor) -> str | None:
    """Return why the compiled loops cannot take these logits; None if they can."""
    if policy.device.type != "cpu":
        return f"the logits are on {policy.device}"
    if torch.float64 in (policy.dtype, reference.dtype):
        return "it computes in float32, and the logits are float64"
    return None


class _Rows:
    """Rows of a tensor as float32.

    In place where they are, else one at a time, in a buffer of the thread's own.
    """

    def __init__(self, x: Tensor) -> None:
        x = x.detach()
        self.in_place = x.dtype == torch.float32 and (x.stride(1) == 1 or x.shape[1] == 1)
        self.size = x.shape[1]
        self.brain = x.dtype == torch.bfloat16
        if self.in_place:
            self.stride = x.stride(0)
            span = (x.shape[0] - 1) * self.stride + self.size if x.shape[0] else 0
            self.array = torch.as_strided(x, (span,), (1,)).numpy()
        else:
            self.stride = 0  # a buffer is one row, whichever is asked for
            self.array = (x.view(torch.int16) if self.brain else x).numpy()

    def buffer(self) -> np.ndarray:
        """Return the buffer of :meth:`load`.

        The whole array, which needs no loading, or one row.
        """
        return self.array if self.in_place else np.empty(self.size, dtype=np.float32)

    def load(self, row: int, buffer: np.ndarray) -> None:
        """Widen a row."""
        if self.brain:  # bfloat16 is the upper half of float32
            np.copyto(buffer.view(np.uint32), self.array[row].view(np.uint16))
            np.left_shift(buffer.view(np.uint32), 16, out=buffer.view(np.uint32))
        elif not self.in_place:
            np.copyto(buffer, self.array[row])

    def store(self, row: int, buffer: np.ndarray) -> None:
        """Round a row to what the tensor holds, half to even."""
        if self.brain:
            bits = buffer.view(np.uint32)
            nan = np.isnan(buffer)
            bits += 0x7FFF + ((bits >> 16) & 1)
            bits >>= 16
            bits[nan] = 0x7FC0
            np.copyto(self.array[row].view(np.uint16), bits, casting="unsafe")
        elif not self.in_place:
            with np.errstate(over="ignore"):
                np.copyto(self.array[row], buffer, casting="unsafe")


def _share(rows: int, size: int, block_rows: int | None, work: Callable[[int, int], Any]) -> None:
    """Call ``work(first, last)`` on blocks of rows, in torch's number of threads where there is
    enough to do.
    """
    block = block_rows or ROWS
    blocks = [(first, min(first + block, rows)) for first in range(0, rows, block)]
    threads = min(torch.get_num_threads(), len(blocks)) if rows * size >= WORTH_THREADS else 1
    if threads <= 1:
        for first, last in blocks:
            work(first, last)
        return
    with ThreadPoolExecutor(threads, thread_name_prefix="klbench-kernel") as pool:
        for _ in pool.map(lambda ends: work(*ends), blocks):
            pass


def forward(policy: Tensor, reference: Tensor, tokens: Tensor, block_rows: int | None) -> Tensor:
    """Return the results of :class:`klbench.kernels.autograd.Implementation`, in float64."""
    n, size = policy.shape
    found = torch.empty(n, FOUND, dtype=torch.float64)
    q, p, ids, table = (
        _Rows(policy),
        _Rows(reference),
        tokens.long().contiguous().numpy(),
        found.numpy(),
    )

    def work(first: int, last: int) -> None:
        step = last - first if q.in_place and p.in_place else 1
        of_q, of_p = q.buffer(), p.buffer()
        for row in range(first, last, step):
            q.load(row, of_q)
            p.load(row, of_p)
            loops.forward(of_q, q.stride, of_p, p.stride, size, ids, row, row + step, table)

    _share(n, size, block_rows, work)
    return found


def backward(
    policy: Tensor,
    reference: Tensor,
    tokens: Tensor,
    found: Tensor,
    weights: Tensor,
    block_rows: int | None,
) -> Tensor:
    """Return the gradient of :class:`klbench.kernels.autograd.Implementation`."""
    n, size = policy.shape
    gradient = torch.empty(n, size, dtype=policy.dtype)
    q, p, out = _Rows(policy), _Rows(reference), _Rows(gradient)
    ids, table, w = tokens.long().contiguous().numpy(), found.numpy(), weights.contiguous().numpy()

    def work(first: int, last: int) -> None:
        step = last - first if q.in_place and p.in_place and out.in_place else 1
        of_q, of_p, to = q.buffer(), p.buffer(), out.buffer()
        for row in range(first, last, step):
            q.load(row, of_q)
            p.load(row, of_p)
            loops.backward(
                of_q, q.stride, of_p, p.stride, size, ids, row, row + step, table, w, to, out.stride
            )
            out.store(row, to)

    _share(n, size, block_rows, work)
    return gradient
