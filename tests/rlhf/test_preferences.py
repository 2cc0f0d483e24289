"""Losses of ranked pairs against cases worked by hand, mpmath, finite differences, and TRL's
where it is installed.
"""

import math
from unittest.mock import MagicMock

import mpmath
import pytest
import torch

from klbench import divergences
from klbench.rlhf.preferences import bradley_terry_loss, dpo_loss, implicit_reward

F64 = torch.float64

# phi'(t) of the divergences E_ref[phi(t)], t = pi/ref = exp(u), as the literature writes them, each
# 0 at t = 1.
SLOPES = {
    "kl_qp": lambda t: mpmath.log(t),
    "kl_pq": lambda t: 1 - 1 / t,
    "js": lambda t: mpmath.log(2 * t / (1 + t)) / 2,
    "hellinger": lambda t: (1 - 1 / mpmath.sqrt(t)) / 2,
    "chi2": lambda t: 1 - t**-2,
    "alpha:0.5": lambda t: (1 - t ** mpmath.mpf(-0.5)) / mpmath.mpf(0.5),
    "alpha:-1": lambda t: t - 1,
    "alpha:3": lambda t: (1 - t**-3) / 3,
}
POINTS = [-200.0, -30.0, -3.0, -0.7, -1e-9, 0.0, 1e-3, 0.4, 2.0, 25.0, 200.0]


def t(*values, dtype=F64):
    return torch.tensor(values, dtype=dtype)


def test_bradley_terry_by_hand() -> None:
    # sigma(log 3) = 3/4.
    chosen, rejected = t(math.log(3.0), 0.0, 5.0), t(0.0, math.log(3.0), 5.0)
    assert bradley_terry_loss(chosen, rejected).tolist() == pytest.approx(
        [math.log(4 / 3), math.log(4), math.log(2)]
    )
    expected = [
        0.9 * math.log(4 / 3) + 0.1 * math.log(4),
        0.9 * math.log(4) + 0.1 * math.log(4 / 3),
        math.log(2),
    ]
    assert bradley_terry_loss(chosen, rejected, 0.1).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("smoothing", [-0.1, 0.5, float("nan")])
def test_a_smoothing_that_is_none_is_refused(smoothing) -> None:
    with pytest.raises(ValueError, match=r"at least 0 and below 0\.5, got"):
        bradley_terry_loss(t(1.0), t(0.0), smoothing)


def test_standard_dpo_by_hand() -> None:
    # Margin 0.5 (log 9) = log 3.
    assert dpo_loss(t(math.log(9.0)), t(0.0), 0.5).tolist() == pytest.approx([math.log(4 / 3)])
    # At the reference every loss is log 2, and the gradient is -+ beta/2.
    chosen = torch.zeros(1, dtype=F64, requires_grad=True)
    loss = dpo_loss(chosen, t(0.0), 0.3)
    assert loss.tolist() == pytest.approx([math.log(2)])
    assert torch.autograd.grad(loss.sum(), chosen)[0].tolist() == pytest.approx([-0.15])


def test_kl_of_policy_from_reference_is_standard_dpo_to_the_bit() -> None:
    chosen, rejected = t(*POINTS), t(*POINTS[::-1])
    direct = -torch.nn.functional.logsigmoid(0.1 * chosen - 0.1 * rejected)
    assert torch.equal(dpo_loss(chosen, rejected, 0.1, divergence="kl_qp"), direct)


@pytest.mark.parametrize("name", SLOPES)
def test_implicit_rewards_against_mpmath(name) -> None:
    found = implicit_reward(t(*POINTS), 0.7, name)
    assert torch.isfinite(found).all()
    with mpmath.workdps(100):
        expected = [
            float(mpmath.mpf(0.7) * SLOPES[name](mpmath.exp(mpmath.mpf(u)))) for u in POINTS
        ]
    assert found.tolist() == pytest.approx(expected, rel=1e-13, abs=1e-25)


@pytest.mark.parametrize("name", [*SLOPES, "alpha"])
def test_slopes_are_what_probability_costs(name) -> None:
    """``d/dq [q f(p/q)]`` by autograd, and by the generator that is computed as written."""
    divergence = divergences.get(name)
    p = t(0.3, 0.2, 0.5, 0.01)
    q = t(0.1, 0.2, 0.6, 0.9).requires_grad_()
    (cost,) = torch.autograd.grad((q * divergence.f(p / q)).sum(), q)
    one = torch.ones((), dtype=F64)
    log_ratio = (p / q).log().detach()
    torch.testing.assert_close(
        divergence.slope(log_ratio), cost + divergence.df(one), rtol=1e-12, atol=1e-14
    )
    written = divergences.generator("own", divergence.f, divergence.df)
    torch.testing.assert_close(
        divergence.slope(log_ratio), written.slope(log_ratio), rtol=1e-12, atol=1e-14
    )


@pytest.mark.parametrize("name", SLOPES)
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_gradients_against_finite_differences(name, smoothing) -> None:
    chosen = t(0.3, -1.0, 0.0, 2.0).requires_grad_()
    rejected = t(-0.2, 1.5, 0.0, 1.9).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda a, b: dpo_loss(a, b, 0.4, smoothing, name), (chosen, rejected)
    )


@pytest.mark.parametrize("name", SLOPES)
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_extreme_log_ratios_leave_nothing_undefined(name, dtype) -> None:
    """Also where both are far out, and the wrong way round.

    In float32 the difference of two infinities would be NaN.
    """
    far = [
        (200.0, -200.0),
        (-200.0, 200.0),
        (-199.0, -200.0),
        (-200.0, -199.0),
        (200.0, 200.0),
        (-200.0, -200.0),
    ]
    chosen, rejected = (t(*side, dtype=dtype).requires_grad_() for side in zip(*far, strict=True))
    loss = dpo_loss(chosen, rejected, 0.1, divergence=name)
    with mpmath.workdps(400):
        cost = [
            mpmath.log1p(
                mpmath.exp(
                    -mpmath.mpf(0.1) * (SLOPES[name](mpmath.exp(c)) - SLOPES[name](mpmath.exp(r)))
                )
            )
            for c, r in far
        ]
    largest = torch.finfo(dtype).max
    expected = [float(each) if each < largest else math.inf for each in cost]
    assert loss.dtype == dtype
    assert loss.tolist() == pytest.approx(expected, rel=1e-6 if dtype == torch.float32 else 1e-12)
    gradients = torch.autograd.grad(loss.sum(), (chosen, rejected))
    assert not any(each.isnan().any() for each in gradients)
    assert all(
        (each[[2]] <= 0 if i == 0 else each[[2]] >= 0).all() for i, each in enumerate(gradients)
    )


@pytest.mark.parametrize(
    ("ours", "beta", "theirs"),
    [
        ("kl_qp", 0.1, {"f_divergence_type": "reverse_kl"}),
        ("kl_pq", 0.1, {"f_divergence_type": "forward_kl"}),
        ("js", 0.2, {"f_divergence_type": "js_divergence"}),  # theirs has no half
        (
            "alpha:0.5",
            0.1,
            {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.5},
        ),  # theirs is 1 - ours
    ],
)
def test_losses_are_trls(ours, beta, theirs) -> None:
    """As TRL 1.16.0 has them, inside its trainer."""
    trl = pytest.importorskip("trl")
    logps, ref = (
        t(-3.0, -4.0, -5.0, -2.5, dtype=torch.float32),
        t(-3.5, -3.0, -5.0, -2.0, dtype=torch.float32),
    )
    trainer = MagicMock(
        beta=0.1,
        loss_types=["sigmoid"],
        loss_weights=[1.0],
        label_smoothing=0.0,
        ld_alpha=None,
        precompute_ref_logps=True,
        aux_loss_enabled=False,
        use_weighting=False,
        **theirs,
    )
    trainer.accelerator.device = "cpu"
    trainer.accelerator.gather.side_effect = lambda x: x
    trainer.accelerator.gather_for_metrics.side_effect = lambda x: x
    each = logps[:, None]  # a token a sequence: log-probabilities, and what else TRL logs
    model = MagicMock(
        training=False,
        return_value=MagicMock(log_probs=each, entropy=each, mean_logits=each, is_top1=each > 0),
    )
    ids = torch.zeros(4, 2, dtype=torch.long)
    inputs = {
        "input_ids": ids,
        "completion_mask": torch.tensor([[0, 1]] * 4),
        "attention_mask": torch.ones_like(ids),
        "ref_chosen_logps": ref[:2],
        "ref_rejected_logps": ref[2:],
    }
    expected = trl.DPOTrainer._compute_loss(trainer, model, inputs, False)
    found = dpo_loss((logps - ref)[:2], (logps - ref)[2:], beta, divergence=ours).mean()
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


def test_the_loss_of_reward_models_is_trls() -> None:
    """As TRL 1.16.0 has it, inside its trainer; gradients too."""
    trl = pytest.importorskip("trl")
    rewards = t(0.3, -2.0, 40.0, 1.0, 1.5, -60.0).requires_grad_()  # chosen, then rejected
    args = MagicMock(center_rewards_coefficient=None)
    model = MagicMock(return_value=MagicMock(logits=rewards[:, None]))
    trainer = MagicMock(args=args)
    trainer.model.training = False
    trainer.accelerator.gather_for_metrics.side_effect = lambda x: x
    inputs = {"input_ids": torch.zeros(6, 2), "attention_mask": torch.ones(6, 2)}
    expected = trl.RewardTrainer.compute_loss(trainer, model, inputs)
    found = bradley_terry_loss(rewards[:3], rewards[3:]).mean()
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=0)
    gradients = [torch.autograd.grad(each, rewards)[0] for each in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-14, atol=0)
