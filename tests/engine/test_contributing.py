"""The examples of CONTRIBUTING.md, written into a copy of klbench.

They are found, run, and keep the contracts.
"""

import math
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^`((?:klbench|conf)/\S+)`\n\n```\w+\n(.*?)^```$", TEXT, re.M | re.S))
COMMANDS = re.findall(r"^python -m .*$", TEXT, re.M)
SMALLEST = re.findall(r'`("\w+": "[^`]*")`', TEXT)
STUDY = "klbench/studies/sign"


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *words], cwd=folder, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A copy of klbench with the examples in it; ``python -m klbench`` there is this copy."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("klbench", "conf", "tests/contract", "tests/report"):
        shutil.copytree(ROOT / name, folder / name)
    for name in (
        "tests/conftest.py",
        "tests/audited.py",
        "tests/smallest.py",
        "pyproject.toml",
        "benchmarks/golden.py",
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    (line,) = SMALLEST
    runs = folder / "tests/smallest.py"
    runs.write_text(
        runs.read_text(encoding="utf-8").replace("RUNS = {\n", f"RUNS = {{\n    {line},\n"),
        encoding="utf-8",
    )
    for name, code in FILES.items():
        assert not (folder / name).exists(), (
            f"{name} is klbench's own: the example needs another name"
        )
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(code, encoding="utf-8")
    return folder


def tables(ended: subprocess.CompletedProcess[str], folder: Path, name: str) -> pd.DataFrame:
    assert ended.returncode == 0, ended.stderr
    return pd.read_parquet(folder / "tables" / f"{name}.parquet")


def test_there_is_an_estimator_a_pair_and_a_study_of_less_than_300_lines() -> None:
    assert {"klbench/estimators/k1_pq.py", "klbench/pairs/logistic.py", "conf/exp/sign.yaml"} < set(
        FILES
    )
    study = {
        name.removeprefix(f"{STUDY}/"): code
        for name, code in FILES.items()
        if name.startswith(STUDY)
    }
    assert set(study) == {"__init__.py", "columns.py", "run.py", "section.py", "answer.html.j2"}
    assert sum(code.count("\n") for code in study.values()) < 300


def test_the_examples_pass_the_linter(checkout) -> None:
    for words in (["ruff", "check"], ["ruff", "format", "--check"]):
        ended = run(
            checkout, *words, "--no-cache", *(name for name in FILES if name.endswith(".py"))
        )
        assert ended.returncode == 0, ended.stdout


def test_they_are_found_by_themselves(checkout) -> None:
    ended = run(checkout, "klbench", "--help")
    assert ended.returncode == 0, ended.stderr
    first_words = {line.split()[0] for line in ended.stdout.splitlines() if line.strip()}
    assert {"k1_pq", "logistic", "sign"} <= first_words


def test_the_estimator_and_the_pair_are_measured(checkout) -> None:
    words = [
        "+exp=value",
        "pair=logistic",
        "estimators=[k1_pq,k3]",
        "samples=20000",
        "batches=[1]",
        "workers=1",
        "out=value",
    ]
    values = tables(run(checkout, "klbench", *words), checkout / "value", "values")
    assert list(values["estimator"]) == ["k1_pq", "k3"]
    assert list(values["target"]) == ["KL(p‖q)", "KL(q‖p)"]
    assert (values["bias"].abs() <= 5 * values["bias_se"]).all()


def test_the_study_runs_and_has_its_page(checkout) -> None:
    ended = run(checkout, "klbench", "+exp=sign", "samples=10000", "workers=1", "out=sign")
    sign = tables(ended, checkout / "sign", "sign")
    k1 = sign[sign["estimator"] == "k1"].iloc[0]
    exact = 0.5 * math.erfc(
        0.25 / math.sqrt(2.0)
    )  # -log r < 0 where x > 0.25, for N(0, 1) and N(0.5, 1)
    assert abs(k1["share"] - exact) <= 5 * k1["share_se"]
    assert (sign.loc[sign["estimator"] != "k1", "share"] == 0.0).all()
    page = (checkout / "sign" / "index.html").read_text(encoding="utf-8")
    assert re.findall(r"<h1>(.*?)</h1>", page) == ["Which estimator has negative terms?"]
    assert re.findall(r'<h2 id="([\w-]+)">', page) == ["sign", "terms", "made"]
    assert page.index("<figure") < page.index('<h2 id="sign">')
    assert (checkout / "sign" / "figures" / "sign.svg").is_file()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_beside_them_runs(command: str, checkout, tmp_path) -> None:
    python, option, module, *words = shlex.split(command)
    assert (python, option) == ("python", "-m")
    if module == "klbench":
        ended = run(
            checkout,
            module,
            *words,
            *([] if "samples=" in command else ["samples=2000"]),
            f"out={tmp_path / 'run'}",
        )
        assert (tmp_path / "run" / "index.html").is_file(), ended.stderr
    else:
        ended = run(checkout, module, *words, "-q", "-p", "no:cacheprovider")
        assert re.search(r"^\d+ passed", ended.stdout, re.M), ended.stdout
    assert ended.returncode == 0


def test_each_example_has_its_commands() -> None:
    for words in ("k1_pq", "pair=logistic", "+exp=sign", "-k k1_pq", "-k logistic", "-k sign"):
        assert any(words in command for command in COMMANDS), words


def test_contract_tests_say_what_they_expected_of_whom(checkout) -> None:
    file = checkout / "klbench/estimators/k1_pq.py"
    good = file.read_text(encoding="utf-8")
    changed = good
    for wrong in ("unbiased=False", "nonnegative=True", "growth=2.0"):
        changed, count = re.subn(rf"\b{wrong.partition('=')[0]}=[\w.]+", wrong, changed)
        assert count == 1
    file.write_text(changed, encoding="utf-8")
    try:
        ended = run(
            checkout,
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "tests/contract/test_estimators.py",
            "-k",
            "k1_pq",
        )
    finally:
        file.write_text(good, encoding="utf-8")
    assert ended.returncode == 1
    for said in (
        "k1_pq claims unbiased=False: expected a bias",
        "k1_pq claims nonnegative=True: expected no term below 0",
        "k1_pq declares growth=2.0: its terms grow as r^1",
    ):
        assert f"AssertionError: {said}" in ended.stdout


@pytest.mark.parametrize(
    ("place", "code", "said"),
    [
        ("klbench/estimators/broken.py", "nowhere\n", "NameError: name 'nowhere' is not defined"),
        ("klbench/pairs/broken.py", "X = 1\ndef f(:\n", "SyntaxError: invalid syntax"),
        (
            "klbench/studies/broken/__init__.py",
            "import nowhere\n",
            "ModuleNotFoundError: No module named 'nowhere'",
        ),
    ],
)
def test_a_module_that_cannot_be_imported_is_one_line_that_names_it(
    place: str, code: str, said: str, checkout
) -> None:
    file = checkout / place
    file.parent.mkdir(exist_ok=True)
    file.write_text(code, encoding="utf-8")
    module = place.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    asked = ["+exp=sign", "samples=10", "out=never"] if "studies" in place else ["--help"]
    try:
        ended = run(checkout, "klbench", *asked)
    finally:
        shutil.rmtree(file.parent) if "studies" in place else file.unlink()
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"klbench: {module} cannot be imported: {said}")
    assert line.endswith(f"({file}, line {code.count(chr(10))})")
