"""What MODEL, ``--engine`` and ``--ollama`` mean: in one place for every command that takes a model.

An existing file (or «demo») is for llama-server, anything else is a name in Ollama; ``--engine`` decides
otherwise. Nothing of Ollama is imported where a file is meant, so ``plan`` and ``inspect`` stay quick.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from narthex import paths
from narthex.engines._base import Engine, EngineDevice, Loader
from narthex.errors import EngineError, EngineNotFound, ModelFileError, ProfileError, UsageError
from narthex.models.catalog import DEMO_NAMES, find_model
from narthex.models.gguf import inspect_file
from narthex.models.inspection import Inspection
from narthex.trials.trial import ModelRef, model_ref

if TYPE_CHECKING:
    from narthex.engines.ollama.records import Server
    from narthex.engines.ollama.store import StoredModel
    from narthex.host.facts import HostFacts
    from narthex.profiles.profile import Profile

LLAMA, OLLAMA = "llama-server", "ollama"
UNKNOWN_CARD = EngineDevice(name="GPU0", description="unknown", total_bytes=0, free_bytes=0)
"""Stands for the card of an Ollama elsewhere: it most likely has one, and nobody tells its size."""
_PATH_STARTS = ("/", "./", "../", "~")
_BLOB = re.compile(r"sha256[-:]([0-9a-f]{64})")


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """The model that is meant, and the kind of engine it is for. No engine was looked for yet.

    ``server`` is the Ollama that serves it; None for llama-server. ``stored`` is what its store says, also
    where llama-server shall run the blob.
    """

    kind: str  # LLAMA or OLLAMA
    inspection: Inspection
    model: ModelRef
    server: Server | None = None
    stored: StoredModel | None = None


class Target(Subject, frozen=True, kw_only=True):
    """The model with its engine: all that a trial, a study or a soak needs."""

    engine: Engine

    def loader(self, *, log_dir: Path | None = None, bare_as: str | None = None) -> Loader:
        """What loads it. ``bare_as`` (Ollama only) loads a tuned model of that name, made from this one, and
        sends no options at all: it has to carry them itself."""
        log_dir = log_dir or paths.state_dir() / "engine"
        if self.server is not None:
            from narthex.engines.ollama.loading import OllamaLoader

            blob = self.stored.blob if self.stored else None
            name = bare_as or self.model.served_as
            bare = bare_as is not None
            return OllamaLoader(self.server, self.engine, name, blob=blob, log_dir=log_dir, bare=bare)
        from narthex.engines.llama_loader import LlamaLoader

        return LlamaLoader(self.engine, self.model.path, log_dir=log_dir)


def find_target(
    model: str,
    *,
    engine: str | None = None,
    engine_path: str | None = None,
    engine_args: Sequence[str] = (),
    ollama: str | None = None,
    host: HostFacts | None = None,
) -> Target:
    """The model and the engine to run it with. ``host`` saves a second look at the machine.

    Raises NarthexError: no such model, no such engine, or a model that makes no text.
    """
    if engine is None and (engine_path or engine_args):
        engine = LLAMA  # they are about its program
    if engine == OLLAMA and (engine_path or engine_args):
        raise _not_ollamas()
    subject = find_subject(model, engine=engine, ollama=ollama, measured=True)
    return _equipped(subject, engine_path, engine_args, host)


def _equipped(
    subject: Subject,
    engine_path: str | None = None,
    engine_args: Sequence[str] = (),
    host: HostFacts | None = None,
) -> Target:
    """With its engine. Raises NarthexError."""
    parts = {name: getattr(subject, name) for name in subject.__struct_fields__}
    if subject.server is None:
        from narthex.engines.llama_server import find_engine

        return Target(engine=find_engine(engine_path, tuple(engine_args)), **parts)
    from narthex.engines.ollama.shown import check_generates

    check_generates(subject.server, subject.model.served_as)
    return Target(engine=ollama_engine(subject.server, host), **parts)


def _not_ollamas() -> UsageError:
    return UsageError(
        "--engine-path and --engine-arg are for llama-server: Ollama starts its own.",
        hint="Leave them out, or use --engine llama-server.",
    )


def find_profiled(profile: Profile, *, engine_path: str | None = None, ollama: str | None = None) -> Target:
    """The model and the engine that a profile was made with. Raises NarthexError, also where the model is
    another one by now."""
    on_server = profile.engine_kind == OLLAMA
    if on_server and engine_path:
        raise _not_ollamas()
    subject = find_subject(
        profile.model.served_as if on_server else profile.model.path,
        engine=profile.engine_kind,
        ollama=ollama or profile.server_url,
        measured=True,
    )
    if identities(subject.model) & identities(profile.model):
        return _equipped(subject, engine_path, profile.engine_args)
    where = f"«{profile.model.served_as}» in Ollama" if on_server else f"The file {profile.model.path}"
    raise ProfileError(
        f"{where} is another model than this profile was made for.",
        hint="«narthex tune» makes a profile for the new one.",
    )


def identities(model: ModelRef) -> set[str]:
    """What a model is known by: the hash of its header, or Ollama's digest of the file where that can't be
    read. A blob's path tells both, so that one model is known as one from near and from afar."""
    found = _BLOB.fullmatch(Path(model.path).name)
    return {model.identity, f"ollama:{found[1]}"} if found else {model.identity}


def retarget(target: Target, server: Server) -> Target:
    """The same model on the same server after it was started anew, with other settings."""
    return msgspec.structs.replace(target, server=server, engine=ollama_engine(server))


def find_subject(
    model: str, *, engine: str | None = None, ollama: str | None = None, measured: bool = False
) -> Subject:
    """The model alone, for commands that load nothing; ``measured``: it is going to be loaded, so its server
    must not be narthex' own gateway. Raises NarthexError."""
    path = _file(model)
    if ollama is not None and engine is None:
        engine = OLLAMA  # whoever names a server means it
    if path is not None and engine != OLLAMA:
        inspection = inspect_file(path)
        return Subject(kind=LLAMA, inspection=inspection, model=model_ref(inspection))
    if path is not None:
        from narthex.cli.twin import find_twin

        server = find_ollama(ollama)
        _must_be_engine(server, measured)
        return _served(find_twin(server, inspect_file(path)), server)
    if _is_path(model):
        find_model(model)  # raises: it tells what lies beside it
    server = _server_for(model, ollama, engine)
    _must_be_engine(server, measured)
    return _blob(model, server) if engine == LLAMA else _served(model, server)


def _must_be_engine(server: Server, measured: bool) -> None:
    if measured and server.gateway:
        from narthex.cli.card_lease import must_be_no_gateway

        must_be_no_gateway(server)


def find_ollama(url: str | None) -> Server:
    """The Ollama that is meant. Raises EngineNotFound, EngineError, UsageError."""
    from narthex.engines.ollama.discovery import find_server

    return find_server(url)


def ollama_engine(server: Server, host: HostFacts | None = None) -> Engine:
    """A server as an engine: build, server-wide settings, devices."""
    from narthex.engines.ollama.discovery import engine_of
    from narthex.engines.ollama.logs import open_log
    from narthex.host.collect import collect_host

    engine = engine_of(server, host or collect_host(), open_log(server))
    if engine.devices or server.place != "elsewhere":
        return engine
    return msgspec.structs.replace(engine, devices=(UNKNOWN_CARD,))


def _file(model: str) -> Path | None:
    """The file that is meant; None where it is none, so that it may be a name in Ollama."""
    if not model.strip() or model in DEMO_NAMES or Path(model).expanduser().is_file():
        return find_model(model)
    return None


def _is_path(model: str) -> bool:
    """Whether it can only be meant as a path: a name never begins so, and hardly ever ends so."""
    return model.startswith(_PATH_STARTS) or (model.lower().endswith(".gguf") and ":" not in model)


def _server_for(model: str, ollama: str | None, engine: str | None) -> Server:
    from narthex.engines.ollama.names import canonical

    try:
        canonical(model)
    except UsageError as error:
        raise UsageError(
            f"There is no file «{model}», and it can't be the name of a model in Ollama.", hint=error.hint
        ) from error
    try:
        return find_ollama(ollama)
    except EngineNotFound as error:
        if ollama is not None or engine == OLLAMA:
            raise
        raise ModelFileError(
            f"There is no file «{model}», and no Ollama was found that could have a model of that name.",
            hint="Name a .gguf file («demo» is built in), or start Ollama and name one of its models; "
            "--ollama URL says where it is.",
        ) from error


def _served(name: str, server: Server) -> Subject:
    from narthex.engines.ollama.names import short
    from narthex.engines.ollama.shown import inspect_ollama

    inspection, stored = inspect_ollama(server, name)
    served_as = stored.name if stored else short(name)
    return Subject(
        kind=OLLAMA,
        inspection=inspection,
        model=_ref(inspection, served_as),
        server=server,
        stored=stored,
    )


def _blob(name: str, server: Server) -> Subject:
    """A model of Ollama for llama-server: its own GGUF blob."""
    from narthex.engines.ollama.shown import inspect_ollama

    inspection, stored = inspect_ollama(server, name)
    if not inspection.path:
        raise EngineError(
            f"llama-server needs the file of {inspection.name}, and it can't be read from here.",
            hint="Run narthex where Ollama's store is, as a user who may read it, or use --engine ollama.",
        )
    if inspection.ollamas_format:
        gap = "The file is in Ollama's own format, which a llama-server of another build may refuse."
        inspection = msgspec.structs.replace(inspection, gaps=(*inspection.gaps, gap))
    return Subject(kind=LLAMA, inspection=inspection, model=_ref(inspection, ""), stored=stored)


def _ref(inspection: Inspection, served_as: str) -> ModelRef:
    """The reference that trials and profiles keep; no path where the file can't be read from here."""
    return ModelRef(
        path=os.path.abspath(inspection.path) if inspection.path else "",
        identity=inspection.identity,
        name=inspection.name,
        layers=inspection.layers,
        file_bytes=inspection.file_bytes,
        served_as=served_as,
    )
