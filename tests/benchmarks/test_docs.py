"""The pages of docs/ that are made from data are those that the data make."""

import re

import documents
import pytest

from klbench import trainers
from klbench.columns import COMBINATIONS

pytestmark = pytest.mark.skipif(
    not documents.PUBLISHED.is_dir(), reason="a distribution without the published findings"
)


def test_the_table_is_made_from_the_data() -> None:
    text = documents.TRAINERS.read_text(encoding="utf-8")
    assert documents.replaced(text) == text, "make tables writes it again"


def test_a_table_that_is_not_there_is_said() -> None:
    with pytest.raises(ValueError, match="no table that begins with"):
        documents.replaced("# A page\n")


def test_every_trainer_with_a_named_combination_is_in_it() -> None:
    text = "\n".join(documents.table())
    named = {
        each.trainer
        for each in trainers.spellings()
        if each.meaning.named not in ("", trainers.NONE)
    }
    assert len(named) > 12
    for trainer in named:
        assert trainer in text
    assert "| TRL RLOO;" in text
    assert "the gradient of KL(q‖p)" in text
    assert "TRL GRPO (by default since 1.10)" in text


def test_the_data_dictionary_is_that_of_the_declared_tables() -> None:
    text = documents.DICTIONARY.read_text(encoding="utf-8")
    assert text.splitlines() == list(documents.dictionary()), "make tables writes it again"


def test_the_dictionary_has_a_line_for_each_column() -> None:
    lines = list(documents.described([COMBINATIONS]))
    assert lines[1] == "### `combinations`"
    assert "| `level` | text |  | per token, or once for the whole sequence |" in lines
    assert sum(line.startswith("| `") for line in lines) == len(COMBINATIONS.columns)


def test_the_footguns_have_the_numbers_of_the_findings() -> None:
    text = documents.FOOTGUNS.read_text(encoding="utf-8")
    assert text == documents.footguns(), "make tables writes it again"
    assert "k3_loss` is 11 % and 57 % off" in text


def test_the_numbers_that_the_guides_repeat_are_those_of_the_findings() -> None:
    """A number that is typed into a guide, beside the one that it repeats."""
    guides = documents.ROOT / "docs"
    training, estimators = (
        " ".join((guides / f"{name}.md").read_text(encoding="utf-8").split())
        for name in ("training", "estimators")
    )
    reached = {
        row["pairs"]: row for row in documents.published("dpo", "dpo_final") if row["arm"] == "dpo"
    }
    start = documents.published("dpo", "dpo_optima")[0]["start"]
    few, many = reached[256], reached[16384]
    for sentence in (
        f"the reference being at {start:.1f}: with 256 pairs",
        f"standard DPO ends at {few['last']:.1f}, further off than it began",
        f"had been at {few['best']:.2f}; with 16,384 it ends at {many['last']:.2f}.",
    ):
        assert sentence in training
    final = {row["combination"]: row for row in documents.published("ppo", "final")}["k1_reward"]
    left = final["regret"] / final["start_regret"]
    assert f"`k1_reward` leaves {100 * left:.0f} % of the regret before training" in training
    found = (documents.PUBLISHED / "README.md").read_text(encoding="utf-8")
    assert (fewer := re.search(r"[\d.]+ to [\d.]+ times fewer completions", estimators))
    assert fewer[0] in found
