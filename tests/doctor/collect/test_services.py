"""From running services through every rule: what healthy ones say, and what is said once one is gone."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from narthex.doctor.collect.gather import SERVICES, gather
from narthex.doctor.collect.scope import Scope
from narthex.doctor.diagnose import diagnose
from narthex.doctor.finding import Diagnosis
from narthex.doctor.reading.scanner import read_evidence
from narthex.doctor.rules import RULES, SIGNS
from narthex.engines.ollama.api import Api
from narthex.testing.fake_comfyui import FakeComfyUI
from narthex.testing.fake_ollama import FakeOllama
from narthex.testing.fake_openwebui import install

from .strangers import closed_port, silent

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("no_docker")]


def look() -> Diagnosis:
    found = gather(Scope(), collectors=SERVICES)
    evidence = read_evidence(
        found.texts, SIGNS, readings=found.readings, facts=found.facts, skipped=found.skipped, live=True
    )
    return diagnose(evidence, RULES)


def troubles(diagnosis: Diagnosis) -> list[str]:
    return [finding.cause for finding in diagnosis.findings if finding.is_trouble]


@pytest.fixture
def ollama(
    fake_ollama: Callable[..., FakeOllama], gemma: Path, monkeypatch: pytest.MonkeyPatch
) -> FakeOllama:
    fake = fake_ollama(models={"gemma-demo": gemma})
    monkeypatch.setenv("OLLAMA_HOST", fake.url)
    return fake


@pytest.fixture
def comfyui(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeComfyUI]:
    monkeypatch.chdir(tmp_path)
    with FakeComfyUI() as fake:
        (tmp_path / "narthex.toml").write_text(f'[beside.comfyui]\nurl = "{fake.url}"\n')
        yield fake


@pytest.fixture
def openwebui(tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """Starts one whose backends are as told; its URL."""
    running: list[subprocess.Popen[str]] = []

    def start(backends: str) -> str:
        words = [sys.executable, str(install(tmp_path)), "serve", "--port", str(closed_port())]
        env = {"PATH": os.environ["PATH"], "OLLAMA_BASE_URLS": backends}
        running.append(subprocess.Popen(words, env=env, stdout=subprocess.PIPE, text=True))
        assert running[-1].stdout is not None
        return running[-1].stdout.readline().strip()

    yield start
    for process in running:
        process.kill()
        process.communicate()


def test_where_everything_is_well_nothing_is_found(
    ollama: FakeOllama, comfyui: FakeComfyUI, openwebui: Callable[[str], str]
) -> None:
    url = openwebui(ollama.url)
    Api(ollama.url).preload("gemma-demo", {"num_ctx": 16_384}, keep_alive=300, timeout_s=60)
    diagnosis = look()
    assert troubles(diagnosis) == []
    assert [gap for gap in diagnosis.skipped if gap.broke] == []
    told = " ".join(fact.text for fact in diagnosis.facts)
    for place in (ollama.url, comfyui.url, url):
        assert place in told


def test_an_ollama_that_was_killed_is_named(ollama: FakeOllama, openwebui: Callable[[str], str]) -> None:
    openwebui(ollama.url)
    ollama.kill()
    found = troubles(look())
    assert found[0] == "ollama_unreachable"


def test_a_backend_that_hangs_is_named(ollama: FakeOllama, openwebui: Callable[[str], str]) -> None:
    with silent() as port:
        openwebui(f"{ollama.url};http://127.0.0.1:{port}")
        found = troubles(look())
    assert found[0] == "owui_hang_unreachable_url"


def test_a_backend_that_nobody_listens_at_is_named(
    ollama: FakeOllama, openwebui: Callable[[str], str]
) -> None:
    openwebui(f"http://127.0.0.1:{closed_port()}")
    found = troubles(look())
    assert found[0] == "owui_cannot_reach_ollama"


def test_a_comfyui_that_vanished_is_named(comfyui: FakeComfyUI, ollama: FakeOllama) -> None:
    comfyui.vanish()
    found = troubles(look())
    assert found == ["comfyui_unreachable"]
