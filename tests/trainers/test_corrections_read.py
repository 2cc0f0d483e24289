"""The weights of trainers' rows, thresholds and all.

Beside the installed functions of verl, SkyRL, AReaL and ms-swift, where there are some, and beside
the formulas of the others, written out.
"""

from functools import partial
from itertools import product
from types import SimpleNamespace

import pytest
import torch
from test_corrections_installed import F64, MASK, MU, OLD, SIDES, N, Q, T, both
from test_trainers_installed import taken
from torch import Tensor

from klbench import gradients, trainers
from klbench.gradients import corrections

ADVANTAGE = torch.randn(N, T, dtype=F64, generator=torch.Generator().manual_seed(6))
LOSS_MASK = MASK.to(F64)
RATIO = torch.exp(OLD - MU)
LENGTH = MASK.sum(-1, keepdim=True)
SUM = ((OLD - MU) * MASK).sum(-1, keepdim=True)
GEOMETRIC, WHOLE = (SUM / LENGTH).exp().expand(N, T), SUM.exp().expand(N, T)


def row(words: str, sides=SIDES) -> Tensor:
    """The weights of tokens that count, of the combination that a setting means."""
    combination = gradients.get(trainers.parse(words).combination)
    found = corrections.product(combination.factors, sides, MASK, advantage=ADVANTAGE)
    return found.expand(N, T).where(MASK, 0.0)


def agree(theirs: Tensor, words: str, rtol: float = 1e-9) -> None:
    """Both are the same, and the bounds bite without taking everything."""
    mine = row(words)
    plain = [RATIO, GEOMETRIC, WHOLE, torch.exp(Q - MU), torch.exp(Q - OLD), torch.ones(N, T)]
    assert all(not torch.allclose(mine[MASK], each.to(F64)[MASK]) for each in plain), words
    assert int((mine[MASK] > 0).sum()) > 5, words
    torch.testing.assert_close(
        theirs.expand(N, T).where(MASK, 0.0).to(F64), mine, rtol=rtol, atol=0
    )


SKY = {
    "token_tis_ratio_clip_high": 1.2,
    "sequence_tis_ratio_clip_high": 1.3,
    "geo_mask_low": 0.9,
    "geo_mask_high": 1.15,
    "product_mask_low": 0.6,
    "product_mask_high": 1.5,
}
OFF = dict.fromkeys(
    f"{which}_is_threshold_{side}"
    for which in ("outlier_token", "token_mask")
    for side in ("low", "high")
)


def skyrl(**options) -> Tensor:
    file = "skyrl/backends/skyrl_train/utils/off_policy_correction_utils.py"
    function = taken("skyrl", file, "compute_off_policy_correction")
    found, _, mask = function(OLD, MU, LOSS_MASK, SimpleNamespace(**SKY | OFF | options))
    return mask if found is None else found * mask


@pytest.mark.parametrize(
    ("kind", "metric"),
    [
        each
        for each in product((None, "token", "sequence"), (None, "product", "geometric"))
        if any(each)
    ],
)
def test_skyrls_weights(kind, metric) -> None:
    options = {"tis_ratio_type": kind, "sequence_mask_metric": metric}
    words = " ".join(f"{name}={value}" for name, value in (SKY | options).items())
    agree(skyrl(**options), f"skyrl_rollout {words}", rtol=1e-6)


@pytest.mark.parametrize(
    "which",
    ["outlier_token", "token_mask"],
)
def test_skyrls_masks_by_tokens(which) -> None:
    bounds = {f"{which}_is_threshold_low": 0.6, f"{which}_is_threshold_high": 1.6}
    theirs = skyrl(tis_ratio_type=None, sequence_mask_metric=None, **bounds)
    agree(theirs, " ".join(("skyrl_rollout", *(f"{k}={v}" for k, v in bounds.items()))))


AREAL = [
    each
    for each in trainers.spellings()
    if each.meaning.trainer == "areal_rollout"
    and "action" in each.words
    and each.meaning.combination
]
BOUNDS = {"ratio": (0.85, 1.2), "kl_k1": (None, 0.1), "kl_k2": (None, 0.12), "kl_k3": (None, 0.13)}


@pytest.mark.parametrize("spelling", AREAL, ids=lambda each: each.words)
def test_areals_rejections(spelling) -> None:
    options = {
        path.rpartition(".")[2]: value
        for path, value in spelling.meaning.options.items()
        if path.startswith("rejection_sampling.")
    }
    lower, upper = BOUNDS[options["metric"]]
    if options["agg"] != "mean":
        lower = None
    function = taken("areal", "areal/utils/functional/functional.py", "apply_rejection_sampling")
    config = SimpleNamespace(**options | {"lower": lower, "upper": upper})
    found = function(OLD, MU, LOSS_MASK, None, config).behave_imp_weight
    agree(found, f"{spelling.words} upper={upper} lower={lower or 0}", rtol=1e-5)


THRESHOLD = "rollout_importance_sampling_threshold"


@pytest.mark.parametrize(
    "mode", ["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"]
)
def test_ms_swifts_weights(mode) -> None:
    file, name = "swift/rlhf_trainers/grpo_trainer.py", "GRPOTrainer."
    ratios = taken("ms-swift", file, name + "_compute_sequence_level_ratios")
    function = taken("ms-swift", file, name + "_apply_rollout_importance_sampling")
    this = SimpleNamespace(
        rollout_importance_sampling_mode=mode,
        rollout_importance_sampling_threshold=1.1,
        _compute_sequence_level_ratios=partial(ratios, None),
    )
    found = function(this, OLD - MU, MASK)
    words = f"ms_swift_rollout rollout_importance_sampling_mode={mode} {THRESHOLD}=1.1"
    agree(found, words)


def inside(x: Tensor, low: float, high: float) -> Tensor:
    return (x >= low) & (x <= high)


NOW, CHANGE = torch.exp(Q - MU), Q.exp() - MU.exp()
ON = "use_importance_sampling_correction=true"
NEMO = f"nemo_rl_rollout {ON} truncated_importance_sampling_ratio_min=0.7"
NEMO += " truncated_importance_sampling_ratio=1.5 truncated_importance_sampling_type="
BY_SEQUENCE = " sequence_level_importance_ratios=true"
FILTER = "filters.enabled=true ratio_low=0.6 ratio_high=1.6 agg_type="
IS = "is_weight.enabled=true upper_bound=1.1 weight_type="
SLIME = "slime_rollout tis_clip=1.2 tis_clip_low=0.9"
VLLM = "vllm_importance_sampling_"
TRL = f"trl_vllm {VLLM}clip_min=0.8 {VLLM}clip_max=1.2 {VLLM}mode="
FORMULAS = {
    f"{TRL}token_mask": RATIO * inside(RATIO, 0.8, 1.2),
    f"{TRL}token_truncate": RATIO.clamp(0.8, 1.2),
    f"{TRL}sequence_mask": WHOLE * inside(WHOLE, 0.8, 1.2),
    f"{TRL}sequence_truncate": WHOLE.clamp(0.8, 1.2),
    "open_instruct_rollout rho_clamp_upper_bound=1.1": RATIO.clamp(max=1.1),
    "open_instruct_rollout rho_mask_sequence_level=true rho_clamp_upper_bound=1.1": (
        GEOMETRIC.clamp(max=1.1)
    ),
    "open_instruct_rollout rho_mask_lower_bound=0.6 rho_mask_upper_bound=1.6": (
        RATIO.clamp(max=2.0) * inside(RATIO, 0.6, 1.6)
    ),
    "open_instruct_rollout rho_mask_sequence_level=true rho_mask_upper_bound=1.1"
    " rho_clamp_lower_bound=0.9": (GEOMETRIC.clamp(0.9, 2.0) * (GEOMETRIC <= 1.1)),
    f"{NEMO}tis": RATIO.clamp(0.7, 1.5),
    f"{NEMO}tis{BY_SEQUENCE}": WHOLE.clamp(max=1.5),
    f"{NEMO}icepop": RATIO * inside(RATIO, 0.7, 1.5),
    f"{NEMO}icepop{BY_SEQUENCE}": WHOLE * inside(WHOLE, 0.7, 1.5),
    f"{NEMO}seq-mask-tis": RATIO * inside(GEOMETRIC, 0.7, 1.5),
    f"{SLIME}": RATIO.clamp(0.9, 1.2),
    f"{SLIME} custom_tis_function_path=icepop": RATIO * inside(RATIO, 0.9, 1.2),
    f"roll_rollout {IS}token": RATIO.clamp(max=1.1),
    f"roll_rollout {IS}geometric": GEOMETRIC.clamp(max=1.1),
    f"roll_rollout {IS}sequence": WHOLE.clamp(max=1.1),
    f"roll_rollout {FILTER}token": inside(RATIO, 0.6, 1.6),
    f"roll_rollout {FILTER}geometric": inside(GEOMETRIC, 0.6, 1.6),
    f"roll_rollout {FILTER}sequence": inside(WHOLE, 0.6, 1.6),
    f"roll_rollout {IS}token {FILTER}sequence": RATIO.clamp(max=1.1) * inside(WHOLE, 0.6, 1.6),
    "prime_rl_rollout dppo_mask_high=0.05": (
        NOW * ~torch.where(ADVANTAGE > 0, CHANGE > 0.05, CHANGE < -0.05)
    ),
    "prime_rl_rollout loss.type=ipo ipo_threshold=0.05": NOW * ~(CHANGE.abs() > 0.05),
    "prime_rl_distillation": NOW * ~(CHANGE < -0.2),
}


@pytest.mark.parametrize("words", FORMULAS)
def test_formulas_that_were_read(words) -> None:
    if words == "prime_rl_distillation":
        mu = torch.where(torch.arange(T) == 1, torch.full_like(MU, -0.02), MU)
        change, now = Q.exp() - mu.exp(), torch.exp(Q - mu)
        mine = row(words, SIDES | {"mu": mu.where(MASK, 0.0)})
        assert both(mine)
        torch.testing.assert_close((now * ~(change < -0.2)).where(MASK, 0.0), mine)
        return
    agree(FORMULAS[words].to(F64), words)


def test_vacos_mask_lets_pass_what_the_advantage_pushes_back() -> None:
    """``rho_mask_tv_divergence`` of open-instruct, for an upper bound."""
    apart = (((RATIO - 1).abs() * MASK).sum(-1, keepdim=True) / LENGTH).expand(N, T)
    dropped = (apart > 0.3) & (torch.sign(OLD - MU) * ADVANTAGE > 0)
    found = row("open_instruct_rollout rho_mask_tv_divergence=true rho_mask_upper_bound=0.3")
    assert both(found)
    torch.testing.assert_close((RATIO.clamp(max=2.0) * ~dropped).where(MASK, 0.0), found)


def test_slimes_mask_of_sequences() -> None:
    """``use_opsm``, to whichever policy is the old one."""
    apart = ((OLD - Q) * MASK).sum(-1, keepdim=True) / LENGTH
    own = ADVANTAGE[:, :1].expand(N, T)
    combination = gradients.get(trainers.parse("slime_rollout opsm_delta=0.05").combination)
    found = corrections.product(combination.factors, SIDES, MASK, advantage=own)
    dropped = (own[:, :1] < 0) & (apart > 0.05)
    torch.testing.assert_close(found.expand(N, T), (~dropped).to(F64).expand(N, T))
    assert 0 < int(dropped.sum()) < N
