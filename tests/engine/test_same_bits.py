"""The same seed gives the same bits, whoever does the work and whatever else is measured."""

import pandas as pd
import pytest
from smallest import RUNS
from threadpoolctl import threadpool_limits

from klbench import context

pytestmark = pytest.mark.usefixtures("workers_at_once")

NORMAL = "{kind: gaussian, p: {mean: 0.5}}"
COIN = "{kind: categorical, q: {probs: [0.5, 0.5]}, p: {probs: [0.6, 0.4]}}"
WIDE = (
    "{kind: gaussian, q: {mean: [0.0, 0.0, 0.0]}, p: {mean: [0.3, 0.2, 0.1], std: [1.1, 0.9, 1.0]},"
    " mu: {mean: 0.1}}"
)
HEAVY = "{kind: student_t, q: {df: 10.0}, p: {df: 4.0, loc: 0.2}}"
ESTIMATORS = "k1,k3,bregman_js,k_fitted,k1_self_normalized"


@pytest.fixture
def tables_of(call, tmp_path):
    """``tables_of(*words)`` are the tables of the run of a command."""
    runs = []

    def tables(*words: str) -> dict[str, pd.DataFrame]:
        out = tmp_path / str(len(runs))
        runs.append(out)
        called = call(*words, f"out={out}", folder=tmp_path)
        assert called.code == 0, called
        return {path.stem: pd.read_parquet(path) for path in (out / "tables").glob("*.parquet")}

    return tables


@pytest.fixture
def tables(tables_of):
    """``tables(pairs, estimators, *more)`` are the tables of a run of the value study."""

    def tables(pairs: list[str], chosen: str, *more: str) -> dict[str, pd.DataFrame]:
        return tables_of("exp=value", f"pairs=[{','.join(pairs)}]", f"estimators=[{chosen}]", *more)

    return tables


def assert_same(found: dict[str, pd.DataFrame], expected: dict[str, pd.DataFrame]) -> None:
    assert set(found) == set(expected) != set()
    for name, table in expected.items():
        pd.testing.assert_frame_equal(found[name], table, check_exact=True, obj=name)


def rows(tables: dict[str, pd.DataFrame], name: str, **of: list[str]) -> pd.DataFrame:
    """The rows of a table whose columns hold one of these values each."""
    table = tables[name]
    for column, values in of.items():
        table = table[table[column].isin(values)]
    assert len(table)
    return table.reset_index(drop=True)


# One panel, a few panels with some left over, several shards with some left over, batches larger
# than a shard.
@pytest.mark.parametrize("samples", ["100", "5003", "70_001", "300_007"])
def test_whatever_the_number_of_workers(tables, samples: str) -> None:
    pairs = [NORMAL, WIDE] if samples == "300_007" else [NORMAL, COIN, WIDE, HEAVY]
    alone = tables(pairs, ESTIMATORS, f"samples={samples}", "workers=1")
    assert_same(tables(pairs, ESTIMATORS, f"samples={samples}", "workers=2"), alone)


def test_whatever_the_number_of_threads(tables) -> None:
    """Enough samples for panels of 32,768.

    Only sums as long as these are shared out among threads.
    """
    run = ([NORMAL], "k1,k3", "samples=1_100_000", "workers=1", "batches=[1,8192]")
    one = tables(*run)
    with threadpool_limits(4):
        assert_same(tables(*run), one)


@pytest.mark.parametrize(
    "words",
    [
        f"exp=value pairs=[{NORMAL},{COIN}] estimators=[k1,k_fitted] samples=5003",
        f"exp=lm {RUNS['lm']} shard=4",
        f"exp=ppo {RUNS['ppo']} updates=2 recovery_nats=[2.0] betas=[]",
    ],
    ids=["value", "lm", "ppo"],
)
@pytest.mark.parametrize(("cluster", "package"), [("dask", "distributed"), ("ray", "ray")])
def test_on_a_cluster_that_is_joined_once(
    tables_of, monkeypatch, cluster: str, package: str, words: str
) -> None:
    pytest.importorskip(package)
    joined = []
    join = context._connect
    monkeypatch.setattr(context, "_connect", lambda *of: joined.append(of[0].kind) or join(*of))
    split = words.replace(": ", ":").replace(", ", ",").split()
    alone = tables_of(*split, "workers=1")
    found = tables_of(*split, "workers=2", f"cluster={cluster}")
    for each in (alone, found):
        for timed in ("cost", "throughput"):
            each.pop(timed, None)
    assert_same(found, alone)
    assert joined == [cluster]


def test_another_estimator_changes_no_other_row(tables) -> None:
    few = tables([NORMAL, WIDE], "k1,k_fitted", "samples=5003", "workers=1")
    many = tables(
        [NORMAL, WIDE], "k3,k1,bregman_js,k_fitted,k1_weighted", "samples=5003", "workers=1"
    )
    chosen = ["k1", "k_fitted"]
    pd.testing.assert_frame_equal(
        rows(many, "values", estimator=chosen), few["values"], check_exact=True, check_dtype=False
    )
    pd.testing.assert_frame_equal(
        rows(many, "errors", estimator=chosen), few["errors"], check_exact=True
    )
    pd.testing.assert_frame_equal(
        rows(many, "differences", first=chosen, second=chosen), few["differences"], check_exact=True
    )


def test_another_pair_changes_no_other_row(tables) -> None:
    few = tables([NORMAL], ESTIMATORS, "samples=5003", "workers=1")
    many = tables([COIN, NORMAL, HEAVY], ESTIMATORS, "samples=5003", "workers=1")
    for name in ("values", "differences", "errors", "pairs"):
        here = rows(many, name, pair=["N(0, 1²) ‖ N(0.5, 1²)"])
        pd.testing.assert_frame_equal(here, few[name], check_exact=True, check_dtype=False)


def test_another_label_changes_no_number(tables) -> None:
    plain = tables([NORMAL], ESTIMATORS, "samples=5003", "workers=1")
    labelled = tables(
        [NORMAL.replace("}}", "}, label: mine, series: ours}")],
        ESTIMATORS,
        "samples=5003",
        "workers=1",
    )
    for name in ("values", "differences", "errors", "pairs"):
        assert set(labelled[name]["pair"]) == {"mine"}
        left = [column for column in plain[name] if column not in ("pair", "series")]
        pd.testing.assert_frame_equal(labelled[name][left], plain[name][left], check_exact=True)


def test_another_seed_changes_every_mean(tables) -> None:
    first = tables([NORMAL, COIN], "k1,k3", "samples=5003", "workers=1")["values"]
    again = tables([NORMAL, COIN], "k1,k3", "samples=5003", "workers=1", "seed=0")["values"]
    other = tables([NORMAL, COIN], "k1,k3", "samples=5003", "workers=1", "seed=1")["values"]
    pd.testing.assert_frame_equal(first, again, check_exact=True)
    assert (first["mean"] != other["mean"]).all()
    assert (first["truth"] == other["truth"]).all()
    assert ((first["mean"] - other["mean"]).abs() <= 5 * 2**0.5 * first["mean_se"]).all()


def test_two_pairs_of_one_run_share_no_draws(tables) -> None:
    """Streams are named by all of a pair's parameters."""
    nearly = NORMAL.replace("0.5", "0.5000001")
    table = tables([NORMAL, nearly], "k1", "samples=5003", "workers=1", "batches=[1]")["values"]
    assert abs(table["mean"].diff().iloc[1]) > 1e-4
