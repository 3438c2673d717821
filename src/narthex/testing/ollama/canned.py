"""A small HTTP server with canned answers: what an Ollama of any age says about its models."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from narthex.engines.ollama.eras import era_of
from narthex.engines.ollama.records import Server


class Canned:
    """Answers by path; ``shows`` by model name, else 404 as Ollama says it. ``asked`` keeps the requests."""

    def __init__(self) -> None:
        self.version = "0.33.0-rc2"
        self.tags: list[dict[str, Any]] = []
        self.ps: list[dict[str, Any]] = []
        self.shows: dict[str, dict[str, Any]] = {}
        self.verbose: dict[str, dict[str, Any]] = {}
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.url = ""

    def server(self, **more: Any) -> Server:
        """The record of this server."""
        letter = era_of(self.version).letter
        facts = {"source": "flag", "place": "elsewhere", **more}
        return Server(url=self.url, version=self.version, era=letter, **facts)

    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        """Status and body of one request."""
        self.asked.append((path, body))
        if path == "/api/version":
            return 200, {"version": self.version}
        if path == "/api/tags":
            return 200, {"models": self.tags}
        if path == "/api/ps":
            return 200, {"models": self.ps}
        if path != "/api/show":
            return 404, {"error": "404 page not found"}
        name = body.get("model") or body["name"]
        shows = {**self.shows, **self.verbose} if body.get("verbose") else self.shows
        if name in shows:
            return 200, shows[name]
        return 404, {"error": f"model '{name}' not found"}


@contextmanager
def canned() -> Iterator[Canned]:
    """Started on a free port; ended with the block."""
    answers = Canned()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            status, found = answers.answer(self.path, json.loads(self.rfile.read(length) or b"{}"))
            content = json.dumps(found).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json; charset=utf-8")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_GET

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        answers.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield answers
        finally:
            server.shutdown()
            thread.join()
