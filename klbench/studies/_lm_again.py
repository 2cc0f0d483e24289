"""What scoring the same completions again changes: in another format, or with most of the vocabulary in one bucket."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from klbench import estimators
from klbench.studies._lm_measure import LEVELS, Shard, first, skip_reason
from klbench.types import Completions, Estimator, Skip

if TYPE_CHECKING:
    import pandas as pd

    from klbench.studies._lm_values import Measured

Dtype = Literal["bfloat16", "float16", "float32", "float64"]
SELF = ("k1", "k2", "k3")


def _mean_se(x: np.ndarray) -> tuple[float, float]:
    return float(x.mean()), float(x.std(ddof=1) / np.sqrt(x.size)) if x.size > 1 else float("nan")


def _changes(estimator: Estimator, here: Shard, there: Shard) -> list[dict[str, Any]]:
    rows = []
    for level in LEVELS:
        before, after = (
            each.summed(estimator.terms(each.draws(level))) if level == "token" else estimator.terms(each.draws(level))
            for each in (here, there)
        )
        change, change_se = _mean_se(after - before)
        rows.append(
            {
                "what": "policy against reference", "estimator": estimator.name, "level": level, "mean": float(before.mean()),
                "mean_there": float(after.mean()), "change": change, "change_se": change_se,
            }
        )  # fmt: skip
    return rows


def _false(here: Shard, there: Shard) -> list[dict[str, Any]]:
    """The divergence that the policy seems to have from itself: scored there in place of the reference."""
    log_ratio = there.log_q - here.log_q
    rows = []
    for name in SELF:
        terms = estimators.get(name)
        for level, values in (("token", here.summed(terms(log_ratio))), ("sequence", terms(here.summed(log_ratio)))):
            mean, se = _mean_se(values)
            rows.append(
                {
                    "what": "policy against itself", "estimator": name, "level": level, "mean": 0.0, "mean_there": mean,
                    "change": mean, "change_se": se,
                }
            )  # fmt: skip
    return rows


Again = Sequence[tuple["Measured", Completions]]


def drawn_again(results: Sequence[Measured], n: int, seed: int) -> Again:
    """``n`` completions of each pair that can score them again."""
    able = [m for m in results if n and (hasattr(m.pair, "rescored") or hasattr(m.pair, "truncated"))]
    found = [(m, m.pair.completions(seed, 0, n)) for m in able]
    return [(m, first(each, n)) for m, each in found if not isinstance(each, Skip)]


def dtype_table(again: Again, dtypes: Sequence[str]) -> pd.DataFrame | None:
    """Completions scored in each format; None where no pair can.

    ``change`` is the mean of each estimator, per completion, in the format minus that in the pair's own; ``sd_log_ratio`` the
    standard deviation, over tokens, of what the log-ratio changes by. Of ``policy against itself``, whose true divergence is 0,
    the policy in the format takes the place of the reference.
    """
    import pandas as pd

    rows = []
    for m, completions in again:
        rescored: Callable[[Completions, str], Completions | Skip] | None = getattr(m.pair, "rescored", None)
        if rescored is None:
            continue
        here = Shard(completions)
        usable = [each for each in m.chosen if skip_reason(each, off_policy=here.log_mu is not None) is None]
        for dtype in dtypes:
            scored = rescored(completions, dtype)
            if isinstance(scored, Skip):
                continue
            there = Shard(scored)
            moved = there.log_ratio - here.log_ratio
            shared = {
                "pair": m.pair.title, "dtype": dtype, "completions": here.n, "tokens": here.row.size,
                "sd_log_ratio": float(moved.std()), "largest": float(np.abs(moved).max(initial=0.0)),
                "sd_log_q": float((there.log_q - here.log_q).std()),
            }  # fmt: skip
            found = [row for each in usable for row in _changes(each, here, there)] + _false(here, there)
            rows += [shared | row for row in found]
    return pd.DataFrame(rows) if rows else None


def truncation_table(again: Again, ks: Sequence[int]) -> pd.DataFrame | None:
    """What of the Rao-Blackwell sum is left, per completion, when only the k most probable tokens are told apart.

    None where no pair can say. ``missing`` is the paired difference to the exact sum, ``share`` that over the exact sum.
    """
    import pandas as pd

    rows = []
    for m, completions in again:
        truncated: Callable[[Completions, int], Any] | None = getattr(m.pair, "truncated", None)
        if truncated is None or completions.kl_qp is None:
            continue
        here = Shard(completions)
        exact = here.summed(completions.kl_qp[here.mask])
        for k in ks:
            left = here.summed(truncated(completions, k).kl_qp[here.mask])
            mean, mean_se = _mean_se(left)
            missing, missing_se = _mean_se(exact - left)
            rows.append(
                {
                    "pair": m.pair.title, "k": k, "completions": here.n, "exact": float(exact.mean()), "mean": mean,
                    "mean_se": mean_se, "missing": missing, "missing_se": missing_se, "share": missing / float(exact.mean()),
                }
            )  # fmt: skip
    return pd.DataFrame(rows) if rows else None
