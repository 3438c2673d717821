"""Model names as Ollama compares them: host, namespace and tag have defaults, and case does not count."""

from __future__ import annotations

_HOST, _NAMESPACE, _TAG = "registry.ollama.ai", "library", "latest"


def same_model(a: str, b: str) -> bool:
    """Whether two names mean one model: ``llama3`` and ``library/Llama3:latest`` do."""
    return full_name(a) == full_name(b)


def full_name(name: str) -> str:
    """``host/namespace/model:tag``, all in lower case. Any text is taken; nothing is checked."""
    path, _, last = name.strip().casefold().rpartition("/")
    model, _, tag = last.partition(":")
    host, _, namespace = path.rpartition("/")
    return f"{host or _HOST}/{namespace or _NAMESPACE}/{model}:{tag or _TAG}"
