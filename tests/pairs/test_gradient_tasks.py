"""Every gradient task against autograd, finite differences, quadrature and frequencies."""

import math
from functools import cache

import numpy as np
import pytest
import torch
from scipy import integrate

from klbench import pairs
from klbench.pairs._scores import DenseScores, TableScores
from klbench.types import Atoms, Skip

TREE = {"vocabulary": 3, "horizon": 3, "prompts": 2, "kl": 0.3}
THREE = {"q": {"probs": [0.2, 0.5, 0.3]}, "p": {"probs": [0.5, 0.1, 0.4]}}
ENUMERATED = {
    "table": ("sequence", {"model": "table", **TREE}),
    "gru": ("sequence", {"model": "gru", **TREE}),
    "gru stale": ("sequence", {"model": "gru", "lag": 0.1, "width": 5, **TREE}),
    "transformer": ("sequence", {"model": "transformer", "width": 4, "lag": 0.1, **TREE}),
    "one token": (
        "sequence",
        {"model": "gru", "vocabulary": 4, "horizon": 1, "prompts": 3, "kl": 0.05},
    ),
    "categorical": ("categorical", THREE),
    "categorical stale": ("categorical", {**THREE, "mu": {"probs": [0.6, 0.3, 0.1]}}),
}
DENSITIES = {
    "gaussian": ("gaussian", {"q": {"mean": 0.2, "std": 1.3}, "p": {"mean": -0.3, "std": 0.9}}),
    "gaussian stale": (
        "gaussian",
        {"q": {"std": 1.3}, "p": {"mean": -0.3}, "mu": {"mean": 0.1, "std": 1.5}},
    ),
    "gaussian in 3": (
        "gaussian",
        {"q": {"mean": [0.1, -0.2, 0.4]}, "p": {"mean": 0.0, "std": [1.2, 0.8, 1.0]}},
    ),
    "exponential": ("exponential", {"q": {"rate": 1.2}, "p": {"rate": 1.7}}),
    "exponential stale": (
        "exponential",
        {"q": {"rate": 1.2}, "p": {"rate": 0.9}, "mu": {"rate": 1.0}},
    ),
}
SETTINGS = ENUMERATED | DENSITIES
TARGETS = ["kl_qp", "kl_pq"]


@cache
def pair_of(name: str):
    kind, parameters = SETTINGS[name]
    return pairs.get(kind)(**parameters)


def task_of(name: str):
    task = pair_of(name).gradient_task()
    assert not isinstance(task, Skip)
    return task


def weights(atoms: Atoms) -> torch.Tensor:
    """The policy's own probabilities."""
    return atoms.probability * (atoms.rollouts.log_q - atoms.rollouts.log_mu).sum(1).exp()


def log_ratio(atoms: Atoms) -> torch.Tensor:
    return (atoms.rollouts.log_p - atoms.rollouts.log_q).sum(1)


def rows(atoms: Atoms, parameters: int) -> torch.Tensor:
    """``s_1 ... s_T, d_1 ... d_T`` of each sequence, one pull each: ``(n, 2T, parameters)``."""
    n, T = atoms.rollouts.mask.shape
    result = torch.empty(n, 2 * T, parameters, dtype=torch.float64)
    for i in range(n):
        for k in range(2 * T):
            one = torch.zeros(2, n, T, dtype=torch.float64)
            one[k // T, i, k % T] = 1.0
            result[i, k] = atoms.scores.pull(*one)
    return result


def rollouts_of(atoms: Atoms):
    return torch.stack(
        [getattr(atoms.rollouts, name) for name in ("log_q", "log_p", "log_mu", "kl")]
    )


@pytest.mark.parametrize("name", SETTINGS)
def test_a_task_says_what_it_is(name) -> None:
    pair, task = pair_of(name), task_of(name)
    assert task is pair.gradient_task()
    theta = task.theta()
    assert theta.shape == (task.parameters,)
    assert theta.dtype == torch.float64
    assert (task.staleness > 0) == pair.off_policy
    theta += 1.0  # a copy: the task's own stays
    assert not torch.equal(theta, task.theta())
    if pair.off_policy and pair.kind != "sequence":
        parameters = SETTINGS[name][1]
        behind = pairs.get(pair.kind)(q=parameters["q"], p=parameters["mu"]).truth("kl_qp")
        assert task.staleness == pytest.approx(behind.value, rel=1e-10)
    with pytest.raises(KeyError):
        task.gradient("js")


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("target", TARGETS)
def test_the_gradient_is_that_of_the_truth(name, target) -> None:
    """By central differences of the pair's own truth, moved in a random direction, where it can
    be built again.
    """
    task, pair = task_of(name), pair_of(name)
    if pair.kind == "categorical":

        def truth(theta: torch.Tensor) -> float:
            return (
                pairs.get("categorical")(q={"logits": theta.tolist()}, p=pair.p).truth(target).value
            )
    elif pair.kind == "sequence":

        def truth(theta: torch.Tensor) -> float:
            moved = pair.model_copy()
            moved.__dict__["parameters"] = pair.parameters | {"q": theta.numpy()}
            for cached in ("token_log_probs", "leaf_log_probs", "_atoms", "_cumulative", "_task"):
                moved.__dict__.pop(cached, None)
            return moved.truth(target).value
    elif pair.kind == "gaussian":

        def truth(theta: torch.Tensor) -> float:
            mean, log_std = theta.chunk(2)
            q = {"mean": tuple(mean.tolist()), "std": tuple(log_std.exp().tolist())}
            return pairs.get("gaussian")(q=q, p=pair.p).truth(target).value
    else:

        def truth(theta: torch.Tensor) -> float:
            return (
                pairs.get("exponential")(q={"rate": math.exp(theta)}, p=pair.p).truth(target).value
            )

    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        direction = torch.randn(task.parameters, dtype=torch.float64, generator=generator)
        h = 1e-5
        slope = (truth(task.theta() + h * direction) - truth(task.theta() - h * direction)) / (
            2 * h
        )
        assert float(task.gradient(target) @ direction) == pytest.approx(slope, rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("name", ENUMERATED)
def test_enumerated_scores_make_the_exact_gradients(name) -> None:
    """Autograd through the sums over sequences, and the scores of every token.

    Two ways that share the forward pass alone.
    """
    task = task_of(name)
    found = dict.fromkeys(
        ["kl_qp", "kl_pq", "tokens", "zero"], torch.zeros(task.parameters, dtype=torch.float64)
    )
    prompts = list(task.atoms())
    for atoms in prompts:
        assert float(atoms.probability.sum()) == pytest.approx(1.0, abs=1e-12)
        w, u = weights(atoms)[:, None], -log_ratio(atoms)[:, None]
        ones = torch.ones_like(atoms.rollouts.kl)
        future = atoms.rollouts.kl.flip(1).cumsum(1).flip(1) - atoms.rollouts.kl
        parts = {
            "kl_qp": (w * u * ones, 0 * ones),
            "kl_pq": (-w * torch.exp(-u) * ones, 0 * ones),
            "tokens": (w * future, w * ones),  # Rao-Blackwell with its score term
            "zero": (w * ones, 0 * ones),
        }
        found = {
            key: found[key] + atoms.scores.pull(*part) / len(prompts) for key, part in parts.items()
        }
    exact = {"tokens": task.gradient("kl_qp"), "zero": torch.zeros(task.parameters)}
    for key, value in found.items():
        expected = exact[key] if key in exact else task.gradient(key)
        torch.testing.assert_close(value, expected.double(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ENUMERATED)
def test_rows_are_those_of_autograd_and_the_gram_is_their_products(name) -> None:
    """One sequence at a time, through the differentiable forward pass."""
    task = task_of(name)
    for prompt, atoms in enumerate(task.atoms()):
        vectors = rows(atoms, task.parameters)
        gram = atoms.scores.gram()
        torch.testing.assert_close(gram, vectors @ vectors.mT, rtol=1e-10, atol=1e-12)
        theta = task.theta().requires_grad_()
        again = task.rollouts(theta, samples_of(task, atoms, prompt))
        torch.testing.assert_close(
            torch.stack([again.log_q, again.log_p, again.log_mu, again.kl]),
            rollouts_of(atoms),
            rtol=0,
            atol=1e-12,
        )
        n, T = atoms.rollouts.mask.shape
        for i in range(0, n, max(1, n // 7)):
            for t in range(T):
                for values, k in ((again.log_q, t), (again.kl, T + t)):
                    (gradient,) = torch.autograd.grad(values[i, t], theta, retain_graph=True)
                    torch.testing.assert_close(vectors[i, k], gradient, rtol=1e-10, atol=1e-12)


def samples_of(task, atoms: Atoms, prompt: int):
    """All atoms as samples, in the task's own form."""
    if not hasattr(task, "tree"):
        return torch.arange(len(atoms.probability))
    from klbench.pairs._sequence_gradient import Samples

    node, token, mask = task.tree.paths
    log_p, log_mu = atoms.rollouts.log_p, atoms.rollouts.log_mu
    return Samples(prompt, node, token, mask, log_p, log_mu, log_mu)


@pytest.mark.parametrize("name", ["gru", "transformer", "table"])
def test_rows_are_central_differences(name) -> None:
    task = task_of(name)
    samples = task.sample(np.random.default_rng(4), 5)
    atoms = list(task.atoms())[samples.prompt]
    vectors, h = rows(atoms, task.parameters), 1e-6
    paths = task.tree.paths
    generator = torch.Generator().manual_seed(2)
    direction = torch.randn(task.parameters, dtype=torch.float64, generator=generator)
    up, down = (task.rollouts(task.theta() + step * direction, samples) for step in (h, -h))
    slopes = torch.cat([up.log_q - down.log_q, up.kl - down.kl], dim=1) / (2 * h)
    for i in range(5):
        same = (paths.token == samples.token[i]).all(1) & (paths.mask == samples.mask[i]).all(1)
        (leaf,) = same.nonzero()[:, 0].tolist()
        torch.testing.assert_close(vectors[leaf] @ direction, slopes[i], rtol=1e-6, atol=1e-8)


def test_a_tables_scores_are_dense_ones_that_nobody_wrote_down() -> None:
    task = task_of("table")
    for prompt, atoms in enumerate(task.atoms()):
        assert isinstance(atoms.scores, TableScores)
        edges = task.jacobian(prompt)
        log_q, log_p = atoms.scores.log_q, atoms.scores.log_p
        nodes = torch.einsum(
            "na,nap->np", log_q.exp() * (log_q - log_p), edges.view(*log_q.shape, -1)
        )
        node, token, mask = task.tree.paths
        dense = DenseScores(edges, nodes, node * task.tree.tokens + token, node, mask)
        torch.testing.assert_close(atoms.scores.gram(), dense.gram(), rtol=1e-12, atol=1e-14)
        generator = torch.Generator().manual_seed(0)
        parts = torch.randn(2, *mask.shape, dtype=torch.float64, generator=generator)
        torch.testing.assert_close(
            atoms.scores.pull(*parts), dense.pull(*parts), rtol=1e-12, atol=1e-13
        )


def test_a_gram_may_be_cut_anywhere(monkeypatch) -> None:
    """Into chunks, and whatever the order of the sequences."""
    (_, atoms) = task_of("gru").atoms()
    whole = atoms.scores.gram()
    monkeypatch.setattr("klbench.pairs._scores.CHUNK_BYTES", 1.0)
    torch.testing.assert_close(atoms.scores.gram(), whole, rtol=1e-12, atol=1e-14)
    order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(0))
    s = atoms.scores
    shuffled = DenseScores(s.edges, s.nodes, s.edge_of[order], s.node_of[order], s.mask[order])
    torch.testing.assert_close(shuffled.gram(), whole[order], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", ENUMERATED)
def test_samples_come_as_often_as_their_probability_says(name) -> None:
    task, stream = task_of(name), np.random.default_rng(11)
    for _ in range(3):
        samples = task.sample(stream, 40_000)
        prompt = getattr(samples, "prompt", 0)
        atoms = list(task.atoms())[prompt]
        if hasattr(task, "tree"):
            base = task.tree.tokens + 1
            power = base ** torch.arange(task.tree.horizon)
            key, keys = (
                ((each.token + 1) * each.mask * power).sum(1) for each in (samples, task.tree.paths)
            )
        else:
            key, keys = samples, torch.arange(task.parameters)
        hits = (key[:, None] == keys).double().mean(0)
        assert float(hits.sum()) == pytest.approx(1.0)
        p = atoms.probability
        frequent = p * 40_000 > 20
        assert ((hits - p).abs() <= 5 * (p * (1 - p) / 40_000).sqrt())[frequent].all()
        rare = ~frequent
        assert abs(hits[rare].sum() - p[rare].sum()) <= 5 * (p[rare].sum() / 40_000).sqrt() + 1e-12


@pytest.mark.parametrize("name", SETTINGS)
def test_rollouts_keep_their_promises(name) -> None:
    task = task_of(name)
    first, same, other = (task.sample(np.random.default_rng(seed), 64) for seed in (0, 0, 1))
    theta = task.theta().requires_grad_()
    a, b, c = (task.rollouts(theta, samples) for samples in (first, same, other))
    for values in (a.log_q, a.log_p, a.log_mu, a.kl):
        assert values.shape == a.mask.shape
        assert values.dtype == torch.float64
        assert not values[~a.mask].any()
    assert a.mask.dtype == torch.bool
    assert a.mask[:, 0].all()
    assert torch.equal(a.log_q, b.log_q)
    assert not torch.equal(a.log_q, c.log_q)
    assert a.log_q.requires_grad
    assert a.kl.requires_grad
    assert not a.log_p.requires_grad
    assert not a.log_mu.requires_grad
    assert (a.kl[a.mask] > 0).all()
    if not pair_of(name).off_policy:
        torch.testing.assert_close(a.log_mu, a.log_q.detach(), rtol=0, atol=1e-12)
    # log_mu and log_p do not move with the parameters.
    moved = task.rollouts(task.theta() + 0.1, first)
    torch.testing.assert_close(moved.log_mu, a.log_mu, rtol=0, atol=0)
    torch.testing.assert_close(moved.log_p, a.log_p, rtol=0, atol=0)


@pytest.mark.parametrize("name", DENSITIES)
def test_densities_are_sampled_and_weighted_right(name) -> None:
    """The mean of log q/p over samples of q is KL(q‖p); weights average to 1.

    Kl is its closed form; scores are autograd's.
    """
    pair, task = pair_of(name), task_of(name)
    assert task.atoms() is None
    samples = task.sample(np.random.default_rng(8), 100_000)
    theta = task.theta().requires_grad_()
    rollouts = task.rollouts(theta, samples)
    weight = (rollouts.log_q - rollouts.log_mu).exp().detach()
    terms = weight * (rollouts.log_q - rollouts.log_p).detach()
    truth = pair.truth("kl_qp").value
    assert float(rollouts.kl[0, 0].detach()) == pytest.approx(truth, rel=1e-12)
    for values, expected in ((terms, truth), (weight, 1.0)):
        assert (
            abs(float(values.mean()) - expected)
            <= 5 * float(values.std()) / math.sqrt(len(values)) + 1e-12
        )
    scores = task.scores(task.theta(), samples[:5])
    for i in range(5):
        (gradient,) = torch.autograd.grad(rollouts.log_q[i, 0], theta, retain_graph=True)
        torch.testing.assert_close(scores[i], gradient, rtol=1e-12, atol=1e-13)
    (gradient,) = torch.autograd.grad(rollouts.kl[0, 0], theta)
    torch.testing.assert_close(task.gradient("kl_qp"), gradient, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", ["gaussian", "exponential"])
@pytest.mark.parametrize("power", [-1.0, 0.0, 0.5, 1.0, 2.0])
def test_tilted_rules_are_quadratures(name, power) -> None:
    """``E[r^a]``, ``E[r^a log r]``, ``E[r^a s]`` and ``E[r^a s s']`` against adaptive
    quadrature.
    """
    pair, task = pair_of(name), task_of(name)
    atoms = task.tilted(power)
    if not pair.finite_moment(power):
        assert atoms is None
        return
    log_density = pair.q.log_density if name == "exponential" else task_log_density(task)

    def integrand(x: np.ndarray) -> np.ndarray:
        x_ = torch.from_numpy(x)[:, None]
        rollouts = task.rollouts(task.theta(), x_)
        u = (rollouts.log_p - rollouts.log_q)[:, 0].numpy()
        s = task.scores(task.theta(), x_).T.numpy()
        terms = np.stack([np.ones_like(u), u, *s, *(a * b for a in s for b in s)])
        return (np.exp(log_density(x) + power * u) * terms).T

    x = np.linspace(0.0 if name == "exponential" else -60.0, 60.0, 200_001)
    values = integrate.simpson(integrand(x), x=x, axis=0)
    s = atoms.scores.edges[atoms.scores.edge_of[:, 0]].T
    w, u = atoms.probability, log_ratio(atoms)
    found = torch.stack(
        [each @ w for each in (torch.ones_like(u), u, *s, *(a * b for a in s for b in s))]
    )
    np.testing.assert_allclose(found.numpy(), values, rtol=1e-8, atol=1e-9)
    gram = rows(atoms, task.parameters)
    torch.testing.assert_close(atoms.scores.gram(), gram @ gram.mT, rtol=1e-11, atol=1e-11)
    one = torch.ones_like(w)[:, None]
    torch.testing.assert_close(
        atoms.scores.pull(0 * one, w[:, None]), w.sum() * task.gradient("kl_qp")
    )


def task_log_density(task):
    return lambda x: task.log_density(task.theta(), torch.from_numpy(x)[:, None]).numpy()


@pytest.mark.parametrize("power", [-0.5, 0.0, 0.7])
def test_tilted_rules_are_exact_to_degree_60(power) -> None:
    """Against the moments of a standard normal and of a unit exponential, in standardized
    points.
    """
    gaussian, exponential = (task_of(name).tilted(power) for name in ("gaussian", "exponential"))
    x, w = task_of("gaussian").rule(power)
    mean = float(w @ x[:, 0] / w.sum())
    z = (x[:, 0] - mean) / math.sqrt(w @ (x[:, 0] - mean) ** 2 / w.sum())
    assert w @ z**60 / w.sum() == pytest.approx(math.prod(range(1, 60, 2)), rel=1e-9)
    y, v = task_of("exponential").rule(power)
    unit = y[:, 0] / (v @ y[:, 0] / v.sum())
    assert v @ unit**60 / v.sum() == pytest.approx(math.factorial(60), rel=1e-9)
    np.testing.assert_array_equal(gaussian.probability, w)
    np.testing.assert_array_equal(exponential.probability, v)


def test_what_diverges_or_is_not_known_has_no_rule() -> None:
    assert task_of("gaussian").tilted(-2.0) is None
    assert pair_of("gaussian").finite_moment(-2.0) is False
    wide = pairs.get("gaussian")(q={"std": 1.0}, p={"std": 2.0})
    assert wide.gradient_task().tilted(2.0) is None
    assert (
        pairs.get("exponential")(q={"rate": 2.0}, p={"rate": 1.0}).gradient_task().tilted(2.5)
        is None
    )
    far = pairs.get("gaussian")(q={"mean": 0.0}, p={"mean": 40.0})
    assert far.gradient_task().tilted(2.0) is None
    for name in (*ENUMERATED, "gaussian stale", "exponential stale", "gaussian in 3"):
        assert task_of(name).tilted(1.0) is None


@pytest.mark.parametrize(
    ("kind", "parameters", "reason"),
    [
        (
            "categorical",
            {"q": {"probs": [0.4, 0.6, 0.0]}, "p": {"probs": [0.7, 0.3, 0.0]}},
            "q is zero at category 2",
        ),
        (
            "categorical",
            {"random": {"size": 1_001, "kl": 0.1}},
            "up to 1,000 categories, here are 1,001",
        ),
        (
            "gaussian",
            {"q": {"mean": [0, 0]}, "p": {"cov": [[1, 0.5], [0.5, 1]]}},
            "p has correlations",
        ),
        ("laplace", {"q": {}, "p": {"loc": 1.0}}, "laplace pairs have no policy gradient"),
        ("sequence", {"vocabulary": 64, "horizon": 3, "prompts": 1}, "would take 3."),
    ],
)
def test_a_pair_without_a_task_says_why(kind, parameters, reason) -> None:
    skip = pairs.get(kind)(**parameters).gradient_task()
    assert isinstance(skip, Skip)
    assert reason in skip.reason
    assert "\n" not in skip.reason


def test_a_diagonal_covariance_is_no_correlation() -> None:
    task = pairs.get("gaussian")(q={"mean": [0, 0]}, p={"cov": [[1, 0], [0, 4]]}).gradient_task()
    assert task.parameters == 4
