"""One screen: each line a number with its interval, and what it means."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Plain = Mapping[str, Any]
"""The diagnosis as plain data, as ``schema.json`` describes it."""
LEFT_OUT = "*"
"""Stands in place of an interval that these data do not give."""
WHY = "no interval: too few rollouts, or too heavy a tail"


def number(value: Any, digits: int = 3) -> str:
    """Return a number for reading; one that is not known is a dash."""
    return (
        "–" if value is None else value if isinstance(value, str) else f"{value + 0.0:.{digits}g}"
    )


def percent(share: Any, digits: int = 3) -> str:
    """Return a share in percent; what is above 0 and as good as none in words."""
    if share is not None and 0.0 < share < 1e-4:
        return "fewer than 0.01 %"
    return f"{number(None if share is None else 100 * share, digits)} %"


def interval(found: Plain, name: str, digits: int = 3) -> str:
    """Return a number and its 95 % interval, or a star where none can be given."""
    low, high = found[f"{name}_low"], found[f"{name}_high"]
    shown = number(found[name], digits)
    if low is None:
        return f"{shown} {LEFT_OUT}"
    return f"{shown} ({number(low, digits)} to {number(high, digits)})"


def lines(d: Plain) -> list[str]:
    """Return the screen."""
    statistics = [text for part in (_head, _sampler, _reference, _preferences) for text in part(d)]
    why = [f"  {LEFT_OUT} {WHY}"] if any(f" {LEFT_OUT}" in text for text in statistics) else []
    return [*statistics, *why, *_steps(d), *_verdict(d)]


def _line(name: str, text: str) -> str:
    return f"  {name:<28} {text}"


def _head(d: Plain) -> Iterator[str]:
    files = d["files"]
    name = files[0] if len(files) == 1 else f"{len(files)} files, {files[0]} first"
    empty = f", {d['empty']:,} empty ones left out" if d["empty"] else ""
    rollouts = "1 rollout" if d["rollouts"] == 1 else f"{d['rollouts']:,} rollouts"
    yield f"{name}: {rollouts}{empty}, {d['tokens']:,} tokens"
    yield "  " + ", ".join(f"{role} = {column}" for role, column in d["columns"].items())


def _sampler(d: Plain) -> Iterator[str]:
    s, lag = d["sampler"], d["lag"]
    if s is not None:
        yield "Sampler against trainer (mu samples, q is the trainer)"
        yield _line("KL(mu‖q) a token, k1", f"{interval(s, 'kl_token')} nats")
        yield _line("KL(mu‖q) a token, k3", f"{interval(s, 'k3_token')} nats")
        yield _line("KL(mu‖q) a sequence, k1", f"{interval(s, 'kl_sequence')} nats")
        yield _line(
            "mean ratio q / mu",
            f"{interval(s, 'mean_ratio', 4)}; that it is 1: {s['mean_ratio_holds']}",
        )
        yield _line("effective size of tokens", f"{interval(s, 'ess_token')} of their number")
        yield _line(
            "effective size of rollouts",
            f"{interval(s, 'ess_sequence')}; {number(s['ess_theory'])} in theory at this KL and "
            "length",
        )
        yield _line(
            "chi-squared, k-hat", f"{interval(s, 'chi2_token')} a token; {number(s['khat'], 2)}"
        )
        at = s["largest"]
        place = f", at {at['file']} row {at['row']:,}, token {at['token']:,}"
        yield _line(
            "largest |difference|",
            f"{number(s['max_abs_difference'])}{place if at['row'] else ': none differs'}",
        )
        for each in d["corrections"]:
            yield _line(
                f"{each['name']} ({each['by']})",
                f"touches {percent(each['share'])} of {each['per']}s, leaves "
                f"{percent(each['weight'], 4)} of the weight",
            )
    if lag is not None:
        yield _line("KL(old‖now) a token, k1", f"{interval(lag, 'kl_token')} nats since sampling")
        yield _line("effective size of rollouts", f"{interval(lag, 'ess_sequence')} since sampling")


def _reference(d: Plain) -> Iterator[str]:
    r = d["reference"]
    if r is None:
        return
    yield "Policy against reference (q is the policy, p the reference)"
    yield _line("KL(q‖p) a token, k1", f"{interval(r, 'kl_token')} nats")
    yield _line("KL(q‖p) a token, k3", f"{interval(r, 'k3_token')} nats")
    yield _line("KL(q‖p) a sequence, k1", f"{interval(r, 'kl_sequence')} nats")
    yield _line(
        "mean r over its samples",
        f"{interval(r, 'mean_ratio', 4)}; that it is 1: {r['mean_ratio_holds']}",
    )
    fit = f"{r['estimator']} fits" if r["estimator"] else "none is recommended: checks fail"
    below = r["negative_batches"]
    often = "" if below is None else f"; k1 is negative in {percent(below, 2)} of such batches"
    yield _line("estimator", fit + often)


def _preferences(d: Plain) -> Iterator[str]:
    p = d["preferences"]
    if p is None:
        return
    yield "Preferences (sums of chosen and rejected completions)"
    yield _line("implicit margin", f"{interval(p, 'margin')} nats")
    yield _line("accuracy", interval(p, "accuracy"))
    yield _line(f"DPO loss at beta {number(p['beta'])}", interval(p, "loss"))
    for name in ("chosen", "rejected"):
        yield _line(f"log q/p of the {name}", f"{interval(p, f'{name}_log_ratio')} nats")


def _steps(d: Plain) -> Iterator[str]:
    if not d["steps"]:
        return
    yield f"Over {len(d['steps']):,} steps"
    for name, step in d["left"].items():
        yield f"  {name} leaves its band first at step {step:,}"
    if not d["left"]:
        yield "  no line leaves its band"


def _verdict(d: Plain) -> Iterator[str]:
    failed = [each for each in d["checks"] if each["ok"] is False]
    said = {each["message"] for each in failed}
    other = [f"  {each}" for each in d["findings"] if each not in said]
    other += [f"  {'!' if each['alarm'] else '-'} {each['message']}" for each in failed]
    other += [f"  ? {each['message']}" for each in d["checks"] if each["ok"] is None]
    if other:
        yield "Findings (! with consequences, ? cannot be told)"
        yield from other
    yield "Cause"
    yield from (f"  {each['score']:.2f} {each['name']}: {each['evidence']}" for each in d["cause"])
    yield "What to do"
    yield from (f"  {each}" for each in d["advice"])
    verdict = "no alarm" if not d["alarm"] else f"ALARM: {d['alarms'][0]}"
    yield f"{len(d['checks'])} checks; {verdict}"
