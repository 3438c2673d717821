"""The fake Ollama of other releases: what they answered and logged, as far as narthex looks at it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest

from narthex.testing.fake_ollama import FakeOllama
from narthex.testing.ollama.manner import Manner
from narthex.testing.real_ollama import call

pytestmark = pytest.mark.engine
Start = Callable[..., FakeOllama]

# version, era, slots where none are asked for, keys of ps, keys of show, words of a load
RELEASES = (
    ("0.3.14", "B", 4, {"size_vram"}, {"model_info"}, 'msg="starting llama server" cmd='),
    ("0.5.13", "D", 4, {"size_vram"}, {"model_info"}, "msg=offload library=cpu layers.requested=-1"),
    ("0.9.2", "D", 2, {"size_vram"}, {"model_info", "tensors", "capabilities"}, "ollama runner --model"),
    ("0.12.3", "E", 1, {"size_vram", "context_length"}, {"tensors", "capabilities"}, "Operation:commit"),
    ("0.20.0", "E", 1, {"context_length"}, {"tensors", "capabilities"}, 'msg="starting runner" cmd='),
    ("0.30.0", "F", 1, {"context_length"}, {"tensors", "capabilities"}, 'msg="starting llama-server" cmd='),
)
CHANGING = {"size_vram", "context_length"}


@pytest.mark.parametrize(("version", "era", "slots", "ps", "show", "words"), RELEASES)
def test_a_release_answers_and_logs_as_it_did(
    fake_ollama: Start,
    gemma: Path,
    version: str,
    era: str,
    slots: int,
    ps: set[str],
    show: set[str],
    words: str,
) -> None:
    fake = fake_ollama(models={"small": gemma}, version=version)
    assert Manner(version).era == era
    assert call(fake.url, "/api/version") == {"version": version}
    call(fake.url, "/api/generate", {"model": "small", "options": {"num_ctx": 512}})
    (resident,) = call(fake.url, "/api/ps")["models"]
    assert ps <= resident.keys()
    assert ("context_length" in resident) is Manner(version).since(0, 10, 0)
    shown = call(fake.url, "/api/show", {"model": "small"})
    assert show <= shown.keys()
    assert ("tensors" in shown) is Manner(version).since(0, 6, 1)
    assert ("capabilities" in call(fake.url, "/api/tags")["models"][0]) is Manner(version).since(0, 30, 0)
    log = fake.log_path.read_text()
    assert words in log
    assert f"n_seq_max             = {slots}" in log


def test_a_release_of_2024_takes_a_modelfile(fake_ollama: Start, gemma: Path) -> None:
    fake = fake_ollama(models={"small": gemma}, version="0.3.14")
    body: dict[str, Any] = {"name": "made", "stream": False}
    with pytest.raises(HTTPError) as caught:
        call(fake.url, "/api/create", {**body, "from": "small"})
    assert json.loads(caught.value.read()) == {"error": "path or modelfile are required"}
    call(fake.url, "/api/create", {**body, "modelfile": "FROM small\nPARAMETER num_ctx 640\n"})
    assert call(fake.url, "/api/show", {"name": "made"})["parameters"].split() == ["num_ctx", "640"]


@pytest.mark.parametrize(
    ("version", "words"),
    [
        ("0.9.2", "model requires more system memory (331.4 MiB) than is available (300.0 MiB)"),
        ("0.33.0", "llama-server process has terminated: exit status 1: "),
    ],
)
def test_what_main_memory_cannot_hold_was_refused_before_and_is_tried_today(
    fake_ollama: Start, gemma: Path, version: str, words: str
) -> None:
    fake = fake_ollama(
        models={"small": gemma}, version=version, limit_mib=300, env={"OLLAMA_NUM_PARALLEL": "1"}
    )
    body = {"model": "small", "options": {"num_ctx": 8192}}
    with pytest.raises(HTTPError) as caught:
        call(fake.url, "/api/generate", body)
    assert json.loads(caught.value.read())["error"].startswith(words)


def test_a_failed_load_of_late_2025_says_little(fake_ollama: Start, gemma: Path) -> None:
    fake = fake_ollama(models={"small": gemma}, version="0.20.0", env={"OLLAMA_KV_CACHE_TYPE": "q5_9"})
    with pytest.raises(HTTPError) as caught:
        call(fake.url, "/api/generate", {"model": "small"})
    assert json.loads(caught.value.read())["error"].startswith("model failed to load, this may be due to")
