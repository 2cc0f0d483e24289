"""The kernel for main memory: compiled loops over rows, in as many threads as torch is allowed.

Each logit is read once. Logits that are float32 with neighbouring columns are read where they are;
other ones are widened a row at a time, so that nothing larger than a row, of policy, reference and
gradient, is held by each thread.
"""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from klbench.kernels import loops, overlap_loops, words
from klbench.kernels import reference as plain
from klbench.kernels.autograd import FOUND
from klbench.kernels.overlap import SECOND, Asked, Looks

ROWS = 8
"""Rows that a thread takes at a time, unless told."""
KINDS = {torch.float32: words.FULL, torch.bfloat16: words.BRAIN, torch.float16: words.SMALL}
INSERTED = 256
"""The largest support that is found by insertion; a larger one takes a sort."""
WORTH_THREADS = 2**18
"""Logits from which a second thread pays."""
FRESH = 2**25
"""Bytes that an allocator does not keep, but takes from the system each time."""


def obstacle(policy: Tensor, reference: Tensor) -> str | None:
    """Return why the compiled loops cannot take these logits; None if they can."""
    if policy.device.type != "cpu":
        return f"the logits are on {policy.device}"
    if torch.float64 in (policy.dtype, reference.dtype):
        return "it computes in float32, and the logits are float64"
    return None


class _Rows:
    """Rows of a tensor as the loops take them: words of 16 bits, where they are.

    Rows whose columns are no neighbours are copied, one at a time, as float32.
    """

    def __init__(self, x: Tensor) -> None:
        self.rows = x.detach()
        self.in_place = x.stride(1) == 1 or x.shape[1] == 1
        self.kind = KINDS[x.dtype] if self.in_place else words.FULL
        if self.in_place:
            stride = x.stride(0)
            span = (x.shape[0] - 1) * stride + x.shape[1] if x.shape[0] else 0
            self.words = _words(torch.as_strided(self.rows, (span,), (1,)))
            self.stride = stride * (2 if self.kind == words.FULL else 1)

    def at(self, row: int) -> tuple[np.ndarray, int, int]:
        """Return the words, how many there are from one row to the next, and their kind."""
        if self.in_place:
            return self.words, self.stride, self.kind
        return _words(self.rows[row].float().contiguous()), 0, words.FULL


def _words(x: Tensor) -> np.ndarray:
    return x.view(torch.int16).numpy().view(np.uint16)


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


def forward(
    policy: Tensor, reference: Tensor, tokens: Tensor, asked: Asked, block_rows: int | None
) -> Looks:
    """Return the results of :class:`klbench.kernels.autograd.Implementation`, in float64."""
    n, size = policy.shape
    owner, k = asked.support(policy, reference)
    search = k <= INSERTED
    places = torch.zeros(n, k, dtype=torch.int64) if search else plain.leading(owner, k, block_rows)
    found = torch.empty(n, FOUND, dtype=torch.float64)
    second = torch.empty(n if asked else 0, SECOND, dtype=torch.float64)
    log_q, log_p = torch.empty(2, n, k, dtype=torch.float64)
    q, p, ids = _Rows(policy), _Rows(reference), tokens.long().contiguous().numpy()
    tables = [x.numpy() for x in (found, second, places, log_q, log_p)]
    beta = asked.jsd or 0.0
    shares = np.float32(beta), overlap_loops.series(beta)
    more = (asked.total_variation, *shares, asked.by_policy, search and k > 0)

    def work(first: int, last: int) -> None:
        step = last - first if q.in_place and p.in_place else 1
        for row in range(first, last, step):
            loops.forward(q.at(row), p.at(row), size, ids, row, row + step, more, *tables)

    _share(n, size, block_rows, work)
    return found, second, log_q, log_p


def _empty(n: int, size: int, dtype: torch.dtype) -> Tensor:
    """An empty tensor, in pages of 2 MiB if it is large and the system has them.

    A fault for every 4 KiB took more time than what is written there.
    """
    length = n * size * dtype.itemsize
    if length < FRESH or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.empty(n, size, dtype=dtype)
    memory = mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=dtype).view(n, size)


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
    gradient = _empty(n, size, policy.dtype)
    q, p, ids = _Rows(policy), _Rows(reference), tokens.long().contiguous().numpy()
    table, w, to = found.numpy(), weights.contiguous().numpy(), _words(gradient.view(-1))

    def work(first: int, last: int) -> None:
        step = last - first if q.in_place and p.in_place else 1
        for row in range(first, last, step):
            loops.backward(
                q.at(row), p.at(row), size, ids, row, row + step, table, w, to, KINDS[policy.dtype]
            )

    _share(n, size, block_rows, work)
    return gradient
