"""How an Ollama is asked: sizes are learned, long prompts are cut down, short answers are asked for again."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from narthex.outcomes import Outcome
from narthex.testing.ollama_stream import (
    Answer,
    Cut,
    OllamaStream,
    Refused,
    Script,
    StreamedModel,
    counted,
    generated,
    in_turn,
    token,
    tokens_of,
)
from narthex.trials.ollama_wire import TRIES, OllamaWire
from narthex.trials.reply import Reply, Request
from narthex.trials.workload import Prompts


def ask(
    answer: Answer, sizes: Sequence[int] = (200,), *, prompts: Prompts | None = None, **given: Any
) -> tuple[list[Reply], list[dict[str, Any]]]:
    """The replies of one round, and all that the server was asked for it."""
    log = given.pop("log", ())
    ctx = given.pop("num_ctx", 4096)
    request = Request(**{"generate": 64, "stall_s": 5.0, "timeout_s": 10.0, **given})
    with OllamaStream(answer) as server:
        engine = StreamedModel(server.url, options={"num_ctx": ctx}, log=log)
        replies = OllamaWire().ask(engine, prompts or Prompts("chat"), sizes, request)
    return replies, server.requests


def doubts(replies: Sequence[Reply]) -> str:
    return "; ".join(doubt for reply in replies for doubt in reply.doubts)


def refusing(limit: int, *, tells: bool = True) -> Answer:
    """Refuses prompts above a limit, as llama-server does."""

    def answer(body: dict[str, Any]) -> Script:
        count = tokens_of(body)
        if count < limit:
            return counted(body)
        if tells:
            return Refused(
                400, f"request ({count} tokens) exceeds the available context size ({limit} tokens)"
            )
        return Refused(400, "the prompt is longer than the context length currently available to the model")

    return answer


def cutting(limit: int) -> Answer:
    """Cuts prompts to a limit without a word, as before 0.12.6."""
    return lambda body: generated(64, min(limit, tokens_of(body)))


def test_after_one_answer_prompts_have_nearly_the_size_asked_for() -> None:
    prompts = Prompts("chat")
    (first,), _ = ask(counted, [512], prompts=prompts)
    (second,), _ = ask(counted, [3000], prompts=prompts)
    (third,), _ = ask(counted, [3000], prompts=prompts)
    assert first.prompt_n <= 512  # unknown text is rather too short than too long
    assert second.prompt_n == pytest.approx(3000, rel=0.03)
    assert third.prompt_n == pytest.approx(3000, rel=0.01)


def test_no_two_prompts_begin_alike() -> None:
    _, bodies = ask(counted, [50] * 8)
    assert len({body["prompt"][:12] for body in bodies}) == 8


def test_all_streams_are_asked_at_once() -> None:
    barrier = threading.Barrier(3, timeout=20)

    def answer(body: dict[str, Any]) -> Script:
        barrier.wait()
        return counted(body)

    replies, _ = ask(answer, [50, 60, 70])
    assert [reply.outcome for reply in replies] == [Outcome.DONE] * 3
    assert replies[0].prompt_n < replies[1].prompt_n < replies[2].prompt_n


def test_a_refused_prompt_is_asked_again_with_the_size_it_turned_out_to_have() -> None:
    prompts = Prompts("chat")
    prompts.learn("x" * 800, 100)  # as if eight characters were a token; here it will be four
    (reply,), bodies = ask(refusing(1024), [900], prompts=prompts, num_ctx=1024)
    assert reply.outcome is Outcome.DONE
    assert 800 < reply.prompt_n < 1024
    assert len(bodies) == 2


def test_a_refused_prompt_of_unknown_size_is_cut_down_step_by_step() -> None:
    prompts = Prompts("chat")
    prompts.learn("x" * 5600, 1000)
    (reply,), bodies = ask(refusing(1000, tells=False), [950], prompts=prompts, num_ctx=1000)
    assert reply.outcome is Outcome.DONE
    assert len(bodies) == 3


def test_a_prompt_that_stays_too_long_is_told_in_the_servers_words() -> None:
    (reply,), bodies = ask(refusing(3), [900], num_ctx=1024)
    assert reply.outcome is Outcome.PROMPT_TRUNCATED
    assert "exceeds the available context size" in reply.error
    assert len(bodies) == 3


def test_a_prompt_that_was_cut_without_a_word_is_asked_again_shorter() -> None:
    prompts = Prompts("chat")
    prompts.learn("x" * 4800, 1000)
    (reply,), bodies = ask(cutting(1024), [1000], prompts=prompts, num_ctx=1024)
    assert (reply.outcome, reply.truncated) == (Outcome.DONE, False)
    assert reply.prompt_n < 1024
    assert len(bodies) == 2


def test_a_prompt_that_is_cut_again_and_again_is_truncated() -> None:
    (reply,), bodies = ask(lambda body: generated(64, 16), [200], num_ctx=16)
    assert reply.outcome is Outcome.PROMPT_TRUNCATED
    assert "cut the prompt to 16 tokens" in reply.error
    assert len(bodies) == 3


def test_a_prompt_cut_to_half_is_seen_by_the_log() -> None:
    prompts = Prompts("chat")
    prompts.learn("x" * 4000, 660)
    log: list[str] = []

    def answer(body: dict[str, Any]) -> Script:
        if (count := tokens_of(body)) <= 330:
            return counted(body)
        log.append(f'level=WARN msg="truncating input prompt" limit=131 prompt={count} keep=5 new=131')
        return generated(64, 131)

    (reply,), bodies = ask(answer, [300], prompts=prompts, num_ctx=0, log=log)
    assert reply.outcome is Outcome.DONE
    assert reply.prompt_n > 250
    assert len(bodies) == 3


def test_counts_far_below_the_size_come_from_a_cache() -> None:
    prompts = Prompts("chat")
    prompts.learn("x" * 4000, 1000)
    (reply,), _ = ask(lambda body: generated(64, 20), [400], prompts=prompts)
    assert reply.cache_n == pytest.approx(380, rel=0.05)


def test_an_answer_that_ends_early_is_asked_for_again_with_another_prompt() -> None:
    replies, bodies = ask(in_turn(generated(2, 100), generated(64, 100)))
    assert replies[0].predicted_n == 64
    assert len(bodies) == 2
    assert bodies[0]["prompt"] != bodies[1]["prompt"]
    assert doubts(replies) == ""


def test_of_answers_that_all_end_early_the_longest_is_kept_with_a_doubt() -> None:
    replies, bodies = ask(in_turn(generated(2, 100), generated(5, 100), generated(3, 100)))
    assert replies[0].predicted_n == 5
    assert len(bodies) == TRIES
    assert "at best after 5 tokens" in doubts(replies)


def test_an_early_end_after_enough_tokens_is_no_matter() -> None:
    replies, bodies = ask(lambda body: counted(body, stops_after=20))
    assert replies[0].predicted_n == 20
    assert len(bodies) == 1
    assert doubts(replies) == ""


def test_few_tokens_are_enough_where_few_were_asked_for() -> None:
    _, bodies = ask(lambda body: counted(body, stops_after=4), generate=8)
    assert len(bodies) == 1


def test_the_repeat_guard_counts_as_an_early_end() -> None:
    replies, bodies = ask(in_turn([token("0")] * 31, generated(64, 150)))
    assert (replies[0].ended, replies[0].predicted_n) == (True, 64)
    assert len(bodies) == 2


def test_what_the_guard_always_breaks_off_is_kept_without_figures() -> None:
    replies, bodies = ask(in_turn([token("0")] * 31))
    assert replies[0].outcome is Outcome.DONE
    assert (replies[0].decode_tps, replies[0].prompt_tps) == (None, None)
    assert len(bodies) == TRIES
    assert "30 equal tokens" in doubts(replies)


def test_all_streams_are_asked_again_together_so_that_they_share_the_engine() -> None:
    _, bodies = ask(in_turn(generated(2, 50), *[generated(64, 50)] * 5), [50, 50])
    assert len(bodies) == 4


def test_answers_of_very_different_length_are_a_doubt() -> None:
    replies, _ = ask(in_turn(generated(20, 50), generated(64, 50)), [50, 50])
    assert "shared the engine only partly" in doubts(replies)


def test_a_request_that_waited_behind_others_is_a_doubt() -> None:
    replies, _ = ask(lambda body: counted(body, waited_s=2.5))
    assert "waited 2.5 s behind other requests" in doubts(replies)


def test_waiting_until_our_own_other_prompt_was_read_is_none() -> None:
    replies, _ = ask(in_turn(generated(64, 2000), generated(64, 2000, waited_s=2.5)), [50, 50])
    assert doubts(replies) == ""


def test_an_answer_over_the_contexts_end_is_a_doubt() -> None:
    replies, _ = ask(lambda body: generated(64, 220), [200], num_ctx=256)
    assert "ran over the context's end" in doubts(replies)


@pytest.mark.parametrize(
    "script", [[token(), Cut()], [token(), {"error": "unexpected EOF"}], Refused(503, "server busy")]
)
def test_a_failure_is_not_tried_again(script: Script) -> None:
    replies, bodies = ask(in_turn(script))
    assert replies[0].outcome is not Outcome.DONE
    assert len(bodies) == 1


def test_a_failure_beside_a_prompt_that_is_too_long_ends_the_round() -> None:
    long = Refused(400, "request (9000 tokens) exceeds the available context size (4096 tokens)")
    replies, bodies = ask(in_turn(long, [token(), {"error": "unexpected EOF"}]), [50, 50])
    outcomes = {reply.outcome for reply in replies}
    assert outcomes == {Outcome.PROMPT_TRUNCATED, Outcome.REQUEST_FAILED}
    assert len(bodies) == 2


def test_ctrl_c_ends_the_requests_before_it_gets_out() -> None:
    timer = threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    endless: list[Any] = [token(), *[0.05, token()] * 2000]
    with OllamaStream(in_turn(endless)) as server:
        request = Request(generate=64, stall_s=60.0, timeout_s=60.0)
        engine = StreamedModel(server.url)
        with pytest.raises(KeyboardInterrupt):
            OllamaWire().ask(engine, Prompts("chat"), [50, 50], request)
        assert server.left.wait(20)
