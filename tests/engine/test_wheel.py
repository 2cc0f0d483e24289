"""The wheel holds all that a run needs, and runs without the checkout."""

import importlib.util
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NEEDED = ("build", "hatchling", "pip")

pytestmark = [
    pytest.mark.skipif(
        any(importlib.util.find_spec(name) is None for name in NEEDED),
        reason=f"needs {', '.join(NEEDED)} to build and install",
    ),
    pytest.mark.skipif(
        not (ROOT / "README.md").is_file(), reason="the wheel takes its description from README.md"
    ),
]


def done(*command: str, folder: Path, **environment: str) -> str:
    kept = {
        key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")
    }
    ended = subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        text=True,
        encoding="utf-8",
        env=kept | {"PYTHONIOENCODING": "utf-8"} | environment,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    done(
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(folder),
        str(ROOT),
        folder=folder,
    )
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("installed")
    pip = (
        sys.executable,
        "-m",
        "pip",
        "--disable-pip-version-check",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
    )
    done(*pip, "--target", str(target), str(wheel), folder=target)
    return target


def test_it_holds_every_module_every_configuration_and_what_the_page_is_made_of(wheel) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    sources = {
        str(path.relative_to(ROOT)) for path in (ROOT / "klbench").rglob("*") if path.is_file()
    }
    expected = {name for name in sources if "__pycache__" not in name}
    expected |= {f"klbench/{path.relative_to(ROOT)}" for path in (ROOT / "conf").rglob("*.yaml")}
    assert expected <= names
    assert {
        "klbench/conf/config.yaml",
        "klbench/conf/exp/gaussian.yaml",
        "klbench/report/assets/page.html.j2",
    } <= names
    outside = {name.partition("/")[0] for name in names} - {"klbench"}
    assert all(name.endswith(".dist-info") for name in outside), outside


def test_it_runs_from_anywhere_and_it_is_the_installed_one_that_runs(installed, tmp_path) -> None:
    # The processes of a test do not load what lies in the checkout: neither by their folder nor by
    # an editable install.
    program = (
        "import runpy, sys, klbench; from pathlib import Path;"
        f"assert Path(klbench.__file__).is_relative_to({str(installed)!r}), klbench.__file__;"
        "from klbench.inputs import conf_folder;"
        f"assert conf_folder() == Path({str(installed)!r}, 'klbench', 'conf'), conf_folder();"
        "runpy.run_module('klbench', run_name='__main__', alter_sys=True)"
    )
    arguments = (
        "+exp=value",
        "pair=gaussian",
        "samples=1000",
        "workers=1",
        "estimators=[k1,k3]",
        "batches=[1]",
    )
    out = done(
        sys.executable, "-c", program, *arguments, folder=tmp_path, PYTHONPATH=str(installed)
    )
    page = tmp_path / out.splitlines()[-1]
    assert "<html" in page.read_text(encoding="utf-8")
    info = json.loads((page.parent / "run.json").read_text())
    assert (info["status"], info["git"]) == ("done", None)
    assert list(tmp_path.iterdir()) == [tmp_path / "reports"]


def test_its_command_is_the_command_line(installed, tmp_path) -> None:
    """``klbench`` on the PATH is ``python -m klbench``."""
    (metadata,) = installed.glob("klbench-*.dist-info")
    assert "klbench = klbench.__main__:main" in (metadata / "entry_points.txt").read_text()
    script = installed / "bin" / "klbench"
    assert (
        done(str(script), "--version", folder=tmp_path, PYTHONPATH=str(installed)).strip()
        == metadata.name[8:-10]
    )
