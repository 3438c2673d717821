"""``narthex init``: a file that loads, from what is there; never over one that is."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from narthex.policy import load_policy
from narthex.testing.fake_comfyui import FakeComfyUI
from narthex.testing.fake_ollama import FakeOllama

NOBODY = "http://127.0.0.1:9"  # the discard port: nothing listens there


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the command is run; no Ollama but one that a test names is asked."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("OLLAMA_HOST", NOBODY)
    return folder


def init(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "narthex", "init", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_without_a_server_the_house_defaults_are_written() -> None:
    answer = init()
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout == ""
    assert "narthex.toml is written. It counts for commands that are run in this folder." in answer.stderr
    assert "refused" in answer.stderr  # why no Ollama was found
    policy = load_policy()
    assert policy.defaults.num_gpu == 19
    assert policy.models == ()


def test_the_settings_then_come_from_the_file() -> None:
    init()
    command = [sys.executable, "-m", "narthex", "settings"]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "narthex.toml: policy.soak" in out


def test_a_file_that_is_there_stays(empty_folder: Path) -> None:
    path = empty_folder / "narthex.toml"
    path.write_text("[policy]\nrepeats = 2\n")
    answer = init()
    assert answer.returncode == 2
    assert "narthex.toml is there already" in answer.stderr
    assert "--force" in answer.stderr
    assert path.read_text() == "[policy]\nrepeats = 2\n"


def test_force_replaces_it_also_when_it_was_broken(empty_folder: Path) -> None:
    path = empty_folder / "narthex.toml"
    path.write_text("[polic")
    answer = init("--force")
    assert answer.returncode == 0, answer.stderr
    assert "The present policy does not count: narthex.toml" in answer.stderr
    assert load_policy().defaults.num_ctx == 4096
    assert [each.name for each in empty_folder.iterdir()] == ["narthex.toml"]


def test_a_dash_only_shows_it(empty_folder: Path) -> None:
    answer = init("--output", "-")
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.startswith("# narthex.toml: the house policy")
    assert list(empty_folder.iterdir()) == []


def test_another_place_is_told_how_to_be_used(tmp_path: Path) -> None:
    answer = init("--output", str(tmp_path / "mine.toml"))
    assert f"set NARTHEX_CONFIG={tmp_path / 'mine.toml'}" in answer.stderr
    assert load_policy(tmp_path / "mine.toml").policy.grow == "ctx"


def test_the_users_own_place_counts(tmp_path: Path) -> None:
    folder = tmp_path / "config" / "narthex"
    folder.mkdir(parents=True)
    answer = init("--output", str(folder / "narthex.toml"))
    assert "is written. It counts." in answer.stderr


@pytest.mark.parametrize(
    ("output", "words"), [(".", "is a folder"), ("gone/narthex.toml", "There is no folder gone")]
)
def test_a_place_where_no_file_can_be_is_told(output: str, words: str) -> None:
    answer = init("--output", output)
    assert answer.returncode == 2
    assert words in answer.stderr


def test_a_folder_that_cannot_be_written_to_is_one_sentence(empty_folder: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    empty_folder.chmod(0o500)
    try:
        answer = init()
    finally:
        empty_folder.chmod(0o700)
    assert answer.returncode == 2
    assert "can't be written: Permission denied." in answer.stderr


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 64 KiB; skipped where none can be mounted."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", os.fspath(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", os.fspath(folder)], check=True)


def test_a_full_disk_leaves_nothing_half_written(small_disk: Path) -> None:
    with contextlib.suppress(OSError), (small_disk / "filler").open("wb", buffering=0) as filler:
        while True:
            filler.write(bytes(4096))
    answer = init("--output", str(small_disk / "narthex.toml"))
    assert answer.returncode == 1
    assert "The disk is full" in answer.stderr
    assert [each.name for each in small_disk.iterdir()] == ["filler"]


def test_a_disk_that_is_read_only_is_one_sentence(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", os.fspath(small_disk)], check=True)
    answer = init("--output", str(small_disk / "narthex.toml"))
    assert answer.returncode == 2
    assert "can't be written: Read-only file system." in answer.stderr


def test_a_server_that_was_named_and_does_not_answer_is_an_error(empty_folder: Path) -> None:
    answer = init("--ollama", NOBODY)
    assert answer.returncode == 4
    assert list(empty_folder.iterdir()) == []


@pytest.mark.engine
def test_models_of_a_server_are_listed_and_its_address_is_kept(
    fake_ollama: Callable[..., FakeOllama], gemma: Path
) -> None:
    server = fake_ollama(models={"gemma3:270m": gemma, "mine/odd-name_1.5:q4": gemma})
    answer = init("--ollama", server.url)
    assert answer.returncode == 0, answer.stderr
    assert f"Found: Ollama {server.version} at {server.url}, 2 models." in answer.stderr
    text = Path("narthex.toml").read_text()
    assert '# [models."gemma3:270m"]' in text
    assert '# [models."mine/odd-name_1.5:q4"]' in text
    assert text.count("    # the same file as ") == 1
    assert load_policy().ollama.host == server.url


def test_a_comfyui_at_its_usual_place_becomes_a_tenant() -> None:
    try:
        comfyui = FakeComfyUI(port=8188)
    except OSError:
        pytest.skip("port 8188 is taken on this machine")
    with comfyui:
        assert "ComfyUI 0.13.0" in init().stderr
    assert load_policy().tenant("comfyui") is not None
