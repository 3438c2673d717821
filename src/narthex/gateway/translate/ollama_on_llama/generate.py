"""``/api/generate``: on ``/completion`` where the prompt goes to the model as it is, on ``/infill`` between a
beginning and an end, else as one message of a chat."""

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
from narthex.gateway.translate.ollama_on_llama.pieces import completion_piece


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
        return _plain(
            ask, upstream, "/infill", {"input_prefix": prompt, "input_suffix": suffix, "prompt": ""}
        )
    if raw or not (system or images or described.has_chat_template(offer)):
        return _plain(ask, upstream, "/completion", {"prompt": prompt})
    return through_chat(
        ask, upstream, {"messages": one_message(prompt, system, images or ())}, form="response"
    )


def _plain(ask: Ask, upstream: Upstream, path: str, body: dict[str, Any]) -> Answer:
    if any(template_words(ask).values()):
        raise not_mappable(
            "«think» needs a chat template, and this prompt goes to the model without one.",
            "Leave «think» out, or ask with /api/chat.",
        )
    if upstream.model:
        body["model"] = upstream.model
    body |= {**sampling.sampling(ask), "stream": ask.stream}
    most = sampling.most_tokens(ask.options, chat=False)
    if most is not None:
        body["n_predict"] = most
    if (schema := sampling.schema(ask)) is not None:
        body["json_schema"] = schema or {"type": "object"}
    if (tops := sampling.asked_logprobs(ask)) is not None:
        body["n_probs"] = max(1, tops)
    return Answer(ask, path, encode(body), piece=completion_piece, form="response", tops=tops)


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
