"""``find_twin``: the model that Ollama holds of a file: one with the same content, under whatever name."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NoReturn

import click

from narthex.engines.ollama.api import Api, to_error
from narthex.engines.ollama.names import is_cloud
from narthex.engines.ollama.records import ApiError, Server, Tag
from narthex.engines.ollama.shown import shown_blob
from narthex.engines.ollama.store import stored_models
from narthex.errors import ModelFileError, NarthexError, UsageError
from narthex.models.gguf import inspect_file
from narthex.models.inspection import Inspection
from narthex.units import MIB, format_size

_BESIDE = 64 * MIB  # templates, licences and parameters are much smaller; a projector may be larger


def find_twin(server: Server, inspection: Inspection) -> str:
    """The name under which a server holds the content of a file. Where its store can be read, headers are
    compared; else the file's SHA-256 with that of the server's blob.

    Raises UsageError, with the way to make such a model, where it holds none.
    """
    if len(inspection.files) > 1:
        raise UsageError(
            f"{inspection.path} is one of {len(inspection.files)} parts, and Ollama takes one file.",
            hint="Join them with llama-gguf-split --merge, or use --engine llama-server.",
        )
    name = _in_store(server, inspection) or _by_digest(server, inspection)
    if name is None:
        _refuse(server, inspection)
    return name


def _in_store(server: Server, inspection: Inspection) -> str | None:
    if server.store is None:
        return None
    try:
        models, _ = stored_models(server.store)
    except NarthexError:
        return None  # the server can still be asked
    seen: dict[str, bool] = {}
    # The plain model before those that were made from it with other parameters.
    for model in sorted(models, key=lambda each: bool(each.parameters)):
        if model.path is None or model.blob_bytes != inspection.file_bytes:
            continue
        if model.path not in seen:
            seen[model.path] = _identity(model.path) == inspection.identity
        if seen[model.path]:
            return model.name
    return None


def _identity(path: str) -> str | None:
    try:
        return inspect_file(path).identity
    except ModelFileError:
        return None


def _by_digest(server: Server, inspection: Inspection) -> str | None:
    api = Api(server.url)
    try:
        alike = [tag for tag in api.tags() if _may_be(tag, inspection)]
        shown = {tag.name: shown_blob(api.show(tag.name)) for tag in alike}
    except ApiError as error:
        raise to_error(error, server.url, "list its models") from error
    if not any(shown.values()):
        return None
    click.echo(f"Comparing {inspection.path} with what Ollama holds …", err=True)
    with Path(inspection.path).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return next((name for name, blob in shown.items() if blob == digest), None)


def _may_be(tag: Tag, inspection: Inspection) -> bool:
    """Whether the sizes allow it: all layers together are a little more than the file."""
    return not is_cloud(tag) and 0 <= tag.size - inspection.file_bytes < _BESIDE


def _refuse(server: Server, inspection: Inspection) -> NoReturn:
    size = format_size(inspection.file_bytes)
    raise UsageError(
        f"Ollama at {server.url} holds no model with the content of {inspection.path} ({size}).",
        hint=f"Write the line «FROM {Path(inspection.path).absolute()}» into a file called Modelfile and run "
        "`ollama create NAME -f Modelfile`; then give NAME. Ollama may rewrite the file while doing so.",
    )
