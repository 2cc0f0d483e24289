"""``-m``: one run for each combination of values, by Hydra's sweeper and launcher, and one report over all of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from klbench import app
from klbench.execution import execute
from klbench.runs import RunFolder
from klbench.types import ConfigError, RunError


def _job(config: Any) -> str:
    """One job of a sweep, in whatever process the launcher starts."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    from klbench.settings import settings

    hydra = HydraConfig.get()
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    out = Path(hydra.runtime.output_dir)
    checked = settings({str(k): v for k, v in plain.items()}, hydra.runtime.choices["exp"], app.conf_folder())
    try:
        result = execute(checked, RunFolder(out), list(hydra.overrides.task))
    except (ConfigError, RunError) as error:
        print("klbench:", *str(error).splitlines(), file=sys.stderr)
        return "failed"
    if result.status == "interrupted":
        raise KeyboardInterrupt
    return result.status


def _check(overrides: Sequence[str]) -> int:
    """Compose and check every job before the first one starts, so that a wrong one costs nothing; gives their number."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except HydraException as error:
        raise ConfigError(str(error).splitlines()[0]) from None
    jobs = [job for batch in BasicSweeper.split_arguments(parsed, max_batch_size=None) for job in batch]
    for job in jobs:
        app.check(job)
    return len(jobs)


def sweep(arguments: Sequence[str]) -> int:
    """Run a sweep and render one report over its jobs.

    Raises
    ------
    ConfigError
        A job's configuration is wrong; none was started.
    """
    import hydra

    from klbench import report

    overrides = app.normalized(arguments)
    given = dict(map(app.split, overrides))
    if "resume" in given:
        raise ConfigError("resume cannot be swept: continue each job by itself with resume=SWEEP/NUMBER")
    root = app.path_of("out", overrides) if "out" in given else None
    overrides = [each for each in overrides if app.split(each)[0] != "out"]
    jobs = _check(overrides)
    root = root or app.default_out(f"{given['exp'].replace(',', '-')}-sweep")
    RunFolder.check_new(root)
    RunFolder(root).create()
    quoted = str(root).replace("'", r"\'")
    program, sys.argv = sys.argv, ["klbench", "--multirun", *overrides, f"hydra.sweep.dir='{quoted}'"]
    full_error, os.environ["HYDRA_FULL_ERROR"] = os.environ.get("HYDRA_FULL_ERROR"), "1"  # Hydra raises, and does not exit
    try:
        hydra.main(version_base="1.3", config_path=str(app.conf_folder()), config_name="config")(_job)()
    except KeyboardInterrupt:
        print(f"klbench: interrupted; continue a job with: python -m klbench resume={root}/NUMBER", file=sys.stderr)
        return app.INTERRUPTED
    except Exception as error:
        raise RunError(f"the sweep failed: {type(error).__name__}: {' '.join(str(error).split())}; see {root}") from error
    finally:
        sys.argv = program
        if full_error is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = full_error
    folders = sorted((path.parent for path in root.glob("*/run.json")), key=lambda path: (len(path.name), path.name))
    done = [path for path in folders if RunFolder(path).info["status"] == "done"]
    if not done:
        raise RunError(f"all {jobs} jobs failed; see {root}/*/log.txt")
    if len(done) < jobs:
        print(f"klbench: {jobs - len(done)} of {jobs} jobs failed; see {root}/*/log.txt", file=sys.stderr)
    print(report.combine(done, root / "index.html"))
    return app.DONE if len(done) == jobs else app.FAILED
