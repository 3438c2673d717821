"""Models in a store with any layers and config, in a line each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from narthex.engines.ollama.names import canonical
from narthex.testing.ollama.names import parse
from narthex.testing.ollama.store import Store, layer


class StoreWriter:
    """A store in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._store = Store(folder)

    def add(
        self,
        name: str,
        model: Path | None,
        *,
        parameters: bytes | None = None,
        config: dict[str, Any] | None = None,
        **others: bytes,
    ) -> str:
        """Store a model under a name; ``others`` are further layers by kind. Returns the GGUF blob's digest,
        64 hex digits, "" without a model."""
        digest = self._store.adopt(model) if model else ""
        layers = [layer("model", digest, model.stat().st_size)] if model else []
        for kind, content in {**({"params": parameters} if parameters else {}), **others}.items():
            layers.append(layer(kind, self._store.put(content)[0], len(content)))
        whole = parse(name)
        assert whole
        self._store.write(whole, {"model_format": "gguf" if model else "", **(config or {})}, layers)
        return digest.removeprefix("sha256:")

    def manifest(self, name: str) -> Path:
        """Where the manifest of a name lies."""
        rest, _, tag = canonical(name).rpartition(":")
        return self.folder / "manifests" / rest / tag

    def path(self, digest: str) -> Path:
        """Where a blob lies."""
        return self.folder / "blobs" / f"sha256-{digest}"
