"""The weights of policy losses beside the installed functions: what multiplies each advantage.

Without the packages (`make .peers/.installed`, then PYTHONPATH=.peers) the tests are skipped.
"""

from types import SimpleNamespace

import pytest
import torch
from test_corrections_installed import MASK, MU, OLD, SIDES, N, Q, T, openrlhf_loss, verl
from test_corrections_read import ADVANTAGE, LENGTH, LOSS_MASK
from test_trainers_installed import Data, taken, trl_grpo
from torch import Tensor

from klbench import gradients, trainers
from klbench.gradients import corrections

OF_SEQUENCE = ADVANTAGE[:, :1].expand(N, T)
TOKENS = int(MASK.sum())


def mine(words: str, advantage: Tensor = ADVANTAGE) -> Tensor:
    """The weights of tokens that count, of the combination that a setting means."""
    combination = gradients.get(trainers.parse(words).combination)
    found = corrections.product(combination.factors, SIDES, MASK, advantage=advantage)
    return found.expand(N, T).where(MASK, 0.0)


def agree(slope: Tensor, words: str, advantage: Tensor = ADVANTAGE) -> None:
    """A slope of a loss is the advantage times the weight, and some weights are cut off."""
    expected = mine(words, advantage)
    if "sapo" not in words and "cispo" not in words and "kl_cov" not in words:
        assert 0 < int((expected[MASK] == 0).sum()) < TOKENS
    torch.testing.assert_close(slope.where(MASK, 0.0), advantage * expected, rtol=1e-6, atol=1e-12)


class Config(SimpleNamespace):
    """verl's configuration of an actor."""

    def get(self, name, default):
        return getattr(self, name, default)


def verls(mode: str, *, old=OLD, advantage=ADVANTAGE, low=0.2, high=0.2, c=3.0, mask=None, **more):
    """Minus the slope of a policy loss of verl, summed over tokens, in each log-probability."""
    made = taken("verl", "verl/trainer/ppo/core_algos.py", f"compute_policy_loss_{mode}")
    made.__globals__.update(  # of this copy alone: other tests take the same file
        ActorConfig=Config,
        AlgoConfig=dict,
        agg_loss=lambda loss_mat, loss_mask, **_: (loss_mat * loss_mask).sum(),
        verl_F=SimpleNamespace(masked_mean=lambda x, mask: (x * mask).sum() / mask.sum()),
    )
    settings = {"clip_cov_ratio": 0.1, "clip_cov_lb": -1e9, "clip_cov_ub": 1e9, "dro_beta": 0.3}
    config = Config(
        clip_ratio=high,
        clip_ratio_low=low,
        clip_ratio_high=high,
        clip_ratio_c=c,
        tau_pos=1.0,
        tau_neg=3.0,
        global_batch_info={},
        policy_loss=SimpleNamespace(kl_cov_ratio=0.0002, ppo_kl_coef=0.1, **settings),
    )
    log_prob = Q.clone().requires_grad_()
    loss, _ = made(
        old, log_prob, advantage, LOSS_MASK if mask is None else mask, config=config, **more
    )
    return torch.autograd.grad(-loss, log_prob)[0].where(MASK, 0.0)


@pytest.mark.parametrize(
    ("mode", "low", "high", "c"),
    [
        ("vanilla", 0.2, 0.25, 1.4),
        ("dppo_tv", 0.04, 0.04, 20.0),
        ("dppo_kl", 0.01, 0.01, 20.0),
        ("gspo", 0.05, 0.1, 3.0),
        ("cispo", 0.1, 0.25, 3.0),
        ("sapo", 0.2, 0.2, 3.0),
    ],
)
def test_verls_trust_regions(mode, low, high, c) -> None:
    words = f"verl_policy loss_mode={mode} clip_ratio_low={low} clip_ratio_high={high}"
    agree(verls(mode, low=low, high=high, c=c), f"{words} clip_ratio_c={c} tau_neg=3")


def test_verls_geometric_mean() -> None:
    """A mean over sequences, of scores divided by the length."""
    found = verls("geo_mean", advantage=OF_SEQUENCE, low=0.2, high=0.3) * N * LENGTH
    agree(
        found, "verl_policy loss_mode=geo_mean clip_ratio_low=0.2 clip_ratio_high=0.3", OF_SEQUENCE
    )


def test_verls_clip_by_covariance_leaves_out_a_share_besides() -> None:
    found, weights = verls("clip_cov"), mine("verl_policy loss_mode=clip_cov")
    dropped = (found == 0.0) & (weights != 0.0)
    assert int(dropped.sum()) == int(0.1 * TOKENS)
    agree(found.where(~dropped, ADVANTAGE * weights), "verl_policy loss_mode=clip_cov")


def test_verls_kl_by_covariance_is_on_a_share_besides() -> None:
    found, weights = verls("kl_cov"), mine("verl_policy loss_mode=kl_cov")
    rest = (found - ADVANTAGE * weights).where(MASK, 0.0)
    (at,) = (rest.abs() > 1e-9).nonzero().tolist()
    assert float(rest[tuple(at)]) == pytest.approx(-0.1 * float(torch.sign(Q - OLD)[tuple(at)]))


def test_verls_dro_has_no_ratio_and_k2_to_the_old_policy() -> None:
    expected = (ADVANTAGE - 0.3 * (Q - OLD)).where(MASK, 0.0)
    torch.testing.assert_close(verls("dro"), expected)


BYPASS = "verl_rollout bypass_mode=true"


def test_verls_bypass_clips_to_the_engine() -> None:
    """Its old policy is the engine; a rejection takes tokens from the mask."""
    function = verl("compute_rollout_rejection_mask")
    kept, _ = function(Q - MU, LOSS_MASK, "seq_mean_k3", "0.1")
    found = verls("vanilla", old=MU, mask=kept)
    agree(found, f"{BYPASS} rollout_rs=seq_mean_k3 rollout_rs_threshold=0.1")


def test_verls_bypass_weights_the_plain_score() -> None:
    kept, _ = verl("compute_rollout_rejection_mask")(Q - MU, LOSS_MASK, "token_k1", "0.5_2")
    weights, _ = verl("compute_rollout_correction_weights")(Q - MU, LOSS_MASK, "token", 1.2, True)
    found = verls("reinforce", old=MU, mask=kept, rollout_is_weights=weights)
    words = f"{BYPASS} loss_type=reinforce rollout_is=token rollout_is_threshold=1.2"
    words += " rollout_rs=token_k1 rollout_rs_threshold=2"
    plain = mine(words.replace("rollout_rs=token_k1 rollout_rs_threshold=2", ""))
    agree(found * plain[MASK].mean(), words)


@pytest.mark.parametrize(
    ("options", "more"),
    [
        ("loss_type=dapo", {}),
        ("loss_type=dapo delta=1.4", {"delta": 1.4}),
        ("loss_type=dapo importance_sampling_level=sequence epsilon=0.1", {"epsilon": 0.1}),
        ("loss_type=cispo epsilon_high=1.1", {"cap": 1.1}),
        ("loss_type=cispo importance_sampling_level=sequence epsilon_high=1.02", {"cap": 1.02}),
        ("loss_type=sapo sapo_temperature_neg=1", {}),
    ],
)
def test_trls_losses(options, more) -> None:
    log_prob = Q.clone().requires_grad_()
    epsilon = more.get("epsilon", 0.2)
    loss = trl_grpo(
        trainers.parse(f"trl_policy {options}").options,
        Data(log_prob, Q, OLD, MASK),
        OF_SEQUENCE[:, 0],
        delta=more.get("delta"),
        beta=0.0,
        epsilon_low=epsilon,
        epsilon_high=more.get("cap", epsilon),
    )
    (slope,) = torch.autograd.grad(-loss, log_prob)
    slope = slope * (N * LENGTH if "sapo" in options else TOKENS)
    agree(slope, f"trl_policy {options}", OF_SEQUENCE)


@pytest.mark.parametrize(
    ("kind", "dual"), [("ppo", None), ("ppo", 1.4), ("gspo", None), ("gspo to the engine", None)]
)
def test_openrlhfs_losses(kind, dual) -> None:
    """GSPO's slope is what the row says: of the geometric mean, shared by a sequence's tokens."""
    log_prob = Q.clone().requires_grad_()
    loss = openrlhf_loss(
        log_prob,
        OLD,
        ADVANTAGE,
        policy_loss_type=kind[:4].strip(),
        is_correction_level="token" if "engine" in kind else "off",
        clip_eps_low=0.05,
        clip_eps_high=0.05,
        dual_clip=dual,
    )
    (slope,) = torch.autograd.grad(-loss, log_prob)
    if kind == "ppo":
        agree(slope, f"openrlhf_policy eps_clip=0.05 dual_clip={dual}")
        return
    sides = "@q:mu" if "engine" in kind else "@q:old"
    weights = corrections.weight(
        f"ppo_geometric_ratio:0.95-1.05{sides}", SIDES, MASK, advantage=ADVANTAGE
    )
    shared = (weights * ADVANTAGE * LOSS_MASK).sum(-1, keepdim=True) / LENGTH
    torch.testing.assert_close(slope.where(MASK, 0.0), shared.expand(N, T).where(MASK, 0.0))
