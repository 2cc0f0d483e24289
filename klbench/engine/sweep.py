"""``-m``: one run for each combination of values, by Hydra's sweeper and launcher, and one
report over all of them.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, RangeSweep
from hydra.errors import HydraException
from omegaconf import OmegaConf

from klbench import inputs, report
from klbench.engine import DONE, FAILED, INTERRUPTED, app
from klbench.engine.execution import execute
from klbench.runs import RunFolder
from klbench.types import ConfigError, RunError


def _job(config: Any) -> str:
    """One job of a sweep, in whatever process the launcher starts."""
    hydra = HydraConfig.get()
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    out = Path(hydra.runtime.output_dir)
    settings = app.checked({str(k): v for k, v in plain.items()}, hydra.runtime.choices["exp"])
    try:
        result = execute(settings, RunFolder(out), list(hydra.overrides.task))
    except (ConfigError, RunError) as error:
        print("klbench:", *str(error).splitlines(), file=sys.stderr)
        return "failed"
    if result.status == "interrupted":
        raise KeyboardInterrupt
    return result.status


MOST_JOBS = 1_000
"""Runs of a sweep: each is checked before the first one starts, which takes a tenth of a second."""


def _count(sweeps: Iterable[Any]) -> int:
    """The number of runs that overrides with several values ask for, without listing them."""
    jobs = 1
    for each in sweeps:
        values, override = each.value(), f"{each.input_line.lstrip('+'):.80}"
        if isinstance(values, RangeSweep):
            found = _length(override, values.start or 0, values.stop or 0, values.step)
        elif isinstance(values, ChoiceSweep):
            found = len(values.list)
        else:
            raise ConfigError(f"{override}: expected values, a,b,c, or range(start,stop,step)")
        if not found:
            raise ConfigError(f"{override}: there is no value in it")
        jobs *= found
    if jobs > MOST_JOBS:
        raise ConfigError(
            f"-m: these are {jobs:,} runs, expected {MOST_JOBS:,} at most; start several sweeps"
        )
    return jobs


def _length(override: str, start: float, stop: float, step: float) -> int:
    if not all(math.isfinite(each) for each in (start, stop, step)) or step == 0:
        raise ConfigError(
            f"{override}: expected range(start,stop,step) of finite numbers, with a step that is"
            " not 0"
        )
    length = (stop - start) / step
    if not math.isfinite(length):
        raise ConfigError(f"{override}: the step is too small for the range")
    return max(0, math.ceil(length))


@inputs.refused("the sweep cannot be made")
def _check(overrides: Sequence[str]) -> int:
    """Compose and check every job before the first one starts, so that a wrong one costs
    nothing; gives their number.
    """
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except HydraException as error:
        raise ConfigError(str(error).splitlines()[0]) from None
    jobs = _count(each for each in parsed if each.is_sweep_override())
    for job in itertools.product(*map(_values, parsed)):
        app.check(job)
    return jobs


def _values(override: Override) -> list[str]:
    """The overrides with one value each that an override of a sweep stands for."""
    key = override.get_key_element()
    values = (
        override.sweep_string_iterator()
        if override.is_sweep_override()
        else [override.get_value_element_as_str()]
    )
    return [f"{key}={value}" for value in values]


def sweep(arguments: Sequence[str]) -> int:
    """Run a sweep and render one report over its jobs.

    Raises
    ------
    ConfigError
        A job's configuration is wrong; none was started.
    """
    overrides = app.normalized(arguments)
    given = dict(map(app.split, overrides))
    if "resume" in given:
        raise ConfigError(
            "resume cannot be swept: continue each job by itself with resume=SWEEP/NUMBER"
        )
    root = app.path_of("out", overrides) if "out" in given else None
    overrides = [each for each in overrides if app.split(each)[0] != "out"]
    jobs = _check(overrides)
    root = root or app.default_out(f"{given['exp'].replace(',', '-')}-sweep")
    RunFolder.check_new(root)
    made = [root, *app.missing_parents(root)]
    RunFolder(root).create()
    quoted = str(root).replace("'", r"\'")
    own = [
        f"hydra.sweep.dir='{quoted}'",
        "hydra.sweep.subdir=${hydra.job.num}",
    ]  # whatever an experiment's file says
    try:
        with app.initialized() as hydra:
            hydra.multirun("config", _job, [*overrides, *own])
    except KeyboardInterrupt:
        print(
            f"klbench: interrupted; continue a job with: python -m klbench resume={root}/NUMBER",
            file=sys.stderr,
        )
        return INTERRUPTED
    except Exception as error:
        app.remove_empty(made)
        raise RunError(
            f"the sweep failed: {type(error).__name__}: {' '.join(str(error).split())}; see {root}"
        ) from error
    folders = sorted(
        (path.parent for path in root.glob("*/run.json")),
        key=lambda path: (len(path.name), path.name),
    )
    done = [path for path in folders if RunFolder(path).info["status"] == "done"]
    if not done:
        raise RunError(f"all {jobs} jobs failed; see {root}/*/log.txt")
    if len(done) < jobs:
        print(
            f"klbench: {jobs - len(done)} of {jobs} jobs failed; see {root}/*/log.txt",
            file=sys.stderr,
        )
    print(report.combine(done, root / "index.html"))
    return DONE if len(done) == jobs else FAILED
