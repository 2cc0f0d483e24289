"""The command line: help, errors on one line, exit codes.

What a run needs is imported when there is one.
"""

from __future__ import annotations

import importlib
import io
import re
import sys
from collections.abc import Sequence

from klbench import processes
from klbench.engine import DONE, FAILED, INTERRUPTED, VERBS, WRONG, kept
from klbench.engine.conf import experiments
from klbench.errors import ConfigError, RunError
from klbench.machine import __version__
from klbench.registry import unknown


def command_line(arguments: Sequence[str]) -> int:
    """The command line: prints the summary and the report's path, and gives back the exit code.

    Of several processes that share a run only the main one prints, and all give back the same code.
    """
    processes.hush_helpers()
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="replace")  # a terminal that has no ‖ gets a question mark
    if arguments and arguments[0] in VERBS:
        verb = importlib.import_module(VERBS[arguments[0]])
        try:
            return int(verb.main(arguments[1:]))
        except KeyboardInterrupt:
            print("klbench: interrupted", file=sys.stderr)
            return INTERRUPTED
    if "--version" in arguments and not {"-h", "--help"} & set(arguments):
        print(__version__)
        return DONE
    try:
        if not arguments or {"-h", "--help"} & set(arguments):
            print(kept.help_text())
            return DONE
        _check_experiment(arguments)
        from klbench.engine import commands

        return commands.perform(arguments)
    except (ConfigError, RunError) as error:
        print("klbench:", *str(error).splitlines(), file=sys.stderr)
        return WRONG if isinstance(error, ConfigError) else FAILED
    except KeyboardInterrupt:
        print("klbench: interrupted", file=sys.stderr)
        return INTERRUPTED
    finally:
        processes.leave()


def _check_experiment(arguments: Sequence[str]) -> None:
    """Refuse an experiment that there is not, before all is imported that reads a command line.

    Only where each argument is a plain ``key=value``, so that nothing else can be wrong first.
    """
    plain = [re.fullmatch(r"\+{0,2}(?!hydra\b)([\w.]+)=([\w./+-]*)", each) for each in arguments]
    names = [each[2] for each in plain if each and each[1] == "exp"]
    if all(plain) and len(names) == 1 and names[0] not in (known := experiments()):
        raise unknown("experiment", names[0], known)
