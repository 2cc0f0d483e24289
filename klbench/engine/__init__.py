"""The engine: from a command line to a run folder."""

DONE, FAILED, WRONG, INTERRUPTED = 0, 1, 2, 130
"""Exit codes."""
VERBS = {
    "audit": "klbench.engine.audit",
    "doctor": "klbench.engine.doctor",
    "advise": "klbench.advise.command",
    "translate": "klbench.translate.command",
    "report": "klbench.report.__main__",
}
"""The modules of the verbs, each imported when it is asked for.

``main(arguments)`` returns the exit code.
"""
