import itertools
import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from klbench import pairs, streams
from klbench.pairs.sequence import SequencePair
from klbench.policies.tree import Tree

MODELS = ["table", "gru", "transformer"]
SMALL = {"vocabulary": 3, "horizon": 3, "prompts": 2, "kl": 0.3}


def sequences(vocabulary: int, horizon: int) -> set[tuple[int, ...]]:
    """By brute force: every string of the full length, cut after its first end token."""
    end = vocabulary
    strings = itertools.product(range(vocabulary + 1), repeat=horizon)
    return {s[: s.index(end) + 1] if end in s else s for s in strings}


@pytest.mark.parametrize(("vocabulary", "horizon"), [(2, 1), (2, 5), (3, 4), (5, 2), (6, 4)])
def test_the_leaves_are_all_sequences_once(vocabulary, horizon) -> None:
    tree = Tree(vocabulary, horizon)
    paths = tree.paths
    found = [
        tuple(token[alive].tolist()) for token, alive in zip(paths.token, paths.mask, strict=True)
    ]
    expected = sequences(vocabulary, horizon)
    assert len(found) == len(expected) == tree.leaves
    assert set(found) == expected
    prefixes = {s[:t] for s in expected for t in range(len(s))}
    assert len(prefixes) == tree.nodes
    # One number for each prefix, wherever it is met.
    numbers = {
        (int(paths.node[i, t]), sequence[:t])
        for i, sequence in enumerate(found)
        for t in range(len(sequence))
    }
    assert len(numbers) == tree.nodes
    assert {number for number, _ in numbers} == set(range(tree.nodes))
    for depth in range(horizon):
        for number, prefix in zip(
            range(tree.nodes)[tree.level(depth)], tree.prefixes(depth).tolist(), strict=True
        ):
            assert (number, tuple(prefix)) in numbers


def test_the_sizes_of_the_testbed() -> None:
    tree = Tree(6, 4)
    assert (tree.nodes, tree.leaves) == (259, 1_555)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("lag", [0.0, 0.1])
def test_probabilities_sum_to_one_and_divergences_are_those_asked_for(model, lag) -> None:
    pair = SequencePair(model=model, lag=lag)
    assert set(pair.leaf_log_probs) == ({"q", "p", "mu"} if lag else {"q", "p"})
    for log_probs in pair.leaf_log_probs.values():
        assert log_probs.shape == (8, 1_555)
        np.testing.assert_allclose(np.exp(log_probs).sum(1), 1.0, rtol=0, atol=1e-12)
    q, p = pair.leaf_log_probs["q"], pair.leaf_log_probs["p"]
    assert np.mean(np.sum(np.exp(q) * (q - p), axis=1)) == pytest.approx(0.5, rel=1e-10)
    assert pair.truth("kl_qp").value == pytest.approx(0.5, rel=1e-10)
    assert pair.truth("kl_pq").value != pytest.approx(0.5, rel=1e-3)
    if lag:
        assert np.mean(
            np.sum(np.exp(q) * (q - pair.leaf_log_probs["mu"]), axis=1)
        ) == pytest.approx(lag, rel=1e-10)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("kl", [1e-6, 1e-2, 3.0])
def test_small_and_large_divergences_are_reached(model, kl) -> None:
    assert SequencePair(model=model, kl=kl).truth("kl_qp").value == pytest.approx(kl, rel=1e-10)


@pytest.mark.parametrize("model", MODELS)
def test_a_reference_prefers_some_tokens(model) -> None:
    log_p = SequencePair(model=model).token_log_probs["p"]
    entropy = -(np.exp(log_p) * log_p).sum(-1).mean()
    assert 0.3 * math.log(7) < entropy < 0.9 * math.log(7)


@pytest.mark.parametrize("model", MODELS)
def test_conditionals_along_a_sequence_are_those_of_the_tree(model) -> None:
    pair = SequencePair(model=model, **SMALL)
    tree, policy = pair.tree, pair.policy
    weights = policy.split(torch.from_numpy(pair.parameters["q"]))
    deepest = tree.prefixes(2)
    for prompt in range(2):
        logits = policy.along(weights, torch.full((len(deepest),), prompt), deepest)
        log_probs = logits.log_softmax(-1).detach().numpy()
        for prefix, found in zip(deepest.tolist(), log_probs, strict=True):
            nodes = [0, 1 + prefix[0], 1 + 3 + 3 * prefix[0] + prefix[1]]
            np.testing.assert_allclose(
                found, pair.token_log_probs["q"][prompt, nodes], rtol=0, atol=1e-13
            )


@pytest.mark.parametrize("model", MODELS)
def test_steps_one_token_at_a_time_have_the_logits_of_the_whole_sequence(model) -> None:
    policy = SequencePair(model=model, **SMALL).policy
    weights = policy.split(torch.from_numpy(policy.random(np.random.default_rng(0))))
    prompts, tokens = torch.tensor([0, 1, 1]), torch.tensor([[0, 2], [1, 1], [2, 0]])
    steps = policy.steps(weights, prompts)
    found = [next(steps), *(steps.send(token) for token in tokens.unbind(1))]
    whole = policy.along(weights, prompts, tokens)
    torch.testing.assert_close(torch.stack(found, dim=1), whole, rtol=0, atol=1e-13)


@pytest.mark.parametrize("horizon", [1, 3])
def test_sums_along_the_tree_and_their_gradient_are_those_of_its_paths(horizon) -> None:
    tree = Tree(3, horizon)
    log_probs = torch.from_numpy(np.random.default_rng(1).normal(size=(2, tree.nodes, 4)))
    log_probs.requires_grad_()
    node, token, mask = tree.paths
    plain = torch.where(mask, log_probs[:, node, token], 0.0).sum(-1)
    torch.testing.assert_close(tree.sum_along(log_probs), plain)
    weight = torch.from_numpy(np.random.default_rng(2).normal(size=plain.shape))
    one, other = (
        torch.autograd.grad((each * weight).sum(), log_probs)[0]
        for each in (tree.sum_along(log_probs), plain)
    )
    torch.testing.assert_close(one, other)


def test_a_transformer_does_not_look_ahead() -> None:
    policy = SequencePair(model="transformer", **SMALL).policy
    weights = policy.split(torch.from_numpy(policy.random(np.random.default_rng(0))))
    one, other = (
        policy.along(weights, torch.tensor([0]), torch.tensor([[1, last]])) for last in (0, 2)
    )
    torch.testing.assert_close(one[:, :2], other[:, :2], rtol=0, atol=0)
    assert not torch.equal(one[:, 2], other[:, 2])


@pytest.mark.parametrize("lag", [0.0, 0.2])
def test_sequences_are_drawn_as_often_as_their_probability_says(lag) -> None:
    pair = SequencePair(vocabulary=2, horizon=2, prompts=2, kl=0.1, lag=lag)
    n = 200_000
    draws = pair.draw(np.random.default_rng(3), n)
    log_probs = pair.leaf_log_probs
    sampler = np.exp(log_probs["mu" if lag else "q"]).ravel() / 2
    for probability, log_ratio in zip(
        sampler, (log_probs["p"] - log_probs["q"]).ravel(), strict=True
    ):
        hits = (draws.log_ratio == log_ratio).mean()
        assert abs(hits - probability) <= 5 * math.sqrt(probability * (1 - probability) / n)
    assert (draws.log_weight is None) == (lag == 0.0)


@pytest.mark.parametrize("model", MODELS)
def test_truths_are_sums_over_sequences(model) -> None:
    pair = SequencePair(model=model, **SMALL)
    q, p = (np.exp(pair.leaf_log_probs[side]) for side in ("q", "p"))
    assert pair.truth("kl_pq").value == pytest.approx(
        np.mean(np.sum(p * np.log(p / q), axis=1)), rel=1e-10
    )
    assert pair.truth("chi2").value == pytest.approx(
        np.mean(np.sum((p - q) ** 2 / q, axis=1)), rel=1e-10
    )
    middle = (p + q) / 2
    js = (np.sum(p * np.log(p / middle), axis=1) + np.sum(q * np.log(q / middle), axis=1)) / 2
    assert pair.truth("js").value == pytest.approx(np.mean(js), rel=1e-10)


@pytest.mark.parametrize("model", MODELS)
def test_a_pair_follows_from_its_fields(model) -> None:
    first, again = (SequencePair(model=model, lag=0.1, **SMALL) for _ in range(2))
    for side, parameters in first.parameters.items():
        np.testing.assert_array_equal(again.parameters[side], parameters)
    assert first == again
    for change in ({"seed": 1}, {"kl": 0.31}, {"lag": 0.2}):
        other = SequencePair(model=model, **{"lag": 0.1, **SMALL, **change})
        assert not np.array_equal(other.parameters["mu"], first.parameters["mu"])
    # How far the sampler is changes neither policy nor reference; how far the policy is does not
    # change the reference.
    on_policy, further = (
        SequencePair(model=model, **SMALL),
        SequencePair(model=model, **{**SMALL, "kl": 0.4}),
    )
    np.testing.assert_array_equal(on_policy.parameters["q"], first.parameters["q"])
    np.testing.assert_array_equal(further.parameters["p"], first.parameters["p"])


def test_the_reference_comes_from_a_stream_of_its_own() -> None:
    pair = SequencePair(**SMALL, seed=5)
    expected = pair.policy.random(streams.generator(5, "pair", "sequence", "gru", "reference"))
    np.testing.assert_array_equal(pair.parameters["p"], expected)


def test_labels() -> None:
    title = SequencePair(**SMALL).title
    assert title == "Sequences gru, 3 tokens, horizon 3, 2 prompts, KL=0.3, seed 0"
    assert SequencePair(**SMALL, lag=0.1).title == title + ", lag 0.1"


@pytest.mark.parametrize(
    ("parameters", "where", "message"),
    [
        ({"model": "lstm"}, "model", "'table', 'gru' or 'transformer'"),
        ({"vocabulary": 1}, "vocabulary", "greater than or equal to 2"),
        ({"vocabulary": 65}, "vocabulary", "less than or equal to 64"),
        ({"horizon": 0}, "horizon", "greater than or equal to 1"),
        ({"horizon": 11}, "horizon", "less than or equal to 10"),
        ({"prompts": 0}, "prompts", "greater than or equal to 1"),
        ({"kl": 0.0}, "kl", "greater than 0"),
        ({"kl": math.inf}, "kl", "finite number"),
        ({"lag": -0.1}, "lag", "greater than or equal to 0"),
        ({"seed": -1}, "seed", "greater than or equal to 0"),
        ({"vocabulary": 64, "horizon": 10}, "", "at most 2,000,000 can be enumerated"),
        ({"vocabulary": 8, "horizon": 6, "prompts": 8}, "", "make 2,396,744 sequences"),
        ({"kl": 500.0}, "", "kl=500 is out of reach for this gru: about "),
        (
            {"model": "table", "vocabulary": 2, "horizon": 1, "kl": 0.1, "lag": 90.0},
            "",
            "lag=90 is out of reach for this table",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(parameters, where, message) -> None:
    with pytest.raises(ValidationError) as caught:
        pairs.get("sequence")(**parameters)
    (error,) = caught.value.errors()
    assert ".".join(map(str, error["loc"])) == where
    assert message in error["msg"]
    assert "\n" not in error["msg"]
