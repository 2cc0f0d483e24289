"""The exceptions and warnings of klbench. It imports nothing, so that an error is told at once."""

from __future__ import annotations


class ConfigError(ValueError):
    """A user's mistake: one line that says which key, what came, and what is allowed.

    The command line exits with 2.
    """


class RunError(RuntimeError):
    """A run that was configured well and failed all the same. The command line exits with 1."""


class Notice(UserWarning):
    """Something to know of that stops nothing, such as a batch that was halved.

    One line on the terminal and in the log.
    """
