"""Standard errors where several completions answer one prompt.

Against the spread over many simulated runs.
"""

import numpy as np
import pytest

from klbench import streams
from klbench.context import Context
from klbench.pairs.sequence import SequencePair
from klbench.studies import get
from klbench.studies.lm.options import LmOptions
from klbench.studies.lm.prompts import MOST, NAMES, Prompts, prompt_rows

PER_PROMPT = np.array([3, 9, 6, 2, 12, 8, 5, 4, 7, 10, 6, 8])
PROMPT = np.repeat(np.arange(PER_PROMPT.size), PER_PROMPT)


def rows(prompts: Prompts | None) -> dict[str, dict]:
    return {row["what"]: row for row in prompt_rows({"a": prompts})}


def test_both_standard_errors_come_true() -> None:
    """Between prompts the sd is 0.5, within them 1; ``exact`` has no noise within."""
    runs, found = 4_000, []
    fixed = streams.generator(0, "fixed prompts").normal(0.0, 0.5, PER_PROMPT.size)
    for run in range(runs):
        stream = streams.generator(run, "runs of prompts")
        noise = stream.normal(size=PROMPT.size)
        same, new = fixed[PROMPT] + noise, stream.normal(0.0, 0.5, PER_PROMPT.size)[PROMPT] + noise
        here = rows(Prompts.of_completions(PROMPT, same, new, None))
        one, other = here["k1"], here["k3"]
        found.append(
            (
                one["mean"],
                one["se_same"] ** 2,
                other["mean"],
                other["se_new"] ** 2,
                other["se"] ** 2,
            )
        )
    means = np.array(found)
    for mean, squared_se, least in ((0, 1, 0.99), (2, 3, 0.75)):
        variance = means[:, mean].var(ddof=1)
        said = means[:, squared_se].mean()
        error = variance * np.sqrt(2 / (runs - 1)) + means[:, squared_se].std() / np.sqrt(runs)
        assert least * variance - 5 * error <= said <= variance + 5 * error
    # The usual one, for completions that are independent, is far too small for the mean over new
    # prompts.
    assert means[:, 4].mean() < 0.6 * means[:, 2].var(ddof=1)


def test_the_share_between_prompts() -> None:
    stream = streams.generator(0, "share")
    prompt = np.repeat(np.arange(400), 30)
    x = stream.normal(0.0, 1.0, 400)[prompt] + stream.normal(0.0, 2.0, prompt.size)
    share = rows(Prompts.of_completions(prompt, x, x, x))["k1"]["between_share"]
    assert abs(share - 0.2) <= 5 * 0.2 * np.sqrt(2 / 400)
    y = stream.normal(size=prompt.size)
    assert rows(Prompts.of_completions(prompt, y, y, None))["k1"]["between_share"] < 0.01
    # What has no noise within prompts is certain for these very prompts.
    assert rows(Prompts.of_completions(prompt, x, x, prompt * 0.5))["exact KL"][
        "se_same"
    ] == pytest.approx(0.0, abs=1e-6)


def test_parts_merge_to_the_whole() -> None:
    stream = streams.generator(0, "merge")
    prompt, k1, k3, exact = stream.integers(0, 9, 100), *(stream.normal(size=100) for _ in range(3))
    whole = Prompts.of_completions(prompt, k1, k3, exact)
    parts = [
        Prompts.of_completions(*(x[at] for x in (prompt, k1, k3, exact)))
        for at in (slice(0, 13), slice(13, 100))
    ]
    merged = parts[0].merge(parts[1])
    for name, array in vars(whole).items():
        np.testing.assert_allclose(getattr(merged, name), array, rtol=1e-12, atol=1e-12)
    assert set(rows(merged)) == set(NAMES)


def test_where_there_is_nothing_to_say() -> None:
    x = np.arange(6.0)
    assert not rows(None)
    assert not rows(Prompts.of_completions(np.zeros(6, int), x, x, x))  # one prompt
    assert not rows(Prompts.of_completions(np.arange(6), x, x, x))  # one completion of each
    assert set(rows(Prompts.of_completions(np.arange(6) % 2, x, x**2, None))) == {"k1", "k3"}
    many = np.arange(MOST + 1)
    full = Prompts.of_completions(many, many * 1.0, many * 1.0, None)
    assert full.full
    assert full.merge(full).prompt.size == 0
    assert not rows(full.merge(full))


def test_the_study_has_the_table() -> None:
    pair = SequencePair(vocabulary=3, horizon=3, prompts=4, kl=0.3)
    options = LmOptions(pairs=(pair,), samples=2_000, shard=500)
    tables = get("lm").run(options, Context(0))
    table = tables["prompts"].set_index("what")
    assert list(table.index) == list(NAMES)
    assert set(table["prompts"]) == {4}
    values = tables["values"]
    k1 = values[(values["estimator"] == "k1") & (values["level"] == "sequence")].iloc[0]
    assert table.loc["k1", "mean"] == pytest.approx(k1["mean"])
    assert table.loc["k1", "se"] == pytest.approx(k1["mean_se"])
    assert table.loc["k1 - exact KL", "se"] == pytest.approx(k1["bias_se"])
