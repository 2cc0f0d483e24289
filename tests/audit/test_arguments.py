"""Arguments by their names, and who sampled."""

import pytest

from klbench import ConfigError
from klbench.audit.arguments import plan, role

NAMES = {
    "policy": "logprobs log_probs per_token_logps logp policy_log_probs student_logprobs",
    "reference": (
        "ref_logprob log_probs_base ref_per_token_logps teacher_logps logp_ref referenceLogProbs"
    ),
    "old": "old_log_prob old_per_token_logps rollout_log_probs sampling_per_token_logps logp_old",
    "policy_logits": "logits policy_logits student_logits",
    "reference_logits": "ref_logits teacher_logits",
    "tokens": "tokens input_ids labels completion_ids",
    "mask": "mask response_mask completion_mask attention_mask loss_mask",
    "advantages": "advantages adv rewards",
    "beta": "beta kl_coef",
    "log_ratio": "log_ratio",
    None: "tokenizer epsilon reduction kl_penalty max_tokens num_labels",
}


@pytest.mark.parametrize(
    ("name", "expected"), [(name, each) for each, names in NAMES.items() for name in names.split()]
)
def test_a_name_has_a_role(name, expected):
    assert role(name) == expected


def sides(function, **options):
    return dict(plan(function, **options).sides)


def test_whoever_sampled_is_q():
    assert sides(lambda logprobs, ref_logprobs: 0) == {"policy": "q", "reference": "p"}
    assert sides(lambda logprobs, old_logprobs: 0) == {"policy": "p", "old": "q"}
    assert sides(lambda logprobs, rollout_logprobs: 0) == {"policy": "p", "old": "q"}
    assert sides(lambda logprobs, old_logprobs: 0, sampled_by="logprobs") == {
        "policy": "q",
        "old": "p",
    }
    assert sides(lambda logprobs, ref_logprobs: 0, sampled_by="ref_logprobs") == {
        "policy": "p",
        "reference": "q",
    }
    assert sides(lambda student_logprobs, teacher_logprobs: 0) == {"policy": "q", "reference": "p"}
    assert sides(lambda logprobs, ref_logprobs, old_logprobs: 0) == {
        "policy": "q",
        "reference": "p",
        "old": "mu",
    }
    assert sides(lambda log_q, log_p: 0) == {"policy": "q", "reference": "p"}
    assert sides(lambda a, b: 0, args="ref_logprobs,logprobs") == {"policy": "q", "reference": "p"}


def test_what_names_do_not_say_is_refused():
    with pytest.raises(ConfigError, match="would both be policy; tell them apart by --args"):
        plan(lambda logprobs, per_token_logps, ref_logprobs: 0)
    with pytest.raises(ConfigError, match="argument 'kind' is not known"):
        plan(lambda logprobs, ref_logprobs, kind: 0)
    assert plan(lambda logprobs, ref_logprobs, kind: 0, fixed={"kind": "x"}).fixed == {"kind": "x"}
    with pytest.raises(ConfigError, match="logits and log-probabilities of tokens together"):
        plan(lambda logits, ref_logprobs: 0)
