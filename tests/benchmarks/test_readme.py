"""README's table of trainers is the one that their data and the published gradients make."""

import pytest
import readme

from klbench import trainers

pytestmark = pytest.mark.skipif(
    not readme.PUBLISHED.is_file(), reason="a distribution without the published findings"
)


def test_the_table_is_made_from_the_data() -> None:
    text = readme.README.read_text(encoding="utf-8")
    assert readme.replaced(text) == text, "make tables writes it again"


def test_a_table_that_is_not_there_is_said() -> None:
    with pytest.raises(ValueError, match="no table that begins with"):
        readme.replaced("# A README\n")


def test_every_trainer_with_a_named_combination_is_in_it() -> None:
    text = "\n".join(readme.table())
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
    text = readme.DICTIONARY.read_text(encoding="utf-8")
    assert text.splitlines() == list(readme.dictionary()), "make tables writes it again"
