"""OpenWebUI's settings that hold JSON: the options of chats and of its background tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from narthex.doctor.evidence import Evidence

# Options for which Ollama loads a runner anew where they differ.
RUNNER = ("num_ctx", "num_batch", "num_gpu", "num_thread", "use_mmap", "use_mlock", "main_gpu")


def params(evidence: Evidence, name: str) -> dict[str, Any] | None:
    """The value of DEFAULT_MODEL_PARAMS or TASK_MODEL_PARAMS; {} where it is not set, None where nothing is
    known of the settings or it can't be read."""
    env = evidence.value("openwebui.env")
    if not isinstance(env, Mapping):
        return None
    text = env.get(name) or ""
    if isinstance(text, Mapping):
        return dict(text)
    if not str(text).strip():
        return {}
    try:
        value = msgspec.json.decode(str(text))
    except msgspec.DecodeError:
        return None
    return dict(value) if isinstance(value, dict) else None


def is_off(evidence: Evidence, name: str) -> bool:
    """A switch that is set to false."""
    env = evidence.value("openwebui.env")
    return isinstance(env, Mapping) and str(env.get(name, "")).strip().lower() in ("false", "0", "no")
