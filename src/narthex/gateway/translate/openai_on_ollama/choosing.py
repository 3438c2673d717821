"""Which of Ollama's own routes a request of OpenAI's API takes."""

from __future__ import annotations

from typing import Any

from narthex.gateway.ask import Ask
from narthex.gateway.offer import Offer, Upstream
from narthex.gateway.translate._base import Translation
from narthex.gateway.translate.fields import encode, not_mappable
from narthex.gateway.translate.openai_on_ollama.answer import Answer
from narthex.gateway.translate.openai_on_ollama.chat import chat_fields, wants_usage
from narthex.gateway.translate.openai_on_ollama.completions import completion_fields
from narthex.gateway.translate.openai_on_ollama.embeddings import Embeddings, embedding_fields
from narthex.gateway.translate.openai_on_ollama.options import options_of


def on_ollama(ask: Ask, offer: Offer, upstream: Upstream, *, keep_alive_s: float) -> Translation:
    """On ``/api``, with the options of the offer's load. Raises Trouble 400."""
    if ask.kind == "responses":
        raise not_mappable(
            f"/v1/responses can't carry the settings of «{offer.name}» to Ollama.",
            "Make them a model of its own with `narthex apply`, or ask with /v1/chat/completions.",
        )
    seconds = int(keep_alive_s) if keep_alive_s == int(keep_alive_s) else keep_alive_s
    body: dict[str, Any] = {
        "model": upstream.model or offer.model,
        "keep_alive": -1 if keep_alive_s < 0 else seconds,
    }
    if ask.kind == "embed":
        fields, form = embedding_fields(ask)
        return Embeddings(ask, encode({**body, **fields, "options": offer.options}), form)
    chat = ask.kind == "chat"
    body |= chat_fields(ask) if chat else completion_fields(ask)
    body |= {"stream": ask.stream, "options": {**options_of(ask), **offer.options}}
    if offer.refuses_long:
        body["truncate"] = False
    path = "/api/chat" if chat else "/api/generate"
    return Answer(ask, path, encode(body), chat=chat, usage=wants_usage(ask))
