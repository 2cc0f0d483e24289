"""The end of training with each kind of penalty, predicted from reference, reward and ``beta`` for
an unrestricted policy.

With a logit of its own for every token after every prefix, the exact expected gradient of the whole
objective vanishes where at each prefix ``s`` what multiplies the scores is constant. With ``Q`` the
expected reward after a token (and no KL in it, since a penalty in the loss has no score for what
earlier tokens lead to):

============== ========================================== ==========================================
``optimum``    ``pi(x) = ref(x) exp(r(x) / beta) / Z``    the penalty's gradient is that of
                                                          KL(pi‖ref)
``token_kl``   ``pi(a|s) ∝ ref(a|s) exp(Q(s, a) / beta)`` each token's KL(pi‖ref) in the loss: ``Q -
                                                          beta log pi/ref = c``
``token_k3``   ``pi(a|s) = beta ref(a|s) / (l_s - Q)``    each token's KL(ref‖pi) in the loss: ``Q +
                                                          beta ref/pi = l_s``
``sequence_k3``  ``pi(x) = beta ref(x) / (l_x - r(x))``   KL(ref‖pi) of whole sequences: ``r + beta
                                                          ref/pi = l_x``
``greedy``     the best sequence of each prompt, surely   no penalty on average: nothing stops
                                                          before
============== ========================================== ==========================================

``l_s`` and ``l_x`` make the probabilities sum to one. The recursion goes backward over the tree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from klbench.rlhf.penalty import PenaltyArm
from klbench.rlhf.testbed import Exact, Testbed, bisected, by_level
from klbench.rlhf.testbed.expected import expected_loss

NAMES = ("optimum", "token_kl", "token_k3", "sequence_k3")
FORMULAS = {
    "optimum": "π(x) = ref(x) exp(r(x)/β) / Z",
    "token_kl": "π(a|s) ∝ ref(a|s) exp(Q(s,a)/β)",
    "token_k3": "π(a|s) = β ref(a|s) / (λ_s − Q(s,a))",
    "sequence_k3": "π(x) = β ref(x) / (λ − r(x))",
    "greedy": "the best sequence of each prompt, surely",
}
VANISHES = 1e-8
"""A gradient this much smaller than at the reference is 0 but for rounding."""
BISECTIONS = 80


def predicted(testbed: Testbed, name: str, beta: Tensor) -> Tensor:
    """A fixed point's next-token log-probabilities, ``(arms, seeds, prompts, nodes, tokens)``,
    for ``beta`` of ``(arms,)``.
    """
    weight = beta[:, None, None, None]
    if name == "optimum":
        return conditionals(testbed, testbed.log_optimum(beta))
    if name == "sequence_k3":
        return conditionals(
            testbed, _held(testbed.leaf_log_p, testbed.reward.expand(len(beta), -1, -1, -1), weight)
        )
    return _backward(testbed, weight[..., None], softmax=name == "token_kl")


def _held(log_p: Tensor, value: Tensor, beta: Tensor) -> Tensor:
    """``log(beta p / (l - value))`` over the last axis, with the ``l`` for which it sums to one, by
    bisection.

    With ``m`` where the value is largest, ``l - value_m`` lies between ``beta p_m`` and ``beta``,
    for no share is above one, and if all values were that large the shares would sum to ``beta / (l
    - value_m)``.
    """
    top, where = value.max(-1, keepdim=True)
    gap = top - value
    log_beta = beta.log()
    low = log_beta + log_p.expand_as(value).gather(-1, where)
    high = log_beta.expand_as(low)

    def shares(log_excess: Tensor) -> Tensor:
        return log_beta + log_p - (log_excess.exp() + gap).log()

    found = bisected(
        lambda log_excess: shares(log_excess).logsumexp(-1, keepdim=True) > 0, low, high, BISECTIONS
    )
    return shares(found).log_softmax(-1)


def _backward(testbed: Testbed, beta: Tensor, *, softmax: bool) -> Tensor:
    """Return each prefix's policy, from the last tokens to the first, given the values of later
    tokens.
    """
    tree = testbed.tree
    levels = by_level(tree, testbed.reward)
    value: Tensor | None = None
    policies = []
    for depth in reversed(range(tree.horizon)):
        ended, all_tokens = levels[depth]
        log_p = testbed.log_p[..., tree.level(depth), :]
        if all_tokens is not None:
            q = all_tokens.expand(len(beta), *all_tokens.shape)
        else:
            assert value is not None
            later = value.view(*value.shape[:-1], tree.widths[depth], tree.vocabulary)
            q = torch.cat([later, ended[..., None].expand(*later.shape[:-1], 1)], dim=-1)
        policy = (log_p + q / beta).log_softmax(-1) if softmax else _held(log_p, q, beta)
        value = (policy.exp() * q).sum(-1)
        policies.append(policy)
    return torch.cat(policies[::-1], dim=-2)


def conditionals(testbed: Testbed, leaves: Tensor) -> Tensor:
    """Log-probabilities of sequences ``(..., leaves)`` to those of each next token, ``(...,
    nodes, tokens)``.
    """
    tree = testbed.tree
    levels = by_level(tree, leaves)
    mass: Tensor | None = None
    result = []
    for depth in reversed(range(tree.horizon)):
        ended, edges = levels[depth]
        if edges is None:
            assert mass is not None
            later = mass.view(*mass.shape[:-1], tree.widths[depth], tree.vocabulary)
            edges = torch.cat([later, ended[..., None]], dim=-1)
        mass = edges.logsumexp(-1)
        result.append(edges - mass[..., None])
    return torch.cat(result[::-1], dim=-2)


def greedy(testbed: Testbed, beta: Tensor) -> Exact:
    """Values in the limit of the best sequence alone.

    The reward's maximum, and ``KL = -log ref`` of it.
    """
    best, where = testbed.reward.max(-1)
    reward = best.mean(-1).expand(len(beta), -1)
    kl = -testbed.leaf_log_p.gather(-1, where[..., None])[..., 0].mean(-1).expand(len(beta), -1)
    objective = reward - beta[:, None] * kl
    regret = testbed.best(beta) - objective
    return Exact(reward, kl, objective, regret, regret / beta[:, None])


def residuals(testbed: Testbed, arms: Sequence[PenaltyArm], group: int) -> dict[str, Tensor]:
    """Return, for each fixed point, the norm of each arm's expected gradient over that at the
    reference: ``(arms, seeds)``.

    The gradient is that of the whole objective with respect to free logits. ``greedy`` has the norm
    of the penalty's gradient alone, at a policy off the reference.
    """
    beta = torch.tensor([each.beta for each in arms], dtype=testbed.log_p.dtype)
    scale = _norm(testbed, arms, testbed.log_p.expand(len(arms), -1, -1, -1, -1), beta, group)
    result = {
        name: _norm(testbed, arms, predicted(testbed, name, beta), beta, group) / scale
        for name in NAMES
    }
    unpenalised = [replace(each, combination=None) for each in arms]
    table = testbed.log_p.expand(len(arms), -1, -1, -1, -1)
    probe = table + torch.sin(1.0 + torch.arange(testbed.tree.tokens, dtype=table.dtype))
    penalty = _gradient(testbed, arms, probe, beta, group) - _gradient(
        testbed, unpenalised, probe, beta, group
    )
    return result | {"greedy": penalty.flatten(2).norm(dim=-1) / scale}


def _gradient(
    testbed: Testbed, arms: Sequence[PenaltyArm], logits: Tensor, beta: Tensor, group: int
) -> Tensor:
    logits = logits.detach().clone().requires_grad_()
    loss = expected_loss(testbed, arms, logits.log_softmax(-1), beta, group)
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    return gradient


def _norm(
    testbed: Testbed, arms: Sequence[PenaltyArm], log_probs: Tensor, beta: Tensor, group: int
) -> Tensor:
    return _gradient(testbed, arms, log_probs, beta, group).flatten(2).norm(dim=-1)


def which(testbed: Testbed, arms: Sequence[PenaltyArm], group: int) -> list[tuple[str, float]]:
    """Return each arm's fixed point, where its gradient vanishes (``""`` if none), and the
    largest residual over seeds.
    """
    found = residuals(testbed, arms, group)
    result = []
    for i in range(len(arms)):
        each = {name: float(values[i].max()) for name, values in found.items()}
        name = min(each, key=lambda name: each[name])
        first = next((n for n, residual in each.items() if residual <= VANISHES), None)
        result.append((first, each[first]) if first else ("", each[name]))
    return result
