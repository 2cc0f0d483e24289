"""Total variation, the Jensen-Shannon divergence, and masses on the most probable tokens."""

from math import inf, log, nan

import kernel_oracle
import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon

from klbench.kernels import token_divergences
from klbench.types import ConfigError

TOLERANCE = 2e-6
ALL = {"total_variation": True, "jsd": 0.5, "top": (1, 8, 64, 9_000)}


def results(found):
    top = found.top
    return [found.total_variation, found.jsd, top.policy, top.reference, top.kl_qp]


def rows(*logits, device="cpu"):
    return torch.tensor(logits, device=device)


def token(n, device):
    return torch.zeros(n, dtype=torch.int64, device=device)


def probabilities(x):
    x = x.double().cpu().numpy()
    weights = np.exp(x - x.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def worst(found, truths):
    error = 0.0
    for value, truth in zip(results(found)[: len(truths)], truths, strict=True):
        if truth is None:
            continue
        got, truth = value.double().cpu().numpy(), np.asarray(truth)
        assert got.shape == truth.shape
        with np.errstate(invalid="ignore"):
            off = np.where(got == truth, 0.0, np.abs(got - truth) / (1 + np.abs(truth)))
        error = np.maximum(error, off.max())  # NaN stays
    return float(error)


def exact(policy, reference, beta, ks, support):
    """By NumPy and SciPy, which share no code with the kernels."""
    q, p = probabilities(policy), probabilities(reference)
    owner = (policy if support == "policy" else reference).double().cpu().numpy()
    order = np.argsort(-owner, axis=-1, kind="stable")
    mixed = np.maximum(beta * p + (1 - beta) * q, np.finfo(float).tiny)  # 0 too early

    def divergence(a, b):
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            return np.where(a > 0, a * np.log(a / b), 0.0).sum(-1)

    found = {"policy": [], "reference": [], "kl_qp": []}
    for k in ks:
        ordered_q, ordered_p = (np.take_along_axis(x, order, -1) for x in (q, p))
        coarse = [
            np.concatenate([x[:, :k], x[:, k:].sum(-1, keepdims=True)], -1)
            for x in (ordered_q, ordered_p)
        ]
        found["policy"].append(coarse[0][:, :k].sum(-1))
        found["reference"].append(coarse[1][:, :k].sum(-1))
        found["kl_qp"].append(divergence(*coarse))
    return [
        np.abs(q - p).sum(-1) / 2,
        beta * divergence(p, mixed) + (1 - beta) * divergence(q, mixed),
        *(np.stack(each, -1) for each in found.values() if each),
    ]


@pytest.mark.parametrize(("noise", "beta"), [(0.0, 0.5), (1e-3, 0.5), (0.5, 0.9), (6.0, 0.02)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("support", ["policy", "reference"])
def test_against_numpy(kernel, device, noise, beta, dtype, support):
    policy, reference, tokens = kernel_oracle.logits(2, 2_500, noise, dtype=dtype, device=device)
    policy[0, 5] = reference[0, 5] = -inf
    policy[0, 9] = reference[1, 11] = -inf
    ks = (3, 1, 64, 300, 4_000)
    found = token_divergences(
        policy,
        reference,
        tokens,
        kernel=kernel,
        total_variation=True,
        jsd=beta,
        top=ks,
        support=support,
    )
    assert found.top.ks == ks
    assert worst(found, exact(policy, reference, beta, ks, support)) < TOLERANCE


def test_scipy_agrees(kernel, device):
    policy, reference, tokens = kernel_oracle.logits(2, 700, 1.0, device=device)
    got = token_divergences(policy, reference, tokens, kernel=kernel, jsd=0.5).jsd
    other = jensenshannon(probabilities(policy), probabilities(reference), axis=-1) ** 2
    assert got.cpu().numpy() == pytest.approx(other, rel=1e-5)


def test_known_values(kernel, device):
    """q = (.6, .4), p = (.9, .1)."""
    policy, reference = rows([log(0.6), log(0.4)], device=device), rows([log(0.9), log(0.1)])
    found = token_divergences(
        policy, reference.to(device), token(1, device), kernel=kernel, **ALL | {"top": (1, 2)}
    )
    assert float(found.total_variation) == pytest.approx(0.3, abs=1e-6)
    assert float(found.jsd) == pytest.approx(0.063288, abs=1e-6)
    assert found.top.policy[0].tolist() == pytest.approx([0.6, 1.0])
    assert found.top.reference[0].tolist() == pytest.approx([0.9, 1.0])
    assert found.top.kl_qp[0].tolist() == pytest.approx([0.311239] * 2, abs=1e-6)


def test_small_ones_keep_their_digits(kernel, device):
    policy, reference, tokens = kernel_oracle.logits(2, 3_000, 3e-4, device=device)
    got = token_divergences(policy, reference, tokens, kernel=kernel, **ALL)
    plain = token_divergences(
        policy.double(), reference.double(), tokens, kernel="reference", **ALL
    )
    assert float(plain.jsd.max()) < 1e-7
    for value, truth in zip(results(got)[:2], results(plain)[:2], strict=True):
        assert float((value.double() / truth - 1).abs().max()) < 1e-4


def test_equal_rows_differ_by_nothing(kernel, device):
    policy, _, tokens = kernel_oracle.logits(2, 2_500, 0.0, device=device)
    found = token_divergences(policy, policy.clone(), tokens, kernel=kernel, **ALL)
    for value in (found.total_variation, found.jsd, found.top.kl_qp):
        assert float(value.abs().max()) <= (1e-15 if kernel == "reference" else 0.0)
    assert torch.equal(found.top.policy, found.top.reference)


@pytest.mark.parametrize("absent", [-inf, -1e4])
def test_disjoint_supports(kernel, device, absent):
    policy = rows([0.0, 0.0, absent, absent], device=device)
    found = token_divergences(
        policy, policy.flip(-1), token(1, device), kernel=kernel, **ALL | {"top": (1, 2)}
    )
    assert float(found.total_variation) == pytest.approx(1.0, abs=1e-6)
    assert float(found.jsd) == pytest.approx(log(2.0), abs=1e-6)
    assert found.top.policy[0].tolist() == pytest.approx([0.5, 1.0])
    assert found.top.reference[0].tolist() == pytest.approx([0.0, 0.0])


def test_one_token(kernel, device):
    found = token_divergences(
        rows([3.0], device=device),
        rows([-7.0], device=device),
        token(1, device),
        kernel=kernel,
        **ALL,
    )
    assert [float(value.max()) for value in results(found)] == [0.0, 0.0, 1.0, 1.0, 0.0]


def test_of_equal_logits_the_first_are_taken(kernel, device):
    policy = rows([1.0, 2.0, 2.0, 2.0, 0.0], device=device)
    reference = rows([0.0, 1.0, 2.0, 3.0, 4.0], device=device)
    found = token_divergences(policy, reference, token(1, device), kernel=kernel, top=(1, 2, 3, 4))
    p = torch.softmax(reference[0].double(), -1).tolist()
    expected = [p[1], p[1] + p[2], sum(p[1:4]), sum(p[:4])]
    assert found.top.reference[0].tolist() == pytest.approx(expected)
    assert found.total_variation is None
    assert found.jsd is None


@pytest.mark.parametrize("absent", [-inf, torch.finfo(torch.float32).min])
@pytest.mark.parametrize("left", [0, 1, 40, 300])
def test_fewer_tokens_are_left_than_the_support_takes(kernel, device, absent, left):
    policy, reference, tokens = kernel_oracle.logits(2, 2_500, 1.0, device=device)
    places = torch.randperm(2_500, generator=torch.Generator().manual_seed(0))[left + 1 :]
    policy[:, places] = absent
    found = token_divergences(policy, reference, tokens, kernel=kernel, **ALL | {"top": (64, 200)})
    policy[:, places] = -inf
    assert worst(found, exact(policy, reference, 0.5, (64, 200), "policy")) < TOLERANCE


@pytest.mark.parametrize("support", ["policy", "reference"])
def test_ordered_and_equal_logits(kernel, device, support):
    """Every tile brings new largest logits, of which many are equal."""
    policy = torch.linspace(-20, 20, 5_000, device=device).mul(8.0).round().div(8.0).repeat(2, 1)
    policy[1] = policy[1].flip(-1)
    reference = policy.flip(0).contiguous()
    found = token_divergences(
        policy, reference, token(2, device), kernel=kernel, support=support, **ALL
    )
    truth = exact(policy, reference, 0.5, ALL["top"], support)
    assert worst(found, truth) < TOLERANCE


def case_of_all_kinds(stream, trial):
    """Logits from alike to nothing in common, near and far in one row, masked, extreme."""
    size = int(torch.randint(1, 4_000, (), generator=stream))

    def power(low, high):
        return 10 ** (low + (high - low) * float(torch.rand((), generator=stream)))

    policy = torch.randn(2, size, generator=stream) * power(-3, 3.5)
    reference = policy + torch.randn(2, size, generator=stream) * power(-6, 3)
    match trial % 7:
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
        case 6:
            policy[:, 1 : size // 3] = reference[:, size // 4 : size // 2] = -inf
    return policy, reference


def test_logits_of_all_kinds(kernel, device):
    stream = torch.Generator().manual_seed(0)
    for trial in range(14 if kernel == "triton" else 350):
        policy, reference = (x.to(device) for x in case_of_all_kinds(stream, trial))
        beta = [0.5, 0.02, 0.98, 1e-3][trial % 4]
        ks = (1, 30, 200)
        options = {"total_variation": True, "jsd": beta, "top": ks}
        found = token_divergences(policy, reference, token(2, device), kernel=kernel, **options)
        # NumPy's probabilities are 0 too early for the divergence.
        assert worst(found, exact(policy, reference, beta, ks, "policy")[:4]) < TOLERANCE
        assert float(found.jsd.min()) > -1e-15


@pytest.mark.parametrize("beta", [0.5, 0.1, 0.98])
@pytest.mark.parametrize("noise", [3e-4, 0.1, 0.7, 3.0])
def test_against_forty_digits(kernel, device, noise, beta):
    """A far token among near ones, and a masked one, leave the digits of a small divergence."""
    policy, reference, tokens = kernel_oracle.logits(2, 600, noise, device=device)
    policy[0, 7] = reference[0, 7] = -inf
    reference[:, 11] -= 3.0
    found = token_divergences(
        policy, reference, tokens, kernel=kernel, total_variation=True, jsd=beta
    )
    for row in range(2):
        variation, jsd = kernel_oracle.overlap(policy[row], reference[row], beta)
        assert float(abs(float(found.total_variation[row]) / variation - 1)) < 1e-4
        assert float(abs(float(found.jsd[row]) / jsd - 1)) < 1e-4


@pytest.mark.parametrize("beta", [0.5, 0.1, 0.98])
@pytest.mark.parametrize("gap", [0.9, 1.0, log(3.0), 1.2])
@pytest.mark.parametrize("share", [0.002, 0.1, 0.5])
def test_borders_of_close_and_far(kernel, device, gap, beta, share):
    """Log-ratios at the border, of few or of half of the tokens, before a tile that is all far."""
    policy, reference, tokens = kernel_oracle.logits(2, 1_300, 0.0, scale=1.0, device=device)
    stream = torch.Generator().manual_seed(0)
    moved = torch.rand(2, 1_300, generator=stream) < share
    moved[:, 1] = True
    reference += gap * (moved.to(device) ^ (torch.arange(1_300, device=device) > 1_024))
    reference[1] += 0.3 * torch.randn(1_300, generator=stream).to(device)
    found = token_divergences(policy, reference, tokens, kernel=kernel, jsd=beta)
    truth = exact(policy, reference, beta, (), "policy")[1]
    assert found.jsd.cpu().numpy() == pytest.approx(truth, rel=5e-5)


@pytest.mark.parametrize("size", [64, 511, 512, 513, 1_100])
@pytest.mark.parametrize("values", [1, 2, 40, 10_000])
def test_the_support_is_that_of_a_stable_sort(kernel, device, size, values):
    """Many equal logits, whole and broken tiles, zeros of either sign, absent tokens."""
    stream = torch.Generator().manual_seed(size)
    policy = torch.randint(values, (2, size), generator=stream).sub(values // 2).to(torch.float32)
    policy[0] = policy[0].mul(-1.0) / 16.0
    policy[1, ::3] = -inf
    reference = torch.randn(2, size, generator=stream)
    ks = (1, 7, 50, 256)
    policy, reference = policy.to(device), reference.to(device)
    found = token_divergences(policy, reference, token(2, device), kernel=kernel, top=ks)
    truth = exact(policy, reference, 0.5, ks, "policy")[2:]
    assert worst(found, [None, None, *truth]) < TOLERANCE


def test_threads_and_blocks_give_the_same_bits():
    policy, reference, tokens = kernel_oracle.logits(64, 5_000, 0.5)
    before = torch.get_num_threads()
    found = []
    try:
        for threads, block_rows in ((1, None), (3, None), (2, 5)):
            torch.set_num_threads(threads)
            found.append(
                token_divergences(
                    policy, reference, tokens, kernel="cpu", block_rows=block_rows, **ALL
                )
            )
    finally:
        torch.set_num_threads(before)
    assert all(map(torch.equal, results(found[0]), results(found[1])))
    assert all(map(torch.equal, results(found[0]), results(found[2])))


def test_a_tiny_tail_keeps_its_digits(kernel, device):
    """Where q has half of its mass beyond p's most probable token, and p next to nothing."""
    policy = rows([0.0, 0.0, -3.0], device=device)
    reference = rows([60.0, 0.0, -30.0], device=device)
    found = token_divergences(
        policy, reference, token(1, device), kernel=kernel, top=(1,), support="reference"
    )
    truth = exact(policy, reference, 0.5, (1,), "reference")[-1]
    assert found.top.kl_qp.cpu().numpy() == pytest.approx(truth, rel=1e-6)


@pytest.mark.filterwarnings("ignore:All-NaN slice encountered")
def test_what_is_no_logit_gives_nan_in_its_row_alone(kernel, device):
    policy, reference, tokens = kernel_oracle.logits(3, 900, 0.5, device=device)
    policy[0, 3], reference[1] = nan, -inf
    found = token_divergences(policy, reference, tokens, kernel=kernel, **ALL)
    for value in (found.total_variation, found.jsd, found.top.kl_qp[:, 0]):
        assert value.isnan().tolist() == [True, True, False]


@pytest.mark.parametrize("layout", ["rows apart", "columns apart", "repeated", "none"])
def test_strides_and_blocks(kernel, device, layout):
    policy, reference, tokens = kernel_oracle.logits(6, 600, 0.5, device=device)
    view = {
        "rows apart": lambda x: x[::2],
        "columns apart": lambda x: x[:3, ::3],
        "repeated": lambda x: x[:1].expand(3, -1),
        "none": lambda x: x[:0],
    }[layout]
    policy, reference = view(policy), view(reference)
    tokens = tokens[: len(policy)] % policy.shape[1]
    viewed = token_divergences(policy, reference, tokens, kernel=kernel, block_rows=2, **ALL)
    whole = token_divergences(
        policy.contiguous(), reference.contiguous(), tokens, kernel=kernel, **ALL
    )
    assert all(map(torch.equal, results(viewed), results(whole)))


def test_there_are_no_gradients(kernel, device):
    policy, reference, tokens = kernel_oracle.logits(2, 30, 0.5, device=device)
    policy.requires_grad_()
    found = token_divergences(policy, reference, tokens, kernel=kernel, **ALL)
    assert found.kl_qp.requires_grad
    assert not any(value.requires_grad for value in results(found))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"jsd": 1.0}, "beta of jsd must be between 0 and 1, got 1.0"),
        ({"jsd": nan}, "between 0 and 1, got nan"),
        ({"top": (3, 0)}, r"each k of top must be 1 or more, got \[3, 0\]"),
        ({"top": (3,), "support": "polcy"}, "unknown support 'polcy'; did you mean 'policy'"),
    ],
)
def test_a_mistake_is_told_in_one_line(options, message):
    policy, reference, tokens = kernel_oracle.logits(2, 5, 0.5)
    with pytest.raises(ConfigError, match=message):
        token_divergences(policy, reference, tokens, **options)
