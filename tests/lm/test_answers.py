"""Labelled answers in every form that people have them in, and what is wrong with one."""

import csv
import json

import numpy as np
import pandas as pd
import pytest

from klbench.lm import answers
from klbench.lm.answers import Answer
from klbench.types import ConfigError


def said(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


ASK, GOOD, BAD = said("user", "Hi"), said("assistant", "Hello"), said("assistant", "No")
SYSTEM = said("system", "Be kind")
HH = "\n\nHuman: Hi\n\nAssistant:"
TALK = ((ASK,), (GOOD,), (BAD,))
PAIRS = {
    "texts": ({"prompt": "Hi", "chosen": " a", "rejected": " b"}, ("Hi", " a", " b")),
    "hh": ({"chosen": HH + " I do", "rejected": HH + " I can"}, (HH, " I do", " I can")),
    "implicit text": (
        {"chosen": "One two four", "rejected": "One two forty"},
        ("One two", " four", " forty"),
    ),
    "conversational": ({"prompt": [ASK], "chosen": [GOOD], "rejected": [BAD]}, TALK),
    "implicit messages": ({"chosen": [ASK, GOOD], "rejected": [ASK, BAD]}, TALK),
    "a message each": ({"messages": [ASK], "chosen": GOOD, "rejected": BAD}, TALK),
    "a text each": ({"prompt": [ASK], "chosen": "Hello", "rejected": "No"}, TALK),
    "UltraFeedback, binarised": (
        {
            "prompt": "Hi",
            "prompt_id": "0",
            "chosen": [ASK, GOOD],
            "rejected": [ASK, BAD],
            "messages": [ASK, GOOD],
            "score_chosen": 8.0,
            "score_rejected": 6.5,
        },
        TALK,
    ),
    "a prompt as text, answers as messages": (
        {"prompt": "Hi", "chosen": [GOOD], "rejected": [BAD]},
        TALK,
    ),
    "a system's message": (
        {"prompt": "Hi", "chosen": [SYSTEM, ASK, GOOD], "rejected": [SYSTEM, ASK, BAD]},
        ((SYSTEM, ASK), (GOOD,), (BAD,)),
    ),
    "several turns after the prompt": (
        {"prompt": [ASK], "chosen": [BAD, ASK, GOOD], "rejected": [BAD, ASK, BAD]},
        ((ASK, BAD, ASK), (GOOD,), (BAD,)),
    ),
    "messages that end with the better answer": (
        {"messages": [ASK, GOOD], "rejected_response": "No"},
        TALK,
    ),
    "and messages for the worse": (
        {"messages": [ASK, GOOD], "rejected_messages": [ASK, BAD]},
        TALK,
    ),
    "ShareGPT": (
        {
            "conversations": [{"from": "human", "value": "Hi"}],
            "chosen": {"from": "gpt", "value": "Hello"},
            "rejected": {"from": "gpt", "value": "No"},
        },
        TALK,
    ),
    "parts": (
        {
            "prompt": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
            "chosen": [GOOD],
            "rejected": [BAD],
        },
        TALK,
    ),
    "UltraFeedback": (
        {
            "instruction": "Hi",
            "models": ["a", "b", "c"],
            "completions": [
                {"response": "So", "overall_score": 6.0},
                {"response": "No", "overall_score": 2},
                {"response": "Hello", "overall_score": 8.5},
            ],
        },
        ("Hi", "Hello", "No"),
    ),
}


def write(folder, name: str, rows: list) -> str:
    path = folder / name
    if name.endswith(".jsonl"):
        path.write_text("\n".join(map(json.dumps, rows)) + "\n\n", encoding="utf-8")
    elif name.endswith(".json"):
        path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    elif name.endswith(".csv"):
        with path.open("w", encoding="utf-8-sig", newline="") as file:
            out = csv.DictWriter(file, list(rows[0]))
            out.writeheader()
            cells = (
                {k: v if isinstance(v, str) else json.dumps(v) for k, v in row.items()}
                for row in rows
            )
            out.writerows(cells)
    else:
        pd.DataFrame(rows).to_parquet(path)
    return str(path)


@pytest.mark.parametrize("form", PAIRS)
@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_pairs_in_every_form(tmp_path, form, name) -> None:
    row, (prompt, chosen, rejected) = PAIRS[form]
    found = answers.load(write(tmp_path, name, [row, row]))
    assert found.paired
    assert found.good == [Answer(prompt, chosen, True)] * 2
    assert found.bad == [Answer(prompt, rejected, False)] * 2


@pytest.mark.parametrize("form", ["texts", "conversational", "hh", "UltraFeedback, binarised"])
@pytest.mark.parametrize("name", ["a.json", "a.csv"])
def test_json_and_csv(tmp_path, form, name) -> None:
    row, (prompt, chosen, rejected) = PAIRS[form]
    found = answers.load(write(tmp_path, name, [row] * 3))
    assert found.good == [Answer(prompt, chosen, True)] * 3
    assert found.bad[0] == Answer(prompt, rejected, False)


def test_messages_in_a_csv_as_pandas_writes_them(tmp_path) -> None:
    row = {"chosen": [ASK, GOOD], "rejected": [ASK, BAD]}
    path = tmp_path / "a.csv"
    pd.DataFrame([row]).to_csv(path)
    assert answers.load(str(path)).bad == [Answer((ASK,), (BAD,), False)]
    arrays = pd.DataFrame([{key: np.array(each, dtype=object) for key, each in row.items()}])
    arrays.to_csv(path)  # as a column of Parquet is read
    with pytest.raises(ConfigError, match="row 1: messages in a cell must be JSON"):
        answers.load(str(path))
    pd.DataFrame([{"prompt": "x", "chosen": "[{1}]", "rejected": "[{2}]"}]).to_csv(path)
    assert answers.load(str(path)).good == [Answer("x", "[{1}]", True)]


@pytest.mark.parametrize("label", [(True, False), ("true", "False"), (1, 0), (1.0, 0.0)])
@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.json"])
def test_one_sided_labels(tmp_path, name, label) -> None:
    good, bad = label
    rows = [
        {"prompt": "x", "completion": " y", "label": good},
        {"prompt": "z", "completion": " w", "label": bad},
        {"prompt": "v", "completion": " u", "label": good},
    ]
    found = answers.load(write(tmp_path, name, rows))
    assert not found.paired
    assert [each.prompt for each in found.good] == ["x", "v"]
    assert found.bad == [Answer("z", " w", False)]


def test_messages_with_a_label() -> None:
    assert answers.parsed({"messages": [ASK, GOOD], "label": True}, "here") == (
        Answer((ASK,), (GOOD,), True),
    )
    one = {"prompt": "Hi", "completion": [BAD], "label": False}
    assert answers.parsed(one, "here") == (Answer((ASK,), (BAD,), False),)


def test_separators_of_unicode_are_no_ends_of_lines(tmp_path) -> None:
    path = tmp_path / "a.jsonl"
    row = {"prompt": "a\u2028b", "chosen": "\x85c", "rejected": "d"}
    path.write_text(json.dumps(row, ensure_ascii=False), encoding="utf-8")
    assert answers.load(str(path)).good == [Answer("a\u2028b", "\x85c", True)]


WRONG = [
    (
        {"prompt": "x", "chosen": "y"},
        "line 1: no key 'rejected'; expected prompt, chosen, rejected",
    ),
    ({"prompt": "x"}, "no key 'chosen'"),
    ({"prompt": "x", "chosen": "y", "rejected": ""}, "'rejected' must be text that is not empty"),
    ({"prompt": "x", "chosen": "y", "rejected": "y"}, "'chosen' and 'rejected' are the same"),
    ({"chosen": "yes", "rejected": "no"}, "must begin alike and then differ"),
    ({"chosen": [ASK, GOOD], "rejected": [SYSTEM, BAD]}, "must begin alike and then differ"),
    ({"prompt": "x", "chosen": [{"role": 1}], "rejected": [BAD]}, "messages with texts 'role' and"),
    ({"prompt": "x", "chosen": [[]], "rejected": [BAD]}, "messages with texts 'role' and"),
    (
        {
            "prompt": [{"role": "user", "content": [{"type": "image"}]}],
            "chosen": "a",
            "rejected": "b",
        },
        "messages with texts",
    ),
    (
        {"prompt": "x", "completion": "y", "label": "good"},
        "'label' must be true or false, got 'good'",
    ),
    ({"completion": "y", "label": True}, "no key 'prompt'"),
    ({"prompt": "x", "label": True}, "no key 'completion'"),
    ({"prompt": "x", "completion": "y", "label": True}, "every label is true"),
    ({"instruction": "x", "completions": [{"response": "y"}] * 2}, "a number 'overall_score'"),
    (
        {"instruction": "x", "completions": [{"response": c, "overall_score": 3} for c in "ab"]},
        "have the score 3: none is better",
    ),
    ({"messages": [GOOD], "rejected_response": "x"}, "goes with 'messages' that end with"),
    ([1], "expected an object, this is list"),
]


@pytest.mark.parametrize(("row", "message"), WRONG)
def test_what_is_wrong_with_a_row_is_one_line(tmp_path, row, message) -> None:
    path = write(tmp_path, "a.jsonl", [row])
    with pytest.raises(ConfigError) as error:
        answers.load(path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_wrong_with_a_file(tmp_path) -> None:
    mixed = [{"prompt": "x", "completion": "y", "label": True}, PAIRS["texts"][0]]
    with pytest.raises(ConfigError, match="row 2 has a label of its own and others are pairs"):
        answers.load(write(tmp_path, "mixed.jsonl", mixed))
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(
        ConfigError, match=r"unknown format '\.txt'; expected \.jsonl, \.json, \.csv"
    ):
        answers.load(str(tmp_path / "a.txt"))
    (tmp_path / "empty.json").write_text("[]")
    with pytest.raises(ConfigError, match="there is nothing in it"):
        answers.load(str(tmp_path / "empty.json"))
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(ConfigError, match="nested too deeply"):
        answers.load(str(tmp_path / "deep.json"))
    (tmp_path / "half.csv").write_bytes(b"prompt,chosen\n\xff\xfe,x\n")
    with pytest.raises(ConfigError, match="cannot be read as"):
        answers.load(str(tmp_path / "half.csv"))
