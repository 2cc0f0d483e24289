"""Advice at a length, a KL and a lag: the least error of the stored table, and what to watch."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from klbench import gradients, trainers
from klbench.advise.table import COMMAND, GRADIENTS, KLS, LAGS, LENGTHS, ROUNDING, VALUES, Table
from klbench.gradients import Combination
from klbench.types import ConfigError

SCHEMA_VERSION = 1
SOURCE = f"recursion on random mixing Markov policies ({COMMAND}; klbench/advise/table.npz)"
LOGNORMAL = (
    "closed form of lognormal ratios (klbench/gradients/lognormal.py; +exp=horizon, table marks)"
)
FULL = ("full", "full_with_score")
CAP = 3.0
ERRORS = {
    "kl_token": (KLS[0], KLS[-1]),
    "lag_token": (0.0, LAGS[-1]),
    "tokens": (LENGTHS[0], LENGTHS[-1]),
    "error": (1e-6, 100.0),
}


@dataclass(frozen=True)
class Setting:
    """A question: a length, a batch, and how far reference and sampler are.

    Parameters
    ----------
    tokens, batch
        Tokens of a sequence, and sequences in a batch.
    kl_token, lag_token
        KL to the reference and to the sampler, nats a token.
    logits
        The distributions over the next token are at hand, not only the log-probabilities of the
        sampled ones.
    trainer
        The combination must be one of this trainer's; empty: any.
    error
        The relative error that a batch is asked for.
    """

    tokens: int
    batch: int
    kl_token: float
    lag_token: float
    logits: bool = False
    trainer: str = ""
    error: float = 0.1

    def check(self) -> None:
        """Refuse what the stored table does not reach.

        Raises
        ------
        ConfigError
            A number is out of range.
        """
        for name, (low, high) in ERRORS.items():
            value = getattr(self, name)
            if not low <= value <= high:
                flag = "--" + name.replace("_", "-")
                raise ConfigError(f"advise: {flag} {value:g}: expected {low:g} to {high:g}")
        if self.batch < 1:
            raise ConfigError(f"advise: --batch {self.batch}: expected at least 1")


@dataclass(frozen=True)
class Candidate:
    """A way to do it, with its bias and the noise of one sequence, relative to the truth."""

    name: str
    bias: float
    noise: float

    def error(self, batch: int) -> float:
        """Return the relative root mean square error of a batch."""
        return math.hypot(self.bias, self.noise / math.sqrt(batch))

    def needed(self, error: float) -> float:
        """Return the batch that errs so much; inf where the bias alone is more."""
        left = error**2 - self.bias**2
        return math.ceil(self.noise**2 / left) if left > 0.0 else math.inf


def _candidates(names: Sequence[str], found: np.ndarray, usable: Iterable[bool]) -> list[Candidate]:
    return [
        Candidate(name, *(0.0 if each < ROUNDING else float(each) for each in (bias, noise)))
        for name, (bias, noise), use in zip(names, found, usable, strict=True)
        if use
    ]


def candidates(setting: Setting, table: Table) -> tuple[list[Candidate], list[Candidate]]:
    """Return the values and the gradients that the setting allows.

    Raises
    ------
    ConfigError
        The trainer is unknown, or has no combination that the table knows.
    """
    values, combinations = table.at(setting.kl_token, setting.lag_token, setting.tokens)
    named = [gradients.get(name) for name in GRADIENTS]
    if setting.trainer:
        known = spelled(setting.trainer)
        usable = [each.spec in known for each in named]
        if not any(usable):
            raise ConfigError(
                f"advise: --trainer {setting.trainer}: none of its KL options is in the table; "
                "leave it out for the best of all"
            )
    else:
        usable = [setting.logits or each.placement not in FULL for each in named]
    exact = [setting.logits or not name.startswith("full_kl") for name in VALUES]
    return _candidates(VALUES, values, exact), _candidates(GRADIENTS, combinations, usable)


def spelled(trainer: str) -> dict[str, str]:
    """Return the options of a trainer by the combination that they are, clamps and averages aside.

    Raises
    ------
    ConfigError
        There is no such trainer.
    """
    title = trainers.get(trainer).title
    found: dict[str, str] = {}
    for each in trainers.spellings():
        if each.trainer == title and each.meaning.combination not in ("", trainers.NONE):
            spec = gradients.get(each.meaning.combination).spec
            found.setdefault(plain(spec), each.options or "its defaults, but for the weight")
    return found


def plain(spec: str) -> str:
    """Return a combination without what does not count here.

    Clamps that are out of reach, and means over one length.
    """
    spec = re.sub("_(verl|openrlhf)(?=[@/])", "", spec).replace("token:mean", "token")
    _, _, ratio = spec.partition("@k2/straight_through/token/")
    if not ratio:
        return spec
    corrected = ratio.startswith("truncated_ratio")
    return gradients.get("k3_ratio_loss" if corrected else "k2_loss").spec


def advise(setting: Setting, table: Table | None = None) -> dict[str, Any]:
    """Return the advice as data that JSON can hold, as ``schema.json`` describes it.

    Raises
    ------
    ConfigError
        The setting is out of the table's reach, or its trainer is unknown.
    """
    setting.check()
    values, combinations = candidates(setting, Table.stored() if table is None else table)
    value, gradient = (
        min(each, key=lambda one: one.error(setting.batch)) for each in (values, combinations)
    )
    combination = gradients.get(gradient.name)
    best = min(combinations, key=lambda one: one.needed(setting.error))
    needed = best.needed(setting.error)
    options = spelled(setting.trainer).get(combination.spec, "") if setting.trainer else ""
    return {
        "schema_version": SCHEMA_VERSION,
        "setting": {
            "tokens": setting.tokens,
            "batch": setting.batch,
            "kl_token": setting.kl_token,
            "lag_token": setting.lag_token,
            "logits": setting.logits,
            "trainer": setting.trainer,
        },
        "value": _numbers("estimator", value, setting.batch),
        "gradient": _numbers("combination", gradient, setting.batch) | {"options": options},
        "correction": combination.correction,
        "batch": None if math.isinf(needed) else int(needed),
        "batch_for": {"error": setting.error, "combination": best.name, "source": SOURCE},
        "watch": list(watched(setting, combination, gradient)),
    }


def _numbers(what: str, found: Candidate, batch: int) -> dict[str, Any]:
    return {
        what: found.name,
        "rel_rmse": found.error(batch),
        "rel_bias": found.bias,
        "rel_std": found.noise,
        "source": SOURCE,
    }


def watched(
    setting: Setting, combination: Combination, gradient: Candidate
) -> Iterator[dict[str, Any]]:
    """Yield what to watch in a run: its name, the number to expect, and why."""
    noise = gradient.noise / math.sqrt(setting.batch)
    if gradient.bias > noise:
        yield {
            "what": "bias",
            "expect": gradient.bias,
            "why": "bias is more than the noise of a batch: a larger batch does not help",
            "source": SOURCE,
        }
    if not setting.lag_token:
        return
    nats = setting.tokens * setting.lag_token
    yield {
        "what": "effective sample size of sequence weights",
        "expect": math.exp(-2.0 * nats),
        "why": "exp(-2 T KL(q‖μ)): below 10 % a weight for the whole sequence is not worth having",
        "source": LOGNORMAL,
    }
    yield {
        "what": f"share of the weight that a sequence mask at {CAP:g} keeps",
        "expect": kept(nats, CAP),
        "why": "the rest of the gradient is thrown away, and with it no random part",
        "source": LOGNORMAL,
    }
    if combination.correction == "none":
        yield {
            "what": "KL(q‖μ) a token",
            "expect": setting.lag_token,
            "why": "nothing here corrects for an older sampler: the bias grows with the lag",
            "source": SOURCE,
        }


def kept(nats: float, cap: float) -> float:
    """Return the share of lognormal weights below a cap, ``Φ((log cap - nats) / sqrt(2 nats))``."""
    return 0.5 * math.erfc((nats - math.log(cap)) / math.sqrt(2.0 * nats) / math.sqrt(2.0))
