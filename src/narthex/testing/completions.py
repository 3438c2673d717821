"""``CompletionServer``: a real HTTP server that answers ``/completion`` as scripted, well or badly."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TIMINGS = {"cache_n": 0, "prompt_n": 100, "prompt_ms": 500.0, "predicted_n": 11, "predicted_ms": 200.0}


def progress(processed: int, total: int = 100) -> dict[str, Any]:
    """An event while the prompt is read."""
    return {"content": "", "stop": False, "prompt_progress": {"total": total, "processed": processed}}


def token(text: str = " word") -> dict[str, Any]:
    """An event with one generated token."""
    return {"content": text, "tokens": [7], "stop": False}


def end(**timings: Any) -> dict[str, Any]:
    """The last event, with the engine's timings."""
    return {"content": "", "stop": True, "truncated": False, "timings": {**TIMINGS, **timings}}


class CompletionServer:
    """Runs a script for each request. A step is an event (a dict), raw text, or seconds to wait (a float).

    With ``status`` other than 200 the first step is the whole body. When the script ends, so does the
    connection; ``requests`` keeps what was asked, ``most_at_once`` how many were answered side by side.
    """

    def __init__(self, script: Sequence[dict[str, Any] | str | float], *, status: int = 200) -> None:
        self.requests: list[dict[str, Any]] = []
        self.most_at_once = self._running = 0
        self._counting = threading.Lock()
        script = list(script)
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                server.requests.append(json.loads(self.rfile.read(length)))
                self.send_response(status)
                self.end_headers()
                server._count(1)
                try:
                    for step in script:
                        self._step(step)
                except OSError:
                    pass  # the client left
                finally:
                    server._count(-1)

            def _step(self, step: dict[str, Any] | str | float) -> None:
                if isinstance(step, float):
                    time.sleep(step)
                    return
                if isinstance(step, dict):
                    text = json.dumps(step)
                    step = f"data: {text}\n\n" if status == 200 else text
                self.wfile.write(step.encode())
                self.wfile.flush()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def _count(self, change: int) -> None:
        with self._counting:
            self._running += change
            self.most_at_once = max(self.most_at_once, self._running)

    def __enter__(self) -> CompletionServer:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()
