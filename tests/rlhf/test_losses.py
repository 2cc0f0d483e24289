"""The pure functions against cases worked by hand, loops, and finite differences."""

import math
from unittest.mock import MagicMock

import pytest
import torch

from klbench.estimators import get
from klbench.gradients.surrogate import centred
from klbench.rlhf import losses
from klbench.rlhf.ppo import Recipe

F64 = torch.float64


def t(*values):
    return torch.tensor(values, dtype=F64)


def test_clipped_surrogate_by_hand() -> None:
    log_ratio = t(math.log(1.5), math.log(1.5), math.log(0.5), math.log(0.5), 0.0)
    advantage = t(2.0, -2.0, 2.0, -2.0, 3.0)
    # Only what would gain from leaving the interval is cut off.
    assert losses.clipped_surrogate(log_ratio, advantage, 0.2).tolist() == pytest.approx(
        [2.4, -3.0, 1.0, -1.6, 3.0]
    )
    assert losses.clip_active(log_ratio, advantage, 0.2).tolist() == [
        True,
        False,
        False,
        True,
        False,
    ]
    assert losses.clipped_surrogate(log_ratio, advantage, None).tolist() == pytest.approx(
        [3.0, -3.0, 1.0, -1.0, 3.0]
    )
    assert not losses.clip_active(log_ratio, advantage, None).any()


def test_without_a_clip_its_first_gradient_is_reinforces() -> None:
    advantage = t(2.0, -1.0)
    log_ratio = torch.zeros(2, dtype=F64, requires_grad=True)
    (gradient,) = torch.autograd.grad(
        losses.clipped_surrogate(log_ratio, advantage, None).sum(), log_ratio
    )
    assert gradient.tolist() == advantage.tolist()


@pytest.mark.parametrize(
    "name", ["clipped_surrogate", "value_loss", "value_loss_clipped", "reduced_token"]
)
def test_gradients_against_finite_differences(name) -> None:
    generator = torch.Generator().manual_seed(0)
    x = 0.5 * torch.randn(3, 4, dtype=F64, generator=generator)
    other, old = (torch.randn(3, 4, dtype=F64, generator=generator) for _ in range(2))
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]], dtype=torch.bool)
    function = {
        "clipped_surrogate": lambda x: losses.clipped_surrogate(x, other, 0.2),
        "value_loss": lambda x: losses.value_loss(x, other),
        "value_loss_clipped": lambda x: losses.value_loss(x, other, old, 0.3),
        "reduced_token": lambda x: losses.reduced(x**2, mask, "token"),
    }[name]
    assert torch.autograd.gradcheck(function, x.requires_grad_())


def test_gae_against_its_sum() -> None:
    rewards, values = t(1.0, 0.0, 2.0, 9.0), t(0.5, 1.0, -1.0, 7.0)
    mask = torch.tensor([True, True, True, False])
    discount, trace = 0.9, 0.8
    deltas = [1.0 + 0.9 * 1.0 - 0.5, 0.0 + 0.9 * -1.0 - 1.0, 2.0 - -1.0]
    expected = [
        sum((discount * trace) ** (k - i) * deltas[k] for k in range(i, 3)) for i in range(3)
    ]
    found = losses.gae(rewards, values, mask, discount=discount, trace=trace)
    assert found.tolist() == pytest.approx([*expected, 0.0])


def test_gae_with_a_full_trace_is_the_return_less_the_value() -> None:
    rewards, values, mask = t(1.0, -1.0, 4.0), t(0.3, 0.2, 0.1), torch.ones(3, dtype=torch.bool)
    found = losses.gae(rewards, values, mask, discount=1.0, trace=1.0)
    assert found.tolist() == pytest.approx([4.0 - 0.3, 3.0 - 0.2, 4.0 - 0.1])


def test_value_loss_by_hand() -> None:
    assert losses.value_loss(t(2.0), t(0.0)).tolist() == [2.0]
    assert losses.value_loss(t(2.0), t(0.0), old=t(0.0), clip=0.5).tolist() == [2.0]
    assert losses.value_loss(t(2.0), t(3.0), old=t(0.0), clip=0.5).tolist() == [0.5 * 2.5**2]


@pytest.mark.parametrize(
    ("kl", "factor"), [(6.0, 1.0), (6.6, 1.01), (60.0, 1.02), (0.0, 0.98), (5.4, 0.99)]
)
def test_zieglers_controller(kl, factor) -> None:
    assert float(losses.adapted_beta(t(0.2), t(kl), target=6.0)) == pytest.approx(0.2 * factor)


def test_the_gain_of_a_horizon_and_what_is_no_target() -> None:
    # 64 sequences an update and a horizon of 10,000: 156 updates at the limit of 0.2 are about
    # exp(0.2).
    gain = losses.controller_gain(64, 10_000)
    assert gain == 0.0064
    beta = t(0.2)
    for _ in range(156):
        beta = losses.adapted_beta(beta, t(60.0), 6.0, gain)
    assert float(beta) == pytest.approx(0.2 * math.exp(0.2), rel=2e-3)
    for target in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="expected a target above 0"):
            losses.adapted_beta(t(0.2), t(1.0), target)
    for horizon in (0, -5.0, math.nan):
        with pytest.raises(ValueError, match="a horizon above 0"):
            losses.controller_gain(64, horizon)
    for wrong in ({"target_kl": 0.0}, {"kl_horizon": 0.0}, {"target_kl": -1.0}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))}=.*: must be above 0"):
            Recipe(**wrong)


def test_baselines_by_hand() -> None:
    returns = t(1.0, 3.0, 8.0, 10.0, 20.0, 60.0)[:, None]
    assert centred(returns, 3, "none").flatten().tolist() == [1, 3, 8, 10, 20, 60]
    assert centred(returns, 3, "batch_mean").flatten().tolist() == pytest.approx(
        [-3, -1, 4, -20, -10, 30]
    )
    assert centred(returns, 3, "leave_one_out").flatten().tolist() == pytest.approx(
        [-4.5, -1.5, 6, -30, -15, 45]
    )
    with pytest.raises(ValueError, match="6 sequences do not make groups of 4"):
        centred(returns, 4, "batch_mean")
    with pytest.raises(ValueError, match="at least 2 sequences in a group, got 1"):
        centred(returns, 1, "leave_one_out")


def test_whitening() -> None:
    advantage = t(*range(8)).view(4, 2)
    mask = torch.tensor([[1, 1], [1, 0], [1, 1], [1, 1]], dtype=torch.bool)
    white = losses.whitened(advantage, mask, 2, "batch")
    kept = white[mask]
    assert float(kept.mean()) == pytest.approx(0.0, abs=1e-12)
    assert float(kept.std()) == pytest.approx(1.0)
    assert float(white[~mask].abs().sum()) == 0.0
    grouped = losses.whitened(
        t(1.0, -1.0, 4.0, -4.0)[:, None], torch.ones(4, 1, dtype=torch.bool), 2, "group"
    )
    assert grouped.flatten().tolist() == pytest.approx(
        [1 / 2**0.5, -1 / 2**0.5, 1 / 2**0.5, -1 / 2**0.5]
    )


def test_the_unit_is_what_whitening_divided_by() -> None:
    advantage = t(*range(8)).view(4, 2)
    mask = torch.tensor([[1, 1], [1, 0], [1, 1], [1, 1]], dtype=torch.bool)
    plain = losses.whitened(advantage, mask, 2, "none")
    assert float(losses.unit(plain, plain, mask)) == 1.0
    batch = losses.whitened(plain, mask, 2, "batch")
    assert float(losses.unit(plain, batch, mask)) == pytest.approx(
        float(advantage[mask].std()), rel=1e-6
    )
    centred = t(1.0, -1.0, 4.0, -4.0)[:, None]
    ones = torch.ones(4, 1, dtype=torch.bool)
    white = losses.whitened(centred, ones, 2, "group")
    # Groups of spreads sqrt(2) and 4 sqrt(2), all weights alike.
    assert float(losses.unit(centred, white, ones)) == pytest.approx(2.5 * 2**0.5)
    assert float(losses.unit(0 * centred, 0 * centred, ones)) == 1.0


@pytest.mark.parametrize("filler", [float("nan"), float("inf"), -float("inf")])
def test_what_stands_where_the_mask_is_false_changes_nothing(filler) -> None:
    stream = torch.Generator().manual_seed(1)
    plain, other = (torch.randn(4, 2, dtype=F64, generator=stream) for _ in range(2))
    padded, beside = (torch.cat([x, torch.full_like(x, filler)], dim=1) for x in (plain, other))
    mask = torch.tensor([[True, True, False, False]] * 4)
    functions = {
        "whitened": lambda x, _, m, kind: losses.whitened(x, m, 2, kind),
        "reduced": lambda x, _, m, kind: losses.reduced(x, m, kind),
        "unit": lambda x, y, m, _: losses.unit(x, y, m),
        "gae": lambda x, y, m, _: losses.gae(x, y, m, discount=0.9, trace=0.8),
    }
    kinds = {"whitened": ("none", "batch", "group"), "reduced": ("sum", "token", "sequence")}
    for name, function in functions.items():
        for kind in kinds.get(name, ("",)):
            expected, found = (
                function(plain, other, mask[:, :2], kind),
                function(padded, beside, mask, kind),
            )
            if name in ("whitened", "gae"):
                assert not found[:, 2:].any()
                found = found[:, :2]
            torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)


def test_normalisations_by_hand() -> None:
    per_token = t(1.0, 2.0, 3.0, 4.0).view(2, 2)
    mask = torch.tensor([[True, True], [True, False]])
    assert float(losses.reduced(per_token, mask, "sum")) == 3.0
    assert float(losses.reduced(per_token, mask, "token")) == 2.0
    assert float(losses.reduced(per_token, mask, "sequence")) == (1.5 + 3.0) / 2


@pytest.mark.parametrize(
    ("theirs", "ours"), [("grpo", "sequence"), ("bnpo", "token"), ("luspo", "sum")]
)
def test_the_clipped_loss_with_k3_in_it_is_trls(theirs, ours) -> None:
    """GRPO's, as TRL 1.16.0 has it, inside its trainer; gradients too."""
    trl = pytest.importorskip("trl")
    generator = torch.Generator().manual_seed(4)
    log_q, old, ref = (-torch.rand(4, 5, dtype=F64, generator=generator) for _ in range(3))
    log_q.requires_grad_()
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 1, 0], [1, 0, 0, 0, 0]])
    advantage, beta = t(1.5, -0.7, -2.0, 0.4), 0.3
    trainer = MagicMock(
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        importance_sampling_level="token",
        beta=beta,
        loss_type=theirs,
        epsilon_low=0.2,
        epsilon_high=0.2,
        use_vllm=False,
        aux_loss_enabled=False,
        _entropy_bonus_enabled=False,
        args=MagicMock(use_bias_correction_kl=False, delta=None),
    )
    trainer.model.training = False
    trainer.accelerator.gather.side_effect = trainer.accelerator.gather_for_metrics.side_effect = (
        lambda x: x
    )
    trainer._get_per_token_logps_and_entropies.return_value = (log_q, torch.ones_like(log_q), None)
    ids = torch.zeros(4, 5, dtype=torch.long)
    inputs = {
        "prompt_ids": ids[:, :1],
        "prompt_mask": torch.ones(4, 1),
        "completion_ids": ids,
        "completion_mask": mask,
        "advantages": advantage,
        "old_per_token_logps": old,
        "ref_per_token_logps": ref,
    }
    expected = trl.GRPOTrainer._compute_loss(trainer, None, inputs)
    penalty = get("k3").terms(ref - log_q)
    per_token = beta * penalty - losses.clipped_surrogate(log_q - old, advantage[:, None], 0.2)
    found = losses.reduced(per_token, mask.bool(), ours)
    assert losses.clip_active(log_q - old, advantage[:, None], 0.2)[mask.bool()].any()
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    gradients = [torch.autograd.grad(each, log_q)[0] for each in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("baseline", ["batch_mean", "leave_one_out"])
@pytest.mark.parametrize("value", [0.1, 1 / 3, -0.7])
def test_equal_returns_have_no_advantage_to_the_bit(baseline, value) -> None:
    """0.1 three times has the mean 0.10000000000000002 in float64, and 1e-17 over a spread of 0
    would be a step of Adam's.
    """
    returns = torch.full((6, 1), value, dtype=F64)
    advantage = centred(returns, 6, baseline)
    assert torch.equal(advantage, torch.zeros_like(returns))
    mask = torch.ones(6, 1, dtype=torch.bool)
    assert torch.equal(losses.whitened(advantage, mask, 6, "group"), torch.zeros_like(returns))
