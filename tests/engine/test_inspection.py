"""What Hydra answers by itself.

The configuration, where it comes from, folders of one's own, shell completion.
"""

import logging
import sys
from pathlib import Path

import pytest
import yaml

from klbench import inputs, pairs
from klbench.engine import app, inspection
from klbench.types import ConfigError


@pytest.fixture
def asked(call, contents, tmp_path):
    """What a command that runs nothing prints."""

    def asked(*arguments: str) -> str:
        before = contents(tmp_path)
        called = call(*arguments, folder=tmp_path)
        assert (called.code, called.err) == (0, ""), called
        assert contents(tmp_path) == before
        return called.out

    return asked


@pytest.mark.parametrize(
    "words",
    [
        ["exp=value", "pair=laplace", "pair.p.scale=3", "seed=7"],
        ["+exp=ppo", "preset=thorough", "algorithm=verl_ppo", "clip=0.3"],
        ["+exp=gradient", "samples=9000"],
        ["+exp=tails"],
    ],
)
def test_what_cfg_job_shows_is_what_is_run(asked, words: list[str]) -> None:
    shown = yaml.safe_load(asked("--cfg", "job", *words))
    experiment = words[0].partition("=")[2]
    assert app.checked(shown, experiment) == app.check(app.normalized(words))
    assert yaml.safe_load(asked(*words, "-c", "job", "--resolve")) == shown


def test_cfg_all_has_hydras_own_part_and_a_package_is_a_part(asked) -> None:
    shown = yaml.safe_load(asked("--cfg", "all", "+exp=ppo", "algorithm=grpo"))
    assert set(shown) >= {"hydra", "study", "combinations", "clip"}
    assert shown["hydra"]["runtime"]["choices"]["algorithm"] == "grpo"
    assert set(yaml.safe_load(asked("--cfg=hydra"))) == {"hydra"}
    assert yaml.safe_load(asked("--cfg=job", "+exp=ppo", "--package=recovery_nats")) == [
        2.0,
        4.0,
        6.0,
        8.0,
        10.0,
    ]
    assert asked("--cfg=job", "+exp=ppo", "preset=thorough", "-p", "seeds") == "16\n"


def test_info_names_the_files_that_are_read_and_leaves_logging_alone(asked) -> None:
    before = list(logging.getLogger().handlers), logging.getLogger().level
    lines = asked("+exp=ppo", "preset=thorough", "--info", "defaults")
    for name in ("exp/ppo", "preset/ppo/thorough", "algorithm/ppo"):
        assert f"| {name} " in lines
    assert str(inputs.conf_folder()) in asked("+exp=ppo", "--info", "searchpath")
    assert (logging.getLogger().handlers, logging.getLogger().level) == before
    everything = asked("+exp=ppo", "--info")
    assert "exp/ppo" in everything
    assert "Installed Hydra Plugins" in everything


def test_a_folder_of_ones_own(call, asked, tmp_path) -> None:
    folder = tmp_path / "it's mine, all of it"
    (folder / "exp").mkdir(parents=True)
    (folder / "algorithm").mkdir()
    (folder / "exp" / "mine.yaml").write_text(
        "# @package _global_\ndefaults: [ppo, override /algorithm: wild, _self_]\nupdates: 3\n",
        encoding="utf-8",
    )
    text = (inputs.conf_folder() / "algorithm" / "ppo.yaml").read_text(encoding="utf-8")
    (folder / "algorithm" / "wild.yaml").write_text(
        text.replace(": ppo", ": wild").replace("clip: 0.2", "clip: 0.9")
    )
    shown = yaml.safe_load(asked("exp=mine", "--config-dir", str(folder), "--cfg", "job"))
    assert (shown["algorithm"], shown["clip"], shown["updates"], shown["seeds"]) == (
        "wild",
        0.9,
        3,
        8,
    )
    assert (
        asked("exp=ppo", "algorithm=wild", "-cd", folder.name, "--cfg=job", "--package=clip")
        == "0.9\n"
    )
    (folder / "exp" / "coin.yaml").write_text(
        "# @package _global_\nstudy: value\nsamples: 100\nbatches: [1]\nestimators: [k1]\n"
        "pairs: [{kind: categorical, q: {probs: [0.5, 0.5]}, p: {probs: [0.6, 0.4]}}]\n"
    )
    assert (
        call("exp=coin", "--config-dir", folder.name, "workers=1", "out=one", folder=tmp_path).code
        == 0
    )
    assert (
        call(
            "-m",
            "exp=coin",
            "-cd",
            folder.name,
            "workers=1",
            "seed=1,2",
            "out=two",
            folder=tmp_path,
        ).code
        == 0
    )
    assert all(
        (tmp_path / run / "tables" / "values.parquet").is_file()
        for run in ("one", "two/0", "two/1")
    )


def test_the_completion_of_a_shell(asked, monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/klbench"])
    assert asked("--shell-completion", "install=bash").endswith(
        "-F hydra_bash_completion klbench\n"
    )

    def completed(line: str) -> list[str]:
        monkeypatch.setenv("COMP_LINE", line)
        return asked("-sc", "query=bash").split()

    assert completed("klbench +exp=dp") == ["+exp=dpo", "+exp=dpo_lm"]
    assert completed("klbench +exp=ppo preset=") == ["preset=default", "preset=thorough"]
    assert completed("klbench +exp=ppo algorithm=g") == ["algorithm=grpo"]
    assert completed("klbench +exp=ppo recovery_") == ["recovery_nats."]
    assert completed("klbench +exp=value +pair=") == sorted(
        f"+pair={name}" for name in pairs.names()
    )


def test_options_are_told_from_overrides() -> None:
    options, overrides = inspection.parse(["+exp=ppo", "--cfg", "job", "seed=1", "-p", "clip"])
    assert (options.cfg, options.package, options.resolve, overrides) == (
        "job",
        "clip",
        False,
        ["+exp=ppo", "seed=1"],
    )
    with pytest.raises(
        ConfigError, match="--nope: unknown option; there are --help, --version, -m, --cfg, --info"
    ):
        inspection.parse(["+exp=ppo", "--nope"])


def test_nothing_of_hydras_inside_is_used() -> None:
    for path in Path(inspection.__file__).parent.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert "hydra._internal" not in text, path
        assert "sys.argv =" not in text, path
        assert "sys.argv, " not in text, path
