"""Each correction beside the installed trainer's own function, on the same log-probabilities.

Without the packages (`make .peers/.installed`, then PYTHONPATH=.peers) the tests are skipped.
"""

from types import SimpleNamespace

import pytest
import torch
from test_trainers_installed import F64, taken
from torch import Tensor

from klbench.gradients import corrections

N, T = 24, 5
GENERATOR = torch.Generator().manual_seed(5)
MASK = torch.arange(T) < torch.tensor([5, 2, 4, 1, 3, 5] * 4)[:, None]
MU = (-1.2 + 0.5 * torch.randn(N, T, dtype=F64, generator=GENERATOR)).clamp(max=-0.01)
OLD = (MU + 0.4 * torch.randn(N, T, dtype=F64, generator=GENERATOR)).clamp(max=-0.01)
Q = (OLD + 0.3 * torch.randn(N, T, dtype=F64, generator=GENERATOR)).clamp(max=-0.01)
SIDES = {name: each.where(MASK, 0.0) for name, each in (("q", Q), ("old", OLD), ("mu", MU))}


def ours(correction: str, **more) -> Tensor:
    """The weights of tokens that count."""
    found = corrections.weight(correction, SIDES, MASK, **more)
    return found.expand(N, T).where(MASK, 0.0)


def both(weights: Tensor) -> bool:
    """Whether some tokens are kept and some are not, so that the bounds are seen to be the same."""
    return 0 < int((weights[MASK] == 0).sum()) < int(MASK.sum())


def verl(name: str):
    """A function of verl's rollout correction, with its masked sums and without its metrics."""
    file = "verl/utils/torch_functional.py"
    sums = {each: taken("verl", file, each) for each in ("masked_mean", "masked_sum")}
    none = dict.fromkeys(("compute_is_metrics", "compute_rs_metrics"), lambda **_: {})
    where = "verl/trainer/ppo/rollout_corr_helper.py"
    return taken("verl", where, name, verl_F=SimpleNamespace(**sums), **none)


def openrlhf_loss(log_prob: Tensor, old: Tensor, advantages: Tensor, **options) -> Tensor:
    """OpenRLHF's loss of the policy, summed over tokens."""
    made = taken("openrlhf", "openrlhf/models/loss.py", "PolicyLoss.forward")
    made.__globals__["masked_mean"] = taken("openrlhf", "openrlhf/models/utils.py", "masked_mean")
    made.__globals__["aggregate_loss"] = lambda loss, mask, **_: (loss * mask).sum()
    usual = {"policy_loss_type": "ppo", "dual_clip": None, "token_level_loss": True}
    this = SimpleNamespace(**usual | options)
    loss, *_ = made(this, log_prob, old, advantages, action_mask=MASK.to(F64), rollout_log_probs=MU)
    return loss


@pytest.mark.parametrize(
    ("level", "threshold", "correction"),
    [
        ("token", 1.2, "truncated_ratio:1.2@old:mu"),
        ("token", "0.8_1.3", "masked_ratio:0.8-1.3@old:mu"),
        ("sequence", 1.2, "truncated_ratio:1.2@old:mu"),
        ("sequence", "0.8_1.3", "masked_ratio:0.8-1.3@old:mu"),
    ],
)
@pytest.mark.parametrize("normalise", [False, True])
def test_verls_weights(level, threshold, correction, normalise) -> None:
    function = verl("compute_rollout_correction_weights")
    theirs, _ = function(OLD - MU, MASK.to(F64), level, threshold, normalise)
    mine = ours(correction, sequence=level == "sequence")
    if normalise:
        per = mine[MASK].mean() if level == "token" else mine[:, 0].mean()
        mine = mine / per
    torch.testing.assert_close(theirs.where(MASK, 0.0), mine, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize(
    "option",
    [
        *(
            f"{where}_{what}"
            for where in ("token", "seq_sum", "seq_mean")
            for what in ("k1", "k2", "k3")
        ),
        "seq_max_k2",
        "seq_max_k3",
    ],
)
def test_verls_rejections(option) -> None:
    """Those by k1 have bounds of mu/old, the inverse of the weight."""
    function = verl("compute_rollout_rejection_mask")
    theirs, bounds = ("0.8_1.1", "0.8-1.1") if option.endswith("k1") else ("0.1", "0.1")
    found, _ = function(OLD - MU, MASK.to(F64), option, theirs)
    mine = ours(f"{option}:{bounds}@old:mu")
    assert both(mine)
    torch.testing.assert_close(found.where(MASK, 0.0), mine)


@pytest.mark.parametrize(
    ("level", "mode", "gating", "threshold", "correction"),
    [
        ("token", "mask", "ratio", (0.8, 1.3), "masked_ratio:0.8-1.3@old:mu"),
        ("token", "clip", "ratio", (0.8, 1.3), "clipped_ratio:0.8-1.3@old:mu"),
        ("seq", "mask", "ratio", (0.8, 1.1), "geometric_mask:0.8-1.1@old:mu"),
        ("token", "mask", "binary_kl", (0.0, 0.02), "binary_kl:0.02@old:mu"),
        ("token", "mask", "tv", (0.0, 0.05), "tv:0.05@old:mu"),
        (
            "seq",
            "mask",
            "binary_kl",
            (0.0, 0.02),
            "token_ratio@old:mu*seq_mean_binary_kl:0.02@old:mu",
        ),
        ("seq", "mask", "tv", (0.0, 0.06), "token_ratio@old:mu*seq_mean_tv:0.06@old:mu"),
    ],
)
def test_openrlhfs_corrections(level, mode, gating, threshold, correction) -> None:
    """What multiplies each token's advantage, where the policy has not moved since."""
    advantages = torch.ones(N, T, dtype=F64, requires_grad=True)
    loss = openrlhf_loss(
        OLD,
        OLD,
        advantages,
        is_correction_level=level,
        is_correction_mode=mode,
        is_correction_gating=gating,
        is_correction_threshold=threshold,
        clip_eps_low=0.2,
        clip_eps_high=0.2,
    )
    (found,) = torch.autograd.grad(-loss, advantages)
    mine = ours(correction)
    assert mode == "clip" or both(mine)
    torch.testing.assert_close(found.where(MASK, 0.0).to(F64), mine, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("bound", [0.0, 0.1])
def test_trls_off_policy_mask(bound) -> None:
    function = taken("trl", "trl/trainer/grpo_trainer.py", "GRPOTrainer.get_off_policy_mask")
    advantage = torch.randn(N, 1, dtype=F64, generator=GENERATOR)
    found = function(advantage, Q, MU, MASK.to(F64), bound)
    mine = ours(f"opsm:{bound or 1e-300}", advantage=advantage)
    assert both(mine)
    torch.testing.assert_close(found.expand(N, T).where(MASK, 0.0).to(F64), mine)
