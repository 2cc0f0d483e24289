import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from klbench.metrics.batches import _mean_and_variance
from klbench.metrics.moments import Moments

EPS = np.finfo(float).eps


def raw(
    m: int, d: int, seed: int = 0, center: float = 0.0, spread: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    stream = np.random.default_rng(seed)
    mixing = stream.normal(size=(d, d))
    return center + spread * stream.normal(size=(m, d)) @ mixing, stream.integers(1, 9, m).astype(
        float
    )


def test_moments_are_those_of_numpy() -> None:
    vectors, weights = raw(50, 3)
    moments = Moments.of(vectors, weights)
    assert moments.count == 50
    assert moments.weight == weights.sum()
    np.testing.assert_allclose(
        moments.mean, np.average(vectors, axis=0, weights=weights), rtol=1e-12
    )
    expected = np.cov(vectors.T, aweights=weights, ddof=0) * weights.sum()
    np.testing.assert_allclose(moments.scatter, expected, rtol=1e-12)


def test_equal_weights_give_the_usual_covariance_of_a_mean() -> None:
    vectors, _ = raw(40, 2)
    moments = Moments.of(vectors, np.full(40, 7.0))
    np.testing.assert_allclose(moments.covariance_of_mean, np.cov(vectors.T) / 40, rtol=1e-12)
    assert np.isnan(Moments.of(vectors[:1], np.array([7.0])).covariance_of_mean).all()


def test_the_covariance_of_the_mean_is_right_for_panels_of_unequal_size() -> None:
    """Panels of n samples have variance 1/n.

    Over many repetitions the estimate averages to 1 / (all samples).
    """
    stream = np.random.default_rng(3)
    sizes = np.array([4.0, 100.0, 30.0, 30.0, 16.0])
    repeated = stream.normal(size=(4_000, 5, 1)) / np.sqrt(sizes)[:, None]
    estimates = [Moments.of(vectors, sizes).covariance_of_mean[0, 0] for vectors in repeated]
    assert abs(np.mean(estimates) - 1 / sizes.sum()) <= 5 * np.std(estimates) / np.sqrt(
        len(estimates)
    )


@given(
    cuts=st.lists(st.integers(1, 29), min_size=1, max_size=5, unique=True).map(sorted),
    seed=st.integers(0, 99),
)
def test_however_the_data_is_cut_the_merged_moments_are_those_of_the_whole(cuts, seed) -> None:
    vectors, weights = raw(30, 2, seed)
    whole = Moments.of(vectors, weights)
    parts = [
        Moments.of(v, w)
        for v, w in zip(np.split(vectors, cuts), np.split(weights, cuts), strict=True)
    ]
    left = parts[0]
    for part in parts[1:]:
        left = left.merge(part)
    right = parts[-1]
    for part in reversed(parts[:-1]):
        right = part.merge(right)
    for merged in (left, right):
        assert (merged.count, merged.weight) == (whole.count, whole.weight)
        np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(merged.scatter, whole.scatter, rtol=1e-11, atol=1e-12)


def test_merging_changes_neither_side() -> None:
    a, b = (Moments.of(*raw(10, 2, seed)) for seed in (0, 1))
    before = [x.copy() for x in (a.mean, a.scatter, b.mean, b.scatter)]
    a.merge(b)
    for x, y in zip((a.mean, a.scatter, b.mean, b.scatter), before, strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("parts", [1, 8])
def test_a_small_spread_about_a_large_mean_is_kept(parts) -> None:
    """A mean of 1e6 with a spread of 1e-3: sums of squares would be left with nothing."""
    stream = np.random.default_rng(4)
    noise = 1e-3 * stream.normal(size=(4_000, 1))
    vectors = 1e6 + noise
    noise = vectors - 1e6  # what is left of it in double
    pieces = [Moments.of(v, np.ones(len(v))) for v in np.array_split(vectors, parts)]
    moments = pieces[0]
    for piece in pieces[1:]:
        moments = moments.merge(piece)
    np.testing.assert_allclose(moments.scatter[0, 0] / 3_999, noise.var(ddof=1), rtol=1e-6)
    assert moments.mean[0] == pytest.approx(1e6 + noise.mean(), rel=2 * EPS)
    naive = np.sum(vectors**2) - vectors.sum() ** 2 / 4_000
    assert naive / 3_999 != pytest.approx(noise.var(ddof=1), rel=0.5)


def test_an_infinite_entry_spoils_only_its_own_row_and_column() -> None:
    vectors, weights = raw(20, 3)
    clean = Moments.of(vectors, weights)
    vectors[0, 1], vectors[5, 1] = np.inf, np.nan
    spoiled = Moments.of(vectors, weights)
    for moments, reference in ((spoiled, clean), (spoiled.merge(clean), clean.merge(clean))):
        assert np.isnan(moments.mean[1])
        others = np.ix_([0, 2], [0, 2])
        np.testing.assert_allclose(moments.mean[[0, 2]], reference.mean[[0, 2]], rtol=1e-14)
        np.testing.assert_allclose(moments.scatter[others], reference.scatter[others], rtol=1e-13)
        assert not np.isfinite(moments.scatter[1]).any()


@pytest.mark.parametrize(
    ("entries", "mean"),
    [
        ((np.inf, np.inf), np.inf),
        ((np.inf, 1.0), np.inf),
        ((1.0, -np.inf), -np.inf),
        ((-np.inf, -np.inf), -np.inf),
        ((np.inf, -np.inf), np.nan),
        ((np.nan, np.inf), np.nan),
        ((1e308, 1e308), 1e308),
        ((1e308, -1e308), 0.0),
    ],
)
def test_infinities_of_one_sign_have_a_mean(entries, mean) -> None:
    """However they are shared out.

    In one piece, in two that are merged, and as terms of one panel.
    """
    vectors, weights = np.array(entries)[:, None], np.ones(2)
    merged = Moments.of(vectors[:1], weights[:1]).merge(Moments.of(vectors[1:], weights[1:]))
    for moments in (Moments.of(vectors, weights), merged):
        np.testing.assert_allclose(moments.mean, [mean], rtol=1e-15)
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(_mean_and_variance(np.array(entries))[0], mean, rtol=1e-15)
