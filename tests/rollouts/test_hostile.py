"""Files that are cut off, corrupted or absurd.

One line and exit code 2, or a finding; never a traceback.
"""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from shapes import WRITERS, rollouts

from klbench.engine.cli import command_line

ROW = {"logprobs": [-1.0, -2.0, -0.5], "rollout_logprobs": [-1.1, -1.9, -0.5]}
COPIES = 12


def doctor(capsys, path: Path) -> tuple[int, str, str]:
    code = command_line(["doctor", str(path)])
    said = capsys.readouterr()
    return code, said.out, said.err


def refused_or_read(code: int, out: str, err: str) -> None:
    assert code in {0, 1, 2}, (code, err)
    if code == 2:
        assert out == ""
        assert err.startswith("klbench: ")
        assert err.count("\n") == 1
    assert "Traceback" not in err
    assert "internal" not in err


@pytest.mark.parametrize("shape", WRITERS)
def test_a_file_of_any_shape_that_is_cut_off_or_junk(shape, tmp_path, capsys) -> None:
    path = WRITERS[shape](tmp_path, rollouts(12))
    file = sorted(each for each in path.rglob("*.arrow"))[0] if path.is_dir() else path
    whole = file.read_bytes()
    capsys.readouterr()  # of the writer
    noise = np.random.default_rng(0).bytes(400)
    half = len(whole) // 2
    for name, content in {
        "cut": whole[:half],
        "nothing": b"",
        "junk": noise,
        "junk within": whole[:half] + noise + whole[half + 400 :],
    }.items():
        file.write_bytes(content)
        code, out, err = doctor(capsys, path)
        refused_or_read(code, out, err)
        if name in ("nothing", "junk"):
            assert code == 2 or path.is_dir()


ABSURD = {
    "ragged": [ROW, ROW | {"logprobs": [-1.0]}],
    "nested nulls": [ROW, {"logprobs": [[None, [None]]], "rollout_logprobs": [None]}],
    "an object for a list": [ROW, ROW | {"logprobs": {"a": {"b": None}}}],
    "huge whole numbers": [ROW | {"logprobs": [-(10**400), -(2**70), -3]}],
    "a huge id": [ROW | {"tokens": [10**30, -5, 2**63]}],
    "a huge step": [ROW | {"step": 10**30}, ROW | {"step": -1e300}],
    "a mask of text": [ROW | {"mask": "yes"}],
    "a mask of 2s": [ROW | {"mask": [2, 2, 2]}],
    "a mask too long": [ROW | {"mask": [1] * 9}],
    "a mask of nothing": [ROW | {"mask": [0, 0, 0]}],
    "a mask of NaN": [ROW | {"mask": [float("nan")] * 3}],
    "strings": [{name: ["-1.0", "-2.0"] for name in ROW}],
    "not a number": [{name: [float("nan")] * 3 for name in ROW}],
    "infinite": [{name: [float("-inf"), -1.0] for name in ROW}],
    "no row is whole": [{"logprobs": [-1.0]}, {"rollout_logprobs": [-1.0]}],
    "a name of 10,000 letters": [ROW | {"x" * 10_000: 1}],
    "surrogates": [ROW | {"prompt": "\ud800"}],
}


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("name", ABSURD)
def test_absurd_content(name, tmp_path, capsys) -> None:
    path = tmp_path / "absurd.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ABSURD[name] * COPIES))
    refused_or_read(*doctor(capsys, path))


CUT = gzip.compress(json.dumps(ROW).encode() * 9, mtime=0)[:-12]  # an id that stays the same


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("cut.jsonl.gz", CUT, "cut.jsonl.gz: "),
        ("deep.jsonl", b'{"logprobs": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "not JSON"),
        ("nul.csv", b"\0" * 999, "nul.csv: "),
        ("bomb.json", b"[" * 100_000, "not JSON"),
        ("plain.txt", b"-1 -2", "expected a name that ends in"),
        ("list.json", b"[1, 2, 3]", "expected rows or columns of rollouts"),
        ("number.json", b"7", "expected rows or columns of rollouts"),
        ("head.csv", b"logprobs,rollout_logprobs\n", "head.csv"),
    ],
)
def test_what_is_no_file_of_rollouts_is_one_line(name, content, says, tmp_path, capsys) -> None:
    (tmp_path / name).write_bytes(content)
    code, out, err = doctor(capsys, tmp_path / name)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert says in err
