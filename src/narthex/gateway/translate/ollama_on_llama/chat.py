"""``/api/chat`` on ``/v1/chat/completions``."""

from __future__ import annotations

from typing import Any

from narthex.gateway.ask import Ask
from narthex.gateway.offer import Upstream
from narthex.gateway.translate.fields import encode, not_mappable, read
from narthex.gateway.translate.ollama_on_llama import sampling
from narthex.gateway.translate.ollama_on_llama.answer import Answer, Form
from narthex.gateway.translate.ollama_on_llama.messages import messages, template_words
from narthex.gateway.translate.ollama_on_llama.pieces import answer_piece


def chat(ask: Ask, upstream: Upstream) -> Answer:
    """Raises Trouble 400."""
    refuse_rendering(ask)
    body: dict[str, Any] = {"messages": messages(ask)}
    if tools := read(ask, "tools", list[dict[str, Any]], "a list of tools"):
        body["tools"] = tools
    return through_chat(ask, upstream, body, form="message")


def through_chat(ask: Ask, upstream: Upstream, body: dict[str, Any], *, form: Form) -> Answer:
    """A body with messages, completed by what any request may have. Raises Trouble 400."""
    if upstream.model:
        body["model"] = upstream.model
    body |= sampling.sampling(ask)
    most = sampling.most_tokens(ask.options, chat=form == "message")
    if most is not None:
        body["max_tokens"] = most
    if ask.stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    if words := template_words(ask):
        body["chat_template_kwargs"] = words
    if (schema := sampling.schema(ask)) is not None:
        named = {"type": "json_schema", "json_schema": {"name": "format", "schema": schema}}
        body["response_format"] = named if schema else {"type": "json_object"}
    if (tops := sampling.asked_logprobs(ask)) is not None:
        body |= {"logprobs": True, "top_logprobs": max(1, tops)}
    return Answer(ask, "/v1/chat/completions", encode(body), piece=answer_piece, form=form, tops=tops)


def refuse_rendering(ask: Ask) -> None:
    """Ollama's way to see the prompt instead of an answer. Raises Trouble 400."""
    if read(ask, "_debug_render_only", bool, "true or false"):
        raise not_mappable(
            "«_debug_render_only» shows Ollama's own prompt, and this model runs on llama-server.",
            "Leave it out; llama-server's own /apply-template shows its prompt.",
        )
