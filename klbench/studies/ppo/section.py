"""The section of the training study: what each estimator, in its place, makes of a policy."""

from __future__ import annotations

from collections.abc import Sequence

from klbench.report import terms
from klbench.report.blocks import Block, Section, Tables
from klbench.schema import Schema
from klbench.studies.ppo import section_answer, section_figures, section_recovery, section_tables
from klbench.studies.ppo.section_data import ALGORITHMS, load


def answer(tables: Tables) -> Sequence[Block]:
    """What the top of the page says."""
    return section_answer.answer([trained for trained in load(tables) if trained.final])


def build(tables: Tables) -> Sequence[Block]:
    """Figures and tables of each run."""
    return [
        block
        for trained in load(tables)
        if trained.final
        for part in (section_answer.heading, section_figures.figures, section_tables.tables, section_recovery.table)
        for block in part(trained)
    ]


TERMS = (
    terms.DISTRIBUTIONS,
    terms.RATIO,
    terms.SCHULMAN,
    *terms.GRADIENTS,
    ("β", "The penalty's weight: training is to make E r − β KL(q‖p) large."),
    (
        "J, J*, regret",
        (
            "J is that objective of a policy, exactly; J* the largest there is. It belongs to the reference times exp(r/β), "
            "normalised. The regret J* − J is β times the KL of the policy from that one."
        ),
    ),
    (
        "fixed point",
        (
            "A policy at which the mean gradient of the whole objective is zero: training can rest nowhere else. If it is not "
            "the optimum, its regret is a floor."
        ),
    ),
    (
        "seed",
        "One draw of reference, reward and random numbers, the same for all combinations; differences are taken seed by seed.",
    ),
    (
        "95 % interval",
        (
            "Of a mean over seeds. From 8 seeds on they are drawn again with replacement, 9,999 times, and the interval is "
            "where so many of the means fall that it covers 95 % (bootstrap, BCa). Of fewer seeds: Student's t."
        ),
    ),
    ALGORITHMS,
    ("clip, clamp", "A clip stops the gradient where the ratio q/μ leaves 1 ± 0.2 or so; a clamp cuts off the penalty itself."),
)

SECTION = Section("What training makes of it", Schema("training", "", ()), build, answer, order=10, terms=TERMS)
