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
OPTIONS = {
    "--cfg job|hydra|all": (
        "show the configuration instead of running it; --package=KEY for a part, --resolve for its"
        " values"
    ),
    "--info [WHAT]": (
        "show where it comes from: all, config, defaults, defaults-tree, plugins, searchpath"
    ),
    "--config-dir DIR": "a folder of your own, beside conf/: DIR/exp/NAME.yaml is +exp=NAME",
    "--shell-completion": 'eval "$(klbench --shell-completion install=bash)"; also zsh and fish',
}
"""The command line's options besides ``key=value``."""
