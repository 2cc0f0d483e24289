"""The sampling distribution against definitions written out, and the choice of a token against
its probabilities.
"""

import numpy as np
import pytest
import torch

from klbench.lm.sampling import Sampling, choose

LOGITS = np.random.default_rng(0).normal(scale=2.0, size=(50, 12))


def written_out(logits: np.ndarray, sampling: Sampling) -> np.ndarray:
    """Probabilities of one row, by the definition."""
    weights = np.exp(logits / sampling.temperature - np.max(logits / sampling.temperature))
    order = sorted(range(len(weights)), key=lambda i: -weights[i])
    if sampling.top_k:
        for i in order[sampling.top_k :]:
            weights[i] = 0.0
    weights /= weights.sum()
    held = 0.0
    for i in order:
        if held >= sampling.top_p:
            weights[i] = 0.0
        held += weights[i]
    return weights / weights.sum()


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling(0.5),
        Sampling(3.0),
        Sampling(top_k=1),
        Sampling(top_k=4),
        Sampling(top_k=12),
        Sampling(top_k=99),
        Sampling(top_p=1e-9),
        Sampling(top_p=0.5),
        Sampling(top_p=0.9),
        Sampling(0.7, 0.8, 5),
        Sampling(1.5, 0.3, 3),
    ],
)
def test_the_distribution_is_the_one_defined(sampling) -> None:
    expected = np.stack([written_out(row, sampling) for row in LOGITS])
    found = sampling.log_probs(torch.from_numpy(LOGITS)).exp().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-15)
    assert ((found == 0.0) == (expected == 0.0)).all()


def test_the_distribution_is_that_of_transformers_warpers() -> None:
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    logits = torch.from_numpy(LOGITS)
    theirs = logits
    for warper in (TemperatureLogitsWarper(0.7), TopKLogitsWarper(6), TopPLogitsWarper(0.8)):
        theirs = warper(None, theirs)
    torch.testing.assert_close(Sampling(0.7, 0.8, 6).log_probs(logits), theirs.log_softmax(-1))


def test_ties_at_the_edge_of_top_k_all_stay() -> None:
    found = Sampling(top_k=2).log_probs(torch.tensor([0.0, 1.0, 0.0, -1.0])).exp()
    torch.testing.assert_close(found > 0, torch.tensor([True, True, True, False]))


def test_plain_is_the_models_own() -> None:
    assert Sampling().plain
    for other in (Sampling(0.9), Sampling(top_p=0.9), Sampling(top_k=3)):
        assert not other.plain


def test_tokens_come_as_often_as_they_are_probable() -> None:
    log_probs = Sampling(0.8, 0.9, 8).log_probs(torch.from_numpy(LOGITS[:1]))
    n = 200_000
    uniform = torch.from_numpy(np.random.default_rng(1).random(n))
    counts = np.bincount(choose(log_probs.expand(n, -1), uniform).numpy(), minlength=12)
    p = log_probs.exp().numpy()[0]
    assert (np.abs(counts / n - p) <= 5 * np.sqrt(p * (1 - p) / n)).all()


def test_a_token_of_no_probability_is_never_chosen() -> None:
    log_probs = torch.tensor([[0.0, 0.5, 0.0, 0.5, 0.0]], dtype=torch.float64).log()
    for uniform, token in (
        (0.0, 1),
        (0.25, 1),
        (0.5, 3),
        (0.75, 3),
        (np.nextafter(1.0, 0.0), 3),
        (1.0, 3),
    ):
        assert choose(log_probs, torch.tensor([uniform], dtype=torch.float64)).item() == token
