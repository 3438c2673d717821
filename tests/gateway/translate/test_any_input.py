"""Any split of a stream gives the same, and any request is mapped or refused."""

from __future__ import annotations

import itertools
import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from narthex.gateway.asking import read_ask
from narthex.gateway.translate import error_words, translation_for
from narthex.gateway.trouble import Trouble

from .test_mapping import HELD, LLAMA, OLLAMA, SERVED, hello, on_llama, on_ollama

FEW = settings(max_examples=150, deadline=None)
CALL = {"index": 0, "id": "x", "function": {"name": "f", "arguments": '{"a":'}}
MORE = {"index": 0, "function": {"arguments": ' "ü"}'}}
EVENTS: list[Any] = [
    {"choices": [{"delta": {"role": "assistant", "content": None}}]},
    {"choices": [{"delta": {"reasoning_content": "Hm… 🤔"}}]},
    {"choices": [{"delta": {"content": "Grüße, 世界"}, "text": "Grüße"}]},
    {"choices": [{"delta": {"tool_calls": [CALL]}}]},
    {"choices": [{"delta": {"tool_calls": [MORE]}}]},
    {"choices": [{"delta": {}, "finish_reason": "tool_calls"}]},
    {"choices": [], "timings": {"prompt_n": 3, "prompt_ms": 1.5, "predicted_n": 2, "predicted_ms": 2.5}},
]
SSE = b"".join(b"data: " + json.dumps(event, ensure_ascii=False).encode() + b"\n\n" for event in EVENTS)
SSE = b": ping\r\n\r\n" + SSE + b"data: [DONE]\n\n"
LINES: list[Any] = [
    {"message": {"role": "assistant", "content": "", "thinking": "Hm… 🤔"}, "done": False},
    {"message": {"role": "assistant", "content": "Grüße, 世界"}, "response": "Grüße", "done": False},
    {"message": {"content": "", "tool_calls": [{"function": {"name": "f", "arguments": {"ü": 1}}}]}},
    {"message": {"content": ""}, "done": True, "done_reason": "stop", "eval_count": 3},
]
NDJSON = b"".join(json.dumps(line, ensure_ascii=False).encode() + b"\n" for line in LINES)
_OWN = re.compile(
    rb'"(created_at|id)":"[^"]*"|"(created|total_duration|load_duration)":\d+'
)  # moments and random numbers


def cuts(data: bytes) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(0, len(data)), max_size=12).map(sorted)


def said(translation: Any, data: bytes, places: list[int]) -> bytes:
    edges = [0, *places, len(data)]
    pieces = [data[begin:end] for begin, end in itertools.pairwise(edges)]
    told: bytes = b"".join([translation.feed(piece) for piece in pieces]) + translation.end()
    return _OWN.sub(b"", told)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/chat", hello()),
        ("/api/generate", {"prompt": "a"}),
        ("/api/generate", {"prompt": "a", "raw": True}),
    ],
)
@FEW
@given(places=cuts(SSE))
def test_any_split_of_a_llama_servers_stream_says_the_same(
    path: str, body: dict[str, Any], places: list[int]
) -> None:
    assert said(on_llama(path, **body), SSE, places) == said(on_llama(path, **body), SSE, [])


@pytest.mark.parametrize(
    ("path", "body"), [("/v1/chat/completions", hello()), ("/v1/completions", {"prompt": "a"})]
)
@FEW
@given(places=cuts(NDJSON))
def test_any_split_of_ollamas_stream_says_the_same(
    path: str, body: dict[str, Any], places: list[int]
) -> None:
    asked = {**body, "stream": True, "stream_options": {"include_usage": True}}
    assert said(on_ollama(path, **asked), NDJSON, places) == said(on_ollama(path, **asked), NDJSON, [])


@FEW
@given(data=st.binary(max_size=200), cut=st.integers(0, 200), event=st.booleans())
def test_any_answer_is_told_or_a_failure(data: bytes, cut: int, event: bool) -> None:
    given = b"data: " + data + b"\n\n" if event else data
    for translation in (
        on_llama("/api/chat", **hello()),
        on_llama("/api/generate", prompt="a", suffix="b"),
        on_ollama("/v1/chat/completions", **hello(), stream=True),
    ):
        said(translation, given, [min(cut, len(given))])
        with pytest.raises(Trouble):
            translation.whole(b"!" + data)
    assert isinstance(error_words(data), str)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(), max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
WORDS = {
    "/api/chat": "messages tools format think options logprobs top_logprobs _debug_render_only",
    "/api/generate": "prompt system suffix images raw template context format think options logprobs",
    "/api/embed": "input dimensions truncate options",
    "/api/embeddings": "prompt options",
    "/v1/chat/completions": "messages tools tool_choice response_format stop n seed max_tokens temperature "
    "reasoning_effort stream_options logit_bias modalities logprobs top_logprobs",
    "/v1/completions": "prompt suffix echo logprobs best_of stop stream_options",
    "/v1/embeddings": "input dimensions encoding_format",
    "/v1/responses": "input",
}
ROLES = st.sampled_from(["user", "assistant", "system", "tool"])
MESSAGE = st.fixed_dictionaries(
    {},
    optional={
        "role": ROLES | VALUES,
        "content": st.text(max_size=5) | VALUES,
        "images": VALUES | st.lists(st.text(max_size=30), max_size=2),
        "tool_calls": VALUES
        | st.lists(
            st.fixed_dictionaries({"function": st.fixed_dictionaries({"name": VALUES, "arguments": VALUES})}),
            max_size=2,
        ),
        "tool_call_id": VALUES,
        "tool_name": VALUES,
    },
)
OPTIONS = st.dictionaries(
    st.sampled_from(["temperature", "top_k", "seed", "stop", "num_predict", "mirostat"]), VALUES, max_size=3
)


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    path = draw(st.sampled_from(sorted(WORDS)))
    values = {"messages": st.lists(MESSAGE, max_size=3) | VALUES, "options": OPTIONS | VALUES}
    fields = {name: values.get(name, VALUES) for name in WORDS[path].split()}
    body = draw(st.fixed_dictionaries({}, optional=fields))
    return path, {**body, "model": "m", "stream": draw(st.booleans())}


@settings(max_examples=400, deadline=None)
@given(request=requests())
def test_any_request_is_mapped_or_refused(request: tuple[str, dict[str, Any]]) -> None:
    path, body = request
    data = json.dumps(body).encode()
    offer, upstream = (SERVED, LLAMA) if path.startswith("/api/") else (HELD, OLLAMA)
    refused: Trouble | None = None
    try:
        ask = read_ask(path, {}, data, request_id="1", client="", now=0.0, task_header="T")
        found = translation_for(ask, offer, upstream, keep_alive_s=300)
    except Trouble as trouble:
        refused = trouble
    if refused is None:
        assert found is not None
        assert isinstance(json.loads(found.body), dict)
    else:
        assert refused.status == 400
        assert refused.message.endswith(".")
        assert refused.remedy
