"""``python -m klbench +exp=NAME key=value ...``."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line and exit with its code."""
    from klbench.cli import command_line

    sys.exit(command_line(sys.argv[1:]))


if __name__ == "__main__":
    main()
