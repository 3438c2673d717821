"""Writes a folder laid out as Ollama's store: manifests and blobs as ``ollama create`` leaves them."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from narthex.engines.ollama.names import canonical

_LAYER = "application/vnd.ollama.image."
_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_CONFIG = "application/vnd.docker.container.image.v1+json"


class StoreWriter:
    """A store in ``folder``. Blobs of one content are one file, as in Ollama."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "manifests").mkdir(parents=True)
        (folder / "blobs").mkdir()

    def add(
        self,
        name: str,
        model: Path | None,
        *,
        parameters: dict[str, Any] | None = None,
        config: dict[str, Any] | None = None,
        **others: bytes,
    ) -> str:
        """Store a model under a name; ``others`` are further layers by kind. Returns the GGUF blob's digest,
        64 hex digits, "" without a model."""
        layers = [] if model is None else [self._layer("model", self._blob_of(model))]
        if parameters is not None:
            layers.append(self._layer("params", self.blob(json.dumps(parameters).encode())))
        layers += [self._layer(kind, self.blob(content)) for kind, content in others.items()]
        settings = {"model_format": "gguf" if model else "", "os": "linux", "architecture": "amd64"}
        about = self.blob(json.dumps({**settings, **(config or {})}).encode())
        manifest = {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": {**self._layer("", about), "mediaType": _CONFIG},
            "layers": layers,
        }
        path = self.manifest(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(manifest))
        return layers[0]["digest"].removeprefix("sha256:") if model else ""

    def manifest(self, name: str) -> Path:
        """Where the manifest of a name lies."""
        rest, _, tag = canonical(name).rpartition(":")
        return self.folder / "manifests" / rest / tag

    def path(self, digest: str) -> Path:
        """Where a blob lies."""
        return self.folder / "blobs" / f"sha256-{digest}"

    def blob(self, content: bytes) -> str:
        """Store bytes; returns their digest, 64 hex digits."""
        digest = hashlib.sha256(content).hexdigest()
        self.path(digest).write_bytes(content)
        return digest

    def _blob_of(self, file: Path) -> str:
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        if not self.path(digest).exists():
            shutil.copyfile(file, self.path(digest))
        return digest

    def _layer(self, kind: str, digest: str) -> dict[str, Any]:
        size = self.path(digest).stat().st_size
        return {"mediaType": _LAYER + kind, "digest": f"sha256:{digest}", "size": size}
