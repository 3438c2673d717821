"""An inspection of a model that Ollama holds: from its file where that can be read, else from ``/api/show``.

The server's own words hold the tensor table (since 0.6.1) and the metadata, so the same code reads both.
What they lack is said in gaps: lists are null unless asked for with ``verbose``, and older servers tell no
tensors.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from narthex.engines.ollama.api import Api, to_error
from narthex.engines.ollama.eras import since
from narthex.engines.ollama.guessed import guessed_tensors
from narthex.engines.ollama.names import is_cloud, same, short
from narthex.engines.ollama.records import ApiError, Server, Show, ShownTensor, Tag
from narthex.engines.ollama.store import StoredModel, find_stored
from narthex.errors import ModelFileError, NarthexError, UsageError
from narthex.models.gguf import Source, inspect_file, inspection_of
from narthex.models.inspection import ArrayLength, Inspection, TensorInfo
from narthex.models.quants import TENSOR_TYPES, TYPE_IDS, tensor_bytes
from narthex.units import format_size

_BLOB = re.compile(r"^FROM .*sha256[-:]([0-9a-f]{64})\s*$", re.MULTILINE)  # the store's path may hold blanks
_KEPT = 1024  # numbers of a list that are kept, as from a file's header
_NOT_FOUND = 404
_NAMED = 5  # models that a hint lists
_UNKNOWN_BYTES = 2.0  # a weight of unknown type, where not even the model's size is known


def inspect_ollama(server: Server, name: str) -> tuple[Inspection, StoredModel | None]:
    """A model by its name: from its blob where that can be read from here, else from what the server says.

    Raises UsageError for a model that the server does not have or that does not run here, ModelFileError
    for one whose file is gone or no GGUF model, EngineError where the server does not answer.
    """
    name = short(name)
    stored, gaps = _stored(server, name)
    if stored is not None:
        if stored.remote_host:
            raise _cloud(name)
        if stored.gone:
            raise ModelFileError(
                f"The file of {name} is gone from Ollama's store (blob {(stored.blob or '')[:12]}).",
                hint=f"`ollama pull {name}` fetches it again; until then Ollama can't load the model.",
            )
        if stored.path:
            return _from_file(stored), stored
    inspection = _asked(server, name)
    if stored is not None:
        gaps = (*gaps, *stored.gaps)
    return msgspec.structs.replace(inspection, gaps=(*inspection.gaps, *gaps)), stored


def inspection_from_show(
    show: Show, name: str, *, digest: str = "", file_bytes: int | None = None
) -> Inspection:
    """What ``/api/show`` tells, as if read from the file; ``path`` is "".

    ``digest`` is that of the manifest, for the identity where the answer does not name the blob;
    ``file_bytes`` the size that ``/api/tags`` gives. Raises ModelFileError, UsageError for a model that
    can't be planned.
    """
    if show.remote_host:
        raise _cloud(name)
    if show.details.format == "safetensors":
        raise ModelFileError(
            f"{name} is a safetensors model: what Ollama's engine for those needs can't be planned.",
            hint="Use a GGUF version of the model.",
        )
    if not show.model_info:
        raise ModelFileError(
            f"This Ollama tells nothing of the shape of {name}, and its file can't be read from here.",
            hint=f"Update Ollama (it tells since {since('model_info')}), or run narthex where the file is.",
        )
    metadata = _metadata(show.model_info)
    gaps = _missing_words(lists_missing(show), name)
    if show.tensors:
        tensors, unknown = _tensors(show.tensors, file_bytes)
        gaps += unknown
    else:
        tensors = guessed_tensors(metadata, show.details, file_bytes)
        gaps.append(
            f"This Ollama does not list the tensors of {name} (since {since('show_tensors')} it does): "
            "the size of each is a guess from the shape, the quantisation and the size of the whole."
        )
    beside = 0
    if show.projector_info:
        beside = max(0, (file_bytes or 0) - sum(tensor.nbytes for tensor in tensors))
        known = (
            f"planned with the rest of the model's size, {format_size(beside)}" if beside else "not planned"
        )
        gaps.append(f"Ollama loads a projector with {name}, of unknown size: {known}.")
    blob = shown_blob(show)
    source = Source(
        label=f"The model {name}",
        path="",
        files=(),
        file_bytes=file_bytes or sum(tensor.nbytes for tensor in tensors),
        identity=f"ollama:{blob or digest or name}",
        name=name,
        hint="Name a language model that Ollama holds; `narthex models` lists them.",
    )
    found = inspection_of(metadata, tensors, source)
    return msgspec.structs.replace(
        found, name=name, beside_bytes=found.beside_bytes + beside, gaps=(*found.gaps, *gaps)
    )


def shown_blob(show: Show) -> str | None:
    """The digest of the GGUF blob, 64 hex digits, from the Modelfile that the server wrote."""
    found = _BLOB.search(show.modelfile)
    return found[1] if found else None


def lists_missing(show: Show) -> tuple[str, ...]:
    """The model's own keys whose list was left out, as they all are without ``verbose``."""
    own = f"{show.model_info.get('general.architecture')}."
    return tuple(key for key, value in show.model_info.items() if value is None and key.startswith(own))


def check_generates(server: Server, name: str) -> None:
    """Raise UsageError where a model makes no text: an embedding model, or one that can't complete.

    Also for a model that the server does not have, and one that runs elsewhere; EngineError where the server
    does not answer.
    """
    name = short(name)
    show = _show(server, name)
    if show.remote_host:
        raise _cloud(name)
    architecture = show.model_info.get("general.architecture")
    embeds = show.model_info.get(f"{architecture}.pooling_type") is not None
    if show.capabilities is not None:  # since 0.6.4
        if "completion" in show.capabilities:
            return
        embeds = "embedding" in show.capabilities
    elif not embeds:
        return
    kind = "an embedding model" if embeds else "no completion model"
    raise UsageError(
        f"{name} is {kind}: it has no text to generate, so there is no speed to measure.",
        hint="Name a model that answers; `narthex models` shows what each can do.",
    )


def no_model_hint(tags: Iterable[Tag], name: str) -> str:
    """What a person can do who named a model that is not there: the nearest names, or how to get one."""
    from difflib import SequenceMatcher

    names = [tag.name for tag in tags if not is_cloud(tag)]
    if not names:
        return f"It holds no model yet: `ollama pull {name}` fetches one."
    names.sort(key=lambda other: -SequenceMatcher(None, name.lower(), other.lower()).ratio())
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return f"It holds {', '.join(names[:_NAMED])}{more}; `ollama pull {name}` may fetch what is missing."


def _stored(server: Server, name: str) -> tuple[StoredModel | None, tuple[str, ...]]:
    if server.store is None:
        return None, ()
    try:
        return find_stored(server.store, name), ()
    except NarthexError as error:
        return None, (error.message,)


def _from_file(stored: StoredModel) -> Inspection:
    """The file's header; what Ollama loads with it counts with its size, the least that it takes."""
    found = inspect_file(stored.path or "")
    gaps, beside = list(stored.gaps), found.beside_bytes
    kinds = {"projector": stored.projectors, "adapter": stored.adapters, "draft model": stored.drafts}
    for kind, paths in kinds.items():
        if size := sum(Path(path).stat().st_size for path in paths):
            beside += size
            gaps.append(
                f"Ollama loads a {kind} with {stored.name}, {format_size(size)}: planned with the size of "
                "its file, what it computes with comes on top."
            )
    return msgspec.structs.replace(
        found,
        name=stored.name,
        projector=next(iter(stored.projectors), None),
        beside_bytes=beside,
        gaps=(*found.gaps, *gaps),
    )


def _asked(server: Server, name: str) -> Inspection:
    show = _show(server, name)
    if lists_missing(show) or not show.tensors:  # the whole vocabulary comes with them: only where needed
        show = _show(server, name, verbose=True)
    tag = next((tag for tag in _tags(server) if same(tag.name, name)), None)
    size = tag.size or None if tag else None
    return inspection_from_show(show, name, digest=tag.digest if tag else "", file_bytes=size)


def _show(server: Server, name: str, *, verbose: bool = False) -> Show:
    try:
        return Api(server.url, timeout_s=60.0 if verbose else 20.0).show(name, verbose)
    except ApiError as error:
        if error.status == _NOT_FOUND and error.text.startswith("model "):
            raise UsageError(
                f"Ollama at {server.url} has no model «{name}».", hint=no_model_hint(_tags(server), name)
            ) from error
        raise to_error(error, server.url, f"show {name}") from error


def _tags(server: Server) -> tuple[Tag, ...]:
    try:
        return Api(server.url).tags()
    except ApiError as error:
        raise to_error(error, server.url, "list its models") from error


def _cloud(name: str) -> UsageError:
    return UsageError(
        f"{name} is a cloud model: it runs at ollama.com, so nothing of it can be planned or tuned here.",
        hint="Name a model that runs on this server; `narthex models` lists them.",
    )


def _metadata(shown: dict[str, Any]) -> dict[str, Any]:
    """The metadata as the reader of headers gives them: lists as tuples, long ones as their length."""
    found: dict[str, Any] = {}
    for key, value in shown.items():
        if isinstance(value, list):
            found[key] = tuple(value) if len(value) <= _KEPT else ArrayLength(len(value), _kind(value[0]))
        elif value is not None:
            found[key] = value
    return found


def _kind(value: Any) -> str:
    return "string" if isinstance(value, str) else "f32" if isinstance(value, float) else "i32"


def _missing_words(keys: tuple[str, ...], name: str) -> list[str]:
    if not keys:
        return []
    words = ", ".join(keys)
    return [f"Ollama does not tell the lists {words} of {name}: layers that differ may be planned as alike."]


def _tensors(
    shown: tuple[ShownTensor, ...], file_bytes: int | None
) -> tuple[tuple[TensorInfo, ...], list[str]]:
    """The tensor table. What is of a type that is not known here shares the rest of the file's bytes."""
    made: list[TensorInfo] = []
    unknown: list[TensorInfo] = []
    for tensor in shown:
        number = TYPE_IDS.get(tensor.type.upper())
        if number is None:
            unknown.append(TensorInfo(tensor.name, tensor.shape, tensor.type, 0, 0))
            continue
        kind = TENSOR_TYPES[number]
        made.append(TensorInfo(tensor.name, tensor.shape, kind.name, tensor_bytes(tensor.shape, kind), 0))
    if not unknown:
        return tuple(made), []
    elements = sum(tensor.elements for tensor in unknown)
    rest = (file_bytes or 0) - sum(tensor.nbytes for tensor in made)
    each = rest / elements if rest > 0 and elements else _UNKNOWN_BYTES
    made += [msgspec.structs.replace(tensor, nbytes=round(tensor.elements * each)) for tensor in unknown]
    types = ", ".join(sorted({tensor.type_name or "?" for tensor in unknown}))
    return tuple(made), [
        f"Some tensors are of a type that is not known here ({types}): their sizes are a guess."
    ]
