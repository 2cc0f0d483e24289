"""DPO on language models.

Where each loss leads from the same ranked pairs, and what samples say of the KL on the way.
"""

from __future__ import annotations

from klbench.context import Context
from klbench.rows import Row
from klbench.schema import Tables
from klbench.studies.dpo_lm.tasks import perform
from klbench.studies.language import tables
from klbench.studies.language.options import DpoLmOptions
from klbench.studies.language.preferences import check
from klbench.studies.language.runs import UNTRAINED, all_of
from klbench.studies.language.stage import prepared
from klbench.study import Summary


def run(options: DpoLmOptions, context: Context) -> Tables:
    """Tables ``training``, ``compared`` and ``texts``."""
    place, shared = prepared(options, context)
    context.group.agreed(lambda: check(options, shared))
    names = (UNTRAINED, *(arm.name for arm in options.arms))
    found = all_of(perform, options, context, place, names)
    if not any(result["rows"] for result in found):
        return {}

    def described(name: str) -> Row:
        arm = next((each for each in options.arms if each.name == name), None)
        # The penalty of DPO is none that is estimated: it is in the loss, for whole sequences; k1
        # tells its KL.
        fixed = {
            "combination": name,
            "estimator": "none",
            "placement": "loss",
            "level": "sequence",
            "correction": "none",
        }
        own = (
            {}
            if arm is None
            else {
                "divergence": "none" if arm.score == "log_prob_per_token" else arm.divergence,
                "smoothing": arm.smoothing,
                "beta_dpo": arm.beta,
            }
        )
        return fixed | {"baseline": "none"} | own

    return {
        "training": tables.trained_table(found, "dpo", options.beta, described),
        "compared": tables.compared_table(found, options.arms[0].name, described),
        "texts": tables.texts_table(found),
    }


def summarize(results: Tables) -> list[Summary]:
    """Return the end of training with every loss."""
    table = results["compared"]
    columns = ("loss", ">reward", ">KL, exact", ">k1", ">k2", ">k3")
    cells = (
        "{combination}",
        "{reward:.3f} ± {reward_se:.3f}",
        "{kl:.2f} ± {kl_se:.2f}",
        "{k1:.2f} ± {k1_se:.2f}",
        "{k2:.2f} ± {k2_se:.2f}",
        "{k3:.2f} ± {k3_se:.2f}",
    )
    seeds = table["seeds"].iloc[0]
    title = f"After DPO, nats a completion, mean of {seeds} seeds (± one standard error)"
    return [Summary.of(title, columns, cells, table)]
