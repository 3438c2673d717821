"""Errors that an engine's own words name exactly: no log has to be read for them.

The words are an answer's body or its text. Ollama hands on what its llama-server said as a string inside its
own error, so quotes may be escaped (Ollama 0.33, llama.cpp b11434).
"""

from __future__ import annotations

import re

from narthex.gateway.offer import Offer
from narthex.gateway.trouble import Trouble

_PROMPT_TOKENS = re.compile(r'n_prompt_tokens\\*"?\s*:\s*(\d+)')
_SLOT_TOKENS = re.compile(r'n_ctx\\*"?\s*:\s*(\d+)')
_BOTH = re.compile(r"\((\d+) tokens\) exceeds the available context size \((\d+) tokens\)")
_TOO_LONG = re.compile(
    r"exceed_context_size_error|exceeds the available context size"
    r"|prompt is longer than the context length"
    r"|input (?:length )?exceeds (?:the )?(?:maximum )?context length|larger than the max context size"
)
_BATCH = re.compile(r"input \((\d+) tokens\) is too large to process.*?batch size: (\d+)")
_NO_MODEL = re.compile(r"model \\?['\"](.*?)\\?['\"] not found|invalid model name|pull model manifest")
_FULL = re.compile(r"maximum pending requests exceeded|server busy, please try again")
_CANNOT = re.compile(r'\\?"?([^"\\]*)\\?"? does not support (\w+)')
_CANNOT_LLAMA = re.compile(  # llama-server says it with 500 and 501
    r"(?P<one>Infill|image input|audio input|[Ee]mbedding\w*) is not supported"
    r"|does not support (?P<two>embedding\w*|infill)"
)
_STATUS_ABSENT, _STATUS_BUSY = 404, 503
_QUEUE_AGAIN_S = 5.0


def known_error(words: str, status: int | None, *, model: str, offer: Offer | None) -> Trouble | None:
    """The trouble that these words name; None where they name none of those that are known exactly."""
    if _TOO_LONG.search(words):
        return _too_long(words, model, offer)
    if found := _BATCH.search(words):
        return _larger_than_batch(int(found[1]), int(found[2]), model)
    if _FULL.search(words) and status in (None, _STATUS_BUSY):
        return Trouble(
            _STATUS_BUSY,
            "queue_full",
            f"Too many requests wait at the engine of «{model}»: it takes no more.",
            remedy="Ask again in a moment; OLLAMA_MAX_QUEUE sets how many may wait (512).",
            retry_after_s=_QUEUE_AGAIN_S,
            evidence=(words[:500],),
        )
    if status in (None, _STATUS_ABSENT) and (found := _NO_MODEL.search(words)):
        return absent_model(found[1] or model, words)
    return _incapable(words, status, model) if status is not None else None


def _incapable(words: str, status: int, model: str) -> Trouble | None:
    """A model or an engine that can't do what is asked; None where the words are no such thing."""
    if 400 <= status < 500 and (found := _CANNOT.search(words)):
        what = found[2]
    elif found := _CANNOT_LLAMA.search(words):
        what = (found["one"] or found["two"]).lower()
    else:
        return None
    return Trouble(
        400,
        "capability_missing",
        f"«{model}» can't do this: it does not support {what}.",
        remedy=f"Ask a model that does; POST /api/show tells what «{model}» can.",
        evidence=(words[:500],),
    )


def absent_model(name: str, words: str = "") -> Trouble:
    """There is no such model, or its file is gone."""
    way = f"Fetch it: ollama pull {name}"
    return Trouble(
        _STATUS_ABSENT,
        "model_not_found",
        f"There is no model «{name}» here.",
        remedy=f"{way}, or take one of those that `narthex models` lists.",
        evidence=(words[:500],) if words else (),
    )


def _too_long(words: str, model: str, offer: Offer | None) -> Trouble:
    both = _BOTH.search(words)
    asked = _number(_PROMPT_TOKENS, words) or (int(both[1]) if both else None)
    held = _number(_SLOT_TOKENS, words) or (int(both[2]) if both else None)
    held = held or (offer.num_ctx if offer is not None else None)
    prompt = f"The prompt has {asked} tokens" if asked else "The prompt is too long"
    context = f"«{model}» holds {held}" if held else f"the context of «{model}»"
    joint = "and" if asked and held else "for" if not held else ":"
    message = f"{prompt} {joint} {context}." if joint != ":" else f"{prompt}: {context} tokens."
    figures = {"n_prompt_tokens": asked, "n_ctx": held}
    return Trouble(
        400,
        "context_too_large",
        message,
        remedy=f"Shorten it, or take a profile with more context: narthex tune {model}.",
        figures={name: value for name, value in figures.items() if value is not None},
        evidence=(words[:500],),
    )


def _larger_than_batch(asked: int, batch: int, model: str) -> Trouble:
    return Trouble(
        400,
        "embedding_failure",
        f"The text has {asked} tokens and «{model}» takes {batch} at once: its batch is that large.",
        remedy=f"Cut the text into smaller pieces, or load the model with a batch of {asked} or more.",
        figures={"n_prompt_tokens": asked, "n_batch": batch},
    )


def _number(pattern: re.Pattern[str], words: str) -> int | None:
    found = pattern.search(words)
    return int(found[1]) if found else None
