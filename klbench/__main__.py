"""``python -m klbench +exp=NAME key=value ...``."""

from __future__ import annotations

import signal
import sys


def main() -> None:
    """Run the command line and exit with its code."""
    stops = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    for stop in (each for each in stops if signal.getsignal(each) is signal.SIG_DFL):
        signal.signal(stop, signal.default_int_handler)  # what is finished is kept, as on Ctrl-C
    from klbench import lm, processes
    from klbench.engine.cli import command_line

    processes.own = True
    lm.large_pages()
    code = processes.exit_code(lambda: command_line(sys.argv[1:]), "klbench")
    for stop in (signal.SIGINT, *stops):
        signal.signal(
            stop, signal.SIG_IGN
        )  # all is done: Ctrl-C while the interpreter ends is no news
    sys.exit(code)


if __name__ == "__main__":
    main()
