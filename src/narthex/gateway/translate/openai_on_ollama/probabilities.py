"""Probabilities of tokens in the two shapes that OpenAI's API has for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from narthex.gateway.translate.openai_on_ollama.said import Token


def of_chat(tokens: Sequence[Token]) -> dict[str, Any]:
    """``choices[].logprobs`` of ``/v1/chat/completions``."""
    rows = [
        {**_row(token), "top_logprobs": [_row(top) for top in token.top_logprobs or ()]} for token in tokens
    ]
    return {"content": rows}


def of_completion(tokens: Sequence[Token], begin: int) -> dict[str, Any]:
    """``choices[].logprobs`` of ``/v1/completions``. ``begin``: letters of the answer before these tokens."""
    offsets = []
    for token in tokens:
        offsets.append(begin)
        begin += len(token.token)
    return {
        "tokens": [token.token for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [{top.token: top.logprob for top in token.top_logprobs or ()} for token in tokens],
        "text_offset": offsets,
    }


def _row(token: Token) -> dict[str, Any]:
    return {"token": token.token, "logprob": token.logprob, "bytes": token.bytes}
