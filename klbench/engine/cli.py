"""The command line: help, errors on one line, exit codes.

What a run needs is imported when there is one.
"""

from __future__ import annotations

import importlib
import io
import sys
from collections.abc import Sequence

from klbench import processes
from klbench.engine import DONE, FAILED, INTERRUPTED, VERBS, WRONG
from klbench.machine import __version__
from klbench.types import ConfigError, RunError


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
            from klbench.engine import help as help_text

            print(help_text.text())
            return DONE
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
