"""What the server tells without computing: version, tags, show, ps."""

from __future__ import annotations

import json
from typing import Any

from aiohttp import web

from narthex.testing.ollama.gowords import timestamp
from narthex.testing.ollama.serving import Serving
from narthex.testing.ollama.store import Stored
from narthex.testing.ollama.wire import Refused, answer, check_types, read_json

_PLAIN = "{{ .Prompt }}"


async def version(serving: Serving, request: web.Request) -> web.Response:
    """``GET /api/version``."""
    return answer({"version": serving.manner.version})


async def tags(serving: Serving, request: web.Request) -> web.Response:
    """``GET /api/tags``, newest first."""
    return answer({"models": [_tag(serving, stored) for stored in serving.store.models()]})


async def ps(serving: Serving, request: web.Request) -> web.Response:
    """``GET /api/ps``: runners that are ready, the one that stays longest first."""
    manner = serving.manner
    rows = []
    order = sorted(serving.scheduler.loaded.values(), key=lambda runner: -runner.shown_expiry())
    for runner in order:
        file_bytes = runner.model.header.file_bytes if manner.since(0, 30, 11) else None
        name = runner.stored.name.short
        row: dict[str, Any] = {
            "name": name,
            "model": name,
            "size": runner.buffers.size(file_bytes),
            "digest": runner.stored.digest,
            "details": runner.model.details(""),
            "expires_at": timestamp(runner.shown_expiry()),
            "size_vram": runner.buffers.on_gpu,
            "context_length": runner.start.num_ctx,
        }
        if manner.era in "BCD":  # a prediction made before the load
            row["size"] = runner.model.predicted(runner.start.num_ctx * runner.start.parallel)
            done, total = runner.buffers.offloaded
            row["size_vram"] = (
                row["size"] * min(done, total) // total if runner.buffers.on_gpu and total else 0
            )
        if manner.era == "E" and runner.buffers.whole:  # what lies in main memory is added to both
            row["size_vram"] = row["size"] = sum(runner.buffers.sizes.values())
        if not manner.since(0, 1, 42):
            del row["size_vram"]
        if not manner.since(0, 10, 0):
            del row["context_length"]
        rows.append(row)
    return answer({"models": rows})


async def show(serving: Serving, request: web.Request) -> web.Response:
    """``POST /api/show``."""
    body = await read_json(request)
    check_types(body, "ShowRequest", {"model": str, "name": str, "verbose": bool})
    text = str(body.get("model") or body.get("name") or "")
    stored = serving.stored(
        text, "model '{}" + (":latest" if text and ":" not in text else "") + "' not found"
    )
    verbose = body.get("verbose") is True
    model = serving.model_file(stored) if verbose else serving.shown_file(stored)
    template = stored.text("template") or model.chat_template or _PLAIN
    said: dict[str, Any] = {
        "license": stored.text("license"),
        "modelfile": _modelfile(stored, template),
        "parameters": _parameters(stored.params),
        "template": template,
        "system": stored.text("system"),
        "details": model.details(_parent(stored)),
        "model_info": model.model_info(verbose),
        "tensors": model.tensors(),
        "capabilities": model.capabilities,
        "modified_at": timestamp(stored.modified_ns),
    }
    if not serving.manner.since(0, 1, 45):
        del said["model_info"]
    if not serving.manner.since(0, 6, 1):
        del said["tensors"]
    if not serving.manner.since(0, 6, 4):
        del said["capabilities"]
    return answer({key: value for key, value in said.items() if value or key == "model_info"})


def _tag(serving: Serving, stored: Stored) -> dict[str, Any]:
    try:
        model = serving.shown_file(stored)
        details, able = model.details(_parent(stored)), model.capabilities
        details |= {
            "context_length": model.context_train,
            "embedding_length": model.number("embedding_length"),
        }
    except Refused:  # its blob is gone or broken: it is listed all the same, from the config
        config = stored.config
        details, able = (
            {
                "parent_model": _parent(stored),
                "format": config.get("model_format", "gguf"),
                "family": config.get("model_family", ""),
                "families": config.get("model_families"),
                "parameter_size": config.get("model_type", ""),
                "quantization_level": config.get("file_type", "unknown"),
                "context_length": config.get("context_length", 0),
                "embedding_length": config.get("embedding_length", 0),
            },
            list(config.get("capabilities", [])),
        )
    row = {
        "name": stored.name.short,
        "model": stored.name.short,
        "modified_at": timestamp(stored.modified_ns),
        "size": stored.size,
        "digest": stored.digest,
        "details": details,
        "capabilities": able,
    }
    if not serving.manner.since(0, 30, 0):
        del row["capabilities"], details["context_length"], details["embedding_length"]
    return row


def _parent(stored: Stored) -> str:
    return str(stored.config.get("parent_model", ""))


def _parameters(params: dict[str, Any]) -> str:
    """One ``key value`` a line; text values quoted, lists one line each."""
    lines = []
    for key, value in params.items():
        for item in value if isinstance(value, list) else [value]:
            lines.append(f"{key:<30} {_go_value(item)}")
    return "\n".join(lines)


def _go_value(value: Any) -> str:
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, bool):
        return "true" if value else "false"
    number = float(value)
    if abs(number) >= 1_000_000:  # %v of a float64
        return f"{number:.17g}" if "e" in f"{number:.17g}" else _exponent(number)
    return str(int(number)) if number.is_integer() else repr(number)


def _exponent(number: float) -> str:
    digits = repr(number) if not number.is_integer() else str(int(number))
    whole = digits.lstrip("-")
    mantissa = f"{whole[0]}.{whole[1:]}".rstrip("0").rstrip(".")
    return f"{'-' if number < 0 else ''}{mantissa}e+{len(whole) - 1:02d}"


def _modelfile(stored: Stored, template: str) -> str:
    """The text that «ollama show --modelfile» prints."""
    lines = [
        '# Modelfile generated by "ollama show"',
        "# To build a new Modelfile based on this, replace FROM with:",
        f"# FROM {stored.name.short}",
        "",
        f"FROM {stored.layer('model')}",
        f"TEMPLATE {_block(template)}",
    ]
    if system := stored.text("system"):
        lines.append(f"SYSTEM {_block(system)}")
    for key, value in stored.params.items():
        for item in value if isinstance(value, list) else [value]:
            lines.append(f"PARAMETER {key} {item if isinstance(item, str) else _go_value(item)}")
    return "\n".join(lines) + "\n"


def _block(text: str) -> str:
    return f'"""{text}"""' if "\n" in text else text
