"""``/api/chat`` on a real llama-server, asked by Ollama's own client."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

import ollama
import pytest

from .recorded import exchange, lines_of, same_shape

pytestmark = pytest.mark.engine

SURE = {"temperature": 0, "seed": 1, "num_predict": 8}
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}


def post(url: str, path: str, **body: Any) -> bytes:
    """The bytes of an answer."""
    data = json.dumps({"model": "gemma", **body}).encode()
    request = urllib.request.Request(url + path, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        found: bytes = answer.read()
        return found


def lines(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in data.splitlines()]


def user(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


def calling(*cities: str) -> list[dict[str, Any]]:
    """A conversation in which each question was answered by a call, and one more question."""
    rows: list[dict[str, Any]] = []
    for city in cities:
        call = {"function": {"name": "weather", "arguments": {"city": city}}}
        rows += user(f"weather in {city}?")
        rows.append({"role": "assistant", "content": "", "tool_calls": [call]})
    return rows + user("weather in Paris?")


def test_an_answer_has_the_shape_of_ollamas(llama_url: str, shared: Path) -> None:
    theirs = exchange(shared, "036-chat-no-stream")
    body = {**theirs["request_body"], "model": "gemma", "think": False}
    ours = json.loads(post(llama_url, "/api/chat", **body))
    assert same_shape(ours, theirs["body"])
    assert ours["model"] == "gemma"
    assert ours["eval_count"] == 16
    assert 0 < ours["prompt_eval_duration"] + ours["eval_duration"] <= ours["total_duration"]


def test_a_stream_has_the_shape_of_ollamas(llama_url: str, shared: Path) -> None:
    theirs = exchange(shared, "037-chat-stream")
    body = {**theirs["request_body"], "model": "gemma", "think": False}
    ours = lines(post(llama_url, "/api/chat", **body))
    rows = lines_of(theirs)
    assert same_shape(ours[0], rows[0])
    assert same_shape(ours[-1], rows[-1])
    assert all(same_shape(row, rows[0]) for row in ours[:-1])


def test_a_stream_says_what_the_whole_answer_says(llama_url: str) -> None:
    client = ollama.Client(llama_url)
    asked: dict[str, Any] = {
        "model": "gemma",
        "messages": user("Name three colours."),
        "options": SURE,
        "think": False,
    }
    whole = client.chat(**asked)
    pieces = list(client.chat(**asked, stream=True))
    assert "".join(piece.message.content or "" for piece in pieces) == whole.message.content
    assert pieces[-1].done
    assert pieces[-1].done_reason == whole.done_reason == "length"
    assert pieces[-1].eval_count == whole.eval_count == 8


def test_what_a_model_thinks_is_told_apart(llama_url: str) -> None:
    client = ollama.Client(llama_url)
    asked: dict[str, Any] = {"model": "gemma", "messages": user("Say hi."), "options": SURE, "think": True}
    whole = client.chat(**asked)
    assert whole.message.thinking
    assert not whole.message.content
    pieces = list(client.chat(**asked, stream=True))
    assert "".join(piece.message.thinking or "" for piece in pieces) == whole.message.thinking


def test_a_model_that_shall_not_think_does_not(llama_url: str) -> None:
    answer = ollama.Client(llama_url).chat("gemma", user("Say hi."), options=SURE, think=False)
    assert answer.message.content
    assert not answer.message.thinking


def test_tools_are_called_with_objects_for_arguments(llama_url: str) -> None:
    client = ollama.Client(llama_url)
    asked: dict[str, Any] = {
        "model": "gemma",
        "messages": calling("Rome", "Oslo", "Bern", "Kyiv"),
        "tools": [WEATHER],
        "think": False,
        "options": {**SURE, "num_predict": 32},
    }
    whole = client.chat(**asked)
    assert whole.message.tool_calls
    assert whole.message.tool_calls[0].function.name == "weather"
    assert whole.message.tool_calls[0].function.arguments == {"city": "Paris"}
    told = [piece for piece in client.chat(**asked, stream=True) if piece.message.tool_calls]
    assert len(told) == 1
    assert not told[0].done
    assert [call.function for call in told[0].message.tool_calls or ()] == [
        call.function for call in whole.message.tool_calls
    ]


def test_the_answer_of_a_tool_is_taken(llama_url: str) -> None:
    messages = [
        *calling("Rome")[:2],
        {"role": "tool", "tool_name": "weather", "content": "sunny"},
        *user("And tomorrow?"),
    ]
    answer = ollama.Client(llama_url).chat("gemma", messages, tools=[WEATHER], options=SURE)
    assert answer.done


def test_probabilities_have_ollamas_shape(llama_url: str) -> None:
    asked: dict[str, Any] = {"messages": user("Hi"), "options": SURE, "logprobs": True, "think": False}
    first = lines(post(llama_url, "/api/chat", **asked, top_logprobs=2))[0]
    assert list(first["logprobs"][0]) == ["token", "logprob", "bytes", "top_logprobs"]
    assert len(first["logprobs"][0]["top_logprobs"]) == 2
    plain = json.loads(post(llama_url, "/api/chat", **asked, stream=False))
    assert list(plain["logprobs"][0]) == ["token", "logprob", "bytes"]
    assert len(plain["logprobs"]) == 8


def test_no_tokens_at_all_are_one_as_with_ollama(llama_url: str, shared: Path) -> None:
    theirs = exchange(shared, "041-chat-num-predict-0")
    body = {**theirs["request_body"], "model": "gemma", "think": False}
    ours = json.loads(post(llama_url, "/api/chat", **body))
    assert ours["eval_count"] == theirs["body"]["eval_count"] == 1


def test_a_picture_without_a_projector_gets_the_engines_words(llama_url: str) -> None:
    picture = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII="
    with pytest.raises(ollama.ResponseError, match="image input is not supported"):
        ollama.Client(llama_url).chat(
            "gemma", [{"role": "user", "content": "What is it?", "images": [picture]}], options=SURE
        )


def test_a_prompt_too_long_gets_the_engines_words(llama_url: str) -> None:
    with pytest.raises(ollama.ResponseError, match="exceeds the available context size"):
        ollama.Client(llama_url).chat("gemma", user("one two " * 3000), options=SURE)
