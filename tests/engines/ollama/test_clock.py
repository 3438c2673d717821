"""A server elsewhere whose clock is wrong."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from narthex.engines.ollama.activity import busy_models
from narthex.engines.ollama.clock import ahead_s
from narthex.engines.ollama.formers import seconds_left
from narthex.engines.ollama.records import Server
from narthex.engines.ollama.served import ServedModel

STAY_S = 120


class Handler(BaseHTTPRequestHandler):
    """Its clock is off by the server's ``off_s``; one model is loaded for two more minutes."""

    server: Wrong

    def do_GET(self) -> None:
        expires = datetime.now(UTC) + timedelta(seconds=self.server.off_s + self.server.stay_s)
        model = {"name": "small:latest", "expires_at": self.server.expires or expires.isoformat()}
        self.server.expires = model["expires_at"]
        body = {"/api/version": {"version": "0.33.0"}, "/api/ps": {"models": [model]}}[self.path]
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def date_time_string(self, timestamp: float | None = None) -> str:
        if self.server.mute:
            return ""
        return super().date_time_string(time.time() + self.server.off_s)

    def log_message(self, format: str, *args: object) -> None:
        return


class Wrong(HTTPServer):
    """A server with a wrong clock."""

    off_s = 0.0
    stay_s = STAY_S
    mute = False
    expires = ""

    def found(self, place: str = "elsewhere") -> Server:
        url = f"http://127.0.0.1:{self.server_port}"
        return Server(url=url, version="0.33.0", era="F", source="flag", place=place)


@pytest.fixture
def wrong() -> Iterator[Wrong]:
    with Wrong(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.mark.parametrize("off_s", [-3600, 3600])
def test_a_wrong_clock_makes_no_idle_model_busy_and_no_stay_longer(wrong: Wrong, off_s: float) -> None:
    wrong.off_s = off_s
    server = wrong.found()
    ahead = ahead_s(server)
    assert ahead == pytest.approx(off_s, abs=30)
    model = ServedModel(server, "small:latest")
    assert busy_models([model]) == []
    assert seconds_left(model.api.ps()[0], ahead) == pytest.approx(STAY_S, abs=60)


def test_a_model_that_is_over_its_time_by_the_servers_clock_is_busy(wrong: Wrong) -> None:
    wrong.off_s, wrong.stay_s = 3600, -10
    assert busy_models([ServedModel(wrong.found(), "small:latest")]) == ["small:latest"]


def test_a_clock_that_nobody_tells_makes_nothing_busy(wrong: Wrong) -> None:
    wrong.off_s, wrong.mute = -3600, True
    assert ahead_s(wrong.found()) is None
    assert busy_models([ServedModel(wrong.found(), "small:latest")]) == []


def test_on_this_machine_there_is_one_clock(wrong: Wrong) -> None:
    wrong.off_s = 3600
    assert ahead_s(wrong.found("process")) == 0
    assert ahead_s(wrong.found("container")) == 0
