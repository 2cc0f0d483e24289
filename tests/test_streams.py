import subprocess
import sys
from itertools import combinations

import numpy as np
import pytest

from klbench import streams

NAMES = [
    (0, "a"),
    (1, "a"),
    (-1, "a"),
    (0, "a", "b"),
    (0, "b", "a"),
    (0, "ab"),
    (0, "a,b"),
    (0, 1),
    (0, "1"),
    (0,),
    (0, "a", 0),
    (0, "a", 1),
]


def test_the_same_names_give_the_same_draws() -> None:
    for name in NAMES:
        first, second = (streams.generator(*name).standard_normal(50) for _ in range(2))
        np.testing.assert_array_equal(first, second)


def test_no_two_names_share_a_draw() -> None:
    draws = [tuple(streams.generator(*name).bit_generator.random_raw(4)) for name in NAMES]
    assert len(set(draws)) == len(NAMES)


def test_streams_of_neighbouring_names_are_uncorrelated() -> None:
    n = 20_000
    draws = [streams.generator(7, "shard", k).standard_normal(n) for k in range(4)]
    for a, b in combinations(draws, 2):
        assert abs(np.mean(a * b)) <= 5 / np.sqrt(n)


def test_a_stream_depends_on_no_other_stream_and_on_no_global_state() -> None:
    alone = streams.generator(3, "x").random(10)
    other = streams.generator(3, "y")
    np.random.seed(1)  # noqa: NPY002
    stream = streams.generator(3, "x")
    first = stream.random(4)
    other.random(1000)
    np.random.random(1000)  # noqa: NPY002
    np.testing.assert_array_equal(np.concatenate([first, stream.random(6)]), alone)


def test_drawing_leaves_the_global_state_alone() -> None:
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    streams.generator(0, "x").random(100)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_bits_are_those_of_every_process_and_version() -> None:
    """Golden: streams.generator(2024, "value", "pair", 3).bit_generator.random_raw(3), NumPy
    2.4.6, CPython 3.11.
    """
    golden = [13876514754211208634, 731671558838749357, 16918004691504957296]
    assert (
        streams.generator(2024, "value", "pair", 3).bit_generator.random_raw(3).tolist() == golden
    )
    code = (
        "from klbench import streams; print(*streams.generator(2024, 'value', 'pair',"
        " 3).bit_generator.random_raw(3))"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert [int(x) for x in other.stdout.split()] == golden


@pytest.mark.parametrize("name", [(0, 1.5j), (0, object())])
def test_a_name_that_is_no_name_is_refused(name) -> None:
    with pytest.raises(TypeError):
        streams.generator(*name)
