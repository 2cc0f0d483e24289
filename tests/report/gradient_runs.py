"""Small tables of the gradient studies, and what a page says of them without its marks."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Sequence
from typing import Any

import pandas as pd
from markupsafe import escape

from klbench.columns import COMBINATIONS
from klbench.report.blocks import Block, Bullets, Paragraph, Table
from klbench.studies.gradient.columns import ARROWS, GRADIENTS
from klbench.studies.lambda_.columns import LAMBDA, compared
from klbench.studies.same_kl.columns import SHAPES
from klbench.studies.staleness.columns import STALENESS

NEAR, FAR, ONE = "sequences near", "sequences far", "one token"
KL = {NEAR: 0.05, FAR: 2.0, ONE: 0.5}
QP, PQ, DIFFERENCE = "KL(q‖p)", "KL(p‖q)", "KL(q‖p) - KL(p‖q)"
# name: placement, (bias, sd, sd with the reward) near and far, what its mean is the gradient of,
# and of one token
FORMS: dict[str, tuple[str, Sequence[tuple[float, float, float]], str, str]] = {
    "k1_loss": ("loss", ((1.0, 15.0, 16.0), (1.0, 2.3, 6.4)), "0", "0"),
    "k2_loss": ("loss", ((0.054, 3.8, 4.8), (0.335, 2.7, 5.3)), "none", QP),
    "k2_twin": ("loss", ((0.054, 3.8, 4.8), (0.335, 2.7, 5.3)), "none", QP),
    "k3_sequence_loss": ("loss", ((0.14, 6.4, 7.0), (0.73, 134.0, 130.0)), PQ, PQ),
    "k1_reward": ("reward", ((0.0, 6.4, 0.0), (0.0, 7.1, 0.0)), QP, QP),
    "k2_reward": ("reward", ((0.94, 2.2, 5.7), (0.50, 9.8, 4.7)), "none", "none"),
    "k3_sequence_reward": (
        "reward",
        ((0.99, 3.2, 3.0), (0.60, 134.0, 130.0)),
        DIFFERENCE,
        DIFFERENCE,
    ),
    "full_with_score": ("full_with_score", ((0.0, 2.0, 6.0), (0.0, 2.6, 5.3)), QP, QP),
}
USED_BY = {
    "k1_loss": "verl <b>kl</b> & others; OpenRLHF k1 (clamped to +-10; always); later with k1",
    "k2_loss": "verl mse",
    "k1_reward": "REINFORCE, as in verl's papers; verl in_reward",
}
CASES = (("tilt", 0.1, 0.5, "k3"), ("tilt", 1.0, 7.0, "k1"), ("hole", 0.1, 70.0, "k1"))


def row(pair: str, name: str, **others: Any) -> pd.DataFrame:
    """One row of ``gradients``."""
    placement, numbers, sequences, one = FORMS[name]
    bias, std, total = numbers[0 if pair == NEAR else 1]
    matches = one if pair == ONE else sequences
    known = {
        "pair": pair,
        "series": "one" if pair == ONE else "GRU",
        "combination": name,
        "placement": placement,
        "level": "sequence" if "sequence" in name else "token",
        "correction": "none",
        "baseline": "none",
        "staleness": 0.0,
        "kl_qp": KL[pair],
        "rel_bias": 0.0 if matches == QP else bias,
        "rel_std": std,
        "total_rel_std": total,
        "cosine": -0.2 if (name, pair) == ("k2_reward", ONE) else 0.9,
        "matches": matches,
        "method": "enumeration",
        "claim": "biased"
        if matches == "none"
        else "0"
        if matches == "0"
        else "grad " + matches.replace(" - ", " - grad "),
        "status": "ok",
    }
    return GRADIENTS.example(**known | others)


def content(
    pairs: Sequence[str] = (NEAR, FAR, ONE), names: Sequence[str] = tuple(FORMS)
) -> dict[str, pd.DataFrame]:
    known = pd.concat(
        COMBINATIONS.example(
            combination=name,
            placement=FORMS[name][0],
            baseline="none",
            correction="none",
            used_by=USED_BY.get(name, ""),
            called_unbiased_by="a trainer" if name in ("k2_loss", "k2_twin", "k1_reward") else "",
        )
        for name in names
    )
    rows = [row(pair, name) for pair in pairs for name in names]
    return {"gradients": pd.concat(rows, ignore_index=True), "combinations": known}


def arrows(pair: str) -> pd.DataFrame:
    ends = {
        "k1_loss": (0.0, 1e-17),
        "k2_loss": (-1.4, 0.8),
        "k1_reward": (-1.4, 0.8),
        "k3_loss": (-0.8, -0.2),
        "k2_reward": (math.nan, 1.0),
        "exact KL(q‖p)": (-1.4, 0.8),
        "exact KL(p‖q)": (-0.8, -0.2),
        "exact 0": (0.0, 0.0),
    }
    return pd.concat(
        ARROWS.example(pair=pair, combination=k, first=x, second=y) for k, (x, y) in ends.items()
    )


def stale(lags: Sequence[float] = (0.0, 0.1), pair: str = FAR) -> dict[str, pd.DataFrame]:
    rows = []
    for lag in lags:
        about = {
            "staleness": lag,
            "pair": pair,
            "series": "GRU",
            "kl_qp": KL[pair],
            "method": "enumeration",
            "status": "ok",
        }
        about |= {
            "ess": 1 - 4 * lag,
            "ess_token": 1 - 2 * lag,
            "correction": "none",
            "baseline": "none",
            "placement": "reward",
        }
        changes: dict[str, dict[str, Any]] = {
            "full_with_score": {
                "rel_bias": 0.0,
                "rel_std": 2.0 + 10 * lag,
                "matches": QP,
                "placement": "full_with_score",
            },
            "k1_reward": {"rel_bias": 2 * lag, "rel_std": 7.0, "matches": "none" if lag else QP},
            "k2_loss": {"rel_bias": 0.3, "rel_std": 1.0, "matches": "none"},
        }
        rows += [
            STALENESS.example(combination=name, **about | own) for name, own in changes.items()
        ]
    return {
        "staleness": pd.concat(rows, ignore_index=True),
        "combinations": content()["combinations"],
    }


def lambda_table(*gaps: float, **others: Any) -> dict[str, pd.DataFrame]:
    rows = [
        LAMBDA.example(
            **{
                "pair": f"pair {i}",
                "series": "<i>sequences</i>",
                "kl_qp": 0.01 * 10**i,
                "lambda_value": 1.0 - gap,
                "lambda_gradient": 1.0 + gap,
                "gradient_rel_std_value_best": 6.0 + 3 * gap,
                "gradient_rel_std_gradient_best": 6.0,
                "noise_lost": gap / 2,
            }
            | others
        )
        for i, gap in enumerate(gaps)
    ]
    return {"lambda": compared(pd.concat(rows, ignore_index=True))}


def shape_table(*rows: tuple[str, float, float, str]) -> dict[str, pd.DataFrame]:
    """Of shape, KL, chi-squared over 2J and who wins."""
    found = [
        SHAPES.example(
            pair=f"{shape}, KL={kl:g}",
            shape=shape,
            kl_qp=kl,
            kl_pq=kl,
            chi2=ratio * 4 * kl,
            two_j=4 * kl,
            x_over_2j=ratio,
            value_std_k1=1.0,
            value_std_k3=0.5 if winner == "k3" else 8.0,
            value_winner=winner,
            predicted="k3" if ratio < 1 else "k1",
            gradient_rel_bias_k1_reward=0.0,
            gradient_rel_bias_k1_reward_leave_one_out=0.0,
            gradient_rel_bias_k2_loss=1e-16,
            gradient_rel_bias_k3_loss=0.2 * ratio,
        )
        for shape, kl, ratio, winner in rows
    ]
    return {"shapes": pd.concat(found, ignore_index=True)}


def plain(blocks: Sequence[Block]) -> str:
    """Paragraphs and cards without their marks."""
    texts: list[str] = []
    for block in blocks:
        texts += [str(escape(block.text))] if isinstance(block, Paragraph) else []
        texts += [str(escape(item)) for item in block.items] if isinstance(block, Bullets) else []
    words = re.sub(r"<br>|</p>", " | ", " ".join(texts)).replace("<wbr>", "")
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", "", words)))


def table(blocks: Sequence[Block], start: str) -> Table:
    return next(
        block for block in blocks if isinstance(block, Table) and block.caption.startswith(start)
    )


def cells(found: Table, name: str) -> list[str]:
    """The texts of a row, by the name in its first cell."""
    texts = ([re.sub(r"<[^>]+>", "", str(cell.text)) for cell in line] for line in found.rows)
    return next(line for line in texts if line[0] == name)
