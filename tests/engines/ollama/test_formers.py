"""Loaded models as they were found: words, keep-alives, and the options that bring them back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from narthex.engines.ollama.formers import (
    describe,
    expected_to_miss,
    explicit_keep_alive,
    keep_alive,
    missing_options,
    same_runner,
    seconds_left,
)
from narthex.engines.ollama.notes import Former
from narthex.engines.ollama.records import Resident, Server
from narthex.knobs import KnobValues


def a_server(**env: str) -> Server:
    return Server(
        url="http://127.0.0.1:11434", version="0.33.0", era="F", source="flag", place="process", env=env
    )


def expiring(seconds: float) -> Resident:
    at = datetime.now(UTC) + timedelta(seconds=seconds)
    return Resident(
        name="qwen3:30b",
        size=20 * 2**30,
        size_vram=15 * 2**30,
        expires_at=at.isoformat().replace("+00:00", "Z"),
        context_length=8192,
    )


def test_a_loaded_model_is_described_in_one_line() -> None:
    told = describe(expiring(290))
    assert told.startswith("qwen3:30b · 20.0 GiB · 25%/75% CPU/GPU · context 8192 · for 4 min ")
    assert describe(expiring(9e9)).endswith("for ever")
    assert describe(expiring(-5)).endswith("while it answers")


def test_for_ever_stays_for_ever() -> None:
    assert keep_alive(Former(name="a", forever=True), a_server()) == -1


def test_a_keep_alive_longer_than_the_servers_is_given_and_a_shorter_one_is_the_servers() -> None:
    assert keep_alive(Former(name="a", seconds_left=3000.4), a_server()) == 3000
    assert keep_alive(Former(name="a", seconds_left=120), a_server()) is None
    assert keep_alive(Former(name="a", seconds_left=3000), a_server(OLLAMA_KEEP_ALIVE="1h")) is None


def test_where_the_server_keeps_for_ever_only_a_limited_stay_is_given() -> None:
    server = a_server(OLLAMA_KEEP_ALIVE="-1")
    assert keep_alive(Former(name="a", forever=True), server) is None
    assert keep_alive(Former(name="a", seconds_left=120), server) == 120


def test_an_unknown_keep_alive_is_the_servers() -> None:
    assert keep_alive(Former(name="a"), a_server()) is None


def test_a_stay_is_told_in_a_number_where_the_servers_default_does_not_count_any_more() -> None:
    assert explicit_keep_alive(Former(name="a", seconds_left=120), a_server()) == 300
    assert explicit_keep_alive(Former(name="a", seconds_left=900), a_server()) == 900
    assert explicit_keep_alive(Former(name="a"), a_server(OLLAMA_KEEP_ALIVE="-1")) == -1
    assert explicit_keep_alive(Former(name="a"), a_server(OLLAMA_KEEP_ALIVE="0")) == 0


def test_a_servers_clock_that_is_ahead_is_reckoned_with() -> None:
    left = seconds_left(expiring(4000), 3600)
    assert left is not None
    assert 300 < left <= 400
    assert seconds_left(expiring(4000), None) is None
    assert describe(expiring(9e9), None).endswith("for ever")


def test_what_a_loaded_runner_answers_to_is_read_from_a_llama_servers_command_line() -> None:
    former = Former(name="a", context_length=8192, options={"num_ctx": 8192, "num_gpu": 19, "num_batch": 256})
    expected = {"num_ctx": 8192, "num_gpu": 19, "num_batch": 256, "num_thread": 0}
    assert same_runner(former, "0.33.0") == expected
    assert same_runner(former, "0.12.3") == {"num_ctx": 8192, "num_gpu": -1}
    assert same_runner(Former(name="a", context_length=4096), "0.33.0") == {"num_ctx": 4096}
    assert same_runner(Former(name="a"), "0.33.0") == {}


def test_what_a_plain_load_will_lack_is_known_beforehand() -> None:
    own = KnobValues(num_ctx=4096, batch=512, ubatch=512)
    before = {"num_ctx": 8192, "num_gpu": 19, "num_thread": 4, "num_batch": 64, "use_mmap": False}
    former = Former(name="a", context_length=8192, options=before)
    wanted = {"num_ctx": 8192, "num_gpu": 19, "num_thread": 4}
    assert expected_to_miss(former, own, a_server()) == wanted
    old = Server(url="http://x", version="0.12.3", era="D", source="flag", place="process")
    assert expected_to_miss(former, own, old) == {"num_ctx": 8192}
    same = own.with_(num_ctx=8192, gpu_layers=19, threads=4)
    assert expected_to_miss(former, same, a_server()) == {}


SAME = {"num_ctx": 4096, "num_batch": 512, "use_mmap": False}


@pytest.mark.parametrize(
    ("before", "context", "now", "wanted"),
    [
        (SAME, 4096, SAME, {}),
        ({**SAME, "num_ctx": 8192, "num_batch": 1024}, 8192, SAME, {"num_ctx": 8192}),
        ({**SAME, "num_ctx": 8192}, 8192, SAME, {"num_ctx": 8192, "num_batch": 512}),
        ({**SAME, "num_gpu": 19}, 4096, SAME, {"num_gpu": 19}),
        (SAME, 4096, {**SAME, "num_gpu": 19}, {"num_gpu": -1}),
        ({**SAME, "num_batch": 256}, 4096, SAME, {"num_batch": 256}),
        ({**SAME, "num_thread": 8}, 4096, SAME, {"num_thread": 8}),
        ({**SAME, "use_mmap": True}, 4096, SAME, {"use_mmap": True}),
        ({}, 8192, {}, {"num_ctx": 8192}),
        ({}, None, {}, {}),
        ({**SAME, "num_gpu": 19}, 4096, {}, {}),
    ],
)
def test_only_what_a_plain_load_lacks_is_asked_for(
    before: dict[str, Any], context: int | None, now: dict[str, Any], wanted: dict[str, Any]
) -> None:
    former = Former(name="a", context_length=context, options=before)
    assert missing_options(former, 4096, now, a_server()) == wanted


def test_all_slots_count_for_the_batch_that_a_context_takes_by_itself() -> None:
    before = {"num_ctx": 2048, "num_batch": 1024}
    former = Former(name="a", context_length=2048, options=before)
    server = a_server(OLLAMA_NUM_PARALLEL="4")
    assert missing_options(former, 4096, SAME, server) == {"num_ctx": 2048}
