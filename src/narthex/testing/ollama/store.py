"""``Store``: Ollama's models folder on disk: manifests, and blobs named by their SHA-256."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from narthex.testing.ollama.gowords import json_words
from narthex.testing.ollama.names import Name, parse

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG = "application/vnd.docker.container.image.v1+json"
LAYER = "application/vnd.ollama.image."
_DIGESTS: dict[tuple[str, int, int], str] = {}  # path, size, time of change → SHA-256


class BadManifest(Exception):
    """A manifest that can't be read, with Go's words."""


@dataclass(frozen=True)
class Stored:
    """One model: its name, its manifest and what the layers hold."""

    name: Name
    digest: str  # SHA-256 of the manifest file, without «sha256:»
    modified_ns: int
    manifest: dict[str, Any]
    root: Path

    def layer(self, kind: str) -> Path | None:
        """The blob of the last layer of that kind (``model``, ``params``, ``template`` …)."""
        digest = self.layer_digest(kind)
        return self.root / "blobs" / digest.replace(":", "-") if digest else None

    def layer_digest(self, kind: str) -> str | None:
        """``sha256:…``."""
        found = [layer["digest"] for layer in self.manifest["layers"] if layer["mediaType"] == LAYER + kind]
        return found[-1] if found else None

    def text(self, kind: str) -> str:
        """What a text layer says, "" where there is none."""
        blob = self.layer(kind)
        return blob.read_text() if blob and blob.is_file() else ""

    @property
    def params(self) -> dict[str, Any]:
        """PARAMETERs of the Modelfile, of whatever type they were given."""
        return dict(json.loads(self.text("params") or "{}"))

    @property
    def config(self) -> dict[str, Any]:
        """The config blob."""
        path = self.root / "blobs" / self.manifest["config"]["digest"].replace(":", "-")
        return dict(json.loads(path.read_text())) if path.is_file() else {}

    @property
    def size(self) -> int:
        """Bytes of all layers and the config."""
        layers = sum(layer["size"] for layer in self.manifest["layers"])
        return int(layers + self.manifest["config"]["size"])


class Store:
    """A models folder. Created where it is missing."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.blobs = root / "blobs"
        self.manifests = root / "manifests"
        self.blobs.mkdir(parents=True, exist_ok=True)
        self.manifests.mkdir(exist_ok=True)

    def blob(self, digest: str) -> Path:
        """The path of ``sha256:…``."""
        return self.blobs / digest.replace(":", "-")

    def path(self, name: Name) -> Path:
        """Where its manifest is, or would be."""
        return self.manifests / name.host / name.namespace / name.model / name.tag

    def find(self, name: Name | None) -> Stored | None:
        """By name, whatever its case. Raises BadManifest."""
        if name is None:
            return None
        path = self.path(name)
        if not path.is_file():
            wanted = name.full.lower()
            path = next((p for n, p in self.names() if n.full.lower() == wanted), path)
        return self._read(path) if path.is_file() else None

    def names(self) -> Iterator[tuple[Name, Path]]:
        """Every manifest file with its name; other files are passed over."""
        for path in sorted(self.manifests.glob("*/*/*/*")):
            parts = path.relative_to(self.manifests).parts
            name = parse("/".join(parts[:3]) + ":" + parts[3])
            if name is not None and path.is_file() and not any(part.startswith(".") for part in parts):
                yield name, path

    def models(self) -> list[Stored]:
        """All that can be read, newest first."""
        found = []
        for _, path in self.names():
            with contextlib.suppress(BadManifest):
                found.append(self._read(path))
        return sorted(found, key=lambda model: -model.modified_ns)

    def put(self, data: bytes) -> tuple[str, bool]:
        """Keep small data as a blob: its digest, and whether it is new."""
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        path = self.blob(digest)
        new = not path.exists()
        if new:
            path.write_bytes(data)
        return digest, new

    def adopt(self, source: Path) -> str:
        """A file as a blob, linked where that is possible, so that a model isn't copied."""
        digest = "sha256:" + file_digest(source)
        path = self.blob(digest)
        if not path.exists():
            try:
                os.link(source, path)
            except OSError:
                try:
                    path.symlink_to(source.resolve())
                except OSError:
                    shutil.copyfile(source, path)
        return digest

    def write(self, name: Name, config: Mapping[str, Any], layers: list[dict[str, Any]]) -> Stored:
        """A manifest over blobs that are there; replaces one of that name."""
        data = json.dumps(config, separators=(",", ":")).encode()
        digest, _ = self.put(data)
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, "digest": digest, "size": len(data)},
            "layers": layers,
        }
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(manifest, separators=(",", ":")) + "\n")
        self.prune()
        return self._read(path)

    def copy(self, source: Stored, name: Name) -> None:
        """Another name for the same layers."""
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self.path(source.name), path)

    def delete(self, model: Stored) -> None:
        """The name, and blobs that no other name uses."""
        self.path(model.name).unlink()
        self.prune(model)

    def prune(self, gone: Stored | None = None) -> None:
        """Remove the blobs of ``gone`` that nothing uses any more; empty folders of names always."""
        used = set[str]()
        for model in self.models():
            used |= {layer["digest"] for layer in [*model.manifest["layers"], model.manifest["config"]]}
        if gone is not None:
            for layer in [*gone.manifest["layers"], gone.manifest["config"]]:
                if layer["digest"] not in used:
                    self.blob(layer["digest"]).unlink(missing_ok=True)
        for folder in sorted(self.manifests.glob("**/"), reverse=True):
            if folder != self.manifests:
                with contextlib.suppress(OSError):
                    folder.rmdir()

    def _read(self, path: Path) -> Stored:
        data = path.read_bytes()
        try:
            manifest = json.loads(data)
        except ValueError as error:
            raise BadManifest(json_words(data.decode("utf-8", "replace"), error)) from None
        if not isinstance(manifest, dict) or "config" not in manifest or "layers" not in manifest:
            raise BadManifest("json: cannot unmarshal into Go value of type manifest.Manifest")
        parts = path.relative_to(self.manifests).parts
        name = Name(*parts[:4])
        digest = hashlib.sha256(data).hexdigest()
        return Stored(name, digest, path.stat().st_mtime_ns, manifest, self.root)


def layer(kind: str, digest: str, size: int) -> dict[str, Any]:
    """An entry of a manifest."""
    return {"mediaType": LAYER + kind, "digest": digest, "size": size}


def file_digest(path: Path) -> str:
    """SHA-256 in hex, remembered while the file does not change: 253 MB take a second."""
    info = path.stat()
    key = (str(path.resolve()), info.st_size, info.st_mtime_ns)
    if key not in _DIGESTS:
        with path.open("rb") as file:
            _DIGESTS[key] = hashlib.file_digest(file, "sha256").hexdigest()
    return _DIGESTS[key]
