"""Recorded rollouts that are odd or wrong: a mistake is one line, which names row and column."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rollout_files import GOOD, as_flat_npz, as_jsonl, as_npz, as_parquet, rollouts, tables

from klbench.engine import app
from klbench.engine.settings import build
from klbench.pairs import recorded
from klbench.pairs.recorded import RecordedPair
from klbench.types import ConfigError


def wrong(**columns) -> dict:
    return GOOD | columns


NAN = float("nan")
ROWS = [
    (
        [GOOD, GOOD, wrong(ref_logprobs=[-1.0, -2.0])],
        "rollouts.jsonl row 3: ref_logprobs has 2 tokens, logprobs 3",
    ),
    (
        [GOOD, wrong(logprobs=[-1.0, 0.5, -1.0])],
        "rollouts.jsonl row 2: logprobs at token 2 is 0.5, a log-probability is never above",
    ),
    (
        [wrong(ref_logprobs=[0.125, 0.1251, -1.0])],
        "row 1: ref_logprobs at token 2 is 0.1251, a log-probability is never above",
    ),
    (
        [GOOD, wrong(ref_logprobs=[-1.0, -1.0, NAN])],
        "rollouts.jsonl row 2: ref_logprobs at token 3 is missing (NaN)",
    ),
    (
        [wrong(logprobs=[-1.0, None, -1.0])],
        "rollouts.jsonl row 1: logprobs at token 2 is missing (NaN)",
    ),
    (
        [wrong(logprobs=[-1.0, -float("inf"), -1.0])],
        "row 1: logprobs at token 2 is -inf, so the policy cannot have",
    ),
    (
        [wrong(ref_logprobs=[-1.0, -float("inf"), -1.0])],
        "row 1: ref_logprobs at token 2 is -inf, so the reference never says ",
    ),
    (
        [wrong(old_logprobs=[-1.0, -1.0, -float("inf")])],
        "row 1: old_logprobs at token 3 is -inf, so nobody can have sampled",
    ),
    (
        [wrong(ref_logprobs=[-1.0, float("inf"), -1.0])],
        "row 1: ref_logprobs at token 2 is inf, it must be finite",
    ),
    ([wrong(mask=[0, 0, 0])], "row 1: logprobs: none of its tokens counts"),
    ([wrong(mask=[0, 2, 1])], "row 1: mask must be 0 or 1, got 2"),
    ([wrong(mask=[1, 1])], "row 1: mask has 2 tokens, logprobs 3"),
    (
        [wrong(kl=[0.1, -0.2, 0.1])],
        "row 1: kl at token 2 is -0.2, a KL divergence is never negative",
    ),
    ([wrong(tokens=[1, 2.5, 3])], "row 1: tokens at token 2 is 2.5, a token id is a whole number"),
    ([wrong(logprobs=[], ref_logprobs=[])], "row 1: logprobs: it is empty"),
    (
        [wrong(logprobs=[-1.0] + [0.0] * 9, ref_logprobs=[-2.0] + [0.0] * 9)],
        "row 1: the last 9 tokens are 0 in logprobs, 0 in ref_logprobs, which looks like padding",
    ),
    (
        [{"logprobs": [-1.0], "reference": [-1.0]}],
        (
            "rollouts.jsonl: only logprobs holds log-probabilities, and two columns are compared;"
            " reference may be some: --map"
        ),
    ),
    (
        [wrong(kl=[0.1, 0.1, 0.1]), GOOD],
        "rollouts.jsonl row 2: kl must be a list of numbers, got null",
    ),
    ([GOOD, "{nope"], "rollouts.jsonl line 2: not JSON"),
    ([GOOD, "[1]"], "rollouts.jsonl line 2: expected a JSON object, got list"),
    ([wrong(logprobs="abc")], "row 1: logprobs must be a list of numbers, got 'abc'"),
    ([wrong(logprobs=[[1.0]])], "row 1: ref_logprobs has 3 tokens, logprobs 1"),
    ([wrong(logprobs=["a", 1, 2])], "row 1: logprobs must be a list of numbers, got ['a', 1, 2]"),
    (
        [wrong(tokens=[1, 1e300, 3])],
        "row 1: tokens at token 2 is 1e+300, a token id is a whole number",
    ),
    ([wrong(logprobs=3)], "row 1: ref_logprobs has 3 tokens, logprobs 1"),
    ([], "rollouts.jsonl: the file is empty"),
]


def refused(path: Path | str | None) -> str:
    with pytest.raises(ConfigError) as error:
        build(RecordedPair, {"path": None if path is None else str(path)}, "pair.")
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(("rows", "message"), ROWS, ids=[message for _, message in ROWS])
def test_a_row_that_is_wrong_is_said_at_once(tmp_path, rows, message) -> None:
    said = refused(as_jsonl(tmp_path / "rollouts.jsonl", rows))
    assert said.startswith("pair.path=")
    assert message in said


def test_trailing_lines_and_old_padding_are_right(tmp_path) -> None:
    path = as_jsonl(tmp_path / "r.jsonl", [GOOD, GOOD, "", " "])
    assert RecordedPair(path=str(path)).available == 2
    assert len(RecordedPair(path=str(path)).completions(0, 0, 10).log_q) == 2
    path = as_jsonl(
        tmp_path / "s.jsonl",
        [wrong(logprobs=[-1.0, 1.0, 1.0], ref_logprobs=[-1.0, 1.0, NAN], mask=[1, 0, 0])],
    )
    assert RecordedPair(path=str(path)).completions(0, 0, 1).log_q.tolist() == [[-1.0]]
    texts = [GOOD | {"prompt": text} for text in ("a", "b", "a")]
    prompt = (
        RecordedPair(path=str(as_jsonl(tmp_path / "t.jsonl", texts))).completions(0, 0, 3).prompt
    )
    assert prompt[0] == prompt[2] != prompt[1]


@pytest.mark.parametrize(
    "name", ["mask", "response_mask", "completion_mask", "action_mask", "loss_mask"]
)
@pytest.mark.parametrize("write", [as_jsonl, as_parquet, as_npz])
def test_a_mask_is_read_by_the_names_that_trainers_give_it(tmp_path, name, write) -> None:
    """Four tokens of 0.1, -0.5, 0.1 and 5.3: the last does not count."""
    row = {
        each: [*values, last]
        for (each, values), last in zip(GOOD.items(), (0.0, -5.3), strict=True)
    }
    path = write(
        tmp_path / f"r.{write.__name__.removeprefix('as_')}", [row | {name: [1, 1, 1, 0]}] * 4
    )
    found = RecordedPair(path=str(path)).completions(0, 0, 4)
    np.testing.assert_allclose((found.log_q - found.log_p).sum(1), [0.1 - 0.5 + 0.1] * 4)
    assert found.mask.shape == (4, 3)
    bad = write(path, [row | {name: [1, 2, 1, 0]}] * 4)
    assert f"row 1: {name} must be 0 or 1, got 2" in refused(bad)


@pytest.mark.parametrize("write", [as_jsonl, as_parquet, as_npz])
def test_a_mask_that_is_not_read_is_refused(tmp_path, write) -> None:
    path = tmp_path / f"r.{write.__name__.removeprefix('as_')}"
    for name, said in (
        ("padding_mask", "column 'padding_mask' is not read, though it may say which tokens count"),
        ("attention_mask", "attention_mask is the only mask, and it counts a prompt's tokens too"),
        ("tool_mask", "tool_mask is the only mask, and it counts padding too"),
    ):
        assert said in refused(write(path, [wrong(**{name: [1, 1, 0]})] * 4))
    both = refused(write(path, [wrong(mask=[1, 1, 0], response_mask=[1, 1, 1])] * 4))
    assert "columns 'mask' and 'response_mask' may all say which tokens count; leave one" in both


@pytest.mark.parametrize("name", ["mask", "loss_mask", "old_logprobs"])
def test_a_column_that_begins_late_is_not_left_out(tmp_path, name) -> None:
    late = wrong(**{name: [1, 1, 0]})
    path = as_jsonl(tmp_path / "r.jsonl", [GOOD, late])
    assert f"row 1: {name} " in refused(path)
    as_jsonl(path, [GOOD] * 20_000 + [late])
    with pytest.raises(
        ConfigError, match=f"row 20,001: column '{name}', which the first rows have not"
    ):
        recorded.read(str(path), 0, 20_001)


FILLED = [
    (-100.0, -100.0, 1),
    (-9999.0, -9999.0, 1),
    (-1e10, -1e10, 3),
    (0.0, -100.0, 1),
    (-3.4028234663852886e38, 0.0, 1),
    (0.0, 0.0, 2),
    (0.0, 0.0, 7),
    (0.0, 0.0, 8),
    (-1.0, -1.0, 3),
    (-1.0, -2.0, 8),
    (1.0, 1.0, 1),
]


@pytest.mark.parametrize(("q", "p", "n"), FILLED)
def test_padding_that_is_marked_nowhere_is_refused(tmp_path, q, p, n) -> None:
    row = {name: GOOD[name] + [value] * n for name, value in zip(GOOD, (q, p), strict=True)}
    path = as_jsonl(tmp_path / "r.jsonl", [GOOD, row])
    said = refused(path)
    assert "r.jsonl row 2: " in said
    assert (
        "looks like padding; say in a column mask" if q <= 0.0 else "if that is padding, mark it"
    ) in said
    marked = [wrong(mask=[1, 1, 1]), row | {"mask": [1, 1, 1] + [0] * n}]
    found = RecordedPair(path=str(as_jsonl(path, marked))).completions(0, 0, 2)
    np.testing.assert_array_equal(found.log_q, [GOOD["logprobs"]] * 2)
    if q <= 0.0:  # somebody who says so is believed
        meant = as_jsonl(path, [wrong(mask=[1, 1, 1]), row | {"mask": [1] * (3 + n)}])
        assert RecordedPair(path=str(meant)).completions(0, 0, 2).mask.sum() == 6 + n


def test_a_number_that_no_model_gives_is_found_wherever_it_stands(tmp_path) -> None:
    rows = [{name: [-100.0, *values] for name, values in GOOD.items()}]
    assert "row 1: token 1 is -100 in logprobs, -100 in ref_logprobs" in refused(
        as_jsonl(tmp_path / "r.jsonl", rows)
    )


def test_a_prompt_that_is_set_to_0_is_found_and_hides_no_padding(tmp_path) -> None:
    """Log-probabilities of prompt and completion, times a mask."""
    for before, after, where in (
        (20, 0, "tokens 1 to 20 are 0"),
        (20, 5, "tokens 1 to 20 are 0"),
        (2, 5, "the last 5 tokens are 0"),
    ):
        rows = [{name: [0.0] * before + values + [0.0] * after for name, values in GOOD.items()}]
        assert f"row 1: {where} in logprobs, 0 in ref_logprobs" in refused(
            as_jsonl(tmp_path / "r.jsonl", rows)
        )


def test_certain_tokens_and_coarse_numbers_are_no_padding(tmp_path) -> None:
    def measured(*rows: tuple[list, list]) -> int:
        path = as_jsonl(tmp_path / "r.jsonl", [{"logprobs": q, "ref_logprobs": p} for q, p in rows])
        return int(RecordedPair(path=str(path)).completions(0, 0, 9).mask.sum())

    assert measured(([-1.0, 0.0], [-2.0, 0.0])) == 2  # an end of sequence that both are sure of
    assert measured(([-1.0, -1.0, -1.0], [-1.0, -1.0, -1.0])) == 3
    assert measured(([0.0, 0.0, -1.0], [0.0, 0.0, -1.2])) == 3  # an opening that both are sure of
    certain = ([-1.0, 0.0, 0.0, 0.0, -0.5, 0.0, 0.0], [-1.5, 0.0, 0.0, 0.0, -0.5, 0.0, 0.0])
    assert measured(certain) == 7  # zeros stand inside the row as well, and for longer
    assert measured(([-1.0, -0.25, -0.25], [-1.0, -0.5, -0.5])) == 3
    assert measured(([-120.5, -1.0], [-120.0, -1.0])) == 2


ONES = -np.ones((2, 3))
BIG = 2**62
NPZ = [
    (
        {"logprobs": ONES[0], "ref_logprobs": ONES[0], "lengths": np.array([BIG] * 4 + [3])},
        "lengths sum to 18,446,744,073,",
    ),
    (
        {
            "logprobs": ONES[0],
            "ref_logprobs": ONES[0],
            "lengths": np.array([BIG * 2] * 2 + [3], "u8"),
        },
        "lengths sum to 18,4",
    ),
    (
        {"logprobs": np.array([[1], [1, 2]], dtype=object), "ref_logprobs": ONES},
        "logprobs holds pickled Python objects",
    ),
    (
        {"logprobs": ONES, "ref_logprobs": -np.ones((2, 4))},
        " row 1: ref_logprobs has 4 tokens, logprobs 3",
    ),
    (
        {"logprobs": ONES[0], "ref_logprobs": ONES[0]},
        "logprobs holds one number a row, expected a list, a number a token",
    ),
    (
        {"logprobs": ONES[0], "ref_logprobs": ONES[0], "lengths": [1, 1]},
        "lengths sum to 2, logprobs has 3",
    ),
    (
        {"logprobs": ONES[0], "ref_logprobs": ONES[0], "lengths": [5, -2]},
        "lengths must be whole numbers, one a row and no",
    ),
    (
        {"logprobs": ONES[0], "ref_logprobs": ONES[0], "lengths": [1.5, 1.5]},
        "lengths must be whole numbers, one a row",
    ),
    (
        {"logprobs": ONES[0], "ref_logprobs": ONES[0], "lengths": 3},
        "lengths must be whole numbers, one a row and none",
    ),
    ({"logprobs": ONES[:0], "ref_logprobs": ONES[:0]}, "the file has no rows"),
    (
        {"logprobs": np.array([["a"]]), "ref_logprobs": ONES[:1, :1]},
        " row 1: logprobs must be a list of numbers, got ['a']",
    ),
    ({"logprobs": ONES, "x": ONES}, "only logprobs holds log-probabilities, and two columns are"),
    (
        {"logprobs": ONES, "ref_logprobs": ONES, "prompt": [1]},
        "prompt has shape (1,), expected 2 rows",
    ),
]


@pytest.mark.parametrize(("arrays", "message"), NPZ, ids=[message for _, message in NPZ])
def test_an_npz_that_is_wrong(tmp_path, arrays, message) -> None:
    np.savez(tmp_path / "rollouts.npz", **arrays)
    colon = "" if message.startswith(" row") else ": "
    assert f"rollouts.npz{colon}{message}" in refused(tmp_path / "rollouts.npz")


LISTS = [[-1.0]]
PARQUET = [
    (
        pa.Table.from_arrays([pa.array(LISTS)] * 3, names=["logprobs", "logprobs", "ref_logprobs"]),
        "column 'logprobs' is there more",
    ),
    (
        {"logprobs": [-1.0], "ref_logprobs": [-1.0]},
        "logprobs holds one number a row, expected a list, a number a token",
    ),
    (
        {"logprobs": [["a"]], "ref_logprobs": LISTS},
        "row 1: logprobs must be a list of numbers, got ['a']",
    ),
    (
        {"logprobs": [[-1.0], None], "ref_logprobs": [[-1.0], [-1.0]]},
        "row 2: logprobs must be a list of numbers, got null",
    ),
    (
        {"logprobs": [[-1.0, -2.0]], "ref_logprobs": LISTS},
        "row 1: ref_logprobs has 1 tokens, logprobs 2",
    ),
    ({"logprobs": LISTS}, "only logprobs holds log-probabilities, and two columns are compared"),
    (
        {"logprobs": LISTS, "sampler_logprobs": LISTS},
        (
            "no column of the reference's log-probabilities; there are: logprobs, sampler_logprobs;"
            " klbench doctor "
        ),
    ),
]


@pytest.mark.parametrize(("columns", "message"), PARQUET, ids=[message for _, message in PARQUET])
def test_a_parquet_that_is_wrong(tmp_path, columns, message) -> None:
    pq.write_table(
        columns if isinstance(columns, pa.Table) else pa.table(columns),
        tmp_path / "rollouts.parquet",
    )
    assert f"rollouts.parquet{' ' if message.startswith('row') else ': '}{message}" in refused(
        tmp_path / "rollouts.parquet"
    )


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint64])
def test_lengths_of_any_whole_type_are_read(tmp_path, kind) -> None:
    ones = -np.arange(1.0, 6.0)
    np.savez(tmp_path / "r.npz", logprobs=ones, ref_logprobs=ones, lengths=np.array([2, 3], kind))
    found = RecordedPair(path=str(tmp_path / "r.npz")).completions(0, 0, 9)
    assert found.log_q.tolist() == [[-1.0, -2.0, 0.0], [-3.0, -4.0, -5.0]]
    assert RecordedPair(path=str(tmp_path / "r.npz")).completions(0, 1, 1).log_q.tolist() == [
        [-3.0, -4.0, -5.0]
    ]


@pytest.mark.parametrize("shape", [(10**6, 10**6), (2**32, 2**32), (10**7, 2), (-1, 5)])
def test_a_header_that_claims_more_than_the_file_holds_is_refused(tmp_path, shape) -> None:
    content = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        content, {"descr": "<f8", "fortran_order": False, "shape": shape}
    )
    with zipfile.ZipFile(tmp_path / "r.npz", "w") as archive:
        for name in ("logprobs", "ref_logprobs"):
            archive.writestr(f"{name}.npy", content.getvalue() + b"\0" * 40)
    assert f"r.npz: logprobs cannot be read, it claims the shape {shape}" in refused(
        tmp_path / "r.npz"
    )


WRITERS = {"npz": as_flat_npz, "parquet": as_parquet, "jsonl": as_jsonl}


@pytest.mark.parametrize("kind", WRITERS)
def test_damaged_files_are_read_or_refused_in_a_line(tmp_path, kind) -> None:
    stream, whole = (
        np.random.default_rng(7),
        WRITERS[kind](tmp_path / f"whole.{kind}", rollouts(20)).read_bytes(),
    )
    path, said = tmp_path / f"damaged.{kind}", []
    for _ in range(300):
        content = bytearray(whole)
        for _ in range(int(stream.integers(1, 6))):
            at = int(stream.integers(len(content)))
            kinds = (
                bytes([stream.integers(256)]),
                b"",
                (2 ** int(stream.integers(64))).to_bytes(8, "little"),
            )
            content[at : at + int(stream.choice([1, 8, 40]))] = kinds[stream.integers(3)]
        path.write_bytes(content)
        try:
            recorded.read(str(path), 0, 64)
        except ConfigError as error:
            said.append(str(error))
    assert 100 < len(said) < 300
    assert all("\n" not in each and each.startswith("damaged.") for each in said)


def test_a_parquet_that_is_damaged_inside(tmp_path) -> None:
    path = as_parquet(tmp_path / "r.parquet", rollouts(20))
    content = bytearray(path.read_bytes())
    content[4:60] = b"\xff" * 56
    path.write_bytes(content)
    assert "r.parquet: cannot be read from row 1 on" in refused(path)


def test_prompts_of_any_kind_are_told_apart(tmp_path) -> None:
    odd = ["a", "a", None, {"role": "user"}, [1, 2], 10**30, -5, True]
    path = as_jsonl(tmp_path / "r.jsonl", [{**GOOD, "prompt": each} for each in odd])
    found = RecordedPair(path=str(path)).completions(0, 0, 99).prompt
    assert found[0] == found[1]
    assert len(set(found.tolist())) == len(odd) - 1
    table = pa.table(
        {"logprobs": [[-1.0]] * 3, "ref_logprobs": [[-1.0]] * 3, "prompt": [b"x", b"y", b"x"]}
    )
    pq.write_table(table, tmp_path / "r.parquet")
    first, second, third = (
        RecordedPair(path=str(tmp_path / "r.parquet")).completions(0, 0, 9).prompt
    )
    assert first == third != second


def test_extreme_values_are_counted_and_warn_of_nothing(tmp_path) -> None:
    rows = [GOOD, wrong(logprobs=[-1e308, -2.0, -1.0], ref_logprobs=[-1.0, -1e308, -1.0])]
    found = tables(as_jsonl(tmp_path / "far.jsonl", rows))["values"]
    assert (
        found[(found["estimator"] == "k3") & (found["level"] == "token")]["n_nonfinite"].min() == 1
    )
    same = tables(as_jsonl(tmp_path / "same.jsonl", [wrong(ref_logprobs=GOOD["logprobs"])] * 9))
    assert set(same["values"][same["values"]["estimator"] == "k3"]["mean"]) == {0.0}
    assert same["tokens"]["share"].isna().all()


def test_files_that_are_none(tmp_path) -> None:
    for name, message in (
        ("x.parquet", "not a Parquet file"),
        ("x.npz", "not an npz file"),
        ("x.jsonl", "line 1: not JSON"),
    ):
        (tmp_path / name).write_bytes(b"hello \xff")
        assert message in refused(tmp_path / name)
    (tmp_path / "deep.jsonl").write_bytes(b"[" * 100_000)
    assert "line 1: not JSON" in refused(tmp_path / "deep.jsonl")
    with zipfile.ZipFile(tmp_path / "z.npz", "w") as archive:
        archive.writestr("logprobs.npy", b"\x93NUMPYjunk")
    assert "z.npz: logprobs cannot be read" in refused(tmp_path / "z.npz")
    np.save(tmp_path / "y", ONES)
    (tmp_path / "y.npy").rename(tmp_path / "y.npz")
    assert "not an npz file" in refused(tmp_path / "y.npz")
    assert "no such file" in refused(tmp_path / "nowhere.jsonl")
    (tmp_path / "folder.jsonl").mkdir()
    assert "no file in it that can be read" in refused(tmp_path / "folder.jsonl")
    (tmp_path / "x.xls").write_bytes(b"hello")
    assert "ends in .jsonl, .ndjson, .json, .parquet, .pq, .csv" in refused(tmp_path / "x.xls")
    assert "name a file of rollouts" in refused(None)
    assert "name a file of rollouts" in refused("")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_mistake_far_down_ends_the_run_with_the_same_line(tmp_path, workers) -> None:
    path = as_jsonl(tmp_path / "late.jsonl", [GOOD] * 500 + [wrong(logprobs=[-1.0, 2.0, -1.0])])
    with pytest.raises(ConfigError, match=r"^late\.jsonl row 501: logprobs at token 2 is 2"):
        tables(path, workers=workers)


def test_it_has_tokens_and_nothing_to_draw(tmp_path) -> None:
    pair = RecordedPair(path=str(as_jsonl(tmp_path / "r.jsonl", [GOOD])))
    with pytest.raises(ConfigError, match=r"measure it with \+exp=recorded"):
        pair.draw(np.random.default_rng(0), 1)
    assert pair.truth("kl_qp") is None
    assert pair.exact([]) == []
    assert pair.title == "Rollouts of r.jsonl"


def test_from_the_command_line(tmp_path, monkeypatch, capsys) -> None:
    from klbench.engine.cli import command_line

    monkeypatch.chdir(tmp_path)
    rows = [row | {"reward": 1.0} for row in rollouts(60)]
    rows[0]["logprobs"][0] = 0.0625
    as_jsonl(tmp_path / "r.jsonl", rows)
    for arguments in (
        ["+exp=recorded", "path=r.jsonl"],
        ["+exp=lm", "pair=recorded", "pair.path=r.jsonl"],
        ["+exp=lm", "pair=recorded", "path=r.jsonl"],
    ):
        app.check(app.normalized(arguments))
    assert command_line(["+exp=recorded", "path=r.jsonl", "workers=1", "out=run"]) == 0
    said = capsys.readouterr().out
    assert "Rollouts of r.jsonl, 60 completions" in said
    assert "Columns that were not read: reward." in said
    assert "Tokens with a log-probability above 0, as rounding leaves them: 1." in said
    assert said.splitlines()[-1] == str(Path("run/index.html"))
    page = (tmp_path / "run" / "index.html").read_text(encoding="utf-8")
    assert "Token by token" in page
    assert command_line(["+exp=recorded", "path=nowhere.jsonl"]) == 2
    assert capsys.readouterr().err == "klbench: pairs.0.path='nowhere.jsonl': no such file\n"
    assert command_line(["+exp=recorded"]) == 2
    for path in ("path=r.jsonl", "pair.path=r.jsonl"):
        assert command_line(["+exp=value", "pair=recorded", path]) == 2
        said = capsys.readouterr().err
        assert "recorded pairs have none; measure it with +exp=recorded path=FILE\n" in said
    assert not (tmp_path / "reports").exists()


def test_a_wrong_row_in_the_middle_of_a_file_leaves_no_run_behind(
    tmp_path, monkeypatch, capsys
) -> None:
    from klbench.engine.cli import command_line

    monkeypatch.chdir(tmp_path)
    rows = rollouts(200)
    rows[150]["ref_logprobs"][0] = 3.0
    as_jsonl(tmp_path / "r.jsonl", rows)
    assert command_line(["+exp=recorded", "path=r.jsonl", "shard=50", "workers=1", "out=run"]) == 2
    assert capsys.readouterr().err.startswith(
        "klbench: r.jsonl row 151: ref_logprobs at token 1 is 3, a log-probability"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["r.jsonl"]
