"""Ollama's store on disk: from a model's name to its manifest to the GGUF blob, and from a blob to names.

The layout: ``manifests/HOST/NAMESPACE/MODEL/TAG`` is JSON that lists layers by digest, ``blobs/sha256-HEX``
holds them. Nothing is ever written here. A store in a container's volume looks the same, at another path.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from narthex.engines.ollama.names import canonical, short
from narthex.errors import ModelFileError, NarthexError

_DIGEST = re.compile(r"sha256[:-]([0-9a-f]{64})")
_MEDIA = "application/vnd.ollama.image."
_MOST = 4 * 2**20  # bytes read of a manifest, a config or parameters; real ones have a few hundred


class StoredModel(msgspec.Struct, frozen=True, kw_only=True):
    """One manifest and the files that it names. Digests are 64 hex digits.

    ``path`` is None where there is no GGUF blob (a safetensors or cloud model) or it is gone or unreadable;
    ``gaps`` says which. ``parameters`` holds the model's own options with their types, as the text of
    ``/api/show`` does not (there 1048576 is ``1.048576e+06``); None where they can't be read.
    """

    name: str  # short form: "llama3.2:latest"
    manifest: str
    digest: str  # of the manifest, as ``/api/tags`` gives it
    blob: str | None = None  # digest of the GGUF file
    path: str | None = None
    gone: bool = False  # the manifest names a GGUF blob that is not there
    blob_bytes: int = 0  # as the manifest says
    layers_bytes: int = 0  # of all layers and the config
    projectors: tuple[str, ...] = ()  # paths of what is there of the other layers
    adapters: tuple[str, ...] = ()
    drafts: tuple[str, ...] = ()
    parameters: dict[str, Any] | None = {}
    config: dict[str, Any] = {}
    gaps: tuple[str, ...] = ()

    @property
    def format(self) -> str:
        """ "gguf", "safetensors", or "" for a stub of a cloud model."""
        if self.blob:
            return "gguf"
        return str(self.config.get("model_format") or "")

    @property
    def remote_host(self) -> str:
        """Where a cloud model runs; "" for one that runs here."""
        return str(self.config.get("remote_host") or "")


class _Layer(msgspec.Struct, frozen=True):
    mediaType: str = ""  # the manifest's own word
    digest: str = ""
    size: int = 0


class _Manifest(msgspec.Struct, frozen=True):
    config: _Layer = _Layer()
    layers: tuple[_Layer, ...] = ()


def find_stored(store: str | Path, name: str) -> StoredModel | None:
    """The model of this name (case does not matter), or None where the store has none.

    Raises UsageError for an impossible name, ModelFileError where the store or the manifest can't be read.
    """
    path = _manifest_path(Path(store), canonical(name))
    return None if path is None else _read(Path(store), path)


def stored_models(store: str | Path) -> tuple[tuple[StoredModel, ...], tuple[str, ...]]:
    """All models of a store by name, and a gap for each manifest that can't be read. Raises ModelFileError
    where the store itself can't be."""
    models, gaps = [], []
    for path in _manifests(Path(store)):
        try:
            models.append(_read(Path(store), path))
        except NarthexError as error:  # also a file whose name can't be a model's
            gaps.append(error.message)
    return tuple(sorted(models, key=lambda model: model.name)), tuple(gaps)


def blob_path(store: str | Path, digest: str) -> Path | None:
    """Where a blob lies, or None. Before 0.1.30 the names had a colon."""
    if (number := _hex(digest)) is None:
        return None
    for sign in "-:":
        path = Path(store) / "blobs" / f"sha256{sign}{number}"
        if path.is_file():
            return path
    return None


def _hex(digest: str) -> str | None:
    """The 64 digits. None for anything else, so that no manifest can name a file outside the store."""
    text = digest if digest.startswith("sha256") else f"sha256:{digest}"
    found = _DIGEST.fullmatch(text)
    return found[1] if found else None


def _manifest_path(store: Path, name: str) -> Path | None:
    rest, _, tag = name.rpartition(":")
    folder = store / "manifests"
    for part in (*rest.split("/"), tag):
        entries = _entries(folder)
        alike = [entry for entry in entries if entry.casefold() == part.casefold()]
        if not alike:
            return None
        folder /= part if part in alike else alike[0]
    return folder if folder.is_file() else None


def _manifests(store: Path) -> Iterator[Path]:
    folders = [store / "manifests"]
    for _ in range(4):  # host, namespace, model, tag
        folders = [folder / entry for folder in folders for entry in _entries(folder)]
    yield from (path for path in folders if path.is_file())


def _entries(folder: Path) -> list[str]:
    """Names in a folder, in order; those that begin with a dot don't count, as in Ollama."""
    try:
        return sorted(entry for entry in os.listdir(folder) if not entry.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise _unreadable(folder, error) from None


def _unreadable(path: Path, error: OSError) -> ModelFileError:
    return ModelFileError(
        f"Ollama's store can't be read: {path}: {error.strerror or error}.",
        hint="Run narthex as a user who may read it (group «ollama»), or let it ask the server alone.",
    )


def _read(store: Path, path: Path) -> StoredModel:
    name = short(_name_of(path))
    try:
        with path.open("rb") as file:
            body = file.read(_MOST)
        manifest = msgspec.json.decode(body, type=_Manifest)
    except OSError as error:
        raise _unreadable(path, error) from None
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise ModelFileError(
            f"Ollama's manifest of {name} is damaged, so Ollama does not list the model either.",
            hint=f"Delete the file {path} and run «ollama pull {name}».",
        ) from None
    return _assembled(store, path, name, hashlib.sha256(body).hexdigest(), manifest)


def _assembled(store: Path, path: Path, name: str, digest: str, manifest: _Manifest) -> StoredModel:
    parts = _Parts(store, name, manifest)
    model = parts.last("model")
    config = parts.values("config", manifest.config if manifest.config.digest else None)
    return StoredModel(
        name=name,
        manifest=str(path),
        digest=digest,
        blob=_hex(model.digest) if model else None,
        path=parts.path("file", model) if model else None,
        gone=model is not None and _is_gone(store, model.digest),
        blob_bytes=model.size if model else 0,
        layers_bytes=manifest.config.size + sum(layer.size for layer in manifest.layers),
        projectors=parts.paths("projector"),
        adapters=parts.paths("adapter"),
        drafts=parts.paths("draft"),
        parameters=parts.values("parameters", parts.last("params")),
        config=config or {},
        gaps=tuple(parts.gaps),
    )


class _Parts:
    """The layers of one manifest by kind; what can't be read becomes a gap."""

    def __init__(self, store: Path, name: str, manifest: _Manifest) -> None:
        self._store, self._name = store, name
        self._kinds: dict[str, list[_Layer]] = {}
        self.gaps: list[str] = []
        for layer in manifest.layers:
            self._kinds.setdefault(layer.mediaType.removeprefix(_MEDIA), []).append(layer)

    def last(self, kind: str) -> _Layer | None:
        """Of several layers of a kind the last wins."""
        return self._kinds[kind][-1] if kind in self._kinds else None

    def paths(self, kind: str) -> tuple[str, ...]:
        found = (self.path(kind, layer) for layer in self._kinds.get(kind, []))
        return tuple(path for path in found if path)

    def path(self, word: str, layer: _Layer) -> str | None:
        path, why = _readable(self._store, layer.digest)
        if path is None:
            self.gaps.append(f"The {word} of {self._name} can't be read: {why}.")
        return str(path) if path else None

    def values(self, word: str, layer: _Layer | None) -> dict[str, Any] | None:
        """The object in a layer; empty where there is no layer, None where it can't be read."""
        if layer is None:
            return {}
        value, why = _object(self._store, layer.digest)
        if value is None:
            self.gaps.append(f"The {word} of {self._name} can't be read: {why}.")
        return value


def _name_of(path: Path) -> str:
    host, space, model, tag = path.parts[-4:]
    return f"{host}/{space}/{model}:{tag}"


def _readable(store: Path, digest: str) -> tuple[Path | None, str]:
    """A blob's path, or why there is none."""
    try:
        path = blob_path(store, digest)
    except OSError as error:
        return None, error.strerror or str(error)
    if path is None:
        number = _hex(digest)
        return None, f"blob {number[:12]} is gone" if number else "its digest is no digest"
    if not os.access(path, os.R_OK):
        return None, f"you may not read {path}"
    return path, ""


def _is_gone(store: Path, digest: str) -> bool:
    try:
        return _hex(digest) is not None and blob_path(store, digest) is None
    except OSError:
        return False  # it can't be looked for


def _object(store: Path, digest: str) -> tuple[dict[str, Any] | None, str]:
    """A blob's JSON object, or why there is none."""
    path, why = _readable(store, digest)
    if path is None:
        return None, why
    try:
        with path.open("rb") as file:
            value = msgspec.json.decode(file.read(_MOST))
    except OSError as error:
        return None, error.strerror or str(error)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        value = None
    return (value, "") if isinstance(value, dict) else (None, f"{path.name} is damaged")
