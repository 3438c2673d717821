"""``/api/generate``: on ``/v1/completions`` where the prompt goes to the model as it is, on ``/infill`` where
there is a suffix, else as one message of a chat."""

from __future__ import annotations

from typing import Any

from narthex.gateway.ask import Ask
from narthex.gateway.offer import Offer, Upstream
from narthex.gateway.translate import described
from narthex.gateway.translate.fields import bad, encode, not_mappable, read
from narthex.gateway.translate.ollama_on_llama import sampling
from narthex.gateway.translate.ollama_on_llama.answer import Answer
from narthex.gateway.translate.ollama_on_llama.chat import refuse_rendering, through_chat
from narthex.gateway.translate.ollama_on_llama.messages import one_message, template_words
from narthex.gateway.translate.ollama_on_llama.pieces import answer_piece, infill_piece


def generate(ask: Ask, offer: Offer, upstream: Upstream) -> Answer:
    """Raises Trouble 400."""
    refuse_rendering(ask)
    _refuse_former(ask)
    prompt = read(ask, "prompt", str, "a text") or ""
    system = read(ask, "system", str, "a text") or ""
    suffix = read(ask, "suffix", str, "a text") or ""
    images: list[str] | None = read(ask, "images", list[str], "a list of texts in base64")
    raw = read(ask, "raw", bool, "true or false") or False
    if raw and system:
        raise bad("A raw prompt has no «system».", "Write it into the prompt, or leave «raw» out.")
    if images and (raw or suffix):
        raise not_mappable(
            f"A picture can't go with «{'raw' if raw else 'suffix'}» on llama-server.",
            "Send it with /api/chat, or leave the other out.",
        )
    if suffix:
        if raw or system:
            raise bad("A «suffix» goes with a prompt alone.", "Leave «raw» and «system» out.")
        return _infill(ask, upstream, prompt, suffix)
    if raw or not (system or images or described.has_chat_template(offer)):
        return _completion(ask, upstream, prompt)
    return through_chat(
        ask, upstream, {"messages": one_message(prompt, system, images or ())}, form="response"
    )


def _completion(ask: Ask, upstream: Upstream, prompt: str) -> Answer:
    tops = sampling.asked_logprobs(ask)
    body = {"prompt": prompt, **_without_template(ask, upstream, "max_tokens")}
    if ask.stream:
        body["stream_options"] = {"include_usage": True}
    if tops is not None:
        body["logprobs"] = max(1, tops)
    return Answer(ask, "/v1/completions", encode(body), piece=answer_piece, form="response", tops=tops)


def _infill(ask: Ask, upstream: Upstream, before: str, behind: str) -> Answer:
    """In llama-server's own dialect, which is the only one that has it."""
    tops = sampling.asked_logprobs(ask)
    words = {"input_prefix": before, "input_suffix": behind, "prompt": ""}
    body = {**words, **_without_template(ask, upstream, "n_predict")}
    if tops is not None:
        body["n_probs"] = max(1, tops)
    return Answer(ask, "/infill", encode(body), piece=infill_piece, form="response", tops=tops)


def _without_template(ask: Ask, upstream: Upstream, limit: str) -> dict[str, Any]:
    if any(template_words(ask).values()):
        raise not_mappable(
            "«think» needs a chat template, and this prompt goes to the model without one.",
            "Leave «think» out, or ask with /api/chat.",
        )
    found: dict[str, Any] = {**sampling.sampling(ask), "stream": ask.stream}
    if upstream.model:
        found["model"] = upstream.model
    most = sampling.most_tokens(ask.options, chat=False)
    if most is not None:
        found[limit] = most
    if (schema := sampling.schema(ask)) is not None:
        found["json_schema"] = schema or {"type": "object"}
    return found


def _refuse_former(ask: Ask) -> None:
    if read(ask, "template", str, "a text"):
        raise not_mappable(
            "«template» is written in Ollama's language, which llama-server does not read.",
            "Leave it out: the file's own template is used; or send the finished prompt with «raw».",
        )
    if read(ask, "context", list[Any], "a list of tokens"):
        raise not_mappable(
            "«context» holds tokens of an earlier answer by Ollama, which llama-server can't go on from.",
            "Send the conversation with /api/chat.",
        )
