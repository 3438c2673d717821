"""Streamed completions: whatever the server does becomes a reply."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from narthex.outcomes import Outcome
from narthex.testing.completions import CompletionServer, end, progress, token
from narthex.trials.llama_client import complete, error_text, tokenize
from narthex.trials.reply import Reply, Request, together


def asked(server: CompletionServer, **given: Any) -> Reply:
    return complete(server.url, [1, 2, 3], request(**given))


def request(**given: Any) -> Request:
    return Request(**{"generate": 11, "stall_s": 5.0, "timeout_s": 10.0, **given})


def test_rates_are_the_engines_own_and_the_first_token_is_no_step() -> None:
    with CompletionServer([progress(0), progress(100), *[token()] * 11, end()]) as server:
        reply = asked(server)
    assert reply.outcome is Outcome.DONE
    assert reply.prompt_tps == pytest.approx(100 / 0.5)
    assert reply.decode_tps == pytest.approx(10 / 0.2)
    assert reply.ttft_s is not None
    assert reply.ttft_s <= reply.seconds


def test_the_request_forbids_caches_and_early_ends() -> None:
    with CompletionServer([end()]) as server:
        asked(server, generate=7)
    asked_for = server.requests[0]
    assert asked_for["prompt"] == [1, 2, 3]
    assert asked_for["n_predict"] == 7
    assert asked_for["cache_prompt"] is False
    assert asked_for["ignore_eos"] is True


def test_progress_and_tokens_are_told_as_they_come() -> None:
    shares: list[float] = []
    counts: list[int] = []
    with CompletionServer([progress(25), progress(100), token(), token(), end()]) as server:
        asked(server, on_progress=shares.append, on_token=counts.append)
    assert shares == [0.25, 1.0]
    assert counts == [1, 2]


def test_cached_tokens_are_told() -> None:
    with CompletionServer([token(), end(cache_n=40)]) as server:
        assert asked(server).cache_n == 40


def test_one_token_gives_no_decode_rate() -> None:
    with CompletionServer([token(), end(predicted_n=1, predicted_ms=0.001)]) as server:
        assert asked(server).decode_tps is None


def test_an_error_body_gives_its_own_words() -> None:
    body = {"error": {"code": 400, "message": "request (1101 tokens) exceeds the available context size"}}
    with CompletionServer([body], status=400) as server:
        reply = asked(server)
    assert reply.outcome is Outcome.REQUEST_FAILED
    assert not reply.lost
    assert reply.error.startswith("request (1101 tokens) exceeds")


@pytest.mark.parametrize(
    "step",
    [
        {"error": {"code": 500, "message": "Compute error."}},
        'error: {"code": 500, "message": "Compute error."}\n\n',
    ],
)
def test_an_error_in_mid_stream_gives_its_own_words(step: Any) -> None:
    with CompletionServer([token(), step]) as server:
        reply = asked(server)
    assert (reply.outcome, reply.error) == (Outcome.REQUEST_FAILED, "Compute error.")
    assert reply.predicted_n == 1


def test_a_cut_connection_is_lost() -> None:
    with CompletionServer([token(), token()]) as server:
        reply = asked(server)
    assert reply.outcome is Outcome.REQUEST_FAILED
    assert reply.lost


def test_nobody_listening_is_lost() -> None:
    with CompletionServer([]) as server:
        url = server.url
    reply = complete(url, [1], request(stall_s=1.0, timeout_s=1.0))
    assert reply.lost


def test_broken_json_is_lost_not_raised() -> None:
    with CompletionServer(['data: {"content": \n\n']) as server:
        assert asked(server).outcome is Outcome.REQUEST_FAILED


def test_silence_is_a_stall() -> None:
    with CompletionServer([token(), 3.0, end()]) as server:
        reply = asked(server, stall_s=0.2)
    assert reply.outcome is Outcome.STALLED
    assert reply.longest_gap_s >= 0.2


def test_signs_of_life_without_progress_are_a_stall() -> None:
    pings: list[Any] = [": ping\n\n", 0.1] * 20
    with CompletionServer([token(), *pings, end()]) as server:
        assert asked(server, stall_s=0.3).outcome is Outcome.STALLED


def test_progress_without_an_end_is_a_timeout() -> None:
    script: list[Any] = [token(), 0.1] * 30
    with CompletionServer(script) as server:
        assert asked(server, timeout_s=0.3).outcome is Outcome.TIMEOUT


def test_silence_up_to_the_time_limit_is_a_timeout_where_a_stall_would_take_longer() -> None:
    with CompletionServer([token(), 3.0, end()]) as server:
        assert asked(server, timeout_s=0.3).outcome is Outcome.TIMEOUT


def test_many_are_asked_at_once_and_answered_in_order() -> None:
    with CompletionServer([0.3, token(), end()]) as server:
        asks = [partial(complete, server.url, [number], request()) for number in (1, 2, 3)]
        replies = together(asks, cut=lambda: None)
    assert [reply.outcome for reply in replies] == [Outcome.DONE] * 3
    assert sorted(asked["prompt"] for asked in server.requests) == [[1], [2], [3]]
    assert server.most_at_once > 1


def test_tokenize_gives_ids_and_raises_the_servers_words() -> None:
    with CompletionServer(['{"tokens": [2, 9259]}']) as server:
        assert tokenize(server.url, "Hello") == [2, 9259]
    loading = CompletionServer([{"error": {"message": "Loading model"}}], status=503)
    with loading as server, pytest.raises(ValueError, match="Loading model"):
        tokenize(server.url, "Hello")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"error": {"message": "no"}}', "no"),
        (b'{"message": "bare"}', "bare"),
        (b'{"error": "text"}', "text"),
        (b"<html>", "<html>"),
        (b"[1]", "[1]"),
    ],
)
def test_error_bodies_of_every_shape_give_words(body: bytes, words: str) -> None:
    assert error_text(body) == words
