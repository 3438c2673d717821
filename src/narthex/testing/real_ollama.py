"""A model for tests on a real Ollama: the smallest that it has, or one that is lent to it for their time."""

from __future__ import annotations

import contextlib
import hashlib
import json
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

LENT = "narthex-test-270m"
_TIMEOUT_S = 600.0


@contextlib.contextmanager
def borrowed_model(url: str, gguf: Callable[[], Path]) -> Iterator[str]:
    """A completion model's name. ``gguf`` is only asked where the server has none; what was made of it is
    deleted at the end."""
    if name := smallest_model(url):
        yield name
        return
    path = gguf()
    with path.open("rb") as file:
        digest = "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
    with path.open("rb") as file:
        headers = {"Content-Length": str(path.stat().st_size)}
        _send(f"{url}/api/blobs/{digest}", data=file, headers=headers, method="POST")
    call(url, "/api/create", {"model": LENT, "files": {path.name: digest}, "stream": False})
    try:
        yield f"{LENT}:latest"
    finally:
        call(url, "/api/delete", {"model": LENT}, method="DELETE")


def smallest_model(url: str) -> str | None:
    """By size on disk, among local completion models."""
    models = [
        model
        for model in call(url, "/api/tags").get("models") or []
        if not model.get("remote_host") and "completion" in model.get("capabilities", ["completion"])
    ]
    return str(min(models, key=lambda model: int(model["size"]))["name"]) if models else None


def call(
    url: str, path: str, body: dict[str, Any] | None = None, *, method: str | None = None
) -> dict[str, Any]:
    """One request, its JSON answer. Raises urllib's HTTPError."""
    data = json.dumps(body).encode() if body is not None else None
    text = _send(url + path, data=data, method=method)
    return dict(json.loads(text)) if text.strip() else {}


def _send(url: str, **request: Any) -> str:
    asked = urllib.request.Request(url, **request)  # noqa: S310 - a URL the tester gave
    with urllib.request.urlopen(asked, timeout=_TIMEOUT_S) as answer:  # noqa: S310
        return str(answer.read().decode())
