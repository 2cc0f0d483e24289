from math import inf

import kernel_oracle
import pytest
import torch

from klbench.kernels import token_divergences
from klbench.kernels.cpu import FRESH

SLOPES = ("log_q", "kl_qp", "kl_pq", "entropy")


def gradient(policy, results, weights):
    total = sum((w * r.double()).sum() for w, r in zip(weights, results, strict=True))
    return torch.autograd.grad(total, policy, retain_graph=True)[0]


def both(policy, reference, tokens, kernel, *sets):
    """Of the kernel and of float64: the gradient of the results times each set of weights."""
    leaf, exact = policy.clone().requires_grad_(), policy.double().requires_grad_()
    got = token_divergences(leaf, reference, tokens, kernel=kernel)
    log_q, _, kl_qp, kl_pq, entropy = kernel_oracle.exact(exact, reference, tokens)
    for weights in sets:
        yield (
            gradient(leaf, [getattr(got, name) for name in SLOPES], weights),
            gradient(exact, [log_q, kl_qp, kl_pq, entropy], weights),
        )


@pytest.mark.parametrize("noise", [1e-3, 0.5, 5.0])
@pytest.mark.parametrize("size", [1, 3, 127, 6_000])
def test_gradients(kernel, device, size, noise):
    policy, reference, tokens = kernel_oracle.logits(2, size, noise, device=device)
    weights = torch.randn(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).to(
        device
    )
    alone = [
        weights * torch.eye(4, dtype=torch.float64, device=device)[k][:, None] for k in range(4)
    ]
    for which, (got, exact) in enumerate(both(policy, reference, tokens, kernel, *alone, weights)):
        assert got.dtype == policy.dtype
        assert float(((got - exact).abs() / (1 + exact.abs())).max()) < 2e-6
        if which == 1:  # small differences keep their digits here too
            assert float((got - exact).abs().max()) <= 1e-5 * float(exact.abs().max())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_gradients_of_16_bits(kernel, device, dtype):
    policy, reference, tokens = kernel_oracle.logits(3, 900, 0.5, dtype=dtype, device=device)
    ((got, exact),) = both(
        policy, reference, tokens, kernel, torch.ones(4, 3, dtype=torch.float64, device=device)
    )
    assert got.dtype == dtype
    unit = torch.finfo(dtype).eps * (
        0.51 if device == "cuda" or kernel != "triton" else 1.01
    )  # the interpreter cuts bits off
    assert bool(((got - exact).abs() <= unit * exact.abs() + 6e-8).all())


def test_a_large_gradient_is_that_of_its_rows():
    policy, reference, tokens = kernel_oracle.logits(180, 50_257, 0.5)
    assert policy.nbytes > FRESH

    def slopes(rows):
        leaf = policy[rows].requires_grad_()
        found = token_divergences(leaf, reference[rows], tokens[rows], kernel="cpu")
        return torch.autograd.grad((found.log_q + found.kl_qp).sum(), leaf)[0]

    whole = slopes(slice(None))
    assert whole.is_contiguous()
    for rows in (slice(0, 3), slice(177, 180)):
        assert torch.equal(whole[rows], slopes(rows))


def test_gradients_of_strided_logits(kernel, device):
    policy, reference, tokens = kernel_oracle.logits(4, 900, 0.5, device=device)
    weights = torch.ones(4, 2, dtype=torch.float64, device=device)
    ((got, exact),) = both(
        policy[::2, ::3], reference[::2, ::3], tokens[::2] % 300, kernel, weights
    )
    assert float((got - exact).abs().max()) < 2e-6


@pytest.mark.parametrize("noise", [0.5, 1e-3])
def test_absent_tokens_take_no_gradient(kernel, device, noise):
    policy, reference, tokens = kernel_oracle.logits(3, 6_000, noise, device=device)
    policy[:, 10:4_000] = reference[:, 10:4_000] = -inf
    tokens[:] = 4_500
    leaf = policy.clone().requires_grad_()
    found = token_divergences(leaf, reference, tokens, kernel=kernel)
    got = torch.autograd.grad(sum(getattr(found, name).sum() for name in SLOPES), leaf)[0]
    assert bool((got[:, 10:4_000] == 0).all())
    keep = torch.tensor([k for k in range(6_000) if not 10 <= k < 4_000], device=device)
    ones = torch.ones(4, 3, dtype=torch.float64, device=device)
    ((_, exact),) = both(policy[:, keep], reference[:, keep], tokens - 3_990, "reference", ones)
    assert float((got[:, keep] - exact).abs().max()) < 4e-6


def test_an_infinite_divergence_has_a_gradient_only_where_nobody_asks(kernel, device):
    if kernel == "reference":
        pytest.skip("autograd makes NaN of 0 times infinity")
    policy, reference, tokens = kernel_oracle.logits(3, 900, 0.5, device=device)
    reference[1, 3] = policy[2, 3] = -inf
    tokens[:] = 7
    policy.requires_grad_()
    found = token_divergences(policy, reference, tokens, kernel=kernel)
    assert found.kl_qp[1] == found.kl_pq[2] == inf
    kept = torch.tensor([True, False, False], device=device)
    loss = (
        found.log_q.sum()
        + torch.where(kept, found.kl_qp, 0.0).sum()
        + torch.where(kept, found.kl_pq, 0.0).sum()
    )
    assert bool(torch.autograd.grad(loss, policy, retain_graph=True)[0].isfinite().all())
    (of_qp,) = torch.autograd.grad(found.kl_qp.sum(), policy, retain_graph=True)
    assert of_qp.isnan().all(-1).tolist() == [False, True, False]
    (of_pq,) = torch.autograd.grad(found.kl_pq.sum(), policy)
    assert of_pq.isnan().all(-1).tolist() == [False, False, True]


def test_the_reference_and_what_nobody_asks_for(kernel, device):
    policy, reference, tokens = kernel_oracle.logits(3, 40, 0.5, device=device)
    policy.requires_grad_()
    reference.requires_grad_()
    found = token_divergences(policy, reference, tokens, kernel=kernel)
    assert not found.log_p.requires_grad
    found.kl_qp[0].backward()
    assert reference.grad is None
    assert bool((policy.grad[1:] == 0).all())
    assert bool((policy.grad[0] != 0).any())
    with torch.no_grad():
        assert not token_divergences(policy, reference, tokens, kernel=kernel).kl_qp.requires_grad


def test_gradcheck_of_the_reference():
    policy, reference, tokens = kernel_oracle.logits(2, 5, 0.5, scale=1.0, dtype=torch.float64)
    policy[0, 1] = reference[0, 1] = -20.0
    policy.requires_grad_()

    def results(x):
        found = token_divergences(x, reference, tokens, kernel="reference")
        return tuple(getattr(found, name) for name in SLOPES)

    assert torch.autograd.gradcheck(results, (policy,))
    assert torch.autograd.gradgradcheck(results, (policy,))
