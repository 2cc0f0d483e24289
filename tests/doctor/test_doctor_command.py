"""The verb ``doctor``.

Exit codes, the screen, JSON, the run folder, and input that cannot be used.
"""

import json
import math
from importlib import resources

import pytest
from json_schema import conforms
from made_rollouts import frame

from klbench.doctor.screen import percent
from klbench.engine.cli import command_line


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rollouts")
    right = frame(rollouts=60)
    right.to_json(folder / "right.jsonl", orient="records", lines=True)
    swapped = {"logprobs": "ref_logprobs", "ref_logprobs": "logprobs"}
    wrong = frame(distance=0.8).drop(columns="sampling_logprobs").rename(columns=swapped)
    wrong.to_json(folder / "wrong.jsonl", orient="records", lines=True)
    names = {"logprobs": "a lp", "sampling_logprobs": "b'lp", "ref_logprobs": "c"}
    right.rename(columns=names).to_json(folder / "named.jsonl", orient="records", lines=True)
    (folder / "text.jsonl").write_text('{"prompt": "a", "response": "b", "score": 1.0}\n')
    empty = right.assign(**{name: [[]] * 60 for name in ("logprobs", "sampling_logprobs")})
    empty.to_json(folder / "empty.jsonl", orient="records", lines=True)
    uneven = [{"logprobs": [-1.0] * 5, "sampling_logprobs": [-1.0] * 20}] * 3
    (folder / "uneven.jsonl").write_text("".join(json.dumps(each) + "\n" for each in uneven))
    return folder


def run(capsys, *arguments):
    code = command_line(["doctor", *map(str, arguments)])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_no_alarm_is_0_and_an_alarm_1(files, capsys):
    code, out, _ = run(capsys, files / "right.jsonl")
    assert (code, out.splitlines()[-1]) == (0, out.splitlines()[-1])
    assert "healthy" in out
    assert out.rstrip().endswith("no alarm")
    code, out, _ = run(capsys, files / "wrong.jsonl")
    assert code == 1
    assert "columns_swapped" in out
    assert "ALARM" in out


@pytest.mark.parametrize("name", ["right.jsonl", "wrong.jsonl"])
def test_each_number_has_an_interval_or_a_star_and_why_is_said_once(files, capsys, name):
    _, out, _ = run(capsys, files / name)
    numbers = [
        line
        for line in out.splitlines()
        if line.startswith(("  KL(", "  effective size", "  mean r"))
    ]
    bare = [line for line in numbers if " to " not in line]
    assert all(" *" in line for line in bare), bare
    assert out.count("no interval") == (len(bare) > 0)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere.jsonl"], "no such file"),
        (["text.jsonl"], "log-prob"),
        (["empty.jsonl"], "no token"),
        (["right.jsonl", "--map", "polcy=logprobs"], "did you mean 'policy'"),
        (["right.jsonl", "--map", "policy=logprob"], "did you mean 'logprobs'"),
        (["right.jsonl", "--map", "policy"], "expected ROLE=COLUMN"),
        (["right.jsonl", "--map", "policy=logprobs,policy=ref_logprobs"], "has a column already"),
        (["uneven.jsonl"], "has 20 tokens"),
        (["right.jsonl", "--trainer", "trll"], "did you mean 'trl'"),
        (["right.jsonl", "--json", "no/such/folder.json"], "expected a file in a folder"),
        (["right.jsonl", "--jsn", "x"], "--jsn"),
        ([], "FILE"),
    ],
)
def test_what_cannot_be_used_is_one_line_and_2(files, capsys, monkeypatch, arguments, says):
    monkeypatch.chdir(files)
    code, out, err = run(capsys, *arguments)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert err.startswith("klbench: ")
    assert says in err


def test_a_fault_of_the_doctor_itself_is_3(files, capsys, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("klbench.doctor.api.measures", broken)
    code, _, err = run(capsys, files / "right.jsonl")
    assert (code, err) == (3, "klbench: the doctor failed: ZeroDivisionError: oops\n")


def test_names_of_columns_can_be_given(files, capsys):
    given = "policy=a lp,sampler=b'lp,reference=c"
    code, out, _ = run(capsys, files / "named.jsonl", "--map", given)
    assert code == 0
    assert "policy = a lp, sampler = b'lp, reference = c" in out


@pytest.mark.parametrize("name", ["right", "wrong"])
def test_json_is_what_the_schema_says(files, tmp_path, capsys, name):
    schema = json.loads(
        resources.files("klbench.doctor").joinpath("schema.json").read_text(encoding="utf-8")
    )
    run(capsys, files / f"{name}.jsonl", "--json", tmp_path / "out.json")
    written = (tmp_path / "out.json").read_text(encoding="utf-8")
    found = json.loads(written, parse_constant=pytest.fail)
    assert conforms(found, schema, schema["$defs"])
    assert not conforms(found | {"rollouts": "many"}, schema, schema["$defs"])
    assert not conforms(found | {"more": 1}, schema, schema["$defs"])
    assert "prompt 3" not in written
    if name == "right":
        assert found["sampler"]["ess_sequence"] > 0.99
        assert found["alarm"] is False


def test_a_run_folder_has_the_page_and_is_never_overwritten(files, tmp_path, capsys):
    out = tmp_path / "it's a page"
    arguments = [files / "named.jsonl", "--map", "policy=a lp,sampler=b'lp,reference=c"]
    code, said, _ = run(capsys, *arguments, "--out", out, "--trainer", "verl")
    assert code == 0
    assert said.splitlines()[-1] == str(out / "index.html")
    page = (out / "index.html").read_text(encoding="utf-8")
    assert "What is going on in this run?" in page
    assert "60 rollouts" in page
    assert "prompt 3" not in page
    assert (out / "tables" / "causes.parquet").exists()
    code, _, err = run(capsys, *arguments, "--out", out)
    assert code == 2
    assert "exists already" in err


def test_the_page_alone_opens_with_the_alarm(files, tmp_path, capsys):
    code, _, _ = run(capsys, files / "wrong.jsonl", "--out", tmp_path / "page")
    page = (tmp_path / "page" / "index.html").read_text(encoding="utf-8")
    assert code == 1
    assert "An alarm: the likeliest cause is" in page
    assert "<b>columns swapped</b>" in page


def test_json_replaces_nothing_but_what_it_wrote(files, tmp_path, capsys):
    rollouts = tmp_path / "rollouts.jsonl"
    rollouts.write_bytes((files / "right.jsonl").read_bytes())
    link, written = tmp_path / "link.json", tmp_path / "out.json"
    link.symlink_to(written)
    for target, says in ((rollouts, "did not write it"), (link, "is a link")):
        code, out, err = run(capsys, rollouts, "--json", target)
        assert (code, out) == (2, "")
        assert says in err
    assert rollouts.read_bytes() == (files / "right.jsonl").read_bytes()
    assert link.is_symlink()
    assert [run(capsys, rollouts, "--json", written)[0] for _ in range(2)] == [0, 0]


def rows(path, *numbers):
    names = ("logprobs", "sampling_logprobs", "ref_logprobs")
    row = dict(zip(names, numbers, strict=False))
    path.write_text("".join(json.dumps(row) + "\n" for _ in range(30)), encoding="utf-8")
    return path


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize(
    ("policy", "says"),
    [
        ([-1e300, -1e300, -2.0], "beyond 300 nats are cut"),
        ([math.nan] * 3, "! the policy's column has no number at any of 90 counted tokens"),
        ([-math.inf] * 3, "! the trainer gives 90 sampled tokens a probability of 0"),
        ([-1.0, math.inf, -2.0], "30 counted tokens have no number in logprobs"),
        ([-1.0, -2.0, -2.0], "0: none differs"),
    ],
)
def test_odd_numbers_are_told(tmp_path, capsys, policy, says):
    others = [-1.0, -2.0, -2.0], [-1.1, -1.9, -2.1]
    code, out, err = run(capsys, rows(tmp_path / "odd.jsonl", policy, *others))
    assert (code in {0, 1}, err) == (True, "")
    assert (code == 1) == ("\n  ! " in out or "ALARM" in out)
    assert says in out
    assert "row 0" not in out
    assert "nan" not in out.replace("(nan", "")


def test_of_a_single_rollout_nothing_is_claimed(tmp_path, capsys):
    path = rows(tmp_path / "one.jsonl", [-1.0, -2.0], [-1.1, -1.9], [-1.2, -1.7])
    path.write_text(path.read_text("utf-8").splitlines()[0] + "\n", encoding="utf-8")
    _, out, _ = run(capsys, path)
    assert "1 rollout," in out
    assert "± nan" not in out
    assert "of such batches" not in out


def test_a_share_is_readable():
    assert [percent(each, 2) for each in (None, 0.0, 4e-29, 0.062)] == [
        "– %",
        "0 %",
        "fewer than 0.01 %",
        "6.2 %",
    ]
