"""What is built once is whole or not there."""

import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from klbench.lm import cache
from klbench.types import ConfigError, Notice


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("KLBENCH_CACHE", str(tmp_path / "own"))
    return tmp_path / "own"


def test_where_the_cache_is(tmp_path, monkeypatch) -> None:
    assert cache.root() == tmp_path / "own"
    monkeypatch.delenv("KLBENCH_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.root() == tmp_path / "xdg" / "klbench"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache.root() == tmp_path / "home" / ".cache" / "klbench"


def test_what_is_there_is_not_built_again(root) -> None:
    built = []

    def build(folder: Path) -> None:
        built.append(folder)
        (folder / "file").write_text("x")

    assert (
        cache.folder("kind", "key", build)
        == cache.folder("kind", "key", build)
        == root / "kind" / "key"
    )
    assert len(built) == 1
    assert built[0] != root / "kind" / "key"
    assert [path.name for path in (root / "kind" / "key").iterdir()] == ["file"]


def test_a_build_that_is_broken_off_leaves_nothing(root) -> None:
    def build(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.folder("kind", "key", build)
    assert [path for path in (root / "kind").iterdir() if path.is_dir()] == []
    assert cache.folder("kind", "key", lambda folder: None).is_dir()


def test_of_several_threads_one_builds_and_the_others_wait() -> None:
    built, found = [], []

    def build(folder: Path) -> None:
        built.append(folder)
        time.sleep(0.2)
        (folder / "file").write_text("x")

    def want() -> None:
        found.append((cache.folder("kind", "key", build) / "file").read_text())

    threads = [threading.Thread(target=want) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == ["x"] * 4
    assert len(built) == 1


def test_of_several_processes_one_builds_and_the_others_wait(root) -> None:
    code = (
        "import os, time\nfrom klbench.lm import cache\ndef build(folder):\n    (folder /"
        " 'first').touch(); time.sleep(0.3); (folder /"
        " str(os.getpid())).touch()\nprint(sorted(p.name for p in cache.folder('kind', 'key',"
        " build).iterdir()))"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    said = {process.communicate()[0] for process in running}
    assert len(said) == 1
    assert {process.returncode for process in running} == {0}
    assert len(list((root / "kind" / "key").iterdir())) == 2


def test_where_there_are_no_locks_the_faster_one_is_used(root) -> None:
    def build(folder: Path) -> None:
        (folder / "slower").touch()
        (root / "kind" / "key").mkdir()
        (root / "kind" / "key" / "faster").touch()

    (root / "kind").mkdir(parents=True)
    found = cache.folder("kind", "key", build)
    assert [path.name for path in found.iterdir()] == ["faster"]


def overwrite(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[100:108] = b"\xff" * 8
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (
            lambda folder: overwrite(folder / "deep" / "weights"),
            "deep/weights is not as it was written",
        ),
        (
            lambda folder: (folder / "deep" / "weights").write_bytes(b"x" * 150),
            "deep/weights is not as it was written",
        ),
        (lambda folder: (folder / "config").unlink(), "config is not as it was written"),
        (lambda folder: folder.with_name("key.sha256").unlink(), "has no checksums"),
        (lambda folder: folder.with_name("key.sha256").write_bytes(b"\xff"), "cannot be read"),
        (
            lambda folder: folder.with_name("key.sha256").write_text("nonsense"),
            "is not as it was written",
        ),
    ],
)
def test_what_is_not_as_it_was_written_is_made_again_and_said(root, damage, said) -> None:
    def build(folder: Path) -> None:
        (folder / "deep").mkdir()
        (folder / "deep" / "weights").write_bytes(bytes(200))
        (folder / "config").write_text("{}")

    folder = cache.folder("kind", "key", build)
    damage(folder)
    with pytest.warns(Notice) as notices:
        assert cache.folder("kind", "key", build) == folder
    assert len(notices) == 1
    assert str(notices[0].message).startswith(f"{folder}: ")
    assert f"{said}; it is made again" in str(notices[0].message)
    assert (folder / "deep" / "weights").read_bytes() == bytes(200)
    assert (folder / "config").read_text() == "{}"
    cache.folder("kind", "key", lambda folder: pytest.fail("built once more"))


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="no sha256sum here")
def test_checksums_are_those_of_sha256sum(root) -> None:
    cache.folder("kind", "key", lambda folder: (folder / "file").write_text("x"))
    said = subprocess.run(
        ["sha256sum", "-c", "key.sha256"],
        cwd=root / "kind",
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout == "key/file: OK\n"


def test_what_was_half_built_long_ago_is_removed(root) -> None:
    for name in (".key-old", ".key-new", ".other-old"):
        (root / "kind" / name).mkdir(parents=True)
    for name in (".key-old", ".other-old"):
        os.utime(root / "kind" / name, (0, 0))
    cache.folder("kind", "key", lambda folder: None)
    assert {path.name for path in (root / "kind").iterdir() if path.is_dir()} == {
        "key",
        ".key-new",
        ".other-old",
    }


@pytest.mark.parametrize("place", ["/proc/klbench", "file/below"])
def test_a_cache_that_cannot_be_written_is_said_before_anything_is_built(
    tmp_path, monkeypatch, place
) -> None:
    (tmp_path / "file").touch()
    where = tmp_path / place
    monkeypatch.setenv("KLBENCH_CACHE", str(where))
    with pytest.raises(ConfigError) as error:
        cache.folder("kind", "key", lambda folder: pytest.fail("built all the same"))
    assert str(where) in str(error.value)
    assert "set KLBENCH_CACHE to a folder that can" in str(error.value)
    assert "\n" not in str(error.value)
