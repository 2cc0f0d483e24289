"""The text that the embedded models learn from.

The topics of Python's own help, on every CPython without a download.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cache

FEW_WORDS, FEW_CHARACTERS, MANY_CHARACTERS = 5, 24, 320
HELD_OUT = 10
"""One sentence in so many is never trained on: its beginning is a prompt."""
PROMPT_WORDS = 4
ON_TYPES = (
    "string-methods",
    "formatstrings",
    "strings",
    "typesseq",
    "typesseq-mutable",
    "typesmapping",
    "dict",
    "bltin",
)
"""Topics about the built-in types: the part that a policy is fine-tuned on."""

_PROSE = re.compile(r'[A-Z"*(]')
_SENTENCE_END = re.compile(r"(?<=[.:?])\s+(?=[A-Z])")


@dataclass(frozen=True)
class Corpus:
    """Sentences in a fixed order, no two the same.

    Parameters
    ----------
    sha256
        Of the text that they were cut from; it differs between minor versions of Python.
    train
        What the reference learns from.
    part
        The sentences among them that are about built-in types.
    prompts
        The first words of sentences that nothing was trained on.
    """

    sha256: str
    train: tuple[str, ...]
    part: tuple[str, ...]
    prompts: tuple[str, ...]


def text() -> str:
    """All topics, each under its name, in alphabetical order.

    About 465 thousand characters of English.
    """
    from pydoc_data.topics import topics

    return "\n\n".join(f"{name}\n\n{topics[name]}" for name in sorted(topics))


def paragraphs(content: str) -> list[str]:
    """The paragraphs of prose in a topic, each on one line.

    Tables, grammar, code and headings are left out.
    """
    blocks = (
        block
        for block in re.split(r"\n\s*\n", content)
        if not set(block) & set("|=\\") and "**\n" not in block + "\n"
    )
    return [
        " ".join(block.split())
        for block in blocks
        if _PROSE.match(block) or block.startswith("   ")
    ]


def sentences(content: str) -> list[str]:
    """The sentences of those paragraphs that are neither very short nor very long."""
    found = (
        sentence for paragraph in paragraphs(content) for sentence in _SENTENCE_END.split(paragraph)
    )
    return [
        sentence
        for sentence in found
        if FEW_CHARACTERS <= len(sentence) <= MANY_CHARACTERS
        and len(sentence.split()) >= FEW_WORDS
        and _PROSE.match(sentence)
    ]


@cache
def corpus() -> Corpus:
    """The corpus of this Python. Which sentences are held out depends on each sentence alone."""
    from pydoc_data.topics import topics

    origin: dict[str, set[str]] = {}
    for name in sorted(topics):
        for sentence in sentences(topics[name]):
            origin.setdefault(sentence, set()).add(name)
    held = {s for s in origin if hashlib.sha256(s.encode()).digest()[0] % HELD_OUT == 0}
    train = tuple(s for s in origin if s not in held)
    beginnings = (" ".join(s.split()[:PROMPT_WORDS]) for s in origin if s in held)
    return Corpus(
        hashlib.sha256(text().encode()).hexdigest(),
        train,
        tuple(s for s in train if any(name.startswith(ON_TYPES) for name in origin[s])),
        tuple(dict.fromkeys(beginnings)),
    )
