"""What Ollama's API tells about a model, told about a file that llama-server serves."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from narthex.errors import NarthexError
from narthex.gateway.offer import Offer
from narthex.gateway.routing.held import capabilities_of
from narthex.gateway.trouble import Trouble
from narthex.models.gguf import inspect_file
from narthex.models.inspection import ArrayLength, Inspection

TEMPLATE = "tokenizer.chat_template"
_TOOLS = ("tools", "tool_call")
_THINKING = ("enable_thinking", "reasoning_content", "reasoning_effort", "<think>", "</think>", "thinking")
_HIDDEN = frozenset(("general.name", TEMPLATE))  # Ollama leaves them out of model_info, too
_INFILL = ("tokenizer.ggml.fim_pre_token_id", "tokenizer.ggml.prefix_token_id")
_FORCED = ("--chat-template", "--chat-template-file")
_KEPT = 128  # inspections

Entry = dict[str, Any]


def tag_of(offer: Offer) -> Entry:
    """An element of ``/api/tags``. A file that can't be read has a size of 0 and no details."""
    found = _looked_at(offer)
    if found is None:
        return {
            "name": offer.name,
            "model": offer.name,
            "modified_at": _time(0),
            "size": 0,
            "digest": offer.digest,
            "details": {},
        }
    inspection, changed_ns = found
    return {
        "name": offer.name,
        "model": offer.name,
        "modified_at": _time(changed_ns),
        "size": inspection.file_bytes,
        "digest": inspection.identity,
        "details": {
            **_details(inspection),
            "context_length": inspection.context_train,
            "embedding_length": inspection.embedding_length,
        },
        "capabilities": list(_capabilities(offer, inspection)),
    }


def show_of(offer: Offer, *, verbose: bool = False) -> Entry:
    """An answer of ``/api/show``. ``verbose`` keeps the arrays that the header's reader keeps. Raises Trouble
    502 where the file can't be read."""
    try:
        inspection, changed_ns = _inspected(offer.model)
    except (NarthexError, OSError) as error:
        raise Trouble(
            502, "model_unreadable", str(error), remedy=getattr(error, "hint", "") or "Check the file."
        ) from error
    template = _template(inspection)
    answer: Entry = {
        "modelfile": f"# narthex serves this file with llama-server\nFROM {offer.model}\n",
        "parameters": f"{'num_ctx':<30} {offer.num_ctx}" if offer.num_ctx else "",
        "template": template,
        "details": _details(inspection),
        "model_info": _model_info(inspection, verbose=verbose),
        "tensors": [
            {"name": tensor.name, "type": tensor.type_name, "shape": list(tensor.dims)}
            for tensor in inspection.tensors
        ],
        "capabilities": list(_capabilities(offer, inspection)),
        "modified_at": _time(changed_ns),
    }
    if not answer["parameters"]:
        del answer["parameters"]
    return answer


def has_chat_template(offer: Offer) -> bool:
    """Whether a prompt is put into a template; True where that can't be known."""
    if any(argument.partition("=")[0] in _FORCED for argument in offer.engine_args):
        return True
    found = _looked_at(offer)
    return found is None or bool(_template(found[0]))


def _looked_at(offer: Offer) -> tuple[Inspection, int] | None:
    try:
        return _inspected(offer.model)
    except (NarthexError, OSError):
        return None


def _inspected(path: str) -> tuple[Inspection, int]:
    """The header, and when the file was changed in ns since 1970. Read once as long as the file is the
    same."""
    seen = os.stat(path)
    return _inspection(path, seen.st_mtime_ns, seen.st_size), seen.st_mtime_ns


@lru_cache(maxsize=_KEPT)
def _inspection(path: str, changed_ns: int, size: int) -> Inspection:
    return inspect_file(Path(path))


def _capabilities(offer: Offer, inspection: Inspection) -> tuple[str, ...]:
    """In Ollama's words and order."""
    found = [*(offer.capabilities or capabilities_of(inspection))]
    template = _template(inspection)
    if "completion" not in found:
        return tuple(found)
    if any(word in template for word in _TOOLS):
        found.append("tools")
    if any(name in inspection.metadata for name in _INFILL):
        found.append("insert")
    if any(word in template for word in _THINKING):
        found.append("thinking")
    return tuple(dict.fromkeys(found))


def _template(inspection: Inspection) -> str:
    template = inspection.metadata.get(TEMPLATE)
    return template if isinstance(template, str) else ""


def _details(inspection: Inspection) -> Entry:
    return {
        "parent_model": "",
        "format": "gguf",
        "family": inspection.architecture,
        "families": [inspection.architecture],
        "parameter_size": _count(inspection.parameters),
        "quantization_level": inspection.quantization,
    }


def _count(number: int) -> str:
    """«268.10M», as Ollama writes it."""
    if number >= 10**9:
        return f"{number / 10**9:.1f}B"
    if number >= 10**6:
        return f"{number / 10**6:.2f}M"
    return f"{number / 1000:.0f}K" if number >= 1000 else str(number)


def _model_info(inspection: Inspection, *, verbose: bool) -> Entry:
    """The metadata; arrays are null as in Ollama's answer, and stay so where they are too long to keep."""
    rows: Entry = {"general.parameter_count": inspection.parameters}
    for name, value in inspection.metadata.items():
        if name in _HIDDEN:
            continue
        if isinstance(value, tuple):
            rows[name] = list(value) if verbose else None
        else:
            rows[name] = None if isinstance(value, ArrayLength) else value
    return dict(sorted(rows.items()))


def _time(moment_ns: int) -> str:
    whole = datetime.fromtimestamp(moment_ns // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{whole}.{moment_ns % 10**9:09d}Z"
