"""From plain data to typed settings, and the one line for what is wrong with it."""

import os
from pathlib import Path

import pytest
import yaml
from pydantic import Field

from klbench import estimators, inputs, pairs, studies
from klbench.choices import AnyPair, EstimatorNames, OnePair, PairOptions
from klbench.engine.settings import Common, _check_address, build, settings
from klbench.pairs.gaussian import GaussianPair, Normal
from klbench.types import ConfigError, Options

CONF = inputs.conf_folder()
PLAIN = {
    "study": "value",
    "samples": 1000,
    "pair": {"kind": "gaussian", "q": {"mean": 0.0}, "p": {"mean": 1.0}},
}


class Inner(Options):
    size: int = Field(default=3, ge=1, le=10)
    rates: float | tuple[float, ...] = 1.0


class Outer(Options):
    name: str
    inner: Inner = Inner()
    files: tuple[str, ...] = ("x",)


def message(call: object, *arguments: object) -> str:
    with pytest.raises(ConfigError) as error:
        call(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("node", "says"),
    [
        ({"nmae": "x"}, "name: missing; this needs it"),
        (
            {"name": "x", "inner": {"sise": 3}},
            "unknown key 'inner.sise'; did you mean 'inner.size'? available here: size, rates",
        ),
        (
            {"name": "x", "inner": {"zzz": 3}},
            "unknown key 'inner.zzz'; available here: size, rates",
        ),
        (
            {"name": "x", "iner": {}},
            "unknown key 'iner'; did you mean 'inner'? available here: name, inner, files",
        ),
        ({"name": "x", "inner": {"size": 0}}, "inner.size=0: must be at least 1"),
        ({"name": "x", "inner": {"size": 11}}, "inner.size=11: must be at most 10"),
        ({"name": "x", "inner": {"size": 2.5}}, "inner.size=2.5: must be a whole number"),
        ({"name": "x", "inner": {"size": "two"}}, "inner.size='two': must be a whole number"),
        (
            {"name": "x", "inner": {"rates": "fast"}},
            "inner.rates='fast': must be a number or a list of numbers",
        ),
        (
            {"name": "x", "inner": {"rates": [1.0, "fast"]}},
            "inner.rates.1='fast': must be a number or a list of numbers",
        ),
        (
            {"name": "x", "inner": {"rates": [1.0, float("nan")]}},
            "inner.rates.1=nan: must be finite",
        ),
        ({"name": "x", "inner": {"rates": float("inf")}}, "inner.rates=inf: must be finite"),
        ({"name": 3}, "name=3: must be text; a number in quotes is text"),
        ({"name": "x", "files": "x"}, "files='x': must be a list"),
        ({"name": "x", "files": None}, "files: expected a list, files=[A,...], got none"),
        ({"name": "x", "inner": 3}, "inner=3: must be keys and values"),
        ({"name": ["x" * 200]}, f"name=['{'x' * 75}...: must be text; a number in quotes is text"),
    ],
)
def test_the_line_names_key_value_and_what_is_allowed(node: dict[str, object], says: str) -> None:
    assert message(build, Outer, node) == says


def test_a_prefix_stands_before_every_key() -> None:
    assert (
        message(build, Outer, {"name": "x", "inner": {"size": 0}}, "pair.")
        == "pair.inner.size=0: must be at least 1"
    )
    assert message(build, Outer, {}, "pair.") == "pair.name: missing; pair needs it"
    assert "did you mean 'pair.inner.size'?" in message(
        build, Outer, {"name": "x", "inner": {"siz": 0}}, "pair."
    )


def test_a_right_node_is_what_it_says() -> None:
    assert build(Outer, {"name": "x", "inner": {"size": 4.0, "rates": [1, 2]}}) == Outer(
        name="x", inner=Inner(size=4, rates=(1.0, 2.0))
    )


def test_nodes_do_not_change_once_they_are_built() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Inner().size = 4


class Several(PairOptions):
    pairs: tuple[AnyPair, ...] = ()


class Chosen(Options):
    estimators: EstimatorNames


def test_a_pair_is_made_from_its_kind() -> None:
    assert build(OnePair, {"pair": {"kind": "gaussian", "p": {"mean": 2}}}).pair == GaussianPair(
        p=Normal(mean=2.0)
    )
    assert "pair: expected a pair with a kind, one of " in message(
        build, OnePair, {"pair": {"q": {}}}
    )
    assert message(build, Several, {"pairs": [3]}).startswith(
        "pairs.0=3: expected a pair with a kind"
    )
    assert "pair: unknown pair 'gauss'; did you mean 'gaussian'?" in message(
        build, OnePair, {"pair": {"kind": "gauss"}}
    )
    wrong = [{"kind": "laplace"}, {"kind": "gaussian", "q": {"std": -1}}]
    assert message(build, Several, {"pairs": wrong}) == "pairs.1.q.std=-1: must be positive"
    wrong = [{"kind": "laplace"}, {"kind": "student_t", "q": {"locc": -1}}]
    assert message(build, Several, {"pairs": wrong}) == "pairs.1.q.df: missing; pairs.1.q needs it"
    wrong = [{"kind": "laplace"}, {"kind": "student_t", "q": {"df": 3, "locc": -1}}]
    says = (
        "unknown key 'pairs.1.q.locc'; did you mean 'pairs.1.q.loc'? available here: df, loc, scale"
    )
    assert message(build, Several, {"pairs": wrong}) == says


def test_pairs_by_one_by_several_or_by_default() -> None:
    one, two = {"kind": "gaussian"}, [{"kind": "laplace"}, {"kind": "exponential"}]
    assert [pair.kind for pair in build(Several, {"pair": one, "default_pairs": two}).pairs] == [
        "gaussian"
    ]
    assert [pair.kind for pair in build(Several, {"default_pairs": two}).pairs] == [
        "laplace",
        "exponential",
    ]
    assert [pair.kind for pair in build(Several, {"pairs": two}).pairs] == [
        "laplace",
        "exponential",
    ]
    assert build(Several, {"pair": {"kind": "sequence"}, "kl": 2.0}).pairs[0].kl == 2.0
    assert "this experiment needs pair=NAME" in message(build, Several, {})


def test_estimators_by_list_set_name_and_alias() -> None:
    def chosen(value: object) -> tuple[str, ...]:
        return build(Chosen, {"estimators": value}).estimators

    assert chosen(["k1", "k_lambda:0.3"]) == ("k1", "k_lambda:0.3")
    assert chosen("schulman") == ("k1", "k2", "k3")
    assert chosen("k_lambda:0.3") == ("k_lambda:0.3",)
    assert chosen("low_var_kl") == chosen(["k3"]) == ("k3",)
    says = (
        "estimators='schulmann': unknown estimator or set of estimators 'schulmann'; did you mean"
        " 'schulman'?"
    )
    assert says in message(chosen, "schulmann")
    assert (
        message(chosen, ["k3", "low_var_kl"])
        == "estimators=['k3', 'low_var_kl']: k3 is named twice"
    )
    assert "expected a number after the colon, got 'x'" in message(chosen, "k_lambda:x")


def test_all_is_every_estimator_and_no_set_hides_one() -> None:
    sets = estimators.sets()
    assert sets["all"] == estimators.names()
    assert not set(sets) & set(estimators.names())


def test_settings_keep_the_configuration_without_what_is_of_this_run_only() -> None:
    made = settings(PLAIN | {"out": "here", "resume": None, "seed": 3, "workers": 2}, "value")
    assert not {"out", "resume"} & set(made.config)
    assert (made.config["seed"], made.config["workers"], made.config["samples"]) == (
        3,
        2,
        PLAIN["samples"],
    )
    assert (made.common.out, made.common.seed, made.workers, made.experiment) == (
        "here",
        3,
        2,
        "value",
    )
    assert made.study is studies.get("value")
    assert made.options.pairs == (GaussianPair(q=Normal(mean=0.0), p=Normal(mean=1.0)),)
    assert list(made.options.estimators) == estimators.names()


def test_a_mistake_in_an_experiments_own_pairs_is_located_among_them() -> None:
    nodes = [{"kind": "lm"}, {"kind": "lm", "polcy": "x"}]
    says = message(settings, {"study": "lm", "default_pairs": nodes}, "mine")
    assert says.startswith(
        "unknown key 'pairs.1.polcy'; did you mean 'pairs.1.policy'? available here: label, series,"
        " policy"
    )


def test_settings_do_not_change_what_they_are_made_from() -> None:
    before = yaml.safe_dump(PLAIN)
    settings(PLAIN, "value")
    assert yaml.safe_dump(PLAIN) == before


def test_batch_sizes_are_sorted_and_counted_once() -> None:
    assert settings(PLAIN | {"batches": [64, 1, 64]}, "value").options.batches == (1, 64)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"study": "???"}, "experiment value names no study; available: "),
        ({"study": None}, "experiment value names no study; available: "),
        ({"study": "valeu"}, "unknown study 'valeu'; did you mean 'value'?"),
        ({"sample": 3}, "unknown key 'sample'; did you mean 'samples'?"),
        ({"pairs": [PLAIN["pair"]]}, "pair='gaussian': experiment value brings its own pairs"),
        ({"pair": None}, "experiment value needs pair=NAME; available: "),
        ({"device": "cuda"}, "device='cuda': the value study runs on cpu"),
    ],
)
def test_what_is_wrong_with_the_whole(changed: dict[str, object], says: str) -> None:
    assert says in message(settings, PLAIN | changed, "value")


def test_without_workers_there_are_as_many_as_this_process_may_use(monkeypatch) -> None:
    made = settings(PLAIN, "value")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 3, 5}, raising=False)
    assert made.workers == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert made.workers == 7
    assert settings(PLAIN | {"workers": 2}, "value").workers == 2
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert made.workers == 1


@pytest.mark.parametrize(
    ("cluster", "address"),
    [
        ("dask", ""),
        ("dask", "127.0.0.1:8786"),
        ("dask", "tcp://head.site:1"),
        ("dask", "tls://[::1]:65535"),
        ("ray", ""),
        ("ray", "auto"),
        ("ray", "local"),
        ("ray", "ray://head:10001"),
        ("ray", "head_1:6379"),
    ],
)
def test_an_address_that_could_be_a_schedulers(cluster: str, address: str) -> None:
    _check_address(cluster, address)


@pytest.mark.parametrize(
    ("cluster", "address"),
    [
        ("dask", "garbage"),
        ("dask", "auto"),
        ("dask", "tcp://head"),
        ("dask", "ray://head:1"),
        ("dask", "head:0"),
        ("ray", "garbage"),
        ("ray", "tcp://head:1"),
        ("ray", "ray://head"),
        ("ray", "head:65536"),
        ("ray", "auto "),
    ],
)
def test_an_address_that_could_not(cluster: str, address: str) -> None:
    assert message(_check_address, cluster, address).startswith(
        f"address={address!r}: expected HOST:PORT"
    )


@pytest.mark.parametrize(
    "node",
    [
        {"_target_": "os.mkdir", "path": "ran"},
        {"kind": "gaussian", "_target_": "os.mkdir"},
        {"kind": "gaussian", "q": {"_target_": "os.mkdir", "mean": 0.0}},
        {"kind": "gaussian", "q": {"mean": "${oc.env:HOME}"}},
        {"kind": "gaussian", "q": {"mean": "__import__('os').mkdir('ran')"}},
        {"kind": "klbench.pairs.gaussian.GaussianPair"},
    ],
)
def test_nothing_of_a_configuration_is_ever_run_or_looked_up(
    node: dict[str, object], tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    message(settings, PLAIN | {"pair": node}, "value")
    assert list(tmp_path.iterdir()) == []


def test_text_that_looks_like_an_interpolation_is_text_to_a_run_that_goes_on() -> None:
    made = settings(PLAIN | {"pair": PLAIN["pair"] | {"label": "${oc.env:HOME}"}}, "value")
    assert made.options.pairs[0].title == "${oc.env:HOME}"


@pytest.mark.parametrize("name", pairs.names())
def test_every_pair_refuses_a_key_that_it_does_not_know(name: str, tmp_path: Path) -> None:
    (tmp_path / "rollouts.jsonl").write_text(
        '{"logprobs": [-1.0], "ref_logprobs": [-1.1]}\n', encoding="utf-8"
    )
    known = pairs.get(name).node()
    needed = {
        "categorical": {"random": {"size": 3, "kl": 0.1}},
        "recorded": {"path": str(tmp_path / "rollouts.jsonl")},
    }.get(name, {})
    assert build(OnePair, {"pair": known | needed}).pair.kind == name
    assert "unknown key 'pair.zzz'; available here: " in message(
        build, OnePair, {"pair": known | needed | {"zzz": 1}}
    )


def test_common_keys_are_those_of_the_configuration_file() -> None:
    config = yaml.safe_load((CONF / "config.yaml").read_text(encoding="utf-8"))
    assert set(Common.model_fields) == set(config) - {"defaults", "study", "hydra", "resume"}
    for key, field in Common.model_fields.items():
        assert config[key] == field.default
