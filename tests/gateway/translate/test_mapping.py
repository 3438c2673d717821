"""What requests become, without an engine."""

from __future__ import annotations

import json
from typing import Any

import pytest

from narthex.gateway.offer import Offer, Upstream
from narthex.gateway.translate import Translation, translation_for
from narthex.gateway.trouble import Trouble

from .front import ask_of

LLAMA = Upstream(url="http://127.0.0.1:1", dialect="llama-server", model="")
OLLAMA = Upstream(url="http://127.0.0.1:1", dialect="ollama", model="gemma:latest")
SERVED = Offer(key="l", backend="llama-server", name="gemma", model="/nowhere.gguf", twin="")
HELD = Offer(key="o", backend="ollama", name="gemma", model="gemma", twin="", options={"num_ctx": 4096})
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII="
JPEG = "/9j/4AAQSkZJRgABAQAAAQABAAD/"
WAV = "UklGRiQAAABXQVZFZm10IBAAAAABAAEA"


def on_llama(path: str, offer: Offer = SERVED, **body: Any) -> Translation:
    found = translation_for(ask_of(path, **body), offer, LLAMA, keep_alive_s=300)
    assert found is not None
    return found


def on_ollama(path: str, keep_alive_s: float = 300, **body: Any) -> Translation:
    found = translation_for(ask_of(path, **body), HELD, OLLAMA, keep_alive_s=keep_alive_s)
    assert found is not None
    return found


def sent(translation: Translation) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(translation.body)
    return found


def hello(**more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "Hello.", **more}]}


# Ollama's API on a llama-server


def test_options_of_a_load_stay_behind_and_those_of_a_request_go_on() -> None:
    options = {
        "num_ctx": 99,
        "num_gpu": 1,
        "temperature": 0.5,
        "top_k": 40.7,
        "num_keep": 4,
        "seed": -1,
        "stop": "a",
        "num_predict": 7,
        "nothing_known": 1,
    }
    body = sent(on_llama("/api/chat", **hello(), stream=False, options=options))
    assert body == {
        "messages": [{"role": "user", "content": "Hello."}],
        "temperature": 0.5,
        "top_k": 40,
        "n_keep": 4,
        "stop": ["a"],
        "max_tokens": 7,
    }


@pytest.mark.parametrize("endless", [-1, -2])
def test_no_limit_is_no_field(endless: int) -> None:
    assert "max_tokens" not in sent(on_llama("/api/chat", **hello(), options={"num_predict": endless}))
    raw = on_llama("/api/generate", prompt="a", raw=True, options={"num_predict": endless})
    assert "max_tokens" not in sent(raw)


def test_a_stream_asks_for_its_figures() -> None:
    assert sent(on_llama("/api/chat", **hello()))["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize(
    ("think", "words"),
    [
        (True, {"enable_thinking": True}),
        (False, {"enable_thinking": False}),
        ("high", {"enable_thinking": True, "reasoning_effort": "high"}),
    ],
)
def test_thinking_is_a_word_for_the_template(think: Any, words: dict[str, Any]) -> None:
    assert sent(on_llama("/api/chat", **hello(), think=think))["chat_template_kwargs"] == words


def test_a_format_is_a_response_format() -> None:
    assert sent(on_llama("/api/chat", **hello(), format="json"))["response_format"] == {"type": "json_object"}
    form = {"type": "object"}
    body = sent(on_llama("/api/chat", **hello(), format=form))
    assert body["response_format"]["json_schema"]["schema"] == form
    assert "response_format" not in sent(on_llama("/api/chat", **hello(), format=""))


def test_pictures_and_sounds_say_what_they_are() -> None:
    parts = sent(on_llama("/api/chat", **hello(images=[PNG, JPEG, WAV])))["messages"][0]["content"]
    assert parts[0] == {"type": "text", "text": "Hello."}
    assert parts[1]["image_url"]["url"] == f"data:image/png;base64,{PNG}"
    assert parts[2]["image_url"]["url"].startswith("data:image/jpeg;base64,")
    assert parts[3] == {"type": "input_audio", "input_audio": {"data": WAV, "format": "wav"}}


def test_each_answer_of_a_tool_gets_the_id_of_its_call() -> None:
    calls = [{"function": {"name": name, "arguments": {"n": 1}}} for name in ("a", "b")]
    messages = [
        {"role": "assistant", "content": "", "thinking": "Hm.", "tool_calls": calls},
        {"role": "tool", "tool_name": "b", "content": "2"},
        {"role": "tool", "content": "1"},
    ]
    said, second, first = sent(on_llama("/api/chat", messages=messages))["messages"]
    ids = [call["id"] for call in said["tool_calls"]]
    assert said["reasoning_content"] == "Hm."
    assert said["tool_calls"][0]["function"] == {"name": "a", "arguments": '{"n":1}'}
    assert [second["tool_call_id"], first["tool_call_id"]] == [ids[1], ids[0]]
    assert (second["name"], first["name"]) == ("b", "a")


def test_a_suffix_is_an_infill() -> None:
    found = on_llama("/api/generate", prompt="a", suffix="b", options={"num_predict": 3})
    assert found.path == "/infill"
    assert sent(found)["input_prefix"] == "a"
    assert sent(found)["n_predict"] == 3


@pytest.mark.parametrize(
    ("path", "body", "named"),
    [
        ("/api/generate", {"prompt": "a", "template": "{{ .Prompt }}"}, "template"),
        ("/api/generate", {"prompt": "a", "context": [1, 2]}, "context"),
        ("/api/generate", {"prompt": "a", "raw": True, "images": [PNG]}, "raw"),
        ("/api/generate", {"prompt": "a", "suffix": "b", "images": [PNG]}, "suffix"),
        ("/api/generate", {"prompt": "a", "raw": True, "think": True}, "think"),
        ("/api/chat", {**hello(), "_debug_render_only": True}, "_debug_render_only"),
        ("/api/chat", hello(images=["aGVsbG8="]), "images"),
    ],
)
def test_what_llama_server_has_no_word_for_is_refused(path: str, body: dict[str, Any], named: str) -> None:
    with pytest.raises(Trouble, match=named) as caught:
        on_llama(path, **body)
    assert (caught.value.status, caught.value.cause) == (400, "not_mappable")
    assert caught.value.remedy


@pytest.mark.parametrize(
    "body",
    [
        {**hello(), "options": {"top_k": "many"}},
        {**hello(), "options": {"temperature": True}},
        {**hello(), "options": {"top_k": 1e300}},
        {**hello(), "options": {"stop": [1]}},
        {**hello(), "format": "yaml"},
        {**hello(), "think": "much"},
        {**hello(), "logprobs": True, "top_logprobs": 21},
        {**hello(images=["not base64!"])},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]},
    ],
)
def test_what_ollama_would_refuse_is_refused(body: dict[str, Any]) -> None:
    with pytest.raises(Trouble) as caught:
        on_llama("/api/chat", **body)
    assert (caught.value.status, caught.value.cause) == (400, "bad_request")


def test_a_failure_in_the_stream_is_told_once_and_ends_it() -> None:
    found = on_llama("/api/chat", **hello())
    said = found.feed(b'data: {"choices":[{"delta":{"content":"a"}}]}\n\ndata: {"error":{"message":"No."}}\n')
    assert json.loads(said.splitlines()[1]) == {"error": "No."}
    assert found.failure == "No."
    assert found.feed(b'data: {"choices":[{"delta":{"content":"b"}}]}\n\n') + found.end() == b""


def test_a_stream_that_only_stops_is_no_answer() -> None:
    found = on_llama("/api/chat", **hello())
    found.feed(b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n')
    assert "error" in json.loads(found.end())


def test_a_call_that_the_limit_cut_off_is_told_as_text() -> None:
    call = {"index": 0, "id": "x", "function": {"name": "f", "arguments": '{"a'}}
    events = [
        {"choices": [{"delta": {"tool_calls": [call]}}]},
        {"choices": [{"delta": {}, "finish_reason": "length"}]},
    ]
    found = on_llama("/api/chat", **hello())
    data = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)
    rows = [json.loads(row) for row in (found.feed(data + b"data: [DONE]\n\n")).splitlines()]
    assert rows[0]["message"]["content"] == '{"name": "f", "arguments": {"a'
    assert (rows[1]["done"], rows[1]["done_reason"]) == (True, "length")


def test_an_answer_that_is_none_is_the_engines_fault() -> None:
    for data in (b"", b"<html>", b"[]", b'{"choices":[]}', b'{"error":"No."}', b"\xff"):
        with pytest.raises(Trouble) as caught:
            on_llama("/api/chat", **hello(), stream=False).whole(data)
        assert caught.value.status == 502


# OpenAI's API on Ollama's own


def test_the_load_travels_with_each_request() -> None:
    body = sent(on_ollama("/v1/chat/completions", **hello(), max_tokens=5, stop="x", presence_penalty=1))
    assert body["model"] == "gemma:latest"
    assert body["keep_alive"] == 300
    assert body["stream"] is False
    assert body["options"] == {
        "temperature": 1.0,
        "top_p": 1.0,
        "presence_penalty": 1.0,
        "num_predict": 5,
        "stop": ["x"],
        "num_ctx": 4096,
    }
    assert sent(on_ollama("/v1/embeddings", keep_alive_s=-1, input="a"))["keep_alive"] == -1
    assert sent(on_ollama("/v1/embeddings", input="a"))["options"] == {"num_ctx": 4096}


def test_parts_become_one_text_and_bare_pictures() -> None:
    parts = [
        {"type": "text", "text": "What is"},
        {"type": "text", "text": "this?"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
    ]
    messages = [{"role": "developer", "content": "Be short."}, {"role": "user", "content": parts}]
    assert sent(on_ollama("/v1/chat/completions", messages=messages))["messages"] == [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "What is\nthis?", "images": [PNG]},
    ]


def test_calls_have_objects_and_their_answers_names() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    messages = [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "2"},
    ]
    said, answered = sent(on_ollama("/v1/chat/completions", messages=messages))["messages"]
    assert said["tool_calls"] == [{"id": "c1", "function": {"name": "f", "arguments": {"a": 1}}}]
    assert (answered["tool_call_id"], answered["tool_name"]) == ("c1", "f")


def test_of_a_named_function_nothing_else_is_offered() -> None:
    tools = [{"type": "function", "function": {"name": name}} for name in ("f", "g")]
    choice = {"type": "function", "function": {"name": "g"}}
    path = "/v1/chat/completions"
    assert sent(on_ollama(path, **hello(), tools=tools, tool_choice=choice))["tools"] == [tools[1]]
    assert "tools" not in sent(on_ollama(path, **hello(), tools=tools, tool_choice="none"))
    assert sent(on_ollama(path, **hello(), tools=tools, tool_choice="required"))["tools"] == tools


def test_efforts_and_formats_have_ollamas_names() -> None:
    path = "/v1/chat/completions"
    assert sent(on_ollama(path, **hello(), reasoning_effort="none"))["think"] is False
    assert sent(on_ollama(path, **hello(), reasoning_effort="high"))["think"] == "high"
    json_only = {"type": "json_object"}
    assert sent(on_ollama(path, **hello(), response_format=json_only))["format"] == "json"
    named = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
    assert sent(on_ollama(path, **hello(), response_format=named))["format"] == {"type": "object"}


def test_calls_of_ollama_become_calls_with_ids_and_a_reason() -> None:
    call = {"function": {"name": "f", "arguments": {"a": 1}}}
    lines = [
        {"message": {"role": "assistant", "content": "", "tool_calls": [call, call]}, "done": False},
        {"message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "stop"},
    ]
    found = on_ollama("/v1/chat/completions", **hello(), stream=True)
    said = found.feed(b"".join(json.dumps(line).encode() + b"\n" for line in lines))
    events = [json.loads(row[6:]) for row in said.split(b"\n\n") if row.startswith(b"data: {")]
    calls = events[0]["choices"][0]["delta"]["tool_calls"]
    assert [call["index"] for call in calls] == [0, 1]
    assert len({call["id"] for call in calls}) == 2
    assert calls[0]["function"] == {"name": "f", "arguments": '{"a":1}'}
    assert events[-1]["choices"][0]["finish_reason"] == "tool_calls"
    assert said.endswith(b"data: [DONE]\n\n")


def test_thinking_and_probabilities_find_their_places() -> None:
    token = {"token": "a", "logprob": -1.0, "bytes": [97]}
    line = {
        "message": {"role": "assistant", "content": "a", "thinking": "Hm."},
        "done": True,
        "done_reason": "stop",
        "logprobs": [{**token, "top_logprobs": [token]}],
    }
    said = json.loads(
        on_ollama("/v1/chat/completions", **hello(), logprobs=True).whole(json.dumps(line).encode())
    )
    choice = said["choices"][0]
    assert choice["message"]["reasoning"] == "Hm."
    assert choice["logprobs"]["content"][0]["top_logprobs"] == [token]


def test_an_error_line_of_ollama_becomes_an_error_event() -> None:
    found = on_ollama("/v1/chat/completions", **hello(), stream=True)
    said = found.feed(b'{"error":"an error was encountered"}\n')
    assert json.loads(said[6:])["error"]["message"] == "an error was encountered"
    assert found.end() == b""
    assert found.failure


def test_an_answer_that_ollama_breaks_off_silently_is_cut_off() -> None:
    found = on_ollama("/v1/completions", prompt="Count:", stream=True)
    told = found.feed(b'{"response":"0","done":false}\n') + found.end()
    assert b'"finish_reason":"length"' in told
    whole = on_ollama("/v1/completions", prompt="Count:").whole(b'{"response":"0","done":false}')
    assert json.loads(whole)["choices"][0]["finish_reason"] == "length"


def test_embeddings_come_as_numbers_or_in_base64() -> None:
    data = b'{"embeddings":[[0.5,-1.0]],"prompt_eval_count":2}'
    plain = json.loads(on_ollama("/v1/embeddings", input="a").whole(data))
    assert plain["data"] == [{"object": "embedding", "embedding": [0.5, -1.0], "index": 0}]
    assert plain["usage"] == {"prompt_tokens": 2, "total_tokens": 2}
    packed = on_ollama("/v1/embeddings", input="a", encoding_format="base64").whole(data)
    assert json.loads(packed)["data"][0]["embedding"] == "AAAAPwAAgL8="


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": ["a", "b"]}),
        ("/v1/completions", {"prompt": [1, 2]}),
        ("/v1/completions", {"prompt": "a", "echo": True}),
        ("/v1/completions", {"prompt": "a", "best_of": 2}),
        ("/v1/embeddings", {"input": [[1, 2]]}),
        ("/v1/responses", {"input": "a"}),
        (
            "/v1/chat/completions",
            hello(content=[{"type": "image_url", "image_url": {"url": "http://10.0.0.1/a.png"}}]),
        ),
        ("/v1/chat/completions", hello(content=[{"type": "input_audio", "input_audio": {}}])),
    ],
)
def test_what_ollama_has_no_word_for_is_refused(path: str, body: dict[str, Any]) -> None:
    with pytest.raises(Trouble) as caught:
        on_ollama(path, **body)
    assert (caught.value.status, caught.value.cause) == (400, "not_mappable")
    assert caught.value.remedy


# nothing to translate


def test_one_dialect_on_both_sides_is_not_touched() -> None:
    chat = ask_of("/v1/chat/completions", **hello())
    plain = Offer(key="p", backend="ollama", name="gemma", model="gemma", twin="")
    assert translation_for(chat, SERVED, LLAMA, keep_alive_s=1) is None
    assert translation_for(chat, plain, OLLAMA, keep_alive_s=1) is None
    assert translation_for(ask_of("/api/chat", **hello()), HELD, OLLAMA, keep_alive_s=1) is None
