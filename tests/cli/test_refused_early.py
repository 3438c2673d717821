"""What can be refused is refused while the user's models are still loaded, and takes no proof away."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from narthex.cli.failure import run
from narthex.cli.main import command
from narthex.errors import ExitCode
from narthex.journal.journal import Journal
from narthex.profiles.profile import Profile
from narthex.profiles.store import load_profile
from narthex.testing.fake_comfyui import FakeComfyUI
from narthex.testing.fake_ollama import FakeOllama
from narthex.testing.residents import FOREVER, listed, load, unload

pytestmark = pytest.mark.engine
Keep = Callable[..., Profile]
Shown = pytest.CaptureFixture[str]


@pytest.fixture
def busy(served: FakeOllama) -> Iterator[FakeOllama]:
    """A server with a model of the user's in memory, and the very same runner afterwards."""
    if not listed(served):
        load(served, "small-set", FOREVER)
    before = served.runner_pids()
    yield served
    assert served.runner_pids() == before, "the user's model was unloaded"


@pytest.fixture(scope="module", autouse=True)
def nothing_loaded(served: FakeOllama) -> Iterator[None]:
    yield
    unload(served)


def refused(capsys: Shown, *words: str) -> tuple[int, str]:
    code = run(command, list(words))
    seen = capsys.readouterr()
    assert seen.out == ""
    assert "Unloading" not in seen.err
    assert "Traceback" not in seen.err
    return code, " ".join(seen.err.split())


@pytest.fixture
def comfyui(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeComfyUI]:
    """One that has run no workflow yet, named in the policy."""
    with FakeComfyUI(work_s=0.1) as fake:
        policy = tmp_path / "narthex.toml"
        policy.write_text(f'[beside.comfyui]\nurl = "{fake.url}"\n')
        monkeypatch.setenv("NARTHEX_CONFIG", str(policy))
        yield fake


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (("--set", "kv_type=q8_0"), "can't be q8_0 here"),
        (("--set", "batch=512", "--set", "ubatch=128"), "can't differ here"),
        (("--set", "gpu_layers=auto"), "gpu_layers=auto can't be fixed"),
        (("--parallel", "4"), "--parallel can't be 4 here"),
        (("--workload", "poetry"), "There is no workload «poetry»"),
        (("--strategy", "luck"), "There is no strategy «luck»"),
        (("--report", "/proc/narthex.html"), "/proc/narthex.html can't be written"),
        (("--current", "batch=512", "--current", "ubatch=128"), "What you run now can't be measured here"),
    ],
)
def test_a_study_that_makes_no_sense(
    asked: tuple[str, ...], words: str, busy: FakeOllama, capsys: Shown
) -> None:
    code, said = refused(capsys, "tune", "small", "--ollama", busy.url, "--plain", *asked)
    assert code == ExitCode.USAGE
    assert words in said


def test_a_study_whose_journal_can_not_be_written(busy: FakeOllama, capsys: Shown) -> None:
    with Journal.open() as journal:
        path = journal.path
    with closing(sqlite3.connect(path)) as another:
        another.execute("BEGIN IMMEDIATE")
        code, said = refused(capsys, "tune", "small", "--ollama", busy.url, "--plain")
    assert code == ExitCode.JOURNAL
    assert "journal" in said


@pytest.mark.parametrize("verb", ["tune", "soak"])
def test_a_tenant_that_has_nothing_to_do(
    verb: str, busy: FakeOllama, keep: Keep, comfyui: FakeComfyUI, capsys: Shown
) -> None:
    profile = keep(busy)
    asked = ["tune", "small", "--ollama", busy.url] if verb == "tune" else ["soak", profile.name]
    code, said = refused(capsys, *asked, "--beside", "comfyui", "--plain")
    assert code == ExitCode.FAILURE
    assert "ComfyUI has finished no workflow since it was started" in said
    with Journal.open() as journal:
        assert load_profile(journal, profile.name).proven


@pytest.mark.parametrize("verb", ["tune", "soak"])
def test_a_tenant_that_is_not_there(
    verb: str, busy: FakeOllama, keep: Keep, comfyui: FakeComfyUI, capsys: Shown
) -> None:
    profile = keep(busy)
    comfyui.vanish()
    asked = ["tune", "small", "--ollama", busy.url] if verb == "tune" else ["soak", profile.name]
    code, said = refused(capsys, *asked, "--beside", "comfyui", "--plain")
    assert code == ExitCode.FAILURE
    assert "ComfyUI can't be asked" in said
    with Journal.open() as journal:
        assert load_profile(journal, profile.name).proven
