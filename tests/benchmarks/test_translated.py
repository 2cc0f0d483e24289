"""Translated settings reach the same KL: a thin version of ``benchmarks/translated.py``."""

from dataclasses import replace

import numpy as np
import pytest
import translated

SMALL = {"vocabulary": 4, "horizon": 3, "prompts": 4}
THIN = (1, 5, 9, 11)
"""Another value, the ratio for k2, a baseline for the return, and a group's mean for others'."""


@pytest.fixture(scope="module")
def pairs():
    return [translated.Pair.of(words.format(beta=0.5), to) for words, to in translated.PAIRS]


def test_there_are_twelve_pairs_of_two_trainers_each(pairs) -> None:
    assert len({(each.source, each.target) for each in pairs}) == 12
    assert all(each.source.split("@")[0] != each.target.split("@")[0] for each in pairs)
    assert {each.likeness for each in pairs} == {"same", "same on average"}


def test_both_settings_of_a_pair_reach_the_same_kl_and_half_the_coefficient_another(pairs) -> None:
    chosen = [pairs[k] for k in THIN]
    settings = {each for pair in chosen for each in pair.settings}
    weaker = replace(chosen[0].settings[1], beta=0.25)
    kls = translated.on_testbed({*settings, weaker}, range(12), 60, **SMALL)
    for pair in chosen:
        here, there = (kls[each] for each in pair.settings)
        ratio, half = translated.compared(here, there)
        assert half < 0.1
        assert abs(ratio - 1.0) <= 0.05 + half, pair
    ratio, half = translated.compared(kls[chosen[0].settings[0]], kls[weaker])
    assert ratio - half > 1.2


def test_the_interval_of_a_ratio_is_that_of_paired_seeds() -> None:
    stream = np.random.default_rng(3)
    covered = []
    for _ in range(400):
        common = stream.lognormal(0.0, 0.4, 30)
        here, there = (common * stream.lognormal(0.0, 0.05, 30) for _ in range(2))
        ratio, half = translated.compared(here, there)
        covered.append(abs(ratio - 1.0) <= half)
    assert 0.92 <= np.mean(covered) <= 0.98
