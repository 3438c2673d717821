"""What a request becomes on its way to the engine, and what of it never changes."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from narthex.gateway.ask import Ask, Rank
from narthex.gateway.asking import PATHS, STATE_OPTIONS, edited, read_ask
from narthex.gateway.offer import Offer, Upstream
from narthex.gateway.routing.wishes import asked_ctx
from narthex.gateway.trouble import Trouble

TASK = "X-Narthex-Task"
OFFER = Offer(
    key="ollama:big:8k",
    backend="ollama",
    name="big",
    model="big:latest",
    twin="big",
    options={"num_ctx": 8192, "num_gpu": 19},
    refuses_long=True,
)
UPSTREAM = Upstream(url="http://127.0.0.1:11434", dialect="ollama", model="big:latest")
LLAMA = Upstream(url="http://127.0.0.1:5000", dialect="llama-server", model="")


def ask(body: bytes | dict[str, Any], path: str = "/api/chat", **headers: str) -> Ask:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    return read_ask(path, named, data, request_id="1", client="", now=0.0, task_header=TASK)


def sent(body: dict[str, Any], path: str = "/api/chat", keep_alive_s: float = 1800.0) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(edited(ask(body, path), OFFER, UPSTREAM, keep_alive_s=keep_alive_s))
    return found


def refused(body: bytes | dict[str, Any], path: str = "/api/chat") -> str:
    with pytest.raises(Trouble) as caught:
        ask(body, path)
    assert caught.value.status == 400
    assert caught.value.remedy
    return caught.value.message


def test_ollama_streams_unless_told_otherwise_and_openai_does_not() -> None:
    assert ask({"model": "a"}).stream
    assert ask({"model": "a"}, "/api/generate").stream
    assert not ask({"model": "a", "stream": False}).stream
    assert not ask({"model": "a"}, "/v1/chat/completions").stream
    assert ask({"model": "a", "stream": True}, "/v1/chat/completions").stream
    assert not ask({"model": "a", "input": "b"}, "/api/embed").stream


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "no body"),
        (b"  \n", "no body"),
        (b"[1]", "no JSON object"),
        (b'{"model":"a"', "no JSON object"),
        (b"\xef\xbb\xbf{}", "no JSON object"),
        (b'{"model":"a"} {}', "no JSON object"),
        (b'{"model":"a","x":' + b"[" * 60_000 + b"]" * 60_000 + b"}", "nested too deep"),
        (b"{}", "names no model"),
        (b'{"model":null}', "names no model"),
        (b'{"model":"  "}', "names no model"),
        (b'{"model":7}', "«model» must be a text"),
        (b'{"model":"\xff"}', "«model» must be a text"),
        (b'{"model":"a","stream":"yes"}', "«stream» must be true or false"),
        (b'{"model":"a","options":[]}', "«options» must be an object"),
        (b'{"model":"a","model":"b"}', "«model» stands twice"),
        (b'{"model":"a", "x" : 1, "x" : 1 }', "«x» stands twice"),
        (b'{"model":"a","mo\\u0064el":"b"}', "«model» stands twice"),
        (b'{"model":"a","Model":"b"}', "«model» stands twice"),
        ('{"\u212aeep_alive":-1,"keep_alive":5,"model":"a"}'.encode(), "«keep_alive» stands twice"),
    ],
)
def test_a_body_that_makes_no_sense_is_refused_in_plain_words(body: bytes, words: str) -> None:
    assert words in refused(body)


def test_a_path_that_asks_no_model_is_not_found() -> None:
    with pytest.raises(Trouble) as caught:
        ask({"model": "a"}, "/api/tags")
    assert caught.value.status == 404


def test_names_with_escapes_and_odd_spacing_are_read() -> None:
    found = ask(b' { "mod\\u0065l" :\n"a" ,\t"x":[1 , 2 ]\r} ')
    assert found.model == "a"
    assert bytes(found.fields["x"]) == b"[1 , 2 ]"


def test_a_name_in_other_letters_is_the_one_that_ollama_takes_it_for() -> None:
    body = ask({"MODEL": "a", "Options": {"num_ctx": 9}, "KEEP_ALIVE": -1, "X": 1})
    data = json.loads(edited(body, OFFER, UPSTREAM, keep_alive_s=60))
    assert set(data) == {"model", "options", "keep_alive", "X", "truncate"}
    assert data["options"] == OFFER.options
    assert data["keep_alive"] == 60


def test_no_prompt_and_no_messages_ask_for_a_load_only() -> None:
    assert ask({"model": "a"}).empty
    assert ask(b'{"model":"a","messages": [ ]}').empty
    assert ask({"model": "a", "prompt": "", "keep_alive": 0}, "/api/generate").empty
    assert not ask({"model": "a", "messages": [{"role": "user", "content": "x"}]}).empty
    assert not ask({"model": "a", "prompt": "x"}, "/api/generate").empty
    assert not ask({"model": "a", "input": ""}, "/api/embed").empty
    assert not ask({"model": "a", "messages": []}, "/v1/chat/completions").empty


# who goes first


def task(**more: Any) -> dict[str, Any]:
    words = {"role": "user", "content": "### Task:\nGenerate a title."}
    return {"model": "a", "stream": False, "messages": [words], **more}


def test_openwebuis_header_tells_a_background_call_from_a_persons_own() -> None:
    chat = {"model": "a", "messages": []}
    assert ask(chat, X_Narthex_Task="title_generation").rank is Rank.BACKGROUND
    assert ask(chat, X_Narthex_Task="title_generation").task == "title_generation"
    assert ask(task(), X_Narthex_Task="").rank is Rank.INTERACTIVE


def test_a_call_that_a_persons_chat_waits_for_is_no_background() -> None:
    found = ask(task(), X_Narthex_Task="query_generation")
    assert found.task == "query_generation"
    assert found.rank is Rank.INTERACTIVE


def test_without_the_header_a_task_is_known_by_its_shape() -> None:
    with_system = [{"role": "system", "content": "Be kind."}, *task()["messages"]]
    assert ask(task()).rank is Rank.BACKGROUND
    assert ask(task(), "/v1/chat/completions").rank is Rank.BACKGROUND
    assert ask(task(messages=with_system)).rank is Rank.BACKGROUND
    assert ask(task(), X_Narthex_Task="{{TASK}}").rank is Rank.BACKGROUND


def test_what_only_resembles_a_task_is_a_persons_own() -> None:
    assert ask(task(stream=True)).rank is Rank.INTERACTIVE
    assert ask(task(tools=[{"type": "function"}])).rank is Rank.INTERACTIVE
    assert ask(task(messages=task()["messages"] * 2)).rank is Rank.INTERACTIVE
    parts = [{"role": "user", "content": [{"type": "text", "text": "### Task: x"}]}]
    assert ask(task(messages=parts)).rank is Rank.INTERACTIVE


def test_embeddings_rank_as_embeddings() -> None:
    assert {ask({"model": "a"}, path).rank for path in PATHS if "embed" in path} == {Rank.EMBEDDING}


def test_a_client_is_named_by_its_key_else_by_its_program() -> None:
    assert ask({"model": "a"}, User_Agent="Python/3.11 aiohttp/3.14").client == "Python/3.11"
    keyed = read_ask("/api/chat", {}, b'{"model":"a"}', request_id="1", client="ide", now=0, task_header=TASK)
    assert keyed.client == "ide"


# how long a prompt is


def test_pictures_do_not_count_as_text() -> None:
    picture = "A" * 400_000
    native = [{"role": "user", "content": "What is this?", "images": [picture]}]
    parts = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{picture}"}},
    ]
    assert ask({"model": "a", "messages": native}).prompt_bytes < 1000
    openai = ask({"model": "a", "messages": [{"role": "user", "content": parts}]}, "/v1/chat/completions")
    assert 10 < openai.prompt_bytes < 1000
    generate = {"model": "a", "prompt": "What is this?", "images": [picture]}
    assert ask(generate, "/api/generate").prompt_bytes < 1000


def test_tools_and_texts_count() -> None:
    words = [{"role": "user", "content": "x" * 3000}]
    assert ask({"model": "a", "messages": words, "tools": [{"x": "y" * 3000}]}).prompt_bytes > 6000


def test_the_context_that_a_client_asks_for_is_read_where_it_may_stand() -> None:
    assert asked_ctx(ask({"model": "a", "options": {"num_ctx": 16384}})) == 16384
    assert asked_ctx(ask({"model": "a", "options": {"num_ctx": 1e4}})) == 10_000
    assert asked_ctx(ask({"model": "a", "num_ctx": 16384}, "/v1/chat/completions")) == 16384
    assert asked_ctx(ask({"model": "a", "options": {"num_ctx": "many"}})) is None
    assert asked_ctx(ask({"model": "a", "options": {"num_ctx": True}})) is None
    assert asked_ctx(ask({"model": "a"})) is None


# what the engine gets


def test_options_of_a_load_are_the_offers_and_all_others_the_clients() -> None:
    options = {"temperature": 0.70, "num_ctx": 2048, "use_mmap": True, "stop": ["a"], "num_gpu": 99}
    data = sent({"model": "quality", "options": options, "shift": False, "keep_alive": "5m", "think": True})
    assert data["options"] == {"temperature": 0.7, "stop": ["a"], "num_ctx": 8192, "num_gpu": 19}
    assert data["model"] == "big:latest"
    assert data["keep_alive"] == 1800
    assert data["think"] is True
    assert "shift" not in data


def test_two_clients_with_other_options_ask_for_the_same_load() -> None:
    one = sent({"model": "a", "options": {"num_ctx": 1024, "num_thread": 3}})
    two = sent({"model": "a", "keep_alive": 0}, "/api/generate")
    assert one["options"] == two["options"] == OFFER.options
    assert one["keep_alive"] == two["keep_alive"]


def test_an_offer_without_options_sends_none() -> None:
    bare = msgspec.structs.replace(OFFER, options={})
    body = json.loads(edited(ask({"model": "a"}), bare, UPSTREAM, keep_alive_s=1))
    assert "options" not in body
    body = json.loads(
        edited(ask({"model": "a", "options": {"num_ctx": 5, "seed": 1}}), bare, UPSTREAM, keep_alive_s=1)
    )
    assert body["options"] == {"seed": 1}


def test_a_prompt_is_refused_rather_than_cut_unless_the_client_says_so() -> None:
    assert sent({"model": "a"})["truncate"] is False
    assert sent({"model": "a", "truncate": True})["truncate"] is True
    assert "truncate" not in sent({"model": "a", "input": "x"}, "/api/embed")
    older = msgspec.structs.replace(OFFER, refuses_long=False)
    assert b"truncate" not in edited(ask({"model": "a"}), older, UPSTREAM, keep_alive_s=1)


def test_for_ever_is_minus_one_and_part_seconds_stay() -> None:
    assert sent({"model": "a"}, keep_alive_s=-1)["keep_alive"] == -1
    assert sent({"model": "a"}, keep_alive_s=0.5)["keep_alive"] == 0.5


def test_a_body_for_llama_server_keeps_its_model_and_loses_only_what_leaked() -> None:
    body = {"model": "x", "num_ctx": 5, "keep_alive": -1, "temperature": 1}
    data = edited(ask(body, "/v1/chat/completions"), OFFER, LLAMA, keep_alive_s=60)
    assert json.loads(data) == {"model": "x", "temperature": 1}


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
NAMES = (
    st.sampled_from(["messages", "format", "think", "truncate", "shift", "stream", "Ä", 'a"b']) | st.text()
)
OPTIONS = st.dictionaries(st.sampled_from(sorted(STATE_OPTIONS)) | st.text(max_size=8), VALUES, max_size=5)


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(NAMES, VALUES, max_size=6),
    OPTIONS,
    st.sampled_from(sorted(PATHS)),
    st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", " :\t")]),
    st.booleans(),
)
def test_nothing_but_the_listed_keys_ever_changes(
    rest: dict[str, Any], options: dict[str, Any], path: str, marks: tuple[str, str], ascii_only: bool
) -> None:
    keys = ("model", "stream", "options", "keep_alive")
    rest = {name: value for name, value in rest.items() if name.casefold() not in keys}
    body = {**rest, "model": "x", "options": options, "keep_alive": "5m", "stream": False}
    raw = json.dumps(body, separators=marks, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    try:
        before = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
        found = ask(raw, path)
    except (msgspec.DecodeError, UnicodeDecodeError, Trouble):
        return  # half of a pair of surrogates, or two spellings of one name
    after = msgspec.json.decode(edited(found, OFFER, UPSTREAM, keep_alive_s=60), type=dict[str, msgspec.Raw])
    touched = {"model", "options", "keep_alive", "shift", "num_ctx"}
    untouched = [name for name in before if name.casefold() not in touched]
    assert [name for name in after if name not in touched and name in before] == [
        name for name in untouched if name in after
    ]
    for name in untouched:
        if name in after:
            assert bytes(after[name]) == bytes(before[name])
        else:
            assert name.casefold() in ("messages", "prompt", "truncate")  # spelt as Ollama spells it
    added = set(after) - set(before) - {name.casefold() for name in before}
    assert added <= {"truncate"}
    if path.startswith("/api"):
        inner = msgspec.json.decode(after["options"], type=dict[str, msgspec.Raw])
        first = msgspec.json.decode(before["options"], type=dict[str, msgspec.Raw])
        for name, value in first.items():
            if name not in STATE_OPTIONS:
                assert bytes(inner[name]) == bytes(value)


JSONISH = st.recursive(
    st.sampled_from(["null", "1", '"a"', "[]", "{}", "-", "nan", '"\\ud800"', "1e999", '"### Task:"']),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda rows: f"[{','.join(rows)}]")
        | st.tuples(st.sampled_from(["role", "content", "images", "num_ctx", "x"]), inner).map(
            lambda pair: f'{{"{pair[0]}":{pair[1]}}}'
        )
    ),
    max_leaves=6,
)
FIELDS = st.sampled_from(
    ["model", "messages", "prompt", "options", "keep_alive", "tools", "Stream", "input", "x"]
)


@settings(max_examples=300, deadline=None)
@given(
    st.binary(max_size=60)
    | st.lists(st.tuples(FIELDS, JSONISH), max_size=5).map(
        lambda rows: ("{" + ",".join(f'"{name}":{value}' for name, value in rows) + "}").encode()
    ),
    st.sampled_from(sorted(PATHS)),
    st.text(max_size=10),
)
def test_whatever_comes_is_an_ask_or_a_refusal(body: bytes, path: str, header: str) -> None:
    try:
        found = ask(body, path, X_Narthex_Task=header)
    except Trouble as trouble:
        statuses = {trouble.status}
    else:
        json.loads(edited(found, OFFER, UPSTREAM, keep_alive_s=60))
        asked_ctx(found)
        statuses = set()
    assert statuses <= {400}
