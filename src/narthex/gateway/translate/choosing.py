"""``translation_for``: whether a request has to change its dialect on the way to an engine."""

from __future__ import annotations

from narthex.gateway.ask import Ask
from narthex.gateway.offer import Offer, Upstream
from narthex.gateway.translate._base import Translation
from narthex.gateway.translate.ollama_on_llama import chat, embed, generate
from narthex.gateway.translate.openai_on_ollama.choosing import on_ollama


def translation_for(ask: Ask, offer: Offer, upstream: Upstream, *, keep_alive_s: float) -> Translation | None:
    """None where the engine speaks the client's dialect, and what travels with each request has a place in
    it. ``keep_alive_s`` is for Ollama; negative: for ever. Raises Trouble 400 for what can't be mapped."""
    if upstream.dialect == "llama-server" and ask.api == "ollama":
        return _on_llama(ask, offer, upstream)
    if upstream.dialect == "ollama" and ask.api == "openai" and offer.options:
        return on_ollama(ask, offer, upstream, keep_alive_s=keep_alive_s)
    return None


def _on_llama(ask: Ask, offer: Offer, upstream: Upstream) -> Translation:
    if ask.kind == "chat":
        return chat.chat(ask, upstream)
    if ask.kind == "embed":
        return embed.embed(ask, upstream)
    return generate.generate(ask, offer, upstream)
