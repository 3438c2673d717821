"""How long a turn is timed, and what its time means."""

from __future__ import annotations

import pytest

from narthex.knobs import KnobValues
from narthex.trials.reply import Reply
from narthex.trials.session import Answer
from narthex.trials.trial import Turn
from narthex.trials.turns import MIN_GENERATE, affordable, timing, too_long


def test_a_fast_setting_generates_all_its_tokens() -> None:
    assert affordable(256, 60.0) == 256


def test_a_slow_setting_generates_what_twenty_seconds_bring() -> None:
    assert affordable(256, 3.0) == 60


def test_the_slowest_still_generates_enough_for_a_rate() -> None:
    assert affordable(256, 0.2) == MIN_GENERATE
    assert affordable(16, 0.2) == 16


def test_an_unknown_speed_changes_nothing() -> None:
    assert affordable(256, None) == 256


def test_a_turn_longer_than_the_context_is_told() -> None:
    turn = Turn(depth=3072, prompt_tokens=512, generate=256)
    assert too_long(turn, KnobValues(num_ctx=3840)) is None
    assert "3840 tokens" in (too_long(turn, KnobValues(num_ctx=3839)) or "")


def test_turn_time_is_sizes_over_rates_whatever_was_generated() -> None:
    reply = Reply(prompt_n=3584, predicted_n=60, prompt_tps=512.0, decode_tps=4.0, ttft_s=7.0)
    row = timing(Answer(replies=(reply,)), Turn(), depth=3072)
    assert row.turn_s == pytest.approx(512 / 512 + 256 / 4)
    assert (row.prompt_tokens, row.generated) == (3584, 60)


def test_several_streams_count_by_their_median() -> None:
    replies = tuple(
        Reply(prompt_n=10, predicted_n=20, prompt_tps=100.0, decode_tps=speed) for speed in (5, 7, 9)
    )
    assert timing(Answer(replies=replies), Turn(), depth=0).decode_tps == 7


def test_without_a_rate_there_is_no_turn_time() -> None:
    answer = Answer(replies=(Reply(prompt_n=10, predicted_n=1, prompt_tps=100.0),))
    assert timing(answer, Turn(), depth=0).turn_s is None
