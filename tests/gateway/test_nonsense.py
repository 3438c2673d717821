"""What makes no sense: settings that can't hold, a gateway before itself, an engine that breaks off."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from .serving import PATIENCE_S, Serving


class Breaking(BaseHTTPRequestHandler):
    """An Ollama without models, whose downloads break off."""

    def do_GET(self) -> None:
        body = b'{"version":"0.30.0","models":[]}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b'{"status":"pulling"}\n')
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


class Other(BaseHTTPRequestHandler):
    """No Ollama: it answers all with ``body``; where that is empty, with bytes that never end."""

    body = b""

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200)
        self.end_headers()
        with contextlib.suppress(OSError):  # whoever asked has enough
            self.wfile.write(self.body)
            while not self.body:
                self.wfile.write(bytes(1 << 16))

    do_POST = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@contextlib.contextmanager
def served(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def breaking() -> Iterator[str]:
    with served(Breaking) as url:
        yield url


@pytest.mark.parametrize(
    ("words", "policy", "told"),
    [
        (("--listen", "a" * 300 + ":11435"), "", "can't listen"),
        (("--listen", "127.0.0.1:٣"), "", "is no place to listen"),
        ((), '[gateway]\ncomfyui = "lease"\ncomfyui_listen = "0.0.0.0:8189"\n', "there it needs keys"),
        ((), '[gateway]\ncomfyui = "lease"\ncomfyui_listen = "here"\n', "«here» is no place to listen"),
        ((), '[gateway]\nkeys = "~nobody-of-this-name/keys"\n', "can't be read"),
        ((), '[gateway]\ncapture = "~nobody-of-this-name/all"\n', "is no folder"),
    ],
)
def test_a_setting_that_can_not_hold_ends_it_with_a_sentence(
    tmp_path: Path, words: tuple[str, ...], policy: str, told: str
) -> None:
    serving = Serving(tmp_path, policy=policy)
    place = () if "--listen" in words else ("--listen", f"127.0.0.1:{serving.port}")
    serving.launch("--no-ollama", "--config", str(serving.config), *place, *words)
    assert serving.process is not None
    assert serving.process.wait(PATIENCE_S) == 2
    assert told in serving.log()


def test_a_gateway_takes_none_for_an_ollama(tmp_path: Path) -> None:
    with (
        Serving(tmp_path / "one", "--no-ollama") as first,
        Serving(tmp_path / "two", env={"OLLAMA_HOST": first.url}) as second,
    ):
        told = second.get("/readyz")
        assert any(f"{first.url} is a gateway" in words and "--ollama" in words for words in told["problems"])
        assert not told["ready"]


def test_an_answer_that_breaks_off_is_not_followed_by_a_second_one(tmp_path: Path, breaking: str) -> None:
    with Serving(tmp_path, "--ollama", breaking, policy="[gateway]\nadmin = true\n") as serving:
        line = serving.leave("/api/pull", {"model": "a"})
        found = b""
        try:
            while piece := line.recv(4096):
                found += piece
        except ConnectionError:  # it is broken off for the client, too
            pass
        line.close()
        assert b'{"status":"pulling"}' in found
        assert found.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize(
    "body", [b"<html>It works!</html>", b"{", b"\xff", b'{"models":[{"name":null}]}', 90_000 * b"[", b""]
)
def test_what_is_no_ollama_is_told_as_that_and_breaks_nothing(tmp_path: Path, body: bytes) -> None:
    handler = type("Handler", (Other,), {"body": body})
    with served(handler) as url, Serving(tmp_path, "--ollama", url) as serving:
        ready = serving.ask("GET", "/readyz")
        assert ready.status == 503
        assert ready.json["problems"]
        assert serving.get("/api/tags") == {"models": []}
        answer = serving.post("/api/generate", {"model": "a", "prompt": "x"})
        assert answer.status in (404, 503)
        assert not serving.events("fault"), serving.log()


def test_a_name_of_a_model_that_is_a_megabyte_is_not_kept_whole(tmp_path: Path) -> None:
    with Serving(tmp_path, "--no-ollama") as serving:
        assert serving.post("/api/generate", {"model": "x" * (1 << 20), "prompt": "a"}).status == 404
    (row,) = serving.requests()
    assert row["model"] == "x" * 256


def test_a_log_of_json_has_nothing_else_in_it(tmp_path: Path) -> None:
    with Serving(tmp_path, "--no-ollama", "--log-json") as serving:
        serving.post("/narthex/reload", {})
    rows = [json.loads(line) for line in serving.log().splitlines()]
    assert {row["event"] for row in rows} == {"serve"}
    assert serving.url in rows[0]["text"]
