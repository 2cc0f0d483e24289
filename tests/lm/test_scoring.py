"""Batched scores against a softmax in float64, one sequence at a time; what counts.

And memory that runs out.
"""

import warnings
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from klbench.lm import batching, scoring
from klbench.lm.generation import generate
from klbench.lm.sampling import Sampling
from klbench.lm.scoring import Scores, score, truncated_kl
from klbench.types import RunError

END, VOCABULARY = 3, 24  # of the models in conftest.py
STEPS = 10
NAMES = ("log_q", "log_p", "kl_qp", "kl_pq", "entropy", "log_mu")
SAMPLING = Sampling(0.8, 0.9, 12)


@pytest.fixture(scope="module")
def sampled(lms, prompts):
    return generate(
        lms[0], prompts, np.random.default_rng(4).random((len(prompts), STEPS)), SAMPLING
    )


def slowly(
    policy, reference, prompts, token, mask, temperature: float = 1.0
) -> dict[str, np.ndarray]:
    """By the definitions, in float64, from a forward pass over every prefix by itself."""
    out = {name: np.zeros(token.shape) for name in NAMES}
    for i, prompt in enumerate(prompts):
        for t in range(int(mask[i].sum())):
            ids = torch.tensor([[*prompt, *token[i, :t].tolist()]])
            raw = policy.model(ids).logits[0, -1].double()
            theirs = reference.model(ids).logits[0, -1].double()
            log_q, log_p = ((each / temperature).log_softmax(-1) for each in (raw, theirs))
            chosen, q, p = token[i, t], log_q.exp(), log_p.exp()
            row = (
                log_q[chosen],
                log_p[chosen],
                (q * (log_q - log_p)).sum(),
                (p * (log_p - log_q)).sum(),
                -(q * log_q).sum(),
                SAMPLING.log_probs(raw)[chosen],
            )
            for name, value in zip(NAMES, row, strict=True):
                out[name][i, t] = float(value)
    return out


@pytest.mark.parametrize("batch", [1, 3, 8, 64])
def test_scores_are_those_of_the_definition_whatever_the_batch(
    lms, prompts, sampled, batch
) -> None:
    expected = slowly(*lms, prompts, sampled.token, sampled.mask)
    found = score(*lms, prompts, sampled.token, sampled.mask, batch=batch, sampling=SAMPLING)
    for name in NAMES:
        np.testing.assert_allclose(
            getattr(found, name), expected[name], atol=1e-5, rtol=1e-5, err_msg=name
        )


def test_both_models_are_scored_at_a_temperature_and_the_sampler_is_not(
    lms, prompts, sampled
) -> None:
    given = (*lms, prompts, sampled.token, sampled.mask)
    found, expected = score(*given, sampling=SAMPLING, temperature=0.6), slowly(*given, 0.6)
    for name in NAMES:
        np.testing.assert_allclose(
            getattr(found, name), expected[name], atol=2e-5, rtol=2e-5, err_msg=name
        )


def test_what_the_sampler_says_of_its_tokens_is_what_scoring_says(lms, prompts, sampled) -> None:
    found = score(*lms, prompts, sampled.token, sampled.mask, sampling=SAMPLING)
    np.testing.assert_allclose(found.log_mu, sampled.log_mu, atol=1e-5)
    assert score(*lms, prompts, sampled.token, sampled.mask).log_mu is None
    # The mistake that both are there to show: log-probabilities of one distribution for samples of
    # the other.
    assert (found.log_mu - found.log_q).sum() > 1.0


def test_the_end_token_counts_and_padding_never_does(lms, prompts, sampled) -> None:
    found = score(*lms, prompts, sampled.token, sampled.mask)
    other = np.where(sampled.mask, sampled.token, 17)
    again = score(*[replace(lm, pad=11) for lm in lms], prompts, other, sampled.mask)
    for name in NAMES[:-1]:
        values = getattr(found, name)
        assert (values[~sampled.mask] == 0.0).all()
        assert (values[sampled.mask] != 0.0).all()
        np.testing.assert_allclose(getattr(again, name), values, atol=1e-5)
    ended = (sampled.token == END) & sampled.mask
    assert ended.any()
    assert (found.log_q[ended] < 0.0).all()


def test_a_model_scored_against_itself_is_at_no_distance(lms, prompts, sampled) -> None:
    found = score(lms[0], lms[0], prompts, sampled.token, sampled.mask)
    np.testing.assert_array_equal(found.log_q, found.log_p)
    assert np.abs(found.kl_qp).max() <= 1e-12
    assert np.abs(found.kl_pq).max() <= 1e-12


def test_nothing_that_counts_is_no_work(lms, prompts, sampled) -> None:
    found = score(*lms, prompts, sampled.token, np.zeros_like(sampled.mask), truncate=(3,))
    assert not found.log_q.any()
    assert not found.truncated[3].any()


def test_blocks_of_rows_change_nothing(lms, prompts, sampled, monkeypatch) -> None:
    whole = score(*lms, prompts, sampled.token, sampled.mask, truncate=(2,), sampling=SAMPLING)
    monkeypatch.setitem(scoring.BLOCK, "cpu", 3 * VOCABULARY)
    parts = score(*lms, prompts, sampled.token, sampled.mask, truncate=(2,), sampling=SAMPLING)
    for name in NAMES:
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), rtol=1e-6, atol=1e-9)
    np.testing.assert_array_equal(parts.truncated[2], whole.truncated[2])


def test_lumping_the_tail_only_loses_and_less_with_more_tokens(lms, prompts, sampled) -> None:
    ks = (1, 2, 5, 12, VOCABULARY - 1, VOCABULARY, 99)
    found = score(*lms, prompts, sampled.token, sampled.mask, truncate=ks)
    values = [found.truncated[k] for k in ks]
    for fewer, more in pairwise(values):
        assert (fewer <= more + 1e-12).all()
    assert values[0].sum() < 0.9 * found.kl_qp.sum()
    for exact in values[-3:]:
        np.testing.assert_allclose(exact, found.kl_qp, atol=1e-5)


def test_the_truncated_divergence_by_its_definition() -> None:
    q, p = (
        torch.tensor([row], dtype=torch.float64)
        for row in ([0.5, 0.3, 0.15, 0.05], [0.2, 0.4, 0.3, 0.1])
    )
    two = 0.5 * np.log(0.5 / 0.2) + 0.3 * np.log(0.3 / 0.4) + 0.2 * np.log(0.2 / 0.4)
    one = 0.5 * np.log(0.5 / 0.2) + 0.5 * np.log(0.5 / 0.8)
    exact = float((q * (q / p).log()).sum())
    found = truncated_kl(q.log() + 3.0, p.log() - 5.0, (2, 1, 3, 4, 99))
    assert [found[k].item() for k in (1, 2, 3, 4, 99)] == pytest.approx(
        [one, two, exact, exact, exact], rel=1e-13
    )
    masked = torch.tensor([[-torch.inf]], dtype=torch.float64)
    wider = truncated_kl(
        torch.cat([q.log(), masked], -1), torch.cat([p.log(), masked], -1), (1, 2, 4, 5)
    )
    assert [wider[k].item() for k in (1, 2, 4, 5)] == pytest.approx(
        [one, two, exact, exact], rel=1e-13
    )


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_model_in_16_bits_is_near_the_one_in_32(random_lm, prompts, sampled, dtype) -> None:
    def halved(seed):
        lm = random_lm("gpt2", seed)
        return replace(lm, model=lm.model.to(getattr(torch, dtype)))

    single = score(random_lm("gpt2", 1), random_lm("gpt2", 2), prompts, sampled.token, sampled.mask)
    half = score(halved(1), halved(2), prompts, sampled.token, sampled.mask)
    error = np.abs(half.log_q - single.log_q)[sampled.mask]
    assert 1e-5 < error.max() < 0.5


class Scarce(torch.nn.Module):
    """A model that runs out of memory for more than so many sequences."""

    def __init__(self, model, most: int, error: Exception) -> None:
        super().__init__()
        self.inner, self.most, self.error, self.asked = model, most, error, []

    def forward(self, input_ids, attention_mask=None, **rest):
        self.asked.append(len(input_ids))
        if len(input_ids) > self.most:
            raise self.error
        return self.inner(input_ids=input_ids, attention_mask=attention_mask, **rest)


ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried"
        " to allocate 8"
    ),
    MemoryError(),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_batch_that_does_not_fit_is_halved_and_that_is_said_once(
    lms, prompts, sampled, error
) -> None:
    expected = score(*lms, prompts, sampled.token, sampled.mask)
    scarce = Scarce(lms[0].model, 3, error)
    with pytest.warns(
        UserWarning, match=r"^out of memory with 12 sequences at a time; went on with 3$"
    ) as said:
        found = score(
            replace(lms[0], model=scarce), lms[1], prompts, sampled.token, sampled.mask, batch=12
        )
    assert len(said) == 1
    assert scarce.asked[:3] == [12, 6, 3]
    assert set(scarce.asked[2:]) == {3}
    for name in NAMES[:-1]:
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), atol=1e-5)


def test_generation_halves_its_batch_too(lms, prompts) -> None:
    uniform = np.random.default_rng(5).random((len(prompts), STEPS))
    expected = generate(lms[0], prompts, uniform, Sampling())
    scarce = replace(lms[0], model=Scarce(lms[0].model, 5, ERRORS[0]))
    with pytest.warns(UserWarning, match="with 15 .* went on with 3"):
        found = generate(scarce, prompts, uniform, Sampling(), batch=15)
    np.testing.assert_array_equal(found.token, expected.token)


def test_what_did_not_fit_once_is_not_tried_again(lms, prompts) -> None:
    uniform = np.random.default_rng(5).random((len(prompts), STEPS))
    scarce, batch = Scarce(lms[0].model, 5, ERRORS[0]), batching.Batch(15)
    with pytest.warns(UserWarning, match="with 15 .* went on with 3"):
        generate(replace(lms[0], model=scarce), prompts, uniform, Sampling(), batch)
    scarce.asked.clear()
    with warnings.catch_warnings(action="error"):
        generate(replace(lms[0], model=scarce), prompts, uniform, Sampling(), batch)
    assert max(scarce.asked) == batch.size == 3


def test_one_sequence_that_does_not_fit_is_the_end(lms, prompts, sampled) -> None:
    scarce = replace(lms[0], model=Scarce(lms[0].model, 0, ERRORS[0]))
    with pytest.raises(RunError, match=r"^out of memory with a single sequence of \d+ tokens$"):
        score(scarce, lms[1], prompts, sampled.token, sampled.mask)


def test_another_error_is_not_taken_for_want_of_memory(lms, prompts, sampled) -> None:
    broken = replace(lms[0], model=Scarce(lms[0].model, 0, RuntimeError("shapes differ")))
    with pytest.raises(RuntimeError, match="shapes differ"):
        score(broken, lms[1], prompts, sampled.token, sampled.mask)


def test_all_is_done_once_and_in_batches_of_like_length() -> None:
    lengths, done = [5, 1, 4, 1, 3], []
    with warnings.catch_warnings(action="error"):
        batching.in_batches(lambda chosen: done.append(list(chosen)), lengths, 2)
    assert done == [[0, 2], [4, 1], [3]]


def test_scores_hold_what_they_say() -> None:
    assert set(Scores.__dataclass_fields__) == {*NAMES, "truncated"}
