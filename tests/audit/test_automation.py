"""The action and the hook for other people's repositories call the command as it is."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
RIGHT, WRONG = (ROOT / "tests" / "audit" / f"{name}_functions.py" for name in ("right", "wrong"))


def audited(targets, options=""):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"TARGETS": targets, "OPTIONS": options, "PATH": path}
    return subprocess.run(
        ["bash", ROOT / "audit" / "audit.sh"], env=environment, capture_output=True, text=True
    )


def test_the_action_audits_every_target_and_ends_with_the_worst_code():
    ended = audited(f"{RIGHT}:k3\n\n{WRONG}:k2_without_half\n")
    assert ended.returncode == 1
    assert "k3, estimates KL(q‖p)" in ended.stdout
    assert "the half is missing" in ended.stdout
    assert audited(f"{RIGHT}:k3\n", '--expect-gradient "KL(p||q)" --expect k3').returncode == 0
    assert audited(f"{RIGHT}:k3\n", "--expect $(touch no)").returncode == 2
    assert not Path("no").exists()


def test_the_action_has_the_inputs_that_its_script_reads():
    action = yaml.safe_load((ROOT / "audit" / "action.yml").read_text(encoding="utf-8"))
    assert set(action["inputs"]) == {"target", "options", "python"}
    last = action["runs"]["steps"][-1]
    assert last["env"] == {
        "ACTION": "${{ github.action_path }}",
        "TARGETS": "${{ inputs.target }}",
        "OPTIONS": "${{ inputs.options }}",
    }


def test_the_hook_is_the_command():
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8"))
    assert hook["entry"] == "klbench audit"
    assert hook["pass_filenames"] is False


def linted(folder):
    lint = Path(sys.executable).parent / "actionlint"
    return subprocess.run([lint, "-no-color"], cwd=folder, capture_output=True, text=True)


def test_actionlint_finds_nothing_in_workflows_action_and_documented_use(tmp_path):
    shutil.copytree(ROOT / ".github", tmp_path / ".github")
    shutil.copytree(ROOT / "audit", tmp_path / "audit")
    (tmp_path / ".git").mkdir()
    text = (ROOT / "docs" / "function.md").read_text(encoding="utf-8")
    (documented,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    step = documented.replace("OWNER/klbench/audit@v0", "./audit")
    workflow = tmp_path / ".github" / "workflows" / "documented.yml"
    head = "on: push\njobs:\n  audit:\n    runs-on: ubuntu-24.04\n    steps:\n"
    workflow.write_text(head + "".join(f"      {line}\n" for line in step.splitlines()))
    found = linted(tmp_path)
    assert (found.returncode, found.stdout) == (0, "")
    workflow.write_text(workflow.read_text().replace("options:", "option:"))
    found = linted(tmp_path)
    assert found.returncode == 1
    assert 'input "option" is not defined in action "klbench audit"' in found.stdout
