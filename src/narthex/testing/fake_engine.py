"""A quick fake engine with faults: processes of its own that answer like llama-server and like Ollama.

It computes nothing: answers are made of one word. What it does like the real ones is what stands between an
engine and a gateway: loads that take their time and their share of a card, refusals in the real words, ends
of all kinds, slots, streams, and clients that leave. All fakes of one test share a *scene*, a JSON file with
the manner of each model (:class:`~narthex.testing.engine.manner.Manner`) and a card
(:class:`~narthex.testing.engine.card.Card`); words in a prompt, as «[[first 2]]», change one answer
(:func:`~narthex.testing.engine.manner.words_of`).

In a test::

    scene = Scenery(tmp_path, card_bytes=10 * GIB, models={"big": {"load_s": 0.3, "model_bytes": 6 * GIB}})
    engine = find_engine(str(scene.program))      # a llama-server that narthex starts itself
    with QuickOllama(scene) as ollama:            # an Ollama with these models
        ...  # ollama.url

As programs: ``PROGRAM -m FILE --port N …`` (written by :class:`Scenery`), and
``python -m narthex.testing.fake_engine --ollama --scene FILE --port N``.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any

from narthex.testing.engine.card import Card
from narthex.testing.engine.manner import fault_file, read_scene
from narthex.testing.engine.record import read_record

_START_S = 30.0
_LAYERS, _HIDDEN = 32, 1024
_METADATA: dict[str, Any] = {
    "general.architecture": "llama",
    "llama.block_count": _LAYERS,
    "llama.context_length": 131072,
    "llama.embedding_length": _HIDDEN,
    "llama.feed_forward_length": 4 * _HIDDEN,
    "llama.attention.head_count": 16,
    "llama.attention.head_count_kv": 2,
    "llama.attention.layer_norm_rms_epsilon": 1e-05,
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.tokens": [f"t{number}" for number in range(256)],
}


class Scenery:
    """Writes a scene below a folder: its file, its card, its record, and a program ``llama-server``.

    ``models``: what is another than in ``manner``, by the model's name or its file's stem.
    """

    def __init__(
        self,
        folder: Path,
        *,
        card_bytes: int | None = None,
        manner: Mapping[str, Any] | None = None,
        models: Mapping[str, Mapping[str, Any]] | None = None,
        version: str = "0.33.0",
        most_loaded: int = 3,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.path, self.record = folder, folder / "scene.json", folder / "record.jsonl"
        self.card = Card.create(folder / "card.json", card_bytes) if card_bytes is not None else None
        self._found: dict[str, Any] = {
            "card": str(self.card.path) if self.card else None,
            "record": str(self.record),
            "version": version,
            "most_loaded": most_loaded,
            "manner": dict(manner or {}),
            "models": {name: dict(changes) for name, changes in (models or {}).items()},
        }
        self._write()
        self.program = folder / "llama-server"
        self.program.write_text(
            _PROGRAM.format(python=sys.executable, source=_source(), scene=str(self.path))
        )
        self.program.chmod(0o755)

    def model_file(self, name: str, size: int) -> Path:
        """A GGUF file with a whole header, of that apparent size, which its load takes of the card."""
        from narthex.testing.gguf_writer import write_gguf

        self.change(name, model_bytes=size, layers=_LAYERS + 1)
        rows = size // _LAYERS // _HIDDEN // 2  # two bytes a weight
        tensors = [("token_embd.weight", (_HIDDEN, 256), "F16"), ("output_norm.weight", (_HIDDEN,), "F32")]
        tensors += [(f"blk.{at}.ffn_up.weight", (_HIDDEN, rows), "F16") for at in range(_LAYERS)]
        return write_gguf(self.folder / f"{name}.gguf", _METADATA, tensors)

    def change(self, model: str, **changes: Any) -> None:
        """From the next load of this model on."""
        self._found["models"].setdefault(model, {}).update(changes)
        self._write()

    def once(self, model: str, **changes: Any) -> None:
        """For the next load of this model alone."""
        path = fault_file(self.path, model)
        path.with_suffix(".new").write_text(json.dumps(changes))
        path.with_suffix(".new").replace(path)

    def forgive(self) -> None:
        """No fault that was not yet taken lies in wait any more."""
        for path in self.folder.glob(f"{self.path.stem}.once.*.json"):
            path.unlink(missing_ok=True)

    def events(self, event: str = "", **like: Any) -> list[dict[str, Any]]:
        """What the fakes saw so far: lines of that name that have these values."""
        rows = read_record(self.record)
        return [row for row in rows if event in ("", row["event"]) and like.items() <= row.items()]

    def _write(self) -> None:
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps(self._found))
        new.replace(self.path)


class QuickOllama:
    """A running fake Ollama with the scene's models; a context manager. ``slots``: its parallel answers."""

    def __init__(self, scene: Scenery, *, port: int = 0, slots: int = 1) -> None:
        self.scene, self.port, self.slots = scene, port or free_port(), slots
        self.url = f"http://127.0.0.1:{self.port}"
        self.log_path = scene.folder / f"ollama-{self.port}.log"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of the server; 0 while it does not run."""
        return self.process.pid if self.process else 0

    def start(self) -> None:
        """Start it (again) and wait until it answers."""
        command = [sys.executable, "-SE", "-c", _SERVE.format(source=_source()), "serve"]
        command += ["--scene", str(self.scene.path), "--port", str(self.port), "--with-parent"]
        env = {name: value for name, value in os.environ.items() if not name.startswith("OLLAMA_")}
        env |= {"OLLAMA_NUM_PARALLEL": str(self.slots), "OLLAMA_MODELS": str(self.scene.folder / "no-store")}
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=log, stderr=log)
        until = time.monotonic() + _START_S
        while time.monotonic() < until and self.process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.005)
        self.stop()
        raise RuntimeError(f"the fake Ollama did not start:\n{self.log_path.read_text()[-2000:]}")

    def stop(self) -> None:
        """SIGTERM; its runners go with it."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait()
            if self.process.stdin is not None:
                self.process.stdin.close()
            self.process = None

    def kill(self) -> None:
        """SIGKILL."""
        if self.process is not None:
            self.process.kill()
        self.stop()

    def __enter__(self) -> QuickOllama:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def serve_llama(arguments: list[str], scene_path: str | None) -> int:
    """As llama-server: answer about itself, or serve until a signal ends it."""
    from narthex.testing.engine.llama import LlamaServer, answer_about, read_options

    scene = read_scene(scene_path)
    if (text := answer_about(arguments, scene)) is not None:
        sys.stdout.write(text)
        return 0
    asyncio.run(LlamaServer(read_options(arguments), scene).serve())
    return 0


def serve_runner(arguments: list[str]) -> int:
    """As the llama-server that an Ollama starts: ``--scene FILE`` among its words."""
    return serve_llama(arguments, arguments[arguments.index("--scene") + 1])


def serve_ollama(arguments: list[str]) -> int:
    """As ``ollama serve``: ``--scene FILE --port N [--with-parent]``."""
    from narthex.testing.engine.ollama import serve

    given = dict(pairwise(arguments))
    Path("/proc/self/comm").write_text("ollama")  # as the process list shows a real one
    path, port = Path(given["--scene"]), int(given["--port"])
    asyncio.run(serve(path, port, _RUN.format(source=_source()), with_parent="--with-parent" in arguments))
    return 0


# Without «site» and its packages Python starts in half the time.
_PROGRAM = """\
#!{python} -SE
import sys
sys.path.insert(0, {source!r})
from narthex.testing.fake_engine import serve_llama
sys.exit(serve_llama(sys.argv[1:], {scene!r}))
"""
_IMPORT = "import sys; sys.path.insert(0, {source!r}); from narthex.testing.fake_engine import "
_SERVE = _IMPORT + "serve_ollama; sys.exit(serve_ollama(sys.argv[1:]))"
_RUN = _IMPORT + "serve_runner; sys.exit(serve_runner(sys.argv[1:]))"


def _source() -> str:
    return str(Path(__file__).resolve().parents[2])


def main() -> int:
    """``--ollama …`` as an Ollama, else as a llama-server; ``--scene FILE`` for both."""
    arguments = sys.argv[1:]
    if "--ollama" in arguments:
        return serve_ollama(arguments)
    scene = arguments[arguments.index("--scene") + 1] if "--scene" in arguments else None
    return serve_llama(arguments, scene or os.environ.get("NARTHEX_FAKE_SCENE"))


if __name__ == "__main__":
    sys.exit(main())
