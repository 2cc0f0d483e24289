import hashlib

from klbench.lm import corpus as module
from klbench.lm.corpus import corpus


def test_the_corpus_names_its_text_by_its_hash() -> None:
    assert corpus().sha256 == hashlib.sha256(module.text().encode()).hexdigest()
    assert len(module.text()) > 300_000


def test_the_corpus_is_made_the_same_way_again() -> None:
    assert corpus.__wrapped__() == corpus()


def test_no_sentence_is_there_twice_and_the_part_is_a_part() -> None:
    found = corpus()
    assert len(set(found.train)) == len(found.train) > 1_000
    assert 0.05 * len(found.train) < len(found.part) < 0.5 * len(found.train)
    assert set(found.part) < set(found.train)
    for sentence in found.train:
        assert module.FEW_CHARACTERS <= len(sentence) <= module.MANY_CHARACTERS
        assert sentence == " ".join(sentence.split())


def test_prompts_begin_sentences_that_nothing_is_trained_on() -> None:
    found = corpus()
    held = [
        s
        for s in set(module.sentences(module.text())) - set(found.train)
        if hash_of(s) % module.HELD_OUT == 0
    ]
    beginnings = {" ".join(s.split()[: module.PROMPT_WORDS]) for s in held}
    assert len(set(found.prompts)) == len(found.prompts) > 100
    assert len(beginnings & set(found.prompts)) > 0.9 * len(found.prompts)
    assert not any(hash_of(s) % module.HELD_OUT == 0 for s in found.train)


def hash_of(sentence: str) -> int:
    return hashlib.sha256(sentence.encode()).digest()[0]


def test_paragraphs_are_prose() -> None:
    content = (
        "Title\n*****\n\nOne\nparagraph. Two.\n\n+---+\n| a |\n+---+\n\n"
        "foo ::= bar | baz\n\n   Indented prose.\n\n>>> 1\n"
    )
    assert module.paragraphs(content) == ["One paragraph. Two.", "Indented prose."]
