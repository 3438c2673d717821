"""Whether a base URL leads to an Ollama, asked without leaving this network."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from narthex.doctor.collect import reach


class Elsewhere(BaseHTTPRequestHandler):
    """Sends everybody on, and remembers who comes."""

    asked: list[str]

    def do_GET(self) -> None:
        type(self).asked.append(self.path)
        self.send_response(302)
        self.send_header("Location", "/somewhere-else")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def url() -> Iterator[str]:
    Elsewhere.asked = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_redirect_is_not_followed(url: str) -> None:
    assert reach.look(url, {}) == {"error": "no answer of Ollama's came back (HTTP 302)"}
    assert Elsewhere.asked == ["/api/version"]
