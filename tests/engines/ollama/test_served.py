"""One model in one server: the same blob under other names, its command line, words about where it lies."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from narthex.engines.ollama.records import ApiError, Resident
from narthex.engines.ollama.served import ServedModel, processor, spoken
from narthex.testing.ollama.canned import canned

GEMMA = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"


def shown(digest: str) -> dict[str, Any]:
    return {"modelfile": f"# Modelfile\n\nFROM /models/blobs/sha256-{digest}\nPARAMETER num_ctx 8\n"}


def resident(name: str, digest: str = "", size: int = 0, size_vram: int | None = None) -> Resident:
    return Resident(name=name, digest=digest or name, size=size, size_vram=size_vram)


def test_names_over_one_blob_are_the_same_model() -> None:
    with canned() as answers:
        answers.shows = {"a": shown(GEMMA), "b:latest": shown(GEMMA), "c:latest": shown("0" * 64)}
        model = ServedModel(answers.server(), "a")
        assert model.blob == GEMMA
        assert model.is_same(resident("A:latest"))
        assert model.is_same(resident("b:latest"))
        assert not model.is_same(resident("c:latest"))
        assert not model.is_same(resident("gone:latest"))


def test_the_blob_is_asked_for_once() -> None:
    with canned() as answers:
        model = ServedModel(answers.server(), "gone")
        assert [model.blob, model.blob, model.pid(), model.command()] == [None] * 4
        assert len(answers.asked) == 1


@pytest.mark.parametrize("given", [f"sha256:{GEMMA}", f"sha256-{GEMMA}", GEMMA])
def test_a_known_blob_is_not_asked_for(given: str) -> None:
    with canned() as answers:
        assert ServedModel(answers.server(), "a", given).blob == GEMMA
        assert answers.asked == []


def test_a_server_elsewhere_shows_no_process_but_its_log_tells_the_last_start(shared: Path) -> None:
    recorded = json.loads((shared / "ollama-wire" / "062-reload-num-batch.json").read_text())
    with canned() as answers:
        model = ServedModel(answers.server(place="elsewhere"), "a", GEMMA)
        assert model.pid() is None
        assert model.command() is None
        command = model.command(recorded["server_log"])
        assert command is not None
        assert command.blob == GEMMA
        other = ServedModel(answers.server(place="elsewhere"), "b", "0" * 64)
        assert other.command(recorded["server_log"]) is None


@pytest.mark.parametrize(
    ("size", "vram", "words"),
    [
        (100, 100, "100% GPU"),
        (100, 0, "100% CPU"),
        (384132593, 272923360, "29%/71% CPU/GPU"),
        (0, 0, None),
        (100, 120, None),
    ],
)
def test_a_placement_is_told_in_ollamas_own_words(size: int, vram: int, words: str | None) -> None:
    assert processor(resident("a", size=size, size_vram=vram)) == words


def test_a_server_that_tells_no_video_memory_has_no_placement() -> None:
    assert processor(resident("a", size=100)) is None


def test_names_are_spoken_short() -> None:
    assert spoken("registry.ollama.ai/library/qwen3:30b") == "qwen3:30b"
    assert spoken("?!") == "?!"


@contextmanager
def embedder(status: int, words: str) -> Iterator[tuple[str, list[tuple[str, Any]]]]:
    """A server that refuses /api/generate in these words and embeds."""
    asked: list[tuple[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
            embeds = self.path == "/api/embed"
            content = json.dumps({"embeddings": []} if embeds else {"error": words}).encode()
            self.send_response(200 if embeds else status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


def test_a_model_that_only_embeds_is_put_back_by_embedding() -> None:
    with canned() as answers, embedder(400, '"nomic" does not support generate') as (url, asked):
        answers.url = url
        ServedModel(answers.server(), "nomic", GEMMA).preload({"num_ctx": 2048}, -1)
    path, body = asked[-1]
    assert path == "/api/embed"
    assert body == {"model": "nomic", "input": "", "options": {"num_ctx": 2048}, "keep_alive": -1}


def test_another_refusal_is_not_answered_by_embedding() -> None:
    with canned() as answers, embedder(500, "out of memory") as (url, asked):
        answers.url = url
        with pytest.raises(ApiError, match="out of memory"):
            ServedModel(answers.server(), "nomic", GEMMA).preload(None, None)
    assert len(asked) == 1
