"""A test tool, no OpenWebUI: a real HTTP server that answers as OpenWebUI 0.12.4 does without a login.

``/health``, ``/ready``, ``/api/version`` and ``/api/config`` answer in its shapes; what needs a login answers
401, and every other path gives the page, with 200, as the real one does. It asks nobody and stores nothing.

In a test::

    with FakeOpenWebUI() as openwebui:
        ...  # openwebui.url

As a process of its own, whose command line and environment are those of the real one::

    open-webui serve --port 18080     # a link of that name to this file, see `install`
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

VERSION = "0.12.4"
PAGE = b"<!doctype html><html><head><title>Open WebUI</title></head><body></body></html>"
_NEEDS_LOGIN = ("/api/models", "/api/chat", "/api/v1/", "/ollama/", "/openai/", "/api/tasks")


class FakeOpenWebUI:
    """One server on loopback; a context manager. ``healthy`` False: it is there, and its database is not."""

    def __init__(self, *, port: int = 0, version: str = VERSION, name: str = "Open WebUI") -> None:
        self.version, self.name = version, name
        self.healthy = True
        self.requests: list[str] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", port), type("Handler", (_Handler,), {"fake": self}))
        self._server.daemon_threads = True
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> FakeOpenWebUI:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.vanish()

    def vanish(self) -> None:
        """Nothing answers any more, from one moment to the next."""
        self._server.shutdown()
        self._server.server_close()

    def config(self) -> dict[str, Any]:
        """As ``/api/config`` without a login."""
        features = {
            "auth": True,
            "auth_trusted_header": False,
            "enable_api_keys": False,
            "enable_signup": False,
            "enable_login_form": True,
            "enable_websocket": True,
        }
        return {
            "status": True,
            "name": self.name,
            "version": self.version,
            "default_locale": "",
            "oauth": {"providers": {}},
            "features": features,
        }


class _Handler(BaseHTTPRequestHandler):
    fake: FakeOpenWebUI
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.fake.requests.append(path)
        if path in ("/health", "/ready"):
            self._json({"status": True}) if self.fake.healthy else self._json({"detail": "down"}, 503)
        elif path == "/api/version":
            self._json({"version": self.fake.version, "deployment_id": ""})
        elif path == "/api/config":
            self._json(self.fake.config())
        elif path.startswith(_NEEDS_LOGIN):
            self._json({"detail": "Not authenticated"}, 401)
        else:
            self._send(200, PAGE, "text/html; charset=utf-8")

    def _json(self, found: Any, status: int = 200) -> None:
        self._send(status, json.dumps(found).encode(), "application/json")

    def _send(self, status: int, content: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def install(folder: Path) -> Path:
    """A program named ``open-webui`` in that folder, which starts this fake. Its path."""
    program = folder / "open-webui"
    program.write_text(f"#!{sys.executable}\nfrom narthex.testing.fake_openwebui import main\nmain()\n")
    program.chmod(0o755)
    return program


def main() -> None:
    """A process of its own: prints its URL, then serves until it is ended."""
    parser = argparse.ArgumentParser(description="A test tool that answers as OpenWebUI does.")
    parser.add_argument("serve", nargs="?", default="serve")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=int(os.environ.get("PORT", "0")))
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with FakeOpenWebUI(port=given.port) as fake:
        sys.stdout.write(f"{fake.url}\n")
        sys.stdout.flush()
        threading.Event().wait()


if __name__ == "__main__":
    main()
