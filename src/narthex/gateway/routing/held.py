"""What an Ollama holds: its list, and what is known of each model behind a name. Blocking."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from narthex.engines._base import Engine
from narthex.engines.ollama.api import Api
from narthex.engines.ollama.defaults import own_load
from narthex.engines.ollama.discovery import engine_of, find_server, look_again
from narthex.engines.ollama.exchange import UNREADABLE, Exchange, convert
from narthex.engines.ollama.logs import LogSource, open_log
from narthex.engines.ollama.names import is_cloud
from narthex.engines.ollama.options import parameters_of
from narthex.engines.ollama.records import ApiError, Server, Tag
from narthex.engines.ollama.shown import inspect_ollama
from narthex.errors import EngineError, EngineNotFound, NarthexError
from narthex.host.collect import collect_host
from narthex.knobs import KnobValues
from narthex.models.inspection import Inspection

_TIMEOUT_S = 10.0
_BLOB = re.compile(r"sha256[-:]([0-9a-f]{64})")


class Model(NamedTuple):
    """What is known of one model. ``inspection`` is None where neither its file nor the server tells."""

    tag: Tag
    inspection: Inspection | None
    blob: str  # what Ollama knows a loaded model by: two tags over one file are one
    parameters: dict[str, Any]
    own: KnobValues | None  # the setting of a load that asks for nothing
    capabilities: tuple[str, ...]


class _List(msgspec.Struct):
    models: list[msgspec.Raw] | None = None


class Held:
    """One Ollama as it was last seen. Raises NarthexError where it can't be found, ApiError where it does
    not answer."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.raw: tuple[msgspec.Raw, ...] = ()
        self.tags: tuple[Tag, ...] = ()
        self._engine: Engine | None = None
        self._log: LogSource | None = None
        self._models: dict[tuple[str, str], Model] = {}
        self._unsure = False  # whether a model could not be looked at, and the next look tries again

    @classmethod
    def find(cls, url: str | None) -> Held:
        """The one that is meant, else the one that is there."""
        server = find_server(url)
        if server.gateway:  # this one itself, where OLLAMA_HOST was set for its clients
            raise EngineNotFound(
                f"{server.url} is a gateway of narthex, and no Ollama.",
                hint="Name Ollama's own address with --ollama; OLLAMA_HOST, as clients of narthex have it, "
                "goes before narthex.toml.",
            )
        return cls(server)

    @property
    def engine(self) -> Engine:
        """The server as an engine: what holds for every load, and its cards."""
        if self._engine is None:
            self._log = open_log(self.server)
            self._engine = engine_of(self.server, collect_host(), self._log)
        return self._engine

    @property
    def has_card(self) -> bool:
        """Whether it computes on a card; of one elsewhere that is assumed."""
        return bool(self.engine.devices) or self.server.place == "elsewhere"

    def look(self) -> bool:
        """List what it holds. True where anything is another than before, its own settings included."""
        anew = self._started_anew()
        content = Exchange(self.server.url, _TIMEOUT_S).ask("GET", "/api/tags", None, _TIMEOUT_S)
        try:
            found = msgspec.json.decode(content, type=_List).models or []
            rows = [(raw, convert(msgspec.json.decode(raw), Tag)) for raw in found]
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise ApiError(UNREADABLE, status=200) from None
        rows = [(raw, tag) for raw, tag in rows if not is_cloud(tag)]
        self.raw = tuple(msgspec.Raw(bytes(raw)) for raw, _ in rows)
        before, self.tags = self.tags, tuple(tag for _, tag in rows)
        unsure, self._unsure = self._unsure, False
        return anew or unsure or before != self.tags

    def _started_anew(self) -> bool:
        """Another process may have other settings and another version."""
        gone = self.server.pid is not None and not Path(f"/proc/{self.server.pid}").exists()
        if not gone and Api(self.server.url, timeout_s=_TIMEOUT_S).version() == self.server.version:
            return False
        self.server = look_again(self.server)
        self._engine = None
        self._models.clear()
        return True

    def model(self, tag: Tag) -> Model:
        """One model of the list, looked at once for each of its versions."""
        key = (tag.name, tag.digest)
        known = self._models.get(key)
        if known is None:
            try:
                known = self._models[key] = self._looked_at(tag)
            except EngineError:  # it did not answer this time
                self._unsure = True
                return _unknown(tag)
        return known

    def _looked_at(self, tag: Tag) -> Model:
        try:
            inspection, stored = inspect_ollama(self.server, tag.name)
        except EngineError:
            raise
        except NarthexError:  # of a kind that can't be planned
            return _unknown(tag)
        parameters = stored.parameters if stored is not None else None
        show = None
        if parameters is None or tag.capabilities is None:
            try:
                show = Api(self.server.url, timeout_s=_TIMEOUT_S).show(tag.name)
            except ApiError:
                show = None
        if parameters is None:
            parameters = dict(parameters_of(show.parameters)) if show else {}
        told = tag.capabilities if tag.capabilities is not None else show.capabilities if show else None
        return Model(
            tag=tag,
            inspection=inspection,
            blob=(stored.blob if stored else None) or _blob_of(inspection) or tag.digest,
            parameters=parameters,
            own=self._own(parameters, inspection),
            capabilities=told if told is not None else capabilities_of(inspection),
        )

    def _own(self, parameters: dict[str, Any], inspection: Inspection) -> KnobValues | None:
        engine = self.engine  # opens the log, too
        train = inspection.context_train
        try:
            return own_load(self.server, engine, parameters, context_train=train, log=self._log).knobs
        except NarthexError:  # PARAMETERs that Ollama refuses: its own words come with the load
            return None


def capabilities_of(inspection: Inspection) -> tuple[str, ...]:
    """What the header alone tells: whether it embeds or answers, and whether it sees."""
    if inspection.metadata.get(f"{inspection.architecture}.pooling_type") is not None:
        return ("embedding",)
    return ("completion", "vision") if inspection.projector else ("completion",)


def _unknown(tag: Tag) -> Model:
    return Model(tag, None, tag.digest, {}, None, tag.capabilities or ())


def _blob_of(inspection: Inspection) -> str:
    found = _BLOB.search(inspection.identity.replace("ollama:", "sha256:", 1))
    return found[1] if found else ""
