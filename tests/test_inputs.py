"""What is taken in from outside.

Regular files and folders, plain data, and one line for all else.
"""

import json
import os
import socket
import sys

import pytest

from klbench import inputs
from klbench.types import ConfigError, RunError


def test_a_file_a_folder_and_what_is_neither(tmp_path) -> None:
    (tmp_path / "file").write_text("x")
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "socket"))
    for name, target in (
        ("to file", "file"),
        ("to pipe", "pipe"),
        ("loop", "loop"),
        ("nowhere", "nothing"),
    ):
        (tmp_path / name).symlink_to(target)
    assert inputs.kind(tmp_path / "file") == inputs.kind(str(tmp_path / "to file")) == inputs.FILE
    assert inputs.kind(tmp_path) == inputs.FOLDER
    for name, says in (("pipe", "a pipe"), ("to pipe", "a pipe"), ("socket", "a socket")):
        assert inputs.kind(tmp_path / name) == f"{says}, neither a file nor a folder"
    assert inputs.kind("/dev/zero") == "a device, neither a file nor a folder"
    for name in ("nothing", "nowhere", "file/below"):
        assert inputs.kind(tmp_path / name) == "no such file"
    assert inputs.kind(tmp_path / ("a" * 255)) == "no such file"
    for name, says in (
        ("a" * 256, "File name too long"),
        ("loop", "Too many levels of symbolic links"),
        ("a\0b", "embedded null"),
    ):
        assert inputs.kind(tmp_path / name).startswith("no such file, ")
        assert says in inputs.kind(tmp_path / name)


def test_a_folder_is_looked_through_before_another_reader_opens_what_is_in_it(tmp_path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "nowhere").symlink_to("nothing")
    inputs.check_folder(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="pipe: a pipe, neither a file nor a folder"):
        inputs.check_folder(tmp_path)
    with pytest.raises(ConfigError, match=r"nothing: cannot be looked into: No such file"):
        inputs.check_folder(tmp_path / "nothing")


def test_data_is_bounded_in_depth_and_in_size(tmp_path) -> None:
    def nested(levels: int) -> str:
        return "[" * levels + "]" * levels

    path = tmp_path / "x.json"
    path.write_text(nested(inputs.DEEPEST + 1))
    assert (
        inputs.read_json(path) == inputs.read_yaml(path) == json.loads(nested(inputs.DEEPEST + 1))
    )
    for levels in (inputs.DEEPEST + 2, 10**5):
        path.write_text(nested(levels))
        with pytest.raises(ConfigError, match=r"x\.json: cannot be read as JSON: nested"):
            inputs.read_json(path)
    path.write_text(nested(2000))
    with pytest.raises(ConfigError, match=r"x\.json: cannot be read as plain YAML: nested"):
        inputs.read_yaml(path)
    # Nine lines that stand for 9^9 values.
    path.write_text(
        "".join(f"a{k}: &a{k} [{', '.join([f'*a{k - 1}' if k else '1'] * 9)}]\n" for k in range(9))
    )
    with pytest.raises(ConfigError, match="more than 1,000,000 values"):
        inputs.read_yaml(path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "cannot be read as JSON: Expecting"),
        ("1" * 5000, "cannot be read as JSON: Exceeds the limit"),
        (
            '{"a": "x\\ud800"}',
            r"cannot be read as JSON: character 2 is \ud800, half of a character",
        ),
        (b"\xff", "cannot be read as text in UTF-8"),
    ],
)
def test_json_that_is_none(tmp_path, text, says) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as error:
        inputs.read_json(path)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_no_file_is_not_opened(tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, says in (
        (tmp_path / "pipe", "a pipe"),
        (tmp_path, "is a folder, expected a file"),
        ("/dev/zero", "a device"),
    ):
        with pytest.raises(ConfigError, match=says):
            inputs.read_text(path)


def recursive() -> None:
    recursive()


@pytest.mark.parametrize(
    ("fail", "says"),
    [
        (lambda: {}["x"], "here: KeyError: 'x'"),
        (lambda: 1 // 0, "here: ZeroDivisionError: integer division or modulo by zero"),
        (lambda: int("x\ny"), r"here: invalid literal for int() with base 10: 'x\ny'"),
        (lambda: open("/nothing"), "here: No such file or directory"),  # noqa: PTH123, SIM115
        (
            lambda: "\ud800".encode(),
            (
                r"here: 'utf-8' codec can't encode character '\ud800' in position 0: surrogates not"
                r" allowed"
            ),
        ),
        (lambda: next(iter(())), "here: StopIteration"),
        (recursive, "here: nested too deeply"),
    ],
)
def test_whatever_goes_wrong_is_one_line_with_its_cause(fail, says) -> None:
    with pytest.raises(ConfigError) as error, inputs.refused("here"):
        fail()
    assert str(error.value) == says
    assert error.value.__cause__ is not None
    str(error.value).encode(sys.stdout.encoding or "utf-8")


def test_what_has_its_line_already_and_what_is_no_mistake_pass_through() -> None:
    for kind in (ConfigError, RunError, KeyboardInterrupt, SystemExit):
        with pytest.raises(kind, match=r"^mine$"), inputs.refused("here"):
            raise kind("mine")
    with pytest.raises(ConfigError) as error, inputs.refused("here"):
        raise ValueError("x" * 1000)
    assert len(str(error.value)) == len("here: ") + inputs.MOST_CHARACTERS
