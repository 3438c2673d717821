"""What the fake Ollama holds: models that are only names and figures."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from narthex.testing.engine.manner import Manner, Scene

BLOBS = "/usr/share/ollama/.ollama/models/blobs"
DEFAULT_CTX = 4096
FOREVER_S = 292 * 365 * 86400.0
_FILE_BYTES = 1 << 30  # of a model whose manner tells no size
_HIDDEN, _HEADS, _VOCABULARY = 1024, 16, 32000


@dataclass(frozen=True)
class Model:
    """One of the list. ``name`` with its tag."""

    name: str
    manner: Manner

    @property
    def digest(self) -> str:
        """Of the manifest."""
        return hashlib.sha256(self.name.encode()).hexdigest()

    @property
    def blob(self) -> str:
        """Path of the weights, which are not there."""
        return f"{BLOBS}/sha256-{hashlib.sha256(b'blob' + self.name.encode()).hexdigest()}"

    @property
    def file_bytes(self) -> int:
        """Of the weights."""
        return _FILE_BYTES if self.manner.model_bytes is None else self.manner.model_bytes

    @property
    def capabilities(self) -> list[str]:
        """As the list tells them."""
        return ["embedding"] if self.manner.embeds else ["completion", "tools"]

    def tag(self) -> dict[str, Any]:
        """Its element of ``/api/tags``."""
        return {
            "name": self.name,
            "model": self.name,
            "modified_at": "2026-09-21T13:33:20.123456789Z",
            "size": self.file_bytes,
            "digest": self.digest,
            "details": self.details(),
            "capabilities": self.capabilities,
        }

    def details(self) -> dict[str, Any]:
        """As every list has them."""
        return {
            "parent_model": "",
            "format": "gguf",
            "family": "llama",
            "families": ["llama"],
            "parameter_size": "8.0B",
            "quantization_level": "Q4_K_M",
        }

    def show(self) -> dict[str, Any]:
        """``/api/show``."""
        info: dict[str, Any] = {
            "general.architecture": "llama",
            "general.file_type": 15,
            "general.parameter_count": int(self.file_bytes / 0.6),
            "llama.block_count": self.manner.layers - 1,
            "llama.context_length": self.manner.context_train,
            "llama.embedding_length": _HIDDEN,
            "llama.feed_forward_length": 4 * _HIDDEN,
            "llama.attention.head_count": _HEADS,
            "llama.attention.head_count_kv": 2,
            "llama.attention.layer_norm_rms_epsilon": 1e-05,
            "llama.rope.dimension_count": _HIDDEN // _HEADS,
            "llama.vocab_size": _VOCABULARY,
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.tokens": None,
        }
        if self.manner.embeds:
            info["llama.pooling_type"] = 1
        return {
            "license": "",
            "modelfile": f"# Modelfile\nFROM {self.blob}\nTEMPLATE {{{{ .Prompt }}}}\n",
            "parameters": "",
            "template": "{{ .Prompt }}",
            "details": self.details(),
            "model_info": info,
            "capabilities": self.capabilities,
            "modified_at": "2026-09-21T13:33:20.123456789Z",
        }

    def resident(self, num_ctx: int, size: int, expires_s: float) -> dict[str, Any]:
        """Its element of ``/api/ps``; ``expires_s`` from now."""
        until = min(time.time() + expires_s, time.time() + FOREVER_S)
        return {
            "name": self.name,
            "model": self.name,
            "size": size,
            "digest": self.digest,
            "details": self.details(),
            "expires_at": datetime.fromtimestamp(until, UTC).isoformat(),
            "size_vram": size,
            "context_length": num_ctx,
        }


def full(name: str) -> str:
    """With the tag that is meant."""
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def models_of(scene: Scene) -> dict[str, Model]:
    """By their full names. A model's name in the scene may lack «:latest»."""
    found = {}
    for name in scene.models or {}:
        plain = {key: value for key, value in (scene.models or {})[name].items() if key != "load_fault"}
        found[full(name)] = Model(full(name), Manner(**{**vars(scene.manner), **plain}))
    return found


def seconds(value: Any) -> float | None:
    """A keep_alive; None where none was told, infinite for ever."""
    if value is None:
        return None
    if isinstance(value, str):
        units = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
        unit = next((unit for unit in units if value.endswith(unit)), "")
        value = float(value.removesuffix(unit)) * units.get(unit, 1.0)
    return float("inf") if value < 0 else float(value)


def as_json(value: Any) -> bytes:
    """Without blanks, as Go writes it."""
    return json.dumps(value, separators=(",", ":")).encode()
