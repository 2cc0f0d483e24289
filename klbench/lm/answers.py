"""Files of labelled answers as people have them.

Ranked pairs, scored answers, answers with a label of their own.

JSON lines, JSON, CSV or Parquet; texts, or conversations of messages. What such a file holds is
text and nothing else.

- ``prompt``, ``chosen``, ``rejected``: texts or messages; without ``prompt``, or where both answers
  repeat it, it is what the two begin with alike (Anthropic's HH, UltraFeedback binarised).
- ``messages``, the last of which is the better answer, and ``rejected_response`` or
  ``rejected_messages``; or ``messages`` as the prompt, beside ``chosen`` and ``rejected``.
- ``instruction`` and ``completions``, each with ``response`` and ``overall_score`` (UltraFeedback):
  the best and the worst.
- ``prompt``, ``completion``, ``label``, or ``messages`` and ``label``: one answer, which is
  desirable or not (KTO).
"""

from __future__ import annotations

import ast
import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from klbench import inputs
from klbench.lm import rows
from klbench.types import ConfigError

Messages = tuple[Mapping[str, str], ...]
Text = str | Messages
"""A text as it is, or messages that a chat template makes one."""

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
WANTED = (
    f"expected {', '.join(SUFFIXES)} with 'prompt', 'chosen', 'rejected', or with 'prompt',"
    " 'completion', 'label'; texts or messages"
)
PROMPTS = ("prompt", "instruction", "question", "messages", "conversations")
CHATS = ("messages", "conversations")
ROLES = {"human": "user", "gpt": "assistant"}
TURN = "\n\nAssistant:"
"""The words before an answer in Anthropic's HH."""
MESSAGE = re.compile(r"\s*\[\{'(role|from|content|value)': ")
"""The beginning of messages as Python writes them."""
LABELS = {"true": True, "false": False, "1": True, "0": False, "1.0": True, "0.0": False}


@dataclass(frozen=True)
class Answer:
    """An answer to a prompt, and whether it is the better one of a pair, or a desirable one.

    Both are texts, or both are messages.
    """

    prompt: Text
    completion: Text
    good: bool


@dataclass(frozen=True)
class Answers:
    """The labelled answers of a file.

    Parameters
    ----------
    good, bad
        The better and the worse one of each pair; or, where none are paired, desirable and
        undesirable ones.
    paired
        Whether answers of one place belong to one prompt.
    """

    good: list[Answer]
    bad: list[Answer]
    paired: bool


def check_path(path: str) -> None:
    """Check that there is a file of a known format, without reading it.

    Raises
    ------
    ConfigError
        There is none.
    """
    place = inputs.expanded(path)
    found = inputs.kind(place)
    if found != inputs.FILE:
        raise ConfigError(
            f"{path}: {'no such file, it is a folder' if found == inputs.FOLDER else found};"
            f" {WANTED}"
        )
    if place.suffix not in SUFFIXES:
        raise ConfigError(
            f"{path}: unknown format {place.suffix or 'without a suffix'!r}; {WANTED}"
        )


def load(path: str) -> Answers:
    """The labelled answers of a file.

    Raises
    ------
    ConfigError
        Which file, row and key, and what was expected there.
    """
    check_path(path)
    file = inputs.expanded(path)
    with inputs.refused(f"{file}: cannot be read as {file.suffix[1:]}"):
        found = [parsed(row, where) for where, row in records(file)]
    if not found:
        raise ConfigError(f"{path}: there is nothing in it; {WANTED}")
    paired = len(found[0]) == 2
    if odd := next((i for i, each in enumerate(found, 1) if (len(each) == 2) != paired), 0):
        raise ConfigError(
            f"{path}: row {odd} has a label of its own and others are pairs, or the other way round"
        )
    flat = [answer for row in found for answer in row]
    good, bad = ([each for each in flat if each.good is wanted] for wanted in (True, False))
    if not good or not bad:
        raise ConfigError(
            f"{path}: every label is {'true' if good else 'false'}; expected some of each"
        )
    return Answers(good, bad, paired)


def records(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the rows of a file, each with its place in words."""
    if file.suffix == ".parquet":
        for number, row in enumerate(rows.parquet(file), 1):
            yield f"{file}, row {number}", row
        return
    text = inputs.read_text(file).removeprefix("\ufeff")
    if file.suffix == ".csv":
        for number, row in enumerate(csv.DictReader(io.StringIO(text, newline="")), 1):
            where = f"{file}, row {number}"
            yield where, {key: _cell(value, where) for key, value in row.items() if key}
    elif file.suffix == ".json" and text.lstrip().startswith("["):
        for number, row in enumerate(json.loads(text), 1):
            yield _checked(row, f"{file}, row {number}")
    else:
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                with inputs.refused(f"{file}, line {number}: not JSON"):
                    row = json.loads(line)
                yield _checked(row, f"{file}, line {number}")


def _checked(row: Any, where: str) -> tuple[str, Mapping[str, Any]]:
    if not isinstance(row, dict):
        raise ConfigError(f"{where}: expected an object, this is {type(row).__name__}; {WANTED}")
    return where, row


def _cell(value: Any, where: str) -> Any:
    """Messages in a cell are JSON, or as pandas writes a list of dictionaries.

    Raises
    ------
    ConfigError
        They are as pandas writes an array of them, which cannot be read.
    """
    if not isinstance(value, str) or value.lstrip()[:2] not in ("[{", "[]"):
        return value
    try:
        return json.loads(value)
    except ValueError:
        if not MESSAGE.match(value):
            return value
    with inputs.refused(f"{where}: messages in a cell must be JSON"):
        return ast.literal_eval(value.strip())


def parsed(row: Mapping[str, Any], where: str) -> tuple[Answer, ...]:
    """The two answers of a pair, or the one of a row with a label.

    Raises
    ------
    ConfigError
        Which key, and what was expected there.
    """
    given = {key: value for key, value in row.items() if value is not None}
    prompt = next((text(given[key], key, where) for key in PROMPTS if key in given), None)
    if "label" in given:
        return (_labelled(given, prompt, where),)
    if "completions" in given:
        return _ranked(given["completions"], prompt, where)
    if "chosen" in given and "rejected" in given:
        both = [text(given[key], key, where) for key in ("chosen", "rejected")]
    elif rejected := next(
        (key for key in ("rejected_response", "rejected_messages") if key in given), None
    ):
        if isinstance(prompt, str) or prompt is None or len(prompt) < 2:
            raise ConfigError(
                f"{where}: {rejected!r} goes with 'messages' that end with the better answer"
            )
        worse = text(given[rejected], rejected, where)
        whole = rejected == "rejected_messages"
        both = [prompt if whole else prompt[-1:], worse]
        prompt = None if whole else prompt[:-1]
    else:
        lacking = [key for key in ("chosen", "rejected") if key not in given]
        raise ConfigError(
            f"{where}: no key {lacking[0]!r}; expected prompt, chosen, rejected, or prompt,"
            f" completion, label; this one has {', '.join(map(str, row)) or 'none'}"
        )
    return _pair(prompt, both[0], both[1], where)


def _pair(prompt: Text | None, better: Text, worse: Text, where: str) -> tuple[Answer, ...]:
    if isinstance(better, str) and isinstance(worse, str):
        if prompt is None:
            prompt = _common_text(better, worse)
            better, worse = better[len(prompt) :], worse[len(prompt) :]
    else:
        better, worse = messages(better, "assistant"), messages(worse, "assistant")
        shared = _alike(better[:-1], worse[:-1])
        # The prompt again, or turns after it.
        repeated = prompt is None or better[0]["role"] != "assistant"
        before = () if repeated or prompt is None else messages(prompt, "user")
        prompt, better, worse = before + better[:shared], better[shared:], worse[shared:]
    if better == worse:
        raise ConfigError(f"{where}: 'chosen' and 'rejected' are the same")
    if not prompt or not better or not worse:
        raise ConfigError(
            f"{where}: no prompt: 'chosen' and 'rejected' must begin alike and then differ, or"
            " 'prompt' be given"
        )
    return _answer(prompt, better, True), _answer(prompt, worse, False)


def messages(text: Text, role: str) -> Messages:
    """Messages as they are, or one of that role with the text."""
    return ({"role": role, "content": text},) if isinstance(text, str) else text


def _answer(prompt: Text, completion: Text, good: bool) -> Answer:
    """An answer of which both parts are texts, or both messages."""
    if isinstance(prompt, str) and isinstance(completion, str):
        return Answer(prompt, completion, good)
    return Answer(messages(prompt, "user"), messages(completion, "assistant"), good)


def _common_text(better: str, worse: str) -> str:
    """Return the beginning that two texts share, up to the answer's turn or else to the end of a
    word.
    """
    shared = better[: _alike(better, worse)]
    turn = shared.rfind(TURN)
    return shared[: turn + len(TURN)] if turn >= 0 else shared[: max(map(shared.rfind, " \n"))]


def _alike(first: Sequence[Any], second: Sequence[Any]) -> int:
    """Return the number of items that two sequences begin with alike."""
    both = zip(first, second, strict=False)
    most = min(len(first), len(second))
    return next((i for i, (one, other) in enumerate(both) if one != other), most)


def _ranked(completions: Any, prompt: Text | None, where: str) -> tuple[Answer, ...]:
    if prompt is None or not isinstance(completions, list) or len(completions) < 2:
        raise ConfigError(f"{where}: 'completions' must be two or more answers to an 'instruction'")
    scored = []
    for each in completions:
        score = each.get("overall_score") if isinstance(each, dict) else None
        if isinstance(score, bool) or not isinstance(score, int | float) or score != score:
            raise ConfigError(
                f"{where}: each of 'completions' must have 'response' and a number 'overall_score'"
            )
        scored.append((float(score), text(each.get("response"), "response", where)))
    best, worst = max(scored, key=lambda each: each[0]), min(scored, key=lambda each: each[0])
    if best[0] == worst[0]:
        raise ConfigError(
            f"{where}: all of 'completions' have the score {best[0]:g}: none is better; leave the"
            " row out"
        )
    return _pair(prompt, best[1], worst[1], where)


def _labelled(given: Mapping[str, Any], prompt: Text | None, where: str) -> Answer:
    label = given["label"]
    good = label if isinstance(label, bool) else LABELS.get(str(label).strip().lower())
    if good is None:
        raise ConfigError(f"{where}: 'label' must be true or false, got {label!r:.60}")
    if "completion" in given:
        completion = text(given["completion"], "completion", where)
    elif prompt is not None and not isinstance(prompt, str) and len(prompt) > 1:
        prompt, completion = prompt[:-1], prompt[-1:]
    else:
        raise ConfigError(f"{where}: no key 'completion'; {WANTED}")
    if not prompt:
        raise ConfigError(f"{where}: no key 'prompt'; {WANTED}")
    return _answer(prompt, completion, good)


def text(value: Any, key: str, where: str) -> Text:
    """A text, or messages, checked.

    Raises
    ------
    ConfigError
        It is neither.
    """
    if isinstance(value, dict):
        value = [value]
    if isinstance(value, str) and value:
        with inputs.refused(f"{where}: {key!r} must be text"):
            inputs.check_text(value)
        return value
    if isinstance(value, Sequence) and not isinstance(value, str) and value:
        return tuple(_message(each, key, where) for each in value)
    raise ConfigError(
        f"{where}: {key!r} must be text that is not empty, or messages, got {value!r:.60}"
    )


def _message(value: Any, key: str, where: str) -> Mapping[str, str]:
    said = value if isinstance(value, dict) else {}
    role, content = said.get("role", said.get("from")), said.get("content", said.get("value"))
    if isinstance(content, list):  # parts, of which only texts are meant here
        parts = [part.get("text") if isinstance(part, dict) else None for part in content]
        texts = [part for part in parts if isinstance(part, str)]
        content = "".join(texts) if len(texts) == len(parts) else None
    if not isinstance(role, str) or not isinstance(content, str):
        raise ConfigError(
            f"{where}: {key!r} must be messages with texts 'role' and 'content', got {value!r:.60}"
        )
    with inputs.refused(f"{where}: {key!r} must be text"):
        inputs.check_text(role + content)
    return {"role": ROLES.get(role, role), "content": content}
