"""The text of ``klbench --help``."""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import fill

from klbench import claims, estimators, gradients, pairs
from klbench.engine import OPTIONS
from klbench.engine.conf import experiments


def text() -> str:
    """Return what there is: keys, options, experiments, pairs, estimators, combinations, claims."""

    def listed(title: str, names: list[str]) -> str:
        return f"{title}:\n" + fill(
            ", ".join(names),
            118,
            initial_indent="  ",
            subsequent_indent="  ",
            break_long_words=False,
        )

    def block(title: str, lines: Mapping[str, str]) -> str:
        width = max(map(len, lines))
        return "\n".join(
            [f"{title}:", *(f"  {name:<{width}}  {text}" for name, text in lines.items())]
        )

    return "\n\n".join(
        [
            (
                "python -m klbench +exp=NAME [key=value ...]   measure estimators of the KL"
                " divergence\npython -m klbench -m +exp=NAME key=a,b ...     one run for each"
                " value\npython -m klbench resume=RUN                   continue an unfinished"
                " run\npython -m klbench audit TARGET                 is this KL function, this"
                " loss, right? (audit --help)\npython -m klbench doctor FILE ...              what"
                " is going on in my run? (doctor --help)\npython -m klbench advise --tokens N ...  "
                "      which estimator, gradient, weight? (advise --help)\npython -m klbench"
                " translate SETTING --to NAME  this KL setting in another trainer"
                " (translate --help)\npython -m klbench report"
                " RUN [RUN ...]         render again, or one page from several runs (report --help)"
            ),
            block(
                "common keys",
                {
                    "seed": "all random numbers come from it (0)",
                    "samples": "samples drawn from each pair",
                    "estimators": (
                        f"a list, [k1,k3,k_lambda:0.3], or a set: {', '.join(estimators.sets())}"
                    ),
                    "workers": "processes (the cores of this machine)",
                    "device": "cpu or cuda, for the studies that use torch",
                    "out": "the run folder (reports/EXPERIMENT-TIME)",
                },
            ),
            block("options", OPTIONS),
            block("experiments", experiments()),
            block(
                "pairs (pair=NAME pair.q.KEY=... pair.p.KEY=...)",
                {name: pairs.get(name).summary for name in pairs.names()},
            ),
            block(
                "estimators", {name: estimators.get(name).summary for name in estimators.names()}
            ),
            listed("combinations (of +exp=gradient and +exp=staleness)", gradients.names()),
            listed("claims (of +exp=claims)", claims.names()),
        ]
    )
