"""create, copy, delete, pull, and the blobs that create is made of."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from aiohttp import web

from narthex.testing.ollama import names
from narthex.testing.ollama.gguf_info import BadModel, ModelFile, config_of, read_model
from narthex.testing.ollama.gowords import dumps
from narthex.testing.ollama.modelfile import read_modelfile
from narthex.testing.ollama.serving import Serving
from narthex.testing.ollama.store import Stored, layer
from narthex.testing.ollama.wire import LINES, Refused, answer, check_types, read_json

_DIGEST = re.compile(r"sha256[:-][0-9a-fA-F]{64}")
_TYPES: dict[str, type] = {
    "model": str,
    "name": str,
    "from": str,
    "files": dict,
    "parameters": dict,
    "template": str,
    "system": str,
    "quantize": str,
    "stream": bool,
    "messages": list,
}
_PLAIN_JSON = "application/json"
_TEXTS = ("template", "system", "license")


async def blob(serving: Serving, request: web.Request) -> web.Response:
    """``HEAD`` and ``POST /api/blobs/sha256:…``."""
    digest = request.path.removeprefix("/api/blobs/")
    if not _DIGEST.fullmatch(digest):
        raise Refused(400, "invalid digest format")
    path = serving.store.blob(digest)
    if request.method == "HEAD":
        if not path.exists():
            raise Refused(404, f'blob "{digest}" not found')
        return web.Response()
    if path.exists():
        return web.Response()
    got = await _receive(request, path)
    if got != digest.replace("-", ":"):
        raise Refused(400, f'digest mismatch, expected "{digest}", got "{got}"')
    return web.Response(status=201)


async def _receive(request: web.Request, path: Path) -> str:
    """The body into the store, under its own name only if that is the digest; the digest found."""
    hashed = hashlib.sha256()
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        async for data in request.content.iter_chunked(2**20):
            hashed.update(data)
            file.write(data)
    found = hashed.hexdigest()
    if path.name.endswith(found):
        Path(file.name).rename(path)
    else:
        Path(file.name).unlink()
    return f"sha256:{found}"


async def create(serving: Serving, request: web.Request) -> web.StreamResponse:
    """``POST /api/create``: from a model or from blobs. Only ``success`` means done."""
    body = await read_json(request)
    check_types(body, "CreateRequest", _TYPES)
    if not serving.manner.since(0, 5, 5):
        if "modelfile" not in body:
            raise Refused(400, "path or modelfile are required")
        body |= read_modelfile(str(body["modelfile"]))
    name = names.parse(str(body.get("model") or body.get("name") or ""))
    if name is None:
        raise Refused(400, "invalid model name")
    return await _tell(request, body, _creating(serving, name, body))


async def copy(serving: Serving, request: web.Request) -> web.Response:
    """``POST /api/copy``: another manifest."""
    body = await read_json(request)
    check_types(body, "CopyRequest", {"source": str, "destination": str})
    stored = serving.stored(str(body.get("source", "")), 'model "{}" not found')
    name = names.parse(str(body.get("destination", "")))
    if name is None:
        raise Refused(400, f'destination "{body.get("destination", "")}" is invalid')
    serving.store.copy(stored, name)
    return web.Response()


async def delete(serving: Serving, request: web.Request) -> web.Response:
    """``DELETE /api/delete``; a loaded copy stays loaded."""
    body = await read_json(request)
    serving.store.delete(serving.stored(str(body.get("model") or body.get("name") or "")))
    return web.Response()


async def pull(serving: Serving, request: web.Request) -> web.StreamResponse:
    """``POST /api/pull``: there is no network here, so it fails as it does without one."""
    body = await read_json(request)
    name = names.parse(str(body.get("model") or body.get("name") or ""))
    if name is None:
        raise Refused(400, "invalid model name")
    return await _tell(request, body, _pulling(serving, name))


async def _pulling(serving: Serving, name: names.Name) -> AsyncIterator[str]:
    yield "pulling manifest"
    url = f"https://{name.host}/v2/{name.namespace}/{name.model}/manifests/{name.tag}"
    words = f'Get "{url}": dial tcp: lookup {name.host} on 192.0.2.53:53: no such host'
    serving.log.info(f"request failed: {words}")
    raise Refused(500, f"pull model manifest: {words}")


async def _creating(serving: Serving, name: names.Name, body: dict[str, Any]) -> AsyncIterator[str]:
    """Status lines; the work is done on the way. Raises Refused."""
    base: Stored | None = None
    if source := str(body.get("from") or ""):
        parsed = names.parse(source)
        base = serving.store.find(parsed)
        if base is None:
            async for status in _pulling(serving, parsed or name):
                yield status
    elif not body.get("files"):
        raise Refused(400, "neither 'from' or 'files' was specified")
    if "{{" in (template := str(body.get("template") or "")) and template.count("{{") != template.count("}}"):
        raise Refused(400, "template error: template: :1: unclosed action")
    if body.get("quantize"):
        raise Refused(500, "quantization is only supported for F16, BF16 and F32 models")
    if base is not None:
        model, layers = serving.model_file(base), [dict(entry) for entry in base.manifest["layers"]]
    else:
        yield "parsing GGUF"
        model = _uploaded(serving, next(iter(body["files"].values())))
        yield "verifying conversion"
        layers = [layer("model", _digest_of(model), model.header.file_bytes)]
    yield f"using existing layer {_digest_of(model)}"
    for status in _add_layers(serving, body, base, layers):
        yield status
    yield "writing manifest"
    parent = base.name.short if base is not None else ""
    serving.store.write(name, config_of(model, layers, parent), layers)
    yield "success"


def _add_layers(
    serving: Serving, body: dict[str, Any], base: Stored | None, layers: list[dict[str, Any]]
) -> Iterator[str]:
    """Texts are replaced, parameters merged over the base's; what is not given stays."""
    new: dict[str, bytes] = {kind: str(body[kind]).encode() for kind in _TEXTS if body.get(kind)}
    params = {**(base.params if base is not None else {}), **(body.get("parameters") or {})}
    if body.get("parameters"):
        new["params"] = json.dumps(params, separators=(",", ":")).encode()
    if body.get("messages"):
        new["messages"] = json.dumps(body["messages"], separators=(",", ":")).encode()
    for kind, data in new.items():
        digest, is_new = serving.store.put(data)
        if kind != "license":
            layers[:] = [entry for entry in layers if not entry["mediaType"].endswith(f".{kind}")]
        layers.append(layer(kind, digest, len(data)))
        yield f"{'creating new' if is_new else 'using existing'} layer {digest}"


def _uploaded(serving: Serving, digest: str) -> ModelFile:
    """A GGUF among the blobs. Ollama writes it again with llama-quantize; a well-made one stays as it is."""
    path = serving.store.blob(digest)
    if not path.exists():
        raise Refused(400, f"open {path}: no such file or directory")
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise Refused(400, "supplied file was not in GGUF format")
    try:
        model = read_model(path)
    except BadModel as error:
        raise Refused(400, str(error)) from None
    serving.log.info("quantizing model", type="COPY", input=path, output=path.with_name(f"COPY{os.getpid()}"))
    if not model.known:
        words = "failed to validate GGUF with llama-quantize without compatibility patches: "
        raise Refused(400, words + "llama-quantize failed: exit status 1")
    return model


def _digest_of(model: ModelFile) -> str:
    return model.blob.name.replace("-", ":")


async def _tell(
    request: web.Request, body: dict[str, Any], statuses: AsyncIterator[str]
) -> web.StreamResponse:
    """As lines, or with ``stream: false`` only the last one. An error after the first line has no status."""
    streaming = body.get("stream") is not False
    response = web.StreamResponse(headers={"Content-Type": LINES})
    last = ""
    try:
        async for last in statuses:
            if streaming:
                if not response.prepared:
                    await response.prepare(request)
                await response.write(dumps({"status": last}).encode() + b"\n")
    except Refused as refused:
        if not response.prepared:
            status = 500 if last else refused.status
            return answer({"error": refused.text}, status, _PLAIN_JSON)
        await response.write(dumps({"error": refused.text}).encode() + b"\n")
    return response if streaming else answer({"status": last}, 200, _PLAIN_JSON)
