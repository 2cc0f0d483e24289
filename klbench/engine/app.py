"""The way from a command line, or ``klbench.run``, to a run. Only this module knows Hydra."""

from __future__ import annotations

import contextlib
import datetime as dt
import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString
from hydra.errors import HydraException, MissingConfigException
from omegaconf import OmegaConf, flag_override
from omegaconf.errors import OmegaConfBaseException

from klbench import inputs, pairs, studies
from klbench.engine import VERBS
from klbench.engine.conf import experiments, groups
from klbench.engine.execution import ALONE, Run, assist, execute
from klbench.engine.settings import Settings, settings
from klbench.processes import Group
from klbench.registry import LONGEST, unknown
from klbench.runs import RunFolder
from klbench.types import ConfigError

RESUMABLE_KEYS = ("exp", "resume", "workers", "cluster", "address")
HYDRA_KEYS = ("hydra.searchpath", "hydra/launcher", "hydra.launcher.")
"""The keys of Hydra that may be set.

The rest would move runs, or let one sweep's jobs share a folder.
"""


def run(experiment: str, *overrides: str) -> Run:
    """Run an experiment from Python: ``klbench.run("gaussian", "samples=1_000_000")``.

    Raises
    ------
    ConfigError
        What the command line would exit with 2 for.
    RunError
        The run failed; its folder's ``log.txt`` says where.
    """
    result = launch([f"+exp={experiment}", *overrides])
    assert result is not None, "a process that is alone is the main one"
    return result


def launch(arguments: Sequence[str], group: Group = ALONE) -> Run | None:
    """Run what a command line asks for, a new run or one to resume.

    None in a process that only helps the main one.
    """
    overrides = group.agreed(lambda: normalized(arguments))
    keys = {key for key, _ in map(split, overrides)}
    resumed: RunFolder | None = None
    if "resume" in keys:
        plan = group.agreed(lambda: _resumed(overrides, keys) if group.main else None)
        experiment, config, resumed = group.from_main(plan)  # type: ignore[misc]
    else:
        experiment, config = group.agreed(lambda: (_experiment(overrides), _compose(overrides)))
    settings = group.agreed(lambda: checked(config, experiment, group))
    folder = group.agreed(lambda: (resumed or _new_folder(settings)) if group.main else None)
    if folder is None:
        assist(settings, group)
        return None
    made = missing_parents(folder.path)
    try:
        return execute(settings, folder, arguments, group)
    except ConfigError:  # what showed only at work, in a model or in the middle of a file
        if resumed is None:
            folder.discard()
            remove_empty(made)
        raise


def missing_parents(path: Path) -> list[Path]:
    """The folders above a path that are not there yet, the innermost first."""
    return [parent for parent in path.parents if not parent.exists()]


def remove_empty(folders: Iterable[Path]) -> None:
    """Remove those folders that hold nothing."""
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


@inputs.refused("the configuration cannot be used")
def checked(config: dict[str, Any], experiment: str, group: Group = ALONE) -> Settings:
    """Return the settings of a composed configuration.

    Raises
    ------
    ConfigError
        Something is wrong with it, or several processes cannot share it.
    """
    found = settings(_completed(config), experiment)
    if group.size > 1 and not found.study.shares:
        raise ConfigError(
            f"the {found.study.name} study cannot be shared by the {group.size} processes of"
            f" accelerate launch or torchrun; start it by itself, with workers={group.size}"
        )
    return found


def split(override: str) -> tuple[str, str]:
    """Key, without its pluses, and value of an override."""
    key, equals, value = override.partition("=")
    if not equals:
        verb = difflib.get_close_matches(override, VERBS, n=1, cutoff=0.7)
        hint = f"did you mean klbench {verb[0]} ...? For a run " if verb else ""
        raise ConfigError(
            f"{override!r}: {hint}expected key=value, such as samples=1e6; see python -m klbench"
            " --help"
        )
    return key.lstrip("+"), value


def normalized(arguments: Sequence[str]) -> list[str]:
    """Hydra's overrides from a user's.

    Keys need no plus, whether or not the configuration has them yet.

    A group's choice needs none either, and stands without one: it takes the place of the
    experiment's own.
    """
    with inputs.refused("the working folder is not there any more; change to one that is"):
        Path.cwd()
    result, chosen = [], groups()
    for argument in arguments:
        key, value = split(argument)
        with inputs.refused(f"{argument:.{LONGEST}}"):
            inputs.check_text(argument)
            try:
                parsed = OverridesParser.create().parse_override(argument)
            except HydraException as error:
                raise ConfigError(
                    f"{argument}: cannot be read, {str(error).splitlines()[0]}; a text with such"
                    f" signs stands in quotes of its own, inside the shell's: \"{key}='...'\""
                ) from None
        if key.lstrip("~").startswith(("hydra.", "hydra/")):
            _check_hydra(argument, key)
        if key.startswith(("hydra.", "hydra/", "~")):
            result.append(argument)
        elif key in chosen:
            if not parsed.is_sweep_override() and not isinstance(
                parsed.value(), str | QuotedString
            ):
                names = sorted(path.stem for path in (inputs.conf_folder() / key).glob("*.yaml"))
                raise ConfigError(
                    f"{argument:.{LONGEST}}: expected a name; available: {', '.join(names)}"
                )
            result.append(f"{key}={value}")
        elif key in ("exp", "pair"):
            result.append(f"+{key}={value}")
        else:
            result.append(f"++{key}={value}")
    return result


def _check_hydra(argument: str, key: str) -> None:
    if not key.startswith(HYDRA_KEYS) or "_target_" in argument:
        shown = key if len(key) <= LONGEST else key[: LONGEST - 3] + "..."
        raise ConfigError(
            f"{shown!r}: of Hydra's own keys only these may be given: {', '.join(HYDRA_KEYS)}KEY"
        )
    if key == "hydra.searchpath":
        for folder in _searched(argument):
            if (found := inputs.kind(folder)) != inputs.FOLDER:
                raise ConfigError(
                    f"{argument}: {folder}: expected a folder with exp/NAME.yaml in it, found"
                    f" {found}"
                )
            for each in (folder, *(below for below in folder.iterdir() if below.is_dir())):
                inputs.check_folder(each)


def _searched(argument: str) -> list[Path]:
    """The local folders of a ``hydra.searchpath=[file://FOLDER]``."""
    value = OverridesParser.create().parse_override(argument).value()
    places = [str(each) for each in value] if isinstance(value, list) else []
    return [
        Path(each.removeprefix("file://"))
        for each in places
        if "://" not in each or each.startswith("file://")
    ]


def path_of(key: str, overrides: Sequence[str]) -> Path:
    """The path that a key is given, without the quotes it may need in an override.

    Raises
    ------
    ConfigError
        It is several, or an interpolation that leads nowhere.
    """
    override = [each for each in overrides if split(each)[0] == key][-1]
    parsed = OverridesParser.create().parse_override(override)
    if parsed.is_sweep_override():
        raise ConfigError(f"{key}={split(override)[1]}: must be one folder")
    try:
        value = OmegaConf.create({key: parsed.value()})[key]
    except OmegaConfBaseException as error:
        raise ConfigError(f"{key}={split(override)[1]}: {str(error).splitlines()[0]}") from None
    return Path(value if isinstance(value, str) else split(override)[1])


def _experiment(overrides: Sequence[str]) -> str:
    names = [value for key, value in map(split, overrides) if key == "exp"]
    known = experiments()
    if not names:
        raise ConfigError(f"name an experiment: +exp=NAME; available: {', '.join(known)}")
    if len(names) > 1:
        raise ConfigError(
            f"exp is given {len(names)} times: {', '.join(names)}; one run is one experiment"
        )
    extended = any(override.startswith("hydra.searchpath=") for override in overrides)
    if names[0] not in known and not extended:
        raise unknown("experiment", names[0], known)
    return names[0]


def _compose(overrides: Sequence[str]) -> dict[str, Any]:
    """Return the configuration that overrides make.

    Raises
    ------
    ConfigError
        They make none, or it names a file of a group that was not read: its values would be those
        of another.
    """
    config, choices = _composed(overrides)
    for name in groups():
        if name in choices and config.get(name) != choices[name]:
            raise ConfigError(
                f"{name}={config.get(name)!r:.{LONGEST}}: an experiment's file chooses it among its"
                f" defaults, as in 'defaults: [{config.get('study')}, override /{name}:"
                f" {config.get(name)!s:.{LONGEST}}, _self_]'"
            )
    return config


def _completed(config: dict[str, Any]) -> dict[str, Any]:
    """Add what the study of a configuration needs and the configuration leaves out, from the
    experiment of the study's name.

    Experiments of the user's own may be short, and earlier versions wrote only what was typed.
    """
    if config.get("study") not in studies.registry:
        return config
    study = studies.get(config["study"])
    missing = [
        key
        for key, field in study.options.model_fields.items()
        if field.is_required() and key not in config
    ]
    if not missing or study.name not in experiments():
        return config
    chosen = [f"{name}={config[name]}" for name in groups() if name in config]
    whole, _ = _composed(normalized([f"exp={study.name}", *chosen]))
    return config | {key: whole[key] for key in missing if key in whole}


def _composed(overrides: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The configuration, and the file that was chosen of each group."""
    for key, value in map(split, overrides):
        if key == "pair" and value not in pairs.names():
            raise unknown("pair", value, pairs.names())
    typed = dict(map(split, overrides))
    try:
        config, choices = _container(overrides)
    except (HydraException, OmegaConfBaseException) as error:
        if isinstance(error, MissingConfigException):
            group = str(error.missing_cfg_file).partition("/")[0]
            if group in groups():
                raise unknown(
                    group, typed.get(group, str(error.missing_cfg_file)), error.options or ()
                ) from None
        not_chosen = re.match(r"Could not override '(\w+)'", str(error))
        if (
            not_chosen and not_chosen[1] in groups()
        ):  # a key like any other, to an experiment whose file has no such choice
            config, choices = _composed(
                [each for each in overrides if split(each)[0] != not_chosen[1]]
            )
            return config | {not_chosen[1]: typed[not_chosen[1]]}, choices
        message = re.sub(r"(?<=['\s])\++(?=\w)", "", " ".join(str(error).splitlines()[0].split()))
        if message.startswith("Error merging") and error.__cause__ is not None:
            message += f", {str(error.__cause__).splitlines()[0]}"
        hint = (
            "; a list is written [a,b], and a sweep needs -m"
            if message.startswith("Ambiguous")
            else ""
        )
        raise ConfigError(message + hint) from None
    except (
        Exception
    ) as error:  # Hydra leaves much to the code below it, as the wrong index of a list
        raise ConfigError(
            f"{_culprit(overrides):.{LONGEST}}: cannot be set, {inputs.reason(error)}"
        ) from error
    with inputs.refused("the configuration"):
        return {str(key): value for key, value in inputs.plain(config).items()}, choices


@contextlib.contextmanager
def initialized(kinds: Iterable[str] | None = None) -> Iterator[Any]:
    """Hydra, with klbench's configuration, and these kinds of pairs, or all, as members of its
    group ``pair``.
    """
    for name in (
        pairs.names() if kinds is None else kinds
    ):  # a pair needs no file: its class says what there is
        ConfigStore.instance().store(name, pairs.get(name).node(), group="pair", provider="klbench")
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(inputs.conf_folder()), "klbench", version_base="1.3"):
        yield GlobalHydra.instance().hydra


def _container(overrides: Sequence[str]) -> tuple[Any, dict[str, Any]]:
    with initialized([value for key, value in map(split, overrides) if key == "pair"]):
        config = compose("config", overrides=list(overrides), return_hydra_config=True)
    choices = dict(config.hydra.runtime.choices)
    with flag_override(config, ["struct", "readonly"], [False, False]):
        del config["hydra"]
    return OmegaConf.to_container(config, resolve=True), choices


def _culprit(overrides: Sequence[str]) -> str:
    """The first override without which, and those after it, the configuration would compose."""
    groups = [each for each in overrides if split(each)[0] in ("exp", "pair")]
    values = [each for each in overrides if each not in groups]
    for k, each in enumerate(values):
        try:
            _container([*groups, *values[: k + 1]])
        except Exception:  # noqa: BLE001  # whatever it is, it is this override's
            return each.lstrip("+")
    return "the configuration"


def check(overrides: Sequence[str]) -> Settings:
    """Compose and check a configuration without running it.

    Raises
    ------
    ConfigError
        Something is wrong with it.
    """
    experiment = _experiment(overrides)
    return checked(_compose(overrides), experiment)


def default_out(name: str) -> Path:
    """A folder under ``reports/`` that does not exist yet."""
    stem = f"{name}-{dt.datetime.now().astimezone():%Y%m%d-%H%M%S}"
    return next(
        path
        for k in range(1, 1000)
        if not (path := Path("reports") / (stem if k == 1 else f"{stem}-{k}")).exists()
    )


@inputs.refused("the run folder cannot be made")
def _new_folder(settings: Settings) -> RunFolder:
    path = (
        default_out(settings.experiment)
        if settings.common.out is None
        else Path(settings.common.out)
    )
    RunFolder.check_new(path)
    return RunFolder(path, new=True)


@inputs.refused("the run cannot be continued")
def _resumed(overrides: Sequence[str], keys: set[str]) -> tuple[str, dict[str, Any], RunFolder]:
    """Experiment, configuration and folder of a run that is to be continued."""
    given = dict(map(split, overrides))
    folder = RunFolder.open(path_of("resume", overrides))
    info = folder.info
    experiment = info.get("experiment")
    if not isinstance(experiment, str):
        raise ConfigError(f"{folder.path}: its run.json names no experiment")
    other = sorted(keys - set(RESUMABLE_KEYS))
    if other:
        raise ConfigError(
            f"{other[0]}={given[other[0]]}: with resume= only workers and cluster may change, the"
            " rest stays as it was"
        )
    if "exp" in given and given["exp"] != experiment:
        raise ConfigError(f"exp={given['exp']}: {folder.path} is a run of {experiment}")
    if info.get("status") == "done":
        raise ConfigError(
            f"resume={folder.path}: that run is done; render it again with python -m klbench report"
            f" {folder.path}"
        )
    folder.check_free()
    config = inputs.read_yaml(folder.path / "config.yaml")
    if not isinstance(config, dict):
        raise ConfigError(f"{folder.path / 'config.yaml'}: expected keys and values")
    config = {str(key): value for key, value in config.items()}
    config |= {
        key: yaml.safe_load(given[key]) for key in ("workers", "cluster", "address") if key in given
    }
    return experiment, config, folder
