"""How long the kernels take, beside what they replace and one read.

``pytest benchmarks/test_kernel_speed.py -m heavy -s``.

In float32, the ``cpu`` kernel has to be four times as fast as both log-softmaxes and the exact sum
(measured: 12 times), and faster than what has the tokens' log-probabilities alone (measured: 3
times); all in the same rounds.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import pytest
import torch

from klbench.kernels import token_divergences

ROWS, VOCABULARY, THREADS, ROUNDS = 1_024, 50_257, 2, 5
Job = Callable[[], object]

pytestmark = pytest.mark.heavy


def full(
    policy: torch.Tensor, reference: torch.Tensor, tokens: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """Both log-softmaxes, and the exact divergence from them."""
    log_q, log_p = policy.log_softmax(-1), reference.log_softmax(-1)
    at = tokens[:, None]
    return log_q.gather(-1, at), log_p.gather(-1, at), (log_q.exp() * (log_q - log_p)).sum(-1)


def selective(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """The token's log-probability and nothing else.

    Its logit less the log of the sum of exponentials, a row at a time.
    """
    normaliser = torch.stack([torch.logsumexp(row, dim=-1) for row in logits])
    return logits.gather(-1, tokens[:, None])[:, 0] - normaliser


def interleaved(jobs: dict[str, Job], rounds: int) -> dict[str, list[float]]:
    """Seconds of every job in every round, one after the other in each, after a round that is
    not counted.
    """
    for job in jobs.values():
        job()
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, job in jobs.items():
            start = time.perf_counter()
            job()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def show(title: str, seconds: dict[str, list[float]], unit: str) -> None:
    """Least and median time, and the median over rounds of the ratio to ``unit``."""
    print(f"\n{title}")
    for name, times in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(times, seconds[unit], strict=True))
        print(
            f"  {name:28} least {min(times) * 1e3:8.1f} ms, median"
            f" {statistics.median(times) * 1e3:8.1f}, {ratio:6.2f} reads"
        )


def times_as_fast(seconds: dict[str, list[float]], other: str) -> float:
    """How many times as fast as another job the kernel is: the median over rounds."""
    return statistics.median(
        a / b for a, b in zip(seconds[other], seconds["kernel cpu"], strict=True)
    )


@pytest.fixture
def threads() -> object:
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("noise", "dtype"), [(0.1, torch.float32), (3.0, torch.float32), (0.1, torch.bfloat16)], ids=str
)
def test_forward(
    noise: float, dtype: torch.dtype, threads: object, capsys: pytest.CaptureFixture[str]
) -> None:
    stream = torch.Generator().manual_seed(0)
    policy = torch.randn(ROWS, VOCABULARY, generator=stream) * 3.0
    reference = (policy + torch.randn(ROWS, VOCABULARY, generator=stream) * noise).to(dtype)
    policy = policy.to(dtype)
    tokens = torch.randint(VOCABULARY, (ROWS,), generator=stream)
    with torch.no_grad():
        seconds = interleaved(
            {
                "read both": lambda: (policy.max(), reference.max()),
                "kernel cpu": lambda: token_divergences(policy, reference, tokens, kernel="cpu"),
                "selective log-softmax, twice": lambda: (
                    selective(policy, tokens),
                    selective(reference, tokens),
                ),
                "log_softmax of both, and KL": lambda: full(policy, reference, tokens),
            },
            ROUNDS,
        )
        plain = {
            "kernel reference": lambda: token_divergences(
                policy, reference, tokens, kernel="reference"
            )
        }
        seconds |= interleaved(plain, 1)
    seconds["kernel reference"] *= ROUNDS
    with capsys.disabled():
        show(
            f"{ROWS} x {VOCABULARY}, {dtype}, noise {noise}, {THREADS} threads, forward",
            seconds,
            "read both",
        )
    if dtype == torch.float32:
        assert times_as_fast(seconds, "log_softmax of both, and KL") >= 4.0
        assert times_as_fast(seconds, "selective log-softmax, twice") > 1.0


def test_backward(threads: object, capsys: pytest.CaptureFixture[str]) -> None:
    stream = torch.Generator().manual_seed(0)
    policy = torch.randn(ROWS // 4, VOCABULARY, generator=stream) * 3.0
    reference = policy + torch.randn(ROWS // 4, VOCABULARY, generator=stream) * 0.1
    tokens = torch.randint(VOCABULARY, (ROWS // 4,), generator=stream)
    policy.requires_grad_()

    def kernel() -> None:
        policy.grad = None
        found = token_divergences(policy, reference, tokens, kernel="cpu")
        (found.log_q + found.kl_qp).sum().backward()

    def plain() -> None:
        policy.grad = None
        log_q, _, kl = full(policy, reference, tokens)
        (log_q[:, 0] + kl).sum().backward()

    jobs = {
        "read both": lambda: (policy.max(), reference.max()),
        "kernel cpu": kernel,
        "log_softmax of both, and KL": plain,
    }
    seconds = interleaved(jobs, ROUNDS)
    with capsys.disabled():
        show(
            f"{ROWS // 4} x {VOCABULARY}, float32, {THREADS} threads, forward and backward",
            seconds,
            "read both",
        )
