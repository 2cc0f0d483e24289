"""What is taken from a shard of completions, and how shards merge."""

import math

import numpy as np

from klbench import estimators
from klbench.pairs.sequence import SequencePair
from klbench.studies.lm.found import Found, Kept, Sums, Vocabulary
from klbench.studies.lm.measure import Shard, found_in
from klbench.studies.lm.values import tail_shape
from klbench.types import Completions


def completions(log_q, log_p, mask, **others) -> Completions:
    return Completions(
        np.array(log_q, float), np.array(log_p, float), np.array(mask, bool), **others
    )


def test_padding_never_counts_and_a_mask_may_have_holes() -> None:
    nonsense = [[-1.0, 99.0, -2.0], [math.nan, -0.5, math.nan]]
    ref = [[-1.5, math.nan, -1.0], [99.0, -0.2, 7.0]]
    holes = completions(
        nonsense, ref, [[1, 0, 1], [0, 1, 0]], token=np.array([[4, 9, 5], [9, 4, 9]])
    )
    plain = completions(
        [[-1.0, -2.0], [-0.5, 0.0]],
        [[-1.5, -1.0], [-0.2, 0.0]],
        [[1, 1], [1, 0]],
        token=np.array([[4, 5], [4, 0]]),
    )
    chosen = [estimators.get(name) for name in ("k1", "k3")]
    one, other = (found_in(each, chosen, 0.0, keep=True).flat() for each in (holes, plain))
    for name, array in one.items():
        if not name.startswith("clock"):
            np.testing.assert_array_equal(array, other[name], err_msg=name)
    shard = Shard(holes)
    assert shard.lengths.tolist() == [2, 1]
    assert shard.position.tolist() == [0, 1, 0]
    np.testing.assert_allclose(shard.summed(-shard.log_ratio), [0.5 - 1.0, -0.3])


def test_prefix_weights_stop_before_the_token() -> None:
    found = Shard(
        completions(
            [[-1.0, -2.0], [-1.0, 0.0]],
            [[-1.0, -1.0]] * 2,
            [[1, 1], [1, 0]],
            log_mu=np.array([[-2.0, -1.0]] * 2),
        )
    )
    np.testing.assert_allclose(found.prefix_weight(), [1.0, math.e, 1.0])


def test_sums_merge_to_what_they_are_of_all() -> None:
    stream = np.random.default_rng(0)
    x = stream.exponential(size=(101, 3)) + np.array([0.0, 1e3, -5.0])
    whole, merged = Sums.of_vectors(x), Sums.of_vectors(x[:1])
    for part in (x[1:40], x[40:41], x[41:]):
        merged = merged.merge(Sums.of_vectors(part))
    for name in ("count", "mean", "scatter", "cubes", "fourths"):
        np.testing.assert_allclose(
            getattr(merged, name), getattr(whole, name), rtol=1e-9, atol=1e-9
        )
    centred = x - x.mean(0)
    np.testing.assert_allclose(whole.fourths, (centred**4).sum(0))
    np.testing.assert_allclose(whole.cubes, (centred**3).sum(0))
    np.testing.assert_allclose(np.diag(whole.covariance), x.var(0, ddof=1))


def test_shards_of_any_length_merge_to_the_whole() -> None:
    chosen = [estimators.get(name) for name in ("k1", "k3")]
    whole = SequencePair(vocabulary=3, horizon=3, prompts=2, kl=0.3).completions(3, 0, 500)
    cut = [
        lm_first(whole, slice(0, 7), 1),
        lm_first(whole, slice(7, 300), 3),
        lm_first(whole, slice(300, 500), 3),
    ]
    parts = [found_in(each, chosen, 1.0, keep=True) for each in cut]
    merged, expected = (
        parts[0].merge(parts[1]).merge(parts[2]),
        found_in(whole, chosen, 3.0, keep=True),
    )
    # The first shard's completions are cut to one token: only their later tokens are missing.
    assert merged.places.count[0] == expected.places.count[0] == 500
    assert merged.sums.count == 500
    again = Found.restored({name: np.array(array) for name, array in merged.flat().items()})
    assert again.columns == merged.columns
    for name, array in merged.flat().items():
        np.testing.assert_array_equal(again.flat()[name], array, err_msg=name)


def lm_first(whole: Completions, rows: slice, tokens: int) -> Completions:
    return Completions(
        **{
            name: None if x is None else x[rows] if x.ndim == 1 else x[rows, :tokens]
            for name, x in vars(whole).items()
        }
    )


def test_memory_is_bounded() -> None:
    full = Kept(*(np.zeros(3) for _ in range(5)), full=np.array(True))
    assert full.merge(full) is full
    assert Kept.enough(2**14, 1)
    assert Kept.enough(1, 2**22)
    assert not Kept.enough(2**14 - 1, 2**22 - 1)
    one, two = (
        Vocabulary.of_tokens(np.array(ids), np.array(x), None)
        for ids, x in (([5, 2, 5], [1.0, -2.0, 3.0]), ([9, 2], [0.5, 4.0]))
    )
    both = one.merge(two)
    assert both.token.tolist() == [2, 5, 9]
    assert both.count.tolist() == [2, 2, 1]
    assert both.k1.tolist() == [-2.0, -4.0, -0.5]
    assert both.largest.tolist() == [4.0, 3.0, 0.5]


def test_a_tail_that_repeats_has_no_shape() -> None:
    stream = np.random.default_rng(0)
    assert math.isnan(tail_shape(np.repeat([0.1, 0.2, 0.3], 2_000))[0])
    khat, se, n = tail_shape(stream.exponential(0.7, 20_000))
    assert abs(khat - 0.7) <= 5 * se
    assert n == 20_000
    assert math.isnan(tail_shape(np.zeros(0))[0])


def test_completions_that_an_earlier_version_kept_go_on_without_what_it_did_not_keep() -> None:
    chosen = [estimators.get("k1")]
    now = found_in(
        SequencePair(vocabulary=3, horizon=2, prompts=2, kl=0.3).completions(0, 0, 50),
        chosen,
        1.0,
        keep=True,
    )
    earlier = Found.restored(
        {name: array for name, array in now.flat().items() if not name.startswith("logged")}
    )
    assert now.logged is not None
    assert int(now.logged.count) == 50
    assert earlier.merge(now).logged is None
    assert int(earlier.merge(now).sums.count) == 100
