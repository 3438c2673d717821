"""A test tool, no ComfyUI: a real HTTP server that speaks its protocol, and one worker that really works.

Routes, event order, error bodies and the late effect of ``/free`` are those of ComfyUI 0.13; ``prompt_id``
must be a UUID, as newer ones demand. Its few nodes (:mod:`narthex.testing.comfyui.nodes`) load a model,
compute on the CPU for as long as asked, and write a tiny picture. With an NVIDIA driver the memory is really
taken from the card, so that NVML sees it; what a real ComfyUI does with VRAM is not imitated further.

In a test::

    with FakeComfyUI(work_s=0.5) as comfyui:
        ...  # comfyui.url

As a process of its own, which can be killed and measured::

    python -m narthex.testing.fake_comfyui --port 8188 --work 5 --model 4GiB --on-top 2GiB
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import socket
import sys
import tempfile
import threading
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from narthex.testing.comfyui.executor import Executor, Manner
from narthex.testing.comfyui.nodes import CHECKPOINT, error_body, refusal
from narthex.testing.comfyui.sockets import Sockets, accept_key
from narthex.units import GIB, parse_size

VERSION = "0.13.0"
_CARD_BYTES = 20 * GIB  # of the card that /system_stats tells about


def portrait(seed: int | None = 7) -> dict[str, Any]:
    """A workflow in the API's format: checkpoint, prompts, sampler, decoder, picture. ``seed`` None: it has
    nothing but a plain picture, so there is no seed to change."""
    if seed is None:
        blank = {"width": 64, "height": 64, "batch_size": 1, "color": 255}
        return {
            "1": {"class_type": "EmptyImage", "inputs": blank},
            "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "t"}},
        }
    sampler = {
        "model": ["1", 0],
        "seed": seed,
        "steps": 4,
        "positive": ["2", 0],
        "negative": ["2", 0],
        "latent_image": ["3", 0],
    }
    return {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": CHECKPOINT}},
        "2": {"class_type": "CLIPTextEncode", "inputs": {"text": "a lighthouse", "clip": ["1", 1]}},
        "3": {"class_type": "EmptyLatentImage", "inputs": {"width": 512, "height": 512, "batch_size": 1}},
        "4": {"class_type": "KSampler", "inputs": sampler},
        "5": {"class_type": "VAEDecode", "inputs": {"samples": ["4", 0], "vae": ["1", 2]}},
        "6": {"class_type": "SaveImage", "inputs": {"images": ["5", 0], "filename_prefix": "portrait"}},
    }


class FakeComfyUI:
    """One server on loopback; a context manager. ``requests`` keeps method, path and body of each question.

    ``work_s`` is the time of one job, ``fail`` what its sampler's exception says, ``device`` "cuda" or "cpu";
    ``previews``: a picture after each of its steps; ``ram_free``: what it says of the main memory.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        work_s: float = 0.5,
        model_bytes: int = 64 * 2**20,
        work_bytes: int = 32 * 2**20,
        fail: str = "",
        previews: bool = False,
        device: str = "cuda",
        ram_free: int = 48 * GIB,
        folder: Path | None = None,
    ) -> None:
        self.requests: list[tuple[str, str, Any]] = []
        self._own_folder = tempfile.TemporaryDirectory() if folder is None else None
        self.folder = folder or Path(self._own_folder.name if self._own_folder else "")
        self.device, self.ram_free = device, ram_free
        self.sockets = Sockets()
        self.connections: set[socket.socket] = set()
        manner = Manner(
            work_s=work_s, model_bytes=model_bytes, work_bytes=work_bytes, fail=fail, previews=previews
        )
        self.executor = Executor(manner, self.folder, self.sockets.send, self.sockets.preview)
        self._server = ThreadingHTTPServer(("127.0.0.1", port), type("Handler", (_Handler,), {"fake": self}))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> FakeComfyUI:
        self.executor.start()
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.vanish()
        self.executor.stop()
        if self._own_folder is not None:
            self._own_folder.cleanup()

    def vanish(self) -> None:
        """Nothing answers any more, from one moment to the next."""
        self._server.shutdown()
        self._server.server_close()
        for connection in list(self.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def stats(self) -> dict[str, Any]:
        """As ``/system_stats``."""
        held = self.executor.held_bytes
        return {
            "system": {
                "os": sys.platform,
                "ram_total": 64 * GIB,
                "ram_free": self.ram_free,
                "comfyui_version": VERSION,
                "python_version": sys.version,
                "pytorch_version": "none",
                "embedded_python": False,
                "argv": ["main.py"],
            },
            "devices": [
                {
                    "name": f"{self.device}:0 fake",
                    "type": self.device,
                    "index": None if self.device == "cpu" else 0,
                    "vram_total": _CARD_BYTES,
                    "vram_free": _CARD_BYTES - held,
                    "torch_vram_total": held,
                    "torch_vram_free": 0,
                }
            ],
        }


class _Handler(BaseHTTPRequestHandler):
    fake: FakeComfyUI
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self.fake.connections.add(self.connection)

    def finish(self) -> None:
        self.fake.connections.discard(self.connection)
        with contextlib.suppress(OSError):
            super().finish()

    def handle(self) -> None:
        with contextlib.suppress(OSError):
            super().handle()

    def do_GET(self) -> None:
        path, query = self._path()
        executor = self.fake.executor
        if self._foreign():
            return
        if path == "/ws":
            self._socket(query)
        elif path == "/prompt":
            self._answer({"exec_info": {"queue_remaining": executor.remaining()}})
        elif path == "/queue":
            self._answer(executor.queue())
        elif path == "/history":
            rows = list(executor.history.items())
            count = int(query.get("max_items", len(rows)))
            start = int(query.get("offset", max(0, len(rows) - count)))
            self._answer(dict(rows[start : start + count]))
        elif path.startswith("/history/"):
            prompt_id = path.removeprefix("/history/")
            found = executor.history.get(prompt_id)
            self._answer({prompt_id: found} if found else {})
        elif path == "/system_stats":
            self._answer(self.fake.stats())
        elif path == "/view":
            file = self.fake.folder / query.get("type", "output") / Path(query.get("filename", "")).name
            self._send(200, file.read_bytes(), "image/png") if file.is_file() else self._send(404, b"")
        else:
            self._send(404, b"404: Not Found")

    def do_POST(self) -> None:
        path, _ = self._path()
        if path == "/upload/image":
            return self._upload()
        body = self._body()
        self.fake.requests.append(("POST", path, body))
        executor = self.fake.executor
        if self._foreign():
            return
        if path == "/prompt":
            self._prompt(body)
        elif path == "/queue":
            if body.get("clear"):
                executor.drop(None)
            executor.drop(list(body.get("delete", ())))
            self._send(200, b"")
        elif path == "/history":
            for prompt_id in list(executor.history) if body.get("clear") else body.get("delete", ()):
                executor.history.pop(prompt_id, None)
            self._send(200, b"")
        elif path == "/interrupt":
            executor.interrupt(body.get("prompt_id") if body else None)
            self._send(200, b"")
        elif path == "/free":
            executor.free(bool(body.get("unload_models")), bool(body.get("free_memory")))
            self._send(200, b"")
        else:
            self._send(404, b"404: Not Found")

    def _foreign(self) -> bool:
        """Its guard against other pages: a request to loopback whose Origin is not its Host gets 403."""
        origin = urlsplit(self.headers.get("Origin", "")).netloc
        if not origin or origin == self.headers.get("Host"):
            return False
        self._send(403, b"")
        return True

    def _upload(self) -> None:
        """The file of a multipart form, as it comes: its length is all that this fake knows of it."""
        count = len(self.rfile.read(int(self.headers.get("Content-Length") or 0)))
        self.fake.requests.append(("POST", "/upload/image", count))
        self._answer({"name": "upload.png", "subfolder": "", "type": "input"})

    def _prompt(self, body: dict[str, Any]) -> None:
        if "prompt" not in body:
            text = "No prompt provided"
            return self._answer(error_body("no_prompt", text, text), 400)
        prompt_id = str(body.get("prompt_id") or uuid.uuid4())
        if not _is_uuid(prompt_id):
            text = "prompt_id must be a canonical UUID"
            return self._answer(error_body("invalid_prompt_id", text, prompt_id), 400)
        fault = refusal(body["prompt"])
        if fault is not None:
            return self._answer(fault, 400)
        extra = dict(body.get("extra_data") or {})
        if body.get("client_id"):
            extra["client_id"] = body["client_id"]
        number = self.fake.executor.put(prompt_id, body["prompt"], extra, bool(body.get("front")))
        return self._answer({"prompt_id": prompt_id, "number": number, "node_errors": {}})

    def _socket(self, query: dict[str, str]) -> None:
        client = query.get("clientId") or uuid.uuid4().hex
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", accept_key(self.headers.get("Sec-WebSocket-Key", "")))
        self.end_headers()
        self.wfile.flush()
        info = {"exec_info": {"queue_remaining": self.fake.executor.remaining()}}
        first = {"type": "status", "data": {"status": info, "sid": client}}
        self.fake.sockets.serve(client, self.connection, first)
        self.close_connection = True

    def _path(self) -> tuple[str, dict[str, str]]:
        """Each route is there plain and below ``/api``."""
        parts = urlsplit(self.path)
        if self.command == "GET":
            self.fake.requests.append(("GET", self.path, None))
        return parts.path.removeprefix("/api"), {key: row[-1] for key, row in parse_qs(parts.query).items()}

    def _body(self) -> dict[str, Any]:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        found = json.loads(raw) if raw else {}
        return found if isinstance(found, dict) else {}

    def _answer(self, found: Any, status: int = 200) -> None:
        self._send(status, json.dumps(found).encode(), "application/json; charset=utf-8")

    def _send(self, status: int, content: bytes, kind: str = "text/plain") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def _is_uuid(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False


def main() -> None:
    """A process of its own: prints its URL, then serves until it is ended."""
    parser = argparse.ArgumentParser(description="A test tool that speaks ComfyUI's protocol.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--work", type=float, default=0.5, help="seconds of one job")
    parser.add_argument("--model", type=parse_size, default=64 * 2**20, help="bytes of its models")
    parser.add_argument("--on-top", type=parse_size, default=32 * 2**20, help="bytes while it computes")
    parser.add_argument("--fail", default="", help="what its sampler's exception says")
    parser.add_argument("--done", action="store_true", help="a workflow is in its history from the start")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with FakeComfyUI(
        port=given.port,
        work_s=given.work,
        model_bytes=given.model,
        work_bytes=given.on_top,
        fail=given.fail,
    ) as fake:
        if given.done:
            fake.executor.put(str(uuid.uuid4()), portrait(), {}, front=False)
        sys.stdout.write(f"{fake.url}\n")
        sys.stdout.flush()
        threading.Event().wait()


if __name__ == "__main__":
    main()
