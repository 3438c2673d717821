"""``OllamaStream``: a real HTTP server that answers ``/api/generate`` as scripted, well or badly.

The lines look like those of Ollama 0.33. It computes nothing; :mod:`narthex.testing.fake_ollama` does.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from narthex.engines._base import Engine, Failure, LaunchFailed, LoadReport, StopReport, Watch
from narthex.host.facts import CardsBefore
from narthex.knobs import KnobValues
from narthex.outcomes import Outcome

SECOND = 1_000_000_000
CHARACTERS_A_TOKEN = 4


@dataclass(frozen=True)
class Refused:
    """An answer with a status of its own instead of a stream."""

    status: int
    error: str


class Cut:
    """The connection breaks here."""


Step = dict[str, Any] | str | float | Cut
"""A line, raw text, seconds to wait, or the break of the connection."""
Script = Sequence[Step] | Refused
Answer = Callable[[dict[str, Any]], Script]
"""What to play for the body of a request."""


def token(text: str = " word") -> dict[str, Any]:
    """A line with one generated token."""
    return {"model": "m", "created_at": "2026-11-22T11:19:24.37338804Z", "response": text, "done": False}


def end(count: int, prompt: int, *, load_s: float = 0.001, waited_s: float = 0.0) -> dict[str, Any]:
    """The last line: ``prompt`` tokens read at 1000 a second, ``count`` made at 50 a second.

    As Ollama does, it leaves out what is zero.
    """
    prompt_s, eval_s = prompt / 1000, max(0.000001, (count - 1) / 50)
    figures = {
        "total_duration": int((load_s + prompt_s + eval_s + waited_s) * SECOND),
        "load_duration": int(load_s * SECOND),
        "prompt_eval_count": prompt,
        "prompt_eval_duration": int(prompt_s * SECOND),
        "eval_count": count,
        "eval_duration": int(eval_s * SECOND) if count else 0,
    }
    return {**token(""), "done": True, "done_reason": "length"} | {k: v for k, v in figures.items() if v}


def generated(count: int, prompt: int, **given: float) -> list[Step]:
    """A whole answer of ``count`` tokens."""
    return [*[token()] * count, end(count, prompt, **given)]


def counted(body: dict[str, Any], *, stops_after: int | None = None, **given: float) -> Script:
    """A whole answer to a body: four characters of its prompt are a token, and one begins the text."""
    wanted = body["options"]["num_predict"]
    return generated(min(wanted, stops_after or wanted), tokens_of(body), **given)


def tokens_of(body: dict[str, Any]) -> int:
    """What the prompt of a body counts."""
    return 1 + len(body["prompt"]) // CHARACTERS_A_TOKEN


def in_turn(*scripts: Script) -> Answer:
    """One script a request; the last one again and again."""
    left = list(scripts)
    lock = threading.Lock()

    def answer(body: dict[str, Any]) -> Script:
        with lock:
            return left.pop(0) if len(left) > 1 else left[0]

    return answer


class OllamaStream:
    """The server, as a context manager. ``requests`` keeps the bodies in the order they came."""

    def __init__(self, answer: Answer) -> None:
        self.requests: list[dict[str, Any]] = []
        self.left = threading.Event()  # a client went away in the middle
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                server.requests.append(body)
                script = answer(body)
                self.close_connection = True
                try:
                    if isinstance(script, Refused):
                        self._refuse(script)
                    else:
                        self._play(script)
                except OSError:
                    server.left.set()

            def _refuse(self, refused: Refused) -> None:
                content = json.dumps({"error": refused.error}).encode()
                self.send_response(refused.status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def _play(self, script: Sequence[Step]) -> None:
                begun = False
                for step in script:
                    if isinstance(step, Cut):
                        return
                    if isinstance(step, float):
                        time.sleep(step)
                        continue
                    if not begun:  # Ollama sends its headers with the first line
                        self._begin()
                        begun = True
                    text = step if isinstance(step, str) else json.dumps(step) + "\n"
                    self._chunk(text.encode())
                if not begun:
                    self._begin()
                self._chunk(b"")

            def _begin(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "application/x-ndjson")
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()

            def _chunk(self, data: bytes) -> None:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
                self.wfile.flush()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> OllamaStream:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()


@dataclass
class StreamedModel:
    """A :class:`narthex.engines._base.RunningEngine` that was loaded by no one: an :class:`OllamaStream`.

    ``log`` is what the server's log would hold; ``down`` whether a lost connection means a dead server.
    """

    url: str
    options: dict[str, Any] = field(default_factory=lambda: {"num_ctx": 4096})
    report: LoadReport = field(default_factory=LoadReport)
    log: Sequence[str] = ()
    down: bool = False
    stirred: str | None = None
    wire: str = "ollama"
    served_as: str = "m:latest"
    load_s: float = 1.0
    log_path: Path | None = None
    ram_cache_bytes = 0

    @property
    def pid(self) -> int | None:
        """It can't be seen."""
        return None

    @property
    def cards_before(self) -> CardsBefore | None:
        """None of this machine's."""
        return None

    def alive(self) -> bool:
        """Unless it is down."""
        return not self.down

    def failure(self) -> Failure | None:
        """None: nobody watches it."""
        return None

    def explain(self, outcome: Outcome, words: str, *, lost: bool) -> Failure:
        """As the client saw it."""
        return Failure(outcome=Outcome.SERVER_DOWN if lost and self.down else outcome, line=words)

    def tail(self, lines: int = 40) -> list[str]:
        """The end of the log."""
        return list(self.log)[-lines:]

    def disturbed(self) -> str | None:
        """What it was told to say."""
        return self.stirred

    def stop(self) -> StopReport:
        """Nothing to stop."""
        return StopReport(exit_code=None, gentle=True, seconds=0.0, vram_back=None)

    def __enter__(self) -> StreamedModel:
        return self

    def __exit__(self, *exc: object) -> None:
        pass


class StreamedLoader:
    """A :class:`narthex.engines._base.Loader` over one :class:`OllamaStream`: each load gives what ``loads``
    holds next, a Failure or a model; the last one again and again."""

    def __init__(self, *loads: StreamedModel | Failure, comes_back: bool = True) -> None:
        self.engine = Engine(kind="ollama", path="", source="flag", build="0.33.0", devices=())
        self.loaded = self.waited = 0
        self._loads = loads
        self._comes_back = comes_back

    def load(self, knobs: KnobValues, watch: Watch) -> StreamedModel:
        """The next. Raises LaunchFailed."""
        found = self._loads[min(self.loaded, len(self._loads) - 1)]
        self.loaded += 1
        if isinstance(found, Failure):
            raise LaunchFailed(found, None, 0.0)
        return found

    def came_back(self, watch: Watch) -> bool:
        """As it was told."""
        self.waited += 1
        return self._comes_back
