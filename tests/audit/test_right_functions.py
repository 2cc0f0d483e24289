"""No right function gets an error, whatever it is reduced by and computes in; and it is told what it is."""

import functools

import pytest
import right_functions as right
import torch

import klbench

NAMED = right.PER_TOKEN | right.OTHERS | right.LOGITS | right.NUMPY
REDUCED = [
    (right.reduced(function, reduction), right.PER_TOKEN[function])
    for function in (right.k1, right.k2, right.k3, right.k_most, right.low_var_kl)
    for reduction in right.REDUCTIONS
]
CAST = [
    (right.cast(function, dtype), right.PER_TOKEN[function])
    for function in (
        right.k1,
        right.k2,
        right.k3,
        right.k_half,
        right.low_var_kl,
        right.straight_through,
    )
    for dtype in (torch.float32, torch.float64)
]


def name(value):
    return getattr(value, "__name__", type(value).__name__) if callable(value) else value


@pytest.mark.parametrize(("function", "identified"), [*NAMED.items(), *REDUCED, *CAST], ids=name)
def test_a_right_function_has_no_error_and_is_identified(function, identified):
    found = klbench.audit(function)
    assert found.errors == [], str(found)
    assert found.identified == identified


@pytest.mark.parametrize("function", right.LOSSES, ids=name)
def test_a_right_loss_has_no_error(function):
    found = klbench.audit(function, used_as="loss")
    assert found.errors == [], str(found)


REDUCTIONS = {
    right.token_mean: "token mean",
    right.chosen_mean: "token mean",
    right.sequence_sum: "sum of each sequence",
    right.sequence_sum_mean: "sequence sum, mean over the batch",
    right.mean_of_means: "mean of sequence means",
    right.sequence_mean: "mean of each sequence",
    right.token_sum: "token sum",
    right.masked_tokens: "per token",
}


@pytest.mark.parametrize(("reduction", "expected"), REDUCTIONS.items(), ids=name)
def test_the_reduction_is_named(reduction, expected):
    assert klbench.audit(right.reduced(right.k3, reduction)).reduction == expected


@pytest.mark.parametrize(
    ("function", "matches", "level", "combination"),
    [
        (right.k1, "0", "sequence", "k1_loss"),
        (right.k2, "KL(q‖p)", "token", "k2_loss"),
        (right.k3, "KL(p‖q)", "token", "k3_loss"),
        (right.straight_through, "KL(q‖p)", "token", "k3_plus"),
        (right.sequence_k2, "KL(q‖p)", "sequence", "k2_sequence_loss"),
        (right.sequence_k3, "KL(p‖q)", "sequence", "k3_sequence_loss"),
        (right.grpo_with_ratio, "KL(q‖p)", "token", "k3_ratio_loss"),
        (right.full_kl, "KL(q‖p)", "token", ""),
        (right.of_normalised_logits, "KL(q‖p)", "token", ""),
        (right.shifted_k1, "0", "sequence", ""),
        (right.in_the_reward, "KL(q‖p)", "sequence", ""),
        (right.reward_to_go, "KL(q‖p)", "sequence", ""),
        (right.leave_one_out, "KL(q‖p)", "sequence", ""),
        (right.on_policy_distillation, "KL(q‖p)", "token", ""),
    ],
    ids=name,
)
def test_the_expected_gradient_is_named(function, matches, level, combination):
    used_as = "loss" if function in right.LOSSES else "kl"
    gradient = klbench.audit(function, used_as=used_as).gradient
    assert (gradient.matches, gradient.level, gradient.combination) == (matches, level, combination)


def test_the_bias_of_a_gradient_is_that_of_its_combination():
    from klbench import gradients
    from klbench.gradients.exact import moments
    from klbench.pairs.sequence import SequencePair

    found = klbench.audit(right.k3).gradient.rel_bias
    for kl in (0.05, 2.0):
        task = SequencePair(
            model="table", vocabulary=5, horizon=3, prompts=1, kl=kl
        ).gradient_task()
        exact = task.gradient("kl_qp")
        bias = float((moments(gradients.get("k3_loss"), task).mean - exact).norm() / exact.norm())
        assert found[kl] == pytest.approx(bias, rel=1e-9)


def test_clamps_have_their_ends():
    found = klbench.audit(right.clamped_ratio)
    assert found.clamp["low"] == pytest.approx(-40.0, abs=1e-3)
    assert found.clamp["high"] == pytest.approx(40.0, abs=1e-3)
    assert "dead-gradient" in {each.kind for each in found.of("warning")}


def test_an_older_policy_is_q_where_there_is_no_reference():
    assert klbench.audit(right.approx_kl).arguments == {
        "logprobs": "log p",
        "old_logprobs": "log q (samples)",
    }


def test_a_weight_by_an_old_policy_is_named():
    assert klbench.audit(right.weighted).weight == "q/mu"


def test_a_reward_needs_no_gradient_and_loses_the_penalty():
    found = klbench.audit(right.penalized_rewards, used_as="reward")
    assert (found.errors, found.identified, found.scale) == ([], "k1", 1.0)
    assert [
        each.kind for each in klbench.audit(right.rewarded_distance, used_as="reward").errors
    ] == ["sign"]


def test_what_is_no_plain_function_is_audited_too():
    import numpy as np

    def hidden(array):
        return lambda logprobs, ref_logprobs: array.subtract(logprobs, ref_logprobs)

    class Called:
        def __call__(self, logprobs, ref_logprobs):
            return logprobs - ref_logprobs

        method = __call__

    for function in (
        Called(),
        Called().method,
        torch.compile(right.k1, backend="eager"),
        hidden(torch),
        hidden(np),
    ):
        found = klbench.audit(function)
        assert (found.identified, found.errors) == ("k1", [])
    assert klbench.audit(np.subtract, args="logprobs,ref_logprobs").identified == "k1"
    assert klbench.audit(torch.subtract, args=["logprobs", "ref_logprobs"]).identified == "k1"


def test_global_generators_are_left_as_they_were():
    torch.manual_seed(7)
    before = torch.get_rng_state()
    klbench.audit(right.k1)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("function", "used_as"),
    [(right.grpo, "loss"), (right.gathered_k3, "kl"), (right.low_var_kl, "kl")],
    ids=name,
)
def test_an_audit_calls_the_function_a_few_hundred_times(function, used_as):
    calls = []

    @functools.wraps(function)
    def counted(*args, **kwargs):
        calls.append(args)
        return function(*args, **kwargs)

    klbench.audit(counted, used_as=used_as)
    assert len(calls) < 600


def test_a_gradient_of_padding_that_is_nan_is_a_warning():
    found = klbench.audit(right.reduced(right.k3, right.token_mean))
    assert "padding-leak" in [each.kind for each in found.of("warning")]
    assert found.errors == []
    assert "padding-leak" not in [
        each.kind for each in klbench.audit(right.grpo, used_as="loss").findings
    ]
