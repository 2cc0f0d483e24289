"""The workflow runs only what is pinned, with no more rights than it needs, on every Python that
is promised.
"""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from klbench import __version__

ROOT = Path(__file__).parents[1]
FILE = ROOT / ".github" / "workflows" / "ci.yml"
FILES = [*sorted(FILE.parent.glob("*.yml")), ROOT / "audit" / "action.yml"]

pytestmark = pytest.mark.skipif(not FILE.is_file(), reason="a distribution without its repository")


@pytest.fixture(scope="module")
def workflow() -> dict:
    return yaml.safe_load(FILE.read_text("utf-8"))


def test_every_action_is_pinned_to_a_commit_and_says_its_version() -> None:
    used = [
        line for file in FILES for line in re.findall(r"uses: ([^.].*)", file.read_text("utf-8"))
    ]
    assert len(used) > 15
    for each in used:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", each), each


def test_every_job_reads_the_contents_and_no_more(workflow) -> None:
    assert workflow["permissions"] == {}
    for name, job in workflow["jobs"].items():
        assert job["permissions"] == {"contents": "read"}, name
        assert job["timeout-minutes"] <= 60, name
        checkout = next(step for step in job["steps"] if "checkout" in step.get("uses", ""))
        assert checkout["with"]["persist-credentials"] is False, name


def test_nothing_that_others_can_write_is_pasted_into_a_script(workflow) -> None:
    scripts = [
        step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step
    ]
    assert len(scripts) >= 5
    assert not [each for each in scripts if "${{" in each]


def test_its_pythons_are_those_that_are_promised(workflow) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    promised = [
        each.rpartition(" ")[2] for each in project["classifiers"] if re.search(r":: 3\.\d+$", each)
    ]
    assert workflow["jobs"]["test"]["strategy"]["matrix"]["python"] == promised


def test_what_it_makes_there_is_to_make(workflow) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    scripts = "\n".join(
        step.get("run", "") for job in workflow["jobs"].values() for step in job["steps"]
    )
    assert (
        {"golden", "bench", "bench-compare", "run"}
        <= set(re.findall(r"\bmake ([a-z-]+)", scripts))
        <= targets
    )
    assert "bash .ci/run" in scripts


@pytest.mark.parametrize("name", ["pages", "release", "nightly"])
def test_no_job_has_rights_that_it_does_not_name(name) -> None:
    found = yaml.safe_load((FILE.parent / f"{name}.yml").read_text("utf-8"))
    assert found["permissions"] == {}
    for job in found["jobs"].values():
        assert "permissions" in job
        assert not [step["run"] for step in job["steps"] if "${{" in step.get("run", "")]
        assert job["permissions"].get("contents") != "write"


def test_the_citation_has_the_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["version"] == __version__
    assert {"cff-version", "title", "authors", "message"} <= set(citation)
