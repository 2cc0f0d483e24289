"""The command line: help, errors on one line, exit codes, the summary of a run."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Mapping, Sequence

from klbench import processes
from klbench.engine import inspection
from klbench.engine.app import DONE, FAILED, INTERRUPTED, WRONG, experiments, launch
from klbench.engine.execution import Run
from klbench.machine import __version__
from klbench.runs import RunFolder
from klbench.types import ConfigError, RunError


def command_line(arguments: Sequence[str]) -> int:
    """The command line: prints the summary and the report's path, and gives back the exit code.

    Of several processes that share a run only the main one prints, and all give back the same code.
    """
    processes.hush_helpers()
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="replace")  # a terminal that has no ‖ gets a question mark
    if arguments and arguments[0] == "audit":
        from klbench.audit.command import main as audit

        try:
            return audit(arguments[1:])
        except KeyboardInterrupt:
            print("klbench: interrupted", file=sys.stderr)
            return INTERRUPTED
    if not arguments or {"-h", "--help"} & set(arguments):
        print(_help())
        return DONE
    if "--version" in arguments:
        print(__version__)
        return DONE
    try:
        options, overrides = inspection.parse(arguments)
        if options.cfg or options.info or options.shell_completion:
            inspection.show(options, overrides)
            return DONE
        group = processes.join()
        if options.multirun:
            from klbench.engine.sweep import sweep

            if group.size > 1:
                raise ConfigError(f"-m: a sweep cannot be shared by {group.size} processes; start it by itself")
            return sweep(overrides)
        return _run(overrides, group)
    except (ConfigError, RunError) as error:
        print("klbench:", *str(error).splitlines(), file=sys.stderr)
        return WRONG if isinstance(error, ConfigError) else FAILED
    except KeyboardInterrupt:
        print("klbench: interrupted", file=sys.stderr)
        return INTERRUPTED
    finally:
        processes.leave()


def _run(overrides: Sequence[str], group: processes.Group) -> int:
    result = launch(overrides, group)
    if result is None:
        return group.from_main(DONE)
    code = _show(result)
    if result.status == "done":  # else the others are elsewhere, or gone
        with contextlib.suppress(RunError):
            group.from_main(code)
    return code


def _show(result: Run) -> int:
    from klbench import studies
    from klbench.engine.progress import print_summary

    study = studies.get(RunFolder(result.path).info["study"])
    if study.summarize is not None and result.tables:
        print_summary(study.summarize(result.tables))
    if result.status == "interrupted":
        print(f"klbench: interrupted; continue with: python -m klbench resume={result.path}", file=sys.stderr)
    report = result.path / "index.html"
    print(report if report.exists() else result.path)
    return INTERRUPTED if result.status == "interrupted" else DONE


def _help() -> str:
    from textwrap import fill

    from klbench import claims, estimators, gradients, pairs

    def listed(title: str, names: list[str]) -> str:
        return f"{title}:\n" + fill(", ".join(names), 118, initial_indent="  ", subsequent_indent="  ", break_long_words=False)

    def block(title: str, lines: Mapping[str, str]) -> str:
        width = max(map(len, lines))
        return "\n".join([f"{title}:", *(f"  {name:<{width}}  {text}" for name, text in lines.items())])

    return "\n\n".join(
        [
            (
                "python -m klbench +exp=NAME [key=value ...]   measure estimators of the KL divergence\n"
                "python -m klbench -m +exp=NAME key=a,b ...     one run for each value\n"
                "python -m klbench resume=RUN                   continue an unfinished run\n"
                "python -m klbench audit TARGET                 is this KL function, this loss, right? (audit --help)\n"
                "python -m klbench.report RUN [RUN ...]         render again, or one report from several runs"
            ),
            block(
                "common keys",
                {
                    "seed": "all random numbers come from it (0)",
                    "samples": "samples drawn from each pair",
                    "estimators": f"a list, [k1,k3,k_lambda:0.3], or a set: {', '.join(estimators.sets())}",
                    "workers": "processes (the cores of this machine)",
                    "device": "cpu or cuda, for the studies that use torch",
                    "out": "the run folder (reports/EXPERIMENT-TIME)",
                },
            ),
            block("options", inspection.OPTIONS),
            block("experiments", experiments()),
            block("pairs (pair=NAME pair.q.KEY=... pair.p.KEY=...)", {name: pairs.get(name).summary for name in pairs.names()}),
            block("estimators", {name: estimators.get(name).summary for name in estimators.names()}),
            listed("combinations (of +exp=gradient and +exp=staleness)", gradients.names()),
            listed("claims (of +exp=claims)", claims.names()),
        ]
    )
