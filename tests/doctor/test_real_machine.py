"""What is really wrong with this machine for a while, and what the doctor says of it."""

from __future__ import annotations

import itertools
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from narthex.doctor.collect.gather import live_evidence
from narthex.doctor.collect.scope import Scope
from narthex.doctor.diagnose import diagnose
from narthex.doctor.finding import Diagnosis, Finding
from narthex.doctor.rules import RULES, SIGNS
from narthex.engines.llama_launch import free_port
from narthex.testing.fake_ollama import FakeOllama

from .test_real_failures import until_it_listens

pytestmark = pytest.mark.engine


def looked() -> Diagnosis:
    return diagnose(live_evidence(Scope(), SIGNS), RULES)


def finding(cause: str) -> Finding:
    """That cause, above info. What else is wrong with the machine of these tests is its own affair."""
    found = {one.cause: one for one in looked().findings if one.is_trouble}
    assert cause in found, sorted(found)
    return found[cause]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real filesystem of two MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", os.fspath(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this test needs to mount a small disk")
    yield folder
    subprocess.run(["umount", os.fspath(folder)], check=True)


def test_a_server_that_everybody_can_reach(engine_binary: Path, gemma: Path) -> None:
    port = free_port()
    words = [
        os.fspath(engine_binary),
        "-m",
        os.fspath(gemma),
        "--host",
        "0.0.0.0",
        "--port",
        str(port),
        "-c",
        "256",
    ]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            until_it_listens(port)
            found = finding("exposed_to_network")
        finally:
            server.kill()
    assert any(str(port) in quote.text for quote in found.evidence)


def test_a_server_for_this_machine_only_is_no_finding(engine_binary: Path, gemma: Path) -> None:
    port = free_port()
    words = [
        os.fspath(engine_binary),
        "-m",
        os.fspath(gemma),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "-c",
        "256",
    ]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            until_it_listens(port)
            exposed = [one for one in looked().findings if one.cause == "exposed_to_network"]
        finally:
            server.kill()
    assert not any(str(port) in quote.text for one in exposed for quote in one.evidence)


def test_a_store_whose_disk_is_full(
    small_disk: Path, fake_ollama: Callable[..., FakeOllama], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = fake_ollama(store=small_disk / "models")
    monkeypatch.setenv("OLLAMA_HOST", fake.url)
    monkeypatch.setenv("OLLAMA_MODELS", os.fspath(small_disk / "models"))
    with (small_disk / "rest").open("wb", buffering=0) as rest, pytest.raises(OSError, match="No space left"):
        rest.writelines(itertools.repeat(b"x" * 65536))
    assert os.fspath(small_disk) in str(finding("disk_full").evidence)


def test_a_store_that_can_not_be_written(
    small_disk: Path, fake_ollama: Callable[..., FakeOllama], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = fake_ollama(store=small_disk / "models", log=tmp_path / "ollama.log")
    monkeypatch.setenv("OLLAMA_HOST", fake.url)
    monkeypatch.setenv("OLLAMA_MODELS", os.fspath(small_disk / "models"))
    subprocess.run(["mount", "-o", "remount,ro", os.fspath(small_disk)], check=True)
    assert os.fspath(small_disk) in str(finding("models_dir_permission").evidence)


def test_a_machine_without_a_container_engine_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/docker.sock")
    diagnosis = looked()
    told = [f"{row.what}: {row.why}" for row in diagnosis.skipped] + [fact.text for fact in diagnosis.facts]
    assert any("docker" in words.lower() for words in told)
    assert not any(
        finding.cause.startswith("container_") for finding in diagnosis.findings if finding.is_trouble
    )
