"""One streamed answer of an Ollama: whatever the server does becomes a reply."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from narthex.outcomes import Outcome
from narthex.testing.ollama_stream import (
    Cut,
    OllamaStream,
    Refused,
    Script,
    end,
    generated,
    in_turn,
    token,
)
from narthex.trials.ollama_client import OllamaClient
from narthex.trials.reply import Reply, Request

OPTIONS = {"num_ctx": 4096, "num_gpu": 19}


def request(**given: Any) -> Request:
    return Request(**{"generate": 11, "stall_s": 5.0, "timeout_s": 10.0, **given})


def asked(script: Script, **given: Any) -> Reply:
    with OllamaStream(in_turn(script)) as server:
        return OllamaClient(server.url, "m:latest", OPTIONS).generate("Once", request(**given))


def test_rates_come_from_counts_and_nanoseconds_and_the_first_token_is_no_step() -> None:
    reply = asked(generated(11, 200))
    assert reply.outcome is Outcome.DONE
    assert (reply.prompt_n, reply.predicted_n, reply.cache_n) == (200, 11, 0)
    assert reply.prompt_tps == pytest.approx(1000)
    assert reply.decode_tps == pytest.approx(50)
    assert reply.ttft_s is not None
    assert reply.doubts == ()


def test_every_request_carries_the_options_of_the_load_and_nothing_that_would_load_anew() -> None:
    with OllamaStream(in_turn(generated(1, 4))) as server:
        OllamaClient(server.url, "m:latest", OPTIONS).generate("Once", request(generate=7))
    (body,) = server.requests
    assert (body["model"], body["prompt"], body["raw"], body["stream"]) == ("m:latest", "Once", True, True)
    assert body["truncate"] is False
    assert {"shift", "keep_alive", "system", "template", "context"}.isdisjoint(body)
    assert body["options"].items() >= {**OPTIONS, "num_predict": 7}.items()


def test_no_limit_is_never_asked_for() -> None:
    with OllamaStream(in_turn(generated(1, 4))) as server:
        OllamaClient(server.url, "m", {}).generate("Once", request(generate=0))
    assert server.requests[0]["options"]["num_predict"] == 1


def test_one_token_has_no_decode_rate() -> None:
    reply = asked(generated(1, 4))
    assert (reply.predicted_n, reply.decode_tps) == (1, None)


def test_figures_that_are_zero_may_be_left_out() -> None:
    reply = asked([{"model": "m", "response": "", "done": True, "done_reason": "stop"}])
    assert reply.outcome is Outcome.DONE
    assert (reply.prompt_n, reply.predicted_n, reply.prompt_tps, reply.decode_tps) == (0, 0, None, None)


def test_tokens_are_told_as_they_come() -> None:
    counts: list[int] = []
    asked(generated(3, 4), on_token=counts.append)
    assert counts == [1, 2, 3]


def test_a_load_before_the_answer_is_a_doubt() -> None:
    (doubt,) = asked(generated(11, 4, load_s=1.03)).doubts
    assert "loaded for 1.0 s" in doubt


def test_waiting_behind_others_is_what_no_field_explains() -> None:
    assert asked(generated(11, 4, waited_s=2.5)).waited_s == pytest.approx(2.5)
    assert asked(generated(11, 4)).waited_s == pytest.approx(0, abs=1e-6)


def test_a_stream_without_an_end_is_the_repeat_guard_and_no_crash() -> None:
    reply = asked([token("0")] * 31)
    assert reply.outcome is Outcome.DONE
    assert not reply.ended
    assert (reply.predicted_n, reply.context_n) == (31, 0)


def test_a_stream_that_brings_nothing_at_all_is_lost() -> None:
    reply = asked([])
    assert (reply.outcome, reply.lost) == (Outcome.REQUEST_FAILED, True)


def test_an_error_as_the_last_line_gives_its_own_words() -> None:
    words = "an error was encountered while running the model: unexpected EOF"
    reply = asked([token(), {"error": words}])
    assert (reply.outcome, reply.error, reply.lost) == (Outcome.REQUEST_FAILED, words, False)
    assert reply.predicted_n == 1


def test_a_connection_that_breaks_in_mid_stream_is_lost() -> None:
    reply = asked([token(), Cut()])
    assert (reply.outcome, reply.lost) == (Outcome.REQUEST_FAILED, True)


def test_a_connection_that_breaks_before_the_first_line_is_lost() -> None:
    assert asked([Cut()]).lost


def test_nobody_listening_is_lost() -> None:
    with OllamaStream(in_turn([])) as server:
        url = server.url
    assert OllamaClient(url, "m", {}).generate("Once", request()).lost


def test_a_full_queue_has_its_own_name() -> None:
    words = "server busy, please try again.  maximum pending requests exceeded"
    reply = asked(Refused(503, words))
    assert (reply.outcome, reply.error) == (Outcome.QUEUE_FULL, words)


def test_a_refused_prompt_tells_its_tokens() -> None:
    inner = {
        "code": 400,
        "message": "request (602 tokens) exceeds the available context size (256 tokens), try increasing it",
    }
    reply = asked(Refused(400, json.dumps({"error": inner})))
    assert (reply.outcome, reply.refused_n) == (Outcome.PROMPT_TRUNCATED, 602)


def test_a_refused_prompt_may_keep_its_tokens_to_itself() -> None:
    words = (
        "the prompt is longer than the context length currently available to the model; shorten the prompt"
    )
    reply = asked(Refused(400, words))
    assert (reply.outcome, reply.refused_n) == (Outcome.PROMPT_TRUNCATED, None)


def test_the_silence_while_a_prompt_is_read_is_no_gap() -> None:
    reply = asked([1.5, token(), token(), end(2, 4)])
    assert reply.ttft_s is not None
    assert reply.longest_gap_s < reply.ttft_s


def test_silence_is_a_stall() -> None:
    assert asked([token(), 3.0, end(1, 4)], stall_s=0.3).outcome is Outcome.STALLED


def test_silence_before_the_first_token_is_a_stall_too() -> None:
    assert asked([3.0, token(), end(1, 4)], stall_s=0.3).outcome is Outcome.STALLED


def test_progress_without_an_end_is_a_timeout() -> None:
    script: list[Any] = [token(), 0.1] * 30
    assert asked(script, timeout_s=0.5).outcome is Outcome.TIMEOUT


def test_a_web_page_is_no_answer() -> None:
    reply = asked(["<html>proxy</html>\n"])
    assert reply.outcome is Outcome.REQUEST_FAILED
    assert not reply.lost


@pytest.mark.parametrize("script", [[30.0], [token(), *[0.1, token()] * 300]])
def test_who_leaves_ends_the_request_at_once(script: Script) -> None:
    with OllamaStream(in_turn(script)) as server:
        client = OllamaClient(server.url, "m", {})
        replies: list[Reply] = []
        thread = threading.Thread(target=lambda: replies.append(client.generate("Once", request(stall_s=60))))
        thread.start()
        time.sleep(0.3)
        client.leave()
        thread.join(10)
    assert [reply.outcome for reply in replies] == [Outcome.INTERRUPTED]


@pytest.mark.parametrize(
    ("name", "count", "doubts"),
    [
        ("035-generate-stream", 16, 0),
        ("110-token-repeat-abort-stream", 33, 0),
        ("215-rpc-device-lost-mid-stream", 20, 0),
    ],
)
def test_recorded_streams_are_read_as_they_were(shared: Path, name: str, count: int, doubts: int) -> None:
    recorded = json.loads((shared / "ollama-wire" / f"{name}.json").read_text())
    reply = asked([json.loads(row["line"]) for row in recorded["stream"]])
    assert reply.predicted_n == count
    assert len(reply.doubts) == doubts


def test_a_recorded_queue_shows_who_waited(shared: Path) -> None:
    recorded = json.loads((shared / "ollama-wire" / "151-queue-warm-no-overflow.json").read_text())
    waits = [asked([row["body"]]).waited_s for row in recorded["exchanges"]]
    assert waits[0] < 0.1
    assert waits[-1] > 1
