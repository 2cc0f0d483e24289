import kernel_oracle
import mpmath
import pytest
import torch

from klbench.kernels import token_divergences

TOLERANCE = 2e-6


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str
)
@pytest.mark.parametrize("rows", [0, 1, 5, 33])
@pytest.mark.parametrize("size", [1, 2, 3, 127, 1000, 50257])
def test_every_kernel_agrees_with_float64(kernel, device, size, rows, dtype):
    if kernel != "reference" and dtype == torch.float64:
        pytest.skip("float64 is for the reference kernel alone")
    if kernel == "triton" and device == "cpu" and (rows == 33 or (size == 50257 and rows == 5)):
        pytest.skip("too slow in the interpreter")
    policy, reference, tokens = kernel_oracle.logits(rows, size, 0.5, dtype=dtype, device=device)
    got = token_divergences(policy, reference, tokens, kernel=kernel)
    assert got.kernel == kernel
    assert got.kl_qp.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert kernel_oracle.worst(got, policy, reference, tokens) < (
        1e-13 if dtype == torch.float64 else TOLERANCE
    )


@pytest.mark.parametrize("noise", [3e-4, 0.1, 5.0])
def test_against_forty_digits(kernel, device, noise):
    policy, reference, tokens = kernel_oracle.logits(2, 127, noise, device=device)
    got = token_divergences(policy, reference, tokens, kernel=kernel)
    for row in range(2):
        truths = kernel_oracle.digits(policy[row], reference[row], int(tokens[row]))
        for name, truth in zip(kernel_oracle.RESULTS, truths, strict=True):
            error = abs(mpmath.mpf(float(getattr(got, name)[row])) - truth)
            assert error < TOLERANCE * (1 if name not in ("kl_qp", "kl_pq") else 2) * abs(truth)


@pytest.mark.parametrize("shift", [0.0, 7.0, -1000.0])
@pytest.mark.parametrize("noise", [3e-4, 1e-3, 1e-2, 0.1, 0.5, 1.0, 3.0, 12.0])
def test_divergences_keep_their_digits(kernel, device, noise, shift):
    """From below 1e-8 to 50 nats, whatever the constant between the logits.

    Absolute accuracy would leave nothing of these.
    """
    policy, reference, tokens = kernel_oracle.logits(
        2 if kernel == "triton" else 8, 6_000, noise, device=device
    )
    reference = reference + shift
    got = token_divergences(policy, reference, tokens, kernel=kernel)
    _, _, kl_qp, kl_pq, _ = kernel_oracle.exact(policy, reference, tokens)
    assert float(kl_qp.min()) > 5e-9
    assert float(kl_qp.max()) < 100.0
    for value, truth in ((got.kl_qp, kl_qp), (got.kl_pq, kl_pq)):
        assert float(((value.double() - truth) / truth).abs().max()) < 1e-5


def test_equal_logits_have_no_divergence(kernel, device):
    policy, _, tokens = kernel_oracle.logits(3, 5_000, 0.0, device=device)
    got = token_divergences(policy, policy.clone(), tokens, kernel=kernel)
    assert got.kl_qp.abs().max() == 0.0
    assert got.kl_pq.abs().max() == 0.0
    assert torch.equal(got.log_q, got.log_p)


@pytest.mark.parametrize("scale", [1e4, 300.0, 1e-3])
def test_extreme_logits(kernel, device, scale):
    policy, _, tokens = kernel_oracle.logits(3, 3_000, 0.0, scale=scale, device=device)
    reference, _, _ = kernel_oracle.logits(3, 3_000, 0.0, scale=scale, device=device, seed=1)
    got = token_divergences(policy, reference, tokens, kernel=kernel)
    assert kernel_oracle.worst(got, policy, reference, tokens) < TOLERANCE


@pytest.mark.parametrize("ends", ["first", "last"])
def test_a_soft_mask_in_one_of_them(kernel, device, ends):
    """Whole tiles that differ by 1e4 leave the digits of the others alone, wherever they stand."""
    policy, reference, tokens = kernel_oracle.logits(3, 10_000, 0.01, device=device)
    part = slice(None, 5_000) if ends == "first" else slice(5_000, None)
    policy[:, part] -= 1e4
    reference[:, part] -= 30.0
    got = token_divergences(policy, reference, tokens, kernel=kernel)
    assert kernel_oracle.worst(got, policy, reference, tokens) < TOLERANCE


@pytest.mark.parametrize("rising", [True, False])
def test_ordered_logits(kernel, device, rising):
    """Every tile brings a new largest logit, or none does."""
    policy = torch.linspace(-20, 20, 9_000, device=device).repeat(2, 1)
    policy = policy if rising else policy.flip(-1)
    reference = policy + 0.1 * torch.sin(torch.arange(9_000, device=device) * 0.7)
    tokens = torch.tensor([0, 8_999], device=device)
    got = token_divergences(policy, reference, tokens, kernel=kernel)
    assert kernel_oracle.worst(got, policy, reference, tokens) < TOLERANCE
    truth = kernel_oracle.exact(policy, reference, tokens)[2]
    assert float(((got.kl_qp.double() - truth) / truth).abs().max()) < 1e-5


@pytest.mark.parametrize(
    "layout", ["rows apart", "columns apart", "transposed", "repeated", "reversed blocks"]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_strides(kernel, device, layout, dtype):
    policy, reference, tokens = kernel_oracle.logits(6, 700, 0.5, dtype=dtype, device=device)
    view = {
        "rows apart": lambda x: x[::2],
        "columns apart": lambda x: x[:3, ::3],
        "transposed": lambda x: x.T[:3],
        "repeated": lambda x: x[:1].expand(3, -1),
        "reversed blocks": lambda x: x[:, 100:][3:],
    }[layout]
    policy, reference = view(policy), view(reference)
    tokens = tokens[: len(policy)] % policy.shape[1]
    got = token_divergences(policy, reference, tokens, kernel=kernel)
    assert kernel_oracle.worst(got, policy, reference, tokens) < TOLERANCE


@pytest.mark.parametrize("block_rows", [1, 2, 100])
def test_blocks_change_nothing(kernel, device, block_rows):
    policy, reference, tokens = kernel_oracle.logits(5, 600, 0.5, device=device)
    whole = token_divergences(policy, reference, tokens, kernel=kernel)
    parts = token_divergences(policy, reference, tokens.int(), kernel=kernel, block_rows=block_rows)
    assert all(
        torch.equal(getattr(whole, name), getattr(parts, name)) for name in kernel_oracle.RESULTS
    )


def test_policy_and_reference_may_differ_in_dtype(kernel, device):
    policy, reference, tokens = kernel_oracle.logits(3, 600, 0.5, device=device)
    got = token_divergences(policy.bfloat16(), reference, tokens, kernel=kernel)
    assert kernel_oracle.worst(got, policy.bfloat16(), reference, tokens) < TOLERANCE


def test_threads_give_the_same_bits():
    policy, reference, tokens = kernel_oracle.logits(64, 5_000, 0.5)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            results.append(token_divergences(policy, reference, tokens, kernel="cpu"))
    finally:
        torch.set_num_threads(before)
    assert all(
        torch.equal(getattr(results[0], name), getattr(results[1], name))
        for name in kernel_oracle.RESULTS
    )


def test_logits_of_all_kinds(kernel, device):
    """Scales and differences from tiny to thousands, steps in either, one large logit, or
    nothing in common.
    """
    stream = torch.Generator().manual_seed(0)

    def power(low, high):
        return 10 ** (low + (high - low) * float(torch.rand((), generator=stream)))

    for trial in range(12 if kernel == "triton" else 300):
        size = int(torch.randint(1, 4_000, (), generator=stream))
        policy = torch.randn(2, size, generator=stream) * power(-3, 3.5)
        reference = policy + torch.randn(2, size, generator=stream) * power(-6, 3)
        tokens = torch.randint(size, (2,), generator=stream)
        match trial % 6:
            case 1:
                reference += power(0, 3.5)
            case 2:
                policy[:, : size // 2] -= power(0, 5)
            case 3:
                reference[:, size // 3 :] += power(0, 4)
            case 4:
                policy[:, size // 2] = policy.max() + power(-1, 1.5)
            case 5:
                reference = torch.randn(2, size, generator=stream) * power(-3, 3.5)
        policy, reference, tokens = policy.to(device), reference.to(device), tokens.to(device)
        got = token_divergences(policy, reference, tokens, kernel=kernel)
        assert kernel_oracle.worst(got, policy, reference, tokens) < TOLERANCE
