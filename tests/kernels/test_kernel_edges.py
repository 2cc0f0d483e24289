"""Absent tokens, NaN and infinities."""

from math import inf, nan

import kernel_oracle
import pytest
import torch

from klbench.kernels import token_divergences

SIZE = 6_000  # several tiles


@pytest.fixture
def case(device):
    return kernel_oracle.logits(4, SIZE, 0.1, device=device)


@pytest.mark.parametrize(
    "mask", [slice(0, 3), slice(0, 5_000), slice(3_000, None), slice(0, None, 2)], ids=str
)
@pytest.mark.parametrize("value", [-inf, torch.finfo(torch.float32).min])
def test_absent_in_both(kernel, case, mask, value):
    policy, reference, tokens = case
    policy[:, mask] = reference[:, mask] = value
    got = token_divergences(policy, reference, tokens, kernel=kernel)
    policy[:, mask] = reference[:, mask] = -inf
    assert kernel_oracle.worst(got, policy, reference, tokens) < 2e-6
    truth = kernel_oracle.exact(policy, reference, tokens)[2]
    assert float(((got.kl_qp.double() - truth) / truth).abs().max()) < 1e-5


@pytest.mark.parametrize("where", [0, 2_500, SIZE - 1])
@pytest.mark.parametrize(
    "tail", [0.0, -500.0]
)  # the other one's logit there: its probability may be too small for float32
def test_absent_in_one(kernel, case, where, tail):
    policy, reference, tokens = case
    policy[0, where], reference[0, where] = -inf, tail
    policy[1, where], reference[1, where] = tail, -inf
    tokens[:2] = where
    got = token_divergences(policy, reference, tokens, kernel=kernel)
    assert got.kl_pq[0] == inf
    assert got.kl_qp[1] == inf
    assert got.log_q[0] == -inf
    assert got.log_p[1] == -inf
    truth = kernel_oracle.exact(policy, reference, tokens)
    assert float(got.kl_qp[0]) == pytest.approx(float(truth[2][0]), rel=2e-6, abs=2e-6)
    assert float(got.kl_pq[1]) == pytest.approx(float(truth[3][1]), rel=2e-6, abs=2e-6)
    assert kernel_oracle.worst(got, policy, reference, tokens) < 2e-6


def test_only_one_token_is_left(kernel, device):
    policy = torch.full((2, SIZE), -inf, device=device)
    policy[:, 4_500] = 3.0
    reference = torch.zeros(2, SIZE, device=device)
    got = token_divergences(
        policy, reference, torch.tensor([4_500, 0], device=device), kernel=kernel
    )
    assert got.log_q.tolist() == [0.0, -inf]
    assert got.kl_qp.tolist() == pytest.approx([8.699514748210191] * 2)  # log 6000
    assert got.kl_pq.tolist() == [inf, inf]
    assert got.entropy.tolist() == [0.0, 0.0]


@pytest.mark.filterwarnings(
    "ignore:All-NaN slice encountered"
)  # Triton 3.7's interpreter, of its own NumPy
def test_what_is_no_logit_gives_nan_in_its_row_alone(kernel, device):
    bad = [(value, where) for value in (nan, -nan, inf) for where in (0, 3_333, SIZE - 1)]
    n = len(bad)
    policy, reference, tokens = kernel_oracle.logits(2 * n + 1, SIZE, 0.1, device=device)
    tokens[:] = 7
    good = kernel_oracle.exact(policy, reference, tokens)
    for row, (value, where) in enumerate(bad):
        policy[row, where] = value
        reference[n + row, where] = value
    got = token_divergences(policy, reference, tokens, kernel=kernel)
    for name, truth in zip(kernel_oracle.RESULTS, good, strict=True):
        value = getattr(got, name).double()
        spoilt = slice(0, n if name in ("log_q", "entropy") else 2 * n)
        spoilt = slice(n, 2 * n) if name == "log_p" else spoilt
        assert bool(value[spoilt].isnan().all())
        value[spoilt] = truth[spoilt]
        assert float((value - truth).abs().max()) < 2e-5


@pytest.mark.parametrize("size", [1, 3, SIZE])
def test_a_row_without_tokens_gives_nan(kernel, device, size):
    policy = torch.zeros(2, size, device=device)
    reference = torch.zeros(2, size, device=device)
    policy[0] = reference[1] = -inf
    got = token_divergences(
        policy, reference, torch.zeros(2, dtype=torch.int64, device=device), kernel=kernel
    )
    assert all(getattr(got, name)[0].isnan() for name in ("log_q", "kl_qp", "kl_pq", "entropy"))
    assert all(getattr(got, name)[1].isnan() for name in ("log_p", "kl_qp", "kl_pq"))
    assert got.log_p[0] == got.log_q[1] == pytest.approx(-torch.tensor(float(size)).log().item())


def test_masked_16_bit_logits(kernel, device):
    for dtype in (torch.bfloat16, torch.float16):
        policy, reference, tokens = kernel_oracle.logits(3, 900, 0.5, dtype=dtype, device=device)
        policy[:, 5:300] = reference[:, 5:300] = -inf
        tokens[:] = torch.tensor([0, 5, 400])
        got = token_divergences(policy, reference, tokens, kernel=kernel)
        assert kernel_oracle.worst(got, policy, reference, tokens) < 2e-6
