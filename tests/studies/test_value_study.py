"""The value study's tables.

What is skipped or flagged, what stays small, and what is not lost to rounding.
"""

import functools
import math
import tracemalloc
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from klbench import estimators
from klbench.context import Context
from klbench.metrics.batches import PanelMeter, Plan
from klbench.metrics.moments import Moments
from klbench.pairs.exponential import Exponential, ExponentialPair
from klbench.pairs.gaussian import GaussianPair, Normal
from klbench.studies.value import run as value_run
from klbench.studies.value import section as value_section
from klbench.studies.value import summary as value_summary
from klbench.studies.value import tables
from klbench.studies.value.options import ValueOptions
from klbench.studies.value.run import PANEL, SHARD, panel_sizes
from klbench.types import Claims, Draws, Estimator, Notice

SHIFT = GaussianPair(q=Normal(mean=0.0), p=Normal(mean=0.3))
OTHER = GaussianPair(q=Normal(mean=0.0), p=Normal(mean=0.3), mu=Normal(mean=0.1))


def run(
    samples: int,
    *chosen: str,
    pairs: tuple[object, ...] = (SHIFT,),
    batches: tuple[int, ...] = (1, 64),
) -> pd.DataFrame:
    options = ValueOptions(pairs=pairs, estimators=chosen, samples=samples, batches=batches)
    return value_run.run(options, Context(0))["values"]


def test_what_is_skipped_is_a_row_with_the_reason() -> None:
    table = run(4096, "k1", "k1_weighted", "k_fitted", pairs=(SHIFT, OTHER), batches=(1, 2, 64))
    assert len(table) == 2 * 3 * 3
    reasons = table.set_index(["pair", "estimator", "batch"])["status"]
    for batch in (1, 2, 64):
        assert (
            reasons[SHIFT.title, "k1_weighted", batch]
            == "skipped: needs samples of a third distribution (pair.mu)"
        )
        assert reasons[OTHER.title, "k1_weighted", batch] == "ok"
    assert reasons[SHIFT.title, "k_fitted", 1] == "skipped: needs batches of at least 2"
    assert reasons[SHIFT.title, "k_fitted", 2] == "ok"
    skipped = table[table["status"].str.startswith("skipped")]
    assert skipped[["mean", "bias", "std", "rmse", "coverage", "khat"]].isna().all(axis=None)
    assert (skipped["truth"] == SHIFT.truth("kl_qp").value).all()
    assert (
        table[~table.index.isin(skipped.index)][["mean", "bias_se", "std_se", "rmse_se"]]
        .notna()
        .all(axis=None)
    )


def test_too_few_samples_for_a_batch_are_a_reason() -> None:
    table = run(64, "k_fitted", batches=(2, 64)).set_index("batch")
    assert table.loc[2, "status"] == "ok"
    assert (
        table.loc[64, "status"] == "skipped: needs more samples: 64 are too few for batches of 64"
    )


@pytest.mark.parametrize(
    ("rate", "status"),
    [(1.5, "ok"), (0.7, "ok"), (0.5, "infinite variance"), (0.4, "infinite variance")],
)
def test_infinite_variance_is_flagged_from_the_exact_order_of_the_moments(
    rate: float, status: str
) -> None:
    """``E[r^2]`` of exponentials is finite where ``rate_p > rate_q / 2``.

    Khat alone could not tell near the edge.
    """
    pair = ExponentialPair(q=Exponential(rate=1.0), p=Exponential(rate=rate))
    table = run(50_000, "k1", "k2", "k3", pairs=(pair,), batches=(1,)).set_index("estimator")
    assert table.loc["k3", "status"] == status
    assert table.loc["k1", "status"] == table.loc["k2", "status"] == "ok"
    assert (table.loc["k3", "exact_std"] == math.inf) == (status != "ok")


def test_an_infinite_mean_is_flagged_as_such() -> None:
    pair = GaussianPair(q=Normal(std=1.0), p=Normal(std=2.0))
    table = run(20_000, "k1", "k3", "bregman_chi2", pairs=(pair,), batches=(1,)).set_index(
        "estimator"
    )
    assert table["status"].to_dict() == {
        "k1": "ok",
        "k3": "infinite variance",
        "bregman_chi2": "infinite mean",
    }
    assert table.loc["bregman_chi2", "truth"] == math.inf


@pytest.fixture(scope="module")
def overflown() -> pd.DataFrame:
    """``log r`` up to 60,000, where samples of mu lie that q all but never makes."""
    pair = GaussianPair(
        q=Normal(mean=0.0, std=0.01), p=Normal(mean=0.0, std=1.0), mu=Normal(mean=0.0, std=1.0)
    )
    return run(5000, "k1", "k3", "k3_clamped", pairs=(pair,), batches=(1, 16)).set_index(
        ["estimator", "batch"]
    )


def test_terms_that_overflow_spoil_no_other_estimator(overflown) -> None:
    for name in ("k1", "k3_clamped"):
        assert (overflown.loc[name, "n_nonfinite"] == 0).all()
        assert (overflown.loc[name, "status"] == "ok").all()
        assert np.isfinite(overflown.loc[name, ["mean", "std", "rmse_se"]].astype(float)).all(
            axis=None
        )


def test_terms_that_overflow_are_counted(overflown) -> None:
    assert (overflown.loc["k3", "n_nonfinite"] > 0).all()
    assert not overflown.loc["k3", "status"].isin(["ok"]).any()
    assert not overflown.loc["k3", "status"].str.startswith("skipped").any()


def test_a_pair_far_apart_is_measured_all_the_same() -> None:
    table = run(
        2000, "k1", pairs=(GaussianPair(q=Normal(mean=0.0), p=Normal(mean=30.0)),), batches=(1,)
    )
    assert table["truth"].tolist() == [450.0]
    assert table["status"].tolist() == ["ok"]


@pytest.mark.parametrize(
    "samples", [2, 15, 16, 31, 32, 100, 1009, 32 * PANEL, 32 * PANEL + 1, 17 * SHARD + 12345]
)
@pytest.mark.parametrize("largest", [1, 64, 4096, 2**20])
def test_panels_hold_every_sample_once(samples: int, largest: int) -> None:
    panel, per_shard, shards = panel_sizes(samples, largest)
    sizes = [value_run._panels(samples, largest, shard) for shard in range(shards)]
    assert sum(map(sum, sizes)) == samples
    assert all(size == panel for sizes_of_shard in sizes for size in sizes_of_shard[:-1])
    assert all(len(each) <= per_shard for each in sizes)
    assert sum(map(len, sizes)) == max(1, samples // panel)
    if samples >= 32 * 16:
        assert sum(map(len, sizes)) >= 32 or panel > PANEL


def test_memory_does_not_grow_with_the_samples() -> None:
    peaks = []
    for samples in (2**22, 2**24):  # diagnostics keep something of the first 4 million
        tracemalloc.start()
        run(samples, "k1", "k3", batches=(1,))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.05 * peaks[0]
    assert peaks[1] < 8 * 2**24 / 10  # not even a tenth of one array of them all


def shifted(name: str, batch: object = None) -> Estimator:
    return Estimator(
        name,
        lambda draws: draws.log_ratio,
        "kl_qp",
        "x",
        "the log-ratio itself",
        Claims(False, False),
        batch=batch,
    )


@pytest.mark.parametrize("mean", [0.0, 1.0, 1e6, -1e6])
def test_a_small_spread_about_a_large_mean_is_kept(mean: float) -> None:
    """``E[x^2] - E[x]^2`` would have nothing left of it.

    1e12 + 1e-6 has 16 digits before the spread begins.
    """
    plan = Plan((shifted("far"),), (mean,), (1, 16))
    meter = PanelMeter(plan, keep=4096)
    stream = np.random.default_rng(0)
    x = mean + 1e-3 * stream.standard_normal((40, 2048))
    for panel in x:
        meter.add(Draws(panel), diagnose=True)
    moments = Moments.of(*meter.vectors())
    exact = np.longdouble(0) + x
    panels = np.array([np.var(each, ddof=1) for each in exact], dtype=float)
    np.testing.assert_allclose(meter.vectors()[0][:, 1], panels, rtol=1e-9)
    assert moments.mean[1] == pytest.approx(float(panels.mean()), rel=1e-9)
    assert moments.mean[0] == pytest.approx(
        float(exact.mean()), abs=4 * np.spacing(abs(mean)) + 1e-18
    )
    # The spread of the panels' means, which standard errors come from, is kept as well.
    means = np.array([np.mean(each) for each in exact])
    spread = float(np.var(means, ddof=1)) / 40
    assert moments.covariance_of_mean[0, 0] == pytest.approx(spread, rel=1e-4 if mean else 1e-9)
    # And so are the errors of batches, and whether their intervals cover.
    errors = np.concatenate([each.reshape(16, 128).mean(axis=0) for each in x])[:4096] - mean
    np.testing.assert_allclose(np.sort(meter.counts.errors[0][1]), np.sort(errors), atol=1e-9)
    assert meter.counts.covered[0, 1] / meter.counts.tested[0, 1] == pytest.approx(
        0.95, abs=5 * 0.0031
    )


def test_shards_send_the_errors_that_those_before_have_no_room_for(monkeypatch) -> None:
    plan = Plan((estimators.get("k1"),), (SHIFT.truth("kl_qp").value,), (1, 16, 1024))

    def shards() -> list[Any]:
        arguments = SHIFT, plan, 0, "errors", 2**16, 2**16
        return [value_run.measure_shard(*arguments, shard) for shard in range(4)]

    some = shards()
    monkeypatch.setattr(value_run, "PanelMeter", lambda plan, keep: PanelMeter(plan, 4096))
    all_of_them = shards()
    for j, sent in enumerate(([4096, 0, 0, 0], [256] * 4, [4] * 4)):
        assert [each.counts.errors[0][j].size for each in some] == sent
        merged, whole = (
            functools.reduce(value_run.Found.merge, found).counts.errors[0][j]
            for found in (some, all_of_them)
        )
        np.testing.assert_array_equal(merged, whole)


def test_batch_means_are_of_disjoint_batches_that_use_every_sample() -> None:
    plan = Plan((shifted("x"),), (0.0,), (1, 3, 4, 12, 64))
    meter = PanelMeter(plan, keep=10_000)
    x = np.random.default_rng(1).standard_normal(768)
    meter.add(Draws(x), diagnose=True)
    assert meter.counts.batches[0].tolist() == [768, 256, 192, 64, 12]
    for j, batch in enumerate(plan.batches):
        kept = meter.counts.errors[0][j]
        assert kept.size == 768 // batch
        assert kept.mean() == pytest.approx(x.mean(), abs=1e-15)
        assert np.unique(kept).size == kept.size


def test_no_diagnostic_samples_leave_the_moments_as_they_are() -> None:
    some, none = (
        value_run.run(
            ValueOptions(
                pairs=(SHIFT,),
                estimators=("k1",),
                samples=20_000,
                batches=(1, 16),
                diagnostic_samples=n,
            ),
            Context(0),
        )["values"]
        for n in (2**22, 0)
    )
    for column in ("mean", "std", "rmse", "bias_se", "std_se", "rmse_se"):
        pd.testing.assert_series_equal(some[column], none[column], check_exact=True)
    assert (some["batches"] > 0).all()
    assert none["coverage"].isna().all()
    assert (none["batches"] == 0).all()


def test_every_estimator_has_its_rows_and_a_description() -> None:
    options = ValueOptions(
        pairs=(OTHER,), estimators=tuple(estimators.names()), samples=8192, batches=(64,)
    )
    tables = value_run.run(options, Context(0))
    assert (
        list(tables["values"]["estimator"])
        == estimators.names()
        == list(tables["estimators"]["estimator"])
    )
    assert not tables["values"]["status"].str.startswith("skipped").any()
    assert len(tables["pairs"]) == 1


def test_differences_are_between_estimators_of_one_target() -> None:
    options = ValueOptions(
        pairs=(SHIFT,),
        estimators=("k1", "k3", "bregman_kl_pq", "bregman_js"),
        samples=2048,
        batches=(1,),
    )
    table = value_run.run(options, Context(0))["differences"]
    assert table[["first", "second"]].to_numpy().tolist() == [["k1", "k3"]]


def test_error_quantiles_are_those_of_the_batches() -> None:
    """k1 of a shift is normal: its quantiles are known."""
    options = ValueOptions(pairs=(SHIFT,), estimators=("k1",), samples=2**20, batches=(1, 16))
    table = value_run.run(options, Context(0))["errors"]
    for row in table.to_dict("records"):
        scale = 0.3 / math.sqrt(row["batch"])
        for q in (0.05, 0.25, 0.5, 0.75, 0.95):
            z = stats.norm.ppf(q)
            se = math.sqrt(q * (1 - q) / row["batches"]) / stats.norm.pdf(z)
            assert row[f"q{100 * q:g}"] == pytest.approx(scale * z, abs=5 * scale * se)


def test_two_estimators_that_are_one_have_a_difference_without_error() -> None:
    """The quadratic form is 0 but for rounding, which may leave it below."""
    covariance = np.array([[1.0, 1.0 + 2e-16], [1.0 + 2e-16, 1.0]])
    contrast = np.array([1.0, -1.0])
    assert contrast @ covariance @ contrast < 0.0

    def standard_error(among: np.ndarray) -> float:
        """That of the contrast, beside a column that it leaves out and that has no variance."""
        whole = np.pad(among, (0, 1), constant_values=np.nan)
        found = tables._standard_errors(np.array([[*contrast, 0.0]]), np.array([[0, 1, 2]]), whole)
        return float(found[0])

    assert standard_error(covariance) == 0.0
    assert np.isnan(standard_error(np.array([[1.0, 2.0], [2.0, 1.0]])))  # that is no rounding


def test_intervals_from_few_samples_are_said_to_be_too_narrow() -> None:
    for samples, few in ((20, True), (200, False)):
        tables = value_run.run(
            ValueOptions(pairs=(SHIFT,), estimators=("k1",), batches=(1,), samples=samples),
            Context(0),
        )
        (summary,) = value_summary.summarize(tables)
        assert any("too narrow" in note for note in summary.notes) == few
        page = value_section.build(tables)
        assert (
            any(
                getattr(block, "text", None) is not None and "too narrow" in str(block.text)
                for block in page
            )
            == few
        )


def test_few_sure_digits_of_the_truth_are_told_in_a_line() -> None:
    """Covariances of condition 1e14 leave a digit at most; the truth's own error says so too."""
    axes = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    cov = (axes * [1e-8, 1.0, 1e6]) @ axes.T
    side = {"cov": tuple(map(tuple, (cov + cov.T) / 2))}
    pair = GaussianPair(
        q=Normal(mean=(0.0, 0.0, 0.0), **side), p=Normal(mean=(1.0, 0.0, 0.0), **side)
    )
    with pytest.warns(Notice, match=r"exact KL\(q‖p\) may be off by [1-9]e-0[0-2] of its value"):
        table = run(1_000, "k1", pairs=(pair,))
    assert (table["truth_error"] > 0.01 * table["truth"]).all()
