"""Every claim is judged by its numbers.

The known verdicts, and how they turn when what is claimed is something else.
"""

import re

import numpy as np
import pytest
import torch

from klbench import claims
from klbench.claims import Finding, alignment, distillation, gradients, sampling, values
from klbench.claims._base import close, error, show, verdict
from klbench.claims._finite import finite, random_pairs
from klbench.report.formulas import formula
from klbench.types import ConfigError

ONLY = "holds only when "
WHOLE = f"{ONLY}the log-ratio is that of the whole sequence"
VERDICTS = {
    "ratio_mean_one": f"{ONLY}q(x) > 0 wherever p(x) > 0",
    "k1_unbiased_noisy": "holds",
    "k2_less_variance": f"{ONLY}KL(q‖p) < 0.618 (for Gaussians of equal variance)",
    "second_order_agreement": "holds",
    "k2_as_one_over_r": "fails",
    "k3_unbiased_nonnegative": "holds",
    "k3_less_variance": f"{ONLY}χ²(p‖q) < 2 (KL(q‖p) + KL(p‖q))",
    "lambda_one_optimal": "fails",
    "r_log_r_estimates_kl_qp": "fails",
    "rao_blackwell_never_noisier": "fails",
    "score_identity": f"{ONLY}∇f has mean 0, as where f is without the policy, or log q/p",
    "k1_loss_nothing": "holds",
    "k2_loss_is_k1_reward": WHOLE,
    "k3_loss_gradient": WHOLE,
    "straight_through_repairs": (
        f"{ONLY}the policy itself samples and the log-ratio is that of the whole sequence"
    ),
    "token_ratio_unbiased": f"{ONLY}each sequence is one token",
    "mask_on_policy_alone": "fails",
    "k3_reward_gradient": WHOLE,
    "group_mean_shrinks": "holds",
    "shifted_gaussians_suffice": "fails",
    "regularised_optimum": "holds",
    "reward_from_policy": f"{ONLY}both answers are to the same prompt",
    "dpo_gradient": "holds",
    "dpo_raises_chosen": (
        f"{ONLY}∇log π(chosen) · ∇log π(rejected) is below ‖∇log π(chosen)‖² and below ‖∇log"
        " π(rejected)‖²"
    ),
    "bradley_terry_saturates": "holds",
    "topk_tail_unbiased": (
        f"{ONLY}the tail is differentiated too: its term is log q/p + 1 times the score"
    ),
    "topk_mass_collapse": f"{ONLY}nothing stands for the tokens that are left out",
    "topk_advantage_nothing": "holds",
    "topk_is_a_kl": "fails",
    "temperature_keeps_kl": f"{ONLY}each sample is weighted with q/q_T",
}


@pytest.fixture(scope="module")
def found() -> dict[str, Finding]:
    return {name: claims.get(name).check(0) for name in claims.names()}


def test_every_claim_has_its_verdict_here() -> None:
    assert claims.names() == list(VERDICTS)


@pytest.mark.parametrize("name", VERDICTS)
def test_the_verdict(found, name: str) -> None:
    assert found[name].verdict == VERDICTS[name]


@pytest.mark.parametrize("name", VERDICTS)
def test_a_claim_says_what_it_needs_to(found, name: str) -> None:
    claim, finding = claims.get(name), found[name]
    assert re.fullmatch(r"holds|fails|holds only when \S.*[^.]", finding.verdict)
    assert re.search(r"\d", finding.evidence)
    assert finding.evidence.endswith(".")
    assert not re.search(r"\bnan\b|\binf\b|undefined", finding.evidence)
    assert not np.isnan([finding.value, finding.bound]).any()
    assert claim.statement.endswith(".")
    assert claim.source
    assert claim.topic in claims.TOPICS
    assert not re.search("forward|reverse", claim.statement + finding.evidence + finding.verdict)
    assert formula(claim.tex).startswith("<svg")


@pytest.mark.parametrize("name", VERDICTS)
@pytest.mark.parametrize("seed", [1, 2])
def test_no_verdict_hangs_on_the_seed(name: str, seed: int) -> None:
    assert claims.get(name).check(seed).verdict == VERDICTS[name]


@pytest.mark.parametrize(
    "name", ["k3_less_variance", "dpo_gradient", "regularised_optimum", "k2_loss_is_k1_reward"]
)
def test_one_seed_one_finding(found, name: str) -> None:
    assert claims.get(name).check(0) == found[name]


# What is put in place of the formula, and the verdict that it must get.
WRONG = {
    "a tail with the slope of its term": (
        distillation.topk_tail_unbiased,
        {"tail": lambda log_ratio: 1.0 - log_ratio},
        "holds",
    ),
    "a bucket in the raw sum's place": (distillation.topk_mass_collapse, {"tail": 1.0}, "fails"),
    "an advantage of the sampled token": (
        distillation.topk_advantage_nothing,
        {"advantage": lambda pair, c: -pair.log_ratio},
        "fails",
    ),
    "a bucket for the tail": (
        distillation.topk_is_a_kl,
        {"tail": lambda q, p: q * float(np.log(q / p))},
        "holds",
    ),
    "weights of the sampler": (
        sampling.temperature_keeps_kl,
        {"weight": lambda q, sampler: q / sampler},
        "holds",
    ),
    "a ratio upside down": (values.ratio_mean_one, {"ratio": lambda x: np.exp(-x)}, "fails"),
    "a biased k1": (values.k1_unbiased_noisy, {"terms": lambda x: -1.001 * x}, "fails"),
    "k1 in the place of k2": (values.k2_less_variance, {"name": "k1"}, "fails"),
    "the right k2": (values.k2_as_one_over_r, {"terms": lambda x: x * x / 2}, "holds"),
    "a k3 with a slip of the sign": (
        values.k3_unbiased_nonnegative,
        {"terms": lambda x: np.expm1(x) + x},
        "fails",
    ),
    "a k3 that can be negative": (values.k3_unbiased_nonnegative, {"terms": lambda x: -x}, "fails"),
    "a k3 that is always quieter": (
        values.k3_less_variance,
        {"terms": lambda x: -0.5 * x},
        "holds",
    ),
    "a k3 that is never quieter": (values.k3_less_variance, {"terms": lambda x: -2.0 * x}, "fails"),
    "k1 itself as its control": (values.lambda_one_optimal, {"control": lambda x: x}, "holds"),
    "k1 in the place of r log r": (
        values.r_log_r_estimates_kl_qp,
        {"terms": lambda x: -x},
        "holds",
    ),
    "no counterexample": (
        values.rao_blackwell_never_noisier,
        {"two_steps": (values.OFFSET[0], [finite([0.5, 0.5], [0.6, 0.4])] * 2)},
        "holds",
    ),
    "a slope in the place of k1's": (
        gradients.k1_loss_nothing,
        {"coefficient": lambda x: x.log_q - x.log_p},
        "fails",
    ),
    "nothing in the place of k1": (
        gradients.k1_loss_nothing,
        {"coefficient": lambda x: 0.0 * x.log_q},
        "fails",
    ),
    "k2 without its half": (gradients.k2_loss_is_k1_reward, {"slope": lambda u: 2.0 * u}, "fails"),
    "k2 in the place of k3": (gradients.k3_loss_gradient, {"slope": lambda x: -x}, "fails"),
    "k3 not repaired": (gradients.straight_through_repairs, {"name": "k3_sequence_loss"}, "fails"),
    "no ratio": (
        gradients.token_ratio_unbiased,
        {"weight": lambda x: torch.ones_like(x.log_q)},
        "fails",
    ),
    "a mask on both terms": (gradients.mask_on_policy_alone, {"name": "mask_on_both"}, "holds"),
    "k1 in the place of k3": (gradients.k3_reward_gradient, {"terms": lambda x: -x}, "fails"),
    "a mean of the others": (
        gradients.group_mean_shrinks,
        {"baseline": lambda x, y: y + 0.0 * x},
        "fails",
    ),
    "Gaussians of unequal variance": (gradients.shifted_gaussians_suffice, {"std": 1.5}, "holds"),
    "a policy that is tilted too far": (
        alignment.regularised_optimum,
        {"best": lambda ref, reward: alignment._best(ref, 1.1 * reward)},
        "fails",
    ),
    "a reward that is not the policy's": (
        alignment.reward_from_policy,
        {"best": lambda ref, reward: alignment._best(ref, 1.1 * reward)},
        "fails",
    ),
    "a weight of the other sign": (
        alignment.dpo_gradient,
        {"weight": lambda margin: margin.sigmoid()},
        "fails",
    ),
    "a slope that stays": (
        alignment.bradley_terry_saturates,
        {"slope": lambda margin: margin.sigmoid()},
        "fails",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_another_formula_gets_another_verdict(case: str) -> None:
    check, instead, expected = WRONG[case]
    assert check(0, **instead).verdict == expected


@pytest.mark.parametrize(
    ("features", "theta", "chosen_rises", "rejected_falls"),
    [
        ((2.0, 1.0, -3.0), 0.0, True, False),
        ((1.0, 0.0, 3.0), 1.0, False, True),
        ((1.0, -1.0, 0.0), 0.0, True, True),
        ((-1.0, -2.0, 3.0), 0.0, False, True),
    ],
)
def test_a_dpo_step_by_hand(features, theta, chosen_rises, rejected_falls) -> None:
    """One parameter: an answer's score is its feature less the mean, and the step goes along the
    chosen less the rejected.
    """
    f = np.array(features)
    p = np.exp(f * theta) / np.exp(f * theta).sum()
    score, along = f - p @ f, f[0] - f[1]
    assert (score[0] * along > 0.0, score[1] * along < 0.0) == (chosen_rises, rejected_falls)
    step = alignment._step(
        torch.tensor(f)[:, None], torch.tensor([theta], dtype=torch.float64), 0, 1, 1e-4
    )
    moved = (step.after - step.before).tolist()
    # -L' = beta / 2 at a margin of 0
    assert moved == pytest.approx(
        [1e-4 * alignment.BETA / 2.0 * score[k] * along for k in (0, 1)], rel=1e-3
    )
    assert (moved[0] > 0.0, moved[1] < 0.0) == (chosen_rises, rejected_falls)
    assert step.as_said == step.foreseen == (chosen_rises and rejected_falls)


def test_a_wrong_curvature_is_found(monkeypatch) -> None:
    from dataclasses import replace

    from klbench import divergences

    js = divergences.get("js")
    monkeypatch.setattr(values.divergences, "get", lambda name: replace(js, curvature=0.5))
    assert values.second_order_agreement(0, names=["js"]).verdict == "fails"


@pytest.mark.parametrize(
    ("inside", "outside", "condition", "expected"),
    [
        (True, True, "x > 0", "holds"),
        (True, False, "x > 0", "holds only when x > 0"),
        (True, False, "", "fails"),
        (False, True, "x > 0", "fails"),
        (False, False, "x > 0", "fails"),
    ],
)
def test_a_verdict_follows_from_where_it_holds(
    inside: bool, outside: bool, condition: str, expected: str
) -> None:
    assert verdict(inside, outside, condition) == expected


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (0.0, "0"),
        (0.62822, "0.628"),
        (-1.5, "−1.50"),
        (20.0, "20.0"),
        (1234.5, "1,234"),
        (9.999, "10.0"),
        (4.54e-5, "4.54×10⁻⁵"),
        (float("inf"), "infinite"),
        (float("nan"), "undefined"),
    ],
)
def test_numbers_have_three_digits(x: float, text: str) -> None:
    assert show(x) == text


def test_rounding_has_no_digits() -> None:
    assert error(3e-16) == error(0.0) == "less than 10⁻¹²"
    assert error(0.0123) == "0.0123"


def test_close_is_false_of_what_is_not_finite() -> None:
    assert close(1.0, 1.0 + 1e-12)
    assert not close(1.0, 1.0 + 1e-6)
    assert not close(float("nan"), float("nan"))


def test_the_variance_of_k3_is_that_of_k1_and_chi2_less_twice_jeffreys() -> None:
    for pair in random_pairs(0, "test", 50):
        expected = pair.variance(pair.log_ratio) + pair.chi2 - 2.0 * pair.jeffreys
        assert pair.variance(values.K3(pair.log_ratio)) == pytest.approx(expected, rel=1e-9)
        assert pair.jeffreys == pytest.approx(pair.kl_qp + pair.kl_pq, rel=1e-9)


def test_an_unknown_claim_is_named_with_the_nearest() -> None:
    with pytest.raises(
        ConfigError, match="unknown claim 'k3_less_varience'; did you mean 'k3_less_variance'"
    ):
        claims.get("k3_less_varience")


def test_a_file_is_enough_to_add_one(tmp_path, monkeypatch) -> None:
    (tmp_path / "mine.py").write_text(
        "from klbench.claims import Finding, claim\n"
        "@claim('one_is_one', 'One is one.', '1 = 1', 'Peano', topic='numbers')\n"
        "def one_is_one(seed): return Finding('holds', 'The difference is 0.', 0.0, 0.0)\n"
    )
    fresh = claims.Registry("claim", "klbench.claims")
    monkeypatch.setattr(claims, "registry", fresh)
    monkeypatch.setattr(claims, "__path__", [str(tmp_path)])
    monkeypatch.syspath_prepend(tmp_path)
    import importlib

    fresh._discovered = True
    importlib.import_module("mine")
    assert claims.names() == ["one_is_one"]
    assert claims.get("one_is_one").check(0).verdict == "holds"
