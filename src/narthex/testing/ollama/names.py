"""Model names as Ollama reads them: ``[host/][namespace/]model[:tag]``."""

from __future__ import annotations

import re
from typing import NamedTuple

_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,79}")
_NAMESPACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_\-]{0,79}")
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-:]{0,349}")


class Name(NamedTuple):
    """A whole name."""

    host: str
    namespace: str
    model: str
    tag: str

    @property
    def full(self) -> str:
        """``registry.ollama.ai/library/llama3.2:latest``."""
        return f"{self.host}/{self.namespace}/{self.model}:{self.tag}"

    @property
    def short(self) -> str:
        """``llama3.2:latest``: what lists show."""
        if self.host != "registry.ollama.ai":
            return self.full
        prefix = "" if self.namespace == "library" else f"{self.namespace}/"
        return f"{prefix}{self.model}:{self.tag}"


def parse(text: str) -> Name | None:
    """None for what can't be a name."""
    text = text.split("://", 1)[-1]
    path, colon, tag = text.rpartition(":")
    if not colon or "/" in tag:
        path, tag = text, "latest"
    parts = path.split("/")
    if len(parts) > 3:
        return None
    defaults = ["registry.ollama.ai", "library"]
    host, namespace, model = [*defaults[: 3 - len(parts)], *parts]
    right = _HOST.fullmatch(host) and _NAMESPACE.fullmatch(namespace) and _PART.fullmatch(model)
    return Name(host, namespace, model, tag) if right and _PART.fullmatch(tag) else None
