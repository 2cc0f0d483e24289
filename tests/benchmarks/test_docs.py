"""The pages of docs/ that are made from data are those that the data make."""

import documents
import pytest

from klbench import trainers

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


def test_the_footguns_have_the_numbers_of_the_findings() -> None:
    text = documents.FOOTGUNS.read_text(encoding="utf-8")
    assert text == documents.footguns(), "make tables writes it again"
    assert "k3_loss` is 11 % and 57 % off" in text
