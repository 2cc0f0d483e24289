"""klbench beside the libraries that trainers use.

What each function's value and gradient are worth, and what they cost.
"""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch

from klbench import estimators
from klbench.context import Context
from klbench.machine import __version__
from klbench.rows import Row, Rows
from klbench.schema import Tables
from klbench.studies.peers.cases import REGIMES, SUBJECTS, Peer, Subject, Two, inputs
from klbench.studies.peers.columns import HERE
from klbench.studies.peers.options import PeersOptions
from klbench.studies.peers.verdicts import verdicts
from klbench.study import Summary
from klbench.threads import one_thread
from klbench.trainers.installed import MissingError
from klbench.types import RunError

WRONG = 0.01
"""A relative error of this or more: the value, or the gradient, is another one."""


def _shape(options: PeersOptions, subject: Subject) -> tuple[int, ...]:
    """Return the shape of a subject's inputs."""
    return (
        (options.tokens,) if subject.inputs == "log-probs" else (options.rows, options.vocabulary)
    )


def _version(library: str) -> str:
    if library == HERE:
        return __version__
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _both(function: Two, policy: Any, reference: Any) -> tuple[np.ndarray, np.ndarray | None]:
    """Value and gradient of the sum in the first input, as float64; None where it gives none."""
    leaf = policy.clone().requires_grad_()
    value = function(leaf, reference)
    gradient = (
        torch.autograd.grad(value.sum(), leaf)[0].double().numpy() if value.requires_grad else None
    )
    return value.detach().double().numpy(), gradient


def _relative(
    got: np.ndarray, exact: np.ndarray, largest: float, scale: np.ndarray | None = None
) -> np.ndarray:
    """Relative errors where the exact number is one of the dtype's.

    What is not finite is off without bound.
    """
    fits = np.isfinite(exact) & (np.abs(exact) < largest) & (exact != 0.0)
    with np.errstate(all="ignore"):
        error = np.abs(got - exact) / (np.abs(exact) if scale is None else scale)
    return np.where(np.isfinite(got), error, np.inf)[fits]


def _accuracy(subject: Subject, function: Two, policy: Any, reference: Any) -> Row:
    """Errors of value and gradient on one pair of inputs, against float64 on these very inputs."""
    value, gradient = _both(function, policy, reference)
    exact, slope = _both(subject.exact, policy.double(), reference.double())
    assert slope is not None
    largest = torch.finfo(torch.float32 if subject.inputs == "logits" else policy.dtype).max
    errors = _relative(value, exact, largest)
    found = {
        "values": int(value.size),
        "max_rel_error": float(errors.max()),
        "median_rel_error": float(np.median(errors)),
        "frac_wrong": float((errors >= WRONG).mean()),
        "n_nonfinite": int(np.isinf(errors).sum()),
    }
    if gradient is None:
        return found | {"max_gradient_rel_error": np.nan, "frac_flat": np.nan, "n_nan_gradient": -1}
    # Of logits most elements are tiny: the error is that of the whole row's gradient, in units of
    # its largest element.
    rows = np.abs(slope).max(-1, keepdims=True) if slope.ndim > 1 else None
    scale = None if rows is None else np.broadcast_to(rows, slope.shape)
    flat = (gradient == 0.0) & (np.abs(slope) > (1e-6 if rows is None else 1e-3 * rows))
    return found | {
        "max_gradient_rel_error": float(_relative(gradient, slope, largest, scale).max()),
        "frac_flat": float(flat.mean()),
        "n_nan_gradient": int(np.isnan(gradient).sum()),
    }


def _twin(peer: Peer, function: Two, options: PeersOptions, seed: int) -> float:
    """Return the largest difference of a peer from its twin in klbench, over ``1 + |value|``.

    Float64, all regimes.
    """
    worst = 0.0
    for regime in REGIMES["log-probs"]:
        log_q, log_p = (
            torch.tensor(x)
            for x in inputs("log-probs", regime, (min(options.tokens, 4_096),), seed)
        )
        theirs, ours = (
            function(log_q, log_p).double(),
            estimators.get(peer.twin).terms(log_p - log_q),
        )
        both = theirs.isfinite() & (ours.abs() < torch.finfo(torch.float32).max)
        worst = max(worst, float(((theirs - ours).abs() / (1 + ours.abs()))[both].max()))
    return worst


def _calls(function: Two, policy: Any, reference: Any) -> dict[str, Callable[[], Any]]:
    leaf = policy.clone().requires_grad_()
    calls: dict[str, Callable[[], Any]] = {"forward": lambda: function(policy, reference)}
    if function(leaf, reference).requires_grad:
        calls["forward and backward"] = lambda: torch.autograd.grad(
            function(leaf, reference).sum(), leaf
        )
    return calls


def _timed(calls: Mapping[str, Callable[[], Any]], options: PeersOptions) -> dict[str, np.ndarray]:
    """Seconds of a call, a number a round: all take turns, so that a busy moment is everybody's."""
    blocks = {}
    for name, call in calls.items():
        call()
        start = time.perf_counter()
        call()
        blocks[name] = max(1, round(options.seconds / max(time.perf_counter() - start, 1e-7)))
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(options.repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            for _ in range(blocks[name]):
                call()
            seconds[name].append((time.perf_counter() - start) / blocks[name])
    return {name: np.array(each) for name, each in seconds.items()}


def _speed(
    subject: Subject, functions: Mapping[Peer, Two], dtype: str, options: PeersOptions, seed: int
) -> Rows:
    policy, reference = (
        torch.tensor(x).to(getattr(torch, dtype))
        for x in inputs(subject.inputs, "usual", _shape(options, subject), seed)
    )
    every = {peer: _calls(function, policy, reference) for peer, function in functions.items()}
    rows = []
    for direction in ("forward", "forward and backward"):
        able = {peer: calls[direction] for peer, calls in every.items() if direction in calls}
        seconds = _timed({str(k): call for k, call in enumerate(able.values())}, options)
        ours = next(seconds[str(k)] for k, peer in enumerate(able) if peer.library == HERE)
        for k, peer in enumerate(able):
            low, median, high = np.quantile(seconds[str(k)], (0.25, 0.5, 0.75))
            ratio_low, ratio, ratio_high = np.quantile(seconds[str(k)] / ours, (0.25, 0.5, 0.75))
            rows.append(
                {
                    "subject": subject.name,
                    "library": peer.library,
                    "name": peer.name,
                    "version": _version(peer.library),
                    "dtype": dtype,
                    "pass": direction,
                    "seconds": median,
                    "seconds_q25": low,
                    "seconds_q75": high,
                    "ratio": ratio,
                    "ratio_q25": ratio_low,
                    "ratio_q75": ratio_high,
                    "repeats": options.repeats,
                }
            )
    return rows


def _available(subject: Subject) -> tuple[dict[Peer, Two], dict[Peer, str]]:
    """Return the peers of a subject that are available here, and the reasons why the others are
    not.
    """
    functions, reasons = {}, {}
    for peer in subject.peers:
        try:
            functions[peer] = peer.make()
        except MissingError as error:
            reasons[peer] = str(error)
    return functions, reasons


def run(options: PeersOptions, context: Context) -> Tables:
    """Tables ``peers``, a row a subject, library, dtype and regime, and ``peers_speed``, of
    timings.
    """
    rows: Rows = []
    speed: Rows = []
    with one_thread():  # as many as every library uses: what is compared is the arithmetic
        for done, subject in enumerate(SUBJECTS):
            context.progress(done, len(SUBJECTS), subject.name)
            functions, reasons = _available(subject)
            for peer, reason in reasons.items():
                rows.append(_key(subject, peer) | {"status": f"skipped: {reason}"})
            for peer, function in functions.items():
                twin = (
                    {
                        "twin": peer.twin,
                        "twin_difference": _twin(peer, function, options, context.seed),
                    }
                    if peer.twin
                    else {}
                )
                for dtype in options.dtypes:
                    for regime in REGIMES[subject.inputs]:
                        pair = inputs(
                            subject.inputs, regime, _shape(options, subject), context.seed
                        )
                        tensors = (torch.tensor(x).to(getattr(torch, dtype)) for x in pair)
                        key = _key(subject, peer) | {"dtype": dtype, "regime": regime}
                        rows.append(key | _measured(subject, function, *tensors) | twin)
            for dtype in options.dtypes:
                speed += _speed(subject, functions, dtype, options, context.seed)
    peers = pd.DataFrame(rows)
    return {
        "peers": peers,
        "peers_speed": pd.DataFrame(speed),
        "peers_verdicts": verdicts(peers),
    }


def _key(subject: Subject, peer: Peer) -> Row:
    return {
        "subject": subject.name,
        "library": peer.library,
        "name": peer.name,
        "version": _version(peer.library),
    }


def _measured(subject: Subject, function: Two, policy: Any, reference: Any) -> Row:
    try:
        return _accuracy(subject, function, policy, reference) | {"status": "ok"}
    except (RuntimeError, RunError) as error:  # a dtype that the library does not take, say
        return {"status": f"failed: {' '.join(str(error).split())[:200]}"}


def summarize(results: Tables) -> list[Summary]:
    """Return the errors of each library's values and gradients, in float32."""
    table = results["peers"]
    measured = table[
        (table["status"] == "ok") & (table["dtype"] == table["dtype"].dropna().iloc[0])
    ]
    lines = []
    for (subject, library, name), rows in measured.groupby(
        ["subject", "library", "name"], sort=False
    ):
        errors = rows.set_index("regime")["max_rel_error"]
        shown = [f"{errors[each]:.1e}" for each in ("near", "usual", "far")]
        wrong, lost = rows["frac_wrong"].iloc[-1], max(0, int(rows["n_nan_gradient"].sum()))
        lines.append((subject, f"{library} {name}", *shown, f"{wrong:.0%}", str(lost)))
    skipped = table[table["status"].str.startswith("skipped")]
    notes = [
        f"{row['library']} {row['name']}: {row['status']}" for row in skipped.to_dict("records")
    ]
    columns = (
        "subject",
        "whose",
        ">near",
        ">usual",
        ">far",
        ">wrong at the extreme",
        ">NaN gradients",
    )
    return [
        Summary("Worst relative error of values against float64, float32", columns, lines, notes)
    ]
