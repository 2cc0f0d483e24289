"""The parts that training language models by PPO and by DPO have in common, and their part of
the page.
"""

from klbench.study import Study


def study(name: str, summary: str, home: str, algorithm: str) -> Study:
    """Return the declaration of the study that trains language models by an algorithm."""
    return Study(
        name,
        summary,
        home,
        options_at=f"{__name__}.options:{algorithm.capitalize()}LmOptions",
        summarize_at=".run:summarize",
        tables_at=f"{__name__}.columns:{algorithm.upper()}",
        complete_at=f"{__name__}.tables:complete",
        section_at=f"{__name__}.section:{algorithm.upper()}",
        devices=("cpu", "cuda"),
        shares=True,
    )
