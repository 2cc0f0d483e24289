"""Exact values to compare with: torch in float64, written on its own, and mpmath."""

import mpmath
import torch

RESULTS = ("log_q", "log_p", "kl_qp", "kl_pq", "entropy")


def exact(policy, reference, tokens):
    """The five results, float64; for logits that are finite or ``-inf``.

    Differentiable where none is infinite.
    """
    z, y = policy.double(), reference.double()
    log_q, log_p = (
        z - torch.logsumexp(z, -1, keepdim=True),
        y - torch.logsumexp(y, -1, keepdim=True),
    )
    q, p = log_q.exp(), log_p.exp()

    def divergence(weight, log_weight, log_other):
        terms = weight * (log_weight - log_other)
        terms = torch.where(log_other.isneginf(), torch.inf, terms)
        return torch.where(log_weight.isneginf(), 0.0, terms).sum(-1)

    at = torch.arange(len(z), device=z.device)
    entropy = -torch.where(log_q.isneginf(), 0.0, q * log_q).sum(-1)
    return (
        log_q[at, tokens.long()],
        log_p[at, tokens.long()],
        divergence(q, log_q, log_p),
        divergence(p, log_p, log_q),
        entropy,
    )


def digits(z, y, token):
    """The same for one row of finite logits, to 40 digits."""
    with mpmath.workdps(40):
        z, y = [mpmath.mpf(float(v)) for v in z], [mpmath.mpf(float(v)) for v in y]
        normaliser_q, normaliser_p = (
            mpmath.log(mpmath.fsum(mpmath.exp(v) for v in row)) for row in (z, y)
        )
        log_q, log_p = [v - normaliser_q for v in z], [v - normaliser_p for v in y]
        pairs = list(zip(log_q, log_p, strict=True))
        return (
            log_q[token],
            log_p[token],
            mpmath.fsum(mpmath.exp(a) * (a - b) for a, b in pairs),
            mpmath.fsum(mpmath.exp(b) * (b - a) for a, b in pairs),
            -mpmath.fsum(mpmath.exp(a) * a for a in log_q),
        )


def overlap(z, y, beta):
    """Total variation and Jensen-Shannon divergence of one row to 40 digits."""
    with mpmath.workdps(40):
        q, p = ([mpmath.exp(mpmath.mpf(float(v))) for v in row] for row in (z, y))
        q, p = ([v / mpmath.fsum(row) for v in row] for row in (q, p))
        beta = mpmath.mpf(beta)
        pairs = [(a, b, beta * b + (1 - beta) * a) for a, b in zip(q, p, strict=True)]
        terms = [
            beta * b * mpmath.log(b / m) + (1 - beta) * a * mpmath.log(a / m)
            for a, b, m in pairs
            if a and b
        ]
        return mpmath.fsum(abs(a - b) for a, b in zip(q, p, strict=True)) / 2, mpmath.fsum(terms)


def logits(rows, size, noise, *, scale=4.0, dtype=torch.float32, device="cpu", seed=0):
    """Policy, reference and tokens of normal logits."""
    stream = torch.Generator().manual_seed(seed)
    policy = torch.randn(rows, size, generator=stream) * scale
    reference = policy + noise * torch.randn(rows, size, generator=stream)
    tokens = torch.randint(size, (rows,), generator=stream)
    return policy.to(device, dtype), reference.to(device, dtype), tokens.to(device)


def worst(got, policy, reference, tokens):
    """The largest error of any result, in units of ``1 + |exact|``; NaN where one of both is."""
    errors = [torch.zeros(1)]
    for name, truth in zip(RESULTS, exact(policy, reference, tokens), strict=True):
        value = getattr(got, name).detach().double()
        assert value.shape == truth.shape
        same = (value == truth) | (value.isnan() & truth.isnan())
        errors.append(torch.where(same, 0.0, (value - truth).abs() / (1 + truth.abs())).cpu())
    return float(torch.cat(errors).max())
