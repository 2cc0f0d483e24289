"""What the study of completions says of completions that are scored again."""

import numpy as np
import pytest

from klbench.context import Context
from klbench.pairs.sequence import SequencePair
from klbench.studies import get
from klbench.studies.lm.options import LmOptions
from klbench.types import Capabilities, Completions, Truncated


class Rescoring(SequencePair):
    """A sequence pair that can score again as a language model does.

    With a known error, and with a bucket.
    """

    capabilities = Capabilities(completions=True, rescored=True, truncated=True, in_process=True)

    def rescored(self, completions, dtype):
        off = np.where(completions.mask, 0.01 * (-1.0) ** np.arange(completions.mask.shape[1]), 0.0)
        return Completions(
            **{
                **vars(completions),
                "log_p": completions.log_p + off,
                "log_q": completions.log_q - off,
            }
        )

    def truncated(self, completions, ks):
        kl = completions.kl_qp
        return [Truncated(k, kl * (1.0 - 1.0 / (1 + k)), kl / (1 + k)) for k in ks]

    def decode(self, ids):
        return [f" {each}\n" for each in ids]


def tables(**options):
    pair = Rescoring(vocabulary=3, horizon=3, prompts=2, kl=0.3)
    return get("lm").run(LmOptions(pairs=(pair,), **options), Context(0))


def test_no_more_are_made_or_scored_again_than_are_measured(monkeypatch) -> None:
    made, scored = [], []
    completions, rescored = SequencePair.completions, Rescoring.rescored
    monkeypatch.setattr(
        Rescoring, "completions", lambda self, *of: made.append(of[2]) or completions(self, *of)
    )
    monkeypatch.setattr(
        Rescoring,
        "rescored",
        lambda self, of, *a: scored.append(len(of.log_q)) or rescored(self, of, *a),
    )
    found = tables(samples=64, shard=256, rescored=128, truncations=(1,))
    assert set(found["values"]["samples"]) == {64}
    assert set(found["dtype"]["completions"]) == set(found["truncation"]["completions"]) == {64}
    assert made == [64, 64]
    assert scored == [64]


@pytest.mark.parametrize(
    ("samples", "asked", "expected"),
    [(64, None, 8), (4096, None, 256), (12, None, 2), (2, None, 2), (64, 500, 64), (64, 0, 0)],
)
def test_few_are_scored_again_unless_asked(samples, asked, expected) -> None:
    pair = Rescoring(vocabulary=3, horizon=3)
    assert LmOptions(pairs=(pair,), samples=samples, rescored=asked).again(pair) == expected


def test_scoring_again() -> None:
    found = tables(samples=500, shard=500, rescored=200, truncations=(1, 3))
    dtype = found["dtype"].set_index(["what", "estimator", "level"])
    assert set(dtype["completions"]) == {200}
    itself = dtype.loc["policy against itself"]
    assert itself.loc[("k2", "token"), "change"] == pytest.approx(
        0.5e-4 * dtype["tokens"].iloc[0] / 200
    )
    k1 = dtype.loc[("policy against reference", "k1", "token")]
    assert k1["change"] == pytest.approx(k1["mean_there"] - k1["mean"])
    assert k1["largest"] == pytest.approx(0.02)
    table = found["truncation"].set_index("k")
    assert table.loc[1, "share"] == pytest.approx(0.5)
    assert table.loc[3, "missing"] == pytest.approx(0.25 * table.loc[3, "exact"])
    assert found["top_tokens"]["text"].str.endswith("\n").all()
    assert "dtype" not in tables(samples=300, rescored=0)
