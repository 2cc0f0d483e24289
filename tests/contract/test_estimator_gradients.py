"""What an estimator gives as a loss.

Its expected gradient, exactly, by enumeration, against the one it claims.
"""

import itertools

import mpmath
import numpy as np
import pytest
import torch

from klbench import estimators
from klbench.types import Draws

FAMILY_MEMBERS = [
    "k_lambda:0",
    "k_lambda:1",
    "k_lambda:0.3",
    "k_lambda_pq:0",
    "k_lambda_pq:0.4",
    "bregman_alpha:-1",
    "bregman_alpha:2",
    "bregman_alpha:0.1",
    "k3_clamped:2",
]
NAMES = [*estimators.names(), *FAMILY_MEMBERS]

# An asymmetric pair; one log-ratio beyond each of the clamps that trainers use.
THETA = torch.tensor([-12.0, 0.3, 1.0, -0.6], dtype=torch.float64)
LOG_P = torch.log_softmax(torch.tensor([0.2, -13.0, 0.4, 0.9], dtype=torch.float64), dim=0)
LOG_MU = torch.log_softmax(torch.tensor([0.1, 0.5, -0.3, 0.2], dtype=torch.float64), dim=0)
BATCH = 2


def expected_gradient(name: str) -> torch.Tensor:
    """Of the mean over a batch, over all batches.

    The sampling itself is not differentiated, the weight is.
    """
    estimator = estimators.get(name)
    theta = THETA.clone().requires_grad_()
    log_q = torch.log_softmax(theta, dim=0)
    batches = torch.tensor(list(itertools.product(range(len(theta)), repeat=BATCH)))
    if estimator.needs_weight:
        draws, sampler = Draws((LOG_P - log_q)[batches], (log_q - LOG_MU)[batches]), LOG_MU
    else:
        draws, sampler = Draws((LOG_P - log_q)[batches]), log_q
    probabilities = sampler.detach()[batches].sum(dim=-1).exp()
    loss = (probabilities * estimator.terms(draws).mean(dim=-1)).sum()
    return torch.autograd.grad(loss, theta, allow_unused=True, materialize_grads=True)[0]


def exact_gradients() -> dict[str, torch.Tensor]:
    theta = THETA.clone().requires_grad_()
    log_q = torch.log_softmax(theta, dim=0)
    kl_qp = (log_q.exp() * (log_q - LOG_P)).sum()
    kl_pq = (LOG_P.exp() * (LOG_P - log_q)).sum()
    return {
        "0": torch.zeros_like(THETA),
        "grad KL(q‖p)": torch.autograd.grad(kl_qp, theta, retain_graph=True)[0],
        "grad KL(p‖q)": torch.autograd.grad(kl_pq, theta)[0],
    }


def relative_distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / max(b.norm(), torch.tensor(1.0)))


def number(name: str) -> float:
    return float(name.partition(":")[2] or 0.5)  # 0.5 is the family's default


@pytest.mark.parametrize(
    "name", [name for name in NAMES if estimators.get(name).claims.gradient is not None]
)
def test_the_claimed_gradient_is_the_expected_one(name) -> None:
    claim = estimators.get(name).claims.gradient
    exact = exact_gradients()
    expected = (
        number(name) * exact["grad KL(p‖q)"] if claim == "lambda grad KL(p‖q)" else exact[claim]
    )
    off = relative_distance(expected_gradient(name), expected)
    assert off < 1e-10, (
        f"{name} claims gradient={claim!r}: as a loss its expected gradient is off by {off:.2g}"
    )


@pytest.mark.parametrize(
    "name", [name for name in NAMES if estimators.get(name).claims.gradient is None]
)
def test_without_a_claim_the_gradient_is_of_neither_divergence(name) -> None:
    for claim, exact in exact_gradients().items():
        off = relative_distance(expected_gradient(name), exact)
        assert off > 1e-3, (
            f"{name} claims no gradient, and as a loss has {claim!r}: expected"
            f" Claims(gradient={claim!r})"
        )


def test_the_pair_tells_the_gradients_apart() -> None:
    exact = list(exact_gradients().values())
    for a, b in itertools.combinations(exact, 2):
        assert relative_distance(a, b) > 0.1


@pytest.mark.parametrize("name", NAMES)
def test_autograd_agrees_with_finite_differences(name) -> None:
    log_ratio = torch.tensor(
        [-6.0, -3.1, -0.7, -0.2, 0.01, 0.3, 0.45, 1.2, 2.0, 5.5],
        dtype=torch.float64,
        requires_grad=True,
    )
    log_weight = torch.linspace(-0.8, 0.6, 10, dtype=torch.float64).requires_grad_()
    estimator = estimators.get(name)
    if estimator.needs_weight:
        assert torch.autograd.gradcheck(
            lambda x, w: estimator.terms(Draws(x, w)), (log_ratio, log_weight)
        )
    else:
        assert torch.autograd.gradcheck(estimator.terms, (log_ratio,))


DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
# Where r, its root or its square stop being floats of some dtype, and far beyond.
SIZES = [50.0, 89.0, 95.0, 180.0, 355.0, 712.0, 800.0, 1500.0, 1e4]
EXTREME = [
    *NAMES,
    "k_lambda:-1",
    "bregman_alpha:3",
    "bregman_alpha:1.5",
    "bregman_alpha:20",
    "bregman_alpha:-20",
    "bregman_alpha:-0.1",
]


@pytest.mark.parametrize("name", EXTREME)
@pytest.mark.parametrize("dtype", DTYPES)
def test_far_out_value_and_gradient_are_numbers_or_infinite(name, dtype) -> None:
    """And with a weight that is the inverse of r, or beyond a float itself.

    Beside mild samples of the same batch.
    """
    estimator = estimators.get(name)
    for log_ratio in (*SIZES, *(-size for size in SIZES)):
        for log_weight in (0.0, -log_ratio, 1e4, -1e4) if estimator.needs_weight else (0.0,):
            x = torch.tensor([log_ratio, 0.3, -0.2, log_ratio], dtype=dtype, requires_grad=True)
            w = torch.tensor([log_weight, 0.1, -0.3, log_weight], dtype=dtype, requires_grad=True)
            got = estimator.terms(Draws(x, w))
            got.sum().backward()
            assert not got.isnan().any(), (log_ratio, log_weight)
            assert not x.grad.isnan().any(), (log_ratio, log_weight)
            assert w.grad is None or not w.grad.isnan().any(), (log_ratio, log_weight)


@pytest.mark.parametrize("limit", [0.5, 2.0, 10.0, 1e30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_clamp_has_its_value_and_no_gradient_however_far_out(limit, dtype) -> None:
    """Just inside the clamp the gradient is that of k3, r - 1."""
    edge = float(
        mpmath.findroot(lambda x: x - mpmath.log(limit + 1 + x), float(np.log(limit + 2.0)) + 0.1)
    )
    x = torch.tensor(
        [edge * 0.999, edge * 1.001, 95.0, 800.0, 1e4, -1e4], dtype=dtype, requires_grad=True
    )
    names = [f"k3_clamped:{limit}", *(["k3_openrlhf"] if limit == 10.0 else [])]
    for name in names:
        x.grad = None
        got = estimators.get(name).terms(x)
        got.sum().backward()
        assert got[1:5].tolist() == [float(torch.tensor(limit, dtype=dtype))] * 4
        far_below = 0.0 if limit < 1e4 else -1.0  # where k3 is 1e4 - 1
        assert x.grad.tolist() == [
            pytest.approx(np.expm1(float(x[0].detach())), rel=1e-5),
            0.0,
            0.0,
            0.0,
            0.0,
            far_below,
        ]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_gradient_is_lost_where_policy_and_reference_agree(name, dtype) -> None:
    """At log-ratio 0, and where a batch is all zeros, gradients are finite."""
    x = torch.zeros(6, dtype=dtype, requires_grad=True)
    w = torch.zeros(6, dtype=dtype, requires_grad=True)
    estimators.get(name).terms(Draws(x, w)).sum().backward()
    assert torch.isfinite(x.grad).all()
    assert np.all(np.abs(x.grad.numpy()) <= 1.0)
