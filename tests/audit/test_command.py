"""The command: what is printed and written, exit codes, and every way of not being usable on one
line.
"""

import json
from importlib import resources
from pathlib import Path

import pytest
from json_schema import conforms

from klbench.audit import findings
from klbench.audit.isolated import audit as isolated
from klbench.engine.cli import command_line
from klbench.types import RunError

HERE = Path(__file__).parent
RIGHT, WRONG = HERE / "right_functions.py", HERE / "wrong_functions.py"
BAD = """
import os, random, time
import numpy as np
import torch

def hangs(logprobs, ref_logprobs):
    time.sleep(60)

def strings(logprobs, ref_logprobs):
    return "a number"

def needs(logprobs, ref_logprobs, tokenizer):
    return logprobs - ref_logprobs

def dies(logprobs, ref_logprobs):
    os._exit(5)

def gpu(logprobs, ref_logprobs):
    return torch.zeros(3, device="cuda:17") + logprobs

def seeds(logprobs, ref_logprobs):
    torch.manual_seed(0)
    return logprobs - ref_logprobs

def seeds_numpy(logprobs, ref_logprobs):
    np.random.seed(0)
    return logprobs - ref_logprobs

def half(logprobs, ref_logprobs):
    assert (logprobs > ref_logprobs).all(), "policy below reference"
    return logprobs - ref_logprobs

def dictionary(logprobs, ref_logprobs):
    return {"a": logprobs, "b": ref_logprobs}

def two(logprobs, per_token_logps, ref_logprobs):
    return logprobs

def lonely(logprobs):
    return logprobs

def fails():
    raise ValueError("no model here")

def leaves(logprobs, ref_logprobs):
    raise SystemExit(4)

def interrupts(logprobs, ref_logprobs):
    raise KeyboardInterrupt

def odd(logprobs, ref_logprobs):
    raise BaseException("odd" + chr(27) + "[31m" + "x" * 1000)

def sparse(logprobs, ref_logprobs):
    return (logprobs - ref_logprobs).to_sparse()

def tensors(logprobs, ref_logprobs):
    return [logprobs, "a"]

class Backward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, a, b):
        return a - b
    @staticmethod
    def backward(ctx, slope):
        raise RuntimeError("no way back")

def one_way(logprobs, ref_logprobs):
    return Backward.apply(logprobs, ref_logprobs)

class Kept:
    def term(self, logprobs, ref_logprobs):
        return logprobs - ref_logprobs

number = 3
"""


@pytest.fixture
def bad(tmp_path):
    path = tmp_path / "bad.py"
    path.write_text(BAD)
    return path


def run(capsys, *arguments):
    code = command_line(["audit", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


def test_a_right_function_ends_with_0_and_a_wrong_one_with_1(capsys, tmp_path):
    file = tmp_path / "audit.json"
    code, out, _ = run(capsys, f"{RIGHT}:k3", "--expect", "k3", "--expect-gradient", "KL(p||q)")
    assert code == 0
    assert out.startswith(f"{RIGHT}:k3: k3, estimates KL(q‖p)\n")
    code, out, _ = run(capsys, f"{WRONG}:k2_without_half", "--json", file)
    assert code == 1
    assert (
        "error: scale: it is 2 times k2, which no argument explains: the half is missing (line "
        in out
    )
    found = json.loads(file.read_text())
    assert (found["identified"], found["scale"]) == ("k2", 2.0)
    evidence = found["findings"][0]["evidence"]
    assert evidence["log_ratio"] == 0.5
    assert evidence["got"] == pytest.approx(0.25)
    assert evidence["expected"] == pytest.approx(0.125)
    line = WRONG.read_text().splitlines()[found["findings"][0]["line"] - 1]
    assert line == "def k2_without_half(logprobs, ref_logprobs):"
    assert run(capsys, f"{WRONG}:k2_without_half", "--allow", "scale")[0] == 0
    assert run(capsys, f"{WRONG}:k2_without_half", "--baseline", file)[0] == 0
    assert list(tmp_path.iterdir()) == [file]


def test_a_warning_counts_where_it_is_asked_for(capsys):
    assert run(capsys, f"{RIGHT}:low_var_kl")[0] == 0
    assert run(capsys, f"{RIGHT}:low_var_kl", "--strict")[0] == 1


def test_arguments_can_be_fixed_given_in_order_and_made(capsys, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "import torch\ndef f(a, b, kind, scale=1.0):\n    print('hello')\n    return scale * (a -"
        " b) if kind == 'x' else 0 * a\nclass Loss:\n    def __init__(self, c): self.c = c\n    def"
        " __call__(self, logprobs, ref_logprobs): return self.c * (logprobs - ref_logprobs)\n   "
        " @staticmethod\n    def still(logprobs, ref_logprobs): return logprobs - ref_logprobs\ndef"
        " make():\n    return Loss(1.0)\n"
    )
    code, out, _ = run(
        capsys,
        f"{path}:f",
        "--args",
        "logprobs,ref_logprobs",
        "--with",
        "kind=x",
        "--with",
        "scale=0.5",
    )
    assert code == 0
    assert "k1 times 0.5" in out
    assert "hello" not in out
    assert run(capsys, f"{path}:f", "--args", "ref_logprobs,logprobs", "--with", "kind=x")[0] == 1
    assert run(capsys, f"{path}:make()")[0] == 0
    assert run(capsys, f"{path}:Loss.still")[0] == 0
    assert run(capsys, f"{path}:Loss.still", "--sampled-by", "ref_logprobs")[0] == 1


@pytest.mark.parametrize(
    ("target", "options", "said"),
    [
        ("{bad}:hangs", ["--time-limit", "1"], "a call took more than 1 seconds"),
        ("{bad}:strings", [], "the function gives back str, expected numbers"),
        ("{bad}:needs", [], "argument 'tokenizer' is not known"),
        ("{bad}:dies", [], "it ended its process, with code 5"),
        ("{bad}:gpu", [], "bad.py:19: "),
        ("{bad}:seeds", [], "seeds the global generator of torch"),
        ("{bad}:seeds_numpy", [], "seeds the global generator of numpy.random"),
        ("{bad}:half", [], "bad.py:30: AssertionError: policy below reference"),
        ("{bad}:leaves", [], "SystemExit: 4"),
        ("{bad}:interrupts", [], "it raised KeyboardInterrupt"),
        ("{bad}:odd", [], "BaseException: odd [31mxxx"),
        ("{bad}:sparse", [], "gives back a tensor of torch.sparse_coo, expected a dense tensor"),
        ("{bad}:tensors", [], "the function gives back list, expected numbers"),
        ("{bad}:one_way", [], "its gradient cannot be computed: no way back"),
        ("{bad}:dictionary", [], "name an entry by --output: a, b"),
        ("{bad}:dictionary", ["--output", "c"], "output 'c': the function gives back ['a', 'b']"),
        ("{bad}:two", [], "arguments 'logprobs' and 'per_token_logps' would both be policy"),
        ("{bad}:lonely", [], "no argument is the reference's or an older policy's"),
        ("{bad}:fails()", [], "making it failed: ValueError: no model here"),
        ("{bad}:number", [], "expected a function, it is int"),
        ("{bad}:Kept", [], "it is a class; name a function"),
        ("{bad}:Kept.term", [], "it is a method of a class; name a function that makes one"),
        ("{bad}:hang", [], "did you mean 'hangs'?"),
        ("{bad}", [], "expected package.module:function"),
        ("nowhere.at.all:f", [], "nowhere.at.all: cannot be imported: ModuleNotFoundError"),
        ("/no/such/file.py:f", [], "expected a file, found no such file"),
        ("{bad}:lonely", ["--args", "logprobs,ref_logprobs"], "args: 2 words for 1 parameters"),
        (
            "{bad}:needs",
            ["--args", "logprobs,ref_logprobs,chair"],
            "'chair' is none of the words in use",
        ),
        ("{bad}:lonely", ["--with", "beta=1"], "the function has no such parameter"),
        ("{bad}:lonely", ["--with", "beta"], "--with beta: expected KEY=VALUE"),
        ("{bad}:lonely", ["--expect", "k9"], "unknown estimator 'k9'"),
        (
            "{bad}:lonely",
            ["--expect-gradient", "forward"],
            "expect-gradient 'forward': expected one of KL(q‖p)",
        ),
        ("{bad}:lonely", ["--allow", "noise"], "allow 'noise': no such kind of finding"),
        (
            "{bad}:lonely",
            ["--json", "/no/such/folder/a.json"],
            "expected a file in a folder that exists",
        ),
        ("{bad}:lonely", ["--json", "{bad}"], "exists already, and --json did not write it"),
        ("{bad}:lonely", ["--chair"], "unrecognized arguments: --chair"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_used_is_one_line_and_ends_with_2(capsys, bad, target, options, said):
    options = [each.format(bad=bad) for each in options]
    code, out, err = run(capsys, target.format(bad=bad), *options)
    assert code == 2
    assert out == ""
    assert err.startswith("klbench: ")
    assert err.count("\n") == 1
    assert said in err


def test_where_the_audit_itself_fails_the_code_is_3(capsys, monkeypatch):
    def failing(*_):
        raise RunError("case.py:1: KeyError: 'x'")

    monkeypatch.setattr("klbench.audit.isolated.audit", failing)
    code, _, err = run(capsys, f"{RIGHT}:k3")
    assert code == 3
    assert err == "klbench: the audit failed: case.py:1: KeyError: 'x'\n"


def test_help_lists_what_there_is(capsys):
    code, out, _ = run(capsys, "--help")
    assert code == 0
    assert (
        "exit code: 0 no error, 1 an error was found, 2 it cannot be audited, 3 the audit itself"
        " failed" in out
    )


def test_what_is_written_conforms_to_the_schema():
    schema = json.loads(
        resources.files("klbench.audit").joinpath("schema.json").read_text(encoding="utf-8")
    )
    kinds = schema["properties"]["findings"]["items"]["properties"]["kind"]["enum"]
    assert kinds == list(findings.KINDS)
    for target in (f"{RIGHT}:low_var_kl", f"{WRONG}:one_over_r", f"{RIGHT}:numpy_k1"):
        found = dict(isolated(target, {}).plain)
        assert json.loads(json.dumps(found, allow_nan=False)) == found
        assert conforms(found, schema, schema["$defs"])
        assert not conforms(found | {"checks": "many"}, schema, schema["$defs"])
        assert not conforms(found | {"more": 1}, schema, schema["$defs"])
