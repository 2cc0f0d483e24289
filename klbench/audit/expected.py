"""The expected gradient of a function, on small policies whose every sequence is enumerated.

Named, and its bias.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from klbench import gradients
from klbench.audit.batches import VOCABULARY, Batch, random
from klbench.audit.findings import Gradient
from klbench.audit.forms import PQ, QP
from klbench.audit.identify import Identity
from klbench.audit.probe import Probe
from klbench.audit.reduction import Reduced
from klbench.gradients.exact import taken_apart
from klbench.pairs.sequence import SequencePair
from klbench.types import Atoms

SHAPES = {"logits": (VOCABULARY - 1, 2)}
"""Ordinary tokens and horizon by the form of the inputs."""
USUAL = (5, 3)
NEAR, FAR = 0.05, 2.0
"""KL in nats at which the bias is given."""
LAG = 0.1
"""KL in nats of the policy from an older one that samples."""
DIFFERENCE = f"{QP} - {PQ}"


@dataclass(frozen=True)
class Setting:
    """A tabular policy and reference after one prompt.

    Parameters
    ----------
    batch
        Every sequence, a row each.
    probability
        Of each, under whoever samples.
    node
        The prefix before each token, ``(n, T)``.
    policy, reference
        Probabilities of the next token at each prefix, ``(nodes, V)``.
    whole
        Exact gradients of the sequence's divergences in the logits, ``(nodes, V)``.
    """

    batch: Batch
    probability: np.ndarray
    node: np.ndarray
    policy: np.ndarray
    reference: np.ndarray
    whole: dict[str, np.ndarray]
    atoms: Atoms

    def pull(self, coefficients: np.ndarray) -> np.ndarray:
        """Return the expected gradient in the logits of what multiplies each token's score, or
        of gradients in logits.
        """
        batch = self.batch
        weighted = self.probability.reshape(-1, *(1,) * (coefficients.ndim - 1)) * coefficients
        result = np.zeros_like(self.policy)
        if coefficients.ndim == 3:
            np.add.at(result, self.node[batch.mask], weighted[batch.mask])
            return result
        node, token, weight = self.node[batch.mask], batch.token[batch.mask], weighted[batch.mask]
        np.add.at(result, (node, token), weight)
        np.add.at(result, node, -weight[:, None] * self.policy[node])
        return result

    def own(self) -> dict[str, np.ndarray]:
        """Return the gradients of each token's own divergence, given the prefixes that the
        sampler reaches.
        """
        reach = np.zeros(len(self.policy))
        np.add.at(
            reach,
            self.node[self.batch.mask],
            np.repeat(self.probability[:, None], self.node.shape[1], 1)[self.batch.mask],
        )
        # Each leaf counts a prefix once: reach is its probability.
        q, p = self.policy, self.reference
        log_ratio = np.log(q / p)
        kl = (q * log_ratio).sum(-1, keepdims=True)
        return {QP: reach[:, None] * q * (log_ratio - kl), PQ: reach[:, None] * (q - p)}


@cache
def setting(kl: float, lag: float = 0.0, shape: tuple[int, int] = USUAL) -> Setting:
    """Return the setting of that KL(q‖p), and KL(q‖mu) of whoever samples."""
    pair = SequencePair(
        model="table",
        vocabulary=shape[0],
        horizon=shape[1],
        prompts=1,
        kl=kl,
        lag=lag,
        behind="random",
    )
    task = pair._task
    prompts = task.atoms()
    assert prompts is not None, "every sequence of the pair is enumerated"
    (atoms,) = prompts
    node, token, mask = (each.numpy() for each in pair.tree.paths)
    log_probs = {side: each[0] for side, each in pair.token_log_probs.items()}
    sides = [log_probs["q"], log_probs["p"], log_probs.get("mu", log_probs["q"])]
    full = [each[node] for each in sides]
    full[1] = np.where(mask[..., None], full[1], full[0])
    full[2] = np.where(mask[..., None], full[2], full[0])
    chosen = [np.take_along_axis(each, token[..., None], axis=-1)[..., 0] for each in full]
    like = random("expected", *mask.shape)
    batch = replace(
        like,
        log_q=chosen[0],
        log_p=chosen[1],
        log_mu=chosen[2],
        mask=mask,
        token=token,
        given_logits=(full[0], full[1], full[2]),
    )
    table = log_probs["q"].shape
    whole = {
        QP: task.gradient("kl_qp").numpy().reshape(table),
        PQ: task.gradient("kl_pq").numpy().reshape(table),
    }
    return Setting(
        batch,
        atoms.probability.numpy(),
        node,
        np.exp(log_probs["q"]),
        np.exp(log_probs["p"]),
        whole,
        atoms,
    )


def _shifted(batch: Batch, *, mask_too: bool) -> Batch:
    """Return the batch for a function that takes each token's logits from the position before.

    A first token in front.
    """

    def front(x: np.ndarray) -> np.ndarray:
        return np.concatenate([x[:, :1], x], axis=1)

    def back(x: np.ndarray) -> np.ndarray:
        return np.concatenate([x, x[:, -1:]], axis=1)

    assert batch.given_logits is not None
    full = tuple(back(each) for each in batch.given_logits)
    full = (full[0], np.concatenate([full[1][:, :-1], full[0][:, -1:]], axis=1), full[2])
    none = np.zeros((batch.shape[0], 1), bool)
    mask = np.concatenate([none, batch.mask] if mask_too else [batch.mask, none], axis=1)
    names = ("log_q", "log_p", "log_mu", "rest_q", "rest_p", "offset")
    return replace(
        batch,
        token=front(batch.token),
        mask=mask,
        given_logits=full,
        **{name: back(getattr(batch, name)) for name in names},
    )


def coefficients(
    probe: Probe, batch: Batch, reduced: Reduced | None, scale: float
) -> np.ndarray | None:
    """Return what multiplies each token's score, or gradients in logits, of the sum over tokens.

    None without a gradient.
    """
    shifted = reduced is not None and reduced.alignment.startswith("logits before")
    unshifted = reduced is not None and reduced.alignment.endswith("mask unshifted")
    seen = _shifted(batch, mask_too=not unshifted) if shifted else batch
    found = probe.slope(seen)
    if found is None:
        return None
    if probe.plan.normalized:  # log-probabilities: on through the softmax that made them
        found = found - np.exp(seen.full("q")) * found.sum(-1, keepdims=True)
    found = found[:, :-1] if shifted else found
    if probe.plan.form == "log_ratio":
        found = -found
    counted = batch.mask.sum() if probe.plan.has("mask") else batch.mask.size
    factor = {
        "token mean": counted,
        "sequence sum, mean over the batch": batch.shape[0],
        "mean of sequence means": batch.shape[0],
        "mean over the padded length": batch.mask.size,
        "mean of all tokens, the mask left out": batch.mask.size,
    }.get("" if reduced is None else reduced.name, 1)
    # A loss of whole rows has gradients in the padding of those without a mask: it does not count.
    keep = batch.mask[..., None] if found.ndim == 3 else batch.mask
    return np.where(keep, found, 0.0) * factor / scale


def _names(found: np.ndarray, candidates: dict[str, np.ndarray], tolerance: float) -> list[str]:
    q, p = candidates[QP], candidates[PQ]
    every = {QP: q, PQ: p, DIFFERENCE: q - p, "0": 0.0 * q, f"-{QP}": -q, f"-{PQ}": -p}
    size = float(np.linalg.norm(q))
    return [
        name for name, each in every.items() if np.linalg.norm(found - each) <= tolerance * size
    ]


def expected(
    probe: Probe, identity: Identity, reduced: Reduced | None, scale: float
) -> Gradient | None:
    """Return the expected gradient of the KL part.

    None where there is none, or the policy is not the one that samples.
    """
    plan = probe.plan
    if (
        probe.function.library != "torch"
        or not probe.compares
        or (plan.form != "log_ratio" and plan.sides.get("policy") != "q")
    ):
        return None
    lengths = reduced is not None and reduced.name in (
        "mean of sequence means",
        "sum of sequence means",
        "mean of each sequence",
    )
    tolerance = (1e-6, 1e-2, 0.2)[identity.tolerance]
    matches, levels, bias, per_token = [], [], {}, {}
    for kl in (NEAR, FAR):
        where = setting(kl, 0.0, SHAPES.get(plan.form, USUAL))
        per_token[kl] = coefficients(probe, where.batch, reduced, scale)
        each = per_token[kl]
        if each is None:
            return None
        pull = where.pull(each)
        found = _rescaled(pull, where.whole) if reduced is None else pull
        size = float(np.linalg.norm(where.whole[QP]))
        bias[kl] = float(np.linalg.norm(found - where.whole[QP])) / size
        names = _names(found, where.whole, tolerance)
        level = "sequence"
        if not names:
            even = where.pull(each * _lengths(where, each)) if lengths else pull
            own = where.own()
            even = _rescaled(even, own) if reduced is None else even
            names, level = _names(even, own, tolerance), "token"
        matches.append(names[0] if names else "none")
        levels.append(level if names else "token")
    clamped = identity.clamp is not None
    name = matches[0] if clamped or matches[0] == matches[1] else "none"
    combination, off_policy = "", ""
    if plan.form != "logits":
        combination = _combination(probe, identity, reduced, scale, lengths=lengths)
    if plan.side("old"):
        off_policy = _off_policy(probe, reduced, scale, tolerance)
    return Gradient(name, levels[0] if name != "none" else "token", bias, combination, off_policy)


def _lengths(where: Setting, like: np.ndarray) -> np.ndarray:
    lengths = where.batch.mask.sum(-1)
    return lengths.reshape(-1, *(1,) * (like.ndim - 1))


def _rescaled(found: np.ndarray, exact: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return a gradient whose scale is not known, as long as the one of which it is a multiple."""
    for each in exact.values():
        factor = float((found * each).sum() / max((each * each).sum(), 1e-300))
        if factor and np.linalg.norm(found / factor - each) <= 1e-6 * np.linalg.norm(each):
            return found / abs(factor)
    return found


def _off_policy(probe: Probe, reduced: Reduced | None, scale: float, tolerance: float) -> str:
    where = setting(FAR, LAG, SHAPES.get(probe.plan.form, USUAL))
    each = coefficients(probe, where.batch, reduced, scale)
    if each is None:
        return ""
    found = where.pull(each)
    return (
        _names(found, where.whole, tolerance) or _names(found, where.own(), tolerance) or ["none"]
    )[0]


def _combination(
    probe: Probe, identity: Identity, reduced: Reduced | None, scale: float, *, lengths: bool
) -> str:
    """Return the registered combination with the same coefficient of every token, on- and
    off-policy.
    """
    exact = (1e-5, 1e-3, 1e-3)[identity.tolerance]
    settings = [setting(NEAR), setting(FAR)] + (
        [setting(FAR, LAG)] if probe.plan.side("old") else []
    )
    got = [coefficients(probe, where.batch, reduced, scale) for where in settings]
    if any(each is None for each in got):
        return ""
    mine_first = sorted(
        map(gradients.get, gradients.names()),
        key=lambda c: (
            identity.form is None or c.estimator != identity.form.name,
            c.placement != "loss",
            c.correction == "truncated_ratio",
        ),
    )
    for each in mine_first:
        if each.placement not in ("loss", "straight_through") or each.length_mean != lengths:
            continue
        if each.correction != "none" and not probe.plan.side("old"):
            continue
        same = True
        for where, mine in zip(settings, got, strict=True):
            theirs = taken_apart(each, where.atoms.rollouts)[0].numpy()
            same = (
                same
                and mine is not None
                and np.allclose(
                    mine,
                    theirs,
                    rtol=exact,
                    atol=0.01 * exact * max(1.0, float(np.abs(theirs).max())),
                )
            )
        if same:
            return each.name
    return ""
