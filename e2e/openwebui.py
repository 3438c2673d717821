"""A real OpenWebUI and a real browser before it, for the tests of this folder."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

EMAIL, PASSWORD = "admin@localhost", "only-for-this-test"
START_S = 120.0
ANSWER_TOKENS = 600


@contextlib.contextmanager
def serve(program: Path, folder: Path, ollama: str, **settings: str) -> Iterator[str]:
    """OpenWebUI, listening on loopback, with the gateway as its Ollama; its address. Ends with the block."""
    port = free_port()
    env = {name: value for name, value in os.environ.items() if not name.startswith("OLLAMA_")} | {
        "DATA_DIR": str(folder / "data"),
        "WEBUI_SECRET_KEY": "only-for-this-test",
        "WEBUI_ADMIN_EMAIL": EMAIL,
        "WEBUI_ADMIN_PASSWORD": PASSWORD,
        "OLLAMA_BASE_URL": ollama,
        "OLLAMA_API_CONFIGS": json.dumps({"0": connection()}),
        "DEFAULT_MODEL_PARAMS": json.dumps({"function_calling": "legacy", "max_tokens": ANSWER_TOKENS}),
        "TASK_MODEL_PARAMS": json.dumps({"max_tokens": 20}),
        "ENABLE_OPENAI_API": "False",
        "ENABLE_PERSISTENT_CONFIG": "False",
        "USE_SLIM_DOCKER": "true",
        "OFFLINE_MODE": "true",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "ANONYMIZED_TELEMETRY": "false",
        "DO_NOT_TRACK": "true",
        "SCARF_NO_ANALYTICS": "true",
        **settings,
    }
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "openwebui.log").open("wb") as log:
        server = subprocess.Popen(
            [str(program), "serve", "--host", "127.0.0.1", "--port", str(port)],
            env=env,
            cwd=folder,
            stdout=log,
            stderr=log,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        wait_for(lambda: ask(f"{url}/health") == {"status": True}, START_S, "OpenWebUI to start")
        yield url
    finally:
        server.terminate()
        server.wait(30)


def connection() -> dict[str, Any]:
    """How OpenWebUI is told to say which of its calls are its own work."""
    return {"enable": True, "connection_type": "local", "headers": {"X-Narthex-Task": "{{TASK}}"}}


def token(url: str) -> str:
    """Of its administrator."""
    body = json.dumps({"email": EMAIL, "password": PASSWORD}).encode()
    request = urllib.request.Request(f"{url}/api/v1/auths/signin", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return str(json.load(answer)["token"])


def ask(url: str) -> Any:
    """What a URL answers, as JSON; None where it does not answer."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return json.load(answer)
    except (OSError, ValueError):
        return None


def wait_for(what: Any, seconds: float, words: str) -> None:
    """Until ``what()`` is true."""
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, f"waited {seconds:g} s for {words}"
        time.sleep(0.1)


def free_port() -> int:
    """Nobody listens there now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
