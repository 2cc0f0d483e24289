"""Small run folders with the tables of the value study, made from closed forms so that no
sampling is needed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

BATCHES = (1, 16, 256)
SAMPLES = 100_000
KL_QP = "KL(q‖p)"
LABEL = "N(0, 1) ‖ <script>alert(1)</script> $\\frac$ 你"

# Per-sample bias and standard deviation, relative to KL, of equal-variance Gaussians t = 2 KL
# apart.
FORMS: dict[str, Callable[[float], tuple[float, float]]] = {
    "k1": lambda t: (0.0, math.sqrt(t)),
    "k2": lambda t: (t * t / 8, math.sqrt(t * t / 2 + t**3 / 4)),
    "k3": lambda t: (0.0, math.sqrt(math.expm1(t) - t)),
    "bregman_kl_qp": lambda t: (0.0, math.sqrt(math.expm1(t) - t)),
}


def value_row(
    pair: str,
    series: str,
    name: str,
    batch: int,
    kl: float,
    bias: float,
    std: float,
    status: str = "ok",
) -> dict[str, Any]:
    std /= math.sqrt(batch)
    se = std * math.sqrt(batch / SAMPLES)
    rmse = math.hypot(bias, std)
    measured = bias + 0.5 * se
    return {
        "pair": pair,
        "series": series,
        "estimator": name,
        "target": KL_QP,
        "batch": batch,
        "samples": SAMPLES,
        "truth": kl,
        "truth_error": 0.0,
        "truth_method": "closed-form",
        "mean": kl + measured,
        "mean_se": se,
        "bias": measured,
        "bias_se": se,
        "variance": std**2,
        "variance_se": 0.01 * std**2,
        "std": std,
        "std_se": 0.005 * std,
        "rmse": rmse,
        "rmse_se": 0.005 * rmse,
        "rel_bias": measured / kl,
        "rel_bias_se": se / kl,
        "rel_std": std / kl,
        "exact_bias": bias,
        "exact_std": std,
        "bias_z": 0.5,
        "std_z": 0.0,
        "batches": SAMPLES // batch,
        "frac_negative": 0.4 if name == "k1" else 0.0,
        "frac_negative_se": 0.001,
        "coverage": math.nan if batch == 1 else 0.94,
        "coverage_se": math.nan if batch == 1 else 0.002,
        "n_nonfinite": 0,
        "khat": 0.1,
        "khat_se": 0.03,
        "khat_samples": 1000,
        "status": status,
    }


def skipped_row(
    pair: str, series: str, name: str, batch: int, kl: float, reason: str
) -> dict[str, Any]:
    row = value_row(pair, series, name, batch, kl, 0.0, 1.0)
    kept = (
        "pair",
        "series",
        "estimator",
        "target",
        "batch",
        "samples",
        "truth",
        "truth_error",
        "truth_method",
    )
    return {key: row[key] for key in kept} | {"status": f"skipped: {reason}"}


def differences(values: pd.DataFrame) -> pd.DataFrame:
    rows = []
    measured = values[~values["status"].str.startswith("skipped")]
    for (pair, batch), group in measured.groupby(["pair", "batch"], sort=False):
        found = group.to_dict("records")
        for i, first in enumerate(found):
            for second in found[i + 1 :]:
                same = {first["estimator"], second["estimator"]} == {"k3", "bregman_kl_qp"}
                rows.append(
                    {
                        "pair": pair,
                        "target": KL_QP,
                        "batch": batch,
                        "first": first["estimator"],
                        "second": second["estimator"],
                        "mean_difference": 0.0,
                        "mean_difference_se": 0.0 if same else first["bias_se"],
                        "rmse_difference": first["rmse"] - second["rmse"],
                        "rmse_difference_se": 0.0 if same else 1e-4 * first["rmse"],
                    }
                )
    return pd.DataFrame(rows)


def described(names: Sequence[str]) -> pd.DataFrame:
    tex = {"k1": r"-\log r", "k2": r"\tfrac12 (\log r)^2", "k1_weighted": r"-w \log r"}
    return pd.DataFrame(
        {
            "estimator": name,
            "target": KL_QP,
            "tex": tex.get(name, r"(r - 1) - \log r"),
            "summary": f"about {name}",
            "unbiased_claim": name != "k2",
            "nonnegative_claim": "k1" not in name,
            "gradient_claim": "",
            "needs_weight": "weighted" in name,
            "aliases": "",
            "source": "",
        }
        for name in names
    )


def tables(
    kls: Sequence[float] = (0.02, 0.5, 2.0), forms: Any = None, label: str = ""
) -> dict[str, pd.DataFrame]:
    """A series of shifts and one pair with a third sampler, off which the unweighted k1 is
    biased.
    """
    forms = forms or FORMS
    rows = []
    for i, kl in enumerate(kls):
        pair = label if label and i == 0 else f"N(0, 1) ‖ N({math.sqrt(2 * kl):.3g}, 1)"
        for name, form in forms.items():
            status = "heavy tail" if kl > 1 and name in ("k3", "bregman_kl_qp") else "ok"
            rows += [
                value_row(pair, "shift", name, batch, kl, *form(2 * kl), status)
                for batch in BATCHES
            ]
        rows += [
            skipped_row(
                pair,
                "shift",
                "k1_weighted",
                b,
                kl,
                "needs samples of a third distribution (pair.mu)",
            )
            for b in BATCHES
        ]
    for batch in BATCHES:
        rows.append(value_row("from mu", "third sampler", "k1", batch, 0.125, 0.05, 0.5))
        rows.append(value_row("from mu", "third sampler", "k1_weighted", batch, 0.125, 0.0, 0.4))
    values = pd.DataFrame(rows)
    first = values.drop_duplicates("pair")
    pairs = pd.DataFrame(
        {
            "pair": row["pair"],
            "series": row["series"],
            "kind": "gaussian",
            "off_policy": row["pair"] == "from mu",
            "unreached": 0.0,
            "kl_qp": row["truth"],
            "kl_pq": row["truth"],
            "chi2": 1.0,
            "tail_index": 0.0,
            "khat": 0.1,
            "khat_se": 0.03,
            "khat_samples": 1000,
            "parameters": json.dumps(
                {"mu": {"mean": 0.3}} if row["pair"] == "from mu" else {"q": {"mean": 0.0}}
            ),
        }
        for row in first.to_dict("records")
    )
    quantiles = {
        "q0.5": -0.3,
        "q2.5": -0.2,
        "q5": -0.15,
        "q25": -0.05,
        "q50": 0.0,
        "q75": 0.05,
        "q95": 0.15,
        "q97.5": 0.2,
        "q99.5": 0.3,
    }
    measured = values[~values["status"].str.startswith("skipped") & (values["batch"] == 16)]
    errors = measured[["pair", "estimator", "batch", "batches"]].assign(**quantiles)
    names = [*forms, "k1_weighted"]
    return {
        "values": values,
        "differences": differences(values),
        "errors": errors,
        "pairs": pairs,
        "estimators": described(names),
    }


def write(
    folder: Path,
    content: dict[str, pd.DataFrame],
    config: str = "seed: 0\nsamples: 100000\n",
    **info: Any,
) -> Path:
    (folder / "tables").mkdir(parents=True)
    for name, table in content.items():
        table.to_parquet(folder / "tables" / f"{name}.parquet", index=False)
        table.to_csv(folder / "tables" / f"{name}.csv", index=False)
    known = {
        "status": "done",
        "experiment": "gaussian",
        "study": "value",
        "command": "python -m klbench +exp=gaussian",
        "seed": 0,
        "workers": 2,
        "started": "2025-01-01T00:00:00+00:00",
        "finished": "2025-01-01T00:01:00+00:00",
        "seconds": {"study": 60.0},
        "versions": {"klbench": "0.1.0"},
        "machine": {"cores": 2},
        "git": {"revision": "abc", "dirty": False},
    }
    (folder / "run.json").write_text(json.dumps(known | info), encoding="utf-8")
    (folder / "config.yaml").write_text(config, encoding="utf-8")
    return folder
