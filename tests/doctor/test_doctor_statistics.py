"""The doctor's numbers, against the same by hand, and the coverage of its intervals."""

import math
import pickle
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_rollouts import batch

from klbench import streams
from klbench.doctor import reading
from klbench.doctor.measures import measures
from klbench.doctor.reading import Gathered, gather
from klbench.doctor.series import BUCKETS
from klbench.rollouts.batches import read

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from doctor_coverage import KINDS, cover

STREAM = streams.generator(0, "tests", "doctor")


def ratios(rollouts=60, spread=0.3):
    lengths = STREAM.integers(1, 12, size=rollouts)
    q = -STREAM.exponential(2.0, int(lengths.sum())) - 5.0
    return lengths, q, q + spread * STREAM.normal(size=q.size)


def gathered(lengths, q, mu, parts=1, prompt=None):
    result = Gathered()
    for rows in np.array_split(np.arange(len(lengths)), parts):
        begin, end = int(lengths[: rows[0]].sum()), int(lengths[: rows[-1] + 1].sum())
        columns = {"policy": q[begin:end], "sampler": mu[begin:end]}
        result.add(batch(lengths[rows], columns, None if prompt is None else prompt[rows]))
    return result


def test_statistics_are_those_by_hand():
    lengths, q, mu = ratios()
    m = measures(gathered(lengths, q, mu))["sampler"]
    x, row = q - mu, np.repeat(np.arange(lengths.size), lengths)
    r, w = np.exp(x), np.exp(np.bincount(row, x))
    expected = {
        "kl_token": -x.mean(),
        "kl_sequence": -x.sum() / lengths.size,
        "gap_token": (r - 1.0 - x).mean(),
        "excess": r.mean() - 1.0,
        "ess_token": r.sum() ** 2 / (r.size * (r * r).sum()),
        "ess_sequence": w.sum() ** 2 / (w.size * (w * w).sum()),
        "chi2_token": (r * r).mean() - 1.0,
        "chi2_sequence": (w * w).mean() - 1.0,
    }
    for name, value in expected.items():
        assert m[name].value == pytest.approx(value, rel=1e-9), name


def test_the_error_of_a_mean_over_tokens_is_that_of_a_ratio_of_sums_over_rollouts():
    lengths, q, mu = ratios(400, 0.1)
    m = measures(gathered(lengths, q, mu))["sampler"]
    x, row = mu - q, np.repeat(np.arange(lengths.size), lengths)
    left = np.bincount(row, x) - x.mean() * lengths  # Cochran 1977, "Sampling techniques", 6.4
    by_hand = math.sqrt(np.sum(left**2) * lengths.size / (lengths.size - 1)) / lengths.sum()
    assert m["kl_token"].se == pytest.approx(by_hand, rel=0.02)


def test_rollouts_of_a_prompt_count_as_one_where_they_are_alike():
    prompt = np.repeat(np.arange(40), 10)
    own = STREAM.normal(size=40)[prompt]
    lengths = np.full(400, 4)
    q = np.full(1_600, -9.0)
    mu = q + np.repeat(own, 4)
    alone = measures(gathered(lengths, q, mu))["sampler"]["kl_token"]
    together = measures(gathered(lengths, q, mu, prompt=prompt + 7))["sampler"]["kl_token"]
    assert alone.value == pytest.approx(together.value)
    assert together.se == pytest.approx(own[::10].std(ddof=1) / math.sqrt(40), rel=0.02)
    assert together.se > 2.5 * alone.se


def test_batches_and_files_add_up():
    lengths, q, mu = ratios(90)
    whole, parts = gathered(lengths, q, mu), gathered(lengths, q, mu, parts=7)
    one, other = measures(whole)["sampler"], measures(parts)["sampler"]
    for name in one.numbers:
        assert one[name].value == pytest.approx(other[name].value, rel=1e-9, nan_ok=True), name
        assert one[name].se == pytest.approx(other[name].se, rel=1e-6, nan_ok=True), name
    half = int(lengths[:45].sum())
    first = gathered(lengths[:45], q[:half], mu[:half])
    first.merge(gathered(lengths[45:], q[half:], mu[half:]))
    assert measures(first)["sampler"]["kl_token"].value == pytest.approx(one["kl_token"].value)


def test_memory_does_not_grow_with_the_file():
    result = Gathered()
    lengths = np.full(2_000, 50)
    for _ in range(4):
        q = -STREAM.exponential(2.0, 100_000) - 1.0
        result.add(batch(lengths, {"policy": q, "sampler": q + 1e-3 * STREAM.normal(size=q.size)}))
    assert result.tokens == 400_000
    assert result.kept.mask.size <= 2**17
    assert not result.kept.whole
    assert result.series["sampler"].rollouts.shape[0] == BUCKETS
    kept = result.kept
    assert kept.lengths.size == kept.number.size
    assert (kept.number % kept.stride == 0).all()
    assert int(kept.lengths.sum()) == kept.mask.size == kept.columns["policy"].size


def test_infinities_and_far_values_are_counted_and_leave_the_rest():
    q = np.full(200, -5.0)
    mu = np.full(200, -5.0)
    q[3], mu[7], q[11], q[12] = -np.inf, -np.inf, np.nan, -900.0
    m = measures(gathered(np.full(40, 5), q, mu))["sampler"]
    assert (m.series.zero_above, m.series.zero_below, m.series.without, m.series.cut) == (
        1,
        1,
        1,
        1,
    )
    assert m.tokens == 197
    assert math.isfinite(m["kl_token"].value)


def test_intervals_cover():
    """Over 200 files; ``benchmarks/doctor_coverage.md`` has 4,000."""
    found = cover(KINDS[:4], 200)
    every = [each for by in found.values() for values in by.values() for each in values]
    given = [each for each in every if each is not None]
    assert len(given) > 1_200
    # Statistics of one file go together, so that the error is that of files, not of intervals.
    assert abs(np.mean(given) - 0.95) < 5.0 * math.sqrt(0.95 * 0.05 / 200)


def test_the_number_of_processes_changes_nothing(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(reading, "WORTH_SHARING", 0)
    stream = np.random.default_rng(5)
    paths = []
    for step in range(3):
        policy = [-stream.gamma(1.0, 1.0, 6) for _ in range(20)]
        sampler = [each + stream.normal(0.0, 0.1, 6) for each in policy]
        paths.append(tmp_path / f"step_{step}.parquet")
        pd.DataFrame({"logprobs": policy, "rollout_logprobs": sampler}).to_parquet(paths[-1])
    one, two = (gather(read(paths), workers) for workers in (1, 2))
    assert pickle.dumps(one.series["sampler"].rollouts) == pickle.dumps(
        two.series["sampler"].rollouts
    )
    assert (one.rollouts, one.tokens, sorted(one.steps)) == (two.rollouts, two.tokens, [0, 1, 2])
    filled = (one.series["sampler"].rollouts[:, 0] > 0).sum()
    assert filled == 60  # each rollout stands by itself, also those of one place in different files
