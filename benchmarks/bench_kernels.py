"""From logits to log-probabilities and exact divergences.

Every kernel that this machine can use, forward and backward.
"""

from __future__ import annotations

from typing import Any

import pytest

from klbench import kernels
from klbench.types import ConfigError

ROWS, VOCABULARY = 64, 8_192
every = pytest.mark.parametrize("kernel", kernels.names())


def logits(kernel: str) -> tuple[Any, Any, Any]:
    import torch

    stream = torch.Generator().manual_seed(0)
    policy = torch.randn(ROWS, VOCABULARY, generator=stream) * 3.0
    reference = policy + 0.1 * torch.randn(ROWS, VOCABULARY, generator=stream)
    try:
        kernels.choose(policy, reference, kernel=kernel)
    except ConfigError as error:
        pytest.skip(str(error))
    return policy, reference, torch.randint(VOCABULARY, (ROWS,), generator=stream)


@every
def bench_kernel(kernel: str, benchmark: Any) -> None:
    policy, reference, tokens = logits(kernel)
    found = benchmark(lambda: kernels.token_divergences(policy, reference, tokens, kernel=kernel))
    assert found.kernel == kernel


@every
def bench_kernel_second_look(kernel: str, benchmark: Any) -> None:
    policy, reference, tokens = logits(kernel)
    more: dict[str, Any] = {"total_variation": True, "jsd": 0.5, "top": (1, 8, 64)}
    found = benchmark(
        lambda: kernels.token_divergences(policy, reference, tokens, kernel=kernel, **more)
    )
    assert found.top.policy.shape == (ROWS, 3)


@every
def bench_kernel_backward(kernel: str, benchmark: Any) -> None:
    import torch

    policy, reference, tokens = logits(kernel)
    policy.requires_grad_()

    def backward() -> Any:
        found = kernels.token_divergences(policy, reference, tokens, kernel=kernel)
        return torch.autograd.grad((found.log_q + found.kl_qp).sum(), policy)

    assert benchmark(backward)[0].shape == (ROWS, VOCABULARY)
