"""The fake Ollama: a store on disk, real runners, timers, a queue, and a log like a real one's."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest

from narthex.testing.fake_ollama import FakeOllama
from narthex.testing.real_ollama import call

pytestmark = pytest.mark.engine
Start = Callable[..., FakeOllama]
FEW: dict[str, Any] = {"num_predict": 8, "temperature": 0, "seed": 1}


def listed(fake: FakeOllama) -> dict[str, dict[str, Any]]:
    return {str(model["name"]): model for model in call(fake.url, "/api/ps")["models"]}


def load(fake: FakeOllama, name: str = "small", **body: Any) -> dict[str, Any]:
    return call(fake.url, "/api/generate", {"model": name, **body})


def until(holds: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.05)


def test_a_model_is_loaded_listed_and_unloaded(fake_ollama: Start, gemma: Path) -> None:
    fake = fake_ollama(models={"small": gemma})
    assert listed(fake) == {}
    assert load(fake)["done_reason"] == "load"
    assert listed(fake).keys() == {"small:latest"}
    (pid,) = fake.runner_pids()
    command = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    blob = command[command.index("--model") + 1]
    assert Path(blob) == fake.blob("small")
    assert load(fake, keep_alive=0)["done_reason"] == "unload"
    assert listed(fake) == {}
    until(lambda: fake.runner_pids() == [])


def test_the_store_leads_from_a_name_to_a_blob_named_by_its_digest(fake_ollama: Start, gemma: Path) -> None:
    fake = fake_ollama()
    fake.add_model("small", gemma, {"num_ctx": 512})
    path = fake.store / "manifests" / "registry.ollama.ai" / "library" / "small" / "latest"
    layers = {
        layer["mediaType"].rpartition(".")[2]: layer for layer in json.loads(path.read_text())["layers"]
    }
    with gemma.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    assert layers["model"]["digest"] == f"sha256:{digest}"
    assert fake.blob("small") == fake.store / "blobs" / f"sha256-{digest}"
    assert fake.blob("small").stat().st_size == gemma.stat().st_size
    params = fake.store / "blobs" / layers["params"]["digest"].replace(":", "-")
    assert json.loads(params.read_text()) == {"num_ctx": 512}


def test_a_damaged_copy_of_a_blob_leaves_the_file_it_came_from(fake_ollama: Start, gemma: Path) -> None:
    before = gemma.stat().st_size
    fake = fake_ollama(models={"small": gemma})
    blob = fake.blob("small", own=True)
    with blob.open("r+b") as file:
        file.truncate(before // 2)
    assert gemma.stat().st_size == before
    with pytest.raises(HTTPError) as caught:
        load(fake)
    assert re.search(r"exceeds file size \(\d+\)", caught.value.read().decode())


def test_an_uploaded_file_becomes_a_model(fake_ollama: Start, gemma: Path) -> None:
    import urllib.request

    fake = fake_ollama()
    data = gemma.read_bytes()
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    for wrong, status in ((f"sha256:{'0' * 64}", 400), ("nonsense", 400)):
        request = urllib.request.Request(f"{fake.url}/api/blobs/{wrong}", data=b"x", method="POST")
        with pytest.raises(HTTPError) as caught:
            urllib.request.urlopen(request)
        assert caught.value.code == status
    request = urllib.request.Request(f"{fake.url}/api/blobs/{digest}", data=data, method="POST")
    with urllib.request.urlopen(request) as answer:
        assert answer.status == 201
    made = call(fake.url, "/api/create", {"model": "up", "files": {"up.gguf": digest}, "stream": False})
    assert made == {"status": "success"}
    assert load(fake, "up")["done_reason"] == "load"
    call(fake.url, "/api/delete", {"model": "up"}, method="DELETE")
    assert list((fake.store / "blobs").iterdir()) == []


def test_a_model_goes_when_its_keep_alive_is_over(fake_ollama: Start, gemma: Path) -> None:
    fake = fake_ollama(models={"small": gemma}, env={"OLLAMA_KEEP_ALIVE": "1s"})
    load(fake)
    until(lambda: listed(fake) == {} and fake.runner_pids() == [])


def test_a_full_queue_refuses_loads_and_a_loaded_model_never_does(fake_ollama: Start, gemma: Path) -> None:
    fake = fake_ollama(models={"small": gemma}, env={"OLLAMA_MAX_QUEUE": "1"})
    statuses: list[int] = []

    def send() -> None:
        try:
            load(fake, prompt="The sky is", stream=False, options=FEW)
            statuses.append(200)
        except HTTPError as error:
            statuses.append(error.code)

    def at_once(count: int) -> list[int]:
        statuses.clear()
        threads = [threading.Thread(target=send) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sorted(statuses)

    assert at_once(6) == [200, 200, 503, 503, 503, 503]
    assert at_once(4) == [200, 200, 200, 200]


def test_slots_multiply_the_context_but_not_in_the_list(fake_ollama: Start, gemma: Path) -> None:
    fake = fake_ollama(models={"small": gemma}, env={"OLLAMA_NUM_PARALLEL": "2"})
    load(fake, options={"num_ctx": 512})
    assert listed(fake)["small:latest"]["context_length"] == 512
    assert "-c 1024 -np 2" in fake.log_path.read_text()


def test_settings_of_the_whole_server_reach_the_runner(fake_ollama: Start, gemma: Path) -> None:
    env = {"OLLAMA_KV_CACHE_TYPE": "q8_0", "OLLAMA_FLASH_ATTENTION": "1", "OLLAMA_CONTEXT_LENGTH": "1024"}
    fake = fake_ollama(models={"small": gemma}, env=env)
    load(fake)
    log = fake.log_path.read_text()
    assert "-c 1024 -np 1" in log
    assert "--cache-type-k q8_0 --cache-type-v q8_0 --flash-attn on" in log
    assert "OLLAMA_KV_CACHE_TYPE:q8_0" in log
    assert "K (q8_0)" in log


def test_only_so_many_models_stay_loaded(fake_ollama: Start, gemma: Path, tmp_path: Path) -> None:
    fake = fake_ollama(models={"small": gemma}, env={"OLLAMA_MAX_LOADED_MODELS": "1"})
    other = tmp_path / "other.gguf"
    other.write_bytes(gemma.read_bytes() + bytes(64))  # another file, so another blob
    fake.add_model("other", other)
    load(fake)
    load(fake, "other")
    assert listed(fake).keys() == {"other:latest"}
    until(lambda: len(fake.runner_pids()) == 1)


def test_an_offload_device_takes_the_layers_it_is_given(
    fake_ollama: Start, gemma: Path, rpc_server_binary: Path
) -> None:
    fake = fake_ollama(models={"small": gemma}, rpc=True)
    assert "name=RPC0" in fake.log_path.read_text()
    load(fake, options={"num_ctx": 512})
    whole = listed(fake)["small:latest"]
    assert whole["size_vram"] == whole["size"] > 0
    load(fake, options={"num_ctx": 512, "num_gpu": 10})
    partial = listed(fake)["small:latest"]
    assert 0 < partial["size_vram"] < partial["size"]
    load(fake, options={"num_ctx": 512})  # without num_gpu the runner stays as it is
    assert listed(fake)["small:latest"]["size_vram"] == partial["size_vram"]


def test_the_access_log_and_the_runners_lines_share_one_file(fake_ollama: Start, gemma: Path) -> None:
    fake = fake_ollama(models={"small": gemma})
    load(fake)
    lines = fake.log_path.read_text().splitlines()
    assert any(
        re.match(r"time=\S+Z level=INFO source=\S+ msg=\"server config\" env=\"map\[", x) for x in lines
    )
    assert any(re.match(r"load_tensors:\s+CPU model buffer size =\s+[\d.]+ MiB", line) for line in lines)
    assert any(
        re.match(r'\[GIN\] \S+ - \S+ \| 200 \|\s+\S+ \|.* \| POST     "/api/generate"', x) for x in lines
    )
